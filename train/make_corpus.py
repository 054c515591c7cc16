"""Makes a speech corpus with what is installed: speech engines, or better, teachers from package registries.

  python -m train.make_corpus --out made --hours 1.0 --held-out-speakers 8
  python -m train.make_corpus --teacher hibari --texts en.txt --hours 20 --out taught
  python -m train.make_corpus --teacher kokoro --kokoro-voices kokoro-js-1.2.1.tgz --texts zh.txt --language zh \\
    --out taught
  python -m train.build_corpus --manifest made/manifest.jsonl --split unseen=made/unseen.jsonl --out corpus

Without --teacher, up to 60 voices of espeak-ng, flite and festival speak English and Spanish sentences of a small
grammar, so that every trainer can be tried. A speaker is a voice at a pitch and speed of its own; every speaker gets
the same time, and no sentence is said twice. An hour takes about two minutes on two cores. Writes into --out:
`audio/*.flac` at the engine's own rate, `manifest.jsonl`, `unseen.jsonl` (the speakers held out whole) and `made.json`
(the engines and their versions).

A teacher (`train.teachers` says how to install them) speaks the lines of --texts at 24 kHz, one an utterance, and
goes on where it was interrupted; several teachers may speak into one --out. Writes `train.jsonl`, `validation.jsonl`
(held-out texts), `unseen.jsonl` (held-out voices), the same in `phones/` with phonemes for text, which is what the
recogniser in the speech tokenizer learns to read, `details.jsonl`, and a description of each teacher.

The same seed and engines give the same bytes, with any number of --processes.

Exit status: 0, or 2 if no engine is installed, a teacher is missing, or the output cannot be written.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from cosyjax.audio import io
from cosyjax.errors import CosyError, DataError, OutputError
from train import teacher_corpus
from train.corpus_grammar import WORDS, sentences, words
from train.teachers import Hibari, Kokoro

INSTALL = "apt-get install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
ACCENTS = {
  "en": ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc"),
  "es": ("es", "es-419"),
}
# Voices of espeak-ng that are not robots, and that differ in their formants.
_HOURS = "{desc}: {n:.2f} of {total} h [{elapsed}]"
TIMBRES = words(
  "f2 m3 f4 m1 f5 m7 f3 m2 f1 m4 m5 m6 m8 Annie Andy linda adam belinda Denis Alicia max steph david Andrea Lee "
  "anika john Mario aunty Diogo grandpa Michael"
)
FLITE = ("slt", "rms", "awb", "kal16")
FESTIVAL = ("cmu_us_slt_arctic_hts", "kal_diphone", "ked_diphone")


@dataclasses.dataclass(frozen=True)
class Speaker:
  """A voice of an engine. `pitch` (0..99) and `speed` (words a minute) are espeak-ng's."""

  name: str
  engine: str
  voice: str
  language: str
  pitch: int = 50
  speed: int = 160

  def command(self, text: str, wav: Path) -> list[str]:
    if self.engine == "espeak-ng":
      return ["espeak-ng", "-v", self.voice, "-p", str(self.pitch), "-s", str(self.speed), "-w", str(wav), text]
    if self.engine == "flite":
      return ["flite", "-voice", self.voice, "-t", text, "-o", str(wav)]
    return ["text2wave", "-eval", f"(voice_{self.voice})", "-o", str(wav)]  # reads the text from its input

  def say(self, text: str) -> tuple:
    """Samples float32 [A] and their rate in Hz."""
    with tempfile.TemporaryDirectory() as folder:
      wav = Path(folder) / "speech.wav"
      done = subprocess.run(self.command(text, wav), input=text.encode(), capture_output=True, check=False)
      if done.returncode or not wav.is_file():
        raise DataError(f"{self.name}: {self.engine} did not speak {text!r} ({done.stderr.decode(errors='replace')})")
      return io.read(wav)


