"""Velocity network of the flow: a causal one-dimensional UNet that never resamples.

One layer down, `mid_layers` in the middle, one up with a skip connection. A layer is a
residual unit of convolutions that takes the time, followed by transformer layers. Every convolution
looks back only; how far attention looks ahead is decided by the blocks passed in, and what
stands before the first frame by `cache` (see `cosyjax.flow.chunk_cache`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import UNetConfig
from cosyjax.flow.chunk_cache import NO_CACHE, ChunkCache, NoCache
from cosyjax.layers import masks
from cosyjax.layers.activations import gelu, mish
from cosyjax.layers.attention import Mask, attend
from cosyjax.layers.basic import LayerNorm, conv, dense
from cosyjax.layers.constrain import shard_rows
from cosyjax.layers.positions import sinusoids
from cosyjax.layers.stack import run_layers

KERNEL = 3  # frames


class TimeEmbedding(nn.Module):
  """Time to a vector that every layer reads. float32 throughout: its angles reach 1000."""

  width: int
  features: int

  @nn.compact
  def __call__(self, t_B: jax.Array) -> jax.Array:
    """Times [B], 0 to 1, to float32 vectors [B, F]."""
    exact = {"precision": jax.lax.Precision.HIGHEST}
    x = sinusoids(1000.0 * t_B.astype(jnp.float32), self.features, to_slowest=True)
    x = nn.silu(dense(self.width, (None, "mlp"), name="up", **exact)(x))
    return dense(self.width, ("mlp", None), name="out", **exact)(x)


class CausalConv(nn.Module):
  """Convolution over a frame and the two before it."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array, cache: NoCache | ChunkCache = NO_CACHE) -> jax.Array:
    """[B, T, C] to [B, T, channels]."""
    return conv(self.channels, KERNEL, dtype=self.dtype, name="conv")(cache.pad(self, x_BTC, KERNEL - 1))


class ConvUnit(nn.Module):
  """Causal convolution, norm over channels, Mish."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array, cache: NoCache | ChunkCache = NO_CACHE) -> jax.Array:
    """[B, T, C] to [B, T, channels]."""
    return mish(LayerNorm(name="norm")(CausalConv(self.channels, self.dtype, name="causal")(x_BTC, cache)))


class ResidualUnit(nn.Module):
  """Two convolution units with the time added between them, and a linear path around both."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array, time_BF: jax.Array, cache: NoCache | ChunkCache = NO_CACHE) -> jax.Array:
    """[B, T, C] and the time's vectors [B, F] to [B, T, channels]."""
    y_BTC = ConvUnit(self.channels, self.dtype, name="unit_0")(x_BTC, cache)
    time_BC = dense(self.channels, ("mlp", "conv_out"), precision=jax.lax.Precision.HIGHEST, name="time")(mish(time_BF))
    y_BTC = ConvUnit(self.channels, self.dtype, name="unit_1")(y_BTC + time_BC[:, None].astype(y_BTC.dtype), cache)
    return y_BTC + dense(self.channels, ("conv_in", "conv_out"), dtype=self.dtype, name="around")(x_BTC)


class TransformerLayer(nn.Module):
  """Self-attention and feed-forward, each normalised first and added to its input."""

  config: UNetConfig
  dtype: Any = jnp.float32
  training: bool = False

  @nn.compact
  def __call__(self, x_BTC: jax.Array, mask: Mask, cache: NoCache | ChunkCache = NO_CACHE) -> jax.Array:
    """[B, T, C] and a mask [B, T, S] to [B, T, C]."""
    c = self.config
    x_BTC = shard_rows(x_BTC) if self.training else x_BTC
    y_BTC = LayerNorm(name="attention_norm")(x_BTC)
    into = {"features": (c.heads, c.head_dim), "axes": ("embed", "heads", "head_dim"), "dtype": self.dtype}
    q_BTNH, k_BTNH, v_BTNH = (dense(**into, bias=False, name=name)(y_BTC) for name in ("query", "key", "value"))
    y_BTNH = attend(q_BTNH, *cache.keys(self, k_BTNH, v_BTNH), mask, training=self.training)
    out = dense(c.channels, ("heads", "head_dim", "embed"), axis=(-2, -1), dtype=self.dtype, name="out")
    x_BTC = x_BTC + out(y_BTNH)
    y_BTC = LayerNorm(name="mlp_norm")(x_BTC)
    y_BTF = gelu(dense(4 * c.channels, ("embed", "mlp"), dtype=self.dtype, name="up")(y_BTC))
    return x_BTC + dense(c.channels, ("mlp", "embed"), dtype=self.dtype, name="down")(y_BTF)


