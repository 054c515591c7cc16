"""Programs compiled ahead of time, the persistent compilation cache, and a counter of compilations.

JAX's settings are global, so the library never touches them on import: programs call
`enable_cache` once at their start.
"""

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import jax

from cosyjax.errors import ConfigError

log = logging.getLogger("cosyjax.inference.compilation")

_EVENT = "/jax/core/compile/backend_compile_duration"


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
  """A function compiled ahead of time for every shape it has met, or was prepared for.

  Compiled programs are kept by the shapes of all arguments but the first, the parameters,
  whose shapes never change. A shape not met before is compiled on the spot, with a line in
  the log: after a warm-up that line must not appear.

  Attributes:
    name: used in log lines and benchmark tables.
    function: what is compiled.
    compile_seconds: time spent compiling, by shape key.
  """

  def __init__(self, name: str, function: Callable, donate: tuple[int, ...] = ()) -> None:
    self.name, self.function = name, function
    self.compile_seconds: dict[Hashable, float] = {}
    self._jitted = jax.jit(function, donate_argnums=donate)
    self._compiled: dict[Hashable, jax.stages.Compiled] = {}
    self._locks: dict[Hashable, threading.Lock] = {}

  def __call__(self, params: Any, *args: Any) -> Any:
    return self.prepare(params, *args)(params, *args)

  def prepare(self, params: Any, *args: Any) -> jax.stages.Compiled:
    """Compiles for these arguments, which may be arrays or `jax.ShapeDtypeStruct`."""
    key = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(args))
    if key in self._compiled:
      return self._compiled[key]
    with self._locks.setdefault(key, threading.Lock()):  # other shapes may compile in other threads
      if key not in self._compiled:
        start = time.perf_counter()
        self._compiled[key] = self._jitted.lower(params, *args).compile()
        self.compile_seconds[key] = time.perf_counter() - start
        log.info("compiled %s for %s in %.1f s", self.name, [s for s, _ in key][:6], self.compile_seconds[key])
      return self._compiled[key]
