"""Scores what judges found: a Markdown report, its figures as JSON, and a line of JSON for each utterance.

  python -m infer.evaluate score eval/offline eval/streaming eval/human --out eval/report.md
  python -m infer.evaluate score eval/offline eval/streaming --minus streaming offline --out eval/report.md
  python -m infer.evaluate score eval/box eval/teacher --voices-of eval/teacher --out eval/report.md

Systems stand in the table in the order given. Every judge's file in a system's folder is used. --minus A B adds the
differences A - B over the utterances that both have. --voices-of takes the speakers of a system as the known voices:
whose mean vector an utterance is nearest to is then told. Without it, the set's prompts by speaker are the known
voices, and recordings without prompts are compared with each other. A recording is never part of the mean that it is
compared with. Beside REPORT.md come REPORT.json and REPORT.jsonl.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.evaluation import intervals, scores, similarity, tables
from cosyjax.evaluation.intervals import Estimate
from cosyjax.evaluation.records import read_records
from cosyjax.evaluation.word_error import RULES
from cosyjax.files import write_whole
from infer.evaluate_files import PROMPT, check_systems, read_system

WORST = 5  # utterances shown for each system and judge


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("systems", type=Path, nargs="+", metavar="DIR")
  parser.add_argument("--out", type=Path, required=True, metavar="REPORT.md")
  parser.add_argument("--rule", default="whisper", choices=RULES, help="what counts as a difference of texts")
  parser.add_argument("--minus", nargs=2, action="append", default=[], metavar=("A", "B"), help="names of systems")
  parser.add_argument("--voices-of", type=Path, metavar="DIR", help="system whose speakers are the known voices")
  parser.add_argument("--samples", type=int, default=intervals.SAMPLES, help="of the bootstrap")
  args = parser.parse_args(argv)
  if args.out.suffix != ".md":
    parser.error("--out: expected a name ending in .md")
  return args


class System:
  """A system's records and what judges found of it.

  Attributes:
    folder, name: where it lies, and the folder's name.
    header: of its utterances.
    judges: header of each judge's file, by name.
    rows: scored utterances.
    said: utterances by id.
  """

  def __init__(self, folder: Path, rule: str) -> None:
    self.folder = folder.resolve()
    self.name = self.folder.name
    self.header, self.said = read_system(folder)
    found = [read_records(path) for path in sorted((folder / "judged").glob("*.jsonl"))]
    self.judges = {head["judge"]: head for head, _ in found}
    self.found = {head["judge"]: rows for head, rows in found}
    self.rows = [self._score(row, rule) for row in self.said.values()]

  def of_kind(self, kind: str) -> list[str]:
    """Names of judges: "text", "quality" or "speaker"."""
    return [name for name, head in self.judges.items() if head.get("kind", "text") == kind]

  def _score(self, said: Mapping[str, Any], rule: str) -> dict[str, Any]:
    name = said["id"]
    texts = {judge: self.found[judge][name]["text"] for judge in self.of_kind("text") if name in self.found[judge]}
    if "error" in said:
      texts = dict.fromkeys(self.of_kind("text"))
    qualities = {judge: self.found[judge].get(name, {}).get("value") for judge in self.of_kind("quality")}
    return scores.score_utterance(said, texts, qualities, rule)

  def vectors(self, judge: str) -> dict[str, list[float]]:
    """Speaker vectors by id; prompts have ids of their own."""
    return {name: row["vector"] for name, row in self.found.get(judge, {}).items() if "vector" in row}

  def missing(self) -> list[str]:
    """What a judge has not got to, in words."""
    spoken = [name for name, row in self.said.items() if "error" not in row]
    left = {judge: sum(name not in rows for name in spoken) for judge, rows in self.found.items()}
    return [f"{self.name}: {count} of {len(spoken)} utterances not judged by {j}" for j, count in left.items() if count]


def known_voices(source: System, judge: str, of_prompts: bool) -> similarity.KnownVoices | None:
  """Voices of a system's speakers: from its utterances, or from the prompts that they were made with."""
  vectors = source.vectors(judge)
  of = {f"{PROMPT}{row['prompt']}" if of_prompts else name: row["speaker"] for name, row in source.said.items()}
  pairs = [(vectors[name], speaker) for name, speaker in of.items() if name in vectors and speaker]
  return similarity.KnownVoices(np.array([v for v, _ in pairs]), [speaker for _, speaker in pairs]) if pairs else None


def add_voices(system: System, enrolled: System | None) -> None:
  """Add similarities by every judge of voices. Recordings without prompts are compared with each other."""
  for judge in system.of_kind("speaker"):
    vectors = system.vectors(judge)
    prompts = {name: vectors.get(f"{PROMPT}{row.get('prompt')}") for name, row in system.said.items()}
    alone = enrolled is None and not any(prompts.values()) and system.header["stage"] == "recordings"
    own = alone or (enrolled is not None and enrolled.folder == system.folder)
    known = known_voices(enrolled or system, judge, of_prompts=enrolled is None and not alone)
    scores.add_similarity(system.rows, judge, vectors, prompts, known, own)


