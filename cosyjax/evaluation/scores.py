"""Figures of a system from what it said and what judges found."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cosyjax.evaluation import failures, intervals, similarity
from cosyjax.evaluation.intervals import Estimate
from cosyjax.evaluation.word_error import BY_CHARACTER, Errors, compare

SEAM = 2.0  # a packet border that moves this many times more than its neighbourhood is a seam


def score_utterance(
  said: Mapping[str, Any],
  transcripts: Mapping[str, str | None],
  qualities: Mapping[str, float | None],
  rule: str = "whisper",
) -> dict[str, Any]:
  """Figures of one utterance, as plain values.

  Args:
    said: row of a system's records: text, language, seconds, pauses, ended, seams, or error.
    transcripts: what each judge wrote; None counts as nothing recognised.
    qualities: what each judge of quality predicted.
    rule: of `word_error`.

  Returns:
    id, text, language, speaker, and: errors by judge and unit ("word", "character"; counts of `Errors`), quality by
    judge, failed ("runaway", "truncated", "error" or None), and the sound's own figures.
  """
  language, failed = said["language"], [] if "error" not in said else ["error"]
  row = {key: said[key] for key in ("id", "text", "language", "speaker")} | {"errors": {}, "transcripts": {}}
  for judge, found in transcripts.items():
    word, character = compare(said["text"], found or "", language, rule)
    row["errors"][judge] = {"word": _counts(word), "character": _counts(character)}
    row["transcripts"][judge] = found
    failed.append(failures.by_transcript(word))
  row["quality"] = {judge: value for judge, value in qualities.items() if value is not None}
  if "error" not in said:
    speaking = max(said["seconds"] - said["leading"] - said["trailing"], 0.0)
    failed = [
      failures.by_ending(said.get("ended", ())),
      failures.by_pace(said["text"], language, speaking),
      *failed,
    ]
    row |= {key: said[key] for key in ("seconds", "leading", "trailing", "longest_pause") if key in said}
    row["letters"], row["speaking"] = failures.letters(said["text"]), speaking
    row["seams"] = sum(ratio >= SEAM for ratio in said.get("seam_ratios", ()))
    row["borders"] = len(said.get("seam_ratios", ()))
    row |= {key: said[key] for key in ("compute", "compiled", "first_packet", "late") if key in said}
  row["failed"] = next(filter(None, failed), None)
  return row


def _counts(errors: Errors) -> dict[str, Any]:
  return {
    "hits": errors.hits,
    "substitutions": errors.substitutions,
    "deletions": errors.deletions,
    "insertions": errors.insertions,
    "rate": errors.rate,
  }


def add_similarity(
  rows: Sequence[dict[str, Any]],
  judge: str,
  vectors: Mapping[str, Sequence[float] | None],
  prompts: Mapping[str, Sequence[float] | None],
  known: similarity.KnownVoices | None,
  own: bool = False,
) -> None:
  """Add a speaker judge's figures to utterances: cosines, and the nearest voice.

  Args:
    rows: from `score_utterance`; changed.
    judge: its name.
    vectors: of the utterances, by id.
    prompts: of the prompt's recording, by the utterance's id.
    known: voices of known recordings; None if there are none.
    own: the known recordings are these utterances: each is left out of its speaker's mean.
  """
  for row in rows:
    vector, prompt, found = vectors.get(row["id"]), prompts.get(row["id"]), {}
    if vector is None:
      continue
    if prompt is not None:
      found["prompt"] = float(similarity.cosine(np.asarray(vector), np.asarray(prompt)))
    voices = known.compare(np.asarray(vector), row["speaker"] if own else None) if known is not None else {}
    if row["speaker"] in voices and len(voices) > 1:
      nearest = max(voices, key=voices.get)
      found |= {"speaker": voices[row["speaker"]], "nearest": nearest, "right": nearest == row["speaker"]}
    if found:
      row.setdefault("similarity", {})[judge] = found


def summarise(rows: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Estimate]:
  """Figures over utterances of one language, each with its interval.

  Args:
    rows: from `score_utterance` and `add_similarity`.
    **options: of `intervals.mean`: samples, level, seed.

  Returns:
    By name: "error mean JUDGE" and "error corpus JUDGE" (by word, or by character in languages that are compared so),
    "character mean JUDGE", "character corpus JUDGE", "quality JUDGE", "prompt similarity JUDGE", "speaker similarity
    JUDGE", "nearest JUDGE", "pace" (letters a second), "leading", "trailing", "longest pause", "seams" (share of packet
    borders), "runaway", "truncated", "refused" (shares), "real-time factor", "first packet", "late" (share of packets
    that came after they were due).
  """
  out: dict[str, Estimate] = {}
  mean = lambda values: intervals.mean(list(values), **options)
  ratio = lambda pairs: intervals.ratio(*zip(*pairs, strict=True), **options)
  for judge in _judges(rows, "errors"):
    for name, unit in (("error", "word"), ("character", "character")):
      counts = [row["errors"][judge][unit] for row in rows if judge in row["errors"]]
      out[f"{name} mean {judge}"] = mean(c["rate"] for c in counts)
      out[f"{name} corpus {judge}"] = ratio([_edits(c) for c in counts])
  for judge in _judges(rows, "quality"):
    out[f"quality {judge}"] = mean(row["quality"][judge] for row in rows if judge in row["quality"])
  for judge in _judges(rows, "similarity"):
    found = [row["similarity"][judge] for row in rows if judge in row.get("similarity", ())]
    for name, key in (("prompt similarity", "prompt"), ("speaker similarity", "speaker"), ("nearest", "right")):
      if any(key in f for f in found):
        out[f"{name} {judge}"] = mean(f[key] for f in found if key in f)
  sound = [row for row in rows if "speaking" in row]
  if sound:
    if paced := [(row["letters"], row["speaking"]) for row in sound if row["speaking"] > 0]:
      out["pace"] = ratio(paced)
    for name, key in (("leading", "leading"), ("trailing", "trailing"), ("longest pause", "longest_pause")):
      out[name] = mean(row[key] for row in sound)
    if borders := [(row["seams"], row["borders"]) for row in sound if row["borders"]]:
      out["seams"] = ratio(borders)
    if timed := [(row["compute"], row["seconds"]) for row in sound if "compute" in row and not row["compiled"]]:
      out["real-time factor"] = ratio(timed)
    for name, key in (("first packet", "first_packet"), ("late", "late")):
      if values := [row[key] for row in sound if key in row and not row["compiled"]]:
        out[name] = mean(values)
  for name in (failures.RUNAWAY, failures.TRUNCATED, "error"):
    out["refused" if name == "error" else name] = mean(row["failed"] == name for row in rows)
  return out


def differences(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Estimate]:
  """Mean of a - b over common utterances, in pairs: error, quality, similarity by judge."""
  theirs = {row["id"]: row for row in b}
  pairs = [(row, theirs[row["id"]]) for row in a if row["id"] in theirs]
  readers = {}
  for judge in _judges(a, "errors"):
    readers[f"error mean {judge}"] = lambda row, judge=judge: row["errors"].get(judge, {}).get("word", {}).get("rate")
  for judge in _judges(a, "quality"):
    readers[f"quality {judge}"] = lambda row, judge=judge: row["quality"].get(judge)
  for judge in _judges(a, "similarity"):
    for name in ("prompt", "speaker"):
      key = f"{name} similarity {judge}"
      readers[key] = lambda row, judge=judge, name=name: row.get("similarity", {}).get(judge, {}).get(name)
  out = {}
  for name, read in readers.items():
    values = [(read(x), read(y)) for x, y in pairs]
    if values := [pair for pair in values if None not in pair]:
      out[name] = intervals.difference(*zip(*values, strict=True), **options)
  return out


def unit_of(language: str) -> str:
  """What an "error" of a language counts: "character" or "word"."""
  return "character" if language in BY_CHARACTER else "word"


def _edits(counts: Mapping[str, Any]) -> tuple[int, int]:
  edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
  return edits, counts["hits"] + counts["substitutions"] + counts["deletions"]


def _judges(rows: Iterable[Mapping[str, Any]], field: str) -> list[str]:
  return list(dict.fromkeys(judge for row in rows for judge in row.get(field, ())))
