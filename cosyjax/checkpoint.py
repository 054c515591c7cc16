"""The model directory: writing it whole or not at all, and reading it into any sharding.

config.json       every size and constant needed to build the modules, with the format and the model's family
params/           Orbax, one item per component: lm, flow, vocoder, speech_tokenizer, speaker
text_tokenizer/   the Qwen tokenizer files, special tags added
voices/           voice profiles
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from cosyjax import config as config_lib
from cosyjax import config_format
from cosyjax.errors import CheckpointError, ConfigError, OutputError
from cosyjax.files import whole


def save_model(
  path: str | Path,
  config: config_lib.ModelConfig,
  params: Mapping[str, Any],
  save_tokenizer: Callable[[Path], None],
  *,
  save_voices: Callable[[Path], None] | None = None,
  source: Mapping[str, Any] | None = None,
) -> None:
  """Writes a model directory beside its target, then renames it into place.

  Args:
    path: the directory to make; it must not exist, or must be empty.
    config: sizes of all components.
    params: component name -> parameter tree, all of `config.COMPONENTS`.
    save_tokenizer: writes the text tokenizer's files into the directory it is given.
    save_voices: writes voice profiles into the directory it is given; none if None.
    source: what the model was made of, ready for JSON; kept in `config.json`.

  Raises:
    OutputError: the target is in the way or cannot be written; nothing is left behind.
  """
  import orbax.checkpoint as ocp

  if set(params) != set(config_lib.COMPONENTS):
    raise CheckpointError(f"save_model: expected components {config_lib.COMPONENTS}, found {sorted(params)}")
  path = Path(path)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise OutputError(f"{path} is already there and not an empty directory; name another or remove it")
  with whole(path, directory=True) as work:
    model = config_lib.to_dict(config)
    info = {"format": config_format.FORMAT, "family": model.pop("family"), "model": model}
    if source is not None:
      info["source"] = dict(source)
    (work / "config.json").write_text(json.dumps(info, indent=2) + "\n")
    (work / "text_tokenizer").mkdir()
    save_tokenizer(work / "text_tokenizer")
    (work / "voices").mkdir()
    if save_voices is not None:
      save_voices(work / "voices")
    items = {name: ocp.args.StandardSave(jax.tree.map(np.asarray, tree)) for name, tree in params.items()}
    with _quiet_orbax(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
      checkpointer.save(work / "params", ocp.args.Composite(**items))


def load_config(path: str | Path) -> config_lib.ModelConfig:
  """Reads `config.json` of a model directory, of this format or an earlier one.

  Raises:
    CheckpointError: no such directory, no or unreadable config, or an unknown format.
  """
  file = Path(path) / "config.json"
  try:
    info = json.loads(file.read_text())
  except FileNotFoundError:
    hint = " (an official release? convert it first: python -m convert.cosyvoice2 SRC DST)"
    official = any(Path(path).glob("cosyvoice*.yaml"))
    raise CheckpointError(f"{path} is no model directory: it has no config.json{hint if official else ''}") from None
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error
  try:
    return config_lib.from_dict(config_format.upgrade(info), where="model")
  except ConfigError as error:
    raise CheckpointError(f"{file}: {error}") from error


def load_params(path: str | Path, component: str, abstract: Any, shardings: Any = None) -> Any:
  """Restores one component's parameters, each array straight into its sharding.

  Args:
    path: model directory.
    component: one of `config.COMPONENTS`.
    abstract: unboxed tree of `jax.ShapeDtypeStruct` that the parameters must match.
    shardings: tree of shardings like `abstract`, or one sharding for all; the default
      device if None.

  Raises:
    CheckpointError: the item is missing, damaged, or of a model with other sizes.
  """
  import orbax.checkpoint as ocp

  if shardings is None:
    shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if isinstance(shardings, jax.sharding.Sharding):
    shardings = jax.tree.map(lambda _: shardings, abstract)
  target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
  root = Path(path).absolute() / "params"
  if not (root / component).is_dir():
    raise CheckpointError(f"{path}: no parameters of {component} in {root}; the directory is incomplete")
  handler = ocp.CompositeCheckpointHandler(**{component: ocp.StandardCheckpointHandler()})
  with _quiet_orbax(), ocp.Checkpointer(handler) as checkpointer:
    try:
      _check_shapes(checkpointer.metadata(root).item_metadata[component], abstract, f"{root / component}")
      restored = checkpointer.restore(root, ocp.args.Composite(**{component: ocp.args.StandardRestore(target)}))
    except CheckpointError:
      raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
      raise CheckpointError(f"{root / component} cannot be restored; it is damaged or incomplete: {error}") from error
  return restored[component]


def _check_shapes(metadata: Any, abstract: Any, where: str) -> None:
  stored = flax.traverse_util.flatten_dict(getattr(metadata, "tree", metadata), sep="/")
  found = {name: tuple(leaf.shape) for name, leaf in stored.items()}
  wanted = {name: tuple(leaf.shape) for name, leaf in flax.traverse_util.flatten_dict(abstract, sep="/").items()}
  if found != wanted:
    lines = [f"{k}: expected {wanted.get(k)}, found {found.get(k)}" for k in sorted(found.keys() | wanted.keys())]
    wrong = [line for line in lines if len(set(line.split(": expected ")[1].split(", found "))) == 2]
    raise CheckpointError(f"{where} holds a model of other sizes than config.json says:\n  " + "\n  ".join(wrong[:20]))


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Orbax logs a dozen lines per save through absl; none of them is for a user."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