def report(
  systems: Sequence[System], figures: Mapping[str, Mapping[str, Mapping[str, Estimate]]], args: argparse.Namespace
) -> str:
  """The Markdown report. figures: by language, system and name."""
  parts = ["# Evaluation", "", f"Mean [95 % bootstrap interval over utterances, {args.samples} resamples]."]
  for language, by_system in figures.items():
    unit = scores.unit_of(language)
    names = list(dict.fromkeys(name for found in by_system.values() for name in found))
    said = [n for n in names if n.split()[0] in ("error", "quality", "nearest") or "similarity" in n]
    letters = [n for n in names if n.startswith("character")]
    sound = [n for n in names if n not in (*said, *letters)]
    parts += ["", f"## {language}: what was said (errors by {unit})", "", tables.figures(by_system, said)]
    if unit == "word" and letters:
      parts += ["", f"## {language}: errors by character", "", tables.figures(by_system, letters)]
    parts += ["", f"## {language}: sound and time", "", tables.figures(by_system, sound)]
    if minus := _differences(systems, language, args):
      names = list(dict.fromkeys(name for found in minus.values() for name in found))
      parts += ["", f"## {language}: differences, same utterances", "", tables.figures(minus, names, signed=True)]
  parts += ["", "## What was compared", "", tables.markdown(["system", "what"], [[s.name, _what(s)] for s in systems])]
  judges = {json.dumps([name, head["digest"], head["settings"]]): (name, head) for s in systems
            for name, head in s.judges.items()}  # fmt: skip
  rows = [[name, head["digest"], _plain(head["settings"])] for name, head in judges.values()]
  parts += ["", "## Judges", "", tables.markdown(["judge", "digest", "settings"], rows) if rows else "None."]
  parts += ["", f"Texts are compared by the rule {args.rule!r}."]
  if missing := [line for s in systems for line in s.missing()]:
    parts += ["", "**Not complete:**", "", *[f"- {line}" for line in missing]]
  return "\n".join([*parts, *_worst(systems)]) + "\n"


def _differences(systems: Sequence[System], language: str, args: argparse.Namespace) -> dict[str, dict[str, Estimate]]:
  rows = {s.name: [row for row in s.rows if row["language"] == language] for s in systems}
  out = {}
  for a, b in args.minus:
    if found := scores.differences(rows[a], rows[b], samples=args.samples):
      out[f"{a} - {b}"] = found
  return out


def _what(system: System) -> str:
  return _plain({k: v for k, v in system.header.items() if k not in ("format",) and v not in (None, [], {}, False)})


def _plain(settings: Mapping[str, Any]) -> str:
  return ", ".join(
    f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
  )


def _worst(systems: Sequence[System]) -> list[str]:
  out = []
  for system in systems:
    for judge in system.of_kind("text"):
      rate = lambda row, judge=judge: row["errors"].get(judge, {}).get("word", {}).get("rate", 0.0)
      bad = sorted((row for row in system.rows if rate(row) > 0), key=rate, reverse=True)[:WORST]
      if bad:
        cells = [[r["id"], f"{100 * rate(r):.0f} %", r["text"], r["transcripts"][judge] or ""] for r in bad]
        table = tables.markdown(["id", "error", "text", "found"], cells)
        out += ["", f"## Most errors: {system.name} by {judge}", "", table]
    if failed := [row for row in system.rows if row["failed"]]:
      out += ["", f"## Runaway, truncated, refused: {system.name}", ""]
      out += [f"- {row['id']}: {row['failed']}" for row in failed]
  return out


def main(argv: Sequence[str] | None = None) -> int:
  args = parse(argv)
  check_systems(args.systems)
  systems = [System(folder, args.rule) for folder in args.systems]
  if unknown := {name for pair in args.minus for name in pair} - {s.name for s in systems}:
    raise ConfigError(f"--minus: expected names of {[s.name for s in systems]}, found {sorted(unknown)}")
  enrolled = System(args.voices_of, args.rule) if args.voices_of else None
  for system in systems:
    add_voices(system, enrolled)
  languages = list(dict.fromkeys(row["language"] for s in systems for row in s.rows))
  figures = {language: {s.name: scores.summarise([r for r in s.rows if r["language"] == language], samples=args.samples)
                        for s in systems if any(r["language"] == language for r in s.rows)}
             for language in languages}  # fmt: skip
  plain = {
    lang: {s: {n: e.to_json() for n, e in found.items()} for s, found in by.items()} for lang, by in figures.items()
  }
  about = {s.name: {"header": s.header, "judges": s.judges} for s in systems}
  minus = {lang: {pair: {n: e.to_json() for n, e in found.items()} for pair, found in
                  _differences(systems, lang, args).items()} for lang in languages}  # fmt: skip
  text = report(systems, figures, args)
  lines = [json.dumps({"system": s.name, **row}, ensure_ascii=False) for s in systems for row in s.rows]
  whole = {"figures": plain, "differences": minus, "systems": about, "rule": args.rule}
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_whole(args.out.with_suffix(".jsonl"), "\n".join(lines) + "\n")
  write_whole(args.out.with_suffix(".json"), json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
  write_whole(args.out, text)
  print(text.split("\n## What was compared")[0])
  return 0
