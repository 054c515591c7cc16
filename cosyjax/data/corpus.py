"""Random access to a corpus directory, as `train.build_corpus` writes it. TensorFlow is not needed."""

import dataclasses
import io
import json
import logging
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import DataError
from cosyjax.files import write_whole

STRINGS = ("id", "text", "speaker", "language", "instruction")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file: examples `first` to `first + count` of the split."""

  path: Path
  first: int
  count: int


class Corpus:
  """One split of a corpus directory.

  Files are opened when they are first read, so that a corpus can be pickled for a worker process; threads may
  read at once. Lengths and speakers come from an index beside the shards (`index/`), which is made when it is
  first asked for: that reads the whole split once, unless the program that built the corpus has done it.

  Attributes:
    directory: path of the corpus.
    split: name of the split.
    shards: (first example, number of examples) of each file, in order.
  """

  def __init__(self, directory: str | Path, split: str = "train"):
    """Reads what is in the split; no record is read yet.

    Raises:
      DataError: no corpus there, no such split, a missing shard, or records that are no ArrayRecords.
    """
    self.directory, self.split = Path(directory), split
    self._shards = split_shards(self.directory, split)
    self.shards = [(shard.first, shard.count) for shard in self._shards]
    self._firsts = np.array([shard.first for shard in self._shards])
    self._length = sum(shard.count for shard in self._shards)
    self._readers: dict[int, Any] = {}
    self._lock = threading.Lock()
    self._index_cache: dict[str, np.ndarray] | None = None

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Example `i` (from the end if negative).

    Returns:
      id, text, speaker, language, instruction: str; audio: bytes of a WAV, FLAC or Opus file; seconds: float;
      rate: int, Hz.

    Raises:
      IndexError: not in the split.
      DataError: a truncated shard, a damaged record, or one that is no speech example.
    """
    i = int(i)
    if not -self._length <= i < self._length:
      raise IndexError(f"{self.directory}: expected an example below {self._length}, found {i}")
    i %= self._length
    n = int(np.searchsorted(self._firsts, i, side="right")) - 1
    shard, reader = self._shards[n], self._reader(n)
    place = i - shard.first
    try:
      [record] = reader.read([place])
    except Exception as error:  # its C++ raises several types
      raise DataError(f"{shard.path}: expected record {place}, found a damaged one ({error})") from error
    return parse_example(record, f"{shard.path}: record {place}")

  @property
  def seconds_N(self) -> np.ndarray:
    """float32 [N]: length of every example's audio. DataError as the index is made."""
    return self._index["seconds"]

  @property
  def names(self) -> list[str]:
    """Name of the speaker of every example."""
    speakers = self.speakers
    return [speakers[n] for n in self.speakers_N]

  @property
  def speakers(self) -> list[str]:
    """Names of the speakers, sorted."""
    return self._index["speakers"].tolist()

  @property
  def speakers_N(self) -> np.ndarray:
    """int32 [N]: speaker of every example, as a place in `speakers`."""
    return self._index["speaker"]

  @property
  def languages_N(self) -> np.ndarray:
    """Language of every example, strings [N]."""
    return self._index["language"]

  @property
  def ids_N(self) -> np.ndarray:
    """Id of every example, strings [N]."""
    return self._index["id"]

  def __getstate__(self) -> dict[str, Any]:
    return {"directory": self.directory, "split": self.split, "index": self._index_cache}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["directory"], state["split"])
    self._index_cache = state["index"]

  def _reader(self, n: int) -> Any:
    with self._lock:
      if n not in self._readers:
        self._readers[n] = open_shard(self._shards[n])
      return self._readers[n]

  @property
  def _index(self) -> dict[str, np.ndarray]:
    with self._lock:
      if self._index_cache is None:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
          parts = list(pool.map(lambda n: _shard_index(self.directory, self.split, self._shards, n),
                                range(len(self._shards))))  # fmt: skip
        index = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        index["speakers"], codes_N = np.unique(index.pop("speaker"), return_inverse=True)
        index["speaker"] = codes_N.astype(np.int32)
        self._index_cache = index
      return self._index_cache


_importing = threading.Lock()


def example_type() -> type:
  """The protocol message tf.train.Example. Any thread may ask for it first.

  Two threads that import TFDS at the same moment wait for each other for ever: its lazy modules are cached
  properties, whose locks and the import system's are taken in opposite orders.
  """
  with _importing:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


def parse_example(record: bytes, where: str) -> dict[str, Any]:
  """The fields of a serialized tf.train.Example with the features of a corpus.

  Raises:
    DataError: no such message, or a field is missing.
  """
  from google.protobuf.message import DecodeError

  try:
    fields = example_type().FromString(record).features.feature
    example: dict[str, Any] = {name: fields[name].bytes_list.value[0].decode() for name in STRINGS}
    example["audio"] = fields["audio"].bytes_list.value[0]
    example["seconds"] = fields["seconds"].float_list.value[0]
    example["rate"] = fields["rate"].int64_list.value[0]
  except (DecodeError, IndexError, UnicodeDecodeError) as error:
    raise DataError(f"{where}: expected a speech example, found something else ({error})") from error
  return example


