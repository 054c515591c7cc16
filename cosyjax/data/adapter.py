"""Existing TFDS speech data sets, as input for a corpus: librispeech, ljspeech, and any with audio and text.

The data set must have been prepared as ArrayRecord (its preparation needs TensorFlow, pydub and ffmpeg; what
follows does not, for TFDS's own audio feature is not used):

  tfds build ljspeech --file_format=array_record

Each example becomes a `Recording`, which the builder takes in place of an utterance of a manifest. Samples are
packed as FLAC (16 bits); a data set that keeps encoded files (librispeech/lazy_decode) passes them on untouched.
"""

import dataclasses
import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.data import corpus
from cosyjax.data.manifest import MAX_SECONDS, MIN_SECONDS, measure
from cosyjax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Fields:
  """Which features of a data set make an example.

  audio, text: names of features. id, speaker, language, instruction: name of a feature, or "=value" for one
  value throughout; "" for an id is the number of the example. rate: samples a second, where the data set does
  not say.
  """

  audio: str = "audio"
  text: str = "text"
  id: str = "id"
  speaker: str = "speaker_id"
  language: str = "=en"
  instruction: str = "="
  rate: int | None = None


KNOWN: Mapping[str, Fields] = {
  "common_voice": Fields("voice", "sentence", id="", speaker="client_id", language="=?", rate=48_000),
  "librispeech": Fields("speech"),
  "libritts": Fields("speech", "text_normalized"),
  "ljspeech": Fields("speech", "text_normalized", speaker="=ljspeech"),
  "tedlium": Fields("speech"),
  "userlibri_audio_data": Fields(text="transcript"),
  "vctk": Fields("speech", speaker="speaker"),
  "xtreme_s": Fields(text="raw_transcription", id="", speaker="=?", language="language"),
}


@dataclasses.dataclass(frozen=True)
class Recording:
  """Example `index` of a data set; `example` reads it. Small and picklable.

  id: decides on order and held-out share. It is made of the number of the example: its own would cost
  reading all audio.
  """

  id: str
  directory: str
  split: str
  index: int
  fields: Fields
  limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS)

  def example(self) -> dict[str, Any]:
    """The record of a corpus.

    Raises:
      DataError: a damaged record, empty text, or audio that is damaged or not within limits.
    """
    source = _source(self.directory, self.split)
    where, record = f"{self.directory}: {self.split}[{self.index}]", source.read(self.index)
    texts = {"id": f"{self.split}-{self.index:07d}"}
    for name in ("id", "text", "speaker", "language", "instruction"):
      field = getattr(self.fields, name)
      if field:
        texts[name] = field[1:] if field.startswith("=") else source.string(record, field, where)
      if name != "instruction" and not texts[name].strip():
        raise DataError(f"{where}: expected a {name} that is not empty, found {texts[name]!r}")
    audio = source.audio(record, self.fields, where)
    seconds, rate = measure(audio, where, self.limits)
    return {**texts, "audio": audio, "seconds": seconds, "rate": rate}


def recordings(
  directory: str | Path,
  split: str,
  *,
  fields: Fields | None = None,
  limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS),
) -> list[Recording]:
  """All examples of a split of a prepared data set.

  Args:
    directory: of the data set's version, e.g. ~/tensorflow_datasets/ljspeech/1.1.1.
    split: name of a split.
    fields: by default what `KNOWN` says of the data set's name.
    limits: shortest and longest recording that is accepted, s.

  Raises:
    DataError: no data set there, not one of ArrayRecord, no such split, an unknown data set without `fields`,
      or a field that it lacks.
  """
  source = _source(str(directory), split)
  if fields is None:
    if source.name not in KNOWN:
      known = ", ".join(sorted(KNOWN))
      raise DataError(f"{directory}: expected names of its fields, or a data set of {known}; found {source.name!r}")
    fields = KNOWN[source.name]
  for name in ("audio", "text", "id", "speaker", "language", "instruction"):
    field = getattr(fields, name)
    if field == "=?":
      raise DataError(f"{directory}: expected a value as {name} ({name}==VALUE): {source.name} does not say it")
    is_value = name not in ("audio", "text") and (not field or field.startswith("="))
    if not is_value and field not in source.features:
      raise DataError(
        f"{directory}: expected a feature {field!r} as {name}, found {', '.join(sorted(source.features))}"
      )
  if not source.rate(fields):
    raise DataError(f"{directory}: expected a rate of {fields.audio!r} to be given, as the data set does not say it")
  return [Recording(f"{source.name} {split} {n}", str(directory), split, n, fields, limits) for n in range(len(source))]


