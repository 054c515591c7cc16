"""Reads tensors of a safetensors file, which holds nothing that could run."""

from pathlib import Path

import numpy as np

from cosyjax.errors import ConversionError

_FLOATS = ("float64", "float32", "float16", "bfloat16")


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
  """Tensors of a file by name, as float32.

  The package checks sizes, offsets and the header before any memory is taken.

  Raises:
    ConversionError: not such a file, damaged, or with tensors that are not floating point.
  """
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="np") as file:
      found = {name: file.get_tensor(name) for name in list(file.keys())}
  except (OSError, SafetensorError, ValueError, TypeError) as error:
    raise ConversionError(f"{path} is no whole safetensors file: {error}") from error
  wrong = [name for name, x in found.items() if str(x.dtype) not in _FLOATS]
  if wrong:
    raise ConversionError(f"{path}: expected floating point tensors, found others: {wrong[:8]}")
  return {name: np.asarray(x, np.float32) for name, x in found.items()}
