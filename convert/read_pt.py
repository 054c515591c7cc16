"""Reads the tensors of a PyTorch checkpoint without PyTorch and without running any of it.

A checkpoint is a zip of raw storages and one pickle that says how tensors lie in them
(`pt_pickle` reads it). Sizes, offsets and strides are checked against the file before any
memory is taken.
"""

import io
import logging
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.pt_pickle import Storage, Tensor, load
from cosyjax.errors import ConversionError, UnsafeFileError

log = logging.getLogger("cosyjax.convert")

_MAX_PICKLE = 8 << 20  # bytes; that of the largest released model has less than one
_MAX_LEAVES = 200_000
_MAX_DEPTH = 8
_MAX_EXPANSION = 4  # bytes out per byte of the file: half precision doubles, tied weights double again
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # around the tensors of a training checkpoint
_RESAVE = 'save it again as torch.save(torch.load(PATH, map_location="cpu", weights_only=True), NEW_PATH)'


def read_pt(path: str | Path, *, empty: bool = False) -> dict[str, np.ndarray]:
  """Tensors of a checkpoint by name.

  Floating point comes out as float32, integers and booleans as they are. Dicts in dicts are
  joined by dots; one around everything ("state_dict", "model", ...) is taken off. Entries
  that are no tensors, such as the epoch of a training checkpoint, are left out and logged.

  Args:
    path: written by `torch.save` of PyTorch 1.6 or later.
    empty: whether a file without tensors is one too.

  Returns:
    Name -> array (read-only where it shares the file's bytes).

  Raises:
    ConversionError: not such a file, damaged, or without tensors.
    UnsafeFileError: the file asks for more than tensors. Nothing of it has been run.
  """
  path = Path(path)
  try:
    with path.open("rb") as file:
      archive = _Archive(path, file)
      root = load(path, archive.pickle())
      tensors = _materialise(path, archive, root)
  except OSError as error:
    raise ConversionError(f"{path} cannot be read: {error}") from error
  if not tensors and not empty:
    raise ConversionError(f"{path} holds no tensors")
  return tensors


# The zip.


