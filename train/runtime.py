"""Devices, signals and seeds of a training run."""

import contextlib
import math
import os
import signal
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cosyjax.errors import ConfigError, TrainingError
from cosyjax.inference.compilation import enable_cache
from cosyjax.sharding import make_mesh, mesh_shape, put_batch

STOPPED = 75  # exit code of a run that was asked to stop, saved, and can be resumed (EX_TEMPFAIL)
MAX_BAD = 10  # non-finite steps in a row that end a run


def join(args: Any) -> None:
  """Joins the other processes if there are any: before anything else, since JAX looks for devices but once.

  Args:
    args: from `train.cli.parse`.

  Raises:
    ConfigError: the coordinator cannot be reached.
  """
  if args.coordinator or args.processes[1] > 1:
    index, count = args.processes
    try:
      jax.distributed.initialize(args.coordinator, num_processes=count, process_id=index)
    except RuntimeError as error:
      raise ConfigError(f"--coordinator {args.coordinator} --processes {index}/{count}: {error}") from error


def start(args: Any, config: Any) -> Mesh:
  """Turns the compilation cache on, and makes the mesh.

  Args:
    args: from `train.cli.parse`.
    config: has `mesh`, a `MeshConfig`.

  Raises:
    ConfigError: the mesh does not fit the devices; the message has settings that would.
  """
  if not args.no_cache:
    enable_cache()
  devices = jax.devices()
  if (args.devices or 1) not in range(1, len(devices) + 1):
    raise ConfigError(f"--devices {args.devices}: expected 1 to {len(devices)}")
  devices, mesh = devices[: args.devices], config.mesh
  try:
    shape = mesh_shape(mesh.data, mesh.fsdp, mesh.tensor, len(devices))
  except ConfigError as error:
    tensor = math.gcd(max(mesh.tensor, 1), len(devices))
    fsdp = math.gcd(max(mesh.fsdp, 1), len(devices) // tensor)
    fits = f"--set mesh.data=-1 mesh.fsdp={fsdp} mesh.tensor={tensor}"
    raise ConfigError(f"{error}; this would fit: {fits}") from None
  return make_mesh(*shape, devices=devices)


def everywhere(key: jax.Array, mesh: Mesh) -> jax.Array:
  """The same key, given by every process, as one that lies on all devices of the mesh."""
  data = {"key": np.asarray(jax.random.key_data(key))}
  return jax.random.wrap_key_data(put_batch(data, mesh)["key"])


def over_processes(counts: np.ndarray) -> np.ndarray:
  """Sum of an array of every process, which all call at once. Rows that several processes hold count for each."""
  if jax.process_count() == 1:
    return counts
  from jax.experimental import multihost_utils

  return np.sum(multihost_utils.process_allgather(counts), axis=0)


def is_main() -> bool:
  """Whether this process writes logs and other files of the whole run."""
  return jax.process_index() == 0


def due(step: int, every: int) -> bool:
  """Whether something that happens every so many steps happens after this one; 0 is never."""
  return every > 0 and step % every == 0


def make_key(seed: int, name: str) -> jax.Array:
  """The key of one use of the run's seed ("params", "eval", ...): other names, other draws."""
  return jax.random.fold_in(jax.random.key(seed), np.uint32(zlib.crc32(name.encode())))


def no_copies() -> contextlib.AbstractContextManager[None]:
  """Inside, an implicit copy to a device is an error: it would stall every step of a loop, unseen.

  `put_batch` and `jax.device_put` are explicit and remain allowed.
  """
  return jax.transfer_guard_host_to_device("disallow")


def check_bad(metrics: Mapping[str, Any], step: int | None = None) -> None:
  """Ends a run whose steps have not been finite for `MAX_BAD` times in a row.

  Args:
    metrics: of one step, on the host: "bad", or "<name>/bad" where a trainer has several states.
    step: for the message.

  Raises:
    TrainingError: a count has reached the limit.
  """
  for name, value in metrics.items():
    if name.rsplit("/", 1)[-1] == "bad" and float(value) >= MAX_BAD:
      where = "" if step is None else f" at step {step}"
      raise TrainingError(
        f"{name}: loss or gradient not finite for {int(value)} steps in a row{where}; the parameters are those before "
        "them. Try a lower optim.learning_rate or a longer optim.warmup, and look at the data"
      )


class Stop:
  """Turns SIGTERM and SIGINT into a flag: the loop saves and leaves with `STOPPED`.

  A second signal ends the process at once, with 128 and its number; what was saved before stays whole. One that
  comes within `ONE` second is the first once more: a terminal and a parent process may both send it.
  Several processes must leave after the same step: `poll` lets them agree every `every` steps.
  """

  ONE = 1.0

  def __init__(self, every: int = 10) -> None:
    self._received, self._agreed, self._polled, self._every = False, False, False, every
    self._since = 0.0
    self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

  def _handle(self, number: int, frame: Any) -> None:
    name, now = signal.Signals(number).name, time.monotonic()
    if not self._received:
      self._since = now
      print(f"\n{name}: saving after this step, then stopping; once more stops at once", file=sys.stderr, flush=True)
    elif now - self._since > self.ONE:
      print(f"\n{name}: stopped without saving; the same command goes on from the last checkpoint", file=sys.stderr)
      sys.stderr.flush()
      os._exit(128 + number)  # a save may be under way in other threads: nothing here waits for them
    self._received = True

  @property
  def asked(self) -> bool:
    """Whether to stop after this step. It changes in `poll` alone, so all reads within a step agree."""
    return self._agreed if self._polled or jax.process_count() > 1 else self._received

  def poll(self, step: int) -> bool:
    """Called once a step, by every process; returns `asked`."""
    if jax.process_count() == 1:
      self._agreed = self._received
    elif due(step, self._every):
      from jax.experimental import multihost_utils

      self._agreed = bool(np.any(multihost_utils.process_allgather(np.asarray(self._received))))
    self._polled = True
    return self._agreed

  def close(self) -> None:
    """Puts the handlers back that were there before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)