class UNetLayer(nn.Module):
  """A residual unit and `config.transformer_layers` transformer layers."""

  config: UNetConfig
  dtype: Any = jnp.float32
  training: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
    self, x_BTC: jax.Array, time_BF: jax.Array, mask: Mask, cache: NoCache | ChunkCache = NO_CACHE
  ) -> jax.Array:
    """[B, T, C], the time's vectors [B, F] and a mask [B, T, S] to [B, T, channels]."""
    x_BTC = shard_rows(x_BTC) if self.training else x_BTC
    x_BTC = ResidualUnit(self.config.channels, self.dtype, name="res")(x_BTC, time_BF, cache)
    args, layout = (self.config, self.dtype, self.training), {"stacked": self.training, "remat": self.remat}
    return run_layers(TransformerLayer, args, self.config.transformer_layers, "block", x_BTC, mask, cache, **layout)


class UNet(nn.Module):
  """v(x_t, t | mu, speaker, cond): the derivative of the mel along the flow (paper 2.4).

  Attributes:
    config: sizes.
    dtype: compute type.
    training: layers stacked under `mid` and `block`, as `cosyjax.layers.stack` stacks them.
    remat: what of each transformer layer the backward pass computes again, a name of `cosyjax.layers.remat`.
  """

  config: UNetConfig
  dtype: Any = jnp.float32
  training: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
    self,
    x_BTM: jax.Array,
    mu_BTM: jax.Array,
    speaker_BM: jax.Array,
    cond_BTM: jax.Array,
    t_B: jax.Array,
    lengths_B: jax.Array,
    blocks: jax.Array,
    cache: NoCache | ChunkCache = NO_CACHE,
  ) -> jax.Array:
    """One evaluation.

    Args:
      x_BTM: mel on its way from noise to speech.
      mu_BTM: encoded tokens, projected to mel bins.
      speaker_BM: projected speaker vector.
      cond_BTM: mel of the prompt, zero elsewhere.
      t_B: time in [0, 1].
      lengths_B: frames in each row.
      blocks: int32 [T] or [B, T], block of each frame.
      cache: what came before; nothing by default.

    Returns:
      float32 [B, T, M], zero past each row's length.
    """
    c = self.config
    bins, size = x_BTM.shape[-1], x_BTM.shape[1]
    mask = cache.mask(masks.pad_blocks(blocks, lengths_B))
    time_BF = TimeEmbedding(4 * c.channels, 4 * bins, name="time")(t_B)
    speaker_BTM = jnp.broadcast_to(speaker_BM[:, None], x_BTM.shape)
    x_BTC = jnp.concatenate([x_BTM, mu_BTM, speaker_BTM, cond_BTM], axis=-1).astype(self.dtype)

    args = (c, self.dtype, self.training, self.remat)
    skip_BTC = UNetLayer(*args, name="down")(x_BTC, time_BF, mask, cache)
    x_BTC = CausalConv(c.channels, self.dtype, name="down_conv")(skip_BTC, cache)
    x_BTC = run_layers(UNetLayer, args, c.mid_layers, "mid", x_BTC, time_BF, mask, cache, stacked=self.training)
    x_BTC = jnp.concatenate([x_BTC, skip_BTC], axis=-1)
    x_BTC = UNetLayer(*args, name="up")(x_BTC, time_BF, mask, cache)
    x_BTC = CausalConv(c.channels, self.dtype, name="up_conv")(x_BTC, cache)
    x_BTC = ConvUnit(c.channels, self.dtype, name="last")(x_BTC, cache)
    y_BTM = dense(bins, ("conv_in", None), dtype=self.dtype, name="to_mel")(x_BTC)
    return jnp.where(masks.padding_mask(lengths_B, size)[..., None], y_BTM.astype(jnp.float32), 0.0)

  @staticmethod
  def cached_numbers(config: UNetConfig) -> int:
    """How many numbers the keys and values of one mel frame are."""
    return 2 * config.transformer_layers * (config.mid_layers + 2) * config.heads * config.head_dim
