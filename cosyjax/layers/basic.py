"""Dense, convolution, norm and embedding layers with logical axes named in the initialiser.

Thin makers over Flax Linen, channels last. Each names the logical axes of its kernel once;
`cosyjax.sharding` maps them to mesh axes. Compute dtype and precision are the caller's:
norms always run in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any
Axes = tuple[str | None, ...]

_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def named(init: Callable, *axes: str | None) -> Callable:
  """An initialiser whose parameter carries these logical axis names."""
  return nn.with_logical_partitioning(init, axes)


def dense(
  features: int | Sequence[int],
  axes: Axes,
  *,
  axis: int | Sequence[int] = -1,
  bias: bool = True,
  dtype: Dtype = jnp.float32,
  precision: jax.lax.PrecisionLike = None,
  init: Callable = _fan_in,
  name: str | None = None,
) -> nn.DenseGeneral:
  """Linear map over the last axis (or axes). `axes` names every axis of the kernel, inputs first."""
  count = 1 if isinstance(features, int) else len(features)
  return nn.DenseGeneral(
    features,
    axis=axis,
    use_bias=bias,
    dtype=dtype,
    precision=precision,
    kernel_init=named(init, *axes),
    bias_init=named(nn.initializers.zeros, *axes[-count:]),
    name=name,
  )


def conv(
  features: int,
  kernel: int | Sequence[int],
  *,
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  padding: Any = "VALID",
  groups: int = 1,
  bias: bool = True,
  axes: tuple[str | None, str | None] = ("conv_in", "conv_out"),
  dtype: Dtype = jnp.float32,
  precision: jax.lax.PrecisionLike = None,
  name: str | None = None,
) -> nn.Conv:
  """Convolution over [B, T, C] (or [B, H, W, C] for a kernel of two sizes)."""
  kernel = (kernel,) if isinstance(kernel, int) else tuple(kernel)
  return nn.Conv(
    features,
    kernel,
    strides=stride,
    kernel_dilation=dilation,
    padding=padding,
    feature_group_count=groups,
    use_bias=bias,
    dtype=dtype,
    precision=precision,
    kernel_init=named(_fan_in, *(None,) * len(kernel), *axes),
    bias_init=named(nn.initializers.zeros, axes[1]),
    name=name,
  )


def embed(count: int, width: int, axes: Axes, *, dtype: Dtype = jnp.float32, name: str | None = None) -> nn.Embed:
  """Table of `count` vectors."""
  init = nn.initializers.normal(stddev=0.02)
  return nn.Embed(count, width, dtype=dtype, embedding_init=named(init, *axes), name=name)


class LayerNorm(nn.Module):
  """Layer norm over the last axis, computed in float32, returned in the input's dtype."""

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] to the same shape and dtype."""
    width = x.shape[-1]
    scale = self.param("scale", named(nn.initializers.ones, "norm"), (width,), jnp.float32)
    bias = self.param("bias", named(nn.initializers.zeros, "norm"), (width,), jnp.float32)
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
    return (y * scale + bias).astype(x.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last axis (Zhang and Sennrich 2019), computed in float32."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] to the same shape and dtype."""
    scale = self.param("scale", named(nn.initializers.ones, "norm"), (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
    return (y * scale).astype(x.dtype)


def left_pad(x_BTC: jax.Array, frames: int) -> jax.Array:
  """Zeros before the first frame, which make a convolution causal."""
  return jnp.pad(x_BTC, ((0, 0), (frames, 0), (0, 0)))


def normalise_l2(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
  """x over its Euclidean norm along the last axis, in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), epsilon)


def unbox(params: Any) -> Any:
  """Plain arrays from the boxed tree that `module.init` returns (boxes carry the logical axes)."""
  return nn.meta.unbox(params)
