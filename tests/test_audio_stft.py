"""Fourier transforms: analytic spectra, NumPy in float64, round trips, padding, lowering for TPU."""

import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.audio import stft as module
from cosyjax.audio.stft import fft_options, frame, frame_count, hann_window, istft, overlap_add, reflect_pad, rfft, stft

SIZES = [(16, 4), (25, 7), (400, 160), (1920, 480)]  # the vocoder's; odd; log-mel; mel


@pytest.fixture(scope="module")
def wave_BA():
  return np.random.default_rng(0).standard_normal((2, 6001)).astype(np.float32)


def numpy_stft(wave_BA, n_fft, hop, center=True):
  """The definition, in float64."""
  if center:
    wave_BA = np.pad(wave_BA, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
  frames_BTA = np.lib.stride_tricks.sliding_window_view(wave_BA.astype(np.float64), n_fft, axis=1)[:, ::hop]
  return np.fft.rfft(frames_BTA * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_equals_definition(wave_BA, n_fft, hop, center):
  real, imag = jax.jit(lambda x: stft(x, hann_window(n_fft), n_fft, hop, center=center))(wave_BA)
  expected = numpy_stft(wave_BA, n_fft, hop, center)
  assert real.shape == expected.shape and real.dtype == imag.dtype == jnp.float32
  scale = np.abs(expected).max()
  np.testing.assert_allclose(real / scale, expected.real / scale, atol=1e-6)
  np.testing.assert_allclose(imag / scale, expected.imag / scale, atol=1e-6)


def test_sinusoid_has_three_lines():
  """A cosine on bin k under a periodic Hann window: N/4 there, -N/8 beside it, 0 elsewhere."""
  n_fft, k, phase = 64, 9, 0.7
  wave_A = np.cos(2 * np.pi * k * np.arange(4 * n_fft) / n_fft + phase).astype(np.float32)
  real, imag = stft(wave_A[None], hann_window(n_fft), n_fft, n_fft, center=False)
  expected_C = np.zeros(n_fft // 2 + 1, np.complex64)
  expected_C[[k - 1, k, k + 1]] = np.array([-1 / 8, 1 / 4, -1 / 8]) * n_fft * np.exp(1j * phase)
  np.testing.assert_allclose(real[0] + 1j * imag[0], np.tile(expected_C, (4, 1)), atol=2e-5)


@pytest.mark.parametrize(("n_fft", "hop"), [(25, 7), (400, 160)])
def test_product_equals_fft(wave_BA, monkeypatch, n_fft, hop):
  results, window = [], hann_window(n_fft)
  for small in (0, n_fft):
    monkeypatch.setattr(module, "SMALL", small)
    real, imag = jax.jit(lambda x: stft(x, window, n_fft, hop))(wave_BA)
    back_BA = jax.jit(lambda r, i: istft(r, i, window, n_fft, hop))(real, imag)
    results.append((real, imag, back_BA))
  for by_fft, by_product in zip(*results, strict=True):
    np.testing.assert_allclose(by_fft, by_product, atol=2e-5)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_round_trip(wave_BA, n_fft, hop):
  window = hann_window(n_fft)
  natural = (stft_shape(wave_BA, n_fft, hop)[1] - 1) * hop + n_fft % 2
  for length in (None, natural - 5, natural + n_fft):
    back_BA = jax.jit(lambda x, n=length: istft(*stft(x, window, n_fft, hop), window, n_fft, hop, n))(wave_BA)
    assert back_BA.shape == (2, length or natural)
    shared = min(length or natural, natural)
    np.testing.assert_allclose(back_BA[:, :shared], wave_BA[:, :shared], atol=5e-6)


def stft_shape(wave_BA, n_fft, hop):
  return jax.eval_shape(lambda x: stft(x, hann_window(n_fft), n_fft, hop)[0], wave_BA).shape


def test_round_trip_not_centred(wave_BA):
  window = hann_window(16)
  there_and_back = jax.jit(lambda x: istft(*stft(x, window, 16, 4, center=False), window, 16, 4, center=False))
  back_BA = there_and_back(wave_BA[:, :6000])
  assert back_BA.shape == (2, 6000)
  assert float(abs(back_BA[:, 0]).max()) == 0  # the window is 0 there
  np.testing.assert_allclose(back_BA[:, 1:], wave_BA[:, 1:6000], atol=1e-4)  # divided by a weight down to 1e-3


def test_istft_is_least_squares():
  """Of a spectrum that no signal has, the inverse gives the signal whose transform is nearest (torch.istft)."""
  n_fft, hop, frames = 16, 4, 12
  generator = np.random.default_rng(1)
  real, imag = generator.standard_normal((2, 1, frames, n_fft // 2 + 1)).astype(np.float32)
  window = hann_window(n_fft).astype(np.float64)
  samples = (frames - 1) * hop + n_fft
  rows = np.zeros((frames * n_fft, samples))
  for t in range(frames):
    rows[np.arange(t * n_fft, (t + 1) * n_fft), np.arange(t * hop, t * hop + n_fft)] = window
  target = np.fft.irfft(real[0] + 1j * imag[0], n_fft).reshape(-1)
  expected_A = np.linalg.lstsq(rows, target, rcond=None)[0][n_fft // 2 : -n_fft // 2]
  np.testing.assert_allclose(istft(real, imag, hann_window(n_fft), n_fft, hop)[0], expected_A, atol=1e-5)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (400, 160)])
def test_row_in_batch_equals_row_alone(wave_BA, n_fft, hop, center):
  window, lengths = hann_window(n_fft), [6001, 2403]
  padded_BA = np.where(np.arange(6001) < np.array(lengths)[:, None], wave_BA, np.nan)
  forward = jax.jit(lambda x, n: stft(x, window, n_fft, hop, center=center, lengths_B=n))
  backward = jax.jit(lambda r, i, n: istft(r, i, window, n_fft, hop, center=center, frames_B=n))
  real, imag = forward(padded_BA, np.array(lengths))
  counts = frame_count(np.array(lengths), n_fft, hop, center)
  junk = np.where((np.arange(real.shape[1]) < counts[:, None])[..., None], 0, 7.0)
  back = backward(real + junk, imag + junk, counts)
  for b, length in enumerate(lengths):
    alone = jax.jit(lambda x: stft(x, window, n_fft, hop, center=center))(wave_BA[b : b + 1, :length])
    assert counts[b] == alone[0].shape[1]
    for batched, single in zip((real, imag), alone, strict=True):
      np.testing.assert_allclose(batched[b, : counts[b]], single[0], atol=1e-5)
      assert not np.any(batched[b, counts[b] :])
    single = jax.jit(lambda r, i: istft(r, i, window, n_fft, hop, center=center))(*alone)[0]
    # Not centred, the ends are divided by a weight near 0.
    np.testing.assert_allclose(back[b, : len(single)], single, atol=1e-5 if center else 1e-3)
    assert not np.any(back[b, len(single) :])


def test_reflect_pad_mirrors_each_row_at_its_own_end():
  wave_BA = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 99, 99]], np.float32)
  np.testing.assert_array_equal(reflect_pad(wave_BA[1:], 1, np.array([3])), [[2, 1, 2, 3, 2, 0, 0, 0]])
  padded_BA = reflect_pad(wave_BA, 2, np.array([6, 4]))
  np.testing.assert_array_equal(padded_BA, [[3, 2, 1, 2, 3, 4, 5, 6, 5, 4], [3, 2, 1, 2, 3, 4, 3, 2, 0, 0]])
  assert np.isfinite(reflect_pad(wave_BA, 3, np.array([0, 2]))).all()
  with pytest.raises(ValueError, match="longer than that, found 6"):
    reflect_pad(wave_BA, 6)


@pytest.mark.parametrize(("size", "hop"), [(16, 4), (10, 6), (240, 7), (4, 9)])
def test_frame_and_overlap_add(size, hop):
  wave_A = np.arange(1000, dtype=np.float32)
  frames_BTA = frame(wave_A[None], size, hop)
  np.testing.assert_array_equal(frames_BTA[0], np.lib.stride_tricks.sliding_window_view(wave_A, size)[::hop])
  expected_A = np.zeros((frames_BTA.shape[1] - 1) * hop + size)
  for t, values_A in enumerate(np.asarray(frames_BTA[0])):
    expected_A[t * hop : t * hop + size] += values_A
  if hop <= size:
    np.testing.assert_array_equal(overlap_add(frames_BTA, hop)[0], expected_A)


def test_short_window_stands_in_the_middle(wave_BA):
  wide = np.pad(hann_window(200), 100)
  for short, whole in zip(stft(wave_BA, hann_window(200), 400, 100), stft(wave_BA, wide, 400, 100), strict=True):
    np.testing.assert_array_equal(short, whole)


def test_tpu_gets_no_fft(wave_BA):
  def there_and_back(x):
    return istft(*stft(x, hann_window(400), 400, 160), hann_window(400), 400, 160)

  lowered = jax.jit(there_and_back).trace(wave_BA).lower(lowering_platforms=("tpu",)).as_text()
  assert "stablehlo.fft" not in lowered and lowered.count("HIGHEST, HIGHEST") == 2
  assert "stablehlo.fft" in jax.jit(there_and_back).lower(wave_BA).as_text()


def test_wrong_sizes_are_refused(wave_BA):
  with pytest.raises(ValueError, match="window of 32 samples is longer than a frame of 16"):
    stft(wave_BA, hann_window(32), 16, 4)
  with pytest.raises(ValueError, match="a frame has 16 samples, the signal 10"):
    stft(wave_BA[:, :10], hann_window(16), 16, 4, center=False)
  with pytest.raises(ValueError, match="n_fft 16 has 9 frequency bins, found 8"):
    istft(np.zeros((1, 3, 8)), np.zeros((1, 3, 8)), hann_window(16), 16, 4)


def _many_transforms() -> None:
  waves = [np.full((8, 50, size), 1.0, np.float32) for size in range(1000, 1024)]
  run = jax.jit(lambda waves: [rfft(x) for x in waves], compiler_options=fft_options("cpu"))
  for _ in range(3):
    jax.block_until_ready(run(waves))


def test_many_transforms_at_once_end(monkeypatch):
  """As in the vocoder's training step, on a machine of two cores. See `fft_options`."""
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setenv("NPROC", "2")  # XLA's threads
  process = multiprocessing.get_context("spawn").Process(target=_many_transforms)
  process.start()
  process.join(100)
  process.kill()
  assert process.exitcode == 0


def test_options_are_for_the_cpu_alone():
  assert fft_options("tpu") is None and fft_options("cuda") is None
  assert fft_options() == fft_options("cpu")
