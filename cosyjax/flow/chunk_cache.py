"""What a frame reads of the frames before it: nothing in a whole sequence, a cache in a stream.

Modules look back in two ways. A convolution reads the last few frames of its input; attention
reads the keys and values of all frames so far. Where a module does either, it calls `cache`:

    x_BTC = cache.pad(self, x_BTC, frames)      # frames that stand before the first one
    k, v = cache.keys(self, k_BTNH, v_BTNH)      # all that attention may look at
    mask = cache.mask(blocks_BT)                 # and which of it each query sees

`NoCache` stands for a sequence that starts with its input, `ChunkCache` for a part of a
stream: it holds what earlier parts left, by the path of the module that left it, and takes
in what this part leaves for the next. So one class serves training, whole sequences and streams.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from cosyjax.layers import masks
from cosyjax.layers.attention import Mask, make_mask
from cosyjax.layers.basic import left_pad

Cache = dict[str, jax.Array]  # what a stream keeps, by module path and one of the words below

HISTORY, KEYS, VALUES, BLOCKS = "history", "keys", "values", "blocks"


@flax.struct.dataclass
class NoCache:
  """The input is the whole sequence: zeros stand before it, and it attends to itself."""

  @property
  def offset_B(self) -> jax.Array | None:
    """Position of each slot's first frame; None if all start at 0."""
    return None

  def pad(self, module: nn.Module, x_BTC: jax.Array, frames: int) -> jax.Array:
    """x with the `frames` frames before it."""
    del module
    return left_pad(x_BTC, frames)

  def keys(self, module: nn.Module, k_BTNH: jax.Array, v_BTNH: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of the S frames that attention looks at: [B, S, N, H] each."""
    del module
    return k_BTNH, v_BTNH

  def mask(self, blocks_BT: jax.Array) -> Mask:
    """Which of the S frames each query sees."""
    return make_mask(masks.block_mask(blocks_BT), blocks_BT)

  def faster(self, rate: int) -> "NoCache":
    """The cache of the same frames, each repeated `rate` times."""
    del rate
    return self


NO_CACHE = NoCache()


class ChunkCache:
  """Caches of some streams while one part of each is computed.

  Lives as long as one `apply` is traced; what it holds afterwards goes into the next part's.
  Arrays have B slots, of which the part's b rows belong to `slots_b`. Keys and values are
  [B, N, S, H], S positions for each slot, histories [B, frames, C].

  Attributes:
    arrays: by module. Entries that are missing start as zeros.
    lengths_b: int32, valid frames of each row of the part; a row of 0 changes nothing.
    offset_B: int32, cache position of each row's first frame; the T positions from there on are written.
    key_blocks_bS: int32, block of the frame at each position, those of this part included.
    slots_b: int32, slot of each row; at or past B for rows of length 0. None says that the part has all slots in
      order: then nothing is gathered.
    window, pinned_bS: see `masks.block_mask`.
  """

  def __init__(
    self,
    arrays: Cache,
    lengths_b: jax.Array,
    offset_b: jax.Array,
    key_blocks_bS: jax.Array,
    slots_b: jax.Array | None = None,
    window: int | None = None,
    pinned_bS: jax.Array | None = None,
  ) -> None:
    self.arrays, self.lengths_b, self.offset_B, self.key_blocks_bS = arrays, lengths_b, offset_b, key_blocks_bS
    self.slots_b, self.window, self.pinned_bS = slots_b, window, pinned_bS

  def pad(self, module: nn.Module, x_bTC: jax.Array, frames: int) -> jax.Array:
    """x with the `frames` frames before it, whose last ones are kept for the next part."""
    history = self._get(module, HISTORY, (x_bTC.shape[0], frames, x_bTC.shape[2]), x_bTC.dtype)
    x_bTC = jnp.concatenate([slots_of(history, self.slots_b).astype(x_bTC.dtype), x_bTC], axis=1)
    # Of history and valid frames the last ones; with no valid frame, the history once more.
    last = jax.vmap(lambda x, n: jax.lax.dynamic_slice_in_dim(x, n, frames))(x_bTC, self.lengths_b)
    self._set(module, HISTORY, write(history, self._targets(history), last))
    return x_bTC

  def keys(self, module: nn.Module, k_bTNH: jax.Array, v_bTNH: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of all slots, the new ones written: [b, S, N, H] each."""
    return self._attended(module, KEYS, k_bTNH), self._attended(module, VALUES, v_bTNH)

  def mask(self, blocks_bT: jax.Array) -> Mask:
    """Which of the S frames each query sees: of these and of earlier parts."""
    return make_mask(masks.block_mask(blocks_bT, self.key_blocks_bS, window=self.window, pinned=self.pinned_bS))

  def faster(self, rate: int) -> "ChunkCache":
    """The cache of the same frames, each repeated `rate` times."""
    blocks_bS = masks.repeat_blocks(self.key_blocks_bS, rate)
    pinned_bS = None if self.pinned_bS is None else jnp.repeat(self.pinned_bS, rate, axis=-1)
    lengths_b, offset_b = rate * self.lengths_b, rate * self.offset_B
    return ChunkCache(self.arrays, lengths_b, offset_b, blocks_bS, self.slots_b, self.window, pinned_bS)

  def _attended(self, module: nn.Module, word: str, new_bTNH: jax.Array) -> jax.Array:
    batch, _, heads, width = new_bTNH.shape
    cache = self._get(module, word, (batch, heads, self.key_blocks_bS.shape[1], width), new_bTNH.dtype)
    new_bNTH = new_bTNH.transpose(0, 2, 1, 3).astype(cache.dtype)
    cache = write(cache, self._targets(cache), new_bNTH, self.offset_B, axis=2)
    self._set(module, word, cache)
    return slots_of(cache, self.slots_b).transpose(0, 2, 1, 3).astype(new_bTNH.dtype)

  def _targets(self, array: jax.Array) -> jax.Array:
    return target_slots(self.slots_b, self.lengths_b, array.shape[0])

  def _get(self, module: nn.Module, word: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    name = "/".join((*module.path, word))
    return self.arrays[name] if name in self.arrays else jnp.zeros(shape, dtype)

  def _set(self, module: nn.Module, word: str, array: jax.Array) -> None:
    self.arrays["/".join((*module.path, word))] = array


def target_slots(slots_b: jax.Array | None, lengths_b: jax.Array, count: int) -> jax.Array:
  """Which of `count` slots each row is written to: int32 [b]. Rows without frames get one that does not exist."""
  slots_b = jnp.arange(count, dtype=jnp.int32) if slots_b is None else slots_b
  return jnp.where(lengths_b > 0, slots_b, count)


def slots_of(array: jax.Array, slots_b: jax.Array | None) -> jax.Array:
  """The given slots; all of them, without a copy, if None. Slots that do not exist give some other one."""
  if slots_b is None:
    return array
  return jnp.take(array, slots_b, axis=0, mode="clip")


def write(
  array: jax.Array, to_b: jax.Array, new: jax.Array, start_b: jax.Array | None = None, axis: int = 1
) -> jax.Array:
  """Writes new[i] into slot to_b[i], along `axis` from start_b[i] (or 0) on, in place where XLA may.

  A window that does not fit into the array is not written at all.
  """
  start_b = jnp.zeros_like(to_b) if start_b is None else start_b
  windows = jax.lax.ScatterDimensionNumbers(
    update_window_dims=tuple(range(1, new.ndim)), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, axis)
  )
  at_b2 = jnp.stack([to_b, start_b], axis=1)
  return jax.lax.scatter(array, at_b2, new, windows, mode=jax.lax.GatherScatterMode.FILL_OR_DROP)
