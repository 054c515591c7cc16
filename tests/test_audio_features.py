"""The three acoustic features: reference outputs, float64, padded batches, gradients, edge lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.audio import kaldi_fbank, log_mel_16k, mel_spectrogram
from cosyjax.audio.tables import hann_window, kaldi_filters, povey_window, slaney_filters
from cosyjax.config import AudioConfig

FEATURES = {
  "mel_24k": functools.partial(mel_spectrogram, audio=AudioConfig()),
  "log_mel_16k": log_mel_16k,
  "kaldi_fbank": kaldi_fbank,
}
SHORTEST = {"mel_24k": 721, "log_mel_16k": 201, "kaldi_fbank": 400}  # rows with a frame


@functools.cache
def jitted(name):
  return jax.jit(FEATURES[name])


def alone(name, wave_A):
  features_BTM, frames_B = jitted(name)(wave_A[None], np.array([len(wave_A)]))
  assert frames_B.dtype == jnp.int32 and features_BTM.dtype == jnp.float32
  assert features_BTM.shape[1] == frames_B[0]
  return np.asarray(features_BTM[0])


def in_float64(name, wave_A):
  """The definitions again, in NumPy and float64: [T, M]."""
  wave_A = wave_A.astype(np.float64)

  def power(wave_A, size, hop, n_fft, window):
    frames_TA = np.lib.stride_tricks.sliding_window_view(wave_A, size)[::hop]
    if name == "kaldi_fbank":
      frames_TA = frames_TA - frames_TA.mean(1, keepdims=True)
      frames_TA = frames_TA - 0.97 * np.concatenate([frames_TA[:, :1], frames_TA[:, :-1]], 1)
    return np.abs(np.fft.rfft(frames_TA * window, n_fft)) ** 2

  if name == "mel_24k":
    amplitude = np.sqrt(power(np.pad(wave_A, 720, mode="reflect"), 1920, 480, 1920, hann_window(1920)) + 1e-9)
    return np.log(np.maximum(amplitude @ slaney_filters(24_000, 1920, 80, 8000.0), 1e-5))
  if name == "log_mel_16k":
    whole = power(np.pad(wave_A, 200, mode="reflect"), 400, 160, 400, hann_window(400))[:-1]
    log = np.log10(np.maximum(whole @ slaney_filters(16_000, 400, 128), 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4
  whole = power(wave_A, 400, 160, 512, povey_window(400))
  return np.log(np.maximum(whole @ kaldi_filters(16_000, 512, 80), np.finfo(np.float32).eps))


# 1e-4 rather than 1e-5: weak bins of loud frames carry the rounding of the whole frame's float32 FFT, and the
# logarithm turns it into an absolute difference. The float64 check below shows that this is all there is to it.
@pytest.mark.parametrize(("key", "fmax"), [("mel", 8000.0), ("mel_fmax_none", None)])
def test_mel_24k_golden(golden, recordings, key, fmax):
  wave_A, _ = recordings["prompt"]
  mel_BTM, frames_B = jax.jit(functools.partial(mel_spectrogram, audio=AudioConfig(fmax=fmax)))(
    wave_A[None], np.array([len(wave_A)])
  )
  expected_TM = golden("mel_24k")[key][0].T
  assert mel_BTM.shape[1:] == expected_TM.shape and frames_B[0] == len(expected_TM)
  np.testing.assert_allclose(mel_BTM[0], expected_TM, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "step"), [("aishell_0121", 1), ("aishell_0122", 4)])
def test_log_mel_16k_golden(golden, recordings, name, step):
  expected_TM = golden("log_mel_128")[name].T
  np.testing.assert_allclose(alone("log_mel_16k", recordings[name][0])[::step], expected_TM, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("name", "step"), [("aishell_0121", 1), ("aishell_0122", 4)])
def test_kaldi_fbank_golden(golden, recordings, name, step):
  expected_TM = golden("kaldi_fbank")[name]
  features_TM = alone("kaldi_fbank", recordings[name][0])[::step]
  # The reference itself is 9.6e-5 from float64 in its weakest bins, this 4.8e-5: hence no less than their sum.
  np.testing.assert_allclose(features_TM, expected_TM, rtol=0, atol=1.5e-4)
  assert np.mean(np.abs(features_TM - expected_TM)) < 1e-5


@pytest.mark.parametrize("name", FEATURES)
def test_equals_float64(recordings, name):
  for recording in ["prompt"] if name == "mel_24k" else ["aishell_0121", "aishell_0122"]:
    wave_A, _ = recordings[recording]
    np.testing.assert_allclose(alone(name, wave_A), in_float64(name, wave_A), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("junk", [np.nan, 50.0])
def test_row_in_batch_equals_row_alone(recordings, name, junk):
  wave_A = recordings["aishell_0121"][0][:40_000]
  lengths = [40_000, 23_456, SHORTEST[name], SHORTEST[name] - 1, 0]
  batch_BA = np.full((5, 40_000), junk, np.float32)
  for b, length in enumerate(lengths):
    batch_BA[b, :length] = wave_A[-length:] if length else 0
  features_BTM, frames_B = jitted(name)(batch_BA, np.array(lengths))
  assert frames_B.tolist()[2:] == [1, 0, 0]
  for b in range(3):
    single_TM = alone(name, wave_A[-lengths[b] :])
    assert frames_B[b] == len(single_TM)
    np.testing.assert_allclose(features_BTM[b, : frames_B[b]], single_TM, rtol=0, atol=1e-4)
  for b in range(5):
    assert not np.any(features_BTM[b, frames_B[b] :])


def test_dropped_frame_sets_no_floor():
  """A click at a row's very end is loudest in the frame centred there, which no output shows."""
  batch_BA = 1e-5 * np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)
  batch_BA[0, 3999] = 1
  features_BTM, frames_B = jitted("log_mel_16k")(batch_BA, np.array([4000]))
  assert frames_B.tolist() == [25]
  np.testing.assert_allclose(features_BTM[0, :25], alone("log_mel_16k", batch_BA[0, :4000]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_jit_changes_nothing(recordings, name):
  wave_BA = recordings["aishell_0122"][0][None, :20_000]
  plain, compiled = FEATURES[name](wave_BA, np.array([20_000])), jitted(name)(wave_BA, np.array([20_000]))
  np.testing.assert_allclose(plain[0], compiled[0], rtol=0, atol=1e-4)
  np.testing.assert_array_equal(plain[1], compiled[1])


@pytest.mark.parametrize(("name", "hop"), [("mel_24k", 480), ("log_mel_16k", 160)])
def test_frames_are_whole_hops(name, hop):
  for samples in (hop * 7, hop * 8 - 1):
    features_BTM, frames_B = jax.eval_shape(FEATURES[name], jnp.zeros((1, samples)), jnp.zeros(1, jnp.int32))
    assert features_BTM.shape[1] == 7 and frames_B.shape == (1,)
    assert FEATURES[name](np.zeros((1, samples), np.float32), np.array([samples]))[1].tolist() == [7]


def test_silence_is_the_floor():
  wave_BA, lengths_B = np.zeros((1, 4800), np.float32), np.array([4800])
  # sqrt(1e-9) of each bin is above 1e-5 where a filter's weights sum to more than 0.3: none does.
  np.testing.assert_allclose(mel_spectrogram(wave_BA, lengths_B, AudioConfig())[0], np.log(1e-5), rtol=1e-6)
  np.testing.assert_allclose(log_mel_16k(wave_BA, lengths_B)[0], -1.5, rtol=1e-6)
  np.testing.assert_allclose(kaldi_fbank(wave_BA, lengths_B)[0], np.log(2.0**-23), rtol=1e-6)


def test_mel_gradient_stays_within_the_row(recordings):
  """A loss on mel is differentiable, silence included, and does not see what follows the row."""
  wave_BA = np.array(recordings["prompt"][0][None, :24_000])
  wave_BA[:, 5000:9000] = 0
  grad_BA = jax.jit(jax.grad(lambda x: jnp.sum(mel_spectrogram(x, np.array([14_400]), AudioConfig(fmax=None))[0])))(
    wave_BA
  )
  assert np.isfinite(grad_BA).all() and np.any(grad_BA[0, 14_000:14_400])
  assert not np.any(grad_BA[0, 14_400:])


def test_filters_have_their_shape():
  slaney = slaney_filters(24_000, 1920, 80, 8000.0)
  assert slaney.shape == (961, 80) and slaney.dtype == np.float32 and not slaney[641:].any()
  # Sampled triangles of unit area; the narrow low ones hold few samples.
  np.testing.assert_allclose(slaney[:, 40:].sum(0) * 24_000 / 1920, 1, atol=0.02)
  kaldi = kaldi_filters(16_000, 512, 80)
  assert kaldi.shape == (257, 80) and not kaldi[0].any() and kaldi.max() <= 1
  with pytest.raises(ValueError, match="read-only"):
    slaney[0, 0] = 1


def test_too_few_samples_are_refused():
  for name, function in FEATURES.items():
    with pytest.raises(ValueError, match="samples"):
      function(np.zeros((1, SHORTEST[name] - 1), np.float32), np.array([SHORTEST[name] - 1]))
