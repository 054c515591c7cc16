"""Test sets as sentences to say: text files, manifests, seed-tts-eval's meta.lst, LibriSpeech's folders."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from cosyjax.data.manifest import read_manifest, refuse
from cosyjax.errors import DataError

PROMPT_SECONDS = (3.0, 10.0)  # of recordings that may be prompts, where the set names none


@dataclasses.dataclass(frozen=True)
class Sentence:
  """A sentence of a test set, and by whose voice it is to be said.

  Attributes:
    id: unique in its set.
    text: what to say.
    language: "en", "zh", ...
    speaker: whose voice; empty if the set does not say.
    recording: a recording of this sentence, where the set has one.
    prompt: recording that the voice is made from.
    prompt_text: what it says.
    voice: file of a saved voice, in place of a prompt.
  """

  id: str
  text: str
  language: str
  speaker: str = ""
  recording: Path | None = None
  prompt: Path | None = None
  prompt_text: str = ""
  voice: Path | None = None


def read_texts(path: str | Path, language: str) -> list[Sentence]:
  """A sentence for each line of a UTF-8 file; ids are STEM-LINE."""
  path = Path(path)
  lines = enumerate(_lines(path), 1)
  rows = [Sentence(f"{path.stem}-{n:04d}", line.strip(), language) for n, line in lines if line.strip()]
  return _at_least_one(rows, path, "a sentence a line")


def read_manifest_set(path: str | Path) -> list[Sentence]:
  """Entries of a manifest (`cosyjax.data.manifest`): said again, by the same speaker.

  Raises:
    DataError: as `read_manifest`; audio that stands in the manifest itself is refused.
  """
  rows = read_manifest(path, check_audio=False)
  refuse([f"{u.where}: expected a path as 'audio', found bytes" for u in rows if isinstance(u.audio, bytes)], len(rows))
  sentences = [Sentence(u.id, u.text, u.language, u.speaker, Path(u.audio)) for u in rows]
  _check_files(sentences, path)
  return sentences


def read_meta_list(path: str | Path, language: str | None = None) -> list[Sentence]:
  """A list of seed-tts-eval: `id|prompt text|prompt audio|text`, and perhaps `|recording` at the end.

  Paths are relative to the list. Without a fifth field the recording is wavs/ID.wav, if that is there. An id that
  occurs again gets its line's number.

  Args:
    path: meta.lst, hardcase.lst, ...
    language: "en" or "zh"; by default the name of the list's folder.

  Raises:
    DataError: a line of another form, or audio that is not there; all such lines are named.
  """
  path = Path(path)
  language = language or path.resolve().parent.name
  if language not in ("en", "zh"):
    raise DataError(f"{path}: expected a language, or a folder named en or zh, found {language!r}")
  rows, faults, seen = [], [], set()
  for number, line in enumerate(_lines(path), 1):
    fields = [field.strip() for field in line.split("|")]
    if not line.strip():
      continue
    if len(fields) not in (4, 5) or not all(fields[:4]):
      faults.append(f"{path}:{number}: expected id|prompt text|prompt audio|text, found {line[:80]!r}")
      continue
    name, prompt_text, prompt, text = fields[:4]
    own = path.parent / (fields[4] if len(fields) == 5 else f"wavs/{name}.wav")
    recording = own if len(fields) == 5 or own.is_file() else None
    name = f"{name}:{number}" if name in seen else name
    seen.add(name)
    rows.append(Sentence(name, text, language, prompt, recording, path.parent / prompt, prompt_text))
  refuse(faults, len(rows) + len(faults))
  _check_files(rows, path)
  return _at_least_one(rows, path, "id|prompt text|prompt audio|text")


def read_librispeech(folder: str | Path) -> list[Sentence]:
  """LibriSpeech's layout: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with `ID TEXT` lines, ID.flac beside it.

  Text is lowered, because the transcripts are in capitals.

  Raises:
    DataError: no transcripts, or a recording that is not there.
  """
  folder, rows = Path(folder), []
  for transcript in sorted(folder.rglob("*.trans.txt")):
    for line in _lines(transcript):
      name, _, text = line.strip().partition(" ")
      if text:
        speaker = name.partition("-")[0]
        rows.append(Sentence(name, text.lower(), "en", speaker, transcript.with_name(f"{name}.flac")))
  _check_files(rows, folder)
  return _at_least_one(rows, folder, "SPEAKER/CHAPTER/*.trans.txt")


def selection(
  sentences: Sequence[Sentence],
  *,
  language: str | None = None,
  seconds: Sequence[float] | None = None,
  limit: int | None = None,
) -> list[Sentence]:
  """Part of a set, spread evenly over it.

  Args:
    sentences: the set.
    language: of which alone, if given.
    seconds: shortest and longest recording, if given.
    limit: most sentences.

  Raises:
    DataError: nothing is left.
  """
  rows = [s for s in sentences if language in (None, s.language)]
  if seconds is not None:
    rows = [s for s in rows if s.recording is not None and seconds[0] <= _seconds_of(s.recording) <= seconds[1]]
  if limit is not None and limit < len(rows):
    rows = [rows[i * len(rows) // limit] for i in range(limit)]
  if not rows:
    raise DataError(f"test set: expected sentences of language {language} and length {seconds}, found none")
  return rows


def with_prompts(
  sentences: Sequence[Sentence], pool: Sequence[Sentence], seconds: tuple[float, float] = PROMPT_SECONDS
) -> list[Sentence]:
  """Give sentences without a prompt another recording of their speaker, the next by id.

  Args:
    sentences: to be said.
    pool: the whole set, whose recordings may be prompts.
    seconds: suitable lengths; a speaker with no other recording of such a length gets the next of any length.

  Raises:
    DataError: a speaker who has no other recording.
  """
  by_speaker: dict[str, list[Sentence]] = {}
  for sentence in sorted(pool, key=lambda s: s.id):
    if sentence.recording is not None:
      by_speaker.setdefault(sentence.speaker, []).append(sentence)
  suits = lambda sentence: seconds[0] <= _seconds_of(sentence.recording) <= seconds[1]
  out, faults = [], []
  for sentence in sentences:
    if sentence.prompt is not None or sentence.voice is not None:
      out.append(sentence)
      continue
    mine = by_speaker.get(sentence.speaker, [])
    at = next((i for i, s in enumerate(mine) if s.id == sentence.id), -1)
    others = [s for s in mine[at + 1 :] + mine[: max(at, 0)] if s.recording != sentence.recording]
    chosen = next(filter(suits, others), others[0] if others else None)
    if chosen is None:
      faults.append(f"{sentence.id}: expected another recording of {sentence.speaker or 'its speaker'!r} as a prompt")
    else:
      out.append(dataclasses.replace(sentence, prompt=chosen.recording, prompt_text=chosen.text))
  refuse(faults, len(sentences))
  return out


def with_voices(sentences: Sequence[Sentence], voices: Sequence[Sentence], every: bool = False) -> list[Sentence]:
  """Have sentences said by given voices, in turn, or each by every voice.

  Args:
    sentences: their own prompts are put aside.
    voices: each a `speaker` with `voice`, or with `recording` and its `text`. A sentence is said by voices of its
      language, if there are any; else by all.
    every: each sentence by every voice; ids become ID@SPEAKER.
  """
  out, turns = [], dict.fromkeys((s.language for s in sentences), 0)
  for sentence in sentences:
    fitting = [voice for voice in voices if voice.language == sentence.language] or list(voices)
    for voice in fitting if every else [fitting[turns[sentence.language] % len(fitting)]]:
      name = f"{sentence.id}@{voice.speaker}" if every else sentence.id
      given = {"prompt": voice.recording, "prompt_text": voice.text, "voice": voice.voice}
      out.append(dataclasses.replace(sentence, id=name, speaker=voice.speaker, **given))
    turns[sentence.language] += 1
  return out


@functools.lru_cache(maxsize=1 << 16)
def _seconds_of(path: Path) -> float:
  import soundfile

  try:
    return soundfile.info(str(path)).duration
  except (soundfile.SoundFileError, OSError) as error:
    raise DataError(f"{path}: expected a recording, found what cannot be decoded ({error})") from error


def _lines(path: Path) -> list[str]:
  try:
    return path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"{path}: expected UTF-8 text ({error})") from error


def _at_least_one(rows: list[Sentence], path: Path, form: str) -> list[Sentence]:
  if not rows:
    raise DataError(f"{path}: expected {form}, found none")
  return rows


def _check_files(sentences: Iterable[Sentence], where: str | Path) -> None:
  paths = {path for s in sentences for path in (s.recording, s.prompt) if path is not None}
  refuse(
    [f"{where}: expected audio, found nothing at {path}" for path in sorted(paths) if not path.is_file()], len(paths)
  )
