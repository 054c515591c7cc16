"""The three acoustic features of a model, each jittable, batched, and blind to padding.

`mel_spectrogram` is what the flow predicts and the vocoder reads, `log_mel_16k` what the speech tokenizer
reads, `kaldi_fbank` what the speaker encoder reads. All return `(features_BTM, frames_B)`: float32
[B, T, M] with zeros past each row's frames, and int32 [B] of how many frames each row has.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.audio.stft import frame, frame_count, reflect_pad, rfft, stft
from cosyjax.audio.tables import hann_window, kaldi_filters, povey_window, slaney_filters
from cosyjax.config import AudioConfig
from cosyjax.layers.masks import padding_mask

ENCODER_RATE = 16_000  # Hz, of what speech tokenizer and speaker encoder read
WHISPER_FFT, WHISPER_HOP = 400, 160
FBANK_FRAME, FBANK_HOP, FBANK_FFT = 400, 160, 512

_HIGHEST = jax.lax.Precision.HIGHEST


def mel_spectrogram(wave_BA: jax.Array, lengths_B: jax.Array, audio: AudioConfig) -> tuple[jax.Array, jax.Array]:
  """Log mel of the audio that a model speaks (the HiFi-GAN recipe: Kong et al. 2020).

  Amplitude sqrt(|X|^2 + 1e-9), Slaney mel from `fmin` to `fmax`, natural log of at least 1e-5. The
  signal is mirrored by pad = (n_fft - hop) / 2 samples at both ends, so that frame t covers samples
  around hop (t + 1/2).

  Args:
    wave_BA: float [B, A], A > pad.
    lengths_B: samples in each row. A row of pad samples or fewer has no frame.
    audio: rates and sizes.

  Returns:
    float32 [B, A // hop, M] and int32 [B] = lengths_B // hop.

  Raises:
    ValueError: A <= pad.
  """
  a, pad = audio, (audio.n_fft - audio.hop) // 2
  lengths_B = jnp.asarray(lengths_B, jnp.int32)
  frames_B = jnp.where(lengths_B > pad, lengths_B // a.hop, 0)
  filters_CM = slaney_filters(a.sample_rate, a.n_fft, a.mel_bins, a.fmax, a.fmin)
  return _only_valid(log_mel(wave_BA, a.n_fft, a.win, a.hop, filters_CM, lengths_B), frames_B), frames_B


def log_mel(
  wave_BA: jax.Array, n_fft: int, win: int, hop: int, filters_CM: np.ndarray, lengths_B: jax.Array | None = None
) -> jax.Array:
  """The equation of `mel_spectrogram`: float32 [B, A // hop, M].

  Args:
    wave_BA: float [B, A].
    n_fft, win, hop: samples of a frame, under the window, and from one frame to the next.
    filters_CM: mel filters.
    lengths_B: where rows end and are mirrored; at the array's end if None.
  """
  padded_BA = reflect_pad(wave_BA.astype(jnp.float32), (n_fft - hop) // 2, lengths_B)
  real_BTC, imag_BTC = stft(padded_BA, hann_window(win), n_fft, hop, center=False)
  amplitude_BTC = jnp.sqrt(real_BTC**2 + imag_BTC**2 + np.float32(1e-9))
  return jnp.log(jnp.maximum(jnp.dot(amplitude_BTC, filters_CM, precision=_HIGHEST), 1e-5))


def log_mel_16k(wave_BA: jax.Array, lengths_B: jax.Array, bins: int = 128) -> tuple[jax.Array, jax.Array]:
  """Log mel of 16 kHz audio at 100 Hz (Whisper: Radford et al. 2022, section 2.2).

  Slaney mel of the power spectrum, log10 of at least 1e-10 and of at most 8 below the loudest
  value of the row, then (x + 4) / 4.

  Args:
    wave_BA: float [B, A], A > 200.
    lengths_B: samples in each row. A row of 200 samples or fewer has no frame.
    bins: mel bins M.

  Returns:
    float32 [B, A // 160, M] and int32 [B] = lengths_B // 160.

  Raises:
    ValueError: A <= 200.
  """
  lengths_B = jnp.asarray(lengths_B, jnp.int32)
  # The frame centred on the end of the signal is dropped.
  frames_B = jnp.maximum(frame_count(lengths_B, WHISPER_FFT, WHISPER_HOP) - 1, 0)
  real_BTC, imag_BTC = stft(wave_BA, hann_window(WHISPER_FFT), WHISPER_FFT, WHISPER_HOP, lengths_B=lengths_B)
  power_BTC = (real_BTC**2 + imag_BTC**2)[:, :-1]
  filters_CM = slaney_filters(ENCODER_RATE, WHISPER_FFT, bins)
  log_BTM = jnp.log10(jnp.maximum(jnp.dot(power_BTC, filters_CM, precision=_HIGHEST), 1e-10))
  loudest_B11 = jnp.max(_only_valid(log_BTM, frames_B, -10.0), axis=(1, 2), keepdims=True)
  return _only_valid((jnp.maximum(log_BTM, loudest_B11 - 8.0) + 4.0) / 4.0, frames_B), frames_B


def kaldi_fbank(wave_BA: jax.Array, lengths_B: jax.Array, bins: int = 80) -> tuple[jax.Array, jax.Array]:
  """Kaldi's log mel filter bank of 16 kHz audio at 100 Hz, without dither.

  Each 25 ms frame lies within the signal (`snip_edges`), loses its mean, is pre-emphasised by 0.97
  and weighted by the Povey window (Hann to the power 0.85). Power spectrum of 512 points, triangles
  on Kaldi's mel scale from 20 to 8000 Hz, natural log of at least the float32 epsilon.

  Args:
    wave_BA: float [B, A] in [-1, 1] (not scaled to 16 bits), A >= 400.
    lengths_B: samples in each row. A row below 400 samples has no frame.
    bins: mel bins M.

  Returns:
    float32 [B, T, M], T = (A - 400) // 160 + 1, and int32 [B].

  Raises:
    ValueError: A < 400.
  """
  lengths_B = jnp.asarray(lengths_B, jnp.int32)
  frames_B = frame_count(lengths_B, FBANK_FRAME, FBANK_HOP, center=False)
  frames_BTA = frame(wave_BA.astype(jnp.float32), FBANK_FRAME, FBANK_HOP)
  frames_BTA = frames_BTA - jnp.mean(frames_BTA, axis=-1, keepdims=True)
  before_BTA = jnp.concatenate([frames_BTA[..., :1], frames_BTA[..., :-1]], axis=-1)
  frames_BTA = (frames_BTA - 0.97 * before_BTA) * povey_window(FBANK_FRAME)
  real_BTC, imag_BTC = rfft(frames_BTA, FBANK_FFT)
  filters_CM = kaldi_filters(ENCODER_RATE, FBANK_FFT, bins)
  fbank_BTM = jnp.dot(real_BTC**2 + imag_BTC**2, filters_CM, precision=_HIGHEST)
  return _only_valid(jnp.log(jnp.maximum(fbank_BTM, np.finfo(np.float32).eps)), frames_B), frames_B


def _only_valid(features_BTM: jax.Array, frames_B: jax.Array, fill: float = 0.0) -> jax.Array:
  return jnp.where(padding_mask(frames_B, features_BTM.shape[1])[..., None], features_BTM, fill)
