"""Pace beyond what the engine does: overlap-add of waveform stretches that fit each other (WSOLA).

The engine speaks at half to twice its pace by itself (`cosyjax.inference.speed`). OpenAI's clients may ask
for a quarter to four times; the rest is done here, on the audio, with the pitch kept (Verhelst and Roelands 1993).
"""

import numpy as np

from cosyjax.inference.requests import RANGES

STEP = 480  # samples between output windows, 20 ms; a window is two steps
SEARCH = 288  # samples that a window may be moved to fit, 12 ms


def split_speed(speed: float) -> tuple[float, float]:
  """The part of a speed that the engine does, and what is left for `Stretch`."""
  low, high = RANGES["speed"]
  ours = min(max(speed, low), high)
  return ours, speed / ours


class Stretch:
  """Changes the pace of a stream of samples."""

  def __init__(self, speed: float) -> None:
    """
    Args:
      speed: 2 gives half as many samples.
    """
    self._speed = speed
    self._input_A, self._dropped = np.zeros(0, np.float32), 0  # what may still be read, and how much was before it
    self._fed = self._given = self._windows = self._last = 0
    self._tail_A = np.zeros(STEP, np.float32)  # second half of the last window
    rise_A = (0.5 - 0.5 * np.cos(np.pi * (np.arange(STEP) + 0.5) / STEP)).astype(np.float32)
    self._rise_A, self._fall_A = rise_A, rise_A[::-1]

  def push(self, samples_A: np.ndarray) -> np.ndarray:
    """Takes samples, float32 [A]; returns those that are ready."""
    self._fed += len(samples_A)
    self._input_A = np.concatenate([self._input_A, np.asarray(samples_A, np.float32)])
    return self._run(self._fed)

  def finish(self) -> np.ndarray:
    """The rest: in all round(samples / speed)."""
    target = round(self._fed / self._speed)
    self._input_A = np.concatenate([self._input_A, np.zeros(4 * STEP + 2 * SEARCH, np.float32)])
    parts = [self._run(self._dropped + len(self._input_A))]
    parts.append(self._tail_A)
    wave_A = np.concatenate(parts)
    missing = target - (self._given - len(parts[0]))
    return np.pad(wave_A[:missing], (0, max(missing - len(wave_A), 0)))

  def _run(self, there: int) -> np.ndarray:
    """Windows for which `there` samples suffice."""
    parts = []
    while True:
      place = round(self._windows * STEP * self._speed)
      if max(place + SEARCH, self._last + STEP) + 2 * STEP > there:
        break
      start = self._fit(place) if self._windows else 0
      window_A = self._read(start, 2 * STEP)
      rise_A = self._rise_A if self._windows else np.ones(STEP, np.float32)
      parts.append(self._tail_A + window_A[:STEP] * rise_A)
      self._tail_A = window_A[STEP:] * self._fall_A
      self._last, self._windows = start, self._windows + 1
      self._drop(min(round(self._windows * STEP * self._speed) - SEARCH, self._last + STEP))
    out_A = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    self._given += len(out_A)
    return out_A

  def _fit(self, place: int) -> int:
    """Where near `place` the signal goes on most like it did after the last window."""
    wanted_A = self._read(self._last + STEP, STEP)
    low = max(place - SEARCH, self._dropped)
    found_A = self._read(low, place + SEARCH - low + STEP)
    power_A = np.convolve(found_A**2, np.ones(STEP, np.float32), "valid")
    return low + int(np.argmax(np.correlate(found_A, wanted_A, "valid") / np.sqrt(power_A + 1e-6)))

  def _read(self, start: int, size: int) -> np.ndarray:
    return self._input_A[start - self._dropped : start - self._dropped + size]

  def _drop(self, until: int) -> None:
    if until > self._dropped:
      self._input_A, self._dropped = self._input_A[until - self._dropped :], until
