"""Has a recogniser write down what systems said: a line of JSON for each utterance.

  python -m infer.evaluate transcribe --judge whisper:DIR eval/offline eval/human
  python -m infer.evaluate transcribe --judge asr:runs/speech_tokenizer eval/offline
  python -m infer.evaluate transcribe --judge pocketsphinx eval/offline
  python -m infer.evaluate transcribe --judge python:my_module:make eval/offline

Judges: `whisper:DIR`, a Whisper model as CTranslate2 reads it (extra `evaluation`); `asr:RUN`, the ASR head of a run of
train.speech_tokenizer; `pocketsphinx`, English; `python:MODULE:FUNCTION`, whose call gives an object with `name`,
`digest`, `settings` and `read(wave_16k, language) -> str`. The file is judged/NAME.jsonl in the system's folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import AudioError
from cosyjax.evaluation.records import Records
from infer import judges_of_text
from infer.evaluate_files import check_systems, judged, progress, read_16k, read_system


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate transcribe",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("systems", type=Path, nargs="+", metavar="DIR")
  parser.add_argument("--judge", required=True, help="whisper:DIR, asr:RUN, pocketsphinx, or python:MODULE:FUNCTION")
  parser.add_argument("--device", default="cpu", help="of Whisper: cpu or cuda")
  parser.add_argument(
    "--compute-type", default="int8", help="of Whisper, by CTranslate2's name: int8, float16, float32"
  )
  parser.add_argument("--beam", type=int, default=5, help="of Whisper")
  parser.add_argument("--threads", type=int, default=0, help="of Whisper on the CPU; 0 leaves it to CTranslate2")
  args = parser.parse_args(argv)
  check_systems(args.systems)
  judge = judges_of_text.open_judge(args.judge, args.device, args.compute_type, args.beam, args.threads)
  for system in args.systems:
    _, said = read_system(system)
    head = {"stage": "transcribe", "judge": judge.name, "digest": judge.digest, "settings": judge.settings}
    with Records(judged(system, judge.name), head) as records:
      todo = [row for row in said.values() if "error" not in row and row["id"] not in records]
      for row in progress(todo, f"{system.resolve().name} by {judge.name}", len(said) - len(todo)):
        try:
          records.add({"id": row["id"], "text": judge.read(read_16k(row["audio"]), row["language"])})
        except AudioError as error:
          records.add({"id": row["id"], "text": "", "error": str(error)})
  return 0