class _Source:
  """Random access to the raw features of a split. Opens files when they are first read."""

  def __init__(self, directory: str, split: str) -> None:
    self._directory = Path(directory)
    self.name = corpus.read_info(self._directory).get("name", "")
    self._shards = corpus.split_shards(self._directory, split)
    self._firsts = np.array([shard.first for shard in self._shards])
    self._readers: dict[int, Any] = {}
    file = self._directory / "features.json"
    try:
      self.features = json.loads(file.read_text(encoding="utf-8"))["featuresDict"]["features"]
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise DataError(f"{file}: expected the features of a TFDS data set ({error!r})") from error
    self._labels: dict[str, list[str]] = {}

  def __len__(self) -> int:
    return sum(shard.count for shard in self._shards)

  def rate(self, fields: Fields) -> int:
    """Hz; 0 if neither fields nor data set say it."""
    return fields.rate or int(self.features[fields.audio].get("audio", {}).get("sampleRate", 0))

  def read(self, i: int) -> Mapping[str, Any]:
    """The features of example `i`, as protocol messages."""
    n = int(np.searchsorted(self._firsts, i, side="right")) - 1
    shard = self._shards[n]
    if n not in self._readers:
      self._readers[n] = corpus.open_shard(shard)
    try:
      [record] = self._readers[n].read([i - shard.first])
      return corpus.example_type().FromString(record).features.feature
    except Exception as error:  # the reader's C++ raises several types
      raise DataError(f"{shard.path}: expected record {i - shard.first}, found a damaged one ({error})") from error

  def string(self, record: Mapping[str, Any], field: str, where: str) -> str:
    """A text, the name of a class, or a number as text."""
    [value] = _values(record[field]) or [b""]
    if isinstance(value, bytes):
      try:
        return value.decode()
      except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected UTF-8 as {field!r}, found other bytes") from error
    names = self._class_names(field)
    if names and not 0 <= value < len(names):
      raise DataError(f"{where}: expected a class below {len(names)} as {field!r}, found {value}")
    return names[value] if names else str(value)

  def audio(self, record: Mapping[str, Any], fields: Fields, where: str) -> bytes:
    """FLAC bytes of samples; an encoded file as it is."""
    import soundfile

    feature = self.features[fields.audio]
    dimensions = feature.get("audio", feature.get("tensor", {})).get("shape", {}).get("dimensions", ["-1"])
    values = _values(record[fields.audio])
    if len(values) == 1 and isinstance(values[0], bytes):
      return values[0]
    wave = np.asarray(values)
    if not wave.size:
      raise DataError(f"{where}: expected audio, found no samples")
    if wave.dtype.kind == "f":  # full scale is 1
      wave = np.round(np.clip(wave, -1, 1) * 32767)
    elif np.abs(wave).max() > 32768:
      raise DataError(f"{where}: expected samples of 16 bits, found some up to {np.abs(wave).max()}")
    wave = np.clip(wave, -32768, 32767).astype(np.int16).reshape([-1, *map(int, dimensions[1:])])
    out = io.BytesIO()
    soundfile.write(out, wave, self.rate(fields), format="FLAC", subtype="PCM_16")
    return out.getvalue()

  def _class_names(self, field: str) -> list[str]:
    if field not in self._labels:
      file = self._directory / f"{field}.labels.txt"
      self._labels[field] = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return self._labels[field]


@functools.lru_cache(maxsize=8)
def _source(directory: str, split: str) -> _Source:
  """Opened once in every process."""
  return _Source(directory, split)


def _values(feature: Any) -> Any:
  """What a tf.train.Feature holds."""
  kind = feature.WhichOneof("kind")
  return getattr(feature, kind).value if kind else []
