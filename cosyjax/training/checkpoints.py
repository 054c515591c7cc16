"""Checkpoints of a run: written in the background, whole or not at all, and never read unless whole.

    DIR/00000500/           a step that counts
      state/                  Orbax: every array of the state, under its path in the tree
      iterator.json           state of the data iterator
      config.json             the run's configuration
      info.json               step, metric, and the shape and dtype of every array
      digests                 size and BLAKE2 of each file above, under a digest of its own
    DIR/00001000.saving/    a save under way, or cut off: removed at the next start
    DIR/00000400.removed/   a step on its way out
    DIR/00000900.damaged/   a step that failed its digests and was passed over

A save is written under `.saving`; when Orbax has committed all processes' shards, process 0
computes the digests and renames the directory. So a directory of digits alone is complete,
and whatever then differs from its digests is damage.
"""

import dataclasses
import json
import logging
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import CheckpointError, OutputError
from cosyjax.training.checkpoint_files import (
  check_arrays,
  check_config,
  commit,
  find_damage,
  leaf_paths,
  read_json,
  restore_arrays,
)
from cosyjax.training.processes import agree, meet

_SAVING, _REMOVED, _DAMAGED = ".saving", ".removed", ".damaged"


@dataclasses.dataclass(frozen=True)
class _Job:
  """A save under way in the background."""

  step: int
  thread: threading.Thread
  errors: list[BaseException]


