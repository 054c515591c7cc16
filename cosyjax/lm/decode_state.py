"""Where a batch of decodes stands, as a value, and the moves of sequences into and out of it.

A batch has slots. A request's sequence is prefilled alone, inserted into a free slot while the other
sequences run on, and removed when it is done.
"""

import flax.struct
import jax
import jax.numpy as jnp

from cosyjax.config import LMConfig
from cosyjax.layers.basic import Dtype
from cosyjax.lm.qwen2 import Cache, empty_cache, pad_cache

# Why a sequence is not running: codes in `DecodeState.ended_B`. It drew the end, another stopping id, or a fill; it
# has as many tokens as it may; there is no request.
RUNNING, END, STOP, FILL, LENGTH, IDLE = range(6)

# How much of its text a sequence has: codes in `DecodeState.mode_B`.
#   KNOWN   all text was there from the start: an id of `ends_known` ends the sequence, not before `min_tokens`.
#   OPEN    streamed text, more to come: a fill may be drawn, and the next group follows it.
#   CLOSED  streamed text that has ended: an id of `ends_streamed` ends the sequence, not before `min_tokens`.
KNOWN, OPEN, CLOSED = range(3)


@flax.struct.dataclass
class DecodeState:
  """Where a batch of decodes stands. Shapes are fixed, so that one program serves all steps.

  Attributes:
    cache: keys and values; place s of a sequence holds its position s. Free places may hold anything.
    filled_B: int32, tokens in each sequence's cache: the next free place.
    last_B: int32, id drawn last. It is not in the cache yet, unless it is a stopping id,
      which never goes there.
    tokens_BU: int32, ids emitted so far; zeros from `counts_B` on.
    counts_B: int32, how many were emitted.
    draws_B: int32, how many ids were drawn, stopping ids included: the position that a draw's
      key is made of. While a sequence of known text runs, it is the count.
    min_tokens_B, max_tokens_B: int32, no ending below the one, stopped (or paused) at the other.
    mode_B: int32, KNOWN, OPEN or CLOSED.
    recent_BW: int32, the last W emitted ids, newest last; -1 before the first. What samplers look back at.
    ended_B: int32, RUNNING, or why the sequence is not.
    done_B: bool, the sequence is not running.
    keys_B: one key per request.
  """

  cache: Cache
  filled_B: jax.Array
  last_B: jax.Array
  tokens_BU: jax.Array
  counts_B: jax.Array
  draws_B: jax.Array
  min_tokens_B: jax.Array
  max_tokens_B: jax.Array
  mode_B: jax.Array
  recent_BW: jax.Array
  ended_B: jax.Array
  done_B: jax.Array
  keys_B: jax.Array

  @property
  def capacity(self) -> int:
    """Cache positions of a sequence, and the length of its token buffer."""
    return self.tokens_BU.shape[1]


def new_state(config: LMConfig, cache: Cache, keys_B: jax.Array, recent: int | None = None) -> DecodeState:
  """Idle sequences around a cache, one for each key; `recent` emitted ids are kept (the configuration's if None)."""
  batch, capacity = keys_B.shape[0], cache[0].v_BKSH.shape[2]
  zeros = lambda: jnp.zeros(batch, jnp.int32)  # an array for each field: one that stands twice cannot be donated
  return DecodeState(
    cache=cache,
    filled_B=zeros(),
    last_B=zeros(),
    tokens_BU=jnp.zeros((batch, capacity), jnp.int32),
    counts_B=zeros(),
    draws_B=zeros(),
    min_tokens_B=zeros(),
    max_tokens_B=zeros(),
    mode_B=zeros(),
    recent_BW=jnp.full((batch, config.repeat_window if recent is None else recent), -1, jnp.int32),
    ended_B=jnp.full(batch, IDLE, jnp.int32),
    done_B=jnp.ones(batch, bool),
    keys_B=keys_B,
  )


def empty_state(
  config: LMConfig, batch: int, capacity: int, dtype: Dtype = jnp.float32, recent: int | None = None
) -> DecodeState:
  """`batch` idle slots of `capacity` positions; `dtype` is the compute type of the model that will run them."""
  keys_B = jax.random.split(jax.random.key(0), batch)
  return new_state(config, empty_cache(config, batch, capacity, dtype), keys_B, recent)


def insert(state: DecodeState, one: DecodeState, slot: jax.Array | int) -> DecodeState:
  """Puts the first sequence of `one` into a slot, whatever was there. Jit it with `state` donated.

  Args:
    state: slots of a capacity of at least that of `one`.
    one: for example a prefilled request.
    slot: 0 to B - 1; may be traced.
  """
  one = one.replace(tokens_BU=jnp.pad(one.tokens_BU, ((0, 0), (0, state.capacity - one.capacity))))

  def write(old: jax.Array, new: jax.Array) -> jax.Array:
    start = (jnp.asarray(slot, jnp.int32), *(jnp.int32(0) for _ in old.shape[1:]))
    return jax.lax.dynamic_update_slice(old, new[:1].astype(old.dtype), start)

  return jax.tree.map(write, state, one)


def release(state: DecodeState, slot: jax.Array | int) -> DecodeState:
  """Leaves a slot idle and empty. Jit it with `state` donated."""
  return state.replace(
    filled_B=state.filled_B.at[slot].set(0),
    last_B=state.last_B.at[slot].set(0),
    tokens_BU=state.tokens_BU.at[slot].set(0),
    counts_B=state.counts_B.at[slot].set(0),
    draws_B=state.draws_B.at[slot].set(0),
    recent_BW=state.recent_BW.at[slot].set(-1),
    ended_B=state.ended_B.at[slot].set(IDLE),
    done_B=state.done_B.at[slot].set(True),
  )


def grow(state: DecodeState, capacity: int) -> DecodeState:
  """The same sequences with room for `capacity` positions each.

  Raises:
    ConfigError: the sequences have more already.
  """
  cache = pad_cache(state.cache, capacity)
  return state.replace(cache=cache, tokens_BU=jnp.pad(state.tokens_BU, ((0, 0), (0, capacity - state.capacity))))
