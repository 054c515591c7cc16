"""Attention of all networks: softmax(q k / sqrt(H) + bias) v, scores and softmax in float32.

Which keys a query sees is a `Mask`, made once for all layers, or the `Segments` of packed rows that a causal model
trains on. Heads of queries may share keys, scores may have a part by distance, keys may lie in a cache.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.layers.masks import block_mask, segment_mask
from cosyjax.layers.platforms import form
from cosyjax.layers.positions import relative_shift
from cosyjax.layers.rows import device_parts, one_row_at_a_time

MASKED = -1e30  # finite, so that a query that sees nothing still has a softmax
PIECE = 256  # fewest queries of packed rows that are worth a product of their own
PIECES = 8  # most pieces of a packed row


class Mask(NamedTuple):
  """Which keys each query sees.

  Attributes:
    bias_B1TS: float32, what is added to scores: 0 where a query sees a key, `MASKED` where it does not.
    blocks_BT: the mask blocks that it was made of, where queries and keys are the same frames; else None.
  """

  bias_B1TS: jax.Array
  blocks_BT: jax.Array | None = None


class Segments(NamedTuple):
  """Packed rows: a position sees the earlier positions, and itself, of its own segment. int32 [B, L]."""

  segments_BL: jax.Array


class Distance(NamedTuple):
  """What the part of scores by distance is made of: queries [B, T, N, H] and a table [T + S, N, H], not scaled.

  The table may have an axis of rows before its others.
  """

  q_BTNH: jax.Array
  table_RNH: jax.Array


def make_mask(mask_BTS: jax.Array, blocks_BT: jax.Array | None = None) -> Mask:
  """A `Mask` of bool [B or 1, T or 1, S], True where a query sees a key."""
  # The barrier keeps the bias one array: else each layer makes its own again.
  return Mask(jax.lax.optimization_barrier(_bias(mask_BTS)), blocks_BT)


def attend(
  q_BTNH: jax.Array,
  k: jax.Array,
  v: jax.Array,
  sees: Mask | Segments,
  *,
  distance: Distance | None = None,
  keys: str = "BSKH",
  values: str = "BSKH",
  precision: jax.lax.PrecisionLike = None,
  training: bool = False,
) -> jax.Array:
  """softmax(q k / sqrt(H) + bias) v.

  Args:
    q_BTNH: queries, not scaled.
    k, v: keys and values of K heads, K dividing N.
    sees: which keys a query sees. With `Segments`, queries and keys are the same positions.
    distance: makes the part of scores by distance, where there is one.
    keys, values: order of the axes of k and v, as in a cache.
    precision: of both products.
    training: weights are computed again for the backward pass instead of kept: they are by far the largest arrays of
      a layer. `Segments` always are.

  Returns:
    [B, T, N, H] in the dtype of the values. What a query does not see has a weight of exactly 0.
  """
  if isinstance(sees, Segments):
    return _packed(q_BTNH, k, v, sees.segments_BL)
  if not training:
    return _attend(q_BTNH, k, v, _total_bias(sees, distance), keys, values, precision)

  @jax.checkpoint
  def again(*args):
    at_once = functools.partial(_at_once, precision=precision)
    return form("attention by head", functools.partial(_by_head, precision=precision), at_once)(*args)

  if distance is None and v.dtype == jnp.bfloat16:
    return form("fused attention", _fused_masked, again)(q_BTNH, k, v, sees, distance)
  return again(q_BTNH, k, v, sees, distance)


def _bias(mask_BTS: jax.Array) -> jax.Array:
  return jnp.where(mask_BTS, 0.0, MASKED)[:, None]


def _total_bias(mask: Mask, distance: Distance | None) -> jax.Array:
  return mask.bias_B1TS if distance is None else mask.bias_B1TS + distance_bias(distance)


def distance_bias(distance: Distance) -> jax.Array:
  """The part of scores by distance: float32 [B, N, T, S]."""
  product = "btnh,rnh->bntr" if distance.table_RNH.ndim == 3 else "btnh,brnh->bntr"
  scores_BNTR = jnp.einsum(product, distance.q_BTNH, distance.table_RNH, preferred_element_type=jnp.float32)
  return relative_shift(scores_BNTR) * (1.0 / math.sqrt(distance.q_BTNH.shape[-1]))


def _attend(
  q_BTNH: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array,
  keys: str = "BSKH",
  values: str = "BSKH",
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Attention with a bias [B or 1, 1 or N, T or 1, S]."""
  batch, queries, heads, width = q_BTNH.shape
  K = k.shape[keys.index("K")]
  # Heads before positions, and those of one key head together: each key head is one matrix product.
  q = (q_BTNH * width**-0.5).reshape(batch, queries, K, heads // K, width).transpose(0, 2, 3, 1, 4)
  scores = jnp.einsum(f"BKGTH,{keys}->BKGTS", q, k, precision=precision, preferred_element_type=jnp.float32)
  each = K if bias.shape[1] > 1 else 1
  weights = jax.nn.softmax(scores + bias.reshape(bias.shape[0], each, -1, *bias.shape[2:]), axis=-1).astype(v.dtype)
  y = jnp.einsum(f"BKGTS,{values}->BKGTH", weights, v, precision=precision)
  return y.transpose(0, 3, 1, 2, 4).reshape(batch, queries, heads, width)


def _at_once(q, k, v, mask: Mask, distance: Distance | None, precision=None) -> jax.Array:
  return _attend(q, k, v, _total_bias(mask, distance), precision=precision)


def _by_head(q_BTNH, k_BTNH, v_BTNH, mask: Mask, distance: Distance | None, precision=None) -> jax.Array:
  """One head of one row of each device at a time, the mask made of blocks where it is needed."""
  parts = device_parts(q_BTNH.shape[2], "tensor")

  def split(x: jax.Array) -> jax.Array:  # [..., N, H] to [heads of a device, ..., devices, H]
    return jnp.moveaxis(x.reshape(*x.shape[:-2], parts, -1, x.shape[-1]), -2, 0)

  def head(some):
    *by_row, table = some

    @jax.checkpoint
    def row(q, k, v, q_distance, blocks_BT):
      there = None if table is None else Distance(q_distance, table)
      return _at_once(q, k, v, Mask(_bias(block_mask(blocks_BT))), there, precision)

    return one_row_at_a_time(row, *by_row, mask.blocks_BT)

  arrays = (q_BTNH, k_BTNH, v_BTNH, *(distance or (None, None)))
  y = jnp.moveaxis(jax.lax.map(head, jax.tree.map(split, arrays)), 0, -2)
  return y.reshape(*y.shape[:-3], -1, y.shape[-1])


def _fused_masked(q, k, v, mask: Mask, distance: None) -> jax.Array:
  del distance
  bias = jnp.maximum(mask.bias_B1TS, jnp.finfo(jnp.bfloat16).min / 2).astype(jnp.bfloat16)
  return jax.nn.dot_product_attention(q, k, v, bias, implementation="cudnn")


def _packed(q_BLNH: jax.Array, k_BLKH: jax.Array, v_BLKH: jax.Array, segments_BL: jax.Array) -> jax.Array:
  """Causal attention of packed rows."""

  @jax.checkpoint
  def again(*arrays):
    return form("attention by row", functools.partial(one_row_at_a_time, _in_pieces), _in_pieces)(*arrays)

  half = q_BLNH.dtype in (jnp.bfloat16, jnp.float16)
  call = form("fused attention", _fused_packed, again) if half else again
  return call(q_BLNH, k_BLKH, v_BLKH, segments_BL)


def _fused_packed(q, k, v, segments_BL: jax.Array) -> jax.Array:
  same_B1LL = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
  return jax.nn.dot_product_attention(q, k, v, mask=same_B1LL, is_causal=True, implementation="cudnn")


def _in_pieces(q_BLNH: jax.Array, k_BLKH: jax.Array, v_BLKH: jax.Array, segments_BL: jax.Array) -> jax.Array:
  """Queries in pieces, each against the keys up to its end.

  That leaves out most of what the mask would hide, and no piece's scores are kept for the backward pass.
  """
  length = q_BLNH.shape[1]
  size = -(-length // min(max(length // PIECE, 1), PIECES))
  pieces = []
  for start in range(0, length, size):
    end = min(start + size, length)

    @jax.checkpoint
    def piece(q, k, v, segments_BS, start=start):
      return _attend(q, k, v, _bias(segment_mask(segments_BS[:, start:], segments_BS, start=start)))

    pieces.append(piece(q_BLNH[:, start:end], k_BLKH[:, :end], v_BLKH[:, :end], segments_BL[:, :end]))
  return jnp.concatenate(pieces, axis=1)
