"""CAM++ speaker encoder (Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification").

A small two-dimensional residual front, a time-delay layer of stride two, three densely
connected blocks whose layers are gated by context-aware masks, and statistics pooling.

In inference, batch norms are affine maps. One behind a convolution is part of the convolution's
weights; one before an activation keeps a scale and a bias (`Affine`). Training computes them:
see `norms`.
T counts 100 Hz frames, W half as many.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import SpeakerConfig
from cosyjax.layers.basic import conv, dense
from cosyjax.layers.masks import padding_mask
from cosyjax.speaker.norms import FOLDED, Affine, BatchNorms, Folded

SEGMENT = 100  # frames at 50 Hz that share one context: 2 s
_FRONT_STRIDES = (2, 1, 2, 1)  # over mel bins, of the residual blocks


class SpeakerEncoder(nn.Module):
  """Kaldi filter bank to one speaker vector."""

  config: SpeakerConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, fbank_BTM: jax.Array, lengths_B: jax.Array, norms: Folded | BatchNorms = FOLDED) -> jax.Array:
    """Speaker vectors of a padded batch.

    Args:
      fbank_BTM: log filter bank of 16 kHz audio at 100 Hz. The mean over a row's valid frames is
        removed here, so it makes no difference whether the caller has done so.
      lengths_B: valid frames of each row; may be traced.
      norms: how batch norms are computed; as they are in the weights unless training says otherwise.

    Returns:
      embedding_BE, float32, not normalised. No row depends on its padding.
    """
    c = self.config
    valid_BT = padding_mask(lengths_B, fbank_BTM.shape[1])
    fbank_BTM = fbank_BTM.astype(jnp.float32)
    centred_BTM = jnp.where(valid_BT[:, :, None], fbank_BTM - _mean(fbank_BTM, valid_BT), 0)
    x_BTC = Front(c.head_channels, self.dtype, name="front")(centred_BTM.astype(self.dtype), valid_BT, norms)
    x_BWC = _conv(self, c.width, 5, stride=2, padding=((2, 2),), bias=norms.biased, name="tdnn")(x_BTC)
    valid_BW = padding_mask((lengths_B + 1) // 2, x_BWC.shape[1])
    x_BWC = nn.relu(norms.behind(self, "tdnn", x_BWC, valid_BW))
    for i, (layers, kernel, dilation) in enumerate(zip(c.layers, c.kernels, c.dilations, strict=True)):
      for j in range(layers):
        layer = ContextLayer(c, kernel, dilation, self.dtype, name=f"block_{i}_layer_{j}")
        x_BWC = jnp.concatenate([x_BWC, layer(x_BWC, valid_BW, norms)], axis=-1)
      x_BWC = norms.standardise(self, f"transit_{i}_norm", x_BWC, valid_BW)
      x_BWC = nn.relu(Affine(name=f"transit_{i}_norm")(x_BWC))
      # Only behind the last of these maps is there a batch norm, which gives it a bias.
      last = i == len(c.layers) - 1
      x_BWC = _dense(self, x_BWC.shape[-1] // 2, bias=last and norms.biased, name=f"transit_{i}")(x_BWC)
    x_BWC = norms.behind(self, f"transit_{i}", x_BWC, valid_BW)
    stats_BC = _statistics(nn.relu(x_BWC).astype(jnp.float32), valid_BW)
    exact = {"bias": norms.biased, "precision": jax.lax.Precision.HIGHEST}
    embedding_BE = dense(c.speaker_dim, ("conv_in", None), **exact, name="embedding")(stats_BC)
    return norms.standardise(self, "embedding", embedding_BE, lengths_B > 0)


def init_arguments(config: SpeakerConfig) -> tuple[jax.Array, ...]:
  """Arguments of a small call that creates every parameter: `module.init(key, *init_arguments(config))`."""
  return jnp.zeros((1, 200, config.mel_bins)), jnp.array([200])


class Front(nn.Module):
  """Residual convolutions over time and mel bins, which leave an eighth of the bins."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTM: jax.Array, valid_BT: jax.Array, norms: Folded | BatchNorms = FOLDED) -> jax.Array:
    """Channels of all remaining bins side by side, lowest bin first: [B, T, M / 8 * C]."""
    convolve = lambda x, name, *sizes: norms.behind(self, name, self._convolve(x, name, norms, *sizes), valid_BT)
    x_BTMC = _masked_relu(convolve(x_BTM[..., None], "conv_in"), valid_BT)
    for i, stride in enumerate(_FRONT_STRIDES):
      y_BTMC = _masked_relu(convolve(x_BTMC, f"block_{i}_conv_0", stride), valid_BT)
      y_BTMC = convolve(y_BTMC, f"block_{i}_conv_1")
      if stride != 1:
        x_BTMC = convolve(x_BTMC, f"block_{i}_shortcut", stride, 1)
      x_BTMC = _masked_relu(x_BTMC + y_BTMC, valid_BT)
    x_BTMC = _masked_relu(convolve(x_BTMC, "conv_out", 2), valid_BT)
    return x_BTMC.reshape(*x_BTMC.shape[:2], -1)

  def _convolve(self, x: jax.Array, name: str, norms: Folded | BatchNorms, stride: int = 1, size: int = 3) -> jax.Array:
    sizes = {"stride": (1, stride), "padding": ((size // 2, size // 2),) * 2}
    return _conv(self, self.channels, (size, size), **sizes, bias=norms.biased, name=name)(x)


class ContextLayer(nn.Module):
  """One densely connected layer: a time-delay convolution gated by its context (paper, equations 2 to 5)."""

  config: SpeakerConfig
  kernel: int
  dilation: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BWC: jax.Array, valid_BW: jax.Array, norms: Folded | BatchNorms = FOLDED) -> jax.Array:
    """New features [B, W, growth]. The context of a frame is the mean of all plus the mean of its segment."""
    c, frames = self.config, x_BWC.shape[1]
    width = c.growth * c.bottleneck
    y_BWC = nn.relu(Affine(name="norm")(norms.standardise(self, "norm", x_BWC, valid_BW)))
    y_BWC = _dense(self, width, bias=norms.biased, name="reduce")(y_BWC)
    y_BWC = _masked_relu(norms.behind(self, "reduce", y_BWC, valid_BW), valid_BW)
    pad = (self.kernel - 1) // 2 * self.dilation
    reach = {"dilation": self.dilation, "padding": ((pad, pad),)}
    local_BWC = _conv(self, c.growth, self.kernel, **reach, bias=False, name="local")(y_BWC)
    # Frames of a segment share their context, so their gate is computed once.
    context_BSC = _mean(y_BWC, valid_BW) + _segment_means(y_BWC, valid_BW, c.full_segment_divisor)
    hidden_BSC = nn.relu(_dense(self, width // 2, name="gate_in")(context_BSC.astype(self.dtype)))
    gate_BSC = nn.sigmoid(_dense(self, c.growth, name="gate_out")(hidden_BSC))
    return local_BWC * jnp.repeat(gate_BSC, SEGMENT, axis=1)[:, :frames]


def _masked_relu(x: jax.Array, valid_BT: jax.Array) -> jax.Array:
  """Zero wherever negative and in padding, where the next convolution has to find zeros."""
  return jnp.where(valid_BT.reshape(valid_BT.shape + (1,) * (x.ndim - 2)), nn.relu(x), 0)


def _mean(x_BTC: jax.Array, valid_BT: jax.Array) -> jax.Array:
  """Float32 mean over valid frames, [B, 1, C]."""
  total = jnp.sum(x_BTC, axis=1, keepdims=True, where=valid_BT[:, :, None], dtype=jnp.float32)
  return total / _count(valid_BT)[:, None, None]


def _segment_means(x_BWC: jax.Array, valid_BW: jax.Array, full_divisor: bool) -> jax.Array:
  """Float32 mean over the valid frames of each segment, [B, S, C].

  A row's last segment is shorter; `full_divisor` divides its sum by a full segment's length all the same.
  """
  fill = -x_BWC.shape[1] % SEGMENT
  x_BSWC = jnp.pad(x_BWC, ((0, 0), (0, fill), (0, 0))).reshape(x_BWC.shape[0], -1, SEGMENT, x_BWC.shape[2])
  valid_BSW = jnp.pad(valid_BW, ((0, 0), (0, fill))).reshape(x_BSWC.shape[:3])
  total = jnp.sum(x_BSWC, axis=2, where=valid_BSW[..., None], dtype=jnp.float32)
  return total / (SEGMENT if full_divisor else _count(valid_BSW)[..., None])


def _statistics(x_BWC: jax.Array, valid_BW: jax.Array) -> jax.Array:
  """Mean and unbiased standard deviation over valid frames, side by side: [B, 2C]."""
  mean = _mean(x_BWC, valid_BW)
  total = jnp.sum(jnp.square(x_BWC - mean), axis=1, where=valid_BW[:, :, None])
  variance = total / jnp.maximum(_count(valid_BW) - 1, 1)[:, None]
  # A single frame has no variance; the floor keeps the root's gradient finite there.
  return jnp.concatenate([mean[:, 0], jnp.sqrt(jnp.maximum(variance, 1e-12))], axis=-1)


def _count(valid: jax.Array) -> jax.Array:
  """Valid frames along the last axis, at least one, as float32."""
  return jnp.maximum(jnp.sum(valid, axis=-1), 1).astype(jnp.float32)


def _conv(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Conv:
  return conv(*args, dtype=module.dtype, precision=_precision(module.dtype), **kwargs)


def _dense(module: nn.Module, features: int, **kwargs: Any) -> nn.DenseGeneral:
  axes = ("conv_in", "conv_out")
  return dense(features, axes, dtype=module.dtype, precision=_precision(module.dtype), **kwargs)


def _precision(dtype: Any) -> jax.lax.Precision | None:
  """float32 means float32 on every device: a voice must not depend on where it was enrolled."""
  return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
