"""Windows, mel filters and Fourier matrices: computed in float64, once, kept as float32 NumPy arrays.

The arrays are read-only, because all callers share them.
"""

import functools
from collections.abc import Callable

import numpy as np


def _table(make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """Caches a function's result as read-only float32."""

  @functools.lru_cache
  @functools.wraps(make)
  def cached(*args, **kwargs) -> np.ndarray:
    values = make(*args, **kwargs).astype(np.float32)
    values.setflags(write=False)
    return values

  return cached


@_table
def hann_window(size: int, periodic: bool = True) -> np.ndarray:
  """Hann window: float32 [size]. The periodic one is what spectral analysis wants."""
  return _hann(size, size if periodic else size - 1)


@_table
def povey_window(size: int) -> np.ndarray:
  """Kaldi's default window, the symmetric Hann window to the power 0.85: float32 [size]."""
  return _hann(size, size - 1) ** 0.85


@_table
def slaney_filters(rate: int, n_fft: int, bins: int, fmax: float | None = None, fmin: float = 0.0) -> np.ndarray:
  """Mel triangles of unit area over frequency: float32 [n_fft // 2 + 1, bins], from `fmin` to `fmax`.

  Slaney's mel scale (Auditory Toolbox, 1998): linear to 1 kHz at 15 mel, then logarithmic with
  27 mel from 1 to 6.4 kHz.

  Args:
    rate: samples a second.
    n_fft: samples in a frame.
    bins: number of triangles.
    fmax: upper edge of the last one in Hz; rate / 2 if None.
    fmin: lower edge of the first one in Hz.
  """
  step = np.log(6.4) / 27
  to_mel = lambda hz: hz * 3 / 200 if hz < 1000 else 15 + np.log(hz / 1000) / step
  mel = np.linspace(to_mel(fmin), to_mel(rate / 2 if fmax is None else fmax), bins + 2)
  edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * step))
  return _triangles(_bin_hz(rate, n_fft), edges) * 2 / (edges[2:] - edges[:-2])


@_table
def kaldi_filters(rate: int, n_fft: int, bins: int, fmin: float = 20.0) -> np.ndarray:
  """Kaldi's triangles of unit height over mel = 1127 ln(1 + f / 700): float32 [n_fft // 2 + 1, bins].

  They reach from `fmin` to rate / 2, both in Hz.
  """
  edges = np.linspace(_kaldi_mel(fmin), _kaldi_mel(rate / 2), bins + 2)
  return _triangles(_kaldi_mel(_bin_hz(rate, n_fft)), edges)


@_table
def dft(n_fft: int) -> np.ndarray:
  """Transform of real frames as a matrix: float32 [n_fft, 2 C], cosines, then negative sines."""
  return _dft(n_fft)


@_table
def inverse_dft(n_fft: int) -> np.ndarray:
  """Inverse of `dft`: float32 [2 C, n_fft]."""
  # A bin stands for itself and its mirror image, but the first and (n_fft even) the last stand alone.
  weight = np.full(n_fft // 2 + 1, 2.0)
  weight[0] = 1
  if n_fft % 2 == 0:
    weight[-1] = 1
  return _dft(n_fft).T * np.tile(weight, 2)[:, None] / n_fft


def _hann(size: int, period: int) -> np.ndarray:
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / period)


def _bin_hz(rate: int, n_fft: int) -> np.ndarray:
  return np.arange(n_fft // 2 + 1) * rate / n_fft


def _kaldi_mel(hz: float | np.ndarray) -> np.ndarray:
  return 1127 * np.log1p(np.asarray(hz) / 700)


def _triangles(points_C: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """[C, bins]: triangle m rises from edge m to 1 at edge m + 1 and falls to edge m + 2."""
  low, peak, high = edges[:-2], edges[1:-1], edges[2:]
  rising = (points_C[:, None] - low) / (peak - low)
  falling = (high - points_C[:, None]) / (high - peak)
  return np.maximum(0, np.minimum(rising, falling))


def _dft(n_fft: int) -> np.ndarray:
  # Whole turns are taken off in integers, so that the angle is exact before it is rounded.
  turns = np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) % n_fft
  angle = 2 * np.pi * turns / n_fft
  sine = np.where(2 * turns % n_fft == 0, 0.0, np.sin(angle))
  return np.concatenate([np.cos(angle), -sine], axis=1)
