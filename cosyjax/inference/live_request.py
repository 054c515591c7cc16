"""A request while an engine serves it: its segments, their tokens, and what of them is due next (host side)."""

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from cosyjax.inference.chunk import Chunk
from cosyjax.inference.packets import Channel
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.text_source import Inbox
from cosyjax.lm.decode import RUNNING
from cosyjax.lm.interleave import GivenTokens, Interleaver, KnownText
from cosyjax.text.incremental import Fed

READ_AHEAD = 2  # segments behind the one that is spoken; more text than that has to wait


class LiveSegment:
  """One LM sequence and the chunks that come of it.

  Attributes:
    number: in its request; part of the key of everything drawn.
    layout: decides what the LM reads.
    tokens: speech ids so far.
    begun: the sequence is in the LM. `waiting`: it stands still until more text goes in. `done`: no
      more tokens will come.
    solved: tokens that have become audio.
  """

  def __init__(
    self, number: int, layout: KnownText | Interleaver, request: Request, schedule: Schedule, chunk: int, lookahead: int
  ) -> None:
    """Starts without text or tokens.

    Args:
      number, layout: see above.
      request: resolved.
      schedule: sizes of chunks.
      chunk: tokens in a block of the model's training mask, M.
      lookahead: tokens that the flow looks ahead.
    """
    self.number, self.layout, self._request, self._lookahead = number, layout, request, lookahead
    self.tokens: list[int] = []
    self.begun = self.waiting = self.done = False
    self.solved = self._chunk_number = 0
    self._limit = 0
    self._sizes = schedule.chunks(len(request.voice.tokens_U), chunk)
    self._size = next(self._sizes)
    self._texts: deque[tuple[int, str]] = deque()  # (text ids before it, text): not in the sequence yet
    self._given: deque[tuple[int, str]] = deque()  # (tokens there were when it went in, text): in no packet yet
    self._text_ids = 0

  # Text.

  def read(self, text: str, ids: int) -> None:
    """Notes that the sequence will be given `text`, so many ids of it."""
    self._texts.append((self._text_ids, text))
    self._text_ids += ids

  def push(self, fed: Fed) -> None:
    """Takes text that has arrived."""
    self.read(fed.text, len(fed.ids))
    self.layout.push(fed.ids)
    if fed.last:
      self.layout.close()

  def prefill(self) -> GivenTokens | None:
    """What the sequence begins with, once it can."""
    return self._going_in(self.layout.prefill())

  def next(self) -> GivenTokens | None:
    """What goes into a sequence that waits, once it can."""
    return self._going_in(self.layout.extend(len(self.tokens)))

  def _going_in(self, append: GivenTokens | None) -> GivenTokens | None:
    if append is not None:
      self.begun, self.waiting, self._limit = True, False, append.max_tokens
      while self._texts and self._texts[0][0] < self.layout.text_used:
        self._given.append((len(self.tokens), self._texts.popleft()[1]))
    return append

  def text_until(self, token: int) -> str:
    """Text given before `token`, as far as no packet has it yet."""
    found = []
    while self._given and self._given[0][0] < token:
      found.append(self._given.popleft()[1])
    return "".join(found)

  # Tokens.

  @property
  def running(self) -> bool:
    """The LM has a token to draw."""
    return self.begun and not self.waiting and not self.done

  @property
  def wanted(self) -> int:
    """Tokens that the next chunk still needs and the sequence can give before it stops; at least 1."""
    missing = self.solved + self._size + self._lookahead - len(self.tokens)
    return max(min(missing if missing > 0 else self._size, self._limit - len(self.tokens)), 1)

  def take(self, tokens: Sequence[int], ended: int) -> None:
    """Books new tokens, and whether the sequence has stopped (a code of `cosyjax.lm.decode`)."""
    self.tokens.extend(int(t) for t in tokens)
    if ended != RUNNING:
      self.done = self.layout.finished(ended)
      self.waiting = not self.done

  # Chunks.

  @property
  def due(self) -> bool:
    """Whether the tokens of the next chunk and those it looks ahead at are there."""
    have = len(self.tokens) - self.solved
    return have > 0 and (self.done or have >= self._size + self._lookahead)

  def chunk(self, slot: int) -> Chunk:
    """The chunk that is due."""
    have, first = len(self.tokens) - self.solved, self.solved
    count = min(have, self._size)
    tokens_U = np.asarray(self.tokens[first : first + count + self._lookahead], np.int32)
    last = self.done and count == have
    return Chunk(self._request, tokens_U, count, self.number, slot, first, self._chunk_number, last)

  def advance(self, chunk: Chunk) -> None:
    """Books a chunk as solved."""
    self.solved += chunk.count
    self._chunk_number += 1
    self._size = next(self._sizes)

  @property
  def finished(self) -> bool:
    """Nothing is left to decode or to solve."""
    return self.done and self.solved == len(self.tokens)


class LiveRequest:
  """One request while it is served.

  Attributes:
    request: resolved.
    segments: in order; the first is being solved, the first that is not done decoded.
    rate: samples a second.
    inbox: of text that arrives; None if all is known.
    new_segment: makes the next one, by its number, for text that arrives.
  """

  def __init__(
    self,
    request: Request,
    channel: Channel,
    rate: int,
    inbox: Inbox | None = None,
    new_segment: Callable[[int], LiveSegment] | None = None,
  ) -> None:
    self.request, self.channel, self.inbox, self.new_segment = request, channel, inbox, new_segment
    self.segments: deque[LiveSegment] = deque()
    self.slot, self.rate = -1, rate
    self.submitted = time.perf_counter()
    self.first_packet = 0.0
    self.samples = self.packets = self.read_segments = 0
    self.opened = -1  # number of the segment that flow and vocoder have begun
    self.text_ended = inbox is None

  @property
  def decoding(self) -> LiveSegment | None:
    """The segment whose tokens are drawn."""
    return next((s for s in self.segments if not s.done), None)

  def answer(self) -> GivenTokens | None:
    """What goes into the sequence that is decoded, if it waits and there is enough text."""
    segment = self.decoding
    return segment.next() if segment is not None and segment.waiting else None

  @property
  def due(self) -> bool:
    """Whether a chunk is due."""
    return bool(self.segments) and self.segments[0].due

  def chunk(self) -> Chunk:
    """The chunk that is due."""
    return self.segments[0].chunk(self.slot)

  @property
  def deadline(self) -> float:
    """When its listener runs out of audio; before all others while there is none."""
    return self.first_packet + self.samples / self.rate if self.packets else self.submitted - 1e9

  def take_text(self) -> bool:
    """Hands what has come in to the segments. Returns whether there was anything."""
    if self.text_ended or len(self.segments) > READ_AHEAD:
      return False
    items, closed = self.inbox.take()
    for item in items:
      if not self.segments or self.segments[-1].layout.closed:
        self.segments.append(self.new_segment(self.read_segments))
        self.read_segments += 1
      self.segments[-1].push(item)
    if closed:
      self.text_ended = True
      if self.segments and not self.segments[-1].layout.closed:
        self.segments[-1].layout.close()
    return bool(items) or closed