def installed() -> tuple[list[Speaker], dict[str, str], list[str]]:
  """Speakers in a fixed order that mixes languages and engines; versions of the engines; names of absent ones."""
  versions, absent, spoken = {}, [], {"en": [], "es": []}
  if shutil.which("espeak-ng"):
    versions["espeak-ng"] = _output("espeak-ng", "--version").split(" Data")[0].strip()
    variants, known = _output("espeak-ng", "--voices=variant"), _output("espeak-ng", "--voices")
    timbres = [name for name in TIMBRES if re.search(rf"!v/{name}\b", variants)]
    for language, accents in ACCENTS.items():
      accents = [name for name in accents if re.search(rf"\s{name}\s", known)]
      for n, timbre in enumerate(timbres if accents else ()):
        voice, rise = f"{accents[n % len(accents)]}+{timbre}", language == "es"
        pitch, speed = 38 + (n * 7 + 11 * rise) % 25, 145 + (n * 13 + 17 * rise) % 41
        spoken[language].append(Speaker(f"espeak-ng {voice}", "espeak-ng", voice, language, pitch, speed))
  for engine, program, voices in (("flite", "flite", FLITE), ("festival", "text2wave", FESTIVAL)):
    if shutil.which(program):
      listed = _output("flite", "-lv") if engine == "flite" else _output("festival", "-b", "(print (voice.list))")
      version = re.search(r"[^\n]*(flite-|Festival)[^\n]*", _output(engine, "--version"))
      versions[engine] = version.group().strip() if version else "unknown"
      present = [name for name in voices if re.search(rf"\b{name}\b", listed)]
      spoken["en"] = [Speaker(f"{engine} {name}", engine, name, "en") for name in present] + spoken["en"]
  absent = [name for name in ("espeak-ng", "flite", "festival") if name not in versions]
  both = itertools.zip_longest(spoken["en"][:34], spoken["es"][:26])
  return [speaker for pair in both for speaker in pair if speaker], versions, absent


@dataclasses.dataclass(frozen=True)
class Limits:
  """How much one speaker says: sentences of `low` to `high` seconds, until `total` seconds or `count` sentences."""

  low: float
  high: float
  total: float
  count: int


def record(number: int, speaker: Speaker, lines: Iterator[str], limits: Limits, out: Path) -> list[dict]:
  """Speaks sentences until a limit is reached; returns the entries written."""
  entries, total, refused = [], 0.0, 0
  while total < limits.total and len(entries) < limits.count:
    text = next(lines)
    wave_A, rate = speaker.say(text)
    seconds = len(wave_A) / rate
    if not limits.low <= seconds <= limits.high:
      refused += 1
      if refused > 50 + 5 * len(entries):
        raise DataError(
          f"{speaker.name}: expected sentences of {limits.low:g} to {limits.high:g} s, found too many others; "
          f"the last took {seconds:.1f} s"
        )
      continue
    name = f"{speaker.language}{number:02d}_{len(entries):04d}"
    io.write(out / "audio" / f"{name}.flac", wave_A, rate)
    entries.append(
      {
        "id": name,
        "audio": f"audio/{name}.flac",
        "text": text,
        "speaker": speaker.name,
        "language": speaker.language,
        "seconds": round(seconds, 3),
      }
    )
    total += seconds
  return entries


