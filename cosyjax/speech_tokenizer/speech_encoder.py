"""Speech tokenizer: 100 Hz log-mel to 25 Hz token ids (CosyVoice 2, paper 2.2).

Two convolutions of stride two, then transformer layers with rotary positions whose attention
carries an FSMN memory: a depthwise convolution over the values (Gao et al. 2020, SAN-M). The
last layer's output is projected to a few numbers per frame and quantised (`fsq`).

Here T counts 100 Hz frames of the 16 kHz log-mel, four to a token.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.errors import ConfigError
from cosyjax.layers.activations import gelu
from cosyjax.layers.attention import Mask, attend, make_mask
from cosyjax.layers.basic import LayerNorm, conv, dense, named
from cosyjax.layers.constrain import shard_rows
from cosyjax.layers.masks import padding_mask
from cosyjax.layers.positions import rotary_angles, rotate
from cosyjax.layers.remat import remat
from cosyjax.speech_tokenizer import fsq

_ROPE_THETA = 10_000.0
# Drawn small: where tanh saturates, training would get no gradient through it.
_PROJECT_INIT = nn.initializers.variance_scaling(0.15, "fan_in", "truncated_normal")


def token_lengths(mel_lengths: jax.Array) -> jax.Array:
  """Tokens of a recording of so many 100 Hz frames: two halvings, each rounded up. Works on ints and arrays."""
  return (mel_lengths + 3) // 4


class SpeechEncoder(nn.Module):
  """Subsampling and transformer layers, up to the point where quantisation happens."""

  config: SpeechTokenizerConfig
  dtype: Any = jnp.float32
  remat: str = "none"

  @nn.compact
  def __call__(self, mel_BTM: jax.Array, lengths_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes a padded batch.

    Args:
      mel_BTM: 16 kHz log-mel at 100 Hz.
      lengths_B: valid frames of each row; may be traced.

    Returns:
      hidden [B, U, D] with U = ceil(T / 4), and its lengths [B]. No valid frame depends on padding.

    Raises:
      ConfigError: the width does not split into heads of an even number of channels.
    """
    c, precision = self.config, precision_of(self.dtype)
    if c.width % (2 * c.heads):
      raise ConfigError(f"speech_tokenizer: a width of {c.width} gives {c.heads} heads no even number of channels")
    x_BTC = mel_BTM.astype(self.dtype)
    for i in range(2):
      x_BTC = _zero_padding(x_BTC, lengths_B)
      x_BTC = conv(
        c.width,
        3,
        stride=2,
        padding=((1, 1),),
        axes=("conv_in", "embed"),
        dtype=self.dtype,
        precision=precision,
        name=f"subsample_{i}",
      )(x_BTC)
      x_BTC = shard_rows(gelu(x_BTC))
      lengths_B = (lengths_B + 1) // 2
    frames = Frames.of(lengths_B, x_BTC.shape[1], c)
    for i in range(c.layers):
      x_BTC = remat(Layer, self.remat)(c, self.dtype, name=f"layers_{i}")(x_BTC, frames)
    return x_BTC, lengths_B


