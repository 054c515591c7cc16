"""Manifests: JSON lines that describe recordings, checked entry by entry before anything is built from them.

An entry is one object:

  {"id": "a1", "audio": "wav/a1.flac", "text": "Good morning.", "speaker": "anna", "language": "en"}

`audio` is the path of a WAV, FLAC or Opus file, relative to the manifest; `audio_bytes`, in its place, is
such a file in base64. MP3, m4a and the like are stored as FLAC. `instruction` (optional) says how the text
is spoken. Every bad entry is refused, with file and line.
"""

import base64
import binascii
import dataclasses
import io as byte_io
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.audio import io
from cosyjax.audio.containers import container_of
from cosyjax.data.layouts import read_folder
from cosyjax.errors import AudioError, DataError

log = logging.getLogger("cosyjax.data")

MIN_SECONDS = 0.3  # a shorter recording holds no word
MAX_SECONDS = 60.0  # a longer one should be cut at its pauses first
MAX_SHOWN = 20  # bad entries in one message

_REQUIRED = ("id", "text", "speaker", "language")
_FIELDS = {*_REQUIRED, "audio", "audio_bytes", "instruction"}


@dataclasses.dataclass(frozen=True)
class Utterance:
  """A recording and what is said in it.

  audio: path of a file, or its bytes. where: FILE:LINE that it comes from, for messages. limits: shortest
  and longest recording that is accepted, s.
  """

  id: str
  audio: str | bytes
  text: str
  speaker: str
  language: str
  instruction: str = ""
  where: str = ""
  limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS)

  def read(self) -> bytes:
    """The bytes of the audio file.

    Raises:
      DataError: not there, a folder, or not readable.
    """
    if isinstance(self.audio, bytes):
      return self.audio
    from etils import epath  # reads buckets as it reads folders

    path = epath.Path(self.audio)
    try:
      return path.read_bytes()
    except FileNotFoundError:
      raise DataError(f"{self.where}: expected an audio file, found nothing at {path}") from None
    except OSError as error:
      raise DataError(f"{self.where}: expected an audio file at {path} ({error.strerror or error})") from error

  def example(self) -> dict[str, Any]:
    """The record of a corpus: reads and checks the audio.

    Raises:
      DataError: the audio is missing, unreadable, of another format, or its length is out of limits.
    """
    path = self.audio if isinstance(self.audio, str) else "audio_bytes"
    where = path if path == self.where else f"{self.where}: {path}"
    audio = storable(self.read(), where, self.limits)
    seconds, rate = measure(audio, where, self.limits)
    return {
      "id": self.id,
      "text": self.text,
      "speaker": self.speaker,
      "language": self.language,
      "instruction": self.instruction,
      "audio": audio,
      "seconds": seconds,
      "rate": rate,
    }


def storable(audio: bytes, where: str, limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS)) -> bytes:
  """What a corpus keeps of a recording: the file as it is; of MP3, m4a and other containers FLAC of 16 bits.

  Raises:
    DataError: an MP3 or a container that cannot be decoded, or whose length is out of limits.
  """
  import soundfile

  stream = byte_io.BytesIO(audio)
  stream.name = where
  if container_of(audio[:16]) is None:
    try:
      if soundfile.info(stream).format not in ("MP3", "MPEG"):
        return audio
    except soundfile.SoundFileError:
      return audio  # `measure` says what is wrong
    stream.seek(0)
  try:
    wave_A, rate = io.read(stream)
  except AudioError as error:
    raise DataError(str(error)) from error
  _check_length(len(wave_A) / rate, where, limits)
  packed = byte_io.BytesIO()
  wave_A = np.round(np.clip(wave_A, -1, 1) * 32767).astype(np.int16)
  soundfile.write(packed, wave_A, rate, format="FLAC", subtype="PCM_16")
  return packed.getvalue()


def _check_length(seconds: float, where: str, limits: tuple[float, float]) -> None:
  if not limits[0] <= seconds <= limits[1]:
    raise DataError(f"{where}: expected {limits[0]:g} to {limits[1]:g} s of audio, found {seconds:.3f} s")


