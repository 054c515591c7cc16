"""Manifests of the model in the box: those of several folders that teachers spoke into, as one corpus."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosyjax.errors import DataError
from train.teacher_corpus import FIELDS, MANIFESTS


def write(folders: Sequence[Path], out: Path, longest: float) -> dict[str, float]:
  """Joins the manifests of some folders, and those of phonemes into `phones/`; returns the hours of each split.

  Args:
    folders: of `train.make_corpus --teacher`.
    out: gets NAME.jsonl, phones/NAME.jsonl and texts.txt, the texts of training.
    longest: seconds; longer utterances are left out.

  Raises:
    DataError: a folder is no such corpus.
  """
  hours = dict.fromkeys(MANIFESTS, 0.0)
  lines: dict[Path, list[str]] = {}
  texts: dict[str, None] = {}
  for folder in folders:
    try:
      seconds = {entry["id"]: entry["seconds"] for entry in _read(folder / "details.jsonl")}
      for kind in ("", "phones"):
        for name in MANIFESTS:
          entries = [entry for entry in _read(folder / kind / f"{name}.jsonl") if seconds[entry["id"]] <= longest]
          kept = [{key: entry[key] for key in FIELDS} for entry in entries]
          for entry in kept:
            entry["audio"] = str((folder / kind / entry["audio"]).resolve())
          lines.setdefault(out / kind / f"{name}.jsonl", []).extend(json.dumps(r, ensure_ascii=False) for r in kept)
          if not kind:
            hours[name] += sum(seconds[entry["id"]] for entry in entries) / 3600
            texts |= dict.fromkeys(entry["text"] for entry in entries if name == "train")
    except (OSError, ValueError, KeyError) as error:
      raise DataError(f"{folder}: expected a folder of train.make_corpus --teacher ({error})") from error
  (out / "phones").mkdir(parents=True, exist_ok=True)
  for file, entries in {**lines, out / "texts.txt": list(texts)}.items():
    part = file.with_suffix(".part")
    part.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    part.replace(file)
  return hours


def build_flags(manifests: Path) -> list[Any]:
  """Flags of `train.build_corpus` for a folder of manifests: its splits that have any utterance."""
  there = [name for name in MANIFESTS if (manifests / f"{name}.jsonl").stat().st_size]
  flags: list[Any] = ["--manifest", manifests / "train.jsonl"]
  for name in there[1:]:
    flags += ["--split", f"{name}={manifests / f'{name}.jsonl'}"]
  return flags


def _read(file: Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
