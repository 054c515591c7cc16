"""A corpus spoken by teachers: given texts, a speaker drawn for each, written shard by shard.

Utterance n is text n, and all that is drawn for it comes from (seed, teacher, n): a run that was interrupted goes on
at the shard where it stopped and gives the same files.
"""

import json
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from cosyjax.audio import io
from cosyjax.errors import DataError, OutputError
from train import phones
from train.teachers import RATE, UNSEEN, Teacher

SHARD = 100  # texts
HELD_OUT = 100  # one text of so many is validation's, whoever speaks it
FIELDS = ("id", "audio", "text", "speaker", "language")
SECONDS = (0.6, 16.0)  # shorter and longer utterances are left out
LOUDEST = 0.95
MANIFESTS = ("train", "validation", "unseen")


def read_texts(files: Sequence[Path]) -> list[str]:
  """Lines of some files, each once, in order.

  Raises:
    DataError: a file cannot be read, or there is no text.
  """
  lines: dict[str, None] = {}
  for file in files:
    try:
      found = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f"{file}: expected lines of UTF-8 text ({error})") from error
    lines |= dict.fromkeys(line.strip() for line in found if line.strip())
  if not lines:
    raise DataError(f"{', '.join(map(str, files))}: expected lines of text, found none")
  return list(lines)


def speak_texts(
  teacher: Teacher,
  texts: Sequence[str],
  language: str,
  out: Path,
  *,
  seed: int = 0,
  hours: float = float("inf"),
  progress: Callable[[float], None] = lambda seconds: None,
) -> None:
  """Speaks texts until they end or `hours` are made; writes `audio/`, `entries/` and `description.json`.

  Args:
    teacher: who speaks.
    texts: one an utterance, in this order.
    language: of the texts.
    out: folder; shards that are there are kept, if they were made with the same settings.
    seed: of the draws.
    hours: made in all; the shard in which they are reached is the last.
    progress: called with the seconds of audio that are there, after each shard.

  Raises:
    DataError: the teacher does not speak the language, or the folder is of other settings.
    OutputError: a file cannot be written.
  """
  if language not in teacher.languages:
    raise DataError(f"{teacher.name}: expected a text in {', '.join(teacher.languages)}, found {language}")
  name = f"{teacher.name}-{language}"
  about = {"teacher": name, "seed": seed, "texts": zlib.crc32("\n".join(texts).encode()), **teacher.versions}
  try:
    _describe(out, name, about)
    total = 0.0
    for shard, first in enumerate(range(0, len(texts), SHARD)):
      file = out / "entries" / f"{name}-{shard:05d}.jsonl"
      if not file.is_file():
        (out / "audio" / f"{name}-{shard:05d}").mkdir(parents=True, exist_ok=True)
        numbers = range(first, min(first + SHARD, len(texts)))
        entries = [entry for n in numbers if (entry := _speak(teacher, texts[n], language, n, out, seed)) is not None]
        _write_lines(file, entries)
      total += sum(entry["seconds"] for entry in _read_lines(file))
      progress(total)
      if total >= 3600 * hours:
        return
  except OSError as error:
    raise OutputError(f"{out}: a corpus cannot be written there ({error.strerror or error})") from error


def _speak(teacher: Teacher, text: str, language: str, n: int, out: Path, seed: int) -> dict | None:
  """Writes utterance n and returns its entry; None where the text cannot be spoken."""
  rng = random.Random(f"{seed} {teacher.name} {language} {n}")
  speaker = teacher.draw(rng, language)
  speed = round(min(1.25, max(0.8, rng.gauss(1.0, 0.08))), 3)
  said = teacher.phonemes(text, language)
  waves = []
  for part in said:
    if waves:
      waves.append(np.zeros(int(RATE * rng.uniform(0.02, 0.2)), np.float32))
    waves.append(teacher.speak(part, speaker, speed, n))
  wave_A = np.concatenate(waves) if waves else np.zeros(0, np.float32)
  seconds = len(wave_A) / RATE
  if not SECONDS[0] <= seconds <= SECONDS[1] or not np.all(np.isfinite(wave_A)) or not np.any(wave_A):
    return None
  wave_A = wave_A * min(1.0, LOUDEST / np.max(np.abs(wave_A)))
  name = f"{teacher.name}_{language}_{n:06d}"
  audio = f"audio/{teacher.name}-{language}-{n // SHARD:05d}/{name}.flac"
  io.write(out / audio, wave_A, RATE)
  entry = {"id": name, "audio": audio, "text": text, "speaker": speaker, "language": language}
  return entry | {"seconds": round(seconds, 3), "speed": speed, "phonemes": " ".join(said)}


def write_manifests(out: Path) -> dict[str, list[dict]]:
  """Manifests of all shards in a folder: `train`, `validation`, `unseen`, and the same of phonemes in `phones/`.

  Speakers of `UNSEEN` go to `unseen`; of the others, one text of `HELD_OUT` goes to `validation`, whoever speaks it.
  `details.jsonl` has seconds, speed and phonemes of every utterance.
  """
  manifests: dict[str, list[dict]] = {name: [] for name in MANIFESTS}
  everything = [entry for file in sorted((out / "entries").glob("*.jsonl")) for entry in _read_lines(file)]
  for entry in everything:
    is_held = zlib.crc32(entry["text"].encode()) % HELD_OUT == 0
    manifests["unseen" if entry["speaker"] in UNSEEN else "validation" if is_held else "train"].append(entry)
  try:
    (out / "phones").mkdir(parents=True, exist_ok=True)
    for name, entries in manifests.items():
      _write_lines(out / f"{name}.jsonl", [{key: entry[key] for key in FIELDS} for entry in entries])
      spelled = [
        entry | {"text": phones.spell(entry["phonemes"]), "audio": f"../{entry['audio']}"} for entry in entries
      ]
      _write_lines(out / "phones" / f"{name}.jsonl", [{key: entry[key] for key in FIELDS} for entry in spelled])
    details = ("id", "seconds", "speed", "phonemes")
    _write_lines(out / "details.jsonl", [{key: entry[key] for key in details} for entry in everything])
  except OSError as error:
    raise OutputError(f"{out}: manifests cannot be written there ({error.strerror or error})") from error
  return manifests


def _describe(out: Path, name: str, about: dict) -> None:
  """Notes what a folder's utterances are made of, or checks that it is this."""
  file = out / f"{name}.json"
  (out / "entries").mkdir(parents=True, exist_ok=True)
  if file.is_file():
    found = json.loads(file.read_text(encoding="utf-8"))
    if found != about:
      raise DataError(f"{file}: expected {about}, found {found}; other settings want another --out")
    return
  part = file.with_suffix(".part")
  part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
  part.replace(file)


def _write_lines(file: Path, entries: Iterable[dict]) -> None:
  part = file.with_suffix(".part")
  part.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
  part.replace(file)


def _read_lines(file: Path) -> list[dict]:
  return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
