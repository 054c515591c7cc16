"""Attention decoder of the recogniser: a causal transformer that reads the encoded speech (Vaswani et al. 2017).

Serves only to train the tokenizer, to measure it, and to reward speech that can be recognised.
Keys and values are arguments and results, so one class reads a whole text and continues one.
Letters: L unit, U speech token, V unit's score.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.activations import gelu
from cosyjax.layers.attention import Mask, attend, make_mask
from cosyjax.layers.basic import LayerNorm, dense, embed
from cosyjax.layers.masks import causal_mask, padding_mask
from cosyjax.layers.positions import sinusoids
from cosyjax.layers.remat import remat
from cosyjax.speech_tokenizer.speech_encoder import precision_of
from cosyjax.speech_tokenizer.units import UNITS

KeysValues = tuple[jax.Array, jax.Array]  # [B, S, N, H] each


class Decoder(nn.Module):
  """Units so far and encoded speech to scores of the next unit."""

  width: int
  heads: int
  layers: int
  dtype: Any = jnp.float32
  remat: str = "none"

  def setup(self) -> None:
    """Make the parts."""
    self.embedding = embed(UNITS, self.width, ("vocab", "embed"), dtype=self.dtype)
    layer = remat(DecoderLayer, self.remat)
    self.blocks = [layer(self.width, self.heads, self.dtype) for _ in range(self.layers)]
    self.norm = LayerNorm()
    self.head = dense(UNITS, ("embed", "vocab"), dtype=self.dtype, precision=precision_of(self.dtype))

  def speech(self, encoded_BUD: jax.Array) -> list[KeysValues]:
    """What the layers read of the speech, once for all units: keys and values of each layer.

    The encoder has distances between frames, not their positions; reading in order needs the latter.
    """
    at_1UD = sinusoids(jnp.arange(encoded_BUD.shape[1])[None], self.width)
    placed_BUD = (encoded_BUD + at_1UD).astype(self.dtype)
    return [layer.speech(placed_BUD) for layer in self.blocks]

  def empty(self, batch: int, size: int) -> list[KeysValues]:
    """Caches for `size` units."""
    shape = (batch, size, self.heads, self.width // self.heads)
    return [(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)) for _ in range(self.layers)]

  def __call__(
    self,
    ids_BL: jax.Array,
    speech: list[KeysValues],
    lengths_B: jax.Array,
    start: jax.Array | int = 0,
    cache: list[KeysValues] | None = None,
  ) -> tuple[jax.Array, list[KeysValues]]:
    """Scores of the unit after each of the given ones.

    Args:
      ids_BL: `START` and units, from position `start` on.
      speech: as from `speech`.
      lengths_B: valid tokens of each row's speech.
      start: how many units the cache holds; may be traced.
      cache: keys and values of earlier units, to be continued. None: there are none, and none are kept.

    Returns:
      scores float32 [B, L, V], and the cache with these units in it ([] without one).
    """
    positions_L = start + jnp.arange(ids_BL.shape[1])
    scale = math.sqrt(self.width)  # embeddings are drawn small; sines are not
    x_BLD = (scale * self.embedding(ids_BL) + sinusoids(positions_L[None], self.width)).astype(self.dtype)
    size = ids_BL.shape[1] if cache is None else cache[0][0].shape[1]
    own = make_mask(causal_mask(positions_L, jnp.arange(size))[None])
    spoken = make_mask(padding_mask(lengths_B, speech[0][0].shape[1])[:, None])
    caches = []
    for i, layer in enumerate(self.blocks):
      x_BLD, keys_values = layer(x_BLD, own, speech[i], spoken, start, None if cache is None else cache[i])
      caches.append(keys_values)
    return self.head(self.norm(x_BLD)).astype(jnp.float32), ([] if cache is None else caches)


class DecoderLayer(nn.Module):
  """Pre-norm layer: attention to the units so far, attention to the speech, feed-forward."""

  width: int
  heads: int
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Make the parts."""
    exact = {"dtype": self.dtype, "precision": precision_of(self.dtype)}
    split = {"features": (self.heads, self.width // self.heads), "axes": ("embed", "heads", "head_dim"), **exact}
    join = {"features": self.width, "axis": (-2, -1), "axes": ("heads", "head_dim", "embed"), **exact}
    self.own_norm, self.speech_norm, self.mlp_norm = LayerNorm(), LayerNorm(), LayerNorm()
    self.own_query, self.own_key, self.own_value = dense(**split), dense(**split, bias=False), dense(**split)
    self.speech_query, self.speech_key, self.speech_value = dense(**split), dense(**split, bias=False), dense(**split)
    self.own_out, self.speech_out = dense(**join), dense(**join)
    self.mlp_in = dense(4 * self.width, ("embed", "mlp"), **exact)
    self.mlp_out = dense(self.width, ("mlp", "embed"), **exact)

  def speech(self, placed_BUD: jax.Array) -> KeysValues:
    """Keys and values of the encoded speech [B, U, D], positions added."""
    return self.speech_key(placed_BUD), self.speech_value(placed_BUD)

  def __call__(
    self,
    x_BLD: jax.Array,
    own_mask: Mask,
    speech: KeysValues,
    speech_mask: Mask,
    start: jax.Array | int,
    cache: KeysValues | None,
  ) -> tuple[jax.Array, KeysValues]:
    """[B, L, D] to the same shape, and the layer's own keys and values."""
    precision = precision_of(self.dtype)
    y_BLD = self.own_norm(x_BLD)
    own = self.own_key(y_BLD), self.own_value(y_BLD)
    if cache is not None:
      put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
      own = put(cache[0], own[0]), put(cache[1], own[1])
    x_BLD = x_BLD + self.own_out(attend(self.own_query(y_BLD), *own, own_mask, precision=precision))
    y_BLD = self.speech_norm(x_BLD)
    x_BLD = x_BLD + self.speech_out(attend(self.speech_query(y_BLD), *speech, speech_mask, precision=precision))
    return x_BLD + self.mlp_out(gelu(self.mlp_in(self.mlp_norm(x_BLD)))), own
