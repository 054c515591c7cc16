"""Word and character error of recognised speech: text rules, alignment, rates over utterances and over the corpus.

Two rules say what counts as a difference. "whisper": English through Whisper's normaliser (number words become
figures, contractions are written out, British spelling becomes American); Chinese in simplified characters with its
numbers read out. "seed-tts-eval": as that benchmark scores, marks dropped and letters lowered, nothing read out.
Chinese and Japanese are compared by character, other languages by word.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable
from typing import Any

from cosyjax.errors import ConfigError

RULES = ("whisper", "seed-tts-eval")
BY_CHARACTER = ("zh", "yue", "ja")
INSTALL = "pip install 'cosyjax[evaluation]'"


@dataclasses.dataclass(frozen=True)
class Errors:
  """How what was recognised differs from what should have been said, in words or characters.

  Attributes:
    hits, substitutions, deletions, insertions: of a shortest alignment.
    tail_deleted: units missing at the end, one after the other.
    tail_inserted: units too many at the end, one after the other.
  """

  hits: int
  substitutions: int
  deletions: int
  insertions: int
  tail_deleted: int = 0
  tail_inserted: int = 0

  @property
  def edits(self) -> int:
    """Substitutions, deletions and insertions together."""
    return self.substitutions + self.deletions + self.insertions

  @property
  def length(self) -> int:
    """Units of the reference."""
    return self.hits + self.substitutions + self.deletions

  @property
  def rate(self) -> float:
    """Edits over the reference's length; above 1 if much was added."""
    return self.edits / max(self.length, 1)


def plain_text(text: str, language: str, rule: str = "whisper") -> str:
  """The text as it is compared: words, or single characters, with a blank between.

  Raises:
    ConfigError: no such rule, or a package of the extra `evaluation` is missing.
  """
  if rule not in RULES:
    raise ConfigError(f"rule: expected one of {RULES}, found {rule!r}")
  if language in ("zh", "yue"):
    text = _simplified()(text)
  if language in BY_CHARACTER:
    if rule == "whisper" and language == "zh":
      from cosyjax.text.normalise import normalise

      text = normalise(text, "zh")
    return " ".join("".join(_without_marks(text.lower()).split()))
  if rule == "whisper" and language == "en":
    return " ".join(_english()(text).split())
  return " ".join(_without_marks(text.lower(), keep="'").split())


def compare(reference: str, found: str, language: str, rule: str = "whisper") -> tuple[Errors, Errors]:
  """Errors of one utterance: (by word, by character).

  In languages that are compared by character both are the same. Blanks between words count as characters.

  Args:
    reference: what should have been said.
    found: what a recogniser wrote.
    language: "en", "zh", ...
    rule: one of `RULES`.

  Raises:
    ConfigError: as `plain_text`.
  """
  reference, found = (plain_text(text, language, rule) for text in (reference, found))
  by_word = align(reference.split(), found.split())
  return by_word, by_word if language in BY_CHARACTER else align(reference, found)


def align(reference: list[str] | str, found: list[str] | str) -> Errors:
  """Errors of a shortest alignment of two lists of words, or of two strings by character.

  Raises:
    ConfigError: jiwer is not installed.
  """
  if not reference or not found:
    return Errors(0, 0, len(reference), len(found), len(reference), len(found))
  jiwer = _package("jiwer")
  if isinstance(reference, str):
    as_is = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
    out = jiwer.process_characters(reference, found, reference_transform=as_is, hypothesis_transform=as_is)
  else:
    as_is = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])
    text = " ".join(reference), " ".join(found)
    out = jiwer.process_words(*text, reference_transform=as_is, hypothesis_transform=as_is)
  last = out.alignments[0][-1]
  tail = last.ref_end_idx - last.ref_start_idx, last.hyp_end_idx - last.hyp_start_idx
  return Errors(
    out.hits,
    out.substitutions,
    out.deletions,
    out.insertions,
    tail_deleted=tail[0] if last.type == "delete" else 0,
    tail_inserted=tail[1] if last.type == "insert" else 0,
  )


def mean_rate(errors: Iterable[Errors]) -> float:
  """Mean of the utterances' rates, as seed-tts-eval reports it; NaN of none."""
  rates = [e.rate for e in errors]
  return sum(rates) / len(rates) if rates else float("nan")


def corpus_rate(errors: Iterable[Errors]) -> float:
  """All edits over the length of all references; NaN of none."""
  errors = list(errors)
  return sum(e.edits for e in errors) / max(sum(e.length for e in errors), 1) if errors else float("nan")


def _without_marks(text: str, keep: str = "") -> str:
  """Text without punctuation and symbols."""
  return "".join(c for c in text if c in keep or unicodedata.category(c)[0] not in "PS")


def _package(name: str) -> Any:
  import importlib

  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ConfigError(f"word error needs the package {name.split('.')[0]}: {INSTALL} ({error})") from error


@functools.cache
def _english() -> Any:
  return _package("whisper_normalizer.english").EnglishTextNormalizer()


@functools.cache
def _simplified() -> Any:
  return _package("opencc").OpenCC("t2s").convert
