"""Parameters in bfloat16, in files of a size that may travel."""

import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from cosyjax import config as config_lib

PIECE = 15 << 20  # bytes of a file, at most


def rounded(tree: Any) -> Any:
  """Parameters as they will be kept: float32 arrays that bfloat16 can hold."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), tree)


def save(folder: Path, name: str, tree: Any) -> None:
  """Writes NAME.0.npz, NAME.1.npz ... of at most `PIECE` bytes each: arrays by their paths, bfloat16 as uint16."""
  pieces: list[dict[str, np.ndarray]] = [{}]
  size = 0
  for path, x in flax.traverse_util.flatten_dict(jax.device_get(tree), sep="/").items():
    array = np.asarray(x).astype(ml_dtypes.bfloat16).view(np.uint16)
    if size and size + array.nbytes + 512 > PIECE:
      pieces.append({})
      size = 0
    pieces[-1][path] = array
    size += array.nbytes + 512
  for n, piece in enumerate(pieces):
    part = folder / f".{name}.{n}.part.npz"
    np.savez(part, **piece)
    part.replace(folder / f"{name}.{n}.npz")


def load(folder: Path, name: str) -> Any | None:
  """The float32 parameters that `save` wrote; None if there are none."""
  files = sorted(folder.glob(f"{name}.*.npz"))
  found = {}
  for file in files:
    with np.load(file) as arrays:
      found |= {path: arrays[path].view(ml_dtypes.bfloat16).astype(np.float32) for path in arrays.files}
  return flax.traverse_util.unflatten_dict(found, sep="/") if found else None


def save_config(folder: Path, parts: Any) -> None:
  """Writes config.json: the sizes of the model that `train.box_device` trains, and of its recogniser."""
  model = config_lib.ModelConfig(
    text=config_lib.TextConfig(split_cjk=True),
    speech_tokenizer=parts.tokenizer.tokenizer,
    speaker=parts.speaker.speaker,
    lm=parts.lm.lm,
    flow=parts.flow.flow,
    vocoder=parts.vocoder.model,
  )
  info = {"model": config_lib.to_dict(model), "asr": config_lib.to_dict(parts.tokenizer.asr)}
  (folder / "config.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
