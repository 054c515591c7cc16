"""Short-time Fourier transform and its inverse, in float32 on every backend.

A spectrum is a pair of real arrays [B, T, C], C = n_fft // 2 + 1 frequency bins: accelerators
without complex numbers run it, and networks take the pair as channels. Two ways to the same
numbers: a matrix product where n_fft is small or the device has no fast FFT, an FFT elsewhere.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.audio.tables import dft, hann_window, inverse_dft
from cosyjax.layers.masks import padding_mask
from cosyjax.layers.platforms import form

__all__ = [
  "fft_options",
  "frame",
  "frame_count",
  "hann_window",
  "irfft",
  "istft",
  "overlap_add",
  "reflect_pad",
  "rfft",
  "stft",
]

SMALL = 64  # up to this n_fft the matrix product wins everywhere
PIECES = 64  # up to this many blocks of gcd(n_fft, hop) samples in a frame, frames are cut from blocks, not gathered

_HIGHEST = jax.lax.Precision.HIGHEST


def reflect_pad(wave_BA: jax.Array, pad: int, lengths_B: jax.Array | None = None) -> jax.Array:
  """Mirrors `pad` samples about the first and the last sample of each row.

  Args:
    wave_BA: float [B, A], A > pad.
    pad: samples to add on each side.
    lengths_B: samples in each row; every row has A if None. The mirror stands at the row's own
      end, and what follows is 0. A row of `pad` samples or fewer has no mirror image: what it
      gets is finite and of no meaning.

  Returns:
    [B, A + 2 * pad]: row b's own samples begin at `pad`.

  Raises:
    ValueError: A <= pad.
  """
  size = wave_BA.shape[1]
  if size <= pad:
    raise ValueError(f"reflect padding of {pad} samples needs rows longer than that, found {size}")
  if lengths_B is None:
    return jnp.pad(wave_BA, ((0, 0), (pad, pad)), mode="reflect")
  wave_BA = jnp.where(padding_mask(lengths_B, size), wave_BA, 0)
  head_BA = jnp.flip(wave_BA[:, 1 : pad + 1], axis=1)
  padded_BA = jnp.concatenate([head_BA, wave_BA, jnp.zeros_like(head_BA)], axis=1)

  def mirror_end(padded_A: jax.Array, length: jax.Array) -> jax.Array:
    tail_A = jax.lax.dynamic_slice_in_dim(padded_A, length - 1, pad)  # the samples before the row's last one
    return jax.lax.dynamic_update_slice_in_dim(padded_A, jnp.flip(tail_A), length + pad, axis=0)

  return jax.vmap(mirror_end)(padded_BA, lengths_B)


def frame(wave_BA: jax.Array, size: int, hop: int) -> jax.Array:
  """Overlapping frames [B, T, size] with T = 1 + (A - size) // hop, the first at sample 0.

  Raises:
    ValueError: fewer than `size` samples.
  """
  samples = wave_BA.shape[1]
  if samples < size:
    raise ValueError(f"a frame has {size} samples, the signal {samples}")
  count = 1 + (samples - size) // hop
  step = math.gcd(size, hop)
  if size // step > PIECES:
    return wave_BA[:, _sample_index(count, size, hop)]
  stride = hop // step
  blocks_BTA = wave_BA[:, : samples // step * step].reshape(wave_BA.shape[0], -1, step)
  pieces = [blocks_BTA[:, p : p + (count - 1) * stride + 1 : stride] for p in range(size // step)]
  return jnp.concatenate(pieces, axis=-1)


def overlap_add(frames_BTA: jax.Array, hop: int) -> jax.Array:
  """Sum of frames [B, T, size] placed `hop` apart, hop <= size: [B, (T - 1) * hop + size]."""
  rows, count, size = frames_BTA.shape
  step = math.gcd(size, hop)
  pieces, stride = size // step, hop // step
  zero = jnp.zeros((), frames_BTA.dtype)
  if pieces > PIECES:
    index_TA = _sample_index(count, size, hop)
    return jnp.zeros((rows, (count - 1) * hop + size), frames_BTA.dtype).at[:, index_TA].add(frames_BTA)
  total_BTA = zero
  for p in range(pieces):
    piece_BTA = frames_BTA[..., p * step : (p + 1) * step]
    total_BTA += jax.lax.pad(piece_BTA, zero, ((0, 0, 0), (p, pieces - 1 - p, stride - 1), (0, 0, 0)))
  return total_BTA.reshape(rows, -1)


def rfft(frames_BTA: jax.Array, n_fft: int | None = None) -> tuple[jax.Array, jax.Array]:
  """Real and imaginary part [..., C] of the discrete Fourier transform of real frames [..., A].

  Args:
    frames_BTA: any real type.
    n_fft: points of the transform, at least A: frames are followed by zeros. A if None.
  """
  size = frames_BTA.shape[-1]
  n_fft = size if n_fft is None else n_fft

  def by_product(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    both = jnp.dot(x, dft(n_fft)[:size], precision=_HIGHEST)
    return both[..., : n_fft // 2 + 1], both[..., n_fft // 2 + 1 :]

  def by_fft(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    spectrum = jnp.fft.rfft(x, n_fft)
    return spectrum.real, spectrum.imag

  frames_BTA = frames_BTA.astype(jnp.float32)
  if n_fft <= SMALL:
    return by_product(frames_BTA)
  return form("Fourier by product", by_product, by_fft)(frames_BTA)


def fft_options(platform: str | None = None) -> dict[str, bool] | None:
  """Compiler options for a program with several Fourier transforms: `jax.jit(f, compiler_options=fft_options())`.

  From JAX 0.11 on, a transform on a CPU deals out its rows to XLA's threads and blocks until they are done, itself
  in one of these threads. When as many transforms run at once as there are threads, each blocks on rows that no
  thread is left to take: on two cores, two transforms of one program stand still for good. The option keeps every
  operation to one thread; operations that do not need each other still run side by side.

  Args:
    platform: that the program is compiled for; JAX's default one if None.
  """
  if jax.__version_info__ < (0, 11) or (platform or jax.default_backend()) != "cpu":
    return None
  return {"xla_cpu_multi_thread_eigen": False}


def irfft(real_BTC: jax.Array, imag_BTC: jax.Array, n_fft: int) -> jax.Array:
  """Real frames [..., n_fft] of a half spectrum [..., C].

  The imaginary part of the first bin is not read, nor that of the last if n_fft is even: they are zero in the
  spectrum of any real frame.
  """

  def by_product(real: jax.Array, imag: jax.Array) -> jax.Array:
    return jnp.dot(jnp.concatenate([real, imag], axis=-1), inverse_dft(n_fft), precision=_HIGHEST)

  def by_fft(real: jax.Array, imag: jax.Array) -> jax.Array:
    return jnp.fft.irfft(jax.lax.complex(real, imag), n_fft)

  real_BTC, imag_BTC = real_BTC.astype(jnp.float32), imag_BTC.astype(jnp.float32)
  if n_fft <= SMALL:
    return by_product(real_BTC, imag_BTC)
  return form("Fourier by product", by_product, by_fft)(real_BTC, imag_BTC)


def stft(
  wave_BA: jax.Array,
  window: jax.Array | np.ndarray,
  n_fft: int,
  hop: int,
  *,
  center: bool = True,
  lengths_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Short-time Fourier transform, the numbers of `torch.stft` (reflect padding, one-sided).

  Args:
    wave_BA: float [B, A].
    window: [n_fft], or shorter: then it stands in the middle of the frame.
    n_fft: samples in a frame.
    hop: samples from one frame to the next.
    center: frame t is centred on sample t * hop of the signal, which is mirrored by n_fft // 2 at
      both ends; else it begins there.
    lengths_B: samples in each row; every row has A if None.

  Returns:
    (real, imag), float32 [B, T, C] each, C = n_fft // 2 + 1. A row of length a has
    `frame_count(a, n_fft, hop, center)` frames; those past it are zero.

  Raises:
    ValueError: signal too short for a frame or its padding, or window longer than a frame.
  """
  wave_BA = wave_BA.astype(jnp.float32)
  window = _centred(window, n_fft)
  if center:
    wave_BA = reflect_pad(wave_BA, n_fft // 2, lengths_B)
  real_BTC, imag_BTC = rfft(frame(wave_BA, n_fft, hop) * window)
  if lengths_B is None:
    return real_BTC, imag_BTC
  counts_B = frame_count(lengths_B, n_fft, hop, center)
  valid_BT1 = padding_mask(counts_B, real_BTC.shape[1])[..., None]
  return jnp.where(valid_BT1, real_BTC, 0), jnp.where(valid_BT1, imag_BTC, 0)


def istft(
  real_BTC: jax.Array,
  imag_BTC: jax.Array,
  window: jax.Array | np.ndarray,
  n_fft: int,
  hop: int,
  length: int | None = None,
  *,
  center: bool = True,
  frames_B: jax.Array | None = None,
) -> jax.Array:
  """Inverse of `stft` by windowed overlap-add over the summed squared window, as `torch.istft`.

  Griffin and Lim 1984, equation 6: the signal whose transform is nearest to the one given.

  Args:
    real_BTC, imag_BTC: [B, T, C], C = n_fft // 2 + 1.
    window, n_fft, hop, center: those of `stft`.
    length: samples to return; if None, (T - 1) * hop + n_fft % 2 (`center`) or (T - 1) * hop + n_fft.
    frames_B: frames in each row; every row has T if None. A row of t frames gives the samples of
      a signal of t frames alone, and zeros after them.

  Returns:
    float32 [B, length]. Samples that no window reaches are 0.

  Raises:
    ValueError: C and n_fft disagree, or window longer than a frame.
  """
  if real_BTC.shape[-1] != n_fft // 2 + 1:
    raise ValueError(f"n_fft {n_fft} has {n_fft // 2 + 1} frequency bins, found {real_BTC.shape[-1]}")
  window = _centred(window, n_fft)
  frames_BTA = irfft(real_BTC, imag_BTC, n_fft) * window
  weight_A = jnp.square(jnp.asarray(window, jnp.float32))
  count = real_BTC.shape[1]
  if frames_B is None:
    weights_BTA = jnp.broadcast_to(weight_A, (1, count, n_fft))
  else:
    valid_BT1 = padding_mask(frames_B, count)[..., None]
    frames_BTA = jnp.where(valid_BT1, frames_BTA, 0)
    weights_BTA = jnp.where(valid_BT1, weight_A, 0)
  wave_BA, weight_BA = overlap_add(frames_BTA, hop), overlap_add(weights_BTA, hop)
  reached_BA = weight_BA > 1e-11  # torch's bound
  wave_BA = jnp.where(reached_BA, wave_BA / jnp.where(reached_BA, weight_BA, 1), 0)
  start = n_fft // 2 if center else 0
  natural = (count - 1) * hop + n_fft - 2 * start
  length = natural if length is None else length
  wave_BA = wave_BA[:, start : start + length]
  wave_BA = jnp.pad(wave_BA, ((0, 0), (0, length - wave_BA.shape[1])))
  if frames_B is None:
    return wave_BA
  own_B = jnp.where(frames_B > 0, (frames_B - 1) * hop + n_fft - 2 * start, 0)
  return jnp.where(padding_mask(own_B, length), wave_BA, 0)


def frame_count(length: int | jax.Array, n_fft: int, hop: int, center: bool = True) -> jax.Array:
  """Frames of a signal of so many samples; none if it is too short for one (or for its mirror image)."""
  if center:
    return jnp.where(length > n_fft // 2, (length + n_fft // 2 * 2 - n_fft) // hop + 1, 0)
  return jnp.where(length >= n_fft, (length - n_fft) // hop + 1, 0)


def _centred(window: jax.Array | np.ndarray, n_fft: int) -> jax.Array | np.ndarray:
  size = window.shape[0]
  if size > n_fft:
    raise ValueError(f"window of {size} samples is longer than a frame of {n_fft}")
  if size == n_fft:
    return window
  before = (n_fft - size) // 2
  return jnp.pad(window, (before, n_fft - size - before))


def _sample_index(count: int, size: int, hop: int) -> jax.Array:
  """[T, size]: where in the signal each sample of each frame stands."""
  return jnp.arange(count)[:, None] * hop + jnp.arange(size)
