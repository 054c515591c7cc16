"""State of the flow's streams, and what is done to its slots: emptied, copied, given more room.

A prompt that many streams begin with is solved once, kept as a state of one slot (`take`), and
copied into each stream's slot (`insert`).
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cosyjax.config import FlowConfig
from cosyjax.errors import ConfigError
from cosyjax.flow.chunk_cache import BLOCKS, HISTORY, KEYS, VALUES, Cache
from cosyjax.flow.flow_model import ENCODERS, ESTIMATORS
from cosyjax.layers import masks

_POSITION_AXIS = {KEYS: 2, VALUES: 2, BLOCKS: 1}  # which axis counts cache positions; histories have none


@flax.struct.dataclass
class FlowState:
  """Caches of B streams, one in each slot.

  Attributes:
    encoder: caches of the token encoder, and under "blocks" the block of each token. Position s
      holds token s (or frame s, after upsampling).
    estimator: caches of the estimator, one dict for each Euler step. 2B slots: those with conditions, then
      those without, which guidance needs. S positions.
    blocks_BS: int32, block of the frame at each of the estimator's positions; `masks.NEVER` where there is none.
    frames_B: int32, mel frames done.
    write_B: int32, next of the estimator's positions. The frames done, unless a window had it go round.
    pinned_B: int32, positions at the start that a window never takes away.
    frames_per_token: of the model.
  """

  encoder: Cache
  estimator: tuple[Cache, ...]
  blocks_BS: jax.Array
  frames_B: jax.Array
  write_B: jax.Array
  pinned_B: jax.Array
  frames_per_token: int = flax.struct.field(pytree_node=False)


def grow(state: FlowState, frames: int, tokens: int) -> FlowState:
  """The same streams with room for more: new positions S of the estimator and of the token encoder."""
  return _resized(state, frames, tokens)


def open_slots(state: FlowState, slots_B: jax.Array, pinned: int | jax.Array = 0) -> FlowState:
  """Empties some slots: new streams may begin there. Keys and values stay, but no frame sees them.

  Args:
    state: streams.
    slots_B: bool, the slots to empty.
    pinned: of those slots, see `FlowState`; a number or int32 [B].
  """

  def clear(arrays: Cache) -> Cache:
    clean = lambda a: jnp.where(jnp.tile(slots_B, a.shape[0] // slots_B.shape[0])[:, None, None], 0, a)
    return {name: clean(array) if word_of(name) == HISTORY else array for name, array in arrays.items()}

  encoder = clear(state.encoder)
  encoder[BLOCKS] = jnp.where(slots_B[:, None], masks.NEVER, encoder[BLOCKS])
  return state.replace(
    encoder=encoder,
    estimator=tuple(clear(arrays) for arrays in state.estimator),
    blocks_BS=jnp.where(slots_B[:, None], masks.NEVER, state.blocks_BS),
    frames_B=jnp.where(slots_B, 0, state.frames_B),
    write_B=jnp.where(slots_B, 0, state.write_B),
    pinned_B=jnp.where(slots_B, pinned, state.pinned_B).astype(jnp.int32),
  )


def take(state: FlowState, slot: int | jax.Array, frames: int, tokens: int | None = None) -> FlowState:
  """A copy of one slot as a state of its own, with so many positions: of a prompt, at least its frames.

  Args:
    state: streams.
    slot: which one; may be traced.
    frames: positions of the estimator that are copied, from the first on.
    tokens: positions of the token encoder; as many as `frames` need if None.
  """

  def of_slot(array: jax.Array) -> jax.Array:
    copies = array.shape[0] // state.frames_B.shape[0]  # a second one in arrays of 2B slots
    at = [i * state.frames_B.shape[0] + slot for i in range(copies)]
    return jnp.concatenate([jax.lax.dynamic_slice_in_dim(array, i, 1) for i in at])

  tokens = -(-frames // state.frames_per_token) if tokens is None else tokens
  return _resized(jax.tree.map(of_slot, state), frames, tokens)


def insert(state: FlowState, one: FlowState, slot: int | jax.Array, keys: bool = True) -> FlowState:
  """Copies the stream of a state of one slot into a slot; what was there is lost.

  Args:
    state: streams.
    one: from `take`, or solved in a state of one slot; of no more positions than `state`.
    slot: which one; may be traced.
    keys: False leaves the slot's keys and values alone: for one whose first frames still
      hold those of the same prompt.

  Raises:
    ConfigError: `one` has more than one slot, or more positions than `state`.
  """
  batch, positions = state.blocks_BS.shape
  tokens = state.encoder[BLOCKS].shape[1]
  of_one = one.frames_B.shape[0], one.blocks_BS.shape[1], one.encoder[BLOCKS].shape[1]
  if of_one[0] != 1 or of_one[1] > positions or of_one[2] > tokens:
    raise ConfigError(f"insert: expected 1 slot of at most {positions} frames and {tokens} tokens, found {of_one}")
  one = _resized(one, positions, tokens, keys=False)  # stamps only, so that the rest of the slot is NEVER

  def put(array: jax.Array, new: jax.Array) -> jax.Array:
    for i in range(new.shape[0]):  # the second one belongs to the half without conditions
      start = (i * batch + slot, *(0,) * (array.ndim - 1))
      array = jax.lax.dynamic_update_slice(array, new[i : i + 1].astype(array.dtype), start)
    return array

  def put_all(arrays: Cache, new: Cache) -> Cache:
    return {n: a if word_of(n) in (KEYS, VALUES) and not keys else put(a, new[n]) for n, a in arrays.items()}

  return state.replace(
    encoder=put_all(state.encoder, one.encoder),
    estimator=tuple(put_all(*pair) for pair in zip(state.estimator, one.estimator, strict=True)),
    **{
      name: put(getattr(state, name), getattr(one, name)) for name in ("blocks_BS", "frames_B", "write_B", "pinned_B")
    },
  )


def bytes_per_frame(config: FlowConfig, dtype: Any = jnp.float32, steps: int | None = None) -> int:
  """What one mel frame of one stream takes in the caches of estimator and token encoder."""
  evaluations = 2 * (config.steps if steps is None else steps)  # both branches
  numbers = evaluations * ESTIMATORS[type(config.estimator)].cached_numbers(config.estimator)
  numbers += ENCODERS[type(config.encoder)].cached_numbers(config.encoder, config.frames_per_token)
  return round(numbers * jnp.dtype(dtype).itemsize)


def word_of(name: str) -> str:
  """What an array of a `Cache` holds, by its name."""
  return name.rsplit("/", 1)[-1]


def _resized(state: FlowState, frames: int, tokens: int, keys: bool = True) -> FlowState:
  """The state with more or fewer positions. New ones are empty; those cut off are the last."""

  def resize(arrays: Cache, old: int, new: int) -> Cache:
    return {name: fit(name, array, old, new) for name, array in arrays.items()}

  def fit(name: str, array: jax.Array, old: int, new: int) -> jax.Array:
    axis = _POSITION_AXIS.get(word_of(name))
    if axis is None or (axis == 2 and not keys):
      return array
    size = array.shape[axis] // old * new  # the encoder's upper half has several positions per token
    array = jax.lax.slice_in_dim(array, 0, min(size, array.shape[axis]), axis=axis)
    padding = [(0, size - array.shape[axis] if i == axis else 0) for i in range(array.ndim)]
    return jnp.pad(array, padding, constant_values=masks.NEVER if word_of(name) == BLOCKS else 0)

  old_frames, old_tokens = state.blocks_BS.shape[1], state.encoder[BLOCKS].shape[1]
  return state.replace(
    encoder=resize(state.encoder, old_tokens, tokens),
    estimator=tuple(resize(arrays, old_frames, frames) for arrays in state.estimator),
    blocks_BS=fit(BLOCKS, state.blocks_BS, old_frames, frames),
  )
