"""Speaker similarity from vectors of any speaker encoder: cosines, and whether the right voice is the nearest."""

from collections.abc import Sequence

import numpy as np


def unit(vectors_NE: np.ndarray) -> np.ndarray:
  """Vectors [..., E] scaled to length 1."""
  vectors_NE = np.asarray(vectors_NE, np.float64)
  return vectors_NE / np.maximum(np.linalg.norm(vectors_NE, axis=-1, keepdims=True), 1e-12)


def cosine(a_NE: np.ndarray, b_NE: np.ndarray) -> np.ndarray:
  """Cosine of each vector with its partner: [...]."""
  return np.sum(unit(a_NE) * unit(b_NE), axis=-1)


class KnownVoices:
  """Mean vectors of known speakers, to find whose voice a recording has.

  Attributes:
    names: of the speakers [S], in order.
  """

  def __init__(self, vectors_NE: np.ndarray, speakers_N: Sequence[str]) -> None:
    """Take recordings of known speakers; each counts at length 1."""
    names, owner_N = np.unique(np.asarray(speakers_N), return_inverse=True)
    unit_NE = unit(vectors_NE)
    self.names = [str(name) for name in names]
    self._counts_S = np.bincount(owner_N, minlength=len(names))
    self._sums_SE = np.stack([unit_NE[owner_N == s].sum(axis=0) for s in range(len(names))])

  def compare(self, vector_E: np.ndarray, leave_out: str | None = None) -> dict[str, float]:
    """Cosine of a vector with each speaker's mean.

    Args:
      vector_E: of the recording.
      leave_out: speaker among whose recordings this one was counted: it is taken out, and the speaker with it who has
        no other.
    """
    sums_SE, counts_S = self._sums_SE.copy(), self._counts_S.copy()
    if leave_out in self.names:
      s = self.names.index(leave_out)
      sums_SE[s] -= unit(vector_E)
      counts_S[s] -= 1
    scores_S = unit(sums_SE) @ unit(vector_E)
    return {name: float(x) for name, x, count in zip(self.names, scores_S, counts_S, strict=True) if count}
