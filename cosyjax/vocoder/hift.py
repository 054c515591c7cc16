"""HiFT: a neural source-filter vocoder with an iSTFT at the end (Li et al. 2023, arXiv:2309.09493).

Mel frames give f0, f0 a harmonic source; a convolutional generator, fed with both, predicts
the magnitude and phase of a 16-point STFT every 4 samples.
Offline batches call `Vocoder`; a stream calls its methods one by one, see `cosyjax.vocoder.chunk_vocoder`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.audio.stft import hann_window, istft, stft
from cosyjax.config import VocoderConfig
from cosyjax.layers.basic import conv, dense
from cosyjax.layers.masks import padding_mask
from cosyjax.vocoder.f0 import F0Predictor
from cosyjax.vocoder.generator_layers import ResBlock, UpConv, frame_conv, take
from cosyjax.vocoder.layer_plan import LevelPlan, generator_plan
from cosyjax.vocoder.receptive_field import chained, receptive_field
from cosyjax.vocoder.source import harmonic_source

_LAST_SLOPE = 0.01  # the slope before the last convolution is PyTorch's default, not the configured one
_MAX_LOG_MAGNITUDE = float(np.log(1e2))


class Generator(nn.Module):
  """Mel and harmonic source to audio.

  Attributes:
    config: sizes and constants.
    dtype: compute dtype of the convolutions; STFT, magnitude and phase stay float32.
  """

  config: VocoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    mel_BTM: jax.Array,
    source_BA: jax.Array,
    lengths_B: jax.Array,
    part: tuple[jax.Array, int] | None = None,
  ) -> jax.Array:
    """Audio [B, A] within +-`audio_limit`, 0 past each row's end.

    Args:
      mel_BTM: log-mel frames [B, T, M].
      source_BA: harmonic source [B, A], A = hop T, `samples_per_frame` being the hop.
      lengths_B: valid mel frames of each row, int32 [B].
      part: (first_B, count): only the audio of the `count` frames from frame `first_B` on is
        wanted, A = hop `count`. Later levels, which see less far, then leave out the rest.
    """
    c, hop = self.config, self.config.samples_per_frame
    plan = generator_plan(c)
    # Where x begins, in its level's frames from the first, and its lengths counted from there.
    origin_B = None if part is None else jnp.zeros_like(lengths_B)
    window = hann_window(c.n_fft)
    parts = stft(source_BA, window, c.n_fft, c.hop, lengths_B=lengths_B * hop)
    spectrum_BKC = jnp.concatenate(parts, axis=-1).astype(self.dtype)
    frames, levels = mel_BTM.shape[1], plan.levels
    x_BTC = jnp.where(padding_mask(lengths_B, frames)[..., None], mel_BTM, 0).astype(self.dtype)
    x_BTC = conv(
      c.channels,
      plan.conv_in.kernel,
      padding=[(plan.conv_in.before, plan.conv_in.after)],
      dtype=self.dtype,
      name="conv_in",
    )(x_BTC)
    mask_BT1 = padding_mask(lengths_B, frames)[..., None]
    for i, level in enumerate(levels):
      channels, last, scale = c.channels // 2 ** (i + 1), i == len(levels) - 1, math.prod(c.upsample_rates[: i + 1])
      rate = level.up.rate
      x_BTC = nn.leaky_relu(jnp.where(mask_BT1, x_BTC, 0), c.leaky_slope)
      x_BTC = UpConv(channels, level.up, self.dtype, name=f"up_{i}")(x_BTC)
      frames, lengths_B = frames * rate, lengths_B * rate
      origin_B = None if part is None else origin_B * rate
      if last:  # the STFT has one frame more than there are hops: the second frame is put before the first
        x_BTC = jnp.concatenate([x_BTC[:, 1:2], x_BTC], axis=1)
        frames, lengths_B = frames + 1, lengths_B + 1
      mask_BT1 = padding_mask(lengths_B, frames)[..., None]
      s_BTC = self._source(spectrum_BKC, channels, i, level, lengths_B, origin_B, frames)
      x_BTC = jnp.where(mask_BT1, x_BTC + s_BTC, 0)
      blocks = [
        ResBlock(layers, self.dtype, name=f"block_{i}_{j}")(x_BTC, mask_BT1) for j, layers in enumerate(level.resblocks)
      ]
      x_BTC = sum(blocks[1:], blocks[0]) / len(blocks)
      if part is not None and not last:
        before, after = receptive_field(c).levels[i]
        size = min(before + part[1] * scale + after, frames)
        start_B = jnp.clip(part[0] * scale - before - origin_B, 0, frames - size)
        x_BTC, mask_BT1 = take(x_BTC, start_B, size), take(mask_BT1, start_B, size)
        frames, lengths_B, origin_B = size, lengths_B - start_B, origin_B + start_B
    x_BTC = frame_conv(
      c.n_fft + 2,
      plan.conv_out,
      init=nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
      name="conv_out",
    )(nn.leaky_relu(x_BTC, _LAST_SLOPE).astype(jnp.float32))
    bins = c.n_fft // 2 + 1
    magnitude_BKF = jnp.exp(jnp.minimum(x_BTC[..., :bins], _MAX_LOG_MAGNITUDE))
    phase_BKF = jnp.sin(x_BTC[..., bins:])
    real_BKF, imag_BKF = magnitude_BKF * jnp.cos(phase_BKF), magnitude_BKF * jnp.sin(phase_BKF)
    wave_BA = istft(real_BKF, imag_BKF, window, c.n_fft, c.hop, frames_B=lengths_B)
    if part is not None:
      wave_BA = take(wave_BA, part[0] * hop - origin_B * c.hop, part[1] * hop)
    return jnp.clip(wave_BA, -c.audio_limit, c.audio_limit)

  def _source(
    self,
    spectrum_BKC: jax.Array,
    channels: int,
    number: int,
    level: LevelPlan,
    lengths_B: jax.Array,
    origin_B: jax.Array | None,
    frames: int,
  ) -> jax.Array:
    """What the source's spectrum [B, K, C] adds to one level: `frames` frames from `origin_B` on."""
    shape, name = level.source, f"source_down_{number}"
    padding = [(shape.before, shape.after)]
    down = conv(channels, shape.kernel, stride=shape.stride, padding=padding, dtype=self.dtype, name=name)
    s_BTC = down(spectrum_BKC)
    if origin_B is not None:  # the residual block sees to either side
      side = chained(level.source_resblock, (0, 0))[1]
      size = min(frames + 2 * side, s_BTC.shape[1])
      start_B = jnp.clip(origin_B - side, 0, s_BTC.shape[1] - size)
      s_BTC, lengths_B, origin_B = take(s_BTC, start_B, size), lengths_B + origin_B - start_B, origin_B - start_B
    mask_BT1 = padding_mask(lengths_B, s_BTC.shape[1])[..., None]
    block = ResBlock(level.source_resblock, self.dtype, name=f"source_block_{number}")
    s_BTC = block(jnp.where(mask_BT1, s_BTC, 0), mask_BT1)
    return s_BTC if origin_B is None else take(s_BTC, origin_B, frames)


