"""Checkpoints of a run: written in the background, whole or not at all, and never read unless whole.

    DIR/00000500/                         a step that counts
      state/                                every array of the state, under its path in the tree
      iterator/ config/ info/               JSON: state of the data iterator; the run's configuration; step, metric,
                                            and the shape and dtype of every array
      digests                               size and BLAKE2 of each file above, under a digest of its own
    DIR/00001000.orbax-checkpoint-tmp/    a save under way, or cut off: removed at the next start
    DIR/00000900.damaged/                 a step that failed its digests and was passed over

Orbax's `CheckpointManager` writes a step beside its place, puts it there when all processes have written their shards,
and keeps the last and the best. Added here: digests, which are part of a step before it counts, so that whatever then
differs from them is damage; the comparison of configurations; and going back to an older step from a damaged one.
Directories of earlier versions, whose JSON is in files, are read as well; see `checkpoint_files.part_file`.
"""

import asyncio
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cosyjax.errors import CheckpointError, OutputError
from cosyjax.training.checkpoint_files import (
  check_arrays,
  check_config,
  find_damage,
  leaf_paths,
  part_file,
  read_json,
  restore_arrays,
  write_digests,
)
from cosyjax.training.checkpoint_read import best_step, read_metric, saved_steps, step_name
from cosyjax.training.processes import agree, meet

UNFINISHED = (".orbax-checkpoint-tmp", ".saving", ".removed")  # the last two: of earlier versions
_DAMAGED = ".damaged"


