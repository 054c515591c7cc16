"""Overfits a handful of utterances with all five trainers, then says them back and listens.

  python -m train.round_trip --manifest ten/manifest.jsonl --out work

The whole chain at its smallest: corpus, features, speech tokenizer, speaker encoder, language model, flow and
vocoder, each trained by its own program in its tiny configuration; the parts exported as a model directory;
every text synthesised by it; and the audio recognised by the speech tokenizer's own ASR head. Prints what was
said and heard, and ends with status 1 if a text came back wrong. About half an hour of one CPU core for
ten utterances of two seconds. What is done already is not done again.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosyjax.data.corpus import Corpus

# Program -> how many steps until ten utterances are known by heart, and what must differ for that.
TRAINERS: dict[str, tuple[int, list[str]]] = {
  # What is read in the end was never spoken by anybody: blurred and hissing, as small vocoders are.
  "speech_tokenizer": (
    1000,
    [
      "data.seconds=25",
      "attention_reads=false",
      "augment.time_masks=2",
      "augment.bin_masks=1",
      "augment.time_width=15",
      "augment.hiss=0.5",
      "augment.blur=6",
    ],
  ),
  "speaker": (60, ["data.rows=10"]),
  "lm": (200, ["data.rows=4", "data.interleave=0"]),
  "flow": (1200, ["data.seconds=12.5"]),
  "vocoder": (800, ["data.rows=4", "optim.learning_rate=1e-3", "alone=700"]),
}
READING = "joint"  # the method that must read every text without an error
SAME = ["run.eval_every=200", "run.save_every=200", "run.keep_last=1", "run.keep_best=0", "optim.schedule=cosine"]


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--manifest", type=Path, required=True, help="of few and short utterances")
  parser.add_argument("--out", type=Path, required=True, help="folder for corpus, runs, model and audio")
  parser.add_argument("--steps", type=float, default=1.0, metavar="X", help="times the usual number of steps")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv)
  out, corpus, runs = args.out, args.out / "corpus", args.out / "runs"
  out.mkdir(parents=True, exist_ok=True)

  # ---- corpus
  if not corpus.exists():
    call("build_corpus", "--manifest", args.manifest, "--out", corpus)
  call("features", corpus, "--names", "log_mel_16k", "fbank", "mel", "f0")
  longest = math.ceil(2 * float(Corpus(corpus).seconds_N.max())) / 2

  def train(name: str) -> Path:
    steps, settings = TRAINERS[name]
    flags = ["--config", f"configs/{name}.py", "--tiny", "--data", corpus, "--out", runs / name]
    # Evaluation looks at the same utterances: to know them by heart is the aim.
    if name in ("speech_tokenizer", "flow"):
      settings = [*settings, f"data.buckets={longest},"]  # rows with little padding
    flags += ["--eval-data", corpus, "--steps", max(round(steps * args.steps), 2), "--set", *settings, *SAME]
    flags += [f"run.seed={args.seed}"] + ["data.eval_split=train"] * (name in ("speaker", "vocoder"))
    call(name, *flags)
    return runs / name

  # ---- the two encoders, and what they make of the corpus
  encoders = ["--speech-tokenizer", train("speech_tokenizer"), "--speaker", train("speaker")]
  if not (out / "encoders").exists():
    call("export", *encoders, "--last", "--rest", "tiny", "--out", out / "encoders")
  call("features", corpus, "--model", out / "encoders", "--names", "speech_tokens", "speaker")

  # ---- the rest
  rest = [part for name in ("lm", "flow", "vocoder") for part in (f"--{name}", train(name))]
  if not (out / "model").exists():
    call("export", "--base", out / "encoders", *rest, "--last", "--out", out / "model")

  # ---- text in, audio out, and back
  rows = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
  heard = say_back(out, runs / "speech_tokenizer", [row["text"] for row in rows], args.seed)
  for row, *readings in zip(rows, *heard.values(), strict=True):
    others = {method: text for method, text in zip(heard, readings, strict=True) if text != row["text"]}
    print(f"{'WRONG' if READING in others else 'same '}  {row['text']!r}" + (f"  heard {others}" if others else ""))
  right = {method: sum(a == row["text"] for a, row in zip(texts, rows, strict=True)) for method, texts in heard.items()}
  alone = ", ".join(f"{count} by {method} alone" for method, count in right.items() if method != READING)
  print(f"{right[READING]} of {len(rows)} texts came back without an error ({alone})")
  return int(right[READING] < len(rows))


def call(program: str, *args: object) -> None:
  """Runs `python -m train.PROGRAM`, and ends the program if it fails."""
  print(f"---- train.{program} {' '.join(map(str, args))}", flush=True)
  start = time.perf_counter()
  code = subprocess.run([sys.executable, "-m", f"train.{program}", *map(str, args)], check=False).returncode
  if code:
    sys.exit(f"train.{program} ended with status {code}")
  print(f"---- train.{program}: {time.perf_counter() - start:.0f} s", flush=True)


def say_back(out: Path, run: Path, texts: list[str], seed: int) -> dict[str, list[str]]:
  """Speaks each text with the voice of its own utterance; what the recogniser hears by each of its methods."""
  import jax.numpy as jnp

  import cosyjax
  from cosyjax import config as config_lib
  from cosyjax.audio.io import resample
  from cosyjax.audio.spectra import log_mel_16k
  from cosyjax.data.feature_store import Features
  from cosyjax.speech_tokenizer.asr_model import AsrConfig
  from cosyjax.speech_tokenizer.recognise import METHODS, recognise
  from train import weights

  model = cosyjax.load(out / "model")
  corpus = Corpus(out / "corpus", "train")
  features = Features(out / "corpus", "train", ["speaker"])
  voices = {corpus[i]["text"]: cosyjax.Voice.from_speaker(features[i]["speaker"]) for i in range(len(corpus))}
  # What is known by heart is said as it is: the likeliest token each time, and repeated ones are no fault.
  requests = [cosyjax.Request(text, voices[text], seed=seed, mode="speaker", sampler="greedy") for text in texts]
  speeches = model.batch(requests)
  (out / "audio").mkdir(exist_ok=True)
  waves = []
  for number, speech in enumerate(speeches):
    speech.save(out / "audio" / f"{number}.wav")
    waves.append(resample(speech.samples_A, speech.rate, 16_000))
  wave_BA = np.zeros((len(waves), max(map(len, waves))), np.float32)
  for row, wave in zip(wave_BA, waves, strict=True):
    row[: len(wave)] = wave
  mel_BTM, lengths_B = log_mel_16k(jnp.asarray(wave_BA), jnp.asarray([len(wave) for wave in waves]))

  step, _ = weights.choose(run, last=True)
  sizes, settings = weights.run_settings("speech_tokenizer", run, step)
  params, _ = weights.run_weights("speech_tokenizer", run, step)
  asr = config_lib.from_dict(settings["asr"], AsrConfig)
  return {method: recognise(params, sizes, asr, mel_BTM, lengths_B, method=method) for method in METHODS}


if __name__ == "__main__":
  sys.exit(main())