class _Archive:
  """The zip around a checkpoint; every entry has been found to lie in the file, apart from the others."""

  def __init__(self, path: Path, file: BinaryIO) -> None:
    self.path, self.file = path, file
    self.size = path.stat().st_size
    head = file.read(512)
    if head[:4] != b"PK\x03\x04":
      old = head[:2] in (b"\x80\x02", b"\x80\x04") or head[257:262] == b"ustar"
      what = f"is in PyTorch's format before 1.6; {_RESAVE}" if old else "is no PyTorch checkpoint (not a zip file)"
      raise ConversionError(f"{path} {what}")
    try:
      with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError, OverflowError) as error:
      raise ConversionError(f"{path} is damaged or cut short: {error}") from error
    names = [entry.filename for entry in entries]
    if any(name.split("/")[1:2] in (["code"], ["constants.pkl"]) for name in names):
      raise ConversionError(
        f"{path} is a TorchScript program, not a checkpoint; save its tensors as"
        " torch.save(torch.jit.load(PATH).state_dict(), NEW_PATH)"
      )
    self.entries: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
      self._check(entry)
      self.entries[entry.filename] = entry
    self._check_apart(entries)
    self.root = self._find_root()
    order = self.read(f"{self.root}/byteorder", 16) if f"{self.root}/byteorder" in self.entries else b"little"
    if order not in (b"little", b"big"):
      raise ConversionError(f"{path}: byteorder: expected little or big, found {order!r}")
    self.byte_order = "<" if order == b"little" else ">"

  def _check(self, entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if name in self.entries:
      raise UnsafeFileError(f"{self.path}: two entries are called {name!r}")
    if name.startswith("/") or "\\" in entry.orig_filename or ".." in name.split("/") or ":" in name.split("/")[0]:
      raise UnsafeFileError(f"{self.path}: entry {name!r} points outside the archive")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
      raise UnsafeFileError(f"{self.path}: entry {name!r} is compressed or encrypted, which PyTorch never writes")

  def _check_apart(self, entries: list[zipfile.ZipInfo]) -> None:
    end = 0
    for entry in sorted(entries, key=lambda e: e.header_offset):
      if entry.header_offset < end:
        raise UnsafeFileError(f"{self.path}: entry {entry.filename!r} overlaps another")
      end = entry.header_offset + 30 + entry.file_size
    if end > self.size:
      raise ConversionError(f"{self.path}: its entries need {end:,} bytes, the file has {self.size:,}")

  def _find_root(self) -> str:
    """The one folder that everything lies in."""
    roots = {name.split("/")[0] for name in self.entries if name.endswith("/data.pkl") and name.count("/") == 1}
    if len(roots) != 1:
      raise ConversionError(f"{self.path} is no PyTorch checkpoint: expected one data.pkl, found {len(roots)}")
    return roots.pop()

  def pickle(self) -> bytes:
    return self.read(f"{self.root}/data.pkl", _MAX_PICKLE)

  def read(self, name: str, most: int) -> bytes:
    """One entry, of at most `most` bytes."""
    entry = self.entries[name]
    if entry.file_size > most:
      raise ConversionError(f"{self.path}: entry {name!r} has {entry.file_size:,} bytes, at most {most:,} are expected")
    self.file.seek(entry.header_offset)
    header = self.file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
      raise ConversionError(f"{self.path}: entry {name!r} has no header where it should be")
    name_size, extra_size = struct.unpack("<HH", header[26:30])
    local = self.file.read(name_size)
    if local != entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437", "replace"):
      raise UnsafeFileError(f"{self.path}: entry {name!r} is called {local!r} in its own header")
    self.file.seek(extra_size, io.SEEK_CUR)
    data = self.file.read(entry.file_size)
    if len(data) != entry.file_size:
      raise ConversionError(f"{self.path}: entry {name!r} is cut short: {len(data):,} of {entry.file_size:,} bytes")
    if zlib.crc32(data) != entry.CRC:
      raise ConversionError(f"{self.path}: entry {name!r} is damaged: its checksum is wrong")
    return data


# The tensors.


def _materialise(path: Path, archive: _Archive, root: Any) -> dict[str, np.ndarray]:
  skipped: list[str] = []
  storages: dict[str, tuple[Storage, np.ndarray]] = {}
  out: dict[str, np.ndarray] = {}
  room = _MAX_EXPANSION * archive.size
  for name, tensor in _leaves(path, root, skipped):
    if name in out:
      raise ConversionError(f"{path}: two tensors are called {name!r}")
    _check_view(path, name, tensor)
    room -= max(_item_size(tensor.storage.kind), 4) * math.prod(tensor.shape)
    if room < 0:
      raise ConversionError(f"{path}: its tensors are far larger than the file; it is damaged or made to harm")
    key = tensor.storage.key
    if key not in storages:
      storages[key] = (tensor.storage, _read_storage(path, archive, name, tensor.storage))
    if storages[key][0] != tensor.storage:
      raise ConversionError(f"{path}: tensor {name!r} reads storage {key!r} as another type than tensors before it")
    out[name] = _view(storages[key][1], tensor)
  if skipped:
    shown = ", ".join(skipped[:8]) + (f" and {len(skipped) - 8} more" if len(skipped) > 8 else "")
    log.warning("%s: left out, since they are no tensors: %s", path, shown)
  return out


def _leaves(path: Path, root: Any, skipped: list[str]) -> Iterator[tuple[str, Tensor]]:
  """Name and description of every tensor; `skipped` takes the names of all else."""
  if type(root) is not dict:
    raise ConversionError(f"{path}: expected a dict of tensors, found {type(root).__name__.strip('_')}")
  for _ in range(_MAX_DEPTH):
    wrapper = next((name for name in _WRAPPERS if type(root.get(name)) is dict), None)
    if wrapper is None or any(type(value) is Tensor for value in root.values()):
      break
    skipped += [str(name)[:120] for name in root if name != wrapper]
    root = root[wrapper]
  queue = [("", root, 0)]
  seen = 0
  while queue:
    prefix, node, depth = queue.pop()
    for key, value in node.items():
      seen += 1
      name = f"{prefix}{key}"[:500]
      if seen > _MAX_LEAVES or depth > _MAX_DEPTH:
        raise ConversionError(f"{path}: its dicts go deeper or wider than those of a model")
      if type(value) is Tensor:
        yield name, value
      elif type(value) is dict:
        queue.append((name + ".", value, depth + 1))
      else:
        skipped.append(name)


def _item_size(kind: str) -> int:
  return 2 if kind == "bf16" else np.dtype(kind).itemsize


def _check_view(path: Path, name: str, tensor: Tensor) -> None:
  """Every element of a tensor lies in its storage, and they are no more than the storage has."""
  storage, offset, shape, strides = tensor
  numbers = [offset, storage.count]
  for part in (shape, strides):
    if type(part) is not tuple:
      raise ConversionError(f"{path}: tensor {name!r} has no valid shape or strides")
    numbers += part
  if len(shape) != len(strides) or len(shape) > 16:
    raise ConversionError(f"{path}: tensor {name!r} has {len(shape)} axes and {len(strides)} strides")
  if any(type(n) is not int or not 0 <= n < 2**48 for n in numbers):
    raise ConversionError(f"{path}: tensor {name!r} has a size, stride or offset that is no number of elements")
  if math.prod(max(n, 1) for n in shape) >= 2**48:
    raise ConversionError(f"{path}: tensor {name!r} has more elements than any file")
  if math.prod(shape) == 0:
    return
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
  if last >= storage.count or math.prod(shape) > storage.count:
    raise ConversionError(
      f"{path}: tensor {name!r} of shape {shape}, strides {strides} and offset {offset} does not fit its storage of"
      f" {storage.count} elements"
    )


def _read_storage(path: Path, archive: _Archive, name: str, storage: Storage) -> np.ndarray:
  """All elements of a storage: floating point as float32."""
  entry = f"{archive.root}/data/{storage.key}"
  if entry not in archive.entries:
    raise ConversionError(f"{path}: the data of tensor {name!r} is missing ({entry[:120]!r})")
  size = storage.count * _item_size(storage.kind)
  if archive.entries[entry].file_size != size:
    raise ConversionError(
      f"{path}: the data of tensor {name!r} has {archive.entries[entry].file_size:,} bytes, expected {size:,}"
    )
  data = archive.read(entry, size)
  if storage.kind == "bf16":  # the upper half of a float32
    return (np.frombuffer(data, archive.byte_order + "u2").astype(np.uint32) << 16).view(np.float32)
  if storage.kind == "?":
    return np.frombuffer(data, np.uint8) != 0
  values = np.frombuffer(data, np.dtype(storage.kind).newbyteorder(archive.byte_order))
  with np.errstate(over="ignore"):  # to infinity, which the conversion reports by name
    return values.astype(np.float32 if values.dtype.kind == "f" else values.dtype.newbyteorder("="), copy=False)


def _view(flat: np.ndarray, tensor: Tensor) -> np.ndarray:
  if math.prod(tensor.shape) == 0:
    return np.zeros(tensor.shape, flat.dtype)
  strides = tuple(stride * flat.itemsize for stride in tensor.strides)
  view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
  return np.ascontiguousarray(view).reshape(tensor.shape)