class _Digested(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A step's directory while it is written: it gets its digests when all is there, and then its name."""

  async def finalize(self) -> None:
    if self._checkpoint_metadata_store:
      await asyncio.to_thread(self._checkpoint_metadata_store.wait_until_finished)
    await asyncio.to_thread(write_digests, Path(self.get()))
    Path(self.get()).rename(self.get_final())


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, with metrics from `info`, so that steps of earlier versions have theirs."""

  def metrics(self, step: int) -> dict[str, float] | None:
    value = read_metric(Path(self.directory) / step_name(step))
    return None if value is None else {"value": value}


class Checkpoints:
  """The checkpoints of one run.

  Every process of a run makes one and calls the same methods at the same steps; the directory
  is shared between them. Process 0 writes all files that are not arrays.

  Attributes:
    directory: where they are.
    metric: name of the metric.
  """

  def __init__(
    self,
    directory: str | Path,
    *,
    config: dict[str, Any],
    defaults: dict[str, Any] | None = None,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config,
    keep_last: int = 3,
    keep_best: int = 1,
    metric: str | None = None,
    allow_config_change: Sequence[str] = (),
  ) -> None:
    """Opens (or makes) the directory and removes what interrupted saves have left there.

    Args:
      directory: shared by all processes.
      config: plain nested dict of the run's settings, as `cosyjax.config.to_dict` gives it.
      defaults: of settings, for what a checkpoint has no record of.
      upgrade: settings as an earlier version wrote them to the present ones.
      keep_last: newest steps that are kept.
      keep_best: steps of lowest metric that are kept besides.
      metric: name of the metric, for `info.json`.
      allow_config_change: dotted names of settings that may differ on resuming; a name stands
        for all below it.

    Raises:
      OutputError: the directory cannot be made.
    """
    self.directory = Path(directory).absolute()
    self._config, self.metric, self._allowed = config, metric, tuple(allow_config_change)
    self._defaults, self._upgrade = defaults or {}, upgrade
    self._keep_last, self._keep_best = max(keep_last, 1), keep_best
    self._saving: int | None = None
    self._main = jax.process_index() == 0
    if self._main:
      try:
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.iterdir():
          if leftover.name.endswith(UNFINISHED):
            if not leftover.name.endswith(".removed"):
              _say(f"{leftover}: an interrupted save, removed")
            shutil.rmtree(leftover)
      except OSError as error:
        raise OutputError(f"{self.directory}: checkpoints cannot be written there: {error}") from error
    meet("checkpoints opened")
    logging.getLogger("absl").addFilter(_no_orbax)
    self._manager = self._open()

  def _open(self) -> _Manager:
    value = lambda metrics: metrics["value"]
    keep = ocp.checkpoint_managers
    best = keep.BestN(get_metric_fn=value, reverse=True, n=self._keep_best, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
      step_format_fixed_length=len(step_name(0)),
      preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(self._keep_last), best]),
      best_fn=value,
      best_mode="min",
      prevent_write_metrics=True,
      save_root_metadata=False,
      temporary_path_class=_Digested,
      async_options=ocp.AsyncOptions(timeout_secs=1800),
    )
    return _Manager(self.directory, options=options)

  def latest(self) -> int | None:
    """The newest complete step, or None. Its digests are checked by `restore`."""
    self._finish()
    found = self._steps()
    return agree(found[-1] if found else None)

  def best(self) -> tuple[int | None, float | None]:
    """The step of the lowest metric, and the metric; (None, None) without one."""
    step, _, value = best_step(self.directory)
    return step, value

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
    json.dumps(iterator)  # what is no JSON is a fault of the program, not of the disk
    arrays = dict(zip(leaf_paths(state), jax.tree.leaves(state), strict=True))
    shapes = {name: [list(np.shape(x)), str(x.dtype)] for name, x in arrays.items()}
    score = float(metric) if metric is not None and np.isfinite(metric) else None
    info = {"step": step, "metric": score, "metric_name": self.metric, "arrays": shapes}
    texts = {"iterator": iterator, "config": self._config, "info": info}
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(arrays), **{name: ocp.args.JsonSave(value) for name, value in texts.items()}
    )
    self._finish()
    if agree(step if (self.directory / step_name(step)).exists() else None) is not None:
      return
    error = None
    try:
      self._try_directory()
      self._saving = step
      self._manager.save(step, args=args, metrics=None if score is None else {"value": score}, force=True)
    except Exception as caught:  # Orbax and TensorStore raise many kinds for a full or read-only disk
      error, self._saving = caught, None
      self._report(step, error)
    if wait and (error := error or self._finish()):
      raise OutputError(f"{self.directory / step_name(step)}: the checkpoint could not be written: {error}") from error

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
    folder = self.directory / step_name(step)
    config, info, iterator = (read_json(part_file(folder, name)) for name in ("config", "info", "iterator"))
    check_config(self._upgrade(config), self._config, self._allowed, str(folder), self._defaults)
    if not isinstance(iterator, dict):
      raise CheckpointError(
        f"{part_file(folder, 'iterator')}: no state of the data iterator; a run cannot go on from here"
      )
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
    step, error = self._saving, self._finish()
    self._manager.close()
    logging.getLogger("absl").removeFilter(_no_orbax)
    if error is not None:
      raise OutputError(f"{self.directory / step_name(step)}: the checkpoint could not be written: {error}") from error

  # Saving

  def _try_directory(self) -> None:
    """No process may wait in Orbax for one that cannot write."""
    fault = None
    if self._main:
      try:
        probe = self.directory / f"probe{UNFINISHED[0]}"
        probe.mkdir()
        probe.rmdir()
      except OSError as error:
        fault = error
    if agree(None if fault else 1) is None:
      raise fault or OSError("process 0 cannot write to the directory")

  def _finish(self) -> BaseException | None:
    """Waits for the save under way, if any; reports and returns its error."""
    step, self._saving = self._saving, None
    if step is None:
      return None
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._report(step, error)
      return error
    return None

  def _report(self, step: int, error: BaseException) -> None:
    kept = ", ".join(map(str, self._steps())) or "none"
    _say(f"{self.directory}: step {step} could not be saved: {error}. Steps kept: {kept}")
    if self._main:
      shutil.rmtree(self.directory / (step_name(step) + UNFINISHED[0]), ignore_errors=True)
    self._manager.reload()

  def _steps(self) -> list[int]:
    return saved_steps(self.directory)

  # Restoring

  def _choose(self, step: int | None) -> int:
    """The step to restore, the same on every process; steps that are damaged are put aside."""
    chosen, faults = None, []
    if self._main:
      for candidate in [step] if step is not None else reversed(self._steps()):
        fault = find_damage(self.directory / step_name(candidate))
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
    self._manager.reload()
    if chosen is None:
      text = "\n  ".join(faults) or "there is no finished checkpoint" * self._main or "see process 0"
      raise CheckpointError(f"{self.directory}: no checkpoint that could be restored:\n  {text}")
    return chosen

  def _put_aside(self, step: int) -> None:
    target = self.directory / (step_name(step) + _DAMAGED)
    try:
      shutil.rmtree(target, ignore_errors=True)
      (self.directory / step_name(step)).rename(target)
    except OSError as error:
      _say(f"{self.directory / step_name(step)}: damaged, and cannot be renamed: {error}")


def _no_orbax(record: logging.LogRecord) -> bool:
  """Drops what Orbax logs from its threads: pages of traces for each failed save, which is reported in one line."""
  return "orbax" not in record.pathname


def _say(text: str) -> None:
  print(f"warning: {text}", file=sys.stderr, flush=True)
