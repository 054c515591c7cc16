"""Parts of checkpoints: digests, the comparison of configurations, what must fit what, reading arrays."""

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from cosyjax.checkpoint import _quiet_orbax
from cosyjax.errors import CheckpointError

_CHUNK = 1 << 22


def find_damage(folder: Path) -> str | None:
  """What is wrong with a finished checkpoint, naming the first file, or None if it is whole."""
  file = folder / "digests"
  try:
    digest, _, body = file.read_bytes().partition(b"\n")
    if digest != _blake(body).encode():
      return f"{file}: does not match its own digest"
    listed = json.loads(body)
    there = _files(folder)
    for name, (size, _) in listed.items():
      if name not in there:
        return f"{folder / name}: missing"
      found = there[name].stat().st_size
      if found != size:
        return f"{folder / name}: expected {size} bytes, found {found}"
    found = _digests({name: there[name] for name in listed})
    for name, (_, wanted) in listed.items():
      if found[name] != wanted:
        return f"{folder / name}: its content differs from what was saved"
    if extra := sorted(there.keys() - listed.keys()):
      return f"{folder / extra[0]}: not part of this checkpoint"
  except FileNotFoundError as error:
    return f"{error.filename}: missing"
  except (OSError, ValueError, TypeError) as error:
    return f"{file}: cannot be read: {error}"
  return None


def check_config(
  saved: dict[str, Any], current: dict[str, Any], allowed: Sequence[str], where: str, defaults: dict[str, Any]
) -> None:
  """Refuses to go on under another configuration.

  A setting that was not there yet when the checkpoint was saved counts as saved with its default.

  Raises:
    CheckpointError: a setting differs that is not below one of the `allowed` names; with a diff.
  """
  # Through JSON: a tuple that was saved comes back as a list
  saved, current, defaults = (_flat(json.loads(json.dumps(config))) for config in (saved, current, defaults))
  saved = {name: value for name, value in defaults.items() if name in current} | saved
  covered = lambda name: any(name == a or name.startswith(a + ".") for a in allowed)
  missing = object()
  differ = [n for n in saved.keys() | current.keys() if saved.get(n, missing) != current.get(n, missing)]
  refused = sorted(name for name in differ if not covered(name))
  if not refused:
    return
  lines = [[f"{name} = {json.dumps(config[name])}" for name in sorted(config)] for config in (saved, current)]
  diff = "\n".join(difflib.unified_diff(*lines, "checkpoint", "this run", n=0, lineterm=""))
  raise CheckpointError(
    f"{where}: was saved under another configuration ({', '.join(refused)}):\n{diff}\n"
    "Use the settings of the run, another --out, or --allow-config-change with these names"
  )


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(config, dict):
    return {prefix: config}
  out = {}
  for name, value in config.items():
    out |= _flat(value, f"{prefix}.{name}".lstrip("."))
  return out


def check_arrays(saved: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
  """Refuses a checkpoint whose arrays are not those of the model.

  Args:
    saved: path in the state -> (shape, dtype).
    wanted: path -> anything with `shape` and `dtype`.
    where: for the message.

  Raises:
    CheckpointError: a name, shape or dtype differs; with the list.
  """
  found = {name: f"{dtype} {tuple(shape)}" for name, (shape, dtype) in saved.items()}
  expected = {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in wanted.items()}
  wrong = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
  if wrong:
    lines = [f"{n}: expected {expected.get(n, 'nothing')}, found {found.get(n, 'nothing')}" for n in wrong[:20]]
    more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
    raise CheckpointError(f"{where}: holds the state of another model:\n  " + "\n  ".join(lines) + more)


def write_digests(folder: Path) -> None:
  """Writes size and digest of every file of a checkpoint, to the disk itself."""
  files = dict(sorted(_files(folder).items()))
  digests = _digests(files)
  listed = {name: [path.stat().st_size, digests[name]] for name, path in files.items()}
  body = json.dumps(listed, indent=0).encode()
  with (folder / "digests").open("wb") as out:
    out.write(_blake(body).encode() + b"\n" + body)
    out.flush()
    os.fsync(out.fileno())


def part_file(folder: Path, name: str) -> Path:
  """The JSON file of a checkpoint's "config", "info" or "iterator"."""
  of_earlier_versions = folder / f"{name}.json"
  return of_earlier_versions if of_earlier_versions.exists() else folder / name / "metadata"


def _files(folder: Path) -> dict[str, Path]:
  """All files below, but the digests, by relative path."""
  found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
  found.pop("digests", None)
  return found


def _digests(files: dict[str, Path]) -> dict[str, str]:
  with ThreadPoolExecutor(8) as pool:  # hashing leaves the interpreter lock
    return dict(zip(files, pool.map(_digest, files.values()), strict=True))


def _digest(path: Path) -> str:
  state = hashlib.blake2b(digest_size=16)
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK):
      state.update(chunk)
  return state.hexdigest()


def _blake(data: bytes) -> str:
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_json(path: Path) -> Any:
  """The file's content.

  Raises:
    CheckpointError: it cannot be read, or is no JSON.
  """
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error


def leaf_paths(tree: Any) -> list[str]:
  """The path of every leaf, as "params/stack/layers/q/kernel"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def restore_arrays(folder: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Reads arrays of a checkpoint's folder, each into the sharding of its `jax.ShapeDtypeStruct`; others are left out.

  Raises:
    CheckpointError: Orbax cannot.
  """
  import orbax.checkpoint as ocp

  try:
    with _quiet_orbax(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      how = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
      )
      return reader.restore(folder / "state", args=how)
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise CheckpointError(f"{folder / 'state'}: cannot be restored: {error}") from error
