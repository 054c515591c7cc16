"""Writes tensors as `torch.save` does, without PyTorch: a zip of raw storages and a pickle that says what they are."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import ConversionError
from cosyjax.files import whole

_ALIGNED = 64  # bytes; PyTorch can map storages that begin at multiples of it
_STORAGES = {
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "float16": "HalfStorage",
  "int64": "LongStorage",
  "int32": "IntStorage",
  "uint8": "ByteStorage",
  "bool": "BoolStorage",
}
_DATE = (1980, 1, 1, 0, 0, 0)  # equal tensors give equal files


def write_pt(path: str | Path, tensors: Mapping[str, Any]) -> None:
  """Write a state dict to a file that `torch.load(path, weights_only=True)` reads; whole or not at all.

  Args:
    path: of the file.
    tensors: name -> array, or a dict of such, as in `spk2info.pt`. An array that occurs twice is stored once.

  Raises:
    ConversionError: a value that is neither, or an array of a type without a storage.
    OutputError: the file cannot be written.
  """
  pickle = _Pickle()
  pickle.dict(tensors)
  with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
    root = Path(path).stem
    _add(archive, f"{root}/data.pkl", pickle.program())
    _add(archive, f"{root}/byteorder", b"little")
    for key, array in enumerate(pickle.arrays):
      _add(archive, f"{root}/data/{key}", memoryview(array.reshape(-1)).cast("B") if array.size else b"")
    _add(archive, f"{root}/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
  entry = zipfile.ZipInfo(name, _DATE)
  begin = archive.fp.tell() + 30 + len(name.encode())  # where its data would begin
  padding = -(begin + 4) % _ALIGNED
  entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
  archive.writestr(entry, data)


class _Pickle:
  """The opcodes of a pickle of protocol 2 that describes tensors; see `convert.pt_pickle` for reading them."""

  def __init__(self) -> None:
    self.arrays: list[np.ndarray] = []
    self._keys: dict[tuple[int, tuple[int, ...]], int] = {}
    self._kept: list[np.ndarray] = []  # alive, so that ids stay theirs
    self._parts = [b"\x80\x02"]

  def program(self) -> bytes:
    return b"".join(self._parts) + b"."

  def dict(self, values: Mapping[str, Any]) -> None:
    self._parts.append(_ORDERED_DICT + b"(")
    for name, value in values.items():
      self._parts.append(_text(name))
      if isinstance(value, Mapping):
        self.dict(value)
      else:
        self._tensor(name, value)
    self._parts.append(b"u")

  def _tensor(self, name: str, value: Any) -> None:
    kind = _STORAGES.get(str(getattr(value, "dtype", "")))
    if kind is None:
      raise ConversionError(f"{name}: expected an array of {', '.join(_STORAGES)}, found {type(value).__name__}")
    identity = id(value), value.shape
    if identity not in self._keys:
      array = np.ascontiguousarray(value)
      self._keys[identity] = len(self.arrays)
      self._kept.append(value)
      self.arrays.append(array.astype(array.dtype.newbyteorder("<"), copy=False))
    strides = [stride // value.dtype.itemsize for stride in np.empty(value.shape, value.dtype).strides]
    storage = b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(str(self._keys[identity])) + _text("cpu")
    view = _number(0) + _numbers(value.shape) + _numbers(strides)
    self._parts.append(_TENSOR + b"(" + storage + _number(value.size) + b"tQ" + view + b"\x89" + _ORDERED_DICT + b"tR")


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _text(value: str) -> bytes:
  raw = value.encode()
  return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
  if value < 2**31:
    return b"J" + struct.pack("<i", value)
  return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values: Any) -> bytes:
  return b"(" + b"".join(map(_number, values)) + b"t"
