"""The engine's thread: admits, feeds, solves, decodes and delivers, one step after the other.

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
from cosyjax.inference.job import Job
from cosyjax.inference.packets import Packet
from cosyjax.inference.parts import Parts, Solved

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


def _close(worker: "weakref.ref[Worker]") -> None:
  if (found := worker()) is not None:
    found.close()


class Worker:
  """Queue, slots and thread."""

  def __init__(self, parts: Parts, queue: int) -> None:
    self._parts, self._queue_size = parts, queue
    self._queue: deque[Job] = deque()
    self._calls: deque[tuple[Callable[[int], Any], concurrent.futures.Future]] = deque()
    self._jobs: list[Job] = []
    self._free = list(range(parts.slots))
    self._counts = dict.fromkeys(("submitted", "done", "cancelled", "failed"), 0)
    self._changed = threading.Condition()
    self._woken = self._closed = False
    self._thread: threading.Thread | None = None

  # For other threads.

  def check_room(self) -> None:
    """Raises BusyError or EngineError if a request could not be taken now."""
    with self._changed:
      self._check_room()

  def _check_room(self) -> None:
    if self._closed:
      raise EngineError("the engine is closed")
    if len(self._queue) >= self._queue_size + len(self._free):
      taken = f"{self._parts.slots} slots are taken and {len(self._queue)} requests wait"
      raise BusyError(f"{taken}, as many as may; try again later, or give the engine more slots or a longer queue")

  def submit(self, job: Job) -> None:
    with self._changed:
      self._check_room()
      self._counts["submitted"] += 1
      self._queue.append(job)
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
    with self._changed:
      self._woken = True
      self._changed.notify_all()

  def stats(self) -> Stats:
    with self._changed:
      return Stats(**self._counts, running=len(self._jobs), waiting=len(self._queue), free_slots=len(self._free))

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
        if not self._jobs:
          self._parts.shrink()
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
    for solved, jobs in solving:  # in the order in which the device works
      self._guard(jobs, lambda jobs, solved=solved: self._deliver(solved, jobs))
    for started, jobs in decoding:
      self._guard(jobs, lambda jobs, started=started: self._collect(started, jobs))
    for job in list(self._jobs):
      while job.utterances and job.utterances[0].finished:
        job.utterances.popleft()
      if job.text_ended and not job.utterances:
        self._end(job, "done")
    return bool(swept or admitted or fed or solving or decoding)

  def _sweep(self) -> bool:
    """Ends what callers have given up."""
    with self._changed:
      gone = [job for job in self._queue if job.channel.cancelled]
      self._queue = deque(job for job in self._queue if not job.channel.cancelled)
      self._counts["cancelled"] += len(gone)
    cancelled = [job for job in self._jobs if job.channel.cancelled]
    for job in cancelled:
      self._end(job, "cancelled")
    for job in gone:
      job.channel.end()
    return bool(gone or cancelled)

  def _admit(self) -> bool:
    """Does what `call` asks for, and moves requests from the queue to free slots."""
    admitted = False
    while self._free:
      with self._changed:
        call = self._calls.popleft() if self._calls else None
        job = self._queue.popleft() if self._queue and call is None else None
        if job is not None:
          job.slot = self._free.pop(self._parts.best_slot(self._free, job.voice))
          self._jobs.append(job)
      if call is not None:
        work, future = call
        try:
          future.set_result(work(self._free[0]))
        except Exception as error:
          future.set_exception(error)
          if self._parts.lost:
            self._fail_all(error)
      elif job is not None:
        self._attempt([job], self._open)
      else:
        break
      admitted = True
    return admitted

  def _feed(self) -> bool:
    """Gives the LM what there is to read: rows that begin, then rows that wait for text."""
    each = lambda run: self._attempt(list(self._jobs), lambda jobs: run(jobs[0]), together=False)
    arrived = each(Job.take_text)
    begun = each(self._begin)
    answers = {jobs[0]: append for append, jobs in each(Job.answer) if append is not None}
    size = lambda job: job.decoding.row.placed + answers[job].max_tokens
    self._attempt(list(answers), lambda jobs: self._parts.lm.extend({j.slot: (answers[j], size(j)) for j in jobs}))
    return any(found for found, _ in [*arrived, *begun]) or bool(answers)

  def _begin(self, job: Job) -> bool:
    """Starts the LM row of a request's next utterance, if there is enough text for it."""
    spoken = job.decoding
    append = spoken.opening() if spoken is not None and not spoken.begun else None
    if append is not None:
      self._parts.lm.begin(job.slot, append, spoken.row, job.seed, spoken.number)
    return append is not None

  def _solve(self) -> list[tuple[Solved, list[Job]]]:
    """Starts flow and vocoder on the most urgent hops that are due and fit one program."""
    for job in [job for job in self._jobs if job.due is not None and job.opened != job.utterances[0].number]:
      self._attempt([job], self._open)
    due = sorted((job for job in self._jobs if job.due is not None), key=lambda job: job.deadline)
    if not due:
      return []
    group = [due[i] for i in self._parts.group([job.work() for job in due])]
    works = {job: job.work() for job in group}
    started = []
    for mel, jobs in self._attempt(group, lambda jobs: self._parts.solve([works[job] for job in jobs])):
      place = {job: i for i, job in enumerate(jobs)}
      voice = lambda some, mel=mel, place=place: self._parts.vocode(
        mel.part([place[job] for job in some]), [works[job] for job in some]
      )
      started += self._attempt(jobs, voice)
    return started

  def _decode(self) -> list[tuple[Any, list[Job]]]:
    """Starts LM steps for the rows that run: as many as the first of them needs for its next hop."""
    running = [job for job in self._jobs if job.decoding is not None and job.decoding.running]
    if not running:
      return []
    steps = min(job.decoding.wanted for job in running)
    return self._attempt(running, lambda jobs: self._parts.lm.decode([job.slot for job in jobs], steps))

  def _open(self, jobs: Sequence[Job]) -> None:
    """Begins a request's next utterance in flow and vocoder."""
    for job in jobs:
      job.opened = job.utterances[0].number if job.utterances else 0
      self._parts.open(job.slot, job.voice, job.schedule)

  def _deliver(self, solved: Solved, jobs: Sequence[Job]) -> None:
    """Hands out the audio of a solved group."""
    for job, work, samples_A in zip(jobs, solved.works, solved.samples(), strict=True):
      if job not in self._jobs:  # it has failed since
        continue
      spoken, now = job.utterances[0], time.perf_counter()
      spoken.advance(work.hop)
      if len(samples_A):
        if not job.packets:
          job.first_packet = now
        text = spoken.text_until(spoken.solved)
        start, made = job.samples / job.rate, now - job.submitted
        job.channel.put(Packet(job.packets, samples_A, start, text, made, job.rate))
        job.packets, job.samples = job.packets + 1, job.samples + len(samples_A)

  def _collect(self, started: Any, jobs: Sequence[Job]) -> None:
    """Books the tokens that LM steps have brought."""
    found = self._parts.lm.collect(started)
    for job in jobs:
      if job in self._jobs:
        self._guard([job], lambda jobs: jobs[0].decoding.take(*found[jobs[0].slot]))

  # Ends.

  def _attempt(
    self, jobs: list[Job], run: Callable[[list[Job]], Any], together: bool = True
  ) -> list[tuple[Any, list[Job]]]:
    """Runs `run(jobs)`; where that raises, request by request, and fails those that raise alone.

    Returns:
      (result, jobs) of what went well: one pair, or one per request.
    """
    if not jobs:
      return []
    if together or len(jobs) == 1:
      try:
        return [(run(jobs), jobs)]
      except Exception as error:
        if self._parts.lost:
          raise  # nothing is left to try it on
        if len(jobs) == 1:
          self._end(jobs[0], "failed", error)
          return []
    return [pair for job in jobs for pair in self._attempt([job], run)]

  def _guard(self, jobs: list[Job], run: Callable[[list[Job]], None]) -> None:
    """Runs what belongs to a group that is under way already; its error ends the group's requests."""
    try:
      run(jobs)
    except Exception as error:
      for job in jobs:
        if job in self._jobs:
          self._end(job, "failed", error)
      if self._parts.lost:
        raise

  def _end(self, job: Job, how: str, error: BaseException | None = None) -> None:
    with self._changed:
      self._jobs.remove(job)
      self._free.append(job.slot)
      self._counts[how] += 1
    job.channel.end(error)

  def _fail_all(self, error: Exception, calls: bool = False) -> None:
    """Every request ends with `error`; the device state is made anew when it is next needed."""
    for job in list(self._jobs):
      self._end(job, "failed", error)
    with self._changed:
      queue, self._queue = (self._queue, deque()) if calls else (deque(), self._queue)
      waiting, self._calls = (self._calls, deque()) if calls else (deque(), self._calls)
      self._counts["failed"] += len(queue)
    for job in queue:
      job.channel.end(error)
    for _, future in waiting:
      future.set_exception(error)
    self._parts.reset()
