"""Ragged values in, padded arrays out (host side, numpy), and counting what is done."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Progress = Callable[[str, int, int], None]  # stage, done, of


def pad(values: Sequence[np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Stacks arrays of different lengths into zeros of `shape`, whose first axis is the batch."""
  out = np.zeros(shape, dtype)
  for row, value in enumerate(values):
    out[row, : len(value)] = value
  return out


def column(values: Sequence[int], batch: int, *, fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
  """One number for each line of a batch; lines past the values get `fill`."""
  return np.asarray([*values, *[fill] * (batch - len(values))], dtype)


def wave(samples_A: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """A batch of one recording, cut or padded to `size`, and its length."""
  samples_A = samples_A[:size]
  return pad([samples_A], (1, size), np.float32), np.asarray([len(samples_A)], np.int32)


class Tracker:
  """Counts finished work for a progress callback; silent without one."""

  def __init__(self, progress: Progress | None, stage: str, total: int) -> None:
    self._progress, self._stage, self._total, self._done = progress, stage, total, 0

  def add(self, count: int) -> None:
    """So much more is done for good."""
    self._done = min(self._done + count, self._total)
    self.show()

  def show(self, extra: int = 0) -> None:
    """Reports what is done for good, and `extra` that is under way."""
    if self._progress and self._total:
      self._progress(self._stage, min(self._done + extra, self._total), self._total)
