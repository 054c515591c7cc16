"""Fundamental frequency of speech, one value for each frame of `mel_spectrogram`.

The normalised square difference of a frame and itself moved by a lag (McLeod & Wyvill 2005, equation
9) is 1 where the lag is a period, however loud the frame is; YIN (de Cheveigné & Kawahara 2002) divides
the same difference by its running mean. The peaks of a frame's first periods are candidates, and the
path through them that is clearest and jumps least is the pitch (Viterbi, as in Praat, Boersma 1993).
Batched, jittable, and blind to padding.
"""

import math

import jax
import jax.numpy as jnp

from cosyjax.audio.stft import frame, irfft, reflect_pad, rfft
from cosyjax.config import AudioConfig
from cosyjax.layers.masks import padding_mask

VERSION = 1  # counts changes of the numbers below
F0_RANGE = (60.0, 600.0)  # Hz
FRAME = 0.05  # seconds: three periods of the lowest pitch
CANDIDATES = 6  # peaks of a frame that are followed up
VOICED = 0.5  # a frame's cost without a voice: peaks below this clearness lose to it
SHORTER = 0.02  # cost of an octave's longer period: of peaks of equal height, the first is the period
JUMP = 0.35  # cost of an octave between neighbouring frames
SWITCH = 0.14  # cost of beginning or ending a voice
QUIET = 1e-3  # of the loudest frame's amplitude (-60 dB): below, no voice; nor below this amplitude / 10


def f0_track(wave_BA: jax.Array, lengths_B: jax.Array, audio: AudioConfig) -> tuple[jax.Array, jax.Array]:
  """Fundamental frequency, frame t centred on sample hop (t + 1/2) like the mel's.

  Args:
    wave_BA: float [B, A], A > pad = (n_fft - hop) / 2.
    lengths_B: samples in each row. A row of pad samples or fewer has no frame.
    audio: sample rate, hop and, for the shortest row, n_fft.

  Returns:
    float32 [B, A // hop] in Hz, 0 where there is no voice and past each row's frames; int32 [B] =
    lengths_B // hop.

  Raises:
    ValueError: A <= pad.
  """
  lengths_B, hop, rate = jnp.asarray(lengths_B, jnp.int32), audio.hop, audio.sample_rate
  frames_B = jnp.where(lengths_B > (audio.n_fft - hop) // 2, lengths_B // hop, 0)
  size = round(FRAME * rate) + (round(FRAME * rate) - hop) % 2
  padded_BA = reflect_pad(wave_BA.astype(jnp.float32), (size - hop) // 2, lengths_B)
  frames_BTA = frame(padded_BA, size, hop)[:, : wave_BA.shape[1] // hop]
  valid_BT = padding_mask(frames_B, frames_BTA.shape[1])
  frames_BTA = frames_BTA - jnp.mean(frames_BTA, axis=-1, keepdims=True)
  level_BT = jnp.where(valid_BT, jnp.sqrt(jnp.mean(jnp.square(frames_BTA), axis=-1)), 0)
  heard_BT = level_BT > QUIET * jnp.maximum(jnp.max(level_BT, axis=1, keepdims=True), 0.1)
  clear_BTK, octave_BTK = _candidates(_likeness(frames_BTA, rate), rate)
  clear_BTK = jnp.where((heard_BT & valid_BT)[..., None], clear_BTK, -1.0)
  f0_BT = jax.vmap(_best_path)(clear_BTK, octave_BTK)
  return jnp.where(valid_BT, f0_BT, 0), frames_B


def _lags(rate: int) -> tuple[int, int]:
  return int(rate / F0_RANGE[1]), math.ceil(rate / F0_RANGE[0])


def _likeness(frames_BTA: jax.Array, rate: int) -> jax.Array:
  """Normalised square difference [B, T, lags] in [-1, 1], from one lag below the range to one above it."""
  (low, high), size = _lags(rate), frames_BTA.shape[-1]
  n_fft = 1 << (size + high).bit_length()  # no lag of the range wraps around
  real, imag = rfft(frames_BTA, n_fft)
  product_BTL = irfft(real**2 + imag**2, jnp.zeros_like(imag), n_fft)[..., low - 1 : high + 2]
  power_BTA = jnp.pad(jnp.cumsum(jnp.square(frames_BTA), axis=-1), ((0, 0), (0, 0), (1, 0)))
  # What is left of a frame without its last, and without its first, `lag` samples.
  front_BTL = power_BTA[..., size - high - 1 : size - low + 2][..., ::-1]
  back_BTL = power_BTA[..., -1:] - power_BTA[..., low - 1 : high + 2]
  return 2 * product_BTL / (front_BTL + back_BTL + 1e-9)


def _candidates(like_BTL: jax.Array, rate: int) -> tuple[jax.Array, jax.Array]:
  """The highest peaks of each frame: clearness and log2 of frequency, [B, T, K] each; clearness -1 for none."""
  low, high = _lags(rate)
  before, here, after = like_BTL[..., :-2], like_BTL[..., 1:-1], like_BTL[..., 2:]
  is_peak = (here >= before) & (here > after)
  # A parabola through a peak and its neighbours.
  bend = jnp.minimum(before - 2 * here + after, -1e-9)
  shift = jnp.clip(0.5 * (before - after) / bend, -0.5, 0.5)
  height = jnp.minimum(here - 0.25 * (before - after) * shift, 1.0)
  lag = jnp.arange(low, high + 1) + shift
  octaves_down = jnp.log2(lag / low)
  score = jnp.where(is_peak, height - SHORTER * octaves_down, -1.0)
  clear_BTK, index_BTK = jax.lax.top_k(score, CANDIDATES)
  octave_BTK = math.log2(rate / low) - jnp.take_along_axis(octaves_down, index_BTK, axis=-1)
  return clear_BTK, octave_BTK


def _best_path(clear_TK: jax.Array, octave_TK: jax.Array) -> jax.Array:
  """f0 [T] of the cheapest path through the candidates and silence, the last state."""
  K = clear_TK.shape[1]
  cost_TK = jnp.concatenate(
    [jnp.where(clear_TK > 0, 1 - clear_TK, 9.0), jnp.full_like(clear_TK[:, :1], VOICED)], axis=1
  )

  def step(total_K, xs):
    cost_K, octave_K, before_K = xs
    jumps = JUMP * jnp.abs(octave_K[:, None] - before_K[None, :])
    moves = jnp.full((K + 1, K + 1), SWITCH).at[:K, :K].set(jumps).at[K, K].set(0.0)
    through = moves + total_K[None, :]
    best_K = jnp.argmin(through, axis=1)
    total_K = jnp.min(through, axis=1) + cost_K
    return total_K - jnp.min(total_K), best_K

  total_K, back_TK = jax.lax.scan(step, cost_TK[0], (cost_TK[1:], octave_TK[1:], octave_TK[:-1]))
  last = jnp.argmin(total_K)
  first, states_T = jax.lax.scan(lambda state, back_K: (back_K[state], state), last, back_TK, reverse=True)
  states_T = jnp.concatenate([first[None], states_T])
  octave_T = jnp.take_along_axis(octave_TK, jnp.minimum(states_T, K - 1)[:, None], axis=1)[:, 0]
  return jnp.where(states_T < K, jnp.exp2(octave_T), 0.0)
