"""Several channels to one."""

import logging

import numpy as np

log = logging.getLogger("cosyjax.audio")

CANCELLED = 0.05  # share of the channels' energy that is left in their mean where they are in opposite phase


class Mixer:
  """Mean of the channels of a recording that is read in blocks; one channel where the mean cancels it.

  A cable that is wired the wrong way turns one channel of a stereo recording over: the mean of both
  is then next to nothing, and either channel alone is the recording.
  """

  def __init__(self, room: int, channels: int) -> None:
    """Takes room for so many samples; pages of memory are used only as they are written."""
    self._mean_A = np.empty(room, np.float32)
    self._first_A = np.empty(room, np.float32) if channels == 2 else None
    self._energy = np.zeros(2)  # of the mean, of the channels
    self.filled = 0

  def add(self, values_AC: np.ndarray) -> None:
    """Takes the next block, [A, C]."""
    end = self.filled + len(values_AC)
    mean_A = values_AC[:, 0] if values_AC.shape[1] == 1 else values_AC.mean(axis=1)
    self._mean_A[self.filled : end] = mean_A
    if self._first_A is not None:
      self._first_A[self.filled : end] = values_AC[:, 0]
      energy = lambda x: float(np.sum(np.square(x, dtype=np.float64)))
      with np.errstate(over="ignore", invalid="ignore"):
        self._energy += [energy(mean_A), energy(values_AC) / 2]
    self.filled = end

  def result(self, where: str, samples: int) -> np.ndarray:
    """The first `samples` samples, float32 [A]."""
    wave_A = self._mean_A
    if self._first_A is not None and self._energy[0] < CANCELLED * self._energy[1]:
      log.warning(f"{where}: its two channels are in opposite phase and cancel each other; the first one alone is used")
      wave_A = self._first_A
    return wave_A[: min(self.filled, samples)].copy()


def mix_down(values_AC: np.ndarray, where: str) -> np.ndarray:
  """One channel, float32 [A], of samples [A, C]; see `Mixer`."""
  mixer = Mixer(len(values_AC), values_AC.shape[1])
  mixer.add(np.asarray(values_AC, np.float32))
  return mixer.result(where, len(values_AC))
