"""Can a packet border be seen in the samples? A measure for streamed audio, on the host."""

from collections.abc import Sequence

import numpy as np

NEIGHBOURHOOD = 480  # samples on either side that a border is compared with: 20 ms at 24 kHz


def seam_ratios(wave_A: np.ndarray, packets: Sequence[int], neighbourhood: int = NEIGHBOURHOOD) -> np.ndarray:
  """How much the signal jumps or bends at each packet border, over the most it does nearby.

  A jump is |x[n] - x[n-1]| across the border, a bend the second difference of the samples
  around it; the larger of the two ratios counts. Up to 1 a border moves as its neighbourhood
  moves: a click stands out. A border in silence is 0 if the signal is still, infinite if it
  alone moves. The measure finds clicks alone, not a change of timbre or pitch.

  Args:
    wave_A: the packets, one after the other.
    packets: samples in each.
    neighbourhood: samples on either side to compare with.

  Returns:
    [len(packets) - 1] ratios; borders with nothing on one side are 0.

  Raises:
    ValueError: the packets are not as long as the signal.
  """
  wave_A = np.asarray(wave_A, np.float64)
  if sum(packets) != len(wave_A):
    raise ValueError(f"{len(packets)} packets have {sum(packets)} samples, the signal {len(wave_A)}")
  return np.array([_ratio(wave_A, border, neighbourhood) for border in np.cumsum(packets)[:-1]])


def _ratio(wave_A: np.ndarray, border: int, neighbourhood: int) -> float:
  near_A = wave_A[max(border - neighbourhood, 0) : border + neighbourhood]
  at = min(border, neighbourhood)  # the border's first sample in `near_A`
  ratios = [0.0]
  for order in (1, 2):
    moves = np.abs(np.diff(near_A, order))
    across = np.zeros(len(moves), bool)
    across[max(at - order, 0) : at] = True  # differences that take samples from both sides
    if across.any() and not across.all():
      here, there = moves[across].max(), moves[~across].max()
      ratios.append(here / there if there else float(np.inf if here else 0))
  return max(ratios)
