"""Layers of the HiFT generator: Snake, residual block, upsampling convolution.

Frames past a row's end are zero wherever a convolution reads, so that a padded row sees the
same zeros as the row alone.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.layers.basic import named
from cosyjax.vocoder.layer_plan import ConvShape, UpConvShape

Dtype = Any
_small = nn.initializers.normal(stddev=0.01)  # as HiFi-GAN: a residual block starts close to the identity

# sin(pi r) / r as a polynomial in r^2, |r| <= 1/2: Chebyshev fit, error of sin below 5e-9.
_SINE = tuple(
  np.polynomial.Chebyshev.interpolate(lambda z: np.pi * np.sinc(np.sqrt(np.maximum(z, 0))), 4, domain=[0, 0.25])
  .convert(kind=np.polynomial.Polynomial)
  .coef.tolist()
)


def take(x_BT: jax.Array, start_B: jax.Array, count: int) -> jax.Array:
  """`count` frames of each row of [B, T, ...] from its own `start_B` on; starts past T - count are pulled back."""
  return jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, count))(x_BT, start_B)


def sine_squared(turns: jax.Array) -> jax.Array:
  """sin^2(pi x), whose period is 1: range reduction and five multiply-adds, which fuse and vectorise."""
  rest = turns - jnp.round(turns)
  square = rest * rest
  value = jnp.full_like(square, _SINE[-1])
  for coefficient in reversed(_SINE[:-1]):
    value = value * square + coefficient
  return value * value * square


class Snake(nn.Module):
  """x + sin^2(alpha x) / alpha with one alpha a channel (Liu et al. 2020, arXiv:2006.08195, eq. 3)."""

  @nn.compact
  def __call__(self, x_BTC: jax.Array) -> jax.Array:
    """[B, T, C] to the same shape and dtype, computed in float32."""
    alpha_C = self.param("alpha", named(nn.initializers.ones, "norm"), (x_BTC.shape[-1],), jnp.float32)
    x = x_BTC.astype(jnp.float32)
    y = x + sine_squared(x * (alpha_C / jnp.pi)) * (1 / (alpha_C + 1e-9))
    return y.astype(x_BTC.dtype)


def frame_conv(
  features: int,
  shape: ConvShape,
  *,
  init: Callable = _small,
  dtype: Dtype = jnp.float32,
  name: str | None = None,
) -> nn.Conv:
  """Convolution over [B, T, C]; starts small unless `init` says otherwise."""
  return nn.Conv(
    features,
    (shape.kernel,),
    strides=shape.stride,
    kernel_dilation=shape.dilation,
    padding=[(shape.before, shape.after)],
    dtype=dtype,
    kernel_init=named(init, None, "conv_in", "conv_out"),
    bias_init=named(nn.initializers.zeros, "conv_out"),
    name=name,
  )


class UpConv(nn.Module):
  """Transposed convolution: `rate` output frames for every input frame.

  Computed as one convolution to `rate * features` channels, whose output frames lie side by
  side. The kernel is kept as `jax.lax.conv_transpose` takes it: [time, in, out], flipped.

  Attributes:
    features: output channels.
    shape: output frames that one input frame reaches (`kernel`), and output frames for an input frame (`rate`).
  """

  features: int
  shape: UpConvShape
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array) -> jax.Array:
    """[B, T, C] to [B, rate T, features].

    Raises:
      ConfigError: the kernel is shorter than the rate, or the two differ by an odd number.
    """
    taps_out, rate = self.shape
    if taps_out < rate or (taps_out - rate) % 2:
      raise ConfigError(f"upsampling by {rate}: the kernel must be longer by an even number, found {taps_out}")
    batch, frames, channels = x_BTC.shape
    shape = (taps_out, channels, self.features)
    kernel_KIO = self.param("kernel", named(_small, None, "conv_in", "conv_out"), shape, jnp.float32)
    bias_C = self.param("bias", named(nn.initializers.zeros, "conv_out"), (self.features,), jnp.float32)
    # Input frame t reaches output frames rate*t - pad + j, j < kernel. Zeros around the kernel
    # bring j to rate*(sides + d) + r: output r of frame t + d.
    pad = (taps_out - rate) // 2
    sides = -(-pad // rate)  # input frames on either side
    extra = rate * sides - pad
    kernel_KIO = jnp.pad(kernel_KIO, ((extra, extra), (0, 0), (0, 0))).astype(self.dtype)
    taps = 2 * sides + 1
    kernel_DRIO = kernel_KIO.reshape(taps, rate, channels, self.features)[:, ::-1]
    kernel_DIP = kernel_DRIO.transpose(0, 2, 1, 3).reshape(taps, channels, rate * self.features)
    y_BTP = jax.lax.conv_general_dilated(
      x_BTC.astype(self.dtype), kernel_DIP, (1,), [(sides, sides)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y_BTP.reshape(batch, frames * rate, self.features) + bias_C.astype(self.dtype)


class ResBlock(nn.Module):
  """Pairs of a dilated and a plain convolution, each after a Snake, added to the input (HiFi-GAN, MRF).

  Attributes:
    layers: two convolutions of each pair, one after the other.
  """

  layers: tuple[ConvShape, ...]
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array, mask_BT1: jax.Array) -> jax.Array:
    """[B, T, C] to the same shape; zero where `mask_BT1` is false, given the same of x."""
    channels = x_BTC.shape[-1]
    for i, (first, second) in enumerate(zip(self.layers[::2], self.layers[1::2], strict=True)):
      y_BTC = Snake(name=f"snake_{i}_in")(x_BTC)
      y_BTC = frame_conv(channels, first, dtype=self.dtype, name=f"conv_{i}_in")(y_BTC)
      y_BTC = Snake(name=f"snake_{i}_out")(jnp.where(mask_BT1, y_BTC, 0))
      y_BTC = frame_conv(channels, second, dtype=self.dtype, name=f"conv_{i}_out")(y_BTC)
      x_BTC = jnp.where(mask_BT1, x_BTC + y_BTC, 0)
    return x_BTC
