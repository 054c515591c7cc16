"""Has judges listen to what systems said: predicted quality, speaker vectors; a line of JSON for each utterance.

  python -m infer.evaluate listen --judge distillmos --judge resemblyzer eval/offline eval/human

Judges: `distillmos`, `dnsmos` (quality), `resemblyzer` (speaker); they need the extra `judges`, PyTorch among it, and
no JAX: run this stage with the Python of an environment of its own. `encoder:MODEL` is the speaker encoder of a model
directory, with JAX and without PyTorch. `python:MODULE:FUNCTION` gives an object with `name`, `kind` ("quality" or
"speaker"), `digest`, `settings` and `listen(wave_16k)`. The file is judged/NAME.jsonl in the system's folder; judges of
voices take the prompts' recordings too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosyjax.evaluation.records import Records
from infer import judges_of_sound
from infer.evaluate_files import PROMPT, check_systems, judged, progress, read_16k, read_system


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate listen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("systems", type=Path, nargs="+", metavar="DIR")
  parser.add_argument("--judge", action="append", required=True, help="distillmos, dnsmos, resemblyzer, ...")
  args = parser.parse_args(argv)
  check_systems(args.systems)
  for judge in [judges_of_sound.open_judge(spec) for spec in args.judge]:
    head = {"stage": "listen", "judge": judge.name, "kind": judge.kind, "digest": judge.digest}
    for system in args.systems:
      _, said = read_system(system)
      with Records(judged(system, judge.name), head | {"settings": judge.settings}) as records:
        todo = [item for item in _recordings(said, judge.kind) if item[0] not in records]
        for name, path in progress(todo, f"{system.resolve().name} by {judge.name}", len(records.rows)):
          records.add({"id": name, **_found(judge, path)})
  return 0


def _recordings(said: dict[str, Any], kind: str) -> list[tuple[str, str]]:
  """What is to be listened to: (id, path)."""
  out = [(row["id"], row["audio"]) for row in said.values() if "error" not in row]
  if kind == "speaker":
    prompts = dict.fromkeys(row["prompt"] for row in said.values() if row.get("prompt"))
    out += [(PROMPT + path, path) for path in prompts]
  return out


def _found(judge: judges_of_sound.SoundJudge, path: str) -> dict[str, Any]:
  try:
    value = judge.listen(read_16k(path))
  except ValueError as error:  # silence, too short, unreadable: AudioError is one
    return {"error": str(error)}
  return {"value": value} if judge.kind == "quality" else {"vector": value}
