"""Devices, signals and seeds of a training run.

How a loop uses them:

    runtime.join(args)
    mesh = runtime.start(args, config)
    stop = runtime.Stop()
    while step < steps:
      batch = put_batch(next(batches), mesh)
      with runtime.no_copies():
        state, metrics = update(state, batch)
      step += 1
      stop.poll(step)
      if due(step, save_every) or stop.asked or step == steps:
        checkpoints.save(step, state, batches.state())
      if stop.asked:
        checkpoints.close()
        return runtime.STOPPED
"""

import contextlib
import signal
import sys
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
    ConfigError: the mesh does not fit the devices.
  """
  if not args.no_cache:
    enable_cache()
  shape = mesh_shape(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, jax.device_count())
  return make_mesh(*shape)


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

  A second signal changes nothing, so that it cannot break a save. Several processes must
  leave after the same step: `poll` lets them agree every `every` steps.
  """

  def __init__(self, every: int = 10) -> None:
    self._heard, self._agreed, self._polled, self._every = False, False, False, every
    self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

  def _handle(self, number: int, frame: Any) -> None:
    if not self._heard:
      print(f"\n{signal.Signals(number).name}: saving after this step, then stopping", file=sys.stderr, flush=True)
    self._heard = True

  @property
  def asked(self) -> bool:
    """Whether to stop after this step. It changes in `poll` alone, so all reads within a step agree."""
    return self._agreed if self._polled or jax.process_count() > 1 else self._heard

  def poll(self, step: int) -> bool:
    """Called once a step, by every process; returns `asked`."""
    if jax.process_count() == 1:
      self._agreed = self._heard
    elif due(step, self._every):
      from jax.experimental import multihost_utils

      self._agreed = bool(np.any(multihost_utils.process_allgather(np.asarray(self._heard))))
    self._polled = True
    return self._agreed

  def close(self) -> None:
    """Puts the handlers back that were there before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)
