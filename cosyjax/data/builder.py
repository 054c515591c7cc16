"""Builds a corpus directory: a TFDS data set of ArrayRecord shards, on one machine or with Apache Beam.

Neither needs TensorFlow. Both give the same records in the same order and shards: examples are put in the
order of a hash of their ids, and shard j of S holds examples round(N j / S) to round(N (j + 1) / S).
"""

import collections
import contextlib
import functools
import hashlib
import heapq
import io
import itertools
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cosyjax.data.corpus import example_type
from cosyjax.errors import DataError

NAME, VERSION = "speech_corpus", "1.0.0"
DESCRIPTION = "Speech with transcripts. `audio` is a WAV, FLAC or Opus file, as it was given."
PER_SHARD = 2048  # utterances of a shard, where the number of shards is not given


class Item(Protocol):
  """What becomes an example: an `Utterance` of a manifest, or a `Recording` of another data set.

  Small and picklable: the audio is read by `example`, in the process that writes the shard.
  """

  id: str

  def example(self) -> dict[str, Any]:
    """The record that a corpus keeps of it."""


def build(
  splits: Mapping[str, Sequence[Item]],
  directory: str | Path,
  *,
  shards: int | None = None,
  beam: str | None = None,
  progress: Callable[[Iterable], Iterable] = iter,
) -> None:
  """Writes a corpus, whole or not at all.

  Args:
    splits: items by name of the split.
    directory: to be made; may lie in a bucket (gs://...).
    shards: of every split, but never more than it has examples; by default one for `PER_SHARD` examples.
    beam: None writes in this process. Else the options of an Apache Beam pipeline, e.g. "--runner=DataflowRunner
      --project=..."; "" is the direct runner. Audio is then read by the workers.
    progress: wraps each iterable of items (without Beam): a progress bar.

  Raises:
    DataError: no items, an id twice, a recording that cannot be used, or a directory that is there already.
  """
  from etils import epath

  seen: dict[str, str] = {}
  for split, items in splits.items():
    if not items:
      raise DataError(f"split {split!r}: expected at least one utterance, found none")
    for item in items:
      if item.id in seen:
        raise DataError(f"split {split!r}: expected ids of its own, found {item.id!r} of split {seen[item.id]!r} too")
      seen[item.id] = split
  target = epath.Path(directory)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise DataError(f"{target}: expected a folder that is not there yet, or empty, for the corpus; found something")

  # Not through `cosyjax.files`: the target may be a bucket's, and Beam's workers write to one name.
  part = target.parent / f".{target.name}.part"
  if part.exists():
    part.rmtree()  # left by a build that was killed
  try:
    ordered = {split: _ordered(items) for split, items in splits.items()}
    counts = {split: min(shards or -(-len(items) // PER_SHARD), len(items)) for split, items in ordered.items()}
    if beam is None:
      made = _write_here(ordered, counts, part, progress)
    else:
      made = _write_with_beam(ordered, counts, part, beam)
    if target.exists():
      target.rmdir()
    epath.Path(made).rename(target)
  finally:
    if part.exists():
      part.rmtree()


def held_out(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
  """(kept, held out): the nearest whole number of items to the share, and within each speaker likewise.

  A speaker of n items gives the whole number below or above `share` n, so that the sum is right (largest
  remainders), and never all of them; where each has but one item, speakers are held out. Which items: those with
  the lowest hashes of their ids. So a corpus that grows mostly keeps what it held out: within a speaker, the items
  held out before and after contain one another. Items that do not say who speaks count as one speaker's. One item
  is held out at least.

  Raises:
    DataError: no item would be kept.
  """
  groups: dict[str, list[Item]] = collections.defaultdict(list)
  for item in items:
    groups[getattr(item, "speaker", "")].append(item)
  if all(len(group) == 1 for group in groups.values()):
    groups = {"": list(items)}
  if len(items) < 2:
    raise DataError(f"held-out share {share:g}: expected utterances to keep, found all {len(items)} held out")
  counts = {name: min(int(share * len(group)), len(group) - 1) for name, group in groups.items()}
  # What each still lacks, the greatest first; ties in the order of a hash, so that no speaker is preferred.
  lacks = [(counts[name] - share * len(group), _hash("held out", name), name) for name, group in groups.items()]
  heapq.heapify(lacks)
  missing = max(int(share * len(items) + 0.5), 1) - sum(counts.values())
  while missing > 0 and lacks:
    lack, order, name = heapq.heappop(lacks)
    if counts[name] + 1 < len(groups[name]):
      counts[name] += 1
      missing -= 1
      heapq.heappush(lacks, (lack + 1, order, name))
  chosen: set[str] = set()
  for name, group in groups.items():
    lowest = heapq.nsmallest(counts[name], group, key=lambda item: _hash("held out", item.id))
    chosen.update(item.id for item in lowest)
  return [item for item in items if item.id not in chosen], [item for item in items if item.id in chosen]


def spans(count: int, shards: int) -> list[tuple[int, int]]:
  """(first example, one past the last) of every shard."""
  borders = [round(count * n / shards) for n in range(shards + 1)]
  return list(itertools.pairwise(borders))


def _write_here(ordered, counts, part, progress) -> Path:
  """One shard after the other in this process: no sorting, and memory for one shard."""
  import tensorflow_datasets as tfds

  # TFDS's usual builder sorts, and above 1 GB it spills to disk through TensorFlow. This base class does neither.
  class SpeechCorpus(tfds.core.ShardBasedBuilder, skip_registration=True):
    name = NAME
    VERSION = tfds.core.Version(VERSION)
    code_path = None  # there are no downloads, so no file of their checksums to look for

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, description=DESCRIPTION, features=features())

    def _example_writer(self):
      return ShardWriter()

    def _shard_iterators_per_split(self, dl_manager):
      return {
        split: [functools.partial(_examples, items[a:b], progress) for a, b in spans(len(items), counts[split])]
        for split, items in ordered.items()
      }

  return _prepare(SpeechCorpus(data_dir=str(part), file_format="array_record"))


def _write_with_beam(ordered, counts, part, options: str) -> Path:
  """The same with a Beam pipeline. Its sorting writer is given keys that lead to the same order and shards."""
  import shlex

  import tensorflow_datasets as tfds

  try:
    import apache_beam as beam
  except ImportError as error:
    raise DataError("beam: expected Apache Beam to be installed (pip install apache-beam), found none") from error
  most = max(counts.values())

  # Beam by way of ShardBasedBuilder (TFDS 4.9.10) would run the first split once for every split, and put the
  # lengths of more than ten shards in alphabetic order.
  class SpeechCorpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = NAME
    VERSION = tfds.core.Version(VERSION)
    code_path = None

    def _info(self):
      info = {"description": DESCRIPTION, "features": features(), "disable_shuffling": True}
      return tfds.core.DatasetInfo(builder=self, **info)

    def _example_writer(self):
      return ShardWriter()

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split, items) for split, items in ordered.items()}

    def _generate_examples(self, split, items):
      keyed = zip(shard_keys(len(items), counts[split], most), items, strict=True)
      files = list(_item_files(keyed, part / "items" / split))
      return beam.Create(files) | beam.FlatMap(_keyed_items) | beam.Reshuffle() | beam.MapTuple(_keyed_example)

  builder = SpeechCorpus(data_dir=str(part), file_format="array_record")
  pipeline_options = beam.options.pipeline_options.PipelineOptions(shlex.split(options))
  config = tfds.download.DownloadConfig(beam_options=pipeline_options, num_shards=most)
  try:
    return _prepare(builder, config)
  except DataError:
    raise
  except Exception as error:  # a worker's error arrives in the clothes of the runner
    if "DataError" in f"{type(error).__name__} {error}":
      raise DataError(f"a worker found: {str(error).strip().splitlines()[-1]}") from error
    raise


def _prepare(builder: Any, config: Any = None) -> Path:
  with contextlib.redirect_stdout(io.StringIO()):  # it prints where it writes, which is not where the corpus will be
    builder.download_and_prepare(download_config=config)
  return builder.data_dir


class ShardWriter:
  """TFDS's example writer for ArrayRecord, which also writes to buckets: to a local file first, then copied.

  The ArrayRecord library opens local files only (github.com/tensorflow/datasets/issues/10981). The fields of a
  record are put in order, so that the same corpus is the same bytes.
  """

  file_format = None  # TFDS asks writers that write several formats for it

  def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
    """Writes the serialized examples of one shard, in their order."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from etils import epath

    message = example_type()
    path, is_remote = epath.Path(path), "://" in str(path)
    with tempfile.TemporaryDirectory() as folder:
      file = Path(folder) / "shard" if is_remote else path
      writer = ArrayRecordWriter(str(file), "group_size:1")  # every record can be read on its own
      for _, record in examples:
        writer.write(message.FromString(record).SerializeToString(deterministic=True))
      writer.close()
      if is_remote:
        epath.Path(file).copy(path, overwrite=True)


def shard_keys(count: int, shards: int, buckets: int) -> Iterator[int]:
  """Rising 62-bit keys, one for each example, from which TFDS's Beam writer makes exactly `spans(count, shards)`.

  The writer puts key k in bucket floor(k buckets / greatest key) and drops empty buckets. So shard j is spread
  over bucket j of `buckets` >= `shards`, but the last shard over the last bucket, which ends at the greatest key.
  """
  width = 2**62 // buckets
  for shard, (start, stop) in enumerate(spans(count, shards)):
    bucket = shard if shard < shards - 1 else buckets - 1
    for n in range(stop - start):
      is_last = bucket == buckets - 1 and n == stop - start - 1
      yield (bucket + 1) * width - 1 if is_last else bucket * width + n * (width // (stop - start))


def features() -> Any:
  """TFDS features of a corpus."""
  import numpy as np
  import tensorflow_datasets as tfds

  text = tfds.features.Text
  return tfds.features.FeaturesDict(
    {
      "id": text(doc="Unique in the corpus."),
      "text": text(doc="What is said."),
      "speaker": text(doc="Who says it."),
      "language": text(doc="Of the text, e.g. en."),
      "instruction": text(doc="How it is said; may be empty."),
      "audio": text(doc="Bytes of a WAV, FLAC or Opus file."),
      "seconds": tfds.features.Scalar(np.float32, doc="Length of the audio."),
      "rate": tfds.features.Scalar(np.int32, doc="Samples a second of the audio."),
    }
  )


def _ordered(items: Sequence[Item]) -> list[Item]:
  return sorted(items, key=lambda item: (_hash("order", item.id), item.id))


def _hash(use: str, name: str) -> int:
  return int.from_bytes(hashlib.sha256(f"{use} {name}".encode()).digest()[:8], "big")


def _examples(items: Sequence[Item], progress) -> Iterator[tuple[int, dict[str, Any]]]:
  for n, item in enumerate(progress(items)):
    yield n, item.example()


def _item_files(keyed: Iterable[tuple[int, Item]], folder: Any, size: int = 1000) -> Iterator[str]:
  """Writes the items to files for the workers, and yields their names: a pipeline may not hold millions of items."""
  folder.mkdir(parents=True, exist_ok=True)
  keyed = iter(keyed)
  for n in itertools.count():
    items = list(itertools.islice(keyed, size))
    if not items:
      return
    file = folder / f"{n:06d}.pickle"
    file.write_bytes(pickle.dumps(items))
    yield str(file)


def _keyed_items(file: str) -> list[tuple[int, Item]]:
  from etils import epath

  return pickle.loads(epath.Path(file).read_bytes())


def _keyed_example(key: int, item: Item) -> tuple[int, dict[str, Any]]:
  return key, item.example()
