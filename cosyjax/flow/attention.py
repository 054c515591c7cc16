"""Softmax attention of the flow's two stacks, in the form that each backend runs fastest.

The arithmetic is the same in both forms; only how much of it is handed out at once differs.
GPUs and TPUs get one batched product over all rows and heads. XLA on CPU fuses a product, its
softmax and the second product into one kernel, and is fastest when a kernel's scores fit the
second-level cache and several kernels are there to share out: rows and heads are unrolled into
pieces. Measured on 2 cores, one velocity evaluation of full size on 650 frames took 4 to 9 %
less time than in one piece; `lax.map` takes more, for its iterations run one after the other.
"""

import math

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row of nothing but masked keys still has a softmax
CPU_SCORES = 1 << 20  # scores that a kernel should hold on CPU: 4 MiB
CPU_PIECES = 16  # pieces at most, for the sake of compile time


def mask_bias(mask_BTS: jax.Array) -> jax.Array:
  """What `attend` adds to scores so that only those where the mask is True count: float32 [B, 1, T, S].

  A sum stays inside XLA's fused kernel where a selection does not, and beside -1e30 a score
  vanishes. The barrier keeps it one array: else each layer makes its own again.
  """
  return jax.lax.optimization_barrier(jnp.where(mask_BTS, 0.0, MASKED)[:, None])


def attend(
  q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, bias: jax.Array, *, training: bool = False
) -> jax.Array:
  """softmax(q k / sqrt(H) + bias) v, scores and softmax in float32.

  Args:
    q_BTNH: queries, not scaled.
    k_BSNH: keys.
    v_BSNH: values.
    bias: float32 [B, 1 or N, T, S], from `mask_bias`, with or without a part by distance.
    training: in one piece wherever it runs, and the weights are computed again for the backward
      pass instead of kept: they are by far the largest arrays of a block. In half precision on
      GPUs cuDNN's fused kernel does it where the bias is a mask alone.

  Returns:
    [B, T, N, H] in the dtype of the values.
  """
  batch, queries, heads, width = q_BTNH.shape
  if training and bias.shape[1] == 1 and v_BSNH.dtype == jnp.bfloat16 and jax.default_backend() == "gpu":
    bias = jnp.maximum(bias, jnp.finfo(jnp.bfloat16).min / 2).astype(jnp.bfloat16)
    return jax.nn.dot_product_attention(q_BTNH, k_BSNH, v_BSNH, bias, implementation="cudnn")
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTNH * (1.0 / math.sqrt(width)), k_BSNH, v_BSNH))
  if training:
    return jax.checkpoint(_attend)(q, k, v, bias).transpose(0, 2, 1, 3)
  many = batch * heads * queries * k.shape[2] > CPU_SCORES
  y = (_in_pieces if jax.default_backend() == "cpu" and many and batch <= CPU_PIECES else _attend)(q, k, v, bias)
  return y.transpose(0, 2, 1, 3)


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
