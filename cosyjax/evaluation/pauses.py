"""Where a recording speaks: leading and trailing silence, the longest pause, the pace. On the host."""

import dataclasses

import numpy as np

WINDOW = 0.02  # s
STEP = 0.01  # s
BELOW_LOUD = 40.0  # dB under the loud frames: what is softer is silence
FLOOR = 1e-3  # -60 dBFS: nothing softer is speech


@dataclasses.dataclass(frozen=True)
class Pauses:
  """Where a recording speaks, seconds.

  Attributes:
    seconds: of the recording.
    leading, trailing: silence before the first and after the last sound; a silent recording is all leading.
    longest: silence between two sounds, at most.
    clipped: share of samples at full scale.
  """

  seconds: float
  leading: float
  trailing: float
  longest: float
  clipped: float

  @property
  def speaking(self) -> float:
    """From the first sound to the last, pauses between included."""
    return max(self.seconds - self.leading - self.trailing, 0.0)


def find_pauses(wave_A: np.ndarray, rate: int) -> Pauses:
  """Measure silence by the level of frames of 20 ms.

  A frame sounds if it is within `BELOW_LOUD` of the 95th percentile of the frames' levels and above `FLOOR`.

  Args:
    wave_A: samples, full scale 1.
    rate: Hz.
  """
  wave_A = np.asarray(wave_A, np.float64)
  seconds, clipped = len(wave_A) / rate, float(np.mean(np.abs(wave_A) >= 0.999)) if len(wave_A) else 0.0
  window, step = max(round(WINDOW * rate), 1), max(round(STEP * rate), 1)
  starts = np.arange(0, max(len(wave_A) - window, 0) + 1, step)
  energy = np.concatenate([[0.0], np.cumsum(np.square(wave_A))])
  ends = np.minimum(starts + window, len(wave_A))
  level = np.sqrt(np.maximum(energy[ends] - energy[starts], 0) / window)
  sounds = np.flatnonzero(level > max(np.percentile(level, 95) * 10 ** (-BELOW_LOUD / 20), FLOOR))
  if not len(sounds):
    return Pauses(seconds, seconds, 0.0, 0.0, clipped)
  leading, trailing = starts[sounds[0]] / rate, max(seconds - ends[sounds[-1]] / rate, 0.0)
  gaps = (starts[sounds[1:]] - ends[sounds[:-1]]) / rate
  return Pauses(seconds, float(leading), float(trailing), float(max(gaps.max(initial=0.0), 0.0)), clipped)
