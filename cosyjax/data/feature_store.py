"""Features beside a corpus: arrays computed once for every example, in shards like the corpus's own.

  DIR/features/<name>/meta.json                                   name, format, fingerprint
  DIR/features/<name>/<split>-00003-of-00016.array_record         one record an example: a `.npy` array
  DIR/features/<name>/<split>-00003-of-00016.json                 fingerprint, lengths, size of the shard

The small file is written last, so a shard is whole when it is there. The fingerprint says what made
the feature (a model's weights, or the version of its recipe): shards of two makers are never mixed.
An example that could not be read has an array of length 0.
"""

import contextlib
import dataclasses
import functools
import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import DataError, OutputError
from cosyjax.files import whole

FORMAT = 1
WRITER_OPTIONS = "group_size:1,uncompressed"  # a record is read without its neighbours; floats hardly shrink
STALE = 24 * 3600  # seconds after which a part that nobody writes to was left by a job that was killed


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a feature is stored.

  Attributes:
    dtype: of the array.
    shape: of the array but for its first axis.
    rate: entries a second, 0 where the first axis is not time.
    says: what it is.
  """

  dtype: str
  shape: tuple[int, ...]
  rate: float
  says: str


KINDS = {
  "text_ids": Kind("int32", (), 0, "ids of the cleaned transcript, instruction first"),
  "speech_tokens": Kind("int32", (), 25, "speech tokens [U]"),
  "mel": Kind("float32", (80,), 50, "24 kHz log-mel [2U, 80]"),
  "f0": Kind("float32", (), 50, "fundamental frequency [2U] in Hz, 0 where unvoiced"),
  "speaker": Kind("float32", (), 0, "speaker vector [E]"),
  # Rounding to 11 bits is below 1e-3 of log-mel's range of two and 4e-3 of the filter bank's of thirty, and
  # halves what training reads. Speech tokens and speaker vectors are computed from unrounded values.
  "log_mel_16k": Kind("float16", (128,), 100, "16 kHz log-mel [T, 128]"),
  "fbank": Kind("float16", (80,), 100, "Kaldi filter bank [T, 80]"),
}


def shard_stem(split: str, index: int, count: int) -> str:
  """Name of a shard without its ending."""
  return f"{split}-{index:05d}-of-{count:05d}"


def feature_dir(directory: str | Path, name: str) -> Path:
  """Where a corpus keeps a feature."""
  return Path(directory) / "features" / name


class Features:
  """Random access to several features of a corpus's split. Opens files when first read, so it can be pickled."""

  def __init__(self, directory: str | Path, split: str, names: Sequence[str]) -> None:
    """Checks that all shards are there, of one maker and of one corpus.

    Raises:
      DataError: a feature is missing or incomplete (the message has the command that makes it), its
        shards were made by different models, or two features count different examples.
    """
    self.directory, self.split, self.names = Path(directory), split, tuple(names)
    self.fingerprints: dict[str, str] = {}
    self._paths: dict[str, list[Path]] = {}
    self._lengths: dict[str, np.ndarray] = {}
    self._ends: dict[str, np.ndarray] = {}
    for name in self.names:
      self._index(name)
    sizes = {name: len(self._lengths[name]) for name in self.names}
    if len(set(sizes.values())) > 1:
      raise DataError(f"{self.directory}: features of the same split count different examples: {sizes}")
    self._readers: dict[Path, Any] = {}

  def __len__(self) -> int:
    return len(self._lengths[self.names[0]]) if self.names else 0

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """All arrays of example i.

    Raises:
      DataError: a record that is damaged, or not what the feature says.
      IndexError: no such example.
    """
    return {name: self.read(name, i) for name in self.names}

  def read(self, name: str, i: int) -> np.ndarray:
    """One array of example i; raises as `__getitem__`."""
    if not 0 <= i < len(self._lengths[name]):
      raise IndexError(f"example {i} of {len(self._lengths[name])}")
    ends = self._ends[name]
    shard = int(np.searchsorted(ends, i, side="right"))
    local = int(i - (ends[shard - 1] if shard else 0))
    path = self._paths[name][shard]
    try:
      [data] = self._reader(path).read([local])
      array = from_npy_bytes(data)
    except (OSError, RuntimeError, ValueError, EOFError, IndexError) as error:
      raise DataError(f"{path}: record {local} cannot be read: {str(error)[:200]}") from error
    if len(array) != self._lengths[name][i]:
      raise DataError(f"{path}: record {local} has length {len(array)}, its index says {self._lengths[name][i]}")
    return array

  def lengths(self, name: str) -> np.ndarray:
    """Length of each example's array: int32 [N], 0 for one that could not be computed."""
    return self._lengths[name]

  def maybe(self, name: str) -> "Features | None":
    """One more feature of the same split, or None if it has not been computed."""
    try:
      return Features(self.directory, self.split, (name,))
    except DataError:
      return None

  def _index(self, name: str) -> None:
    folder = feature_dir(self.directory, name)
    program = "train.features" if name in KINDS else f"train.{name}s"  # as train.flow_mels makes flow_mel
    how = f"python -m {program} {self.directory}" + f" --names {name} (--model MODEL_DIR)" * (name in KINDS)
    whole = sorted(folder.glob(f"{self.split}-?????-of-?????.json"))
    if not whole:
      raise DataError(f"{folder}: feature {name!r} of split {self.split!r} is not there; make it with: {how}")
    expected = int(whole[0].stem[-5:])
    names = [shard_stem(self.split, k, expected) for k in range(expected)]
    if [path.stem for path in whole] != names:
      missing = sorted(set(names) - {path.stem for path in whole})
      raise DataError(
        f"{folder}: {len(missing)} of {expected} shards are not computed, {missing[:3]}; go on with: {how}"
      )
    infos = [read_shard_info(path) for path in whole]
    makers = {info["fingerprint"] for info in infos}
    if len(makers) > 1:
      raise DataError(f"{folder}: shards of different models ({len(makers)}); make them again with --force: {how}")
    self.fingerprints[name] = makers.pop()
    self._paths[name] = [path.with_suffix(".array_record") for path in whole]
    for path, info in zip(self._paths[name], infos, strict=True):
      if not path.is_file() or path.stat().st_size != info["bytes"]:
        raise DataError(f"{path}: expected a file of {info['bytes']} bytes; it is damaged, make it with --force: {how}")
    self._lengths[name] = np.concatenate([np.asarray(info["lengths"], np.int32) for info in infos])
    self._ends[name] = np.cumsum([len(info["lengths"]) for info in infos])

  def _reader(self, path: Path) -> Any:
    if path not in self._readers:
      self._readers[path] = open_records(path)
    return self._readers[path]

  def __getstate__(self) -> dict:
    return self.__dict__ | {"_readers": {}}


