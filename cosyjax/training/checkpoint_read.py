"""Checkpoints of a run from outside it: which steps there are, which is the best, and what they hold."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import CheckpointError
from cosyjax.training.checkpoint_files import find_damage, part_file, read_json, restore_arrays


def saved_steps(directory: Path) -> list[int]:
  """Steps of the complete checkpoints in a directory of `Checkpoints`, ascending."""
  try:
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())
  except OSError:
    return []


def best_step(directory: Path) -> tuple[int | None, str, float | None]:
  """(step, name of the metric, its value) of the lowest metric; the step is None if none has one."""
  found = [
    (value, step) for step in saved_steps(directory) if (value := read_metric(directory / step_name(step))) is not None
  ]
  if not found:
    return None, "", None
  value, step = min(found, key=lambda pair: (pair[0], -pair[1]))
  return step, read_part(directory, step, "info").get("metric_name") or "metric", value


def read_part(directory: Path, step: int, name: str) -> Any:
  """The "config", "info" or "iterator" of a checkpoint.

  Raises:
    CheckpointError: it cannot be read.
  """
  return read_json(part_file(directory / step_name(step), name))


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
  steps = saved_steps(directory)
  step = step if step is not None or not steps else steps[-1]
  folder = directory / step_name(step or 0)
  if fault := find_damage(folder):
    raise CheckpointError(fault)
  prefix = below + "/" if below else ""
  stored = {n: v for n, v in read_json(part_file(folder, "info"))["arrays"].items() if n.startswith(prefix)}
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


def step_name(step: int) -> str:
  """The name of a step's folder."""
  return f"{step:08d}"


def read_metric(folder: Path) -> float | None:
  """The step's metric; None if it has none, or not a finite one."""
  try:
    value = read_json(part_file(folder, "info"))["metric"]
    return float(value) if value is not None and np.isfinite(value) else None
  except (CheckpointError, KeyError, TypeError, ValueError):
    return None
