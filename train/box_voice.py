"""Speech for `train.box_device`, made by processes beside it: texts that Hibari speaks, recordings that are decoded.

  python -m train.box_voice --pack PACK --out DIR --process 3/15

Writes parts of some utterances each, `NAME.npz` (samples int16 at 24 kHz one after the other, lengths, and a JSON line
for each), until everything is there or the process is ended; a part is there whole or not at all.
"""

import argparse
import io
import json
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PART = 24  # utterances
RATE = 24_000


def recordings(pack: Path, process: tuple[int, int]) -> Iterator[dict]:
  """Rows of the pack's recordings, with their samples."""
  import soundfile

  with zipfile.ZipFile(pack / "recordings.zip") as files:
    entries = [json.loads(line) for line in files.read("entries.jsonl").decode().splitlines()]
    for entry in entries[process[0] :: process[1]]:
      wave_A, rate = soundfile.read(io.BytesIO(files.read(entry["audio"])), dtype="int16")
      if rate == RATE:
        yield entry | {"wave": wave_A}


def spoken(pack: Path, process: tuple[int, int], longest: float) -> Iterator[dict]:
  """Texts of the pack in Hibari's voices."""
  from train import phones, teachers

  texts = (pack / "texts.txt").read_text(encoding="utf-8").split("\n")
  texts = [text for text in texts if text]
  if not texts:
    return
  teacher = teachers.Hibari(natural=0.4)
  for n in range(process[0], len(texts), process[1]):
    rng = random.Random(f"0 hibari en {n}")
    speaker, speed = teacher.draw(rng, "en"), min(1.25, max(0.8, rng.gauss(1.0, 0.08)))
    said = teacher.phonemes(texts[n], "en")
    waves = [teacher.speak(part, speaker, speed, n) for part in said]
    wave_A = np.concatenate(waves) if waves else np.zeros(0, np.float32)
    if not 0.6 <= len(wave_A) / RATE <= longest or not np.all(np.isfinite(wave_A)):
      continue
    wave_A = (32767 * wave_A * min(1.0, 0.95 / np.max(np.abs(wave_A)))).astype(np.int16)
    entry = {"text": texts[n], "phones": phones.spell(" ".join(said)), "speaker": speaker, "language": "en"}
    yield entry | {"wave": wave_A}


def write(out: Path, name: str, entries: list[dict]) -> None:
  """Writes a part and renames it into place."""
  about = "\n".join(json.dumps({key: x for key, x in entry.items() if key != "wave"}) for entry in entries)
  packed = io.BytesIO()
  waves = {
    "waves": np.concatenate([entry["wave"] for entry in entries]),
    "lengths": [len(entry["wave"]) for entry in entries],
  }
  np.savez(packed, entries=np.frombuffer(about.encode(), np.uint8), **waves)
  part = out / f".{name}.part"
  part.write_bytes(packed.getbuffer())
  part.replace(out / f"{name}.npz")


def read(file: Path) -> list[dict]:
  """The utterances of a part, as they were written."""
  with np.load(file) as arrays:
    entries = [json.loads(line) for line in arrays["entries"].tobytes().decode().splitlines()]
    ends = np.cumsum(arrays["lengths"])
    waves = np.split(arrays["waves"], ends[:-1])
  return [entry | {"wave": wave_A} for entry, wave_A in zip(entries, waves, strict=True)]


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pack", type=Path, required=True)
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--process", default="0/1", metavar="I/N")
  parser.add_argument("--longest", type=float, default=8.0)
  args = parser.parse_args(argv)
  index, count = map(int, args.process.split("/"))
  entries, made = [], 0
  everything = [lambda: recordings(args.pack, (index, count)), lambda: spoken(args.pack, (index, count), args.longest)]
  for kind, source in zip("rs", everything, strict=True):
    for entry in source():
      if len(entry["wave"]) <= args.longest * RATE:
        entries.append(entry)
      if len(entries) == PART:
        write(args.out, f"{kind}{made:05d}-{index:02d}", entries)
        entries, made = [], made + 1
    if entries:
      write(args.out, f"{kind}{made:05d}-{index:02d}", entries)
      entries, made = [], made + 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