def measure(audio: bytes, where: str, limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS)) -> tuple[float, int]:
  """Decodes a WAV, FLAC or Opus file whole: seconds, and samples a second.

  Raises:
    DataError: empty, damaged, of another format, or its length is out of limits.
  """
  import soundfile

  if not audio:
    raise DataError(f"{where}: expected audio, found an empty file")
  stream = byte_io.BytesIO(audio)
  stream.name = where  # AudioErrors say it
  try:
    info = soundfile.info(stream)
  except soundfile.SoundFileError as error:
    reason = getattr(error, "error_string", error)
    raise DataError(f"{where}: expected WAV, FLAC or Opus, found what cannot be decoded ({reason})") from error
  if not (info.format in ("WAV", "WAVEX", "RF64", "FLAC") or (info.format, info.subtype) == ("OGG", "OPUS")):
    raise DataError(f"{where}: expected WAV, FLAC or Opus, found {info.format} ({info.subtype})")
  seconds = info.frames / info.samplerate
  _check_length(seconds, where, limits)
  stream.seek(0)
  try:
    wave_A, rate = io.read(stream)
  except AudioError as error:
    raise DataError(str(error)) from error
  if len(wave_A) != info.frames or _is_cut(audio):
    raise DataError(f"{where}: expected a whole file, found one that ends before its header says ({seconds:.3f} s in)")
  return seconds, rate


def read_manifest(
  *files: str | Path,
  limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS),
  check_audio: bool = True,
  threads: int = 8,
  progress: Callable[..., Iterable] = lambda results, total: results,
  leave_out: float = 0.0,
) -> list[Utterance]:
  """Reads manifests and checks every entry of them.

  Args:
    files: JSON lines; ids are unique over all of them. May lie in a bucket (gs://...).
    limits: shortest and longest recording that is accepted, s.
    check_audio: decode every recording now; otherwise `Utterance.example` does, later or elsewhere.
    threads: decoding at once.
    progress: wraps the results, one for each good entry, of which there are `total`: a progress bar such as tqdm.
    leave_out: share of bad entries up to which they are left out, with a warning that lists them as the error would.

  Returns:
    Utterances in the order of the entries.

  Raises:
    DataError: lists every bad entry up to `MAX_SHOWN`: FILE:LINE: what is wrong, expected, found.
  """
  entries: list[tuple[str, Any, str]] = []
  for file in files:
    entries += _lines(file)
  return check_entries(
    entries, limits=limits, check_audio=check_audio, threads=threads, progress=progress, leave_out=leave_out
  )


def check_entries(
  entries: Sequence[tuple[str, Any, str]],
  *,
  limits: tuple[float, float] = (MIN_SECONDS, MAX_SECONDS),
  check_audio: bool = True,
  threads: int = 8,
  progress: Callable[..., Iterable] = lambda results, total: results,
  leave_out: float = 0.0,
) -> list[Utterance]:
  """As `read_manifest`, of entries already parsed: (where, entry, folder of relative audio paths)."""
  good: list[Utterance] = []
  bad: list[tuple[int, str]] = []
  seen: dict[str, str] = {}
  places: list[int] = []
  for n, (where, entry, folder) in enumerate(entries):
    try:
      utterance = _utterance(entry, where, folder, limits)
      if utterance.id in seen:
        raise DataError(f"{where}: expected an id of its own, found {utterance.id!r} of {seen[utterance.id]} again")
    except DataError as error:
      bad.append((n, str(error)))
      continue
    seen[utterance.id] = where
    good.append(utterance)
    places.append(n)
  if check_audio:
    with ThreadPoolExecutor(threads) as pool:
      # In portions, because a pool takes on all that it is given: a corpus of millions.
      checked = itertools.chain.from_iterable(pool.map(_audio_fault, part) for part in _portions(good, 1024))
      bad += [(n, fault) for n, fault in zip(places, progress(checked, total=len(good)), strict=True) if fault]
  try:
    refuse([fault for _, fault in sorted(bad)], len(entries))
  except DataError as error:
    if len(bad) > leave_out * len(entries):
      raise
    log.warning("left out: %s", error)
    places_bad = {n for n, _ in bad}
    good = [utterance for n, utterance in zip(places, good, strict=True) if n not in places_bad]
  if not good:
    raise DataError("manifest: expected at least one entry, found none")
  return good


def manifest_of_folder(
  folder: str | Path, *, language: str | None = None, speaker: str | None = None, layout: str | None = None
) -> list[dict[str, str]]:
  """Rows of a manifest for a folder, audio paths relative to it; see `cosyjax.data.layouts.read_folder`.

  Raises:
    DataError: as `read_folder`, and with every file that is wrong, up to `MAX_SHOWN`.
  """
  entries = read_folder(folder, language=language, speaker=speaker, layout=layout)
  refuse([str(entry) for _, entry, _ in entries if isinstance(entry, DataError)], len(entries))
  return [entry for _, entry, _ in entries if isinstance(entry, dict)]