def open_records(path: Path) -> Any:
  """A reader for single records of an ArrayRecord file."""
  from array_record.python.array_record_module import ArrayRecordReader

  return ArrayRecordReader(str(path), options="readahead_buffer_size:0,max_parallelism:0")


def read_shard_info(path: Path) -> dict[str, Any]:
  """What the small file of a shard says: fingerprint, lengths, bytes.

  Raises:
    DataError: it cannot be read.
  """
  try:
    info = json.loads(path.read_text())
    if info["format"] == FORMAT and {"fingerprint", "lengths", "bytes"} <= set(info):
      return info
    raise DataError(f"{path}: expected a feature index of format {FORMAT}, found {str(info)[:80]}")
  except (OSError, ValueError, KeyError, TypeError) as error:
    if isinstance(error, DataError):
      raise
    raise DataError(f"{path} cannot be read as a feature index: {error}") from error


def made_by(directory: str | Path, name: str, stem: str) -> str | None:
  """Fingerprint of what made a shard; None if the shard is not whole."""
  path = feature_dir(directory, name) / f"{stem}.json"
  try:
    info = read_shard_info(path)
    return info["fingerprint"] if path.with_suffix(".array_record").stat().st_size == info["bytes"] else None
  except (DataError, OSError):
    return None


class ShardWriter:
  """Writes one shard whole or not at all: beside its name first, then renamed, its small file last.

  with ShardWriter(directory, "mel", stem, fingerprint) as shard:
    shard.add(mel_TM)
  """

  def __init__(self, directory: str | Path, name: str, stem: str, fingerprint: str) -> None:
    self._name, self._fingerprint, self._lengths = name, fingerprint, []
    self._target = feature_dir(directory, name) / f"{stem}.array_record"
    self._files = contextlib.ExitStack()
    self._writer: Any = None

  def __enter__(self) -> "ShardWriter":
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
      self._target.parent.mkdir(parents=True, exist_ok=True)
      for part in self._target.parent.glob(".*.part"):
        if time.time() - part.stat().st_mtime > STALE:
          part.unlink(missing_ok=True)
      # They take their names in the opposite order.
      targets = self._target.with_suffix(".json"), self._target.parent / "meta.json", self._target
      self._index, self._meta, self._records = (self._files.enter_context(whole(target)) for target in targets)
      self._writer = ArrayRecordWriter(str(self._records), WRITER_OPTIONS)
    except (OSError, RuntimeError) as error:
      raise OutputError(f"{self._target} cannot be written: {error}") from error
    return self

  def add(self, array: np.ndarray) -> None:
    """The next example's array.

    Raises:
      DataError: of another shape than the feature has.
      OutputError: it cannot be written.
    """
    kind = KINDS.get(self._name)
    if kind is not None:
      array = array.astype(kind.dtype)
      if array.ndim != 1 + len(kind.shape) or array.shape[1:] != kind.shape:
        raise DataError(f"{self._target}: expected {kind.says}, found an array of shape {array.shape}")
    self._lengths.append(len(array))
    try:
      self._writer.write(npy_bytes(array))
    except (OSError, RuntimeError) as error:
      raise OutputError(f"{self._target} cannot be written: {error}") from error

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    with self._files:
      try:
        self._writer.close()
        if error is not None:
          raise error
        made_by = {"format": FORMAT, "fingerprint": self._fingerprint}
        self._index.write_text(json.dumps(made_by | {"bytes": self._records.stat().st_size, "lengths": self._lengths}))
        self._meta.write_text(json.dumps({"name": self._name} | made_by) + "\n")
        self._target.with_suffix(".json").unlink(missing_ok=True)  # until the index is there the shard is not made
      except RuntimeError as failure:
        raise OutputError(f"{self._target} cannot be written: {failure}") from failure


