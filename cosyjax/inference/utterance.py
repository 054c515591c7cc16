"""Host-side books of a request: its text, its tokens, and what of them is due next."""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cosyjax.config import LMConfig
from cosyjax.inference.schedule import Schedule
from cosyjax.lm import sequence
from cosyjax.lm.decode import KNOWN, RUNNING
from cosyjax.lm.interleave import Append
from cosyjax.text.incremental import Fed

MOST_WAITING = 256  # pieces of text that wait for the engine before their source has to


class Row(Protocol):
  """What goes into an utterance's LM row, and when; `cosyjax.lm.interleave.Interleaver` is one."""

  closed: bool
  text_used: int  # new text ids that are in the LM row

  def opening(self) -> Append | None: ...
  def next(self, emitted: int) -> Append | None: ...
  def finished(self, ended: int) -> bool: ...
  def push(self, ids: Sequence[int]) -> None: ...
  def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, eq=False)
class KnownText:
  """The row of a text that is known as a whole (uni-stream layout): everything goes in at once."""

  config: LMConfig
  prompt_text: Sequence[int]
  text: Sequence[int]
  prompt_speech_U: np.ndarray
  min_tokens: int
  max_tokens: int
  closed = True

  @property
  def text_used(self) -> int:
    return len(self.text)

  @property
  def prefix(self) -> tuple[np.ndarray, np.ndarray]:
    """What depends on the voice alone: start and transcript, or start and instruction."""
    return sequence.known_text_prefix(self.prompt_text, config=self.config)

  def opening(self) -> Append:
    ids_L, token_types_L = sequence.known_text_row(
      self.prompt_text, self.text, self.prompt_speech_U, config=self.config
    )
    return Append(ids_L, token_types_L, self.min_tokens, self.max_tokens, KNOWN, prefix=len(self.prefix[0]))

  def next(self, emitted: int) -> None:
    return None

  def finished(self, ended: int) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Hop:
  """What the flow is to solve next of an utterance.

  Attributes:
    first: new tokens that were solved before.
    count: new tokens to solve.
    ahead: tokens after them that are known and only looked at.
    number: of the hop, from 0.
    last: the utterance ends with this hop.
  """

  first: int
  count: int
  ahead: int
  number: int
  last: bool


class Utterance:
  """One LM row and the audio that comes of it.

  Attributes:
    number: in its request; part of the key of everything drawn.
    row: decides what the LM reads.
    tokens: speech ids so far.
    begun: the row is in the LM. `waiting`: it stands still until more text goes in. `done`: no
      more tokens will come.
    solved: tokens that the flow has turned into mel.
  """

  def __init__(self, number: int, row: Row, schedule: Schedule, prompt: int, chunk: int, lookahead: int) -> None:
    self.number, self.row = number, row
    self.tokens: list[int] = []
    self.begun = self.waiting = self.done = False
    self.solved = self.hop_number = 0
    self._limit = 0
    self._released, self._lookahead = schedule.released, lookahead
    self._hops = schedule.hops(prompt, chunk)
    self._size = next(self._hops)
    self._texts: deque[tuple[int, str]] = deque()  # (text ids before it, text): not in the row yet
    self._told: deque[tuple[int, str]] = deque()  # (tokens there were when it went in, text)
    self._text_ids = 0

  # Text.

  def read(self, text: str, ids: int) -> None:
    """Notes that the row will be given `text`, so many ids of it."""
    self._texts.append((self._text_ids, text))
    self._text_ids += ids

  def push(self, fed: Fed) -> None:
    """Takes text that has arrived."""
    self.read(fed.text, len(fed.ids))
    self.row.push(fed.ids)
    if fed.last:
      self.row.close()

  def opening(self) -> Append | None:
    """What the LM row begins with, once it can."""
    return self._going_in(self.row.opening())

  def next(self) -> Append | None:
    """What goes into a row that waits, once it can."""
    return self._going_in(self.row.next(len(self.tokens)))

  def _going_in(self, append: Append | None) -> Append | None:
    if append is not None:
      self.begun, self.waiting, self._limit = True, False, append.max_tokens
      while self._texts and self._texts[0][0] < self.row.text_used:
        self._told.append((len(self.tokens), self._texts.popleft()[1]))
    return append

  def text_until(self, token: int) -> str:
    """Text given before `token`, as far as it has not been told yet."""
    found = []
    while self._told and self._told[0][0] < token:
      found.append(self._told.popleft()[1])
    return "".join(found)

  # Tokens.

  @property
  def running(self) -> bool:
    """The LM has a token to draw."""
    return self.begun and not self.waiting and not self.done

  @property
  def wanted(self) -> int:
    """Tokens that the next hop still needs and the row can give before it stops; at least 1."""
    missing = self.solved + self._size + self._lookahead - len(self.tokens)
    return max(min(missing if missing > 0 else self._size, self._limit - len(self.tokens)), 1)

  def take(self, tokens: Sequence[int], ended: int) -> None:
    """Books new tokens, and whether the row has stopped (a code of `cosyjax.lm.decode`)."""
    self.tokens.extend(int(t) for t in tokens)
    if ended != RUNNING:
      self.done = self.row.finished(ended)
      self.waiting = not self.done

  # Hops.

  def due(self) -> Hop | None:
    """The next hop, if its tokens and those it looks ahead at are there."""
    have = len(self.tokens) - self.solved
    enough = have >= self._size + self._lookahead
    if not have or not (self.done or enough):
      return None
    # The released code takes all that is left at once when a whole hop and its look-ahead are not.
    count = have if self._released and not enough else min(have, self._size)
    ahead = min(self._lookahead, have - count)
    return Hop(self.solved, count, ahead, self.hop_number, last=self.done and count == have)

  def advance(self, hop: Hop) -> None:
    """Books a hop as solved."""
    self.solved += hop.count
    self.hop_number += 1
    self._size = next(self._hops)

  @property
  def finished(self) -> bool:
    """Nothing is left to decode or to solve."""
    return self.done and self.solved == len(self.tokens)


class Inbox:
  """Text ids on their way from whoever reads the text to the engine.

  Whoever reads looks at `full` before the next piece, so that a source without end waits for
  its listener.
  """

  def __init__(self, wake: Callable[[], None]) -> None:
    self._wake = wake
    self._lock = threading.Lock()
    self._items: list[Fed] = []
    self._closed = False
    self._error: BaseException | None = None

  @property
  def full(self) -> bool:
    return len(self._items) >= MOST_WAITING

  def put(self, items: Sequence[Fed]) -> None:
    with self._lock:
      self._items.extend(items)
    if items:
      self._wake()

  def close(self, error: BaseException | None = None) -> None:
    """Nothing follows; `error` says why, if that is not the text's end."""
    with self._lock:
      self._closed, self._error = True, error
    self._wake()

  def take(self) -> tuple[list[Fed], bool]:
    """What has come in, and whether nothing will follow.

    Raises:
      Exception: the text cannot be spoken, or whatever its iterable raised.
    """
    with self._lock:
      if self._error is not None:
        raise self._error
      items, self._items = self._items, []
      return items, self._closed