class Checkpoints:
  """The checkpoints of one run.

  Every process of a run makes one and calls the same methods at the same steps; the directory
  is shared between them. Process 0 writes all files that are not arrays.

  Attributes:
    directory: where they are.
  """

  def __init__(
    self,
    directory: str | Path,
    *,
    config: dict[str, Any],
    keep_last: int = 3,
    keep_best: int = 1,
    metric: str | None = None,
    every: int = 0,
    allow_config_change: Sequence[str] = (),
  ) -> None:
    """Opens (or makes) the directory and removes what interrupted saves have left there.

    Args:
      directory: shared by all processes.
      config: plain nested dict of the run's settings, as `cosyjax.config.to_dict` gives it.
      keep_last: newest steps that are kept.
      keep_best: steps of lowest metric that are kept besides.
      metric: name of the metric, for `info.json`.
      every: steps between saves, for `due`; 0 for never.
      allow_config_change: dotted names of settings that may differ on resuming; a name stands
        for all below it.

    Raises:
      OutputError: the directory cannot be made.
    """
    import orbax.checkpoint as ocp

    self.directory = Path(directory).absolute()
    self._config, self._metric, self._allowed = config, metric, tuple(allow_config_change)
    self._keep_last, self._keep_best, self._every = max(keep_last, 1), keep_best, every
    self._job: _Job | None = None
    self._main = jax.process_index() == 0
    if self._main:
      try:
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.iterdir():
          if leftover.name.endswith((_SAVING, _REMOVED)):
            if leftover.name.endswith(_SAVING):
              _say(f"{leftover}: an interrupted save, removed")
            shutil.rmtree(leftover)
      except OSError as error:
        raise OutputError(f"{self.directory}: checkpoints cannot be written there: {error}") from error
    meet("checkpoints opened")
    logging.getLogger("absl").addFilter(_no_orbax)
    self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), timeout_secs=1800)

  def latest(self) -> int | None:
    """The newest complete step, or None. Its digests are checked by `restore`."""
    self._finish()
    found = self._steps()
    return agree(found[-1] if found else None)

  def due(self, step: int) -> bool:
    """Whether a save is due after this step."""
    return self._every > 0 and step % self._every == 0

  def save(
    self, step: int, state: Any, iterator: dict[str, Any], metric: float | None = None, wait: bool = False
  ) -> None:
    """Copies the state off the devices and writes it in the background.

    Returns when the copy is made: the state may be donated at once. A save that fails is
    reported and leaves the older checkpoints as they are; training goes on.

    Args:
      step: names the checkpoint; one that is there already is left alone.
      state: any tree of arrays.
      iterator: state of the data iterator, as JSON; the same on every process.
      metric: lower is better, for `keep_best`.
      wait: return only when the step counts, as at the end of a run.

    Raises:
      CheckpointError: no iterator state.
      OutputError: with `wait`, this save failed.
    """
    if iterator is None:
      raise CheckpointError(f"step {step}: a checkpoint without the state of the data iterator cannot be resumed")
    arrays = dict(zip(leaf_paths(state), jax.tree.leaves(state), strict=True))
    shapes = {name: [list(np.shape(x)), str(x.dtype)] for name, x in arrays.items()}
    info = {"step": step, "metric": metric, "metric_name": self._metric, "arrays": shapes}
    texts = {"iterator": iterator, "config": self._config, "info": info}
    texts = {f"{name}.json": json.dumps(value, indent=1) + "\n" for name, value in texts.items()}
    self._finish()
    if agree(step if (self.directory / _name(step)).exists() else None) is not None:
      return
    error = None
    try:
      self._start(step, arrays, texts)
    except Exception as caught:  # Orbax and TensorStore raise many kinds for a full or read-only disk
      error = caught
      self._report(step, error)
    if wait and (error := error or self._finish()):
      raise OutputError(f"{self.directory / _name(step)}: the checkpoint could not be written: {error}") from error

  def restore(self, abstract: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]]:
    """Reads the newest whole step, each array straight into its sharding.

    Args:
      abstract: tree of `jax.ShapeDtypeStruct` with shardings, on any mesh.
      step: this one and no other.

    Returns:
      (step, state, iterator state).

    Raises:
      CheckpointError: there is none; none is whole (the first broken file of each is named);
        its configuration differs from the run's (a diff is shown); its arrays do not fit
        `abstract`; or it has no iterator state.
    """
    self._finish()
    step = self._choose(step)
    folder = self.directory / _name(step)
    config, info, iterator = (read_json(folder / f"{name}.json") for name in ("config", "info", "iterator"))
    check_config(config, self._config, self._allowed, str(folder))
    if not isinstance(iterator, dict):
      raise CheckpointError(f"{folder / 'iterator.json'}: no state of the data iterator; a run cannot go on from here")
    leaves, structure = jax.tree.flatten(abstract)
    names = leaf_paths(abstract)
    check_arrays(info["arrays"], dict(zip(names, leaves, strict=True)), str(folder))
    arrays = restore_arrays(folder, dict(zip(names, leaves, strict=True)))
    return step, jax.tree.unflatten(structure, [arrays[name] for name in names]), iterator

  def close(self) -> None:
    """Waits for a save under way.

    Raises:
      OutputError: it failed.
    """
    job, error = self._job, self._finish()
    self._orbax.close()
    logging.getLogger("absl").removeFilter(_no_orbax)
    if error is not None:
      raise OutputError(f"{self.directory / _name(job.step)}: the checkpoint could not be written: {error}") from error

  # Saving

  def _start(self, step: int, arrays: dict[str, Any], texts: dict[str, str]) -> None:
    import orbax.checkpoint as ocp

    work, fault = self.directory / (_name(step) + _SAVING), None
    if self._main:
      try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
      except OSError as error:
        fault = error
    if agree(None if fault else 1) is None:  # no process may wait in Orbax for one that has given up
      raise fault or OSError("process 0 could not make the directory")
    self._orbax.save(work / "state", args=ocp.args.StandardSave(arrays))
    errors: list[BaseException] = []

    def finish() -> None:
      try:
        self._orbax.wait_until_finished()
        if self._main:
          commit(work, self.directory / _name(step), texts)
          self._prune()
      except BaseException as error:
        errors.append(error)

    thread = threading.Thread(target=finish, name=f"checkpoint {step}")
    thread.start()
    self._job = _Job(step, thread, errors)

  def _finish(self) -> BaseException | None:
    """Waits for the save under way, if any; reports and returns its error."""
    job, self._job = self._job, None
    if job is None:
      return None
    job.thread.join()
    if not job.errors:
      return None
    self._report(job.step, job.errors[0])
    return job.errors[0]

  def _report(self, step: int, error: BaseException) -> None:
    kept = ", ".join(map(str, self._steps())) or "none"
    _say(f"{self.directory}: step {step} could not be saved: {error}. Steps kept: {kept}")
    if self._main:
      shutil.rmtree(self.directory / (_name(step) + _SAVING), ignore_errors=True)

  def _steps(self) -> list[int]:
    try:
      return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal() and p.is_dir())
    except OSError:
      return []

  def _prune(self) -> None:
    steps = self._steps()
    scores = {step: _metric(self.directory / _name(step)) for step in steps}
    scored = sorted((score, -step) for step, score in scores.items() if score is not None)
    keep = set(steps[-self._keep_last :]) | {-step for _, step in scored[: self._keep_best]}
    for step in steps:
      if step not in keep:
        gone = self.directory / (_name(step) + _REMOVED)
        try:
          (self.directory / _name(step)).rename(gone)
          shutil.rmtree(gone)
        except OSError as error:  # too much is kept: no reason to lose a save or a run
          _say(f"{self.directory / _name(step)}: cannot be removed: {error}")

  # Restoring

  def _choose(self, step: int | None) -> int:
    """The step to restore, the same on every process; steps that are damaged are put aside."""
    chosen, faults = None, []
    if self._main:
      for candidate in [step] if step is not None else reversed(self._steps()):
        fault = find_damage(self.directory / _name(candidate))
        if fault is None:
          chosen = candidate
          break
        faults.append(fault)
      if chosen is not None:
        for fault in faults:
          _say(f"damaged checkpoint passed over: {fault}; going back to step {chosen}")
        for candidate in [s for s in self._steps() if s > chosen] if step is None else []:
          self._put_aside(candidate)
    chosen = agree(chosen)
    if chosen is None:
      text = "\n  ".join(faults) or "there is no finished checkpoint" * self._main or "see process 0"
      raise CheckpointError(f"{self.directory}: no checkpoint that could be restored:\n  {text}")
    return chosen

  def _put_aside(self, step: int) -> None:
    target = self.directory / (_name(step) + _DAMAGED)
    try:
      shutil.rmtree(target, ignore_errors=True)
      (self.directory / _name(step)).rename(target)
    except OSError as error:
      _say(f"{self.directory / _name(step)}: damaged, and cannot be renamed: {error}")