class Vocoder(nn.Module):
  """Mel to audio through f0 and harmonic source.

  Attributes:
    config: sizes and constants.
    dtype: compute dtype of the generator's convolutions; all else is float32.
  """

  config: VocoderConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Make the parts."""
    c = self.config
    self.f0_predictor = F0Predictor(c.f0_channels)
    self.harmonic_mix = dense(1, (None, None), precision=jax.lax.Precision.HIGHEST)
    self.generator = Generator(c, self.dtype)

  def f0(self, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """f0 [B, T] in Hz of log-mel frames [B, T, M], 0 past each row's length."""
    return self.f0_predictor(mel_BTM, lengths_B)

  def source(
    self, f0_BT: jax.Array, phase_BH: jax.Array, noise_BAH: jax.Array, before_B: jax.Array | None = None
  ) -> jax.Array:
    """Harmonic source [B, A]: sines of f0 and its overtones, mixed into one signal.

    Args:
      f0_BT: Hz, 0 past a row's end.
      phase_BH: initial phases in cycles, H = harmonics + 1; see `request_phase_noise`.
      noise_BAH: standard normal noise [B, A, H].
      before_B: where f0 continues a longer track, the sum of its `phase_steps` so far, uint32.
    """
    sines_BAH, _ = harmonic_source(f0_BT, phase_BH, noise_BAH, self.config, before_B=before_B)
    return jnp.tanh(self.harmonic_mix(sines_BAH)[..., 0])

  def generate(
    self,
    mel_BTM: jax.Array,
    source_BA: jax.Array,
    lengths_B: jax.Array,
    part: tuple[jax.Array, int] | None = None,
  ) -> jax.Array:
    """Audio [B, A] of mel [B, T, M] and source [B, A], 0 past each row's end.

    With `part`, (first_B, count), the audio of `count` frames from frame `first_B` on.
    """
    return self.generator(mel_BTM, source_BA, lengths_B, part)

  def __call__(
    self, mel_BTM: jax.Array, lengths_B: jax.Array, phase_BH: jax.Array, noise_BAH: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Audio [B, A] of mel [B, T, M], and {"f0": [B, T], "source": [B, A]}.

    Args:
      mel_BTM: log-mel frames.
      lengths_B: valid frames of each row, int32 [B]; all results are 0 past them.
      phase_BH: initial phases in cycles, H = harmonics + 1.
      noise_BAH: standard normal noise of the source.
    """
    f0_BT = self.f0(mel_BTM, lengths_B)
    source_BA = self.source(f0_BT, phase_BH, noise_BAH)
    source_BA = jnp.where(padding_mask(lengths_B * self.config.samples_per_frame, source_BA.shape[1]), source_BA, 0)
    return self.generate(mel_BTM, source_BA, lengths_B), {"f0": f0_BT, "source": source_BA}


def init_arguments(config: VocoderConfig, frames: int = 8) -> tuple[jax.Array, ...]:
  """Arguments of a small call that creates every parameter: `Vocoder(config).init(key, *init_arguments(config))`."""
  H, lengths_1 = config.harmonics + 1, jnp.full((1,), frames, jnp.int32)
  noise_1AH = jnp.zeros((1, frames * config.samples_per_frame, H))
  return jnp.zeros((1, frames, config.mel_bins)), lengths_1, jnp.zeros((1, H)), noise_1AH
