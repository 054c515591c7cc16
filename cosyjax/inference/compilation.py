"""Programs compiled ahead of time, their rehearsal, the persistent cache, and a counter of compilations.

JAX's settings are global, so the library never touches them on import: programs call
`enable_cache` once at their start.
"""

import contextlib
import contextvars
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax

from cosyjax.errors import ConfigError
from cosyjax.inference.padding import Progress, Tracker

log = logging.getLogger("cosyjax.inference.compilation")

_EVENT = "/jax/core/compile/backend_compile_duration"

# Within `rehearse`: the calls that were made, by program and shapes. Per thread, so that others really call.
_calls: contextvars.ContextVar["dict[tuple[int, Hashable], Program] | None"] = contextvars.ContextVar(
  "calls", default=None
)


def enable_cache(path: str | Path | None = None) -> Path:
  """Keeps compiled programs on disk, so that a second start compiles nothing.

  A cache directory can run code, so it must belong to the user alone.

  Args:
    path: directory; `$XDG_CACHE_HOME/cosyjax/xla` (or below ~/.cache) if None.

  Returns:
    The directory in use.

  Raises:
    ConfigError: the directory belongs to somebody else, or others may write to it.
  """
  if path is None:
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cosyjax" / "xla"
  path = Path(path)
  path.mkdir(parents=True, exist_ok=True, mode=0o700)
  info = path.stat()
  if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    raise ConfigError(f"compilation cache {path} must belong to you alone (owner you, mode 0700); name another")
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  return path


class CompileCount:
  """How many programs were compiled (or fetched from the cache) and how long that took.

  Attributes:
    count: programs.
    seconds: their compile time.
  """

  def __init__(self) -> None:
    self.count = 0
    self.seconds = 0.0

  def _listen(self, event: str, duration: float, **_: str | int) -> None:
    if event == _EVENT:
      self.count += 1
      self.seconds += duration


@contextlib.contextmanager
def count_compilations() -> Iterator[CompileCount]:
  """Counts compilations inside the block, in every thread."""
  counter = CompileCount()
  jax.monitoring.register_event_duration_secs_listener(counter._listen)
  try:
    yield counter
  finally:
    jax.monitoring.unregister_event_duration_listener(counter._listen)


class Program:
  """A function compiled ahead of time for every shape it has met or rehearsed.

  Compiled programs are kept by the shapes of all arguments but the first, the parameters,
  whose shapes never change. A shape not met before is compiled on the spot, with a line in
  the log: after a warm-up that line must not appear.

  Attributes:
    name: used in log lines and benchmark tables.
    compile_seconds: time spent compiling, by shape key.
  """

  def __init__(
    self, name: str, function: Callable, donate: tuple[int, ...] = (), options: dict[str, Any] | None = None
  ) -> None:
    self.name = name
    self.compile_seconds: dict[Hashable, float] = {}
    self._jitted = jax.jit(function, donate_argnums=donate, compiler_options=options)
    self._traced: dict[Hashable, jax.stages.Traced] = {}  # rehearsed and not compiled yet
    self._compiled: dict[Hashable, jax.stages.Compiled] = {}
    self._results: dict[Hashable, Any] = {}  # shapes of what it returns
    self._locks: dict[Hashable, threading.Lock] = {}

  def __call__(self, params: Any, *args: Any) -> Any:
    """Runs the program, compiled first if need be; within `rehearse`, gives the shapes of its results.

    Args:
      params: the function's first argument; None for a function that takes no parameters.
      *args: the others, arrays.
    """
    given = args if params is None else (params, *args)
    key = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(args))
    calls = _calls.get()
    if calls is None:
      compiled = self._compiled.get(key) or self._compile(key, lambda: self._jitted.trace(*given))
      return compiled(*given)
    if key not in self._results:
      traced = self._traced[key] = self._jitted.trace(*given)
      self._results[key] = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), traced.out_info)
    calls[id(self), key] = self
    return self._results[key]

  def compile(self, key: Hashable) -> None:
    """Compiles for the shapes of a rehearsed call."""
    self._compile(key, lambda: self._traced[key])

  def _compile(self, key: Hashable, trace: Callable[[], jax.stages.Traced]) -> jax.stages.Compiled:
    with self._locks.setdefault(key, threading.Lock()):  # other shapes may compile in other threads
      if key not in self._compiled:
        start = time.perf_counter()
        self._compiled[key] = trace().lower().compile()
        self._traced.pop(key, None)
        self.compile_seconds[key] = time.perf_counter() - start
        log.info("compiled %s for %s in %.1f s", self.name, [s for s, _ in key][:6], self.compile_seconds[key])
      return self._compiled[key]


def rehearse(run: Callable[[], Any], progress: Progress | None = None) -> int:
  """Compiles every program that `run` calls, a few at a time; nothing is computed.

  Args:
    run: makes real calls. What programs return to it are shapes (`jax.ShapeDtypeStruct`).
    progress: called as ("warm-up", done, total).

  Returns:
    The number of programs, those that had been compiled before included.
  """
  calls: dict[tuple[int, Hashable], Program] = {}
  token = _calls.set(calls)
  try:
    run()
  finally:
    _calls.reset(token)
  tracker = Tracker(progress, "warm-up", len(calls))
  with ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles without the interpreter's lock
    for future in as_completed([pool.submit(program.compile, key) for (_, key), program in calls.items()]):
      future.result()
      tracker.add(1)
  return len(calls)
