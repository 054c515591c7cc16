"""A line of recordings before the device: one at a time, and only so many may wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cosyjax.serving.problems import Problem


class DeviceLine:
  """Runs what blocks on the device in a thread of its own."""

  def __init__(self, most: int, retry_after: int) -> None:
    """
    Args:
      most: calls that may be under way or wait.
      retry_after: seconds that a refused client is told to wait.
    """
    self._most, self._retry_after, self._waiting = most, retry_after, 0
    self._pool = ThreadPoolExecutor(1, "cosyjax-analysis")

  async def run(self, work: Callable[[], Any]) -> Any:
    """The result of `work`. A client who leaves does not make room: what has begun goes on.

    Raises:
      Problem: too many wait.
    """
    if self._waiting >= self._most:
      raise Problem(429, "many recordings wait to be analysed; try again later", "busy", None, self._retry_after)
    loop, future = asyncio.get_running_loop(), self._pool.submit(work)
    self._waiting += 1
    future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._done))
    return await asyncio.wrap_future(future)

  def later(self, work: Callable[[], Any]) -> None:
    """Runs `work` when its turn comes; nobody waits for it."""
    self._pool.submit(work)

  def _done(self) -> None:
    self._waiting -= 1

  def stop(self) -> None:
    """Ends the thread after what it is doing."""
    self._pool.shutdown(wait=False, cancel_futures=True)
