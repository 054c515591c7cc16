"""Utterances that went wrong as a whole: runaway (did not stop) and truncated (stopped too early).

Three signs: how the language model ended, the pace against what anybody can say, and units added or missing in
what a recogniser wrote. Each is coarse on purpose: an ordinary error of a word is none of them.
"""

from collections.abc import Iterable

from cosyjax.evaluation.word_error import BY_CHARACTER, Errors

# Letters a second of speech (characters in Chinese and Japanese): slower is runaway, faster truncated.
PACE = (4.0, 32.0)
PACE_BY_CHARACTER = (1.2, 12.0)
FEWEST_LETTERS = 8  # a shorter text may be said at any pace
ADDED = (4, 0.5)  # units, and share of the text, that were added: runaway
MISSING = (2, 0.25)  # units, and share of the text, that are missing at the end: truncated

RUNAWAY, TRUNCATED = "runaway", "truncated"


def by_ending(ended: Iterable[str]) -> str | None:
  """Runaway if a segment stopped at its greatest length (`ended` of `Speech`'s segments)."""
  return RUNAWAY if "length" in ended else None


def letters(text: str) -> int:
  """Letters and figures of a text."""
  return sum(c.isalnum() for c in text)


def by_pace(text: str, language: str, speaking: float) -> str | None:
  """What the time from the first sound to the last (seconds) says about a text.

  Silence alone is truncated; other texts of fewer than `FEWEST_LETTERS` letters (a quarter in languages that are
  compared by character) pass.
  """
  dense = language in BY_CHARACTER
  slowest, fastest = PACE_BY_CHARACTER if dense else PACE
  count = letters(text)
  if speaking <= 0:
    return TRUNCATED
  if count < FEWEST_LETTERS // (4 if dense else 1):
    return None
  pace = count / speaking
  return RUNAWAY if pace < slowest else TRUNCATED if pace > fastest else None


def by_transcript(errors: Errors) -> str | None:
  """What a recogniser's errors by word say: much was added, or the end is missing."""
  if errors.insertions >= max(ADDED[0], ADDED[1] * errors.length):
    return RUNAWAY
  return TRUNCATED if errors.tail_deleted >= max(MISSING[0], MISSING[1] * errors.length) else None