class SpeechTokenizer(nn.Module):
  """Encoder, projection and quantisation."""

  config: SpeechTokenizerConfig
  dtype: Any = jnp.float32
  remat: str = "none"  # what training computes again: see `cosyjax.layers.remat`

  @nn.compact
  def __call__(self, mel_BTM: jax.Array, lengths_B: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Tokens of a padded batch of recordings of at most 30 s (see `windows` for longer ones).

    Args:
      mel_BTM: 16 kHz log-mel at 100 Hz, `config.mel_bins` wide.
      lengths_B: valid frames of each row; may be traced.

    Returns:
      ids_BU: int32 token ids, U = ceil(T / 4); 0 in padding.
      lengths_BU: int32 [B], ceil(length / 4) tokens of each row.
      out: "hidden" [B, U, D], the encoder's output, and "projected" [B, U, J] float32, the values
        that are squashed and rounded. Training puts `fsq.quantise(out["projected"], levels)`, which
        lets gradients through, before its second encoder.
    """
    c = self.config
    hidden_BUD, lengths_BU = SpeechEncoder(c, self.dtype, self.remat, name="encoder")(mel_BTM, lengths_B)
    # A token turns on the third decimal of these values, so they are never computed in less than float32.
    exact = {"precision": jax.lax.Precision.HIGHEST, "init": _PROJECT_INIT}
    project = dense(c.fsq_dims, ("embed", None), **exact, name="project")
    projected_BUJ = project(hidden_BUD.astype(jnp.float32))
    ids_BU = fsq.codes_to_ids(jnp.round(fsq.squash(projected_BUJ, c.fsq_levels)), c.fsq_levels)
    ids_BU = jnp.where(padding_mask(lengths_BU, ids_BU.shape[1]), ids_BU, 0)
    return ids_BU, lengths_BU.astype(jnp.int32), {"hidden": hidden_BUD, "projected": projected_BUJ}


def init_arguments(config: SpeechTokenizerConfig) -> tuple[jax.Array, ...]:
  """Arguments of a small call that creates every parameter: `module.init(key, *init_arguments(config))`."""
  return jnp.zeros((1, 64, config.mel_bins)), jnp.array([64])


class Frames(NamedTuple):
  """A batch's frames, as all layers of a stack take them.

  Attributes:
    valid_BU: bool, within the row's length.
    mask: every frame sees the valid ones.
    rotary: cosines and sines of positions.
  """

  valid_BU: jax.Array
  mask: Mask
  rotary: tuple[jax.Array, jax.Array]

  @classmethod
  def of(cls, lengths_B: jax.Array, size: int, config: SpeechTokenizerConfig) -> "Frames":
    """Of rows of these lengths, padded to `size`."""
    valid_BU = padding_mask(lengths_B, size)
    rotary = rotary_angles(jnp.arange(size)[None], config.width // config.heads, _ROPE_THETA)
    return cls(valid_BU, make_mask(valid_BU[:, None]), rotary)


class Layer(nn.Module):
  """Pre-norm transformer layer: attention with memory, then a GELU feed-forward four times as wide."""

  config: SpeechTokenizerConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BUD: jax.Array, frames: Frames) -> jax.Array:
    """[B, U, D] to the same, over a batch's `Frames`."""
    c, precision = self.config, precision_of(self.dtype)
    attention = MemoryAttention(c.heads, c.fsmn_kernel, self.dtype, name="attention")
    x_BUD = x_BUD + attention(LayerNorm(epsilon=1e-6, name="attention_norm")(x_BUD), frames)
    y_BUD = LayerNorm(epsilon=1e-5, name="mlp_norm")(x_BUD)
    y_BUF = dense(4 * c.width, ("embed", "mlp"), dtype=self.dtype, precision=precision, name="mlp_in")(y_BUD)
    out = dense(c.width, ("mlp", "embed"), dtype=self.dtype, precision=precision, name="mlp_out")
    return x_BUD + out(gelu(y_BUF))


class MemoryAttention(nn.Module):
  """Self-attention over all valid frames plus an FSMN memory of the values, which bypasses the output map."""

  heads: int
  kernel: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BUD: jax.Array, frames: Frames) -> jax.Array:
    """[B, U, D] to the same, over a batch's `Frames`."""
    width, precision = x_BUD.shape[-1], precision_of(self.dtype)
    split = {"features": (self.heads, width // self.heads), "axes": ("embed", "heads", "head_dim")}
    split |= {"dtype": self.dtype, "precision": precision}
    q_BUNH = rotate(dense(**split, name="query")(x_BUD), frames.rotary)
    k_BUNH = rotate(dense(**split, bias=False, name="key")(x_BUD), frames.rotary)
    v_BUNH = dense(**split, name="value")(x_BUD)
    y_BUNH = attend(q_BUNH, k_BUNH, v_BUNH, frames.mask, precision=precision)
    join = {"axis": (-2, -1), "axes": ("heads", "head_dim", "embed"), "dtype": self.dtype, "precision": precision}
    y_BUD = dense(width, **join, name="out")(y_BUNH)
    return y_BUD + self._memory(v_BUNH, frames.valid_BU).reshape(x_BUD.shape)

  def _memory(self, v_BUNH: jax.Array, valid_BU: jax.Array) -> jax.Array:
    """Each value plus a depthwise convolution of the values around it."""
    init = named(nn.initializers.normal(self.kernel**-0.5), None, "heads", "head_dim")
    taps_KNH = self.param("memory", init, (self.kernel, *v_BUNH.shape[2:]), jnp.float32).astype(v_BUNH.dtype)
    v_BUNH = jnp.where(valid_BU[:, :, None, None], v_BUNH, 0)
    left = (self.kernel - 1) // 2
    padded = jnp.pad(v_BUNH, ((0, 0), (left, self.kernel - 1 - left), (0, 0), (0, 0)))
    frames = v_BUNH.shape[1]
    # A sum of shifted products fuses into one loop; a grouped convolution does not on CPU.
    return v_BUNH + sum(padded[:, i : i + frames] * taps_KNH[i] for i in range(self.kernel))


def _zero_padding(x_BTC: jax.Array, lengths_B: jax.Array) -> jax.Array:
  return jnp.where(padding_mask(lengths_B, x_BTC.shape[1])[:, :, None], x_BTC, 0)


def precision_of(dtype: Any) -> jax.lax.Precision | None:
  """float32 means float32 on every device: token ids must not depend on where they are computed."""
  return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
