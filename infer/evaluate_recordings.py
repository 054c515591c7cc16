"""Takes recordings that are there as a system: human speech, a teacher's, another program's.

  python -m infer.evaluate recordings --seed-tts-eval en/meta.lst --out eval/human
  python -m infer.evaluate recordings --manifest teacher.jsonl --out eval/teacher

Nothing is copied: the records point at the files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import DataError
from cosyjax.evaluation.pauses import find_pauses
from cosyjax.evaluation.records import Records
from infer import evaluate_sets
from infer.evaluate_files import UTTERANCES, progress, read_16k


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate recordings",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  evaluate_sets.add_set_flags(parser)
  parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the system; its name is shown")
  args = parser.parse_args(argv)
  sentences = [s for s in evaluate_sets.read_set(args) if s.recording is not None]
  if not sentences:
    raise DataError("recordings: expected a set with recordings, found none")
  head = {"stage": "recordings", **evaluate_sets.set_header(args), "language": args.language}
  with Records(args.out / UTTERANCES, head | {"only_language": args.only_language}) as records:
    todo = [s for s in sentences if s.id not in records]
    for s in progress(todo, args.out.name, len(sentences) - len(todo)):
      pauses = find_pauses(read_16k(s.recording), 16_000)
      row = {"id": s.id, "text": s.text, "language": s.language, "speaker": s.speaker}
      row |= {"prompt": str(s.prompt.resolve()) if s.prompt else None, "audio": str(s.recording.resolve())}
      sound = {"seconds": pauses.seconds, "leading": pauses.leading, "trailing": pauses.trailing}
      sound |= {"longest_pause": pauses.longest, "clipped": pauses.clipped}
      records.add(row | {name: round(value, 4) for name, value in sound.items()})
  print(f"{args.out}: {len(sentences)} recordings")
  return 0
