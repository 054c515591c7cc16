"""What goes into a sequence next: of text that is known, and of text ids as they arrive (paper 2.3 and Fig. 2).

Text that is known goes in at once (`KnownText`). Text that arrives takes turns with speech
(`Interleaver`): a sequence opens with groups of N text ids and M prompt speech ids. Then it speaks until it
draws a fill, or until M speech ids have followed the last group, when a fill is due; both are answered by
the next N text ids. When the text has ended and fewer than N ids are left, they go in with the turn,
and the sequence speaks to its end. A group goes in as a whole or not at all, and only when the sequence
has stopped for it: so the sequence does not depend on how the text was cut, nor on when it came.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import LMConfig
from cosyjax.errors import TextError, TokenError
from cosyjax.lm import decode, sequence
from cosyjax.lm.decode import CLOSED, END, FILL, KNOWN, LENGTH, OPEN, STOP
from cosyjax.lm.qwen2 import Cache
from cosyjax.lm.sampling import Sampler
from cosyjax.lm.sequence import Ids
from cosyjax.lm.text_speech_lm import TextSpeechLM


@dataclasses.dataclass(frozen=True, eq=False)
class GivenTokens:
  """Tokens to run through a sequence before it draws again, and the bounds it then has.

  Attributes:
    ids_L, token_types_L: int32, at least one.
    min_tokens: speech ids of the whole sequence below which it may not end.
    max_tokens: speech ids of the whole sequence at which it stops, or pauses for more text.
    mode: KNOWN, OPEN or CLOSED of `cosyjax.lm.decode`.
    prefix: how many of the first ids are in the prompt's cached prefix; less than all, as the
      last one has to run.
  """

  ids_L: np.ndarray
  token_types_L: np.ndarray
  min_tokens: int
  max_tokens: int
  mode: int
  prefix: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class KnownText:
  """A text that is known as a whole (uni-stream layout): the answers of an `Interleaver`, at once.

  Attributes:
    config: of the LM.
    prompt_text: text ids before the new text: a prompt's transcript, or an instruction.
    text: new ids.
    prompt_speech_U: speech ids of the transcript, which the sequence continues; none otherwise.
    min_tokens, max_tokens: bounds of its speech ids.
  """

  config: LMConfig
  prompt_text: Sequence[int]
  text: Sequence[int]
  prompt_speech_U: np.ndarray
  min_tokens: int
  max_tokens: int
  closed = True

  @classmethod
  def of(cls, config: LMConfig, prompt_text: Ids, text: Ids, prompt_speech_U: np.ndarray) -> "KnownText":
    """With the bounds of the configuration."""
    bounds = (int(len(text) * ratio) for ratio in (config.min_tokens_per_text, config.max_tokens_per_text))
    return cls(config, prompt_text, text, prompt_speech_U, *bounds)

  @property
  def text_used(self) -> int:
    """New text ids that are in the sequence."""
    return len(self.text)

  @property
  def prefix(self) -> tuple[np.ndarray, np.ndarray]:
    """What depends on the prompt alone: start and transcript, or start and instruction."""
    return sequence.known_text_prefix(self.prompt_text, config=self.config)

  def prefill(self) -> GivenTokens:
    """Everything that the sequence reads."""
    tokens = sequence.known_text_sequence(self.prompt_text, self.text, self.prompt_speech_U, config=self.config)
    return GivenTokens(*tokens, self.min_tokens, self.max_tokens, KNOWN, prefix=len(self.prefix[0]))

  def extend(self, emitted: int) -> None:
    """Nothing follows."""

  def finished(self, ended: int) -> bool:
    """A sequence that does not run is at its end."""
    return True


class Interleaver:
  """State of one streamed request's text: which ids have come, which are in the sequence, what goes in next.

  Attributes:
    prefix: (ids, token types) that every sequence of the prompt begins with: the start, and the groups whose
      text is all of the prompt.
    closed: the text has ended.
    new_text: ids that were pushed. A request that is closed at 0 has nothing to say and is never prefilled.
    placed: positions handed out so far; the sequence holds them and the speech ids it emitted.
  """

  def __init__(self, config: LMConfig, prompt_text: Ids = (), prompt_speech: Ids = ()) -> None:
    """Starts a sequence without text.

    Args:
      config: N, M and the bounds per text id.
      prompt_text: text ids before the new text: a prompt's transcript, or an instruction.
      prompt_speech: speech ids of the transcript, which the sequence continues; none otherwise.

    Raises:
      TokenError: an id outside its vocabulary, or speech without a transcript.
    """
    self._config = config
    self._waiting = sequence.checked("transcript", prompt_text, config.text_vocab, some=False)
    self._speech = sequence.checked("prompt speech", prompt_speech, config.speech_vocab.codebook_size, some=False)
    if len(self._speech) and not len(self._waiting):
      raise TokenError("prompt speech ids need the text ids of their transcript, found none")
    self._until_fill = sequence.speech_until_fill(len(self._speech), config)
    self.prefix, _, _ = sequence.interleave(self._waiting, self._speech, config)
    self._mode: int | None = None  # of the last given tokens
    self.closed, self.new_text, self.placed = False, 0, 0

  @property
  def text_used(self) -> int:
    """New text ids that are in the sequence."""
    return max(self.new_text - len(self._waiting), 0)

  def push(self, ids: Ids) -> None:
    """More text ids, any number.

    Raises:
      TokenError: the text had been closed, or an id is outside the vocabulary.
    """
    ids = sequence.checked("text", ids, self._config.text_vocab, some=False)
    if self.closed:
      raise TokenError("text ids after the end of the text")
    self._waiting = np.concatenate([self._waiting, ids])
    self.new_text += len(ids)

  def close(self) -> None:
    """No more text will come."""
    self.closed = True

  def prefill(self) -> GivenTokens | None:
    """What the sequence begins with, or None as long as there is too little text.

    There is enough when all the prompt's speech, or without a prompt one group of text, can be
    placed, or when the text has ended. Text that ends before leaves the speech behind the turn, as
    in a sequence of known text.

    Raises:
      TokenError: the sequence has been prefilled.
    """
    if self._mode is not None:
      raise TokenError("a sequence is prefilled once")
    opening, used_text, used_speech = sequence.interleave(self._waiting, self._speech, self._config)
    enough = used_text > 0 and used_speech == len(self._speech)
    if not self.new_text or not (enough or self.closed):
      return None
    self._waiting, self._speech = self._waiting[used_text:], self._speech[used_speech:]
    if enough:
      return self._given(opening, OPEN, self._until_fill)
    return self._close(opening)

  def extend(self, emitted: int) -> GivenTokens | None:
    """What follows in a sequence that has stopped for text, or None as long as there is too little text.

    Args:
      emitted: speech ids of the sequence so far.

    Raises:
      TokenError: the sequence has not been prefilled, or has all its text.
    """
    if self._mode != OPEN:
      raise TokenError("a sequence that has not been prefilled, or whose text has ended, takes no more text")
    n = self._config.mix_text
    if len(self._waiting) >= n:
      group, self._waiting = self._waiting[:n], self._waiting[n:]
      return self._given(sequence.text_tokens(group), OPEN, emitted + self._config.mix_speech)
    return self._close() if self.closed else None

  def finished(self, ended: int) -> bool:
    """Whether a sequence that does not run is at its end (True) or pauses for `extend` (False).

    Args:
      ended: its code in `DecodeState.ended_B`.

    Raises:
      TokenError: the sequence drew a stopping id that cannot come where it stands: the end before
        the text has ended, a fill afterwards, or another ever. Under FORBID_ALL none of them is drawn.
    """
    if ended in {OPEN: (FILL, LENGTH), CLOSED: (END, LENGTH)}.get(self._mode, ()):
      return self._mode == CLOSED
    what = {END: "the end", STOP: "the stop id", FILL: "a fill"}.get(ended, f"ending {ended}")
    raise TokenError(f"streamed text {'that has ended' if self._mode == CLOSED else 'still open'}: drew {what}")

  def _close(self, before: tuple[np.ndarray, np.ndarray] | None = None) -> GivenTokens:
    closing = sequence.closing_tokens(self._waiting, self._speech, config=self._config)
    self._waiting, self._speech = self._waiting[:0], self._speech[:0]
    tokens = closing if before is None else tuple(np.concatenate(pair) for pair in zip(before, closing, strict=True))
    return self._given(tokens, CLOSED, int(self._config.max_tokens_per_text * self.new_text))

  def _given(self, tokens: tuple[np.ndarray, np.ndarray], mode: int, max_tokens: int) -> GivenTokens:
    min_tokens = int(self._config.min_tokens_per_text * self.new_text) if mode == CLOSED else 0
    prefix = min(len(self.prefix[0]), len(tokens[0]) - 1) if self._mode is None else 0
    self._mode = mode
    self.placed += len(tokens[0])
    return GivenTokens(*tokens, min_tokens, max_tokens, mode, prefix)


def stream_tokens(
  model: TextSpeechLM,
  params: dict,
  layout: Interleaver,
  pieces: Iterable[Ids],
  key: jax.Array,
  *,
  prefix: Cache | None = None,
  sampler: Sampler | None = None,
  below_min: str = decode.FORBID_ALL,
  steps: int = 16,
) -> Iterator[int]:
  """Speech ids of one streamed request, as they are drawn.

  Args:
    layout: of the prompt; nothing pushed yet.
    pieces: text ids as they arrive. The next piece is taken when the sequence cannot go on without.
    key: of the request.
    prefix: `prefix_cache` of `layout.prefix`, batch of one.
    sampler, below_min: as for `cosyjax.lm.decode.prefill`.
    steps: ids per call to the device.

  Raises:
    TextError: there was no text at all.
    TokenError: an id outside its vocabulary, or drawn where it cannot be; see `Interleaver.finished`.
  """
  pieces, state, read = iter(pieces), None, 0
  rule = {"sampler": sampler, "below_min": below_min}
  while True:
    given = layout.prefill() if state is None else layout.extend(read)
    if given is None:
      if layout.closed:
        raise TextError("streamed text: it ended without any text id")
      piece = next(pieces, None)
      layout.close() if piece is None else layout.push(piece)
      continue
    capacity = _fit(layout.placed + given.max_tokens, 128)
    bounds = [jnp.array([value], jnp.int32) for value in (given.min_tokens, given.max_tokens, given.mode)]
    if state is None:
      start = 0 if prefix is None else given.prefix
      padded = _padded(given, start, capacity)
      before = {} if prefix is None else {"prefix": prefix, "starts_B": jnp.array([start], jnp.int32)}
      keys_B = key[None]
      state = _prefill(
        model, params, *padded, *bounds[:2], keys_B, mode_B=bounds[2], capacity=capacity, **before, **rule
      )
    else:
      if capacity > state.capacity:
        state = decode.grow(state, capacity)
      min_tokens_B, max_tokens_B, mode_B = bounds
      new = {"min_tokens_B": min_tokens_B, "max_tokens_B": max_tokens_B, "mode_B": mode_B}
      state = _extend(model, params, state, *_padded(given, 0, capacity), **new, **rule)
    while True:
      counts, ended = (int(x[0]) for x in jax.device_get((state.counts_B, state.ended_B)))
      yield from np.asarray(state.tokens_BU[0, read:counts]).tolist()
      read = counts
      if ended != decode.RUNNING:
        break
      state = _steps(model, params, state, steps, **rule)
    if layout.finished(ended):
      return


def _padded(given: GivenTokens, start: int, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ids from `start` on as a batch of one, in few different lengths."""
  length = min(_fit(len(given.ids_L) - start, 8), capacity)
  padded = sequence.pad_sequences([(given.ids_L[start:], given.token_types_L[start:])], length=length)
  return padded.ids_BL, padded.token_types_BL, padded.lengths_B


def _fit(size: int, unit: int) -> int:
  """`size` rounded up to `unit` times a power of two."""
  return unit << max(-(-size // unit) - 1, 0).bit_length()


_STATIC = ("model", "below_min")
_prefill = jax.jit(decode.prefill, static_argnames=(*_STATIC, "capacity"))
_extend = jax.jit(decode.extend, static_argnames=_STATIC, donate_argnames=("state",))
_steps = jax.jit(decode.decode_steps, static_argnames=_STATIC, donate_argnames=("state",))
