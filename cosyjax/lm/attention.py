"""Causal attention of training rows: packed, whole, and with gradients.

Decoding has its own form beside its cache, in `cosyjax.lm.qwen2`. Both are exact; what differs
is what they are fast at.
"""

import functools

import jax
import jax.numpy as jnp

from cosyjax.layers.masks import segment_mask
from cosyjax.layers.rows import one_row_at_a_time

PIECE = 256  # least queries that are worth a product of their own
PIECES = 8  # most pieces of a row


def attend_packed(
  q_BLNH: jax.Array, k_BLKH: jax.Array, v_BLKH: jax.Array, segments_BL: jax.Array, *, fused: bool | None = None
) -> jax.Array:
  """softmax(q k / sqrt(H)) v over the earlier positions of each position's own segment.

  Keys and values of grouped heads are not repeated. On GPUs in half precision cuDNN's fused
  kernel does it all. Elsewhere the queries go in pieces, each against the keys up to its end:
  that leaves out most of what the mask would hide, and no piece's scores are kept for the
  backward pass.

  Args:
    q_BLNH: queries, not scaled.
    k_BLKH, v_BLKH: keys and values, K dividing N.
    segments_BL: int32, which utterance of the row a position belongs to.
    fused: use cuDNN; where it can be used if None.

  Returns:
    [B, L, N, H] in the dtype of the values. What lies in another segment has a weight of exactly 0.
  """
  half = q_BLNH.dtype in (jnp.bfloat16, jnp.float16)
  if half and jax.default_backend() == "gpu" if fused is None else fused:
    same_B1LL = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
      q_BLNH, k_BLKH, v_BLKH, mask=same_B1LL, is_causal=True, implementation="cudnn"
    )  # fmt: skip

  @jax.checkpoint
  def again(*arrays: jax.Array) -> jax.Array:
    by_row = functools.partial(one_row_at_a_time, _in_pieces)
    return jax.lax.platform_dependent(*arrays, tpu=by_row, default=_in_pieces)

  return again(q_BLNH, k_BLKH, v_BLKH, segments_BL)


def _in_pieces(q_BLNH: jax.Array, k_BLKH: jax.Array, v_BLKH: jax.Array, segments_BL: jax.Array) -> jax.Array:
  length = q_BLNH.shape[1]
  size = -(-length // min(max(length // PIECE, 1), PIECES))
  pieces = []
  for start in range(0, length, size):
    end = min(start + size, length)
    piece = functools.partial(_piece, start=start)
    pieces.append(jax.checkpoint(piece)(q_BLNH[:, start:end], k_BLKH[:, :end], v_BLKH[:, :end], segments_BL[:, :end]))
  return jnp.concatenate(pieces, axis=1)


def _piece(q_BQNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segments_BS: jax.Array, *, start: int) -> jax.Array:
  """Queries from position `start` on, against the keys up to the last of them."""
  batch, queries, heads, width = q_BQNH.shape
  keys, groups = k_BSKH.shape[2], heads // k_BSKH.shape[2]
  # Groups and queries share an axis, so that each key head is one matrix product.
  q = q_BQNH.reshape(batch, queries, keys, groups, width).transpose(0, 2, 3, 1, 4) * width**-0.5
  q = q.reshape(batch, keys, groups * queries, width)
  k, v = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)
  scores = jnp.einsum("BKXH,BKSH->BKXS", q, k, preferred_element_type=jnp.float32)
  mask_BQS = segment_mask(segments_BS[:, start:], segments_BS, start=start)
  scores = scores.reshape(batch, keys, groups, queries, -1)
  scores = jnp.where(mask_BQS[:, None, None], scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(batch, keys, groups * queries, -1)
  y = jnp.einsum("BKXS,BKSH->BKXH", weights, v).reshape(batch, keys, groups, queries, width)
  return y.transpose(0, 3, 1, 2, 4).reshape(batch, queries, heads, width)
