"""Strided convolutions, in the form whose gradients are cheap."""

import functools

import jax
import jax.numpy as jnp

from cosyjax.layers.platforms import form


def strided_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolution of [B, N, C] or [B, H, N, C] that keeps all sizes but the last axis's: ceil(N / stride).

  Args:
    x: rows of frames, or pictures.
    kernel: [taps, C, D] or [rows, taps, C, D], numbers of taps and rows odd.
    stride: along the last axis.
  """
  plain = functools.partial(neighbours_as_channels, stride=stride)
  if kernel.ndim == 3:
    return plain(x, kernel)
  return form("convolution by rows", functools.partial(conv_by_rows, stride=stride), plain)(x, kernel)


def neighbours_as_channels(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolution of [B, N, C] or [B, H, N, C] that keeps all sizes but the last axis's: ceil(N / stride).

  `stride` neighbours along that axis are put side by side as channels first, so that the
  convolution itself has a stride of 1. Then so has its transpose, the gradient, and narrow channels fill more of a
  matrix unit.

  Args:
    kernel: [taps, C, D] or [rows, taps, C, D], numbers of taps and rows odd.
  """
  axes, taps, size = kernel.ndim - 2, kernel.shape[-3], x.shape[-2]
  # Output n reads `half` inputs on either side of stride * n: blocks n - before to n + after of `stride` each.
  half = taps // 2
  before, after = -(-half // stride), half // stride
  sides = (before * stride - half, (after + 1) * stride - 1 - half)
  kernel = jnp.pad(kernel, ((0, 0),) * (axes - 1) + (sides, (0, 0), (0, 0)))
  kernel = kernel.reshape(*kernel.shape[: axes - 1], before + after + 1, -1, kernel.shape[-1])
  x = jnp.pad(x, ((0, 0),) * axes + ((0, -size % stride), (0, 0)))
  x = x.reshape(*x.shape[:-2], -1, stride * x.shape[-1])
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1,) * axes,
    [(k // 2, k // 2) for k in kernel.shape[: axes - 1]] + [(before, after)],
    dimension_numbers=("NWC", "WIO", "NWC") if axes == 1 else ("NHWC", "HWIO", "NHWC"),
  )


def conv_by_rows(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """`neighbours_as_channels` of [B, H, N, C], each row on its own with its neighbours as further channels.

  Args:
    kernel: [rows, taps, C, D], numbers of taps and rows odd.
  """
  batch, height, size, _ = x.shape
  rows, taps, _, features = kernel.shape
  x = jnp.pad(x, ((0, 0), (rows // 2, rows // 2), (0, 0), (0, 0)))
  x = jnp.concatenate([x[:, i : i + height] for i in range(rows)], axis=-1).reshape(batch * height, size, -1)
  y = neighbours_as_channels(x, kernel.transpose(1, 0, 2, 3).reshape(taps, -1, features), stride)
  return y.reshape(batch, height, *y.shape[1:])
