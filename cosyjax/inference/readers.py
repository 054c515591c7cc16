"""Reads text that arrives, in a thread or a task of its own, and turns it into ids for the engine."""

import asyncio
import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable

from cosyjax.errors import ConfigError
from cosyjax.inference.packets import Channel
from cosyjax.inference.utterance import Inbox
from cosyjax.text.incremental import TextStream

PAUSE = 0.02  # seconds between looks whether a full inbox has room again


def read(
  text: Iterable[str | bytes] | AsyncIterable[str | bytes], stream: TextStream, inbox: Inbox, channel: Channel
) -> Callable[[], None]:
  """Prepares to read `text` into `inbox`; the function returned starts it.

  A request that ends early is noticed at the next piece: an iterable cannot be interrupted.

  Raises:
    ConfigError: not an iterable, or an async one outside a running event loop.
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
  if not isinstance(text, Iterable):
    raise ConfigError(f"text: expected a string or an iterable of pieces, found {type(text).__name__}")

  def run_thread() -> None:
    try:
      for piece in text:
        if channel.over:
          return
        inbox.put(stream.push(piece))
        while inbox.full and not channel.over:
          time.sleep(PAUSE)
      inbox.put(stream.close())
      inbox.close()
    except BaseException as error:
      inbox.close(error)

  return threading.Thread(target=run_thread, name="cosyjax-text", daemon=True).start