def npy_bytes(array: np.ndarray) -> bytes:
  """An array as the bytes of an `.npy` file."""
  out = io.BytesIO()
  np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
  return out.getvalue()


# What `npy_bytes` begins with: version 1.0 of NumPy's format, numbers in C order.
_HEADER = re.compile(
  rb"\x93NUMPY\x01\x00..\{'descr': '([<>|][biufc]\d+)', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n",
  re.DOTALL,
)


def from_npy_bytes(data: bytes) -> np.ndarray:
  """The array that `npy_bytes` wrote, for as many threads at once as there are.

  NumPy's own reader has Python's parser read the header. In CPython 3.11 that is not safe in
  several threads: now and then it raises a SystemError, which would end a training run.

  Raises:
    ValueError: it is not such an array, or not all of one.
  """
  header = _HEADER.match(data)
  if header is None:
    raise ValueError(f"expected an array of numbers in NumPy's format, found {data[:80]!r}")
  shape = tuple(int(size) for size in header[2].split(b",") if size.strip())
  return np.frombuffer(data, np.dtype(header[1].decode()), offset=header.end()).reshape(shape).copy()


@functools.lru_cache
def empty(name: str) -> np.ndarray:
  """What stands for an example that could not be computed."""
  kind = KINDS[name]
  return np.zeros((0, *kind.shape), kind.dtype)
