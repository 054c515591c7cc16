"""Qwen2 decoder stack (Yang et al. 2024): grouped-query attention, RoPE, SwiGLU, RMSNorm.

The KV cache is an argument and a result. Place s of a sequence holds the token at position s of
it, so sequences of different lengths need no bookkeeping beyond their positions: a query
at position p sees places 0..p, and whatever lies in later ones is overwritten before any
query can see it.

Training has no cache: rows may be packed, and positions see their own segment only.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import LMConfig
from cosyjax.errors import ConfigError
from cosyjax.layers.attention import Mask, Segments, attend, make_mask
from cosyjax.layers.basic import Dtype, RMSNorm, named
from cosyjax.layers.constrain import shard_rows
from cosyjax.layers.masks import causal_mask
from cosyjax.layers.positions import rotary_angles, rotate
from cosyjax.layers.remat import remat
from cosyjax.layers.stack import scanned, unrolled

# Up to so many rows a product is bound by reading the weights, and XLA's CPU matmul is
# then fastest with the weights as its left operand.
_FEW_ROWS = 64


class LayerCache(NamedTuple):
  """Keys and values of one layer. Each has the order in which decoding reads it."""

  k_BKHS: jax.Array
  v_BKSH: jax.Array


Cache = tuple[LayerCache, ...]


def empty_cache(config: LMConfig, batch: int, capacity: int, dtype: Dtype = jnp.float32) -> Cache:
  """Cache of `capacity` positions for each of `batch` sequences."""
  k_shape = (batch, config.kv_heads, config.head_dim, capacity)
  v_shape = (batch, config.kv_heads, capacity, config.head_dim)
  return tuple(LayerCache(jnp.zeros(k_shape, dtype), jnp.zeros(v_shape, dtype)) for _ in range(config.layers))


def pad_cache(cache: Cache, capacity: int) -> Cache:
  """The same cache with room for `capacity` positions."""
  extra = capacity - cache[0].v_BKSH.shape[2]
  if extra < 0:
    raise ConfigError(f"cache of {cache[0].v_BKSH.shape[2]} positions does not fit a capacity of {capacity}")
  wide = ((0, 0), (0, 0), (0, 0), (0, extra))
  tall = ((0, 0), (0, 0), (0, extra), (0, 0))
  return tuple(LayerCache(jnp.pad(c.k_BKHS, wide), jnp.pad(c.v_BKSH, tall)) for c in cache)


def fuse_for_decoding(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters for `fused=True`: q, k, v in one array and gate, up in one, of each layer.

  Every output stays the same sum over the same weights. Fewer, larger matrices are faster
  at batch 1; over several devices keep them apart, as key heads may not divide.

  Args:
    params: nested dict of plain arrays, layers separate or stacked.
  """
  joined = {"qkv": (("q", "k", "v"), {"kernel": -3, "bias": -2}), "gate_up": (("gate", "up"), {"kernel": -2})}
  out = {key: fuse_for_decoding(value) if isinstance(value, dict) else value for key, value in params.items()}
  for name, (parts, axes) in joined.items():
    if parts[0] in out:
      old = [out.pop(part) for part in parts]
      join = np.concatenate if isinstance(old[0]["kernel"], np.ndarray) else jnp.concatenate
      out[name] = {leaf: join([part[leaf] for part in old], axis=axis) for leaf, axis in axes.items()}
  return out