def splits(directory: str | Path) -> dict[str, int]:
  """Number of examples of each split.

  Raises:
    DataError: no corpus there.
  """
  return {split["name"]: sum(map(int, split.get("shardLengths", ()))) for split in read_info(Path(directory))["splits"]}


def read_info(directory: Path) -> dict[str, Any]:
  """The description of a TFDS data set of ArrayRecords. DataError as `split_shards`."""
  if ":/" in str(directory):
    raise DataError(f"{directory}: expected a folder on a disk or a mount; ArrayRecord files are not read from buckets")
  file = directory / "dataset_info.json"
  try:
    info = json.loads(file.read_text(encoding="utf-8"))
    names = [(split["name"], split["filepathTemplate"]) for split in info["splits"]]
  except FileNotFoundError:
    hint = "python -m train.build_corpus makes one"
    raise DataError(f"{directory}: expected a corpus ({file.name} and shards; {hint}), found none") from None
  except OSError as error:
    raise DataError(f"{file}: expected the description of a corpus ({error.strerror or error})") from error
  except (ValueError, KeyError, TypeError) as error:
    raise DataError(f"{file}: expected the description of a TFDS data set, found something else ({error!r})") from error
  if info.get("fileFormat") != "array_record" or not names:
    found = info.get("fileFormat", "none")
    raise DataError(f"{file}: expected splits in the file format array_record, found {found}")
  return info


def split_shards(directory: Path, split: str) -> list[Shard]:
  """Files of a split of any TFDS data set of ArrayRecords.

  Raises:
    DataError: no data set there, one of another format, no such split or nothing in it, a missing shard.
  """
  info = read_info(directory)
  by_name = {each["name"]: each for each in info["splits"]}
  if split not in by_name:
    raise DataError(f"{directory}: expected a split {split!r}, found {', '.join(sorted(by_name))}")
  lengths = [int(length) for length in by_name[split].get("shardLengths", ())]
  if not sum(lengths):
    raise DataError(f"{directory}: expected examples in split {split!r}, found none")
  shards, first = [], 0
  for n, count in enumerate(lengths):
    name = by_name[split]["filepathTemplate"].format(
      DATASET=info["name"],
      SPLIT=split,
      FILEFORMAT="array_record",
      SHARD_INDEX=f"{n:05d}",
      NUM_SHARDS=f"{len(lengths):05d}",
      SHARD_X_OF_Y=f"{n:05d}-of-{len(lengths):05d}",
    )
    shards.append(Shard(directory / name, first, count))
    first += count
  if missing := [shard.path.name for shard in shards if not shard.path.is_file()]:
    raise DataError(
      f"{directory}: expected {len(shards)} shards of split {split!r}, found {len(shards) - len(missing)}; "
      f"missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
    )
  return shards


def open_shard(shard: Shard) -> Any:
  """An ArrayRecord reader for random access.

  Raises:
    DataError: truncated, damaged, or with another number of records than the description says.
  """
  from array_record.python.array_record_module import ArrayRecordReader

  try:
    reader = ArrayRecordReader(str(shard.path), options="readahead_buffer_size:0")
    count = reader.num_records()
  except Exception as error:  # its C++ raises several types
    raise DataError(
      f"{shard.path}: expected an ArrayRecord file, found a truncated or damaged one ({error})"
    ) from error
  if count != shard.count:
    raise DataError(
      f"{shard.path}: expected {shard.count} records as dataset_info.json says, found {count}; "
      "the file is truncated, or of another corpus"
    )
  return reader


def _shard_index(directory: Path, split: str, shards: list[Shard], n: int) -> dict[str, np.ndarray]:
  """seconds, speaker, language, id [count] of a shard, from its index file if that fits, else from its records."""
  shard = shards[n]
  size = shard.path.stat().st_size
  file = directory / "index" / f"{split}-{n:05d}-of-{len(shards):05d}.npz"
  try:
    with np.load(file, allow_pickle=False) as arrays:
      index = dict(arrays)
    if int(index.pop("size")) == size and len(index["id"]) == shard.count:
      return index
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    pass  # none yet, or damaged: it is made again
  reader = open_shard(shard)
  found = []
  for place in range(shard.count):  # one at a time: a shard's audio need not fit in memory
    try:
      [record] = reader.read([place])
    except Exception as error:
      raise DataError(f"{shard.path}: expected record {place}, found a damaged one ({error})") from error
    example = parse_example(record, f"{shard.path}: record {place}")
    found.append((example["seconds"], example["speaker"], example["language"], example["id"]))
  seconds, speaker, language, name = zip(*found, strict=True)
  strings = {"speaker": np.array(speaker), "language": np.array(language), "id": np.array(name)}
  index = {"seconds": np.array(seconds, np.float32), **strings}
  _save(file, index | {"size": np.int64(size)})
  return index


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
  """Whole or not at all. Where it may not be written, the index is made again next time."""
  packed = io.BytesIO()
  np.savez(packed, **arrays)
  try:
    file.parent.mkdir(exist_ok=True)
    write_whole(file, packed.getbuffer())
  except OSError as error:
    log.warning("%s; the index will be made again", error)
