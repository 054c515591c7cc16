"""Trains the model in the box, all five parts from nothing, on a corpus that teachers speak.

  python -m train.box --out runs/box --speech taught [taught2 ...] --texts en.txt zh.txt
  python -m train.box --out runs/box --minutes 90           # goes on where it stopped
  python -m train.box --out runs/box --stage lm --stage flow
  python -m train.box --out runs/box --list

Stages: phone_corpus, corpus, text_tokenizer, speech_tokenizer, speaker, encoders, tokens, lm, flow, vocoder, first (a
model that speaks), flow_distilled, two_steps, flow_mels, vocoder_flow, export, evaluation. Each runs programs of
`train` or `infer` and can be resumed. A trained stage ends with figures, and with what they have to be for the next one
to be worth its time: one whose figure falls short stops the run, unless --go-on. --speech names folders of
`train.make_corpus --teacher`.

--small trains the sizes of a first voice (`tiny` of configs/box). The numbers of steps are meant for about 15 hours of
two CPU cores (small: about 5), by arithmetic from the networks' sizes. For one GPU there is `train.box_device`, which
is told its minutes. `--set STAGE.NAME=VALUE` changes a trainer's settings.

--out has `box.json` (stages done, their seconds and figures), a run directory for each part, and `model`.

Exit status: 0, 1 for a stage that failed or falls short, 75 when --minutes are over and all is saved.
"""

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cosyjax.errors import ConfigError, TrainingError
from train import box_corpus
from train.cli import at_exit
from train.runtime import STOPPED

CONFIGS = Path("configs/box")
SENTENCES = 60  # of the evaluation
CHECK = "check.json"  # in a stage's folder: figures of a program that was run after training
LOG_MEL, SPECTRA = ("log_mel_16k",), ("mel", "f0", "fbank")
MODEL_FEATURES = ("speech_tokens", "speaker", "text_ids")


