"""Bootstrap intervals over utterances (Efron 1979; percentiles), seeded, on the host."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

SAMPLES = 1000  # resampled test sets
LEVEL = 0.95
_BLOCK = 1 << 22  # indices drawn at a time


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A figure, its interval over resampled test sets, and its number of utterances."""

  value: float
  low: float
  high: float
  count: int

  def to_json(self) -> dict[str, float | int | None]:
    """Plain values; NaN becomes None."""
    plain = lambda x: None if np.isnan(x) else float(x)
    return {"value": plain(self.value), "low": plain(self.low), "high": plain(self.high), "count": self.count}


def mean(values_N: Sequence[float], *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0) -> Estimate:
  """The mean over utterances with its bootstrap interval; NaN of none."""
  values_N = np.asarray(values_N, np.float64)
  return _estimate(len(values_N), lambda index: values_N[index].mean(axis=-1), samples, level, seed)


def ratio(
  parts_N: Sequence[float],
  wholes_N: Sequence[float],
  *,
  samples: int = SAMPLES,
  level: float = LEVEL,
  seed: int = 0,
) -> Estimate:
  """Sum of parts over sum of wholes (a corpus error rate, a real-time factor); NaN of none."""
  parts_N, wholes_N = np.asarray(parts_N, np.float64), np.asarray(wholes_N, np.float64)
  of = lambda index: parts_N[index].sum(axis=-1) / np.maximum(wholes_N[index].sum(axis=-1), 1e-12)
  return _estimate(len(parts_N), of, samples, level, seed)


def difference(a_N: Sequence[float], b_N: Sequence[float], **options: float) -> Estimate:
  """Mean of a - b over the same utterances, in pairs.

  Whatever an utterance does to both falls out.

  Raises:
    ValueError: not as many of the one as of the other.
  """
  a_N, b_N = np.asarray(a_N, np.float64), np.asarray(b_N, np.float64)
  if a_N.shape != b_N.shape:
    raise ValueError(f"difference: expected pairs, found {len(a_N)} and {len(b_N)} values")
  return mean(a_N - b_N, **options)


def _estimate(
  count: int, statistic: Callable[[np.ndarray], np.ndarray], samples: int, level: float, seed: int
) -> Estimate:
  if not count:
    return Estimate(float("nan"), float("nan"), float("nan"), 0)
  rng, at_once = np.random.default_rng(seed), max(_BLOCK // count, 1)
  found = [
    statistic(rng.integers(0, count, (min(at_once, samples - done), count))) for done in range(0, samples, at_once)
  ]
  low, high = np.percentile(np.concatenate(found), [50 * (1 - level), 50 * (1 + level)])
  return Estimate(float(statistic(np.arange(count))), float(low), float(high), count)
