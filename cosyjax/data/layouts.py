"""Folders of recordings as they are published: which layout a folder has, and the entries of a manifest in it.

Two kinds. In one, each recording has a file of text beside it; in the other a table lists what is said. What is
wrong in a folder (a recording without a transcript, a line of another form) stands among its entries as the
DataError that says so, so that `cosyjax.data.manifest.check_entries` lists all of it at once.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cosyjax.errors import DataError

AUDIO = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a", ".mp4", ".webm", ".amr", ".aac")
_PINYIN = re.compile(r"[A-Za-zü:]+[0-6]")
_ID = re.compile(r"[^\s/\\]+")

Entries = list[tuple[str, dict[str, str] | DataError, str]]  # where, entry or what is wrong, folder of its audio


class Said(NamedTuple):
  """A line of a table. speaker: "" stands for the folder of the recording; language: "" for what is given."""

  name: str
  text: str
  speaker: str = ""
  language: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a folder is laid out.

  Attributes:
    says: what is in it, for help and messages.
    mark: the files that tell it, as a pattern: its tables, or the texts beside recordings.
    audio: folder of a table's recordings; "" for texts beside recordings.
    language: of the transcripts, where the data set has but one.
    read: lines of a table -> for each what is said, what the line should be, or None for one that says nothing.
    ending: of the texts beside recordings.
    above: folders between a recording and the one that is named after its speaker.
    whole: a recording that the table does not name is a mistake.
  """

  says: str
  mark: str
  audio: str = ""
  language: str = ""
  read: Callable[[list[str]], Iterator[Said | str | None]] | None = None
  ending: str = ""
  above: int = 0
  whole: bool = True


def _ljspeech(lines: list[str]) -> Iterator[Said | str | None]:
  for line in lines:
    name, *texts = (column.strip() for column in line.split("|"))
    said = [text for text in texts if text]
    if not 1 <= len(texts) <= 2 or not said or not _ID.fullmatch(name):
      yield "expected ID|text or ID|text|text read out"
    else:
      yield Said(_stem(name), said[-1])


def _aishell1(lines: list[str]) -> Iterator[Said | str | None]:
  for line in lines:
    name, *words = line.split()
    yield Said(_stem(name), _unspaced(words)) if words else "expected an id and a transcript"


def _aishell3(lines: list[str]) -> Iterator[Said | str | None]:
  for line in lines:
    name, *words = line.split()
    words = [word for word in words if not _PINYIN.fullmatch(word)]
    yield Said(_stem(name), _unspaced(words)) if words else "expected a file name and characters, each with its pinyin"


def _common_voice(lines: list[str]) -> Iterator[Said | str | None]:
  header, wanted = lines[0].split("\t"), ("client_id", "path", "sentence")
  if missing := [name for name in wanted if name not in header]:
    yield f"expected the columns {', '.join(wanted)}; {', '.join(missing)} not there"
    return
  yield None
  for line in lines[1:]:
    row = dict(zip(header, line.split("\t"), strict=False))
    if not all(row.get(name, "").strip() for name in wanted):
      yield f"expected {', '.join(wanted)}, none of them empty"
    else:
      yield Said(_stem(row["path"]), row["sentence"], row["client_id"], row.get("locale", "").partition("-")[0])


LAYOUTS: Mapping[str, Layout] = {
  "libritts": Layout(
    "SPEAKER/CHAPTER/ID.wav, each with ID.normalized.txt", "**/*.normalized.txt", language="en",
    ending=".normalized.txt", above=1,
  ),
  "ljspeech": Layout("metadata.csv with lines ID|text|text read out, and wavs/ID.wav", "metadata.csv", "wavs",
                     read=_ljspeech),
  "aishell1": Layout("transcript/aishell_transcript_v0.8.txt, and wav/.../SPEAKER/ID.wav",
                     "transcript/aishell_transcript_v*.txt", "wav", "zh", _aishell1),
  "aishell3": Layout("content.txt with characters and pinyin, and wav/SPEAKER/ID.wav", "content.txt", "wav", "zh",
                     _aishell3),
  "common_voice": Layout("validated.tsv (train.tsv if there is none), and clips/ID.mp3", "validated.tsv", "clips",
                         read=_common_voice, whole=False),
  "common_voice_train": Layout("train.tsv of Common Voice, and clips/ID.mp3", "train.tsv", "clips",
                               read=_common_voice, whole=False),
  "plain": Layout("recordings, each with a .txt of the same name; SPEAKER/ID.wav", "**/*.txt", ending=".txt"),
}  # fmt: skip


def recognise(folder: str | Path) -> str:
  """Name of the first layout whose mark is in the folder or in one right below it; "plain" if none is."""
  return next((name for name, layout in LAYOUTS.items() if _marks(Path(folder), layout)), "plain")