@dataclasses.dataclass(frozen=True)
class Box:
  """A run of the recipe.

  Attributes:
    out: its folder.
    small: sizes of a first voice.
    settings: (stage, NAME=VALUE) pairs for the trainers.
    deadline: time (`time.monotonic`) at which a program is asked to save and stop.
    judges: of the evaluation's texts, as `infer.evaluate run --text-judge` names them.
  """

  out: Path
  small: bool = False
  settings: tuple[tuple[str, str], ...] = ()
  deadline: float = float("inf")
  judges: tuple[str, ...] = ()

  def call(self, *command: Any) -> None:
    """Runs a program of the project to its end.

    Raises:
      TrainingError: it failed. TimeoutError: it was stopped at the deadline.
    """
    words = [sys.executable, "-m", *map(str, command)]
    print("+", " ".join(words[2:]), flush=True)
    process = subprocess.Popen(words)
    try:
      code = process.wait(None if self.deadline == float("inf") else max(self.deadline - time.monotonic(), 1))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
      process.send_signal(signal.SIGTERM)
      process.wait()
      raise TimeoutError from None
    if code == STOPPED:
      raise TimeoutError
    if code:
      raise TrainingError(f"python -m {command[0]} ended with exit status {code}; its messages are above")

  def train(self, stage: str, program: str, *flags: Any, config: str | None = None) -> None:
    """Runs a trainer into OUT/stage, or goes on with it."""
    settings = [setting for name, setting in self.settings if name == stage]
    flags += ("--tiny",) * self.small + (("--set", *settings) if settings else ())
    file = CONFIGS / f"{config or stage}.py"
    self.call(f"train.{program}", "--config", file, "--out", self.out / stage, *flags)

  def figures(self, stage: str) -> dict[str, float]:
    """The last evaluation of a trained stage, and what its check found."""
    found: dict[str, float] = {}
    file = self.out / stage / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for row in map(json.loads, lines):
      found |= {name.partition("/")[2]: value for name, value in row.items() if name.startswith("eval/")}
    check = self.out / stage / CHECK
    return found | (json.loads(check.read_text(encoding="utf-8")) if check.is_file() else {})


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage.

  Attributes:
    work: what it does.
    wants: figure -> (sign, limit): what makes it good enough to go on, "<" or ">".
  """

  work: Callable[[Box], None]
  wants: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)


# ---- what the stages do


def _features(folder: str, names: Sequence[str], *flags: Any) -> Callable[[Box], None]:
  return lambda box: box.call("train.features", box.out / folder, "--names", *names, *flags)


def _corpus(folder: str, manifests: str) -> Callable[[Box], None]:
  def work(box: Box) -> None:
    if not (box.out / folder / "dataset_info.json").is_file():
      given = box_corpus.build_flags(box.out / manifests)
      box.call("train.build_corpus", *given, "--out", box.out / folder)
    box.call("train.features", box.out / folder, "--names", *(LOG_MEL if folder == "phone_corpus" else SPECTRA))

  return work


def _speech_tokenizer(box: Box) -> None:
  box.train("speech_tokenizer", "speech_tokenizer", "--data", box.out / "phone_corpus")


def _text_tokenizer(box: Box) -> None:
  box.call("train.text_tokenizer", "--texts", box.out / "manifests" / "texts.txt", "--out", box.out / "text_tokenizer")


def _encoders(box: Box) -> None:
  parts = ("--speech-tokenizer", box.out / "speech_tokenizer", "--speaker", box.out / "speaker")
  _export(box, "encoders", *parts, "--rest", "tiny")


def _export(box: Box, name: str, *flags: Any) -> None:
  if not (box.out / name).is_dir():
    box.call("train.export", *flags, "--tokenizer", box.out / "text_tokenizer", "--out", box.out / name)


def _tokens(box: Box) -> None:
  box.call("train.features", box.out / "corpus", "--model", box.out / "encoders", "--names", *MODEL_FEATURES)


def _lm(box: Box) -> None:
  given = ("--data", box.out / "corpus", "--tokenizer", box.out / "text_tokenizer")
  box.train("lm", "lm", *given)
  runs = ("--lm", box.out / "lm", "--speech-tokenizer", box.out / "speech_tokenizer")
  box.call("train.lm_check", *runs, *given, "--phones", box.out / "phone_corpus", "--out", box.out / "lm" / CHECK)


def _spoken(name: str) -> Callable[[Box], None]:
  return lambda box: box.train(name, name, "--data", box.out / "corpus")


def _first(box: Box) -> None:
  parts = [flag for name in ("lm", "flow") for flag in (f"--{name}", box.out / name)]
  _export(box, "silent", "--base", box.out / "encoders", *parts)
  # The last, not the best by mel: what discriminators teach is not what that figure measures.
  _export(box, "first", "--base", box.out / "silent", "--vocoder", box.out / "vocoder", "--last")


def _flow_distilled(box: Box) -> None:
  box.train("flow_distilled", "flow", "--data", box.out / "corpus", "--init", box.out / "first")


def _two_steps(box: Box) -> None:
  _export(box, "two_steps", "--base", box.out / "first", "--flow", box.out / "flow_distilled")


def _flow_mels(box: Box) -> None:
  box.call("train.flow_mels", box.out / "corpus", "--model", box.out / "two_steps")


def _vocoder_flow(box: Box) -> None:
  box.train("vocoder_flow", "vocoder", "--data", box.out / "corpus", "--init", box.out / "two_steps")


def _finished(box: Box) -> None:
  _export(box, "model", "--base", box.out / "two_steps", "--vocoder", box.out / "vocoder_flow", "--last")


def _evaluation(box: Box) -> None:
  """Held-out sentences, each in a voice of the corpus, offline and streamed, beside their recordings."""
  systems = ("--systems", "offline", "streaming", "resynthesis", "recordings")
  given = ("--model", box.out / "model", "--manifest", box.out / "manifests" / "validation.jsonl", "--limit", SENTENCES)
  judges = ("--text-judge", *box.judges) if box.judges else ()
  box.call("infer.evaluate", "run", *given, *systems, *judges, "--out", box.out / "evaluation")


STAGES: dict[str, Stage] = {
  "phone_corpus": Stage(_corpus("phone_corpus", "manifests/phones")),
  "corpus": Stage(_corpus("corpus", "manifests")),
  "text_tokenizer": Stage(_text_tokenizer),
  "speech_tokenizer": Stage(_speech_tokenizer, {"token_error_rate": ("<", 0.3), "codes_used": (">", 0.15)}),
  "speaker": Stage(_spoken("speaker"), {"equal_error_rate": ("<", 0.1)}),
  "encoders": Stage(_encoders),
  "tokens": Stage(_tokens),
  "lm": Stage(_lm, {"accuracy": (">", 0.2), "sample_ended": (">", 0.9), "phoneme_error": ("<", 0.4)}),
  "flow": Stage(_spoken("flow"), {"loss": ("<", 1.0)}),
  "vocoder": Stage(_spoken("vocoder"), {"mel": ("<", 0.7)}),
  "first": Stage(_first),
  "flow_distilled": Stage(_flow_distilled, {"last": ("<", 0.35)}),
  "two_steps": Stage(_two_steps),
  "flow_mels": Stage(_flow_mels),
  "vocoder_flow": Stage(_vocoder_flow, {"mel": ("<", 0.8)}),
  "export": Stage(_finished),
  "evaluation": Stage(_evaluation),
}


def shortfall(stage: Stage, figures: dict[str, float]) -> str:
  """What of a stage's figures falls short, in words; "" if nothing does."""
  wrong = []
  for name, (sign, limit) in stage.wants.items():
    value = figures.get(name, float("nan"))
    if not (value < limit if sign == "<" else value > limit):  # NaN falls short
      wrong.append(f"{name}: expected {sign} {limit:g}, found {value:.4g}")
  return "; ".join(wrong)


