"""The persistent compilation cache, and a counter of compilations.

JAX's settings are global, so the library never touches them on import: programs call
`enable_cache` once at their start.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import jax

from cosyjax.errors import ConfigError

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
