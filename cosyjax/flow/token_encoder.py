"""Token encoder of the flow: speech tokens to features of mel frames (paper 2.4).

A convolution that looks ahead, transformer layers with relative positions
(Dai et al. 2019, section 3.3), upsampling, and more of them. Which frames see which
is decided by the mask blocks that are passed in; see `cosyjax.layers.masks`. What stands before the
first token comes from `cache`; see `cosyjax.flow.chunk_cache`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import FlowEncoderConfig
from cosyjax.flow.chunk_cache import NO_CACHE, ChunkCache, NoCache
from cosyjax.layers import masks
from cosyjax.layers.attention import Distance, Mask, attend
from cosyjax.layers.basic import LayerNorm, conv, dense, named
from cosyjax.layers.constrain import shard_rows
from cosyjax.layers.positions import from_offsets, relative_positions
from cosyjax.layers.stack import run_layers


def positions_up_to(mask: Mask, width: int) -> jax.Array:
  """`relative_positions` of queries that are the last among their keys: of a whole sequence, all of it."""
  queries, keys = mask.bias_B1TS.shape[-2:]
  return relative_positions(queries, keys, width, keys - queries)


class RelativeAttention(nn.Module):
  """Self-attention whose scores have a part by content and a part by distance."""

  heads: int
  dtype: Any = jnp.float32
  training: bool = False

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, mask: Mask, positions_RD: jax.Array, cache: NoCache | ChunkCache = NO_CACHE
  ) -> jax.Array:
    """[B, T, D], a mask [B, T, S] and positions [R, D] to [B, T, D]."""
    width = x_BTD.shape[-1]
    shape = (self.heads, width // self.heads)
    into = {"features": shape, "axes": ("embed", "heads", "head_dim"), "dtype": self.dtype}
    q_BTNH = dense(**into, name="query")(x_BTD)
    k_BSNH, v_BSNH = cache.keys(self, dense(**into, name="key")(x_BTD), dense(**into, name="value")(x_BTD))
    p_RNH = dense(**into, bias=False, name="position")(positions_RD)
    init = named(nn.initializers.xavier_uniform(), "heads", "head_dim")
    by_content = self.param("content_bias", init, shape, jnp.float32).astype(self.dtype)
    by_position = self.param("position_bias", init, shape, jnp.float32).astype(self.dtype)
    if cache.offset_B is not None:
      p_RNH = from_offsets(p_RNH, cache.offset_B, x_BTD.shape[1])
    distance = Distance(q_BTNH + by_position, p_RNH)
    y_BTNH = attend(q_BTNH + by_content, k_BSNH, v_BSNH, mask, distance=distance, training=self.training)
    return dense(width, ("heads", "head_dim", "embed"), axis=(-2, -1), dtype=self.dtype, name="out")(y_BTNH)


class EncoderLayer(nn.Module):
  """Attention and feed-forward, each normalised first and added to its input."""

  config: FlowEncoderConfig
  dtype: Any = jnp.float32
  training: bool = False

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, mask: Mask, positions_RD: jax.Array, cache: NoCache | ChunkCache = NO_CACHE
  ) -> jax.Array:
    """[B, T, D], a mask [B, T, S] and positions [R, D] to [B, T, D]."""
    c = self.config
    x_BTD = shard_rows(x_BTD) if self.training else x_BTD
    y_BTD = LayerNorm(1e-12, name="attention_norm")(x_BTD)
    attention = RelativeAttention(c.heads, self.dtype, self.training, name="attention")
    x_BTD = x_BTD + attention(y_BTD, mask, positions_RD, cache)
    y_BTD = LayerNorm(1e-12, name="mlp_norm")(x_BTD)
    y_BTF = nn.silu(dense(c.ffn, ("embed", "mlp"), dtype=self.dtype, name="up")(y_BTD))
    return x_BTD + dense(c.width, ("mlp", "embed"), dtype=self.dtype, name="down")(y_BTF)


class Embed(nn.Module):
  """Linear layer, norm, and the factor sqrt(D) that goes with sinusoidal positions."""

  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    """[B, T, C] to [B, T, D]."""
    y_BTD = dense(self.width, ("embed", None), dtype=self.dtype, name="linear")(x_BTD)
    return LayerNorm(name="norm")(y_BTD) * math.sqrt(self.width)


class LookAhead(nn.Module):
  """Adds to each token what a convolution makes of it and the `tokens` after it: [B, U + tokens, D] to [B, U, D]."""

  tokens: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BXD: jax.Array, cache: NoCache | ChunkCache = NO_CACHE) -> jax.Array:
    """[B, U + tokens, D] to [B, U, D]."""
    width = x_BXD.shape[-1]
    y_BUD = nn.leaky_relu(conv(width, self.tokens + 1, dtype=self.dtype, name="ahead")(x_BXD), 0.01)
    y_BUD = conv(width, 3, dtype=self.dtype, name="smooth")(cache.pad(self, y_BUD, 2))
    return x_BXD[:, : y_BUD.shape[1]] + y_BUD


class TokenEncoder(nn.Module):
  """Embedded tokens to features, `rate` frames for each.

  Attributes:
    config: sizes.
    rate: mel frames in a token.
    dtype: compute type.
    training: layers stacked under `block` and `up_block`, as `cosyjax.layers.stack` stacks them.
    remat: what of each layer the backward pass computes again, a name of `cosyjax.layers.remat`.
  """

  config: FlowEncoderConfig
  rate: int
  dtype: Any = jnp.float32
  training: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
    self,
    x_BXD: jax.Array,
    lengths_B: jax.Array,
    blocks: jax.Array,
    spoken_B: jax.Array | None = None,
    cache: NoCache | ChunkCache = NO_CACHE,
  ) -> jax.Array:
    """Encodes a batch of padded rows.

    Args:
      x_BXD: embeddings of U tokens and of up to `lookahead` places more (U <= X <= U +
        lookahead); what stands past a row's length has no influence.
      lengths_B: tokens in each row, look-ahead tokens included.
      blocks: int32 [U] or [B, U], block of each token.
      spoken_B: tokens of each row that get frames; those after them are only looked at. All if None.
      cache: what came before; nothing by default.

    Returns:
      [B, rate U, D]; valid are the first `rate * spoken_B` frames of a row.
    """
    c, rate = self.config, self.rate
    size, places = blocks.shape[-1], x_BXD.shape[1]
    present_BX1 = masks.padding_mask(lengths_B, places)[..., None]
    blocks_BU = masks.pad_blocks(blocks, lengths_B if spoken_B is None else spoken_B)

    # The one place where a frame reads what follows it: past a row's end there must be zeros.
    x_BXD = jnp.where(present_BX1, Embed(c.width, self.dtype, name="embed")(x_BXD), 0)
    x_BXD = jnp.pad(x_BXD, ((0, 0), (0, size + c.lookahead - places), (0, 0)))
    x_BUD = LookAhead(c.lookahead, self.dtype, name="lookahead")(x_BXD, cache)
    mask = cache.mask(blocks_BU)
    positions_RD = positions_up_to(mask, c.width)
    args = (c, self.dtype, self.training)
    layout = {"stacked": self.training, "remat": self.remat}
    x_BUD = run_layers(EncoderLayer, args, c.layers, "block", x_BUD, mask, positions_RD, cache, **layout)

    cache = cache.faster(rate)
    x_BTD = cache.pad(self, jnp.repeat(x_BUD, rate, axis=1), 2 * rate)
    x_BTD = conv(c.width, 2 * rate + 1, dtype=self.dtype, name="upsample")(x_BTD)
    x_BTD = Embed(c.width, self.dtype, name="up_embed")(x_BTD)
    mask = cache.mask(masks.repeat_blocks(blocks_BU, rate))
    positions_RD = positions_up_to(mask, c.width)
    x_BTD = run_layers(EncoderLayer, args, c.up_layers, "up_block", x_BTD, mask, positions_RD, cache, **layout)
    return LayerNorm(name="norm")(x_BTD)

  @staticmethod
  def cached_numbers(config: FlowEncoderConfig, rate: int) -> float:
    """How many numbers the keys and values of one mel frame are."""
    return 2 * config.width * (config.layers / rate + config.up_layers)


def spoken(lengths_B: jax.Array, final: bool | jax.Array, lookahead: int) -> jax.Array:
  """Tokens of each row that get frames: all if the row ends here, else all but the look-ahead."""
  return jnp.maximum(lengths_B - jnp.where(final, 0, lookahead), 0)
