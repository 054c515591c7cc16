"""Decoding speech tokens: prefill, K steps per call on the device, and a host driver.

The state is a value of fixed shapes. A sequence is a request; it starts at its prefill, stops by
itself, and neither its slot nor its batch mates change its tokens. `decode_steps` runs many
steps without the host; `extend` appends tokens to running sequences (text that arrives later). What
is to be appended when is the business of `cosyjax.lm.interleave`.

A sequence pauses as it stops: at `max_tokens_B`, where the host may set a new one and append. A fill that
is due after M speech ids is just that, and takes no draw.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import LMConfig, SpeechVocab
from cosyjax.errors import TokenError
from cosyjax.lm.decode_state import (
  CLOSED,
  END,
  FILL,
  IDLE,
  KNOWN,
  LENGTH,
  OPEN,
  RUNNING,
  STOP,
  DecodeState,
  empty_state,
  grow,
  insert,
  new_state,
  release,
)
from cosyjax.lm.qwen2 import Cache, pad_cache
from cosyjax.lm.sampling import RepetitionAware, Sampler, forbid
from cosyjax.lm.sequence import SPEECH, pad_sequences
from cosyjax.lm.text_speech_lm import TextSpeechLM

ENDINGS = ("running", "end", "end", "end", "length", "idle")  # code -> word; known text ends at any stopping id

# Which special ids a rule forbids: all that cannot come where the sequence stands, or the end alone, as upstream does.
FORBID_ALL, FORBID_END = "all", "end"

__all__ = [
  "CLOSED",
  "END",
  "ENDINGS",
  "FILL",
  "FORBID_ALL",
  "FORBID_END",
  "IDLE",
  "KNOWN",
  "LENGTH",
  "OPEN",
  "RUNNING",
  "STOP",
  "DecodeState",
  "Decoded",
  "decode_step",
  "decode_steps",
  "empty_state",
  "extend",
  "generate",
  "grow",
  "insert",
  "prefill",
  "prefix_cache",
  "release",
]  # fmt: skip


def prefix_cache(
  model: TextSpeechLM, params: dict, ids_BL: jax.Array, token_types_BL: jax.Array, lengths_B: jax.Array
) -> Cache:
  """Keys and values of what many requests begin with, for `prefill`: a cache of L positions."""
  return model.apply({"params": params}, ids_BL, token_types_BL, lengths_B, method=model.prefill)[1]


def prefill(
  model: TextSpeechLM,
  params: dict,
  ids_BL: jax.Array,
  token_types_BL: jax.Array,
  lengths_B: jax.Array,
  min_tokens_B: jax.Array,
  max_tokens_B: jax.Array,
  keys_B: jax.Array,
  *,
  capacity: int,
  mode_B: jax.Array | None = None,
  prefix: Cache | None = None,
  starts_B: jax.Array | None = None,
  sampler: Sampler | None = None,
  below_min: str = FORBID_ALL,
  recent: int | None = None,
) -> DecodeState:
  """Runs the prompts and draws each sequence's first token.

  Args:
    model: with separate layers.
    params: of `model`.
    ids_BL, token_types_BL: int32 sequences of `cosyjax.lm.sequence`, padded at the end.
    lengths_B: int32 valid positions. Rows of 0 fill the batch and stay idle.
    min_tokens_B, max_tokens_B: int32 speech tokens to produce.
    keys_B: typed keys, one per request.
    capacity: cache positions and length of the token buffer; at least prompt and `max_tokens` of every sequence.
    mode_B: int32 KNOWN (default), OPEN or CLOSED.
    prefix: of `prefix_cache`; the sequences of this call follow it. At most `capacity` positions.
    starts_B: int32, how many positions of the prefix each sequence follows; all of them if None.
    sampler: see `cosyjax.lm.sampling`; the model configuration's by default.
    below_min: FORBID_ALL, or FORBID_END for the upstream rule, which forbids the end alone
      (below `min_tokens`, and as long as there is text to come).
    recent: emitted ids that the sampler can look back at; the configuration's window if None.
  """
  config = model.config
  if prefix is None:
    logits_BV, cache = model.apply({"params": params}, ids_BL, token_types_BL, lengths_B, method=model.prefill)
    starts_B = jnp.zeros_like(lengths_B)
  else:
    starts_B = jnp.full_like(lengths_B, prefix[0].v_BKSH.shape[2]) if starts_B is None else starts_B
    cache = pad_cache(prefix, min(prefix[0].v_BKSH.shape[2] + ids_BL.shape[1], capacity))
    logits_BV, cache = model.apply(
      {"params": params}, ids_BL, token_types_BL, lengths_B, starts_B, cache, method=model.step
    )
  ended_B = jnp.where(lengths_B == 0, IDLE, jnp.where(max_tokens_B <= 0, LENGTH, RUNNING)).astype(jnp.int32)
  state = new_state(config, pad_cache(cache, capacity), keys_B, recent)
  state = state.replace(
    filled_B=jnp.where(lengths_B == 0, 0, starts_B + lengths_B).astype(jnp.int32),
    min_tokens_B=min_tokens_B.astype(jnp.int32),
    max_tokens_B=max_tokens_B.astype(jnp.int32),
    mode_B=state.mode_B if mode_B is None else mode_B.astype(jnp.int32),
    ended_B=ended_B,
    done_B=ended_B != RUNNING,
  )
  return _take(config, state, logits_BV, sampler, below_min)


def decode_step(
  model: TextSpeechLM,
  params: dict,
  state: DecodeState,
  *,
  active_B: jax.Array | None = None,
  sampler: Sampler | None = None,
  below_min: str = FORBID_ALL,
) -> DecodeState:
  """Feeds every running sequence its last token and draws the next.

  Rows that are done, and sequences that are not active (bool; all are if None), stay as they are.
  """
  runs_B = _running(state, active_B)
  token_types_B1 = jnp.full((runs_B.shape[0], 1), SPEECH, jnp.int32)
  lengths_B = runs_B.astype(jnp.int32)
  logits_BV, cache = model.apply(
    {"params": params}, state.last_B[:, None], token_types_B1, lengths_B, state.filled_B, state.cache, method=model.step
  )
  state = state.replace(cache=cache, filled_B=state.filled_B + lengths_B)
  return _take(model.config, state, logits_BV, sampler, below_min, runs_B)


def decode_steps(
  model: TextSpeechLM,
  params: dict,
  state: DecodeState,
  steps: jax.Array | int,
  *,
  active_B: jax.Array | None = None,
  sampler: Sampler | None = None,
  below_min: str = FORBID_ALL,
) -> DecodeState:
  """`steps` steps on the device; fewer if no active sequence runs any more. Jit it with `state` donated.

  Args:
    steps: may be traced, so that one program serves all numbers.
    active_B: bool, see `decode_step`.
  """

  def step(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
    i, state = carry
    return i + 1, decode_step(model, params, state, active_B=active_B, sampler=sampler, below_min=below_min)

  def more(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
    return (carry[0] < steps) & jnp.any(_running(carry[1], active_B))

  return jax.lax.while_loop(more, step, (jnp.int32(0), state))[1]


def extend(
  model: TextSpeechLM,
  params: dict,
  state: DecodeState,
  ids_BL: jax.Array,
  token_types_BL: jax.Array,
  lengths_B: jax.Array,
  *,
  min_tokens_B: jax.Array | None = None,
  max_tokens_B: jax.Array | None = None,
  mode_B: jax.Array | None = None,
  sampler: Sampler | None = None,
  below_min: str = FORBID_ALL,
) -> DecodeState:
  """Appends given tokens to sequences and draws each one's next token.

  A sequence whose last drawn id is speech that is not in the cache yet gets that id first. A sequence
  that a stopping id or its `max_tokens` had ended runs again. Rows of length 0 stay as they are.

  Args:
    ids_BL, token_types_BL: int32 tokens to append, padded at the end.
    lengths_B: how many each sequence gets.
    min_tokens_B, max_tokens_B, mode_B: int32, new bounds and mode of the sequences that get tokens; unchanged if None.
  """
  more_B = lengths_B > 0
  pending_B = (more_B & (state.last_B < model.config.speech_vocab.codebook_size) & (state.counts_B > 0)).astype(
    jnp.int32
  )
  column = jnp.arange(ids_BL.shape[1] + 1)[None] + (1 - pending_B)[:, None]  # skips the first where nothing is pending
  pick = lambda first, rest: jnp.take_along_axis(jnp.c_[first, rest], column, axis=1, mode="clip")
  ids_BL = pick(state.last_B, ids_BL)
  token_types_BL = pick(jnp.full_like(state.last_B, SPEECH), token_types_BL)
  lengths_B = lengths_B + pending_B
  logits_BV, cache = model.apply(
    {"params": params}, ids_BL, token_types_BL, lengths_B, state.filled_B, state.cache, method=model.step
  )
  renew = lambda old_B, new_B: old_B if new_B is None else jnp.where(more_B, new_B.astype(jnp.int32), old_B)
  max_tokens_B = renew(state.max_tokens_B, max_tokens_B)
  ended_B = jnp.where(state.counts_B < max_tokens_B, RUNNING, LENGTH)
  state = state.replace(
    cache=cache,
    filled_B=state.filled_B + lengths_B,
    min_tokens_B=renew(state.min_tokens_B, min_tokens_B),
    max_tokens_B=max_tokens_B,
    mode_B=renew(state.mode_B, mode_B),
    ended_B=jnp.where(more_B, ended_B, state.ended_B),
    done_B=jnp.where(more_B, ended_B != RUNNING, state.done_B),
  )
  return _take(model.config, state, logits_BV, sampler, below_min, more_B)


def _running(state: DecodeState, active_B: jax.Array | None) -> jax.Array:
  return ~state.done_B if active_B is None else ~state.done_B & active_B


def _forbidden(vocab: SpeechVocab, state: DecodeState, below_min: str) -> jax.Array:
  """Which of the special ids each sequence may not draw: bool [B, J]."""
  places_1J = np.arange(vocab.special_rows)[None]
  early_B1, mode_B1 = (state.counts_B < state.min_tokens_B)[:, None], state.mode_B[:, None]
  if below_min != FORBID_ALL:
    return (early_B1 | (mode_B1 == OPEN)) & (places_1J == vocab.end)
  ends_BJ = jnp.where(mode_B1 == KNOWN, np.isin(places_1J, vocab.ends_known), np.isin(places_1J, vocab.ends_streamed))
  return jnp.where(mode_B1 == OPEN, places_1J != vocab.fill, early_B1 | ~ends_BJ)


def _endings(vocab: SpeechVocab) -> np.ndarray:
  """What a sequence that draws a special id is ended by: a code of `DecodeState.ended_B` for each place."""
  codes_J = np.full(vocab.special_rows, STOP, np.int32)
  codes_J[vocab.end], codes_J[vocab.fill] = END, FILL
  return codes_J


def _take(
  config: LMConfig,
  state: DecodeState,
  logits_BV: jax.Array,
  sampler: Sampler | None,
  below_min: str,
  drawing_B: jax.Array | bool = True,
) -> DecodeState:
  """Draws one id for each running sequence of `drawing_B` and books it: emitted, or the sequence's end."""
  sampler, vocab = RepetitionAware.of(config) if sampler is None else sampler, config.speech_vocab
  logits_BV = forbid(logits_BV, _forbidden(vocab, state, below_min))
  drawn_B = sampler(logits_BV, state.recent_BW, state.keys_B, state.draws_B)

  takes_B = ~state.done_B & drawing_B
  emits_B = takes_B & (drawn_B < vocab.codebook_size)
  each_B = jnp.arange(drawn_B.shape[0])
  slots_B = jnp.where(emits_B, state.counts_B, state.tokens_BU.shape[1])  # one past the end is dropped
  counts_B = state.counts_B + emits_B
  stopped_B = jnp.asarray(_endings(vocab))[jnp.maximum(drawn_B - vocab.codebook_size, 0)]
  ended_B = jnp.where(emits_B, jnp.where(counts_B >= state.max_tokens_B, LENGTH, RUNNING), stopped_B)
  ended_B = jnp.where(takes_B, ended_B, state.ended_B)
  return state.replace(
    last_B=jnp.where(takes_B, drawn_B, state.last_B),
    tokens_BU=state.tokens_BU.at[each_B, slots_B].set(drawn_B, mode="drop"),
    counts_B=counts_B,
    draws_B=state.draws_B + takes_B,
    recent_BW=jnp.where(emits_B[:, None], jnp.c_[state.recent_BW[:, 1:], drawn_B], state.recent_BW),
    ended_B=ended_B,
    done_B=ended_B != RUNNING,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
  """One sequence's result.

  Attributes:
    tokens_U: int32 speech ids.
    ended: "end" (a stopping id) or "length" (stopped at `max_tokens`).
  """

  tokens_U: np.ndarray
  ended: str


def generate(
  model: TextSpeechLM,
  params: dict,
  sequences: Sequence[tuple[np.ndarray, np.ndarray]],
  keys_B: jax.Array,
  min_tokens: Sequence[int],
  max_tokens: Sequence[int],
  *,
  sampler: Sampler | None = None,
  below_min: str = FORBID_ALL,
  steps: int = 16,
  batch: int | None = None,
  length: int | None = None,
  capacity: int | None = None,
) -> list[Decoded]:
  """Decodes sequences to their ends, `steps` tokens per call to the device.

  Args:
    sequences: (ids, token types) of `cosyjax.lm.sequence`.
    keys_B: typed keys, one per sequence.
    min_tokens, max_tokens: speech tokens per sequence.
    batch, length, capacity: shapes to pad to (sequences, prompt positions, cache positions); by default
      what the sequences need. Each new combination is compiled once.

  Raises:
    TokenError: a sequence does not fit the shapes, is empty, or its bounds are negative.
  """
  padded = pad_sequences(sequences, length=length, batch=batch)
  size, width = padded.ids_BL.shape
  if not len(sequences) == len(min_tokens) == len(max_tokens) == keys_B.shape[0]:
    found = f"{keys_B.shape[0]} keys, {len(min_tokens)} min_tokens and {len(max_tokens)} max_tokens"
    raise TokenError(f"{len(sequences)} sequences, {found}")
  needed = max([width, *(len(ids) + m for (ids, _), m in zip(sequences, max_tokens, strict=True))])
  capacity = needed if capacity is None else capacity
  if (
    capacity < needed
    or min(padded.lengths_B[: len(sequences)], default=1) < 1
    or min([0, *min_tokens, *max_tokens]) < 0
  ):
    raise TokenError(
      f"sequences of 1 to {capacity} positions, prompt and max_tokens together, are possible; found {needed}"
    )
  spare = size - len(sequences)
  pad = lambda values: jnp.asarray([*values, *[0] * spare], jnp.int32)
  keys_B = jnp.concatenate([keys_B, jnp.broadcast_to(keys_B[:1], (spare,))]) if spare else keys_B
  state = _prefill_jit(
    model, params, padded.ids_BL, padded.token_types_BL, padded.lengths_B, pad(min_tokens), pad(max_tokens), keys_B,
    capacity=capacity, sampler=sampler, below_min=below_min,
  )  # fmt: skip
  while not np.all(state.done_B):
    state = _steps_jit(model, params, state, steps, sampler=sampler, below_min=below_min)
  tokens_BU, counts_B, ended_B = jax.device_get((state.tokens_BU, state.counts_B, state.ended_B))
  return [Decoded(tokens_BU[b, : counts_B[b]], ENDINGS[ended_B[b]]) for b in range(len(sequences))]


_prefill_jit = jax.jit(prefill, static_argnames=("model", "capacity", "below_min"))
_steps_jit = jax.jit(decode_steps, static_argnames=("model", "below_min"), donate_argnames=("state",))
