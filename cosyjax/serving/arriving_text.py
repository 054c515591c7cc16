"""Text that clients send piece by piece, on its way to the engine."""

import asyncio
import collections
from collections.abc import AsyncIterator, Callable

from cosyjax.serving.problems import Problem

PIECE = 256  # characters handed on at once: the engine takes more only as it speaks
PAUSE = 0.05  # seconds between looks whether a slow reader has caught up


class ArrivingText:
  """An async iterator that is fed.

  Attributes:
    said: what has come so far.
    closed: whether the text is complete.
    hold: says whether more text has to wait, because its audio is not taken.
  """

  def __init__(self, most: int, patience: float) -> None:
    """
    Args:
      most: characters in all.
      patience: seconds without new text after which it counts as complete: nobody may keep a slot waiting.
    """
    self.said, self.closed = "", False
    self.hold: Callable[[], bool] = lambda: False
    self._most, self._patience = most, patience
    self._pieces: collections.deque[str] = collections.deque()
    self._changed = asyncio.Event()

  def push(self, piece: str) -> None:
    """Takes a piece, cut anywhere.

    Raises:
      Problem: the text becomes too long.
    """
    if len(self.said) + len(piece) > self._most:
      raise Problem(400, f"text: expected at most {self._most} characters in an utterance", "text_too_long", "text")
    self.said += piece
    self._pieces.extend(piece[i : i + PIECE] for i in range(0, len(piece), PIECE))
    self._changed.set()

  def close(self) -> None:
    """Ends the text: nothing follows."""
    self.closed = True
    self._changed.set()

  async def begun(self) -> bool:
    """Waits for the first words. Returns whether there are any."""
    while not self.said.strip() and not self.closed:
      await self._wait()
    return bool(self.said.strip())

  def __aiter__(self) -> AsyncIterator[str]:
    return self

  async def __anext__(self) -> str:
    while self.hold() and not self.closed:
      await asyncio.sleep(PAUSE)
    while not self._pieces:
      if self.closed:
        raise StopAsyncIteration
      await self._wait()
    return self._pieces.popleft()

  async def _wait(self) -> None:
    self._changed.clear()
    try:
      await asyncio.wait_for(self._changed.wait(), self._patience)
    except TimeoutError:
      self.closed = True
