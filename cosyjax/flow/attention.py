"""Softmax attention of the flow's two stacks, in the form that each backend runs fastest.

The arithmetic is the same in all forms; only how much of it is handed out at once differs.
GPUs get one batched product over all rows and heads, TPUs too but for training (see `_by_head`).
XLA on CPU fuses a product, its softmax and the second product into one kernel, and is fastest when a
kernel's scores fit the second-level cache and several kernels are there to share out: rows and heads
are unrolled into pieces. Measured on 2 cores, one velocity evaluation of full size on 650 frames took 4
to 9 % less time than in one piece; `lax.map` takes more, for its iterations run one after the other.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.flow.chunk_cache import ChunkCache, NoCache
from cosyjax.layers.masks import block_mask
from cosyjax.layers.rows import device_parts, one_row_at_a_time

MASKED = -1e30  # finite, so that a row of nothing but masked keys still has a softmax
CPU_SCORES = 1 << 20  # scores that a kernel should hold on CPU: 4 MiB
CPU_PIECES = 16  # pieces at most, for the sake of compile time


class Mask(NamedTuple):
  """Which keys each query sees.

  Attributes:
    bias_B1TS: from `mask_bias`.
    blocks_BT: the blocks that it was made of, where queries and keys are the same frames; else None.
  """

  bias_B1TS: jax.Array
  blocks_BT: jax.Array | None = None


class Distance(NamedTuple):
  """What the part of scores by distance is made of: queries [B, T, N, H] and a table [T + S, N, H], not scaled."""

  q_BTNH: jax.Array
  table_RNH: jax.Array


def mask_bias(mask_BTS: jax.Array) -> jax.Array:
  """What `attend` adds to scores so that only those where the mask is True count: float32 [B, 1, T, S].

  A sum stays inside XLA's fused kernel where a selection does not, and beside -1e30 a score
  vanishes. The barrier keeps it one array: else each layer makes its own again.
  """
  return jax.lax.optimization_barrier(_bias(mask_BTS)[:, None])


def make_mask(cache: NoCache | ChunkCache, blocks_BT: jax.Array) -> Mask:
  """What frames of these blocks see of each other and of what was before them."""
  return Mask(mask_bias(cache.mask(blocks_BT)), blocks_BT if cache.offset_B is None else None)


def _bias(mask: jax.Array) -> jax.Array:
  return jnp.where(mask, 0.0, MASKED)


def relative_shift(x_BNTR: jax.Array) -> jax.Array:
  """Turns scores by relative position into scores by key: [B, N, T, T + S] -> [B, N, T, S].

  Row i of the result starts one place earlier than row i - 1, so with rows of T + S - 1
  instead of T + S the columns line up by themselves: out[i, j] = x[i, T - 1 - i + j].
  """
  *front, queries, places = x_BNTR.shape
  flat = x_BNTR.reshape(*front, queries * places)[..., queries - 1 : queries - 1 + queries * (places - 1)]
  return flat.reshape(*front, queries, places - 1)[..., : places - queries]


def distance_bias(distance: Distance) -> jax.Array:
  """The part of scores by distance: float32 [B, N, T, S]. The table may have an axis of rows before its others."""
  product = "btnh,rnh->bntr" if distance.table_RNH.ndim == 3 else "btnh,brnh->bntr"
  scores_BNTR = jnp.einsum(product, distance.q_BTNH, distance.table_RNH, preferred_element_type=jnp.float32)
  return relative_shift(scores_BNTR) * (1.0 / math.sqrt(distance.q_BTNH.shape[-1]))


def attend(q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, bias: jax.Array) -> jax.Array:
  """softmax(q k / sqrt(H) + bias) v, scores and softmax in float32.

  Args:
    q_BTNH: queries, not scaled.
    k_BSNH: keys.
    v_BSNH: values.
    bias: float32 [B, 1 or N, T, S], from `mask_bias`, with or without a part by distance.

  Returns:
    [B, T, N, H] in the dtype of the values.
  """
  batch, queries, heads, _ = q_BTNH.shape
  many = batch * heads * queries * k_BSNH.shape[1] > CPU_SCORES
  pieces = jax.default_backend() == "cpu" and many and batch <= CPU_PIECES
  return _heads_last((_in_pieces if pieces else _attend)(*_heads_first(q_BTNH, k_BSNH, v_BSNH), bias))


def attend_masked(
  q_BTNH: jax.Array,
  k_BSNH: jax.Array,
  v_BSNH: jax.Array,
  mask: Mask,
  distance: Distance | None = None,
  *,
  training: bool = False,
) -> jax.Array:
  """`attend` where a mask allows it, with a part of the scores by distance if there is one.

  Args:
    q_BTNH, k_BSNH, v_BSNH: as for `attend`.
    mask: which keys a query sees.
    distance: makes the part by distance.
    training: the weights are computed again for the backward pass instead of kept: they are by far
      the largest arrays of a block. On TPUs that goes head by head; elsewhere in one piece, in half
      precision on GPUs by cuDNN's fused kernel where there is no distance.
  """
  if not training:
    return attend(q_BTNH, k_BSNH, v_BSNH, _full_bias(mask, distance))
  if distance is None and v_BSNH.dtype == jnp.bfloat16 and jax.default_backend() == "gpu":
    bias = jnp.maximum(mask.bias_B1TS, jnp.finfo(jnp.bfloat16).min / 2).astype(jnp.bfloat16)
    return jax.nn.dot_product_attention(q_BTNH, k_BSNH, v_BSNH, bias, implementation="cudnn")

  @jax.checkpoint
  def again(*args):
    return jax.lax.platform_dependent(*args, tpu=_by_head, default=_at_once)

  return again(q_BTNH, k_BSNH, v_BSNH, mask, distance)


def _full_bias(mask: Mask, distance: Distance | None) -> jax.Array:
  return mask.bias_B1TS if distance is None else mask.bias_B1TS + distance_bias(distance)


def _at_once(
  q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, mask: Mask, distance: Distance | None
) -> jax.Array:
  return _heads_last(_attend(*_heads_first(q_BTNH, k_BSNH, v_BSNH), _full_bias(mask, distance)))


def _by_head(
  q_BTNH: jax.Array, k_BTNH: jax.Array, v_BTNH: jax.Array, mask: Mask, distance: Distance | None
) -> jax.Array:
  """Attention one head of one row of each device at a time, the mask made of blocks where it is needed.

  The scores of 30 s are 9 MB in float32: with what softmax and its gradient make of them they
  stay in the memory on the chip of a TPU. Those of all heads do not, and the way through the large
  memory takes many times as long as the arithmetic.
  """
  parts = device_parts(q_BTNH.shape[2], "tensor")

  def split(x: jax.Array) -> jax.Array:  # [..., N, H] to [heads of a device, ..., devices, H]
    return jnp.moveaxis(x.reshape(*x.shape[:-2], parts, -1, x.shape[-1]), -2, 0)

  def head(some):
    *by_row, table = some

    @jax.checkpoint
    def row(q, k, v, q_distance, blocks_BT):
      there = None if table is None else Distance(q_distance, table)
      return _at_once(q, k, v, Mask(_bias(block_mask(blocks_BT))[:, None]), there)

    return one_row_at_a_time(row, *by_row, mask.blocks_BT)

  arrays = (q_BTNH, k_BTNH, v_BTNH, *(distance or (None, None)))
  y = jnp.moveaxis(jax.lax.map(head, jax.tree.map(split, arrays)), 0, -2)
  return y.reshape(*y.shape[:-3], -1, y.shape[-1])


def _heads_first(q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array) -> tuple[jax.Array, ...]:
  """The arguments of `_attend`: heads before time, queries scaled."""
  scale = 1.0 / math.sqrt(q_BTNH.shape[-1])
  return tuple(x.transpose(0, 2, 1, 3) for x in (q_BTNH * scale, k_BSNH, v_BSNH))


def _heads_last(y_BNTH: jax.Array) -> jax.Array:
  return y_BNTH.transpose(0, 2, 1, 3)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
  """Attention with heads before time: [..., T, H], [..., S, H] -> [..., T, H]."""
  scores = jnp.einsum("...th,...sh->...ts", q, k, preferred_element_type=jnp.float32) + bias
  return jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _in_pieces(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
  """`_attend` over [B, N, T, H], a few heads of one row at a time."""
  batch, heads, queries, _ = q.shape
  step = _heads_at_a_time(batch, heads, queries * k.shape[2])
  rows = []
  for row in range(batch):
    parts = []
    for first in range(0, heads, step):
      some = slice(first, first + step)
      # Integer index: the kernels are slower when an axis of one stands before the heads.
      parts.append(_attend(q[row, some], k[row, some], v[row, some], bias[row, some if bias.shape[1] > 1 else 0]))
    rows.append(jnp.concatenate(parts))
  return jnp.stack(rows)


def _heads_at_a_time(batch: int, heads: int, scores: int) -> int:
  """Heads in a piece: as few as keep its scores in cache, as many as keep the pieces few."""
  sizes = [n for n in range(1, heads + 1) if heads % n == 0 and batch * heads // n <= CPU_PIECES]
  return max([n for n in sizes if n * scores <= CPU_SCORES], default=min(sizes))
