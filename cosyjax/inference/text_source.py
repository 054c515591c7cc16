"""Reads text that arrives, in a thread or a task of its own, and turns it into ids for the engine."""

import asyncio
import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from cosyjax.errors import ConfigError, TextError
from cosyjax.inference.packets import Channel
from cosyjax.text.incremental import Fed, TextStream

PAUSE = 0.02  # seconds between looks whether a full inbox has room again
MOST_WAITING = 256  # pieces of text that wait for the engine before their source has to


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
    """Whether whoever reads should wait."""
    return len(self._items) >= MOST_WAITING

  def put(self, items: Sequence[Fed]) -> None:
    """More text ids."""
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


def whole_text(text: Any) -> str:
  """A text known as a whole: a string, or bytes in UTF-8.

  Raises:
    TextError: the bytes are not UTF-8.
    ConfigError: anything else.
  """
  if isinstance(text, str):
    return text
  if not isinstance(text, (bytes, bytearray)):
    raise ConfigError(f"text: expected a string or UTF-8 bytes, found {type(text).__name__}")
  try:
    return bytes(text).decode("utf-8")
  except UnicodeDecodeError as error:
    raise TextError(f"text: byte {error.start} is not UTF-8 ({error.reason}); expected text in UTF-8") from None


def read(
  text: Iterable[str | bytes | None] | AsyncIterable[str | bytes | None],
  stream: TextStream,
  inbox: Inbox,
  channel: Channel,
) -> Callable[[], None]:
  """Prepares to read `text` into `inbox`; the function returned starts it.

  A piece that is None is skipped. A request that ends early is noticed at the next piece: an
  iterable cannot be interrupted.

  Raises:
    ConfigError: not an iterable, one without an order (a set, a dict), or an async one outside a
      running event loop.
  """
  if isinstance(text, AsyncIterable):
    try:
      loop = asyncio.get_running_loop()
    except RuntimeError:
      raise ConfigError(
        "text from an async iterable needs a running event loop; call stream inside a coroutine"
      ) from None

    async def run() -> None:
      try:
        async for piece in text:
          if channel.over:
            return
          if piece is None:
            continue
          inbox.put(stream.push(piece))
          while inbox.full and not channel.over:
            await asyncio.sleep(PAUSE)
        inbox.put(stream.close())
        inbox.close()
      except BaseException as error:
        inbox.close(error)
        if isinstance(error, asyncio.CancelledError):
          raise

    def start() -> None:
      task = loop.create_task(run(), name="cosyjax-text")
      channel.keep = task  # the loop holds tasks weakly

    return start
  if not isinstance(text, Iterable) or isinstance(text, (Mapping, Set)):
    raise ConfigError(f"text: expected a string or an iterable of pieces, found {type(text).__name__}")

  def run_thread() -> None:
    try:
      for piece in text:
        if channel.over:
          return
        if piece is None:
          continue
        inbox.put(stream.push(piece))
        while inbox.full and not channel.over:
          time.sleep(PAUSE)
      inbox.put(stream.close())
      inbox.close()
    except BaseException as error:
      inbox.close(error)

  return threading.Thread(target=run_thread, name="cosyjax-text", daemon=True).start
