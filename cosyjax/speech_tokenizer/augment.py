"""What makes recordings harder to read while the recogniser trains: masks, hiss, blur, warp and colour of the log-mel.

Masks are SpecAugment's (Park et al. 2019, arXiv:1904.08779), without its warp of time. Hiss and blur are what
vocoders and telephones leave behind. Warp, the vocal tract length perturbation of Jaitly and Hinton (2013), moves pitch
and formants to where another speaker has them; colour tilts and bends the spectrum as rooms and microphones do. A
recogniser that has seen them reads synthesised speech as well as recordings, and with few recordings it learns sounds
instead of learning the recordings by heart.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cosyjax.errors import ConfigError
from cosyjax.layers.masks import padding_mask

_COSINES = 4  # of a row's colour: the slowest is a tilt
DECADES = 4.0  # powers of ten of the mel energy to one unit of the 16 kHz log-mel


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """How much is drawn. The default changes nothing."""

  time_masks: int = 0
  time_width: int = 40  # frames (10 ms) at most
  time_share: float = 0.2  # of a row's frames at most, each mask
  bin_masks: int = 0
  bin_width: int = 27  # mel bins at most
  hiss: float = 0.0  # share of rows over which white noise is laid
  hiss_level: tuple[float, float] = (15.0, 60.0)  # dB below the row's loudest value, from and to
  blur: float = 0.0  # largest standard deviation, in dB, of what is added to every value; each row draws its own
  warp: float = 0.0  # largest share by which a row's mel axis is stretched or squeezed
  colour: float = 0.0  # standard deviation, in dB, of each of the slow cosines over the mel bins that a row is given
  rise: int = (
    0  # steps over which all of this grows from nothing: a recogniser that reads nothing yet learns too slowly
  )

  def __post_init__(self) -> None:
    counts = (self.time_masks, self.time_width, self.bin_masks, self.bin_width, self.rise)
    if min(*counts, self.blur, self.colour) < 0:
      raise ConfigError(f"augment: expected no negative number, found {self}")
    shares = (self.time_share, self.hiss, self.warp)
    if min(shares) < 0 or max(shares) > 1:
      raise ConfigError(f"augment.time_share, augment.hiss, augment.warp: expected shares, found {shares}")
    if len(self.hiss_level) != 2 or self.hiss_level[0] > self.hiss_level[1]:
      raise ConfigError(f"augment.hiss_level: expected two rising levels in dB, found {self.hiss_level}")


def augment(
  key: jax.Array, mel_BTM: jax.Array, lengths_B: jax.Array, c: AugmentConfig, strength: float | jax.Array = 1.0
) -> jax.Array:
  """Log-mel that is warped, coloured, blurred, hissed at and masked, in this order.

  Args:
    key: of the step. The draws are of the whole batch.
    mel_BTM: 16 kHz log-mel at 100 Hz (`audio.features.log_mel_16k`).
    lengths_B: its valid frames; padding is left as it is.
    c: what to draw.
    strength: 0 to 1: share of the widths, sizes and chances that are drawn up to. May be traced.

  Returns:
    Like `mel_BTM`. Masked values are the row's mean.
  """
  batch, frames, bins = mel_BTM.shape
  keys = jax.random.split(key, 5)
  valid_BT1 = padding_mask(lengths_B, frames)[..., None]
  out_BTM = mel_BTM
  warp_key, colour_key = jax.random.split(jax.random.fold_in(key, 1))  # apart: draws of the others stay as they are
  if c.warp:
    stretch_B11 = 1 + strength * jax.random.uniform(warp_key, (batch, 1, 1), minval=-c.warp, maxval=c.warp)
    out_BTM = warp(out_BTM, stretch_B11)
  if c.colour:
    size_BJ = strength * c.colour / (10 * DECADES) * jax.random.normal(colour_key, (batch, _COSINES))
    waves_JM = jnp.cos(jnp.pi * jnp.arange(1, _COSINES + 1)[:, None] * (jnp.arange(bins) + 0.5) / bins)
    out_BTM = out_BTM + (size_BJ @ waves_JM)[:, None]
  if c.blur:
    scale_B11 = strength * jax.random.uniform(keys[0], (batch, 1, 1), maxval=c.blur) / (10 * DECADES)
    out_BTM = out_BTM + scale_B11 * jax.random.normal(keys[1], mel_BTM.shape)
  if c.hiss:
    chance_key, level_key = jax.random.split(keys[2])
    below_B11 = jax.random.uniform(level_key, (batch, 1, 1), minval=c.hiss_level[0], maxval=c.hiss_level[1])
    loudest_B11 = jnp.max(jnp.where(valid_BT1, mel_BTM, -jnp.inf), axis=(1, 2), keepdims=True)
    loudest_B11 = jnp.where(jnp.isfinite(loudest_B11), loudest_B11, 0.0)  # rows without a frame
    noise_B11 = loudest_B11 - below_B11 / (10 * DECADES)
    unit = DECADES * jnp.log(10.0)  # energies add, their logarithms do not
    mixed_BTM = jnp.logaddexp(unit * out_BTM, unit * noise_B11) / unit
    out_BTM = jnp.where(jax.random.uniform(chance_key, (batch, 1, 1)) < strength * c.hiss, mixed_BTM, out_BTM)
  masked_BTM = jnp.zeros(mel_BTM.shape, bool)
  if c.time_masks:
    widest_B = strength * jnp.minimum(c.time_width, c.time_share * lengths_B)
    masked_BTM |= _spans(keys[3], c.time_masks, widest_B, lengths_B, frames)[:, :, None]
  if c.bin_masks:
    widest_B = strength * jnp.full((batch,), c.bin_width)
    masked_BTM |= _spans(keys[4], c.bin_masks, widest_B, jnp.full((batch,), bins), bins)[:, None, :]
  mean_B11 = jnp.mean(out_BTM, axis=(1, 2), keepdims=True, where=valid_BT1 & jnp.ones((bins,), bool))
  return jnp.where(valid_BT1, jnp.where(masked_BTM, mean_B11, out_BTM), mel_BTM)


def warp(mel_BTM: jax.Array, stretch_B11: jax.Array) -> jax.Array:
  """Log-mel whose bin k is bin k / stretch of the given one, linear in between; past the last bin, the last."""
  bins = mel_BTM.shape[2]
  at_B1M = jnp.minimum(jnp.arange(bins) / stretch_B11, bins - 1)
  weights_BNM = jnp.maximum(0.0, 1.0 - jnp.abs(at_B1M - jnp.arange(bins)[:, None]))
  return jnp.einsum("BTN,BNM->BTM", mel_BTM, weights_BNM, precision="highest")


def _spans(key: jax.Array, count: int, widest_B: jax.Array, lengths_B: jax.Array, size: int) -> jax.Array:
  """Union of `count` spans of each row, widths 0 to `widest_B`, within its length: bool [B, size]."""
  width_key, start_key = jax.random.split(key)
  shape = (widest_B.shape[0], count)
  width_BN = jnp.floor(jax.random.uniform(width_key, shape) * (widest_B[:, None] + 1))
  start_BN = jnp.floor(jax.random.uniform(start_key, shape) * (lengths_B[:, None] - width_BN + 1))
  at = jnp.arange(size)
  inside_BNs = (at >= start_BN[..., None]) & (at < (start_BN + width_BN)[..., None])
  return jnp.any(inside_BNs, axis=1)