def read_folder(
  folder: str | Path, *, language: str | None = None, speaker: str | None = None, layout: str | None = None
) -> Entries:
  """Entries of a manifest for a folder of recordings, sorted, and among them what is wrong.

  Args:
    folder: of the data set, or the folder above it.
    language: of all transcripts; where the layout says it, it need not be given.
    speaker: of all recordings, in place of what the layout says.
    layout: one of `LAYOUTS`; recognised if None.

  Raises:
    DataError: no folder, not of this layout, nothing in it, or no language.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise DataError(f"{folder}: expected a folder of recordings and transcripts, found none")
  name = layout or recognise(folder)
  if name not in LAYOUTS:
    raise DataError(f"layout: expected one of {', '.join(LAYOUTS)}; found {name!r}")
  kind = LAYOUTS[name]
  marks = _marks(folder, kind)
  if layout and name != "plain" and not marks:
    raise DataError(f"{folder}: expected the layout {name} ({kind.says}), found no {kind.mark}")
  entries: Entries = []
  if kind.read is None:
    entries = _beside(folder, kind)
  else:
    for table in marks:
      entries += _table(folder, table, kind)
  if not entries:
    raise DataError(f"{folder}: expected recordings ({', '.join(AUDIO)}) with transcripts ({kind.says}), found none")
  for _, entry, _ in entries:
    if isinstance(entry, dict):
      entry["speaker"] = speaker or entry["speaker"]
      entry["language"] = language or entry["language"] or kind.language
      if not entry["language"]:
        raise DataError(f"{folder}: expected a language to be given (--language): the layout {name} does not say it")
  return sorted(entries, key=lambda entry: entry[0])


def _marks(folder: Path, layout: Layout) -> list[Path]:
  if layout.read is None:
    return [path] if (path := next(folder.glob(layout.mark), None)) else []
  found = sorted(folder.glob(layout.mark)) or sorted(folder.glob(f"*/{layout.mark}"))
  return [path for path in found if (_root(path, layout) / layout.audio).is_dir()]


def _root(table: Path, layout: Layout) -> Path:
  return table.parents[layout.mark.count("/")]


def _recordings(folder: Path) -> list[Path]:
  return sorted(path for path in folder.rglob("*")
                if path.suffix.lower() in AUDIO and not path.name.startswith(".") and path.is_file())  # fmt: skip


def _entry(folder: Path, path: Path, name: str, text: str, speaker: str, language: str = ""):
  audio = path.relative_to(folder).as_posix()
  entry = {"id": name, "audio": audio, "text": text, "speaker": speaker, "language": language}
  return str(path), entry, str(folder)


def _wrong(folder: Path, where: str | Path, what: str):
  return str(where), DataError(f"{where}: {what}"), str(folder)


def _beside(folder: Path, layout: Layout) -> Entries:
  entries: Entries = []
  files = [path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(layout.ending)]
  texts = {path.with_name(path.name[: -len(layout.ending)]): path for path in files
           if path.is_file() and not path.name.startswith(".")}  # fmt: skip
  heard: dict[Path, Path] = {}
  for path in _recordings(folder):
    stem = path.with_suffix("")
    first = heard.setdefault(stem, path)
    if stem not in texts:
      entries.append(_wrong(folder, path, f"expected a transcript {path.stem}{layout.ending} beside it, found none"))
    elif first != path:
      entries.append(_wrong(folder, path, f"expected one recording of this name, found {first.name} too"))
    else:
      try:
        said = " ".join(texts[stem].read_text(encoding="utf-8-sig").split())
      except UnicodeDecodeError:
        entries.append(_wrong(folder, texts[stem], "expected text in UTF-8, found other bytes"))
        continue
      above = [each for each in path.parents if each != folder and each.is_relative_to(folder)]
      who = (above[min(layout.above, len(above) - 1)] if above else folder.resolve()).name
      entries.append(_entry(folder, path, stem.relative_to(folder).as_posix(), said, who))
  entries += [_wrong(folder, path, "expected a recording of the same name beside it, found none")
              for stem, path in texts.items() if stem not in heard]  # fmt: skip
  return entries


def _table(folder: Path, table: Path, layout: Layout) -> Entries:
  place = _root(table, layout) / layout.audio
  try:
    lines = table.read_bytes().decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    return [_wrong(folder, table, f"expected text in UTF-8, found other bytes at {error.start}")]
  numbered = [(n, line.rstrip("\r")) for n, line in enumerate(lines, 1) if line.strip()]
  if not numbered:
    return [_wrong(folder, table, "expected a line for each recording, found none")]
  entries: Entries = []
  recordings: dict[str, Path] = {}
  for path in _recordings(place):
    if recordings.setdefault(path.stem, path) != path:
      entries.append(_wrong(folder, path, f"expected one recording of this name, found {recordings[path.stem]} too"))
  named: dict[str, int] = {}
  for (number, _), said in zip(numbered, layout.read([line for _, line in numbered]), strict=False):
    where = f"{table}:{number}"
    if isinstance(said, str):
      entries.append(_wrong(folder, where, f"{said}; found another line"))
    elif said is not None and said.name in named:
      entries.append(_wrong(folder, where, f"expected each recording once, found {said.name!r} of line "
                                           f"{named[said.name]} again"))  # fmt: skip
    elif said is not None:
      named[said.name] = number
      path = recordings.get(said.name)
      if path is None:
        entries.append(_wrong(folder, where, f"expected a recording {said.name} in {place}, found none"))
        continue
      who = said.speaker or (path.parent if path.parent != place else _root(table, layout).resolve()).name
      entries.append(_entry(folder, path, said.name, said.text.strip(), who, said.language))
  if layout.whole:
    entries += [_wrong(folder, path, f"expected a line in {table.name}, found none")
                for stem, path in recordings.items() if stem not in named]  # fmt: skip
  return entries


def _stem(name: str) -> str:
  """A name without the ending of a recording."""
  name = name.strip().replace("\\", "/").rpartition("/")[2]
  return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in AUDIO else name


def _unspaced(words: list[str]) -> str:
  """Chinese words put together; a blank stays between two Latin ones."""
  return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", " ".join(words))
