"""Decoding speech tokens: prefill, K steps per call on the device, and a host driver.

The state is a value of fixed shapes. A row is a request; it starts at its prefill, stops by
itself, and neither its slot nor its batch mates change its tokens. `decode_steps` runs many
steps without the host; `extend` appends tokens to running rows (text that arrives later).
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import LMConfig
from cosyjax.errors import TokenError
from cosyjax.lm.model import TextSpeechLM
from cosyjax.lm.qwen2 import Cache, pad_cache
from cosyjax.lm.sampling import RepetitionAware, Sampler, forbid
from cosyjax.lm.sequence import SPEECH, pad_rows

# Why a row is not running: codes in `DecodeState.ended_B`. The stopping ids C, C+1, C+2 are
# END, END + 1, END + 2.
RUNNING, END, STOP, FILL, LENGTH, IDLE = range(6)
ENDINGS = ("running", "end", "end", "end", "length", "idle")  # code -> word; known text ends at any stopping id
FORBID_ALL, FORBID_END = "all", "end"  # stopping ids that may not come below the least length


@flax.struct.dataclass
class DecodeState:
  """Where a batch of decodes stands. Shapes are fixed, so that one program serves all steps.

  Attributes:
    cache: keys and values; slot s of a row holds its position s.
    filled_B: int32, tokens in each row's cache: the next free slot.
    last_B: int32, id drawn last. It is not in the cache yet, unless it is a stopping id,
      which never goes there.
    tokens_BU: int32, ids emitted so far; zeros from `counts_B` on.
    counts_B: int32, how many were emitted.
    least_B, most_B: int32, no stopping below the one, stopped at the other.
    recent_BW: int32, the last W emitted ids, newest last; -1 before the first.
    ended_B: int32, RUNNING, or why the row is not.
    done_B: bool, the row is not running.
    keys_B: one key per request.
  """

  cache: Cache
  filled_B: jax.Array
  last_B: jax.Array
  tokens_BU: jax.Array
  counts_B: jax.Array
  least_B: jax.Array
  most_B: jax.Array
  recent_BW: jax.Array
  ended_B: jax.Array
  done_B: jax.Array
  keys_B: jax.Array


def prefill(
  model: TextSpeechLM,
  params: dict,
  ids_BL: jax.Array,
  kinds_BL: jax.Array,
  lengths_B: jax.Array,
  least_B: jax.Array,
  most_B: jax.Array,
  keys_B: jax.Array,
  *,
  capacity: int,
  sampler: Sampler | None = None,
  below_least: str = FORBID_ALL,
) -> DecodeState:
  """Runs the prompts and draws each row's first token.

  Args:
    model: with separate layers.
    params: of `model`.
    ids_BL, kinds_BL: int32 rows of `cosyjax.lm.sequence`, padded at the end.
    lengths_B: int32 valid positions. Rows of 0 fill the batch and stay idle.
    least_B, most_B: int32 speech tokens to produce.
    keys_B: typed keys, one per request.
    capacity: cache slots and length of the token buffer; at least prompt + most of every row.
    sampler: see `cosyjax.lm.sampling`; by default what the model's configuration asks for.
    below_least: FORBID_ALL, or FORBID_END for the released rule, which forbids id C alone.
  """
  config = model.config
  batch = ids_BL.shape[0]
  logits_BV, cache = model.apply({"params": params}, ids_BL, kinds_BL, lengths_B, method=model.prefill)
  ended_B = jnp.where(lengths_B == 0, IDLE, jnp.where(most_B <= 0, LENGTH, RUNNING)).astype(jnp.int32)
  zeros_B = jnp.zeros(batch, jnp.int32)
  state = DecodeState(
    cache=pad_cache(cache, capacity),
    filled_B=lengths_B.astype(jnp.int32),
    last_B=zeros_B,
    tokens_BU=jnp.zeros((batch, capacity), jnp.int32),
    counts_B=zeros_B,
    least_B=least_B.astype(jnp.int32),
    most_B=most_B.astype(jnp.int32),
    recent_BW=jnp.full((batch, config.repeat_window), -1, jnp.int32),
    ended_B=ended_B,
    done_B=ended_B != RUNNING,
    keys_B=keys_B,
  )
  return _take(config, state, logits_BV, sampler, below_least)


def decode_step(
  model: TextSpeechLM,
  params: dict,
  state: DecodeState,
  *,
  sampler: Sampler | None = None,
  below_least: str = FORBID_ALL,
) -> DecodeState:
  """Feeds every running row its last token and draws the next. Rows that are done stay as they are."""
  running_B = (~state.done_B).astype(jnp.int32)
  kinds_B1 = jnp.full((running_B.shape[0], 1), SPEECH, jnp.int32)
  logits_BV, cache = model.apply(
    {"params": params}, state.last_B[:, None], kinds_B1, running_B, state.filled_B, state.cache, method=model.step
  )
  state = state.replace(cache=cache, filled_B=state.filled_B + running_B)
  return _take(model.config, state, logits_BV, sampler, below_least)


def decode_steps(
  model: TextSpeechLM,
  params: dict,
  state: DecodeState,
  steps: int,
  *,
  sampler: Sampler | None = None,
  below_least: str = FORBID_ALL,
) -> DecodeState:
  """`steps` steps on the device; fewer if all rows are done. Jit it with `state` donated."""

  def step(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
    i, state = carry
    return i + 1, decode_step(model, params, state, sampler=sampler, below_least=below_least)

  def more(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
    return (carry[0] < steps) & ~jnp.all(carry[1].done_B)

  return jax.lax.while_loop(more, step, (jnp.int32(0), state))[1]


def extend(
  model: TextSpeechLM,
  params: dict,
  state: DecodeState,
  ids_BL: jax.Array,
  kinds_BL: jax.Array,
  lengths_B: jax.Array,
  *,
  sampler: Sampler | None = None,
  below_least: str = FORBID_ALL,
) -> DecodeState:
  """Appends given tokens to rows and draws each one's next token.

  A row whose last drawn id is speech that is not in the cache yet gets that id first. A row
  that a stopping id had ended runs again. Rows of length 0 stay as they are.

  Args:
    ids_BL, kinds_BL: int32 tokens to append, padded at the end.
    lengths_B: how many each row gets.
  """
  more_B = lengths_B > 0
  pending_B = (more_B & (state.last_B < model.config.speech_codes) & (state.counts_B > 0)).astype(jnp.int32)
  column = jnp.arange(ids_BL.shape[1] + 1)[None] + (1 - pending_B)[:, None]  # skips the first where nothing is pending
  pick = lambda first, rest: jnp.take_along_axis(jnp.c_[first, rest], column, axis=1, mode="clip")
  ids_BL = pick(state.last_B, ids_BL)
  kinds_BL = pick(jnp.full_like(state.last_B, SPEECH), kinds_BL)
  lengths_B = lengths_B + pending_B
  logits_BV, cache = model.apply(
    {"params": params}, ids_BL, kinds_BL, lengths_B, state.filled_B, state.cache, method=model.step
  )
  ended_B = jnp.where(state.counts_B < state.most_B, RUNNING, LENGTH)
  state = state.replace(
    cache=cache,
    filled_B=state.filled_B + lengths_B,
    ended_B=jnp.where(more_B, ended_B, state.ended_B),
    done_B=jnp.where(more_B, ended_B != RUNNING, state.done_B),
  )
  return _take(model.config, state, logits_BV, sampler, below_least, drawing_B=more_B)


def _take(
  config: LMConfig,
  state: DecodeState,
  logits_BV: jax.Array,
  sampler: Sampler | None,
  below_least: str,
  drawing_B: jax.Array | bool = True,
) -> DecodeState:
  """Draws one id for each running row of `drawing_B` and books it: emitted, or the row's end."""
  sampler = RepetitionAware.of(config) if sampler is None else sampler
  early_B1 = (state.counts_B < state.least_B)[:, None]
  which_J = jnp.array([True, below_least == FORBID_ALL, below_least == FORBID_ALL])
  logits_BV = forbid(logits_BV, early_B1 & which_J)
  drawn_B = sampler(logits_BV, state.recent_BW, state.keys_B, state.counts_B)

  takes_B = ~state.done_B & drawing_B
  emits_B = takes_B & (drawn_B < config.speech_codes)
  rows = jnp.arange(drawn_B.shape[0])
  slots_B = jnp.where(emits_B, state.counts_B, state.tokens_BU.shape[1])  # one past the end is dropped
  counts_B = state.counts_B + emits_B
  stopped_B = END + drawn_B - config.speech_codes
  ended_B = jnp.where(emits_B, jnp.where(counts_B >= state.most_B, LENGTH, RUNNING), stopped_B)
  ended_B = jnp.where(takes_B, ended_B, state.ended_B)
  return state.replace(
    last_B=jnp.where(takes_B, drawn_B, state.last_B),
    tokens_BU=state.tokens_BU.at[rows, slots_B].set(drawn_B, mode="drop"),
    counts_B=counts_B,
    recent_BW=jnp.where(emits_B[:, None], jnp.c_[state.recent_BW[:, 1:], drawn_B], state.recent_BW),
    ended_B=ended_B,
    done_B=ended_B != RUNNING,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
  """One row's result.

  Attributes:
    tokens_U: int32 speech ids.
    ended: "end" (a stopping id) or "length" (stopped at the most).
  """

  tokens_U: np.ndarray
  ended: str


def generate(
  model: TextSpeechLM,
  params: dict,
  rows: Sequence[tuple[np.ndarray, np.ndarray]],
  keys_B: jax.Array,
  least: Sequence[int],
  most: Sequence[int],
  *,
  sampler: Sampler | None = None,
  below_least: str = FORBID_ALL,
  steps: int = 16,
  batch: int | None = None,
  length: int | None = None,
  capacity: int | None = None,
) -> list[Decoded]:
  """Decodes rows to their ends, `steps` tokens per call to the device.

  Args:
    rows: (ids, kinds) of `cosyjax.lm.sequence`.
    keys_B: typed keys, one per row.
    least, most: speech tokens per row.
    batch, length, capacity: shapes to pad to (rows, prompt positions, cache slots); by default
      what the rows need. Each new combination is compiled once.

  Raises:
    TokenError: a row does not fit the shapes, is empty, or asks for less than no tokens.
  """
  padded = pad_rows(rows, length=length, batch=batch)
  size, width = padded.ids_BL.shape
  if not len(rows) == len(least) == len(most) == keys_B.shape[0]:
    raise TokenError(f"{len(rows)} rows, {keys_B.shape[0]} keys, {len(least)} least and {len(most)} most lengths")
  needed = max([width, *(len(ids) + m for (ids, _), m in zip(rows, most, strict=True))])
  capacity = needed if capacity is None else capacity
  if capacity < needed or min(padded.lengths_B[: len(rows)], default=1) < 1 or min([0, *least, *most]) < 0:
    raise TokenError(f"rows of 1 to {capacity} positions, prompt and most together, are possible; found {needed}")
  spare = size - len(rows)
  pad = lambda values: jnp.asarray([*values, *[0] * spare], jnp.int32)
  keys_B = jnp.concatenate([keys_B, jnp.broadcast_to(keys_B[:1], (spare,))]) if spare else keys_B
  state = _prefill_jit(
    model, params, padded.ids_BL, padded.kinds_BL, padded.lengths_B, pad(least), pad(most), keys_B,
    capacity=capacity, sampler=sampler, below_least=below_least,
  )  # fmt: skip
  while not np.all(state.done_B):
    state = _steps_jit(model, params, state, steps, sampler=sampler, below_least=below_least)
  tokens_BU, counts_B, ended_B = jax.device_get((state.tokens_BU, state.counts_B, state.ended_B))
  return [Decoded(tokens_BU[b, : counts_B[b]], ENDINGS[ended_B[b]]) for b in range(len(rows))]


_prefill_jit = jax.jit(prefill, static_argnames=("model", "capacity", "below_least"))
_steps_jit = jax.jit(decode_steps, static_argnames=("model", "steps", "below_least"), donate_argnames=("state",))
