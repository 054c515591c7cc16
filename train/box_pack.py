"""Makes the pack that travels with `train.box_device`, and a model directory of what comes back.

  python -m train.box_pack make --speech taught --texts en.txt --text-tokenizer DIR --wheels wheels --out pack
  python -m train.box_pack join results --text-tokenizer DIR --out MODEL_DIR

`make` takes the utterances of --speech (folders of `train.make_corpus --teacher`; held-out voices stay out, one text
of a hundred measures), as Ogg Opus of about 17 kbit/s; texts for the fast teacher to speak; and wheels for Python
3.12 of what that machine has not got:

  pip download --python-version 3.12 --only-binary=:all: --no-deps --dest wheels \\
    hibari-tts==0.2.1 onnxruntime==1.20.1 soundfile soxr flatbuffers

--init names folders of earlier results to start from. It says how many bytes travel; 64 MiB may, the checkout included.

Exit status: 0, or 1 if something is missing or does not fit.
"""

import argparse
import io
import json
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.audio import io as audio
from cosyjax.audio import resample
from cosyjax.errors import ConfigError, DataError
from cosyjax.flow.flow_model import unstack
from cosyjax.layers.stack import unstack_layers
from cosyjax.speech_tokenizer.asr_model import subset
from cosyjax.text import TextTokenizer
from train import box_arrays, phones
from train.cli import at_exit
from train.export import check_shapes

RATE = 24_000
QUALITY = 0.96  # of libsndfile's Opus, 0 to 1 for large to small: about 17 kbit/s of speech
FINISH: dict[str, Any] = {"lm": unstack_layers, "flow": unstack}


def make(args: argparse.Namespace) -> int:
  """Writes the pack; returns its size in bytes."""
  args.out.mkdir(parents=True)
  (args.out / "wheels").mkdir()
  wheels = sorted(args.wheels.glob("*.whl"))
  wanted = ("hibari_tts", "onnxruntime", "soundfile")
  missing = [name for name in wanted if not any(wheel.name.lower().startswith(name) for wheel in wheels)]
  if missing:
    raise DataError(f"{args.wheels}: expected wheels of {', '.join(wanted)}; missing: {', '.join(missing)}")
  for wheel in wheels:
    shutil.copy2(wheel, args.out / "wheels")
  shutil.copytree(args.text_tokenizer, args.out / "text_tokenizer")
  lines = [line.strip() for file in args.texts for line in file.read_text(encoding="utf-8").splitlines()]
  (args.out / "texts.txt").write_text("\n".join(dict.fromkeys(filter(None, lines))) + "\n", encoding="utf-8")
  (args.out / "init").mkdir()
  for folder in args.init:
    for file in folder.glob("*.npz"):
      shutil.copy2(file, args.out / "init")
  with zipfile.ZipFile(args.out / "recordings.zip", "w", zipfile.ZIP_STORED) as files:
    entries = []
    for entry in tqdm(_utterances(args.speech, args.longest), desc="encoding", unit=""):
      wave_A, rate = audio.read(entry.pop("file"))
      files.writestr(f"{len(entries):05d}.opus", _opus(resample(wave_A, rate, RATE)))
      entries.append(entry | {"audio": f"{len(entries):05d}.opus"})
    files.writestr("entries.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
  return sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())


def _utterances(folders: Sequence[Path], longest: float) -> list[dict[str, Any]]:
  """Rows of the folders' training and validation, with phonemes and the path of the audio."""
  out = []
  for folder in folders:
    try:
      read = lambda name, folder=folder: map(json.loads, (folder / name).read_text(encoding="utf-8").splitlines())
      details = {entry["id"]: entry for entry in read("details.jsonl")}
      for name in ("train.jsonl", "validation.jsonl"):
        for entry in read(name) if (folder / name).is_file() else ():
          about = details[entry["id"]]
          if about["seconds"] <= longest:
            kept = {key: entry[key] for key in ("text", "speaker", "language")}
            out.append(kept | {"phones": phones.spell(about["phonemes"]), "file": folder / entry["audio"]})
    except (OSError, ValueError, KeyError) as error:
      raise DataError(f"{folder}: expected a folder of train.make_corpus --teacher ({error})") from error
  return out


def _opus(wave_A: Any) -> bytes:
  import soundfile

  packed = io.BytesIO()
  soundfile.write(packed, wave_A, RATE, format="OGG", subtype="OPUS", compression_level=QUALITY)
  return packed.getvalue()


def join(args: argparse.Namespace) -> list[str]:
  """Makes a model directory; returns the parts that come from --base, or random, as no result has them."""
  try:
    info = json.loads((args.results / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise DataError(f"{args.results}: expected results of train.box_device ({error})") from error
  config = config_lib.from_dict(info["model"])
  shapes = networks.abstract_params(config)
  found: dict[str, Any] = {}
  recogniser = box_arrays.load(args.results, "recogniser")
  if recogniser is not None:
    found["speech_tokenizer"] = subset(recogniser)
  for name in ("speaker", "lm", "flow", "vocoder"):
    params = box_arrays.load(args.results, name)
    if params is not None:
      found[name] = FINISH.get(name, lambda tree: tree)(params)
  absent = [name for name in config_lib.COMPONENTS if name not in found]
  if absent and not (args.base or args.random):
    raise ConfigError(
      f"{args.results}: no {', '.join(absent)}; name --base MODEL_DIR, or --random to try programs with"
    )
  random = networks.random_params(config) if absent and not args.base else {}
  for name in absent:
    found[name] = checkpoint.load_params(args.base, name, shapes[name]) if args.base else random[name]
  for name, params in found.items():
    check_shapes(name, params, shapes[name], str(args.results))
  checkpoint.save_model(args.out, config, found, TextTokenizer.load(args.text_tokenizer).save)
  return absent


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.box_pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  verbs = parser.add_subparsers(dest="verb", required=True)
  one = verbs.add_parser("make", help="the pack that travels")
  one.add_argument("--speech", nargs="+", type=Path, required=True, metavar="DIR")
  one.add_argument("--texts", nargs="+", type=Path, required=True, metavar="FILE", help="for the fast teacher")
  one.add_argument("--wheels", type=Path, required=True, metavar="DIR")
  one.add_argument("--init", nargs="*", type=Path, default=[], metavar="RESULTS", help="to start from")
  one.add_argument("--longest", type=float, default=8.0, help="seconds of an utterance, at most")
  other = verbs.add_parser("join", help="a model directory of results")
  other.add_argument("results", type=Path)
  other.add_argument("--base", type=Path, metavar="MODEL_DIR", help="for parts that are not among the results")
  other.add_argument("--random", action="store_true", help="random weights for them")
  for each in (one, other):
    each.add_argument("--text-tokenizer", type=Path, required=True, metavar="DIR")
    each.add_argument("--out", type=Path, required=True)
  args = parser.parse_args(argv)
  if args.verb == "make":
    print(f"{args.out}: {make(args) / 2**20:.1f} MiB")
  else:
    absent = join(args)
    print(f"{args.out}: written{', without ' * bool(absent)}{', '.join(absent)}")
  return 0


if __name__ == "__main__":
  sys.exit(at_exit(main))
