"""Blocks of the HiFT generator: Snake, residual block, upsampling convolution.

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

Dtype = Any
_small = nn.initializers.normal(stddev=0.01)  # as HiFi-GAN: a residual block starts close to the identity

# sin(pi r) / r as a polynomial in r^2, |r| <= 1/2: Chebyshev fit, error of sin below 5e-9.
_SINE = tuple(
  np.polynomial.Chebyshev.interpolate(lambda z: np.pi * np.sinc(np.sqrt(np.maximum(z, 0))), 4, domain=[0, 0.25])
  .convert(kind=np.polynomial.Polynomial)
  .coef.tolist()
)


def same_padding(kernel: int, dilation: int = 1) -> list[tuple[int, int]]:
  """Zeros on either side that keep the number of frames, for an odd kernel."""
  return [((kernel - 1) * dilation // 2,) * 2]


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
  kernel: int,
  *,
  stride: int = 1,
  dilation: int = 1,
  padding: Any = None,
  init: Callable = _small,
  dtype: Dtype = jnp.float32,
  name: str | None = None,
) -> nn.Conv:
  """Convolution over [B, T, C] that starts small; keeps the frames unless told otherwise."""
  return nn.Conv(
    features,
    (kernel,),
    strides=stride,
    kernel_dilation=dilation,
    padding=same_padding(kernel, dilation) if padding is None else padding,
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
    kernel: output frames that one input frame reaches; `kernel - rate` is even.
    rate: output frames for an input frame.
  """

  features: int
  kernel: int
  rate: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array) -> jax.Array:
    """[B, T, C] to [B, rate T, features].

    Raises:
      ConfigError: the kernel is shorter than the rate, or the two differ by an odd number.
    """
    if self.kernel < self.rate or (self.kernel - self.rate) % 2:
      raise ConfigError(f"upsampling by {self.rate}: the kernel must be longer by an even number, found {self.kernel}")
    batch, frames, channels = x_BTC.shape
    shape = (self.kernel, channels, self.features)
    kernel_KIO = self.param("kernel", named(_small, None, "conv_in", "conv_out"), shape, jnp.float32)
    bias_C = self.param("bias", named(nn.initializers.zeros, "conv_out"), (self.features,), jnp.float32)
    # Input frame t reaches output frames rate*t - pad + j, j < kernel. Zeros around the kernel
    # bring j to rate*(reach + d) + r: output r of frame t + d.
    pad = (self.kernel - self.rate) // 2
    reach = -(-pad // self.rate)
    side = self.rate * reach - pad
    kernel_KIO = jnp.pad(kernel_KIO, ((side, side), (0, 0), (0, 0))).astype(self.dtype)
    taps = 2 * reach + 1
    kernel_DRIO = kernel_KIO.reshape(taps, self.rate, channels, self.features)[:, ::-1]
    kernel_DIP = kernel_DRIO.transpose(0, 2, 1, 3).reshape(taps, channels, self.rate * self.features)
    y_BTP = jax.lax.conv_general_dilated(
      x_BTC.astype(self.dtype), kernel_DIP, (1,), [(reach, reach)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y_BTP.reshape(batch, frames * self.rate, self.features) + bias_C.astype(self.dtype)


class ResBlock(nn.Module):
  """Pairs of a dilated and a plain convolution, each after a Snake, added to the input (HiFi-GAN, MRF).

  Attributes:
    kernel: taps of every convolution.
    dilations: of the first convolution of each pair.
  """

  kernel: int
  dilations: tuple[int, ...]
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: jax.Array, mask_BT1: jax.Array) -> jax.Array:
    """[B, T, C] to the same shape; zero where `mask_BT1` is false, given the same of x."""
    channels = x_BTC.shape[-1]
    for i, dilation in enumerate(self.dilations):
      y_BTC = Snake(name=f"snake_{i}_in")(x_BTC)
      y_BTC = frame_conv(channels, self.kernel, dilation=dilation, dtype=self.dtype, name=f"conv_{i}_in")(y_BTC)
      y_BTC = Snake(name=f"snake_{i}_out")(jnp.where(mask_BT1, y_BTC, 0))
      y_BTC = frame_conv(channels, self.kernel, dtype=self.dtype, name=f"conv_{i}_out")(y_BTC)
      x_BTC = jnp.where(mask_BT1, x_BTC + y_BTC, 0)
    return x_BTC