def run(box: Box, names: Sequence[str], go_on: bool = False) -> int:
  """Runs stages that are not done, in order; returns the exit status."""
  state = read_state(box.out)
  for name in names:
    if name in state:
      continue
    if time.monotonic() >= box.deadline:
      return STOPPED
    print(f"== {name}", flush=True)
    begin = time.monotonic()
    try:
      STAGES[name].work(box)
    except TimeoutError:
      print(f"{name}: saved, to be gone on with", flush=True)
      return STOPPED
    figures = box.figures(name)
    wanted = {key: figures[key] for key in STAGES[name].wants if key in figures}
    wrong = shortfall(STAGES[name], figures)
    print(f"{name}: {round(time.monotonic() - begin)} s, {wanted}{', falls short: ' * bool(wrong)}{wrong}", flush=True)
    if wrong and not go_on:
      raise TrainingError(
        f"{name}: {wrong}. Train on with --set {name}.run.steps=N --stage {name}, or pass over it with --go-on"
      )
    state[name] = {"seconds": round(time.monotonic() - begin), "figures": figures}
    write_state(box.out, state)
  return 0


def read_state(out: Path) -> dict[str, Any]:
  file = out / "box.json"
  return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_state(out: Path, state: dict[str, Any]) -> None:
  part = out / ".box.json.part"
  part.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
  part.replace(out / "box.json")


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.box", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=Path, required=True, help="folder of the whole run")
  parser.add_argument("--speech", nargs="+", type=Path, metavar="DIR", help="folders of train.make_corpus --teacher")
  parser.add_argument("--longest", type=float, default=8.0, help="seconds of the longest utterances taken (8)")
  parser.add_argument("--minutes", type=float, help="stop after so long, all saved")
  parser.add_argument("--stage", action="append", choices=list(STAGES), help="do these alone, done or not")
  parser.add_argument("--small", action="store_true", help="sizes of a first voice")
  parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="STAGE.NAME=VALUE", help="a trainer's")
  parser.add_argument("--judge", nargs="+", default=[], help="of the evaluation, as infer.evaluate transcribe --judge")
  parser.add_argument("--go-on", action="store_true", help="even if a stage's figures fall short")
  parser.add_argument("--list", action="store_true", help="print how the stages stand, and stop")
  args = parser.parse_args(argv)
  settings = []
  for setting in args.set:
    stage, dot, rest = setting.partition(".")
    if stage not in STAGES or not dot or "=" not in rest:
      raise ConfigError(f"--set {setting}: expected STAGE.NAME=VALUE with one of {', '.join(STAGES)}")
    settings.append((stage, rest))
  state = read_state(args.out)
  if args.list:
    for name in STAGES:
      done = state.get(name)
      print(f"{name:<18}{'-' if done is None else str(done['seconds']) + ' s  ' + str(done['figures'])}")
    return 0
  args.out.mkdir(parents=True, exist_ok=True)
  manifests = args.out / "manifests"
  if args.speech:
    found = box_corpus.write(args.speech, manifests, args.longest)
    print(", ".join(f"{name}: {hours:.2f} h" for name, hours in found.items()))
  elif not manifests.is_dir():
    raise ConfigError("--speech: expected folders of train.make_corpus --teacher, for the first run into --out")
  if args.stage:
    write_state(args.out, {name: done for name, done in state.items() if name not in args.stage})
  deadline = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
  box = Box(args.out, args.small, tuple(settings), deadline, tuple(args.judge))
  return run(box, args.stage or list(STAGES), args.go_on)


if __name__ == "__main__":
  sys.exit(at_exit(main))
