"""The whole evaluation in one command: systems, judges, report. What is done already is not done again.

  python -m infer.evaluate run --model DIR --seed-tts-eval en/meta.lst --out eval/en \\
    --systems offline streaming resynthesis recordings --text-judge whisper:whisper-large-v3 \\
    --sound-judge distillmos resemblyzer --sound-python judges/bin/python

Flags that are not listed here go to `synthesise`: --model, --voices, --seeds, --batch, ... The report, OUT/report.md,
has a row for each system, and for each of --also: folders made before, a teacher's recordings for example. Streaming is
compared with offline, resynthesis with the recordings.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import ConfigError
from infer import evaluate_listen, evaluate_recordings, evaluate_score, evaluate_sets, evaluate_synthesise
from infer import evaluate_transcribe as transcribe

RECORDINGS = "recordings"
COMPARED = (("streaming", "offline"), ("arriving", "offline"), ("resynthesis", RECORDINGS))


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  evaluate_sets.add_set_flags(parser)
  parser.add_argument("--out", type=Path, required=True, metavar="DIR")
  parser.add_argument(
    "--systems", nargs="+", default=["offline"], choices=[*evaluate_synthesise.HOW, RECORDINGS], metavar="SYSTEM",
    help=f"of {', '.join([*evaluate_synthesise.HOW, RECORDINGS])}",
  )  # fmt: skip
  parser.add_argument("--also", type=Path, nargs="+", default=[], metavar="DIR", help="systems made before")
  parser.add_argument("--text-judge", nargs="+", default=[], metavar="JUDGE", help="as transcribe --judge")
  parser.add_argument("--sound-judge", nargs="+", default=[], metavar="JUDGE", help="as listen --judge")
  parser.add_argument("--sound-python", metavar="PYTHON", help="Python of the environment with the extra `judges`")
  parser.add_argument("--rule", default="whisper", help="as score --rule")
  parser.add_argument("--voices-of", metavar="DIR", help="as score --voices-of")
  args, rest = parser.parse_known_args(argv)
  taken = evaluate_sets.set_flags(args)

  folders = []
  for system in args.systems:
    folder = args.out / system
    print(f"---- {system}", flush=True)
    if system == RECORDINGS:
      evaluate_recordings.main([*taken, "--out", str(folder)])
    else:
      evaluate_synthesise.main([*rest, *taken, "--how", system, "--out", str(folder)])
    folders.append(str(folder.resolve()))
  folders += [str(folder.resolve()) for folder in args.also]

  for judge in args.text_judge:
    print(f"---- {judge}", flush=True)
    transcribe.main(["--judge", judge, *folders])
  if args.sound_judge:
    print(f"---- {', '.join(args.sound_judge)}", flush=True)
    _listen([*[flag for judge in args.sound_judge for flag in ("--judge", judge)], *folders], args.sound_python)

  print("---- report", flush=True)
  minus = [flag for a, b in COMPARED if {a, b} <= set(args.systems) for flag in ("--minus", a, b)]
  voices = ["--voices-of", args.voices_of] if args.voices_of else []
  return evaluate_score.main([*folders, *minus, *voices, "--rule", args.rule, "--out", str(args.out / "report.md")])


def _listen(argv: list[str], python: str | None) -> None:
  """Run `listen` here, or with another Python.

  Raises:
    ConfigError: that Python ended with an error.
  """
  if python is None:
    evaluate_listen.main(argv)
    return
  root = Path(__file__).parent.parent
  command = [str(Path(python).absolute()), "-m", "infer.evaluate", "listen", *argv]
  sys.stdout.flush()
  if code := subprocess.run(command, cwd=root, check=False).returncode:
    raise ConfigError(f"{' '.join(command[:4])} ended with status {code}")
