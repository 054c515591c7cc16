"""What the stages of `infer.evaluate` share: a system's folder, audio as judges take it, progress. Needs no JAX.

A system is a folder:

  utterances.jsonl      what was said, by whom, how long it took; see `infer.evaluate_synthesise`
  audio/                the recordings, where the system made them
  judged/NAME.jsonl     what the judge NAME found: a transcript, a quality, or a speaker vector for each id
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cosyjax.errors import AudioError, ConfigError
from cosyjax.evaluation.records import read_records

UTTERANCES = "utterances.jsonl"
PROMPT = "prompt of "  # ids of prompts among a speaker judge's vectors: this and the recording's path
EVERY = 30.0  # seconds between lines of progress, where no terminal shows a bar


def judged(system: Path, judge: str) -> Path:
  """The file of what a judge found of a system."""
  return system / "judged" / f"{judge}.jsonl"


def read_system(system: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """A system's header and utterances by id, audio paths made absolute.

  Raises:
    DataError: the folder holds no such records.
  """
  header, rows = read_records(system / UTTERANCES)
  for row in rows.values():
    if row.get("audio"):
      row["audio"] = str(system / row["audio"])
  return header, rows


def read_16k(path: str | Path) -> np.ndarray:
  """A recording as judges take it: float32 [A], mono, 16 kHz.

  Raises:
    AudioError: it cannot be read, or holds nothing.
  """
  import soundfile
  import soxr

  try:
    wave_AC, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
  except (soundfile.SoundFileError, OSError) as error:
    raise AudioError(f"{path}: expected audio, found what cannot be decoded ({error})") from error
  if not len(wave_AC):
    raise AudioError(f"{path}: expected audio, found no samples")
  return np.asarray(soxr.resample(wave_AC.mean(axis=1), rate, 16_000, quality="VHQ"), np.float32)


def check_systems(systems: Sequence[Path]) -> None:
  """Refuse folders that hold no system, and two of one name.

  Raises:
    DataError, ConfigError: naming the folder.
  """
  for system in systems:
    read_records(system / UTTERANCES)
  names = [system.resolve().name for system in systems]
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise ConfigError(f"expected folders of different names, found {twice} twice")


def progress(todo: Sequence[Any], stage: str, done: int = 0) -> Iterator[Any]:
  """Go through what is to be done, with a bar on a terminal and a line now and then elsewhere.

  Args:
    todo: items.
    stage: shown before the count.
    done: items that an earlier run has done, counted in.
  """
  total = done + len(todo)
  if sys.stderr.isatty():
    yield from tqdm(todo, desc=stage, initial=done, total=total, file=sys.stderr, leave=False)
    return
  began = shown = time.monotonic()
  for number, item in enumerate(todo, 1):
    yield item
    now = time.monotonic()
    if now - shown >= EVERY or number == len(todo):
      left = (now - began) / number * (len(todo) - number)
      print(f"{stage}: {done + number} of {total}, {left:.0f} s to go", file=sys.stderr, flush=True)
      shown = now
