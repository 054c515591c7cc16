"""Makes a small speech corpus with installed speech engines, so that every trainer can be tried without a download.

  python -m train.make_corpus --out made --hours 1.0 --held-out-speakers 8
  python -m train.build_corpus --manifest made/manifest.jsonl --split unseen=made/unseen.jsonl --out corpus

Speaks English and Spanish sentences from a small grammar, with up to 60 voices of espeak-ng, flite and
festival. A speaker is a voice at a pitch and speed of its own; every speaker gets the same time, and no
sentence is said twice. An hour takes about two minutes on two cores.

Writes into --out: `audio/*.flac` at the engine's own rate, `manifest.jsonl`, `unseen.jsonl` (the speakers
held out whole) and `made.json` (the engines and their versions). The same seed and engines give the same
bytes, with any number of --processes.

Exit status: 0, or 2 if no engine is installed or the output cannot be written.
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


def _words(line: str) -> list[str]:
  return line.split("|" if "|" in line else None)


INSTALL = "apt-get install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
ACCENTS = {
  "en": ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc"),
  "es": ("es", "es-419"),
}
# Voices of espeak-ng that are not robots, and that differ in their formants.
TIMBRES = _words(
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


# Sentences. Numbers are words, so that spelling follows sound.

SMALL = _words("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
CHICO = _words("dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince veinte treinta")
WORDS = {
  "en": {
    "number": SMALL[1:] + [f"{tens} {small}" for tens in TENS for small in SMALL[:9]],
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": _words("January February March April May June July August September October November December"),
    "name": _words(
      "Alice Victor George Yvonne Thomas Judith Zachary Ursula Philip Bridget Hugo Naomi Quentin Rachel Walter Joyce "
      "Edward Charlotte Oliver Beth"
    ),
    "adj": _words(
      "yellow huge quiet ancient shiny broken cheerful foggy purple wooden thick jealous smooth younger vague clever "
      "orange heavy narrow golden"
    ),
    "noun": _words(
      "bridge yacht thimble garage wolf engine orchard judge violin mushroom feather clock ship pigeon treasure "
      "blanket oyster kitchen queen zebra hammer cloud fish lighthouse giraffe window village thunder boy road"
    ),
    "plural": _words(
      "apples wheels bells chairs letters horses pictures candles sausages boats coins shoes leaves keys watches "
      "jugs toys maps eggs vases rings bricks"
    ),
    "place": _words(
      "the harbour|the old church|the valley|a shop near the river|the railway station|their house|the beach|"
      "a village in the north|the theatre|the edge of the wood|the zoo|my uncle's farm|the third floor"
    ),
    "past": _words(
      "found|measured|sold|watched|carried|caught|painted|forgot|borrowed|pushed|noticed|chose|described|hid|"
      "followed|lifted|cleaned|drew|photographed|threw away"
    ),
    "how": _words(
      "quickly|without a sound|just in time|with great pleasure|rather badly|at the same hour|very gently|"
      "for no reason at all|again and again|before the storm"
    ),
  },
  "es": {
    "number": CHICO + _words("cuarenta cincuenta sesenta setenta ochenta noventa cien"),
    "day": _words("lunes martes miércoles jueves viernes sábado domingo"),
    "month": _words("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
    "name": _words(
      "Lucía Jorge Begoña Íñigo Raquel Guillermo Chelo Joaquín Ximena Andrés Paula Enrique Yolanda Félix Sergio "
      "Almudena Tomás Irene Vicente Zoraida"
    ),
    "adj": _words(
      "azul verde grande gris triste fuerte brillante enorme elegante amable frágil alegre diferente inútil caliente "
      "feliz"
    ),
    "noun": _words(
      "el perro|la casa|el jardín|la llave|el zapato|la guitarra|el pueblo|la montaña|el puente|la cuchara|el reloj|"
      "la niña|el caballo|la lluvia|el queso|la ventana|el ferrocarril|la hoja|el ladrillo|la bicicleta|el buey|"
      "la iglesia|el dibujo|la foca|el murciélago|la yegua|el pingüino|la charca"
    ),
    "plural": _words(
      "manzanas llaves coches gatos cartas flores peces sillas barcos huevos relojes cajas ruedas pájaros naranjas "
      "jueces guantes zanahorias lápices"
    ),
    "place": _words(
      "el mercado|la estación|la orilla del río|un pueblo del norte|la vieja iglesia|la playa|el tercer piso|"
      "la calle mayor|el borde del bosque|su casa|el teatro|una granja lejana|la biblioteca"
    ),
    "past": _words(
      "encontró|midió|vendió|miró|llevó|pintó|olvidó|empujó|eligió|describió|escondió|siguió|levantó|limpió|dibujó|"
      "buscó|arrojó|guardó|compró|destruyó"
    ),
    "how": _words(
      "muy deprisa|sin hacer ruido|justo a tiempo|con mucho gusto|bastante mal|a la misma hora|con cuidado|"
      "sin ninguna razón|una y otra vez|antes de la tormenta"
    ),
  },
}
SHORT = {
  "en": ("{name} {past} the {noun}.", "Where is the {adj} {noun}?", "{number} {plural}, please.", "See you on {day}!"),
  "es": ("{name} {past} {noun}.", "¿Dónde está {noun} {adj}?", "{number} {plural}, por favor.", "¡Hasta el {day}!"),
}
LONG = {
  "en": (
    "On {day}, {name} {past} the {adj} {noun} {how}.",
    "{name} and {name2} {past} {number} {adj} {plural} near {place}.",
    "The {adj} {noun} from {place} cost {number} pounds in {month}.",
    "Why did the {noun} of {name} stay at {place} until {day}?",
    "There were {number} {plural} and a {adj} {noun} at {place}.",
    "{name} said that the {noun} was {adj}, but {name2} {past} it {how}.",
    "Nobody {past} the {adj} {noun} before the {adj2} {plural} came in {month}.",
    "Count the {plural}: {number}, {number2}, and {number3}!",
    "From {day} to {day2}, the {noun} stood {how} by {place}.",
    "My {adj} {noun} is larger than your {noun2}, said {name} {how}.",
  ),
  "es": (
    "El {day}, {name} {past} {noun} {adj} {how}.",
    "{name} y su abuelo cuentan {number} {plural} cerca de {place}.",
    "En {month}, {noun} {adj} costaba {number} pesos.",
    "¿Por qué {name} {past} {noun} en {place} hasta el {day}?",
    "Había {number} {plural} y {noun} {adj} junto a {place}.",
    "{name} dijo que {noun} era {adj}, pero {name2} {past} {noun2} {how}.",
    "Nadie {past} {noun} {adj} antes del {day}, según {name}.",
    "Cuenta conmigo: {number}, {number2} y {number3} {plural}.",
    "Desde {month} hasta {month2}, {noun} siguió {how} en {place}.",
    "Mañana {name} traerá {number} {plural} y {noun} {adj}.",
  ),
}


def sentences(language: str, seed: int, short: bool = False) -> Iterator[str]:
  """Texts of a language without end, no two the same: of a short sentence, or of one or two of any kind."""
  rng = random.Random(f"{seed} {language} {short}")
  words, seen = WORDS[language], set()
  while True:
    kinds = (SHORT,) if short else rng.choice(((LONG,), (LONG,), (LONG,), (LONG,), (SHORT, SHORT), (LONG, SHORT)))
    text = " ".join(_fill(rng.choice(kind[language]), words, rng) for kind in kinds)
    if text not in seen:
      seen.add(text)
      yield text


def _fill(line: str, words: dict[str, list[str]], rng: random.Random) -> str:
  for slot in re.findall(r"{(\w+)}", line):
    line = line.replace(f"{{{slot}}}", rng.choice(words[slot.rstrip("23")]), 1)
  line = re.sub(r"\ba (?=[aeiou])", "an ", line) if words is WORDS["en"] else line.replace(" de el ", " del ")
  start = 1 if line[0] in "¿¡" else 0
  return line[:start] + line[start].upper() + line[start + 1 :]


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
  """Speaks sentences until a limit is reached; returns the rows written."""
  rows, total, refused = [], 0.0, 0
  while total < limits.total and len(rows) < limits.count:
    text = next(lines)
    wave_A, rate = speaker.say(text)
    seconds = len(wave_A) / rate
    if not limits.low <= seconds <= limits.high:
      refused += 1
      if refused > 50 + 5 * len(rows):
        raise DataError(
          f"{speaker.name}: expected sentences of {limits.low:g} to {limits.high:g} s, found too many others; "
          f"the last took {seconds:.1f} s"
        )
      continue
    name = f"{speaker.language}{number:02d}_{len(rows):04d}"
    io.write(out / "audio" / f"{name}.flac", wave_A, rate)
    rows.append(
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
  return rows


def make(args: argparse.Namespace) -> dict[str, list[dict]]:
  """Speaks and writes the whole corpus; returns the rows of each manifest.

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
  rows = []
  with concurrent.futures.ThreadPoolExecutor(args.processes) as pool:  # a thread waits for an engine's process
    futures = [pool.submit(record, *job) for job in jobs]
    for _ in tqdm(concurrent.futures.as_completed(futures), total=len(jobs), unit="speaker", desc="speaking"):
      pass
    for future in futures:
      rows.append(future.result())

  # Held out are speakers of both languages in turn, drawn from the seed.
  order = random.Random(f"{args.seed} held out").sample(range(wanted), wanted)
  turns = [[n for n in order if speakers[n].language == language] for language in WORDS]
  order = [n for turn in itertools.zip_longest(*turns) for n in turn if n is not None]
  unseen = set(order[: args.held_out_speakers])
  manifests = {
    "manifest": [row for n, of in enumerate(rows) if n not in unseen for row in of],
    "unseen": [row for n, of in enumerate(rows) if n in unseen for row in of],
  }
  (args.out / "made.json").write_text(json.dumps({"seed": args.seed, "engines": versions}, indent=2) + "\n")
  for name, of in manifests.items():
    if of:
      kept = [{key: value for key, value in row.items() if key != "seconds"} for row in of]
      lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
      (args.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
  return manifests


def report(manifests: dict[str, list[dict]]) -> None:
  for name, rows in manifests.items():
    seconds = sorted(row["seconds"] for row in rows)
    for language in sorted({row["language"] for row in rows}):
      of = [row for row in rows if row["language"] == language]
      hours, names = sum(row["seconds"] for row in of) / 3600, {row["speaker"] for row in of}
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
  parser.add_argument("--out", type=Path, required=True, help="folder to make; must not hold a corpus yet")
  parser.add_argument("--hours", type=float, default=1.0)
  parser.add_argument("--utterances", type=int, help="this many utterances, instead of --hours")
  parser.add_argument("--speakers", type=int, help="this many speakers; all by default")
  parser.add_argument("--held-out-speakers", type=int, default=0, help="speakers that go to unseen.jsonl instead")
  parser.add_argument("--seconds", type=float, nargs=2, default=(2.0, 8.0), metavar=("LOW", "HIGH"))
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", type=int, default=2)
  args = parser.parse_args(argv)
  try:
    report(make(args))
  except CosyError as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
