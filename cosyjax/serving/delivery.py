"""One request's audio on its way to its reader: encoded as packets come, in an outbox of bounded size."""

import asyncio
import collections
import dataclasses
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

from cosyjax.errors import EngineError
from cosyjax.inference.packets import Packet
from cosyjax.serving.encoders import RATE, encoder
from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.settings import Limits
from cosyjax.serving.stretch import Stretch

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}][^\w\s]*|[^\s{_CJK}]+")  # a character of Chinese, Japanese or Korean counts as a word


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
  """Bytes for the wire.

  Attributes:
    data: encoded audio; may be empty where the encoder holds back.
    packet: what it was made from; None for the end of the stream.
  """

  data: bytes
  packet: Packet | None


class Budget:
  """Bytes of unread audio of all requests together."""

  def __init__(self, most: int) -> None:
    self.most, self.taken = most, 0

  @property
  def spent(self) -> bool:
    """Whether there is no room for another request's audio."""
    return self.taken >= self.most


class Delivery:
  """An asynchronous iterator of `Chunk`, for one reader.

  The engine is read by a task of its own, so that a slow reader holds neither the engine's slot nor
  anybody else: what has been made waits here, up to `limits.unread` bytes.

  Attributes:
    samples: so far.
    first_seconds: from the request to its first packet.
    outcome: "done", "cancelled" or "failed" once it has ended.
  """

  def __init__(
    self,
    stream: Any,
    name: str,
    *,
    limits: Limits,
    budget: Budget,
    pool: Executor,
    on_packet: Callable[[float, bool], None],
    on_end: Callable[["Delivery"], None],
    began: float,
    stretch: float = 1.0,
  ) -> None:
    """
    Args:
      stream: of the engine.
      name: of the format.
      limits, budget: how much may wait.
      pool: threads for encoders.
      on_packet: called with the seconds since the packet before (or the request), and whether it is the first.
      on_end: called once, when the outcome is known.
      began: `time.perf_counter()` of the request.
      stretch: pace beyond what the engine does.
    """
    self.format, self.samples, self.first_seconds, self.outcome = name, 0, 0.0, ""
    self.unread = 0
    self._stream, self._limits, self._budget, self._pool = stream, limits, budget, pool
    self._encoder, self._stretch = encoder(name), None if stretch == 1 else Stretch(stretch)
    self._resampler: Any = None  # of a model at another rate
    self._on_packet, self._on_end, self._last = on_packet, on_end, began
    self._chunks: collections.deque[Chunk] = collections.deque()
    self._changed = asyncio.Event()
    self._room = asyncio.Event()
    self._room.set()
    self._ended, self._error = False, None
    self._task = asyncio.create_task(self._pump(), name="cosyjax-delivery")

  # From the engine.

  async def _pump(self) -> None:
    try:
      async for packet in self._stream:
        now = time.perf_counter()
        self._on_packet(now - self._last, not self.first_seconds)
        self.first_seconds = self.first_seconds or now - self._last
        self._last = now
        if self._stretch is not None or packet.rate != RATE:
          samples_A = await asyncio.to_thread(self._for_the_wire, packet.samples_A, packet.rate, False)
          packet = dataclasses.replace(packet, samples_A=samples_A, start=self.seconds, rate=RATE)
        await self._put(Chunk(await self._encoded(packet.samples_A), packet))
      rest = self._for_the_wire(np.zeros(0, np.float32), RATE, True)
      await self._put(Chunk(await self._encoded(rest) + await self._encode(self._encoder.finish), None))
    except asyncio.CancelledError:
      self._close(EngineError("the server stopped while the request ran"))
    except Exception as error:
      self._close(error)
    self._close(None)

  def _for_the_wire(self, samples_A: np.ndarray, rate: int, last: bool) -> np.ndarray:
    """Samples at the wire's rate and the request's pace."""
    if self._resampler is None and rate != RATE:
      import soxr

      self._resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32")
    if self._resampler is not None:
      samples_A = self._resampler.resample_chunk(np.ascontiguousarray(samples_A), last=last)
    if self._stretch is None:
      return samples_A
    samples_A = self._stretch.push(samples_A)
    return np.concatenate([samples_A, self._stretch.finish()]) if last else samples_A

  async def _encoded(self, samples_A: np.ndarray) -> bytes:
    self.samples += len(samples_A)
    return await self._encode(self._encoder.push, samples_A)

  async def _encode(self, run: Callable[..., bytes], *args: Any) -> bytes:
    if not self._encoder.encodes:
      return run(*args)
    return await asyncio.get_running_loop().run_in_executor(self._pool, run, *args)

  async def _put(self, chunk: Chunk) -> None:
    while self.unread >= self._limits.unread:
      self._room.clear()
      await self._room.wait()
    self.unread += len(chunk.data)
    self._budget.taken += len(chunk.data)
    self._chunks.append(chunk)
    self._changed.set()

  # To the reader.

  async def first(self) -> None:
    """Waits until there is audio, or nothing will come.

    Raises:
      Problem: the request failed before its first packet.
    """
    while not self._chunks and not self._ended:
      await self._wait()
    if not self._chunks:
      self._raise()

  def __aiter__(self) -> AsyncIterator[Chunk]:
    return self

  async def __anext__(self) -> Chunk:
    while True:
      if self._chunks:
        chunk = self._chunks.popleft()
        self.unread -= len(chunk.data)
        self._budget.taken -= len(chunk.data)
        self._room.set()
        return chunk
      if self._ended:
        if self._error is not None and not self.outcome:
          self._raise()
        self._end("done")
        raise StopAsyncIteration
      await self._wait()

  async def _wait(self) -> None:
    self._changed.clear()
    await self._changed.wait()

  def _raise(self) -> None:
    error = self._error or Problem(500, "the request ended without any audio", "no_audio")
    self._end("failed")
    raise problem_of(error, retry_after=self._limits.retry_after) from error

  # Ends.

  def cancel(self) -> None:
    """Ends the request; its slot is free before the engine's next step. Does nothing once it has ended."""
    if not self.outcome:
      self._end("cancelled")
      self._close(None)
      self._stream.cancel()
      self._task.cancel()

  def fail(self, error: BaseException) -> None:
    """Ends the request with an error, once what was made before it has been taken."""
    if not self._ended:
      self._close(error)
      self._task.cancel()

  def _close(self, error: BaseException | None) -> None:
    """Nothing more will come. The first call counts."""
    if not self._ended:
      self._ended, self._error = True, error
      if error is not None:
        self._stream.cancel()
      self._changed.set()

  def _end(self, outcome: str) -> None:
    if self.outcome:
      return
    self.outcome = outcome
    self._budget.taken -= self.unread
    self.unread = 0
    self._chunks.clear()
    self._on_end(self)

  @property
  def seconds(self) -> float:
    """Audio so far."""
    return self.samples / RATE


def timed_words(packet: Packet) -> list[dict[str, Any]]:
  """Words of a packet with times in the stream, shared out by their length: approximate.

  The engine knows which text it had read when it made a stretch of audio, not where each word falls.
  """
  words = _WORD.findall(packet.text)
  total, at, found = sum(len(w) for w in words), packet.start, []
  for word in words:
    end = at + packet.seconds * len(word) / total
    found.append({"word": word, "start": round(at, 3), "end": round(end, 3)})
    at = end
  return found