def read_arrays(directory: str | Path, step: int | None = None, below: str = "params") -> tuple[int, dict[str, Any]]:
  """Arrays of a checkpoint as a nested dict on the host: for exporting and looking.

  Args:
    directory: of `Checkpoints`.
    step: the newest if None.
    below: a path in the state, such as "params", "ema" or "generator/params"; "" for all.

  Returns:
    (step, nested dict by the parts of the paths).

  Raises:
    CheckpointError: no such step, it is damaged, or has nothing below that path.
  """
  directory = Path(directory).absolute()
  steps = sorted(int(p.name) for p in directory.glob("*") if p.name.isdecimal())
  step = step if step is not None or not steps else steps[-1]
  folder = directory / _name(step or 0)
  if fault := find_damage(folder):
    raise CheckpointError(fault)
  prefix = below + "/" if below else ""
  stored = {n: v for n, v in read_json(folder / "info.json")["arrays"].items() if n.startswith(prefix)}
  if not stored:
    raise CheckpointError(f"{folder}: has no arrays below {below!r}")
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  wanted = {n: jax.ShapeDtypeStruct(tuple(s), jnp.dtype(d), sharding=device) for n, (s, d) in stored.items()}
  tree: dict[str, Any] = {}
  for name, array in restore_arrays(folder, wanted).items():
    *parents, last = name.removeprefix(prefix).split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = np.asarray(array)
  return step, tree


def _name(step: int) -> str:
  return f"{step:08d}"


def _metric(folder: Path) -> float | None:
  """The step's metric; None if it has none, or not a finite one."""
  try:
    value = read_json(folder / "info.json")["metric"]
    return float(value) if value is not None and np.isfinite(value) else None
  except (CheckpointError, KeyError, TypeError, ValueError):
    return None


def _no_orbax(record: logging.LogRecord) -> bool:
  """Drops what Orbax logs from its threads: pages of traces for each failed save, which is reported in one line."""
  return "orbax" not in record.pathname


def _say(text: str) -> None:
  print(f"warning: {text}", file=sys.stderr, flush=True)
