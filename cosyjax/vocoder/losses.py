"""What the vocoder and its discriminators minimise.

Every loss is one number for each row of the batch, a mean over what the row has. So rows can be
weighted by how much of them is speech, dealt out to microbatches and devices, and left empty,
and none of that changes the others' losses.
"""

import jax
import jax.numpy as jnp

from cosyjax.audio import spectra
from cosyjax.audio.tables import slaney_filters
from cosyjax.config import VocoderConfig
from cosyjax.layers.masks import padding_mask
from cosyjax.vocoder.discriminators import Features, Scores

TAU = 0.04  # see `relativistic_loss`
MEL_SCALES = ((1920, 80),)  # points of the transform and mel bins: the frames of CosyVoice 2's mel


def discriminator_loss(real: Scores, fake: Scores) -> jax.Array:
  """Least squares (HiFi-GAN, eq. 1): scores of real audio to 1, of generated to 0, summed over discriminators; [B]."""
  return sum(_mean((1 - real[name]) ** 2) + _mean(fake[name] ** 2) for name in real)


def generator_loss(fake: Scores) -> jax.Array:
  """Least squares (HiFi-GAN, eq. 2): scores of generated audio to 1, summed over discriminators; [B]."""
  return sum(_mean((1 - x_BN) ** 2) for x_BN in fake.values())


def feature_loss(real: Features, fake: Features) -> jax.Array:
  """Mean absolute difference of each layer's output, summed over layers (HiFi-GAN, eq. 4); [B].

  The public code has twice this, and weighs it by 2 as the paper does: by 4 in all.
  """
  return sum(
    _mean(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))
    for name in real
    for a, b in zip(real[name], fake[name], strict=True)
  )


def relativistic_loss(high: Scores, low: Scores, tau: float = TAU) -> jax.Array:
  """Pointwise relativistic loss (Wang et al. 2021, arXiv:2103.14245), truncated (StyleTTS 2, arXiv:2306.07691); [B].

  A discriminator wants the scores of real audio `high` above those of generated audio `low`, a
  generator the other way round. Where they are not, by more than the row's median difference,
  the squared distance from the median counts; its mean up to `tau` at most, so that a
  discriminator that has won leaves the generator alone.

  The median is each row's own (the lower of the two in the middle, as in PyTorch). The public
  code takes the batch's, by which a row's loss would depend on its batch mates.
  """
  total_B = 0.0
  for name, high_BN in high.items():
    gap_BN = high_BN - low[name]
    median_B1 = _lower_median(gap_BN)[:, None]
    below_BN = gap_BN < median_B1
    squares_BN = jnp.where(below_BN, (gap_BN - median_B1) ** 2, 0.0)
    mean_B = jnp.sum(squares_BN, axis=1) / jnp.maximum(jnp.sum(below_BN, axis=1), 1)
    total_B += tau - jnp.maximum(tau - mean_B, 0.0)
  return total_B


def mel_loss(
  real_BA: jax.Array,
  fake_BA: jax.Array,
  lengths_B: jax.Array,
  config: VocoderConfig,
  scales: tuple[tuple[int, int], ...] = MEL_SCALES,
) -> jax.Array:
  """Mean absolute difference of log mel up to half the sample rate, summed over `scales`; [B].

  Args:
    real_BA, fake_BA: audio, both 0 past a row's end.
    lengths_B: valid mel frames of each row; 0 gives a loss of 0.
    config: gives the rates.
    scales: pairs of transform points, a multiple of 4, and mel bins. Several of them let short
      windows see transients and long ones pitch.
  """
  total_B, rate = jnp.zeros(real_BA.shape[0]), config.sample_rate
  for n_fft, bins in scales:
    gap_BTM = jnp.abs(log_mel(real_BA, n_fft, bins, rate) - log_mel(fake_BA, n_fft, bins, rate))
    frames_B = lengths_B * config.samples_per_frame * 4 // n_fft
    gap_BT = jnp.where(padding_mask(frames_B, gap_BTM.shape[1]), jnp.mean(gap_BTM, axis=-1), 0.0)
    total_B += jnp.sum(gap_BT, axis=1) / jnp.maximum(frames_B, 1)
  return total_B


def log_mel(wave_BA: jax.Array, n_fft: int, bins: int, sample_rate: int) -> jax.Array:
  """Log mel [B, 4 A // n_fft, bins] of audio up to half its rate, a frame every quarter of a window."""
  return spectra.log_mel(wave_BA, n_fft, n_fft, n_fft // 4, slaney_filters(sample_rate, n_fft, bins))


def f0_loss(target_BT: jax.Array, f0_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Mean absolute difference of f0 over a row's frames, unvoiced ones (0 Hz) included, in Hz; [B]."""
  gap_BT = jnp.where(padding_mask(lengths_B, f0_BT.shape[1]), jnp.abs(target_BT - f0_BT), 0.0)
  return jnp.sum(gap_BT, axis=1) / jnp.maximum(lengths_B, 1)


def _lower_median(x_BN: jax.Array) -> jax.Array:
  """The middle value of each row, of an even number the lower one: exactly, and without sorting; [B].

  Thirty-two rounds of counting find its bits from the highest on; that is a short program, where a sort is a long one
  and a step has one for every discriminator. The gradient goes to the element that is the median, in equal parts if
  several are.
  """
  x_BN = x_BN.astype(jnp.float32)
  rank, top = (x_BN.shape[1] - 1) // 2, jnp.uint32(1 << 31)
  bits_BN = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x_BN), jnp.uint32)
  # As unsigned integers floats are in order once negative ones are turned over and the others put above them.
  key_BN = jnp.where(bits_BN >= top, ~bits_BN, bits_BN | top)

  def refine(i: jax.Array, found_B: jax.Array) -> jax.Array:
    more_B = found_B | (top >> i.astype(jnp.uint32))
    below_B = jnp.sum(key_BN < more_B[:, None], axis=1)
    return jnp.where(below_B <= rank, more_B, found_B)

  key_B = jax.lax.fori_loop(0, 32, refine, jnp.zeros(x_BN.shape[0], jnp.uint32))
  bits_B = jnp.where(key_B >= top, key_B ^ top, ~key_B)
  value_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
  here_BN = key_BN == key_B[:, None]
  mean_B = jnp.sum(jnp.where(here_BN, x_BN, 0.0), axis=1) / jnp.sum(here_BN, axis=1)
  return value_B + (mean_B - jax.lax.stop_gradient(mean_B))


def _mean(x: jax.Array) -> jax.Array:
  """Mean over all but the rows, in float32."""
  return jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim)))
