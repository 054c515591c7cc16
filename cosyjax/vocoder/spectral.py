"""Short STFT and its inverse as one small matmul each, with every row ended where it ends.

With 16 points and hop 4, a matrix product is faster than any FFT, and a frame is four
neighbouring hops: framing and overlap-add are reshapes and shifted sums. Rows of a padded
batch are reflected and normalised at their own end.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.layers.masks import padding_mask

_HIGHEST = jax.lax.Precision.HIGHEST


def hann(n_fft: int) -> np.ndarray:
  """Periodic Hann window, float64 [n_fft]."""
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


@functools.cache
def _bases(n_fft: int) -> tuple[np.ndarray, np.ndarray]:
  """Windowed DFT [n_fft, 2F] (real parts, then imaginary) and windowed inverse [2F, n_fft], F = n_fft/2 + 1."""
  bins = n_fft // 2 + 1
  turns = np.outer(np.arange(n_fft), np.arange(bins)) % n_fft / n_fft
  cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
  sin[:, [0, -1]] = 0.0  # the mean and the Nyquist bin are real
  forward = np.concatenate([cos, -sin], axis=1) * hann(n_fft)[:, None]
  weight = np.full(bins, 2.0 / n_fft)
  weight[[0, -1]] = 1.0 / n_fft
  inverse = np.concatenate([(cos * weight).T, (-sin * weight).T]) * hann(n_fft)
  return forward.astype(np.float32), inverse.astype(np.float32)


def stft(wave_BA: jax.Array, lengths_B: jax.Array, n_fft: int, hop: int) -> jax.Array:
  """Centred STFT with a Hann window, each row reflected at both of its own ends.

  Args:
    wave_BA: samples [B, A]; A a multiple of `hop`.
    lengths_B: valid samples of each row [B], a multiple of `hop`; more than `n_fft / 2`, or 0.
    n_fft: window and DFT length, a multiple of `2 hop`.
    hop: samples between frames.

  Returns:
    [B, A/hop + 1, n_fft + 2]: real parts, then imaginary parts; 0 past frame `length / hop`.

  Raises:
    ConfigError: `n_fft` is no multiple of `2 hop`.
  """
  if n_fft % (2 * hop):
    raise ConfigError(f"vocoder STFT: expected n_fft to be a multiple of twice the hop, found {n_fft} and {hop}")
  half, hops = n_fft // 2, n_fft // hop
  wave_BA = wave_BA.astype(jnp.float32)
  frames = wave_BA.shape[1] // hop + 1

  def reflect(wave_A: jax.Array, length: jax.Array) -> jax.Array:
    head = jnp.flip(wave_A[1 : half + 1])
    tail = jnp.flip(jax.lax.dynamic_slice(wave_A, (length - half - 1,), (half,)))
    whole = jnp.concatenate([head, wave_A, jnp.zeros_like(tail)])
    return jax.lax.dynamic_update_slice(whole, tail, (length + half,))

  hops_BKS = jax.vmap(reflect)(wave_BA, lengths_B).reshape(wave_BA.shape[0], -1, hop)
  frames_BKN = jnp.concatenate([hops_BKS[:, j : j + frames] for j in range(hops)], axis=-1)
  spectrum_BKC = jnp.matmul(frames_BKN, _bases(n_fft)[0], precision=_HIGHEST)
  return jnp.where(padding_mask(lengths_B // hop + 1, frames)[..., None], spectrum_BKC, 0)


def istft(spectrum_BKC: jax.Array, lengths_B: jax.Array, n_fft: int, hop: int) -> jax.Array:
  """Inverse of `stft`: overlap-add over the frames of each row, divided by the sum of squared windows.

  Args:
    spectrum_BKC: real, then imaginary parts [B, K, n_fft + 2].
    lengths_B: valid samples of each row [B], `hop` times its frames but one.
    n_fft: window and DFT length, a multiple of `2 hop`.
    hop: samples between frames.

  Returns:
    samples [B, hop (K - 1)], 0 past each row's length.
  """
  batch, frames, _ = spectrum_BKC.shape
  mask_BK1 = padding_mask(lengths_B // hop + 1, frames)[..., None]
  frames_BKN = jnp.matmul(spectrum_BKC.astype(jnp.float32), _bases(n_fft)[1], precision=_HIGHEST)
  total_BKS = _overlap(jnp.where(mask_BK1, frames_BKN, 0), n_fft, hop)
  window_BKS = _overlap(jnp.where(mask_BK1, np.square(hann(n_fft)).astype(np.float32), 0), n_fft, hop)
  wave_BA = (total_BKS / jnp.where(window_BKS > 0, window_BKS, 1)).reshape(batch, -1)
  return jnp.where(padding_mask(lengths_B, wave_BA.shape[1]), wave_BA, 0)


def _overlap(frames_BKN: jax.Array, n_fft: int, hop: int) -> jax.Array:
  """Sum of overlapping frames in hops [B, K - 1, hop], the reflected half window cut off at either end."""
  hops = n_fft // hop
  skip = hops // 2
  count = frames_BKN.shape[1] - 1
  padded_BKN = jnp.pad(frames_BKN, ((0, 0), (hops, hops), (0, 0)))
  # Hop k of the padded signal is part j of frame k - j.
  parts = [padded_BKN[:, hops + skip - j :][:, :count, j * hop : (j + 1) * hop] for j in range(hops)]
  return functools.reduce(jnp.add, parts)