class Linear(nn.Module):
  """Linear map with the outputs first in its kernel.

  A decode step reads every weight once and does little else. With outputs first each output
  is a dot product over contiguous memory, which on CPUs runs at the speed of memory; to
  accelerators the order makes no difference.
  """

  features: tuple[int, ...]
  axes: tuple[str | None, ...]  # logical names of the kernel's axes: outputs, then inputs
  bias: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps the last `len(axes) - len(features)` axes of x to `features`."""
    outs = len(self.features)
    ins = len(self.axes) - outs
    shape = (*self.features, *x.shape[-ins:])
    fan_in = nn.initializers.variance_scaling(
      1.0, "fan_in", "truncated_normal", in_axis=tuple(range(outs, outs + ins)), out_axis=tuple(range(outs))
    )
    kernel = self.param("kernel", named(fan_in, *self.axes), shape, jnp.float32).astype(self.dtype)
    x = x.astype(self.dtype)
    kernel_ins, x_ins = tuple(range(outs, outs + ins)), tuple(range(x.ndim - ins, x.ndim))
    if math.prod(x.shape[:-ins]) <= _FEW_ROWS:
      y = jax.lax.dot_general(kernel, x, ((kernel_ins, x_ins), ((), ())))
      y = jnp.moveaxis(y, range(outs), range(-outs, 0))
    else:
      y = jax.lax.dot_general(x, kernel, ((x_ins, kernel_ins), ((), ())))
    if self.bias:
      bias = self.param("bias", named(nn.initializers.zeros, *self.axes[:outs]), self.features, jnp.float32)
      y = y + bias.astype(self.dtype)
    return y


class Attention(nn.Module):
  """Causal grouped-query attention, over the cache if there is one."""

  config: LMConfig
  dtype: Dtype = jnp.float32
  fused: bool = False

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    positions_BL: jax.Array,
    rotary: tuple[jax.Array, jax.Array],
    sees: Mask | Segments,
    cache: LayerCache | None,
  ) -> tuple[jax.Array, LayerCache | None]:
    """[B, L, D] to the same shape, and the layer's cache with the new keys and values."""
    c = self.config

    def project(heads: int, axis: str, name: str) -> jax.Array:
      axes = (axis, "head_dim", "embed")
      return Linear((heads, c.head_dim), axes, bias=True, dtype=self.dtype, name=name)(x_BLD)

    if self.fused:
      q_BLNH, k_BLKH, v_BLKH = jnp.split(project(c.heads + 2 * c.kv_heads, "heads", "qkv"), _ends(c), axis=2)
    else:
      q_BLNH, k_BLKH = project(c.heads, "heads", "q"), project(c.kv_heads, "kv_heads", "k")
      v_BLKH = project(c.kv_heads, "kv_heads", "v")
    q_BLNH, k_BLKH = rotate(q_BLNH, rotary), rotate(k_BLKH, rotary)
    if isinstance(sees, Segments):
      y_BLNH, cache = attend(q_BLNH, k_BLKH, v_BLKH, sees), None
    else:
      if cache is None:
        cache = LayerCache(k_BLKH.transpose(0, 2, 3, 1), v_BLKH.transpose(0, 2, 1, 3))
      else:
        cache = _write(cache, k_BLKH, v_BLKH, positions_BL)
      y_BLNH = attend(q_BLNH, cache.k_BKHS, cache.v_BKSH, sees, keys="BKHS", values="BKSH")
    return Linear((c.width,), ("embed", "heads", "head_dim"), dtype=self.dtype, name="o")(y_BLNH), cache


def _write(cache: LayerCache, k_BLKH: jax.Array, v_BLKH: jax.Array, positions_BL: jax.Array) -> LayerCache:
  """Puts new keys and values into the places of their positions; those past the end are dropped."""
  batch, _, heads, _ = k_BLKH.shape
  b = jnp.arange(batch)[:, None, None]
  n = jnp.arange(heads)[None, None, :]
  p = positions_BL[:, :, None]
  return LayerCache(
    cache.k_BKHS.at[b, n, :, p].set(k_BLKH.astype(cache.k_BKHS.dtype), mode="drop"),
    cache.v_BKSH.at[b, n, p].set(v_BLKH.astype(cache.v_BKSH.dtype), mode="drop"),
  )


def _ends(config: LMConfig) -> tuple[int, int]:
  """Where the heads of the queries and of the keys end in `qkv`."""
  return config.heads, config.heads + config.kv_heads


class FeedForward(nn.Module):
  """SwiGLU (Shazeer 2020)."""

  config: LMConfig
  dtype: Dtype = jnp.float32
  fused: bool = False

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    """[B, L, D] to the same shape."""
    ffn = self.config.ffn
    widen = lambda size, name: Linear((size,), ("mlp", "embed"), dtype=self.dtype, name=name)(x_BLD)
    if self.fused:
      gate_BLF, up_BLF = jnp.split(widen(2 * ffn, "gate_up"), 2, axis=-1)
    else:
      gate_BLF, up_BLF = widen(ffn, "gate"), widen(ffn, "up")
    return Linear((self.config.width,), ("embed", "mlp"), dtype=self.dtype, name="down")(jax.nn.silu(gate_BLF) * up_BLF)


