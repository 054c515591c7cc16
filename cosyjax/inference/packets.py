"""What a caller holds of a running request: an iterator of packets, for threads and for asyncio."""

import asyncio
import collections
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Packet:
  """A stretch of audio, in order and without gaps.

  Attributes:
    number: from 0.
    samples_A: float32 in [-1, 1], mono.
    start: position of the first sample in the stream, seconds.
    text: text that was handed to the language model for this stretch and not told before, as
      it is read; the words themselves may fall a little earlier or later.
    made: seconds from the request to this packet.
    rate: Hz.
  """

  number: int
  samples_A: np.ndarray
  start: float
  text: str
  made: float
  rate: int

  @property
  def seconds(self) -> float:
    """Length of its audio."""
    return len(self.samples_A) / self.rate


class Channel:
  """Packets on their way from the engine to one caller.

  The engine holds the channel, the caller a `Stream`; the engine never holds a `Stream`, so
  that one which nobody reads any more is noticed (`Stream.__del__`).
  """

  def __init__(self, wake: Callable[[], None]) -> None:
    self.cancelled = False  # by the caller; the engine looks at it between steps
    self.ended = False
    self.error: BaseException | None = None
    self.keep: asyncio.Task | None = None  # the task that reads the text
    self._wake_engine = wake
    self._packets: collections.deque[Packet] = collections.deque()
    self._ready = threading.Condition()
    self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future]] = []

  # The engine's side.

  def put(self, packet: Packet) -> None:
    """Append a packet for the caller to take."""
    self._change(lambda: self._packets.append(packet))

  def end(self, error: BaseException | None = None) -> None:
    """Nothing follows; `error` is raised once the packets before it have been taken."""

    def mark() -> None:
      self.ended, self.error = True, error

    self._change(mark)

  def _change(self, change: Callable[[], None]) -> None:
    with self._ready:
      change()
      self._ready.notify_all()
      waiting, self._waiting = self._waiting, []
    for loop, future in waiting:
      with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(_set, future)

  @property
  def over(self) -> bool:
    """Whether nobody will use more text."""
    return self.ended or self.cancelled

  # The caller's side.

  def cancel(self) -> None:
    """Mark the stream as one whose packets nobody takes any more."""
    with self._ready:
      if self.ended or self.cancelled:
        return
      self.cancelled = True
      self._packets.clear()
    self._change(lambda: None)
    self._wake_engine()

  def take(self) -> Packet | None:
    """The next packet, waiting for it; None at the end."""
    with self._ready:
      self._ready.wait_for(lambda: self._packets or self.ended or self.cancelled)
      return self._next()

  async def take_async(self) -> Packet | None:
    """Wait for the next packet without blocking the event loop; None at the end."""
    while True:
      with self._ready:
        if self._packets or self.ended or self.cancelled:
          return self._next()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((loop, future))
      await future

  def _next(self) -> Packet | None:
    if self._packets:
      return self._packets.popleft()
    if self.error is not None and not self.cancelled:
      raise self.error
    return None


def _set(future: asyncio.Future) -> None:
  if not future.done():
    future.set_result(None)


class Stream:
  """One request's audio as it is made: iterate over it, in a thread or with `async for`.

  Dropping it, leaving its `with` block and `cancel` all end the request: its slot is free
  before the engine's next step. An error of the request is raised where its next packet
  would have been.
  """

  def __init__(self, channel: Channel) -> None:
    self._channel = channel

  def __iter__(self) -> Iterator[Packet]:
    return self

  def __next__(self) -> Packet:
    packet = self._channel.take()
    if packet is None:
      raise StopIteration
    return packet

  def __aiter__(self) -> AsyncIterator[Packet]:
    return self

  async def __anext__(self) -> Packet:
    packet = await self._channel.take_async()
    if packet is None:
      raise StopAsyncIteration
    return packet

  def cancel(self) -> None:
    """Ends the request; packets not taken yet are dropped. Does nothing once it has ended."""
    self._channel.cancel()

  def __enter__(self) -> "Stream":
    return self

  def __exit__(self, *_: object) -> None:
    self.cancel()

  def __del__(self) -> None:
    self._channel.cancel()
