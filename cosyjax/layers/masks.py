"""The only place where an attention mask is made.

Frames belong to blocks, and frame i may see frame j when `block[j] <= block[i]`. Blocks
of equal size counted from the first prompt frame give the paper's four masks (2.4):
non-causal (one block), full-causal (size 1), chunk-M and chunk-2M. Unequal blocks are a
stream's schedule. Padding is a frame that no frame sees.

Packed rows of the language model hold several utterances, separated by their segments.
"""

import jax
import jax.numpy as jnp

NEVER = jnp.iinfo(jnp.int32).max  # block of padding: after everything


def padding_mask(lengths_B: jax.Array, size: int) -> jax.Array:
  """True where a frame is within its row's length: bool [B, size]."""
  return jnp.arange(size)[None, :] < lengths_B[:, None]


def equal_blocks(size: int, chunk: int | jax.Array) -> jax.Array:
  """Block index of each of `size` frames: int32 [size].

  Args:
    size: number of frames.
    chunk: frames in a block; 0 puts all frames in one block (full attention). May be traced.
  """
  chunk = jnp.asarray(chunk, jnp.int32)
  return jnp.where(chunk > 0, jnp.arange(size, dtype=jnp.int32) // jnp.maximum(chunk, 1), 0)


def pad_blocks(blocks: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Blocks [size] or [B, size] with the frames past each row's length moved to `NEVER`: [B, size]."""
  blocks_BS = jnp.broadcast_to(blocks, (lengths_B.shape[0], blocks.shape[-1]))
  return jnp.where(padding_mask(lengths_B, blocks.shape[-1]), blocks_BS, NEVER)


def repeat_blocks(blocks: jax.Array, factor: int) -> jax.Array:
  """The same blocks at a frame rate `factor` times as high (tokens to mel frames)."""
  return jnp.repeat(blocks, factor, axis=-1)


def block_mask(
  query_blocks: jax.Array,
  key_blocks: jax.Array | None = None,
  *,
  window: int | None = None,
  pinned: jax.Array | None = None,
) -> jax.Array:
  """True where a query frame may see a key frame.

  Args:
    query_blocks: int32 [..., Q].
    key_blocks: int32 [..., S]; the queries' own blocks if None.
    window: blocks before its own that a query sees; all if None. A stream's cache may drop the rest.
    pinned: bool [..., S], keys that no window takes away, such as a prompt's.

  Returns:
    bool [..., Q, S]. A key in block `NEVER` is not seen, except that a padded query
    sees padded keys, which keeps its softmax finite.
  """
  key_blocks = query_blocks if key_blocks is None else key_blocks
  mask = key_blocks[..., None, :] <= query_blocks[..., :, None]
  if window is not None:
    near = key_blocks[..., None, :] >= query_blocks[..., :, None] - window
    mask = mask & (near if pinned is None else near | pinned[..., None, :])
  return mask


def causal_mask(query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
  """True where `key <= query`: positions are blocks of one frame. See `block_mask`."""
  return block_mask(query_positions, key_positions)


def segment_mask(
  query_segments: jax.Array, key_segments: jax.Array | None = None, *, start: int | jax.Array = 0
) -> jax.Array:
  """True where a query of a packed row may see a key: in the same segment, and not later.

  Args:
    query_segments: int32 [..., Q], segment of the positions `start`, `start + 1`, ... of a row. Padding has a
      segment of its own, 0.
    key_segments: int32 [..., S], segments of the positions 0, 1, ...; the queries' own if None.
    start: position of the first query.

  Returns:
    bool [..., Q, S]. Every query sees itself, padding too.
  """
  key_segments = query_segments if key_segments is None else key_segments
  causal = causal_mask(start + jnp.arange(query_segments.shape[-1]), jnp.arange(key_segments.shape[-1]))
  return causal & (query_segments[..., :, None] == key_segments[..., None, :])
