"""Measures of trained parts: error rates of recognised text, equal error rate of voices, use of a codebook.

Host code over NumPy and plain Python; nothing here is differentiated.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def edit_distance(reference: Sequence[Any], found: Sequence[Any]) -> int:
  """Fewest insertions, deletions and substitutions that turn one sequence into the other (Levenshtein 1966)."""
  if not len(reference) or not len(found):
    return max(len(reference), len(found))
  codes = {item: i for i, item in enumerate(dict.fromkeys([*reference, *found]))}
  found_L = np.array([codes[item] for item in found])
  steps_L = np.arange(len(found_L) + 1)
  row_L = steps_L.copy()
  for item in reference:
    best_L = np.concatenate([[row_L[0] + 1], np.minimum(row_L[1:] + 1, row_L[:-1] + (found_L != codes[item]))])
    # Insertions run along the row: position i is reached from any j before it at a cost of i - j.
    row_L = np.minimum.accumulate(best_L - steps_L) + steps_L
  return int(row_L[-1])


def error_rate(references: Iterable[Sequence[Any]], found: Iterable[Sequence[Any]]) -> float:
  """Edits over all pairs, divided by the references' total length; 0 if there is nothing to find and nothing found.

  Strings give character error rates, bytes or lists of units token error rates, lists of words word error rates.
  """
  pairs = list(zip(references, found, strict=True))
  edits = sum(edit_distance(a, b) for a, b in pairs)
  return edits / max(sum(len(a) for a, _ in pairs), 1)


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
  """Rate at which as many impostors pass as true speakers are refused.

  Args:
    scores: similarity of each trial.
    same: True where both sides of the trial are one speaker.

  Returns:
    Between 0 and 1, read where the two rates cross (linearly between thresholds); NaN without trials of both kinds.
  """
  scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
  if not same.any() or same.all():
    return float("nan")
  thresholds, group = np.unique(scores, return_inverse=True)
  targets = np.bincount(group, weights=same, minlength=len(thresholds))
  others = np.bincount(group, weights=~same, minlength=len(thresholds))
  # Entry i: everything below threshold i is refused; the last entry refuses all.
  missed = np.concatenate([[0.0], np.cumsum(targets)]) / targets.sum()
  passed = 1.0 - np.concatenate([[0.0], np.cumsum(others)]) / others.sum()
  i = int(np.argmax(missed >= passed))  # never 0: there nothing is missed and all pass
  gap_before, gap_after = passed[i - 1] - missed[i - 1], missed[i] - passed[i]
  share = gap_before / (gap_before + gap_after)
  return float(missed[i - 1] + share * (missed[i] - missed[i - 1]))


def verification_trials(vectors_NE: np.ndarray, speakers_N: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  """Cosine of every pair of recordings, and whether both are one speaker's. Lengths N (N - 1) / 2."""
  vectors_NE = np.asarray(vectors_NE, np.float64)
  unit_NE = vectors_NE / np.maximum(np.linalg.norm(vectors_NE, axis=1, keepdims=True), 1e-12)
  first, second = np.triu_indices(len(unit_NE), k=1)
  _, speakers_N = np.unique(np.asarray(speakers_N), return_inverse=True)
  return (unit_NE @ unit_NE.T)[first, second], speakers_N[first] == speakers_N[second]


@dataclasses.dataclass(frozen=True)
class CodebookUse:
  """How a set of tokens fills a codebook.

  Attributes:
    used: number of different codes.
    codes: size of the codebook.
    tokens: number of tokens counted.
    perplexity: exp of the entropy of the codes' frequencies; `codes` if all are equally frequent.
  """

  used: int
  codes: int
  tokens: int
  perplexity: float

  @property
  def utilisation(self) -> float:
    """Share of the codebook in use (Table 4 of the paper)."""
    return self.used / self.codes

  @property
  def of_fillable(self) -> float:
    """Share of the codes that so many tokens could use at all: as many as there are tokens, or all."""
    return self.used / max(min(self.codes, self.tokens), 1)

  @property
  def of_expected(self) -> float:
    """Codes in use over the number that as many draws from a uniform distribution would use, codes (1 - e^(-t/c))."""
    return self.used / max(-self.codes * np.expm1(-self.tokens / self.codes), 1e-9)


def codebook_use(counts_C: np.ndarray) -> CodebookUse:
  """Use of a codebook, from how often each code occurred (`np.bincount(ids, minlength=codes)`; sums of such work)."""
  counts_C = np.asarray(counts_C, np.float64)
  shares = counts_C[counts_C > 0] / max(counts_C.sum(), 1)
  perplexity = float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0
  return CodebookUse(len(shares), len(counts_C), int(counts_C.sum()), perplexity)
