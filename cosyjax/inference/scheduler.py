"""The scheduler: its thread admits, feeds, solves, decodes and delivers, one step after the other.

Only this thread touches the device state. A step never waits for text or for a caller. What
raises is told to the requests concerned and to no other: a group that fails is tried again
request by request.
"""

import atexit
import concurrent.futures
import dataclasses
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from cosyjax.errors import BusyError, EngineError
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.live_request import LiveRequest
from cosyjax.inference.packets import Packet
from cosyjax.inference.slots import DeviceSlots

log = logging.getLogger("cosyjax.inference")


@dataclasses.dataclass(frozen=True)
class Stats:
  """Counts since the engine was made: `submitted` = `done` + `cancelled` + `failed` + `running` + `waiting`."""

  submitted: int
  done: int
  cancelled: int
  failed: int
  running: int
  waiting: int
  free_slots: int


def _close(scheduler: "weakref.ref[Scheduler]") -> None:
  if (found := scheduler()) is not None:
    found.close()


class Scheduler:
  """Queue, slots and thread."""

  def __init__(self, slots: DeviceSlots, queue: int) -> None:
    self._slots, self._queue_size = slots, queue
    self._queue: deque[LiveRequest] = deque()
    self._calls: deque[tuple[Callable[[int], Any], concurrent.futures.Future]] = deque()
    self._live: list[LiveRequest] = []
    self._free = list(range(slots.count))
    self._counts = dict.fromkeys(("submitted", "done", "cancelled", "failed"), 0)
    self._changed = threading.Condition()
    self._woken = self._closed = False
    self._thread: threading.Thread | None = None

  # For other threads.

  @property
  def alive(self) -> bool:
    """Whether requests are taken: not closed, and the thread has not died."""
    return not self._closed and (self._thread is None or self._thread.is_alive())

  def check_room(self) -> None:
    """Raises BusyError or EngineError if a request could not be taken now."""
    with self._changed:
      self._check_room()

  def _check_room(self) -> None:
    if self._closed:
      raise EngineError("the engine is closed")
    if len(self._queue) >= self._queue_size + len(self._free):
      taken = f"{self._slots.count} slots are taken and {len(self._queue)} requests wait"
      raise BusyError(f"{taken}, as many as may; try again later, or give the engine more slots or a longer queue")

  def submit(self, live: LiveRequest) -> None:
    """Append a request to the queue; errors are those of `check_room`."""
    with self._changed:
      self._check_room()
      self._counts["submitted"] += 1
      self._queue.append(live)
      self._start()
    self.wake()

  def call(self, work: Callable[[int], Any]) -> Any:
    """Runs `work(slot)` in the engine's thread once a slot is free, and returns its result."""
    future: concurrent.futures.Future = concurrent.futures.Future()
    with self._changed:
      if self._closed:
        raise EngineError("the engine is closed")
      self._calls.append((work, future))
      self._start()
    self.wake()
    return future.result()

  def wake(self) -> None:
    """Make the thread look through its requests once more."""
    with self._changed:
      self._woken = True
      self._changed.notify_all()

  def stats(self) -> Stats:
    """Counts of requests so far, and what is running, waiting and free now."""
    with self._changed:
      return Stats(**self._counts, running=len(self._live), waiting=len(self._queue), free_slots=len(self._free))

  def close(self, wait: bool = True) -> None:
    """Ends the thread after its present step; requests that still run or wait fail."""
    with self._changed:
      self._closed = True
      thread = self._thread
    self.wake()
    if wait and thread is not None and thread is not threading.current_thread():
      thread.join()

  def _start(self) -> None:
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, name="cosyjax-engine", daemon=True)
      self._thread.start()
      atexit.register(_close, weakref.ref(self))  # a thread inside the device's code must not outlive the interpreter

  # The thread.

  def _run(self) -> None:
    while True:
      with self._changed:
        if self._closed:
          break
        self._woken = False
      try:
        busy = self._step()
      except Exception as error:  # a fault of the engine itself must not leave callers waiting
        log.exception("a step of the engine failed")
        self._fail_all(error)
        busy = True
      if not busy:
        if not self._live:
          self._slots.shrink()
        with self._changed:
          self._changed.wait_for(lambda: self._woken or self._closed)
    self._fail_all(EngineError("the engine was closed while the request ran"), calls=True)

  def _step(self) -> bool:
    """One round. Returns whether anything was done."""
    swept = self._sweep()
    admitted = self._admit()
    fed = self._feed()
    solving = self._solve()
    decoding = self._decode()
    for (started, chunks), lives in solving:  # in the order in which the device works
      self._guard(lives, lambda lives, started=started, chunks=chunks: self._deliver(started, chunks, lives))
    for started, lives in decoding:
      self._guard(lives, lambda lives, started=started: self._collect(started, lives))
    for live in list(self._live):
      while live.segments and live.segments[0].finished:
        live.segments.popleft()
      if live.text_ended and not live.segments:
        self._end(live, "done")
    return bool(swept or admitted or fed or solving or decoding)

  def _sweep(self) -> bool:
    """Ends what callers have given up."""
    with self._changed:
      gone = [live for live in self._queue if live.channel.cancelled]
      self._queue = deque(live for live in self._queue if not live.channel.cancelled)
      self._counts["cancelled"] += len(gone)
    cancelled = [live for live in self._live if live.channel.cancelled]
    for live in cancelled:
      self._end(live, "cancelled")
    for live in gone:
      live.channel.end()
    return bool(gone or cancelled)

  def _admit(self) -> bool:
    """Does what `call` asks for, and moves requests from the queue to free slots."""
    admitted = False
    while self._free:
      with self._changed:
        call = self._calls.popleft() if self._calls else None
        live = self._queue.popleft() if self._queue and call is None else None
        if live is not None:
          live.slot = self._free.pop(self._slots.flow.best_slot(self._free, live.request))
          self._live.append(live)
      if call is not None:
        work, future = call
        try:
          future.set_result(work(self._free[0]))
        except Exception as error:
          future.set_exception(error)
          if self._slots.lost:
            self._fail_all(error)
      elif live is not None:
        self._attempt([live], self._open)
      else:
        break
      admitted = True
    return admitted

  def _feed(self) -> bool:
    """Gives the LM what there is to read: sequences that begin, then those that wait for text."""
    each = lambda run: self._attempt(list(self._live), lambda lives: run(lives[0]), together=False)
    arrived = each(LiveRequest.take_text)
    begun = each(self._begin)
    answers = {lives[0]: append for append, lives in each(LiveRequest.answer) if append is not None}
    size = lambda live: live.decoding.layout.placed + answers[live].max_tokens
    self._attempt(list(answers), lambda lives: self._slots.lm.extend({i.slot: (answers[i], size(i)) for i in lives}))
    return any(found for found, _ in [*arrived, *begun]) or bool(answers)

  def _begin(self, live: LiveRequest) -> bool:
    """Starts the LM sequence of a request's next segment, if there is enough text for it."""
    segment = live.decoding
    append = segment.prefill() if segment is not None and not segment.begun else None
    if append is not None:
      self._slots.lm.open(live.slot, append, segment.layout, live.request, segment.number)
    return append is not None

  def _solve(self) -> list[tuple[Any, list[LiveRequest]]]:
    """Starts flow and vocoder on the most urgent chunks that are due and fit one program."""
    for live in [live for live in self._live if live.due and live.opened != live.segments[0].number]:
      self._attempt([live], self._open)
    due = sorted((live for live in self._live if live.due), key=lambda live: live.deadline)
    if not due:
      return []
    chunks = {live: live.chunk() for live in due}
    group = [due[i] for i in self._slots.flow.group(list(chunks.values()))]
    started = []
    for (mel_bTM, places), lives in self._attempt(
      group, lambda lives: self._slots.flow.step([chunks[i] for i in lives])
    ):
      place = dict(zip(lives, places, strict=True))
      vocode = lambda some, mel_bTM=mel_bTM, place=place: (
        self._slots.vocoder.step([chunks[i] for i in some], mel_bTM, [place[i] for i in some]),
        [chunks[i] for i in some],
      )
      started += self._attempt(lives, vocode)
    return started

  def _decode(self) -> list[tuple[Any, list[LiveRequest]]]:
    """Starts LM steps of the sequences that run: as many as the first of them needs for its next chunk."""
    running = [live for live in self._live if live.decoding is not None and live.decoding.running]
    if not running:
      return []
    steps = min(live.decoding.wanted for live in running)
    return self._attempt(running, lambda lives: self._slots.lm.step([live.slot for live in lives], steps))

  def _open(self, lives: Sequence[LiveRequest]) -> None:
    """Begins a request's next segment in flow and vocoder."""
    for live in lives:
      live.opened = live.segments[0].number if live.segments else 0
      self._slots.open(live.slot, live.request)

  def _deliver(self, started: Any, chunks: Sequence[Chunk], lives: Sequence[LiveRequest]) -> None:
    """Hands out the audio of solved chunks."""
    for live, chunk, samples_A in zip(lives, chunks, self._slots.vocoder.collect(started), strict=True):
      if live not in self._live:  # it has failed since
        continue
      segment, now = live.segments[0], time.perf_counter()
      segment.advance(chunk)
      if len(samples_A):
        if not live.packets:
          live.first_packet = now
        text = segment.text_until(segment.solved)
        start, made = live.samples / live.rate, now - live.submitted
        live.channel.put(Packet(live.packets, samples_A, start, text, made, live.rate))
        live.packets, live.samples = live.packets + 1, live.samples + len(samples_A)

  def _collect(self, started: Any, lives: Sequence[LiveRequest]) -> None:
    """Books the tokens that LM steps have brought."""
    found = self._slots.lm.collect(started)
    for live in lives:
      if live in self._live:
        self._guard([live], lambda lives: lives[0].decoding.take(*found[lives[0].slot]))

  # Ends.

  def _attempt(
    self, lives: list[LiveRequest], run: Callable[[list[LiveRequest]], Any], together: bool = True
  ) -> list[tuple[Any, list[LiveRequest]]]:
    """Runs `run(lives)`; where that raises, request by request, and fails those that raise alone.

    Returns:
      (result, lives) of what went well: one pair, or one per request.
    """
    if not lives:
      return []
    if together or len(lives) == 1:
      try:
        return [(run(lives), lives)]
      except Exception as error:
        if self._slots.lost:
          raise  # nothing is left to try it on
        if len(lives) == 1:
          self._end(lives[0], "failed", error)
          return []
    return [pair for live in lives for pair in self._attempt([live], run)]

  def _guard(self, lives: list[LiveRequest], run: Callable[[list[LiveRequest]], None]) -> None:
    """Runs what belongs to a group that is under way already; its error ends the group's requests."""
    try:
      run(lives)
    except Exception as error:
      for live in lives:
        if live in self._live:
          self._end(live, "failed", error)
      if self._slots.lost:
        raise

  def _end(self, live: LiveRequest, how: str, error: BaseException | None = None) -> None:
    with self._changed:
      self._live.remove(live)
      self._free.append(live.slot)
      self._counts[how] += 1
    live.channel.end(error)

  def _fail_all(self, error: Exception, calls: bool = False) -> None:
    """Every request ends with `error`; the device state is made anew when it is next needed."""
    for live in list(self._live):
      self._end(live, "failed", error)
    with self._changed:
      queue, self._queue = (self._queue, deque()) if calls else (deque(), self._queue)
      waiting, self._calls = (self._calls, deque()) if calls else (deque(), self._calls)
      self._counts["failed"] += len(queue)
    for live in queue:
      live.channel.end(error)
    for _, future in waiting:
      future.set_exception(error)
    self._slots.reset()