class Layer(nn.Module):
  """One pre-norm decoder layer."""

  config: LMConfig
  dtype: Dtype = jnp.float32
  fused: bool = False
  keep: bool = True  # return keys and values; training has no use for them

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    positions_BL: jax.Array,
    rotary: tuple[jax.Array, jax.Array],
    sees: Mask | Segments,
    cache: LayerCache | None = None,
  ) -> tuple[jax.Array, LayerCache | None]:
    """[B, L, D] to the same shape, and the layer's cache; arguments as of `Attention`."""
    norm = lambda name: RMSNorm(self.config.norm_eps, name=name)
    x_BLD = shard_rows(x_BLD) if isinstance(sees, Segments) else x_BLD
    attention = Attention(self.config, self.dtype, self.fused, name="attention")
    y_BLD, cache = attention(norm("attention_norm")(x_BLD), positions_BL, rotary, sees, cache)
    x_BLD = x_BLD + y_BLD
    x_BLD = x_BLD + FeedForward(self.config, self.dtype, self.fused, name="mlp")(norm("mlp_norm")(x_BLD))
    return x_BLD, cache if self.keep else None


class Qwen2(nn.Module):
  """The stack with its last norm.

  Attributes:
    config: sizes.
    dtype: compute type; norms and softmax stay float32.
    scan: parameters stacked under `layers` and run by `nn.scan` (training), or separate
      `layers_0`, `layers_1`, ... (decoding). `cosyjax.layers.stack` goes between.
    remat: what of each layer the backward pass computes again, a name of `cosyjax.layers.remat`.
    fused: parameters of `fuse_for_decoding`, where one matrix makes queries, keys and values
      and one makes gate and up.
  """

  config: LMConfig
  dtype: Dtype = jnp.float32
  scan: bool = False
  remat: str = "none"
  fused: bool = False

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    positions_BL: jax.Array,
    cache: Cache | None = None,
    segments_BL: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """Runs L tokens per row.

    Args:
      x_BLD: input vectors.
      positions_BL: int32 position of each in its row, rising along L. Padding comes after a
        row's tokens and takes the positions that follow; nothing valid sees it.
      cache: keys and values of earlier positions; None if there are none.
      segments_BL: for training, the utterance that each place of a packed row belongs to, 0 for
        padding; positions then begin at 0 in each. Nothing is cached.

    Returns:
      (hidden [B, L, D], cache). With `cache` given, the same places, updated; without, one of
      exactly L (None under `scan` and with segments, which have no use for it).

    Raises:
      ConfigError: a cache was given to the stacked layout.
    """
    c = self.config
    if self.scan and cache is not None:
      raise ConfigError("a cache needs the layout of separate layers (scan=False); see cosyjax.layers.stack")
    # Behind the barrier the angles are computed once; fused, every layer would do it again.
    rotary = jax.lax.optimization_barrier(rotary_angles(positions_BL, c.head_dim, c.rope_theta))
    if segments_BL is not None:
      sees = Segments(segments_BL)
    else:
      places = jnp.arange(cache[0].v_BKSH.shape[2], dtype=jnp.int32)[None] if cache else positions_BL
      sees = make_mask(causal_mask(positions_BL, places))
    x_BLD = x_BLD.astype(self.dtype)
    layer = remat(Layer, self.remat, prevent_cse=not self.scan)
    if self.scan:
      stack = scanned(layer, c.layers, unroll=unrolled(c.layers))(c, self.dtype, self.fused, keep=False, name="layers")
      x_BLD, cache = stack(x_BLD, positions_BL, rotary, sees, None)
    else:
      caches = []
      for i in range(c.layers):
        one = cache[i] if cache else None
        one_layer = layer(c, self.dtype, self.fused, name=f"layers_{i}")
        x_BLD, new = one_layer(x_BLD, positions_BL, rotary, sees, one)
        caches.append(new)
      cache = tuple(caches) if segments_BL is None else None
    return RMSNorm(c.norm_eps, name="norm")(x_BLD), cache