def refuse(faults: list[str], entries: int) -> None:
  """Raises DataError with the first `MAX_SHOWN` faults, if there are any."""
  if not faults:
    return
  if len(faults) == 1:
    raise DataError(faults[0])
  more = [f"... and {len(faults) - MAX_SHOWN} more"] if len(faults) > MAX_SHOWN else []
  raise DataError("\n".join([f"{len(faults)} of {entries} entries cannot be used:", *faults[:MAX_SHOWN], *more]))


def _lines(file: str | Path) -> Iterator[tuple[str, Any, str]]:
  """(FILE:LINE, parsed entry or the DataError that it gave, folder of the file)."""
  from etils import epath

  path = epath.Path(file)
  try:
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
  except OSError as error:
    raise DataError(f"{path}: expected a manifest of JSON lines ({error.strerror or error})") from error
  for number, line in enumerate(lines, 1):
    where = f"{path}:{number}"
    if not line.strip():
      continue
    try:
      entry = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
      entry = DataError(f"{where}: expected UTF-8, found byte {line[error.start]:#04x} at {error.start}")
    except (json.JSONDecodeError, RecursionError) as error:
      entry = DataError(f"{where}: expected a JSON object, found what is not JSON ({error})")
    except _TwiceError as error:
      entry = DataError(f"{where}: expected each field once, found {error.args[0]!r} again")
    yield where, entry, str(path.parent)


def _utterance(entry: Any, where: str, folder: str, limits: tuple[float, float]) -> Utterance:
  if isinstance(entry, DataError):
    raise entry
  if not isinstance(entry, dict):
    raise DataError(f"{where}: expected a JSON object, found {type(entry).__name__}")
  if unknown := sorted(set(entry) - _FIELDS):
    raise DataError(f"{where}: expected fields {', '.join(sorted(_FIELDS))}; found {', '.join(map(repr, unknown))}")
  if missing := [name for name in _REQUIRED if name not in entry]:
    raise DataError(f"{where}: expected {', '.join(map(repr, missing))} too, found only {', '.join(sorted(entry))}")
  if ("audio" in entry) == ("audio_bytes" in entry):
    found = "both" if "audio" in entry else "neither"
    raise DataError(f"{where}: expected one of 'audio' and 'audio_bytes', found {found}")
  for name, value in entry.items():
    if not isinstance(value, str):
      raise DataError(f"{where}: expected a string as {name!r}, found {type(value).__name__}")
    if name != "instruction" and not value.strip():
      raise DataError(f"{where}: expected a {name!r} that is not empty, found {value!r}")
    try:
      value.encode()
    except UnicodeEncodeError:
      raise DataError(f"{where}: expected Unicode as {name!r}, found a half of a surrogate pair") from None
  if "audio_bytes" in entry:
    try:
      audio = base64.b64decode(entry["audio_bytes"], validate=True)
    except (binascii.Error, ValueError) as error:
      raise DataError(f"{where}: expected base64 as 'audio_bytes', found what is not ({error})") from None
  else:
    from etils import epath

    audio = str(epath.Path(folder) / entry["audio"])
  texts = {name: entry.get(name, "") for name in (*_REQUIRED, "instruction")}
  return Utterance(**texts, audio=audio, where=where, limits=limits)


def _is_cut(audio: bytes) -> bool:
  """Whether a WAV or Ogg file ends too early, which libsndfile takes for its proper end."""
  if audio.startswith(b"OggS"):
    page = audio[audio.rindex(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    is_last = len(page) > 5 and page[5] & 4
    return not is_last or 27 + len(sizes) + sum(sizes) > len(page)
  place = 12
  while audio.startswith(b"RIFF") and place + 8 <= len(audio):
    name, size = audio[place : place + 4], int.from_bytes(audio[place + 4 : place + 8], "little")
    if name == b"data":
      return place + 8 + size > len(audio) and size < 0x7FFFF000  # a greater one stands for "not known"
    place += 8 + size + size % 2
  return False


def _audio_fault(utterance: Utterance) -> str:
  try:
    utterance.example()
  except DataError as error:
    return str(error)
  return ""


class _TwiceError(Exception):
  pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  fields = {}
  for name, value in pairs:
    if name in fields:
      raise _TwiceError(name)
    fields[name] = value
  return fields


def _portions(items: Sequence, size: int) -> Iterator[Sequence]:
  return (items[n : n + size] for n in range(0, len(items), size))