def make(args: argparse.Namespace) -> dict[str, list[dict]]:
  """Speaks and writes the whole corpus; returns the entries of each manifest.

  Raises:
    DataError: no engine, fewer speakers than asked for, or an engine that fails.
    OutputError: the output cannot be written.
  """
  speakers, versions, absent = installed()
  for engine in absent:
    print(f"{engine} is not installed: its voices are left out. To install: {INSTALL}", file=sys.stderr)
  wanted = args.speakers or len(speakers)
  if not speakers or len(speakers) < wanted or wanted <= args.held_out_speakers:
    raise DataError(
      f"expected at least {max(wanted, args.held_out_speakers + 1, 1)} speakers of installed speech engines, "
      f"{args.held_out_speakers} of them held out; found {len(speakers)}. To install: {INSTALL}"
    )
  speakers = speakers[:wanted]
  try:
    (args.out / "audio").mkdir(parents=True)
  except OSError as error:
    raise OutputError(f"{args.out}: expected a folder that can be made anew ({error.strerror})") from error

  jobs = []
  for language in sorted({speaker.language for speaker in speakers}):
    same = [(n, speaker) for n, speaker in enumerate(speakers) if speaker.language == language]
    for place, (n, speaker) in enumerate(same):  # every len(same)-th sentence, so no two speakers share one
      lines = itertools.islice(sentences(language, args.seed, short=args.seconds[1] < 4), place, None, len(same))
      limits = Limits(*args.seconds, total=args.hours * 3600 / wanted, count=sys.maxsize)
      if args.utterances:
        count = args.utterances // wanted + (n < args.utterances % wanted)
        limits = Limits(*args.seconds, total=float("inf"), count=count)
      jobs.append((n, speaker, lines, limits, args.out))
  jobs.sort(key=lambda job: job[0])
  entries = []
  with concurrent.futures.ThreadPoolExecutor(args.processes) as pool:  # a thread waits for an engine's process
    futures = [pool.submit(record, *job) for job in jobs]
    for _ in tqdm(concurrent.futures.as_completed(futures), total=len(jobs), unit="speaker", desc="speaking"):
      pass
    for future in futures:
      entries.append(future.result())

  # Held out are speakers of both languages in turn, drawn from the seed.
  order = random.Random(f"{args.seed} held out").sample(range(wanted), wanted)
  turns = [[n for n in order if speakers[n].language == language] for language in WORDS]
  order = [n for turn in itertools.zip_longest(*turns) for n in turn if n is not None]
  unseen = set(order[: args.held_out_speakers])
  manifests = {
    "manifest": [entry for n, of in enumerate(entries) if n not in unseen for entry in of],
    "unseen": [entry for n, of in enumerate(entries) if n in unseen for entry in of],
  }
  (args.out / "made.json").write_text(json.dumps({"seed": args.seed, "engines": versions}, indent=2) + "\n")
  for name, of in manifests.items():
    if of:
      kept = [{key: value for key, value in entry.items() if key != "seconds"} for entry in of]
      lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept)
      (args.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
  return manifests


def make_taught(args: argparse.Namespace) -> dict[str, list[dict]]:
  """Has a teacher speak the given texts; returns the entries of each manifest of --out.

  Raises:
    DataError: the teacher or a text is missing, or --out is of other settings.
    OutputError: the output cannot be written.
  """
  texts = teacher_corpus.read_texts(args.texts)
  if args.teacher == "hibari":
    teacher = Hibari(natural=args.natural)
  elif args.kokoro_voices:
    teacher = Kokoro(args.kokoro_voices)
  else:
    raise DataError("--teacher kokoro: expected --kokoro-voices kokoro-js-1.2.1.tgz (npm pack kokoro-js@1.2.1)")
  hours = args.hours or float("inf")
  with tqdm(unit="h", desc="speaking", total=None if hours == float("inf") else hours, bar_format=_HOURS) as bar:

    def show(seconds: float) -> None:
      bar.update(seconds / 3600 - bar.n)

    options = {"seed": args.seed, "hours": hours, "progress": show}
    teacher_corpus.speak_texts(teacher, texts, args.language, args.out, **options)
  return teacher_corpus.write_manifests(args.out)


def report(manifests: dict[str, list[dict]]) -> None:
  for name, entries in manifests.items():
    seconds = sorted(entry["seconds"] for entry in entries)
    for language in sorted({entry["language"] for entry in entries}):
      of = [entry for entry in entries if entry["language"] == language]
      hours, names = sum(entry["seconds"] for entry in of) / 3600, {entry["speaker"] for entry in of}
      print(f"{name:9} {language}: {hours:.3f} h, {len(of)} utterances, {len(names)} speakers")
    if seconds:
      shares = [f"{seconds[min(int(share * len(seconds)), len(seconds) - 1)]:.1f}" for share in (0, 0.1, 0.5, 0.9, 1)]
      print(f"{name:9} seconds of an utterance: {' / '.join(shares)} (least / 10 % / median / 90 % / most)")


def _output(*command: str) -> str:
  return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).stdout.decode()


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.make_corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=Path, required=True, help="folder to make; engines want one without a corpus")
  parser.add_argument("--hours", type=float, help="1 by default; with --teacher, as many as there are texts for")
  parser.add_argument("--utterances", type=int, help="this many utterances, instead of --hours")
  parser.add_argument("--speakers", type=int, help="this many speakers; all by default")
  parser.add_argument("--held-out-speakers", type=int, default=0, help="speakers that go to unseen.jsonl instead")
  parser.add_argument("--seconds", type=float, nargs=2, default=(2.0, 8.0), metavar=("LOW", "HIGH"))
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--teacher", choices=("hibari", "kokoro"), help="who speaks, instead of the engines")
  parser.add_argument("--texts", nargs="+", type=Path, metavar="FILE", help="with --teacher: lines to speak, in order")
  parser.add_argument("--language", default="en", help="of --texts: en or, with kokoro, zh")
  parser.add_argument("--kokoro-voices", type=Path, metavar="TGZ", help="the npm package kokoro-js 1.2.1")
  parser.add_argument("--natural", type=float, default=0.4, help="share that hibari speaks in its own voice")
  args = parser.parse_args(argv)
  if args.teacher and not args.texts:
    parser.error("--teacher needs --texts")
  try:
    if args.teacher:
      report(make_taught(args))
    else:
      args.hours = 1.0 if args.hours is None else args.hours
      report(make(args))
  except CosyError as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
