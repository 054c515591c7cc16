"""HiFT: a neural source-filter vocoder with an iSTFT at the end (Li et al. 2023, arXiv:2309.09493).

Mel frames give f0, f0 a harmonic source; a convolutional generator, fed with both, predicts
the magnitude and phase of a 16-point STFT every 4 samples. 480 samples come of a mel frame.
Offline batches call `Vocoder`; a stream calls its methods one by one.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.audio.stft import hann_window, istft, stft
from cosyjax.config import HOP, VocoderConfig
from cosyjax.layers.basic import conv, dense
from cosyjax.layers.masks import padding_mask
from cosyjax.vocoder.blocks import ResBlock, UpConv, frame_conv, same_padding
from cosyjax.vocoder.f0 import F0Predictor
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
  def __call__(self, mel_BTM: jax.Array, source_BA: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Audio [B, A] within +-`audio_limit`, 0 past each row's end.

    Args:
      mel_BTM: log-mel frames [B, T, M].
      source_BA: harmonic source [B, A], A = 480 T.
      lengths_B: valid mel frames of each row, int32 [B].
    """
    c = self.config
    window = hann_window(c.n_fft)
    parts = stft(source_BA, window, c.n_fft, c.hop, lengths_B=lengths_B * HOP)
    spectrum_BKC = jnp.concatenate(parts, axis=-1).astype(self.dtype)
    frames, stages = mel_BTM.shape[1], len(c.upsample_rates)
    x_BTC = jnp.where(padding_mask(lengths_B, frames)[..., None], mel_BTM, 0).astype(self.dtype)
    x_BTC = conv(c.channels, 7, padding=same_padding(7), dtype=self.dtype, name="conv_in")(x_BTC)
    mask_BT1 = padding_mask(lengths_B, frames)[..., None]
    for i, (rate, kernel) in enumerate(zip(c.upsample_rates, c.upsample_kernels, strict=True)):
      channels, last = c.channels // 2 ** (i + 1), i == stages - 1
      x_BTC = nn.leaky_relu(jnp.where(mask_BT1, x_BTC, 0), c.leaky_slope)
      x_BTC = UpConv(channels, kernel, rate, self.dtype, name=f"up_{i}")(x_BTC)
      frames, lengths_B = frames * rate, lengths_B * rate
      if last:  # the STFT has one frame more than there are hops: the second frame is put before the first
        x_BTC = jnp.concatenate([x_BTC[:, 1:2], x_BTC], axis=1)
        frames, lengths_B = frames + 1, lengths_B + 1
      mask_BT1 = padding_mask(lengths_B, frames)[..., None]
      s_BTC = self._source_down(spectrum_BKC, channels, int(np.prod(c.upsample_rates[i + 1 :])), i)
      s_BTC = jnp.where(mask_BT1, s_BTC, 0)
      s_BTC = ResBlock(c.source_kernels[i], c.source_dilations[i], self.dtype, name=f"source_block_{i}")(
        s_BTC, mask_BT1
      )
      x_BTC = jnp.where(mask_BT1, x_BTC + s_BTC, 0)
      blocks = [
        ResBlock(size, dilations, self.dtype, name=f"block_{i}_{j}")(x_BTC, mask_BT1)
        for j, (size, dilations) in enumerate(zip(c.resblock_kernels, c.resblock_dilations, strict=True))
      ]
      x_BTC = sum(blocks[1:], blocks[0]) / len(blocks)
    x_BTC = frame_conv(
      c.n_fft + 2, 7, init=nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"), name="conv_out"
    )(nn.leaky_relu(x_BTC, _LAST_SLOPE).astype(jnp.float32))
    bins = c.n_fft // 2 + 1
    magnitude_BKF = jnp.exp(jnp.minimum(x_BTC[..., :bins], _MAX_LOG_MAGNITUDE))
    phase_BKF = jnp.sin(x_BTC[..., bins:])
    real_BKF, imag_BKF = magnitude_BKF * jnp.cos(phase_BKF), magnitude_BKF * jnp.sin(phase_BKF)
    wave_BA = istft(real_BKF, imag_BKF, window, c.n_fft, c.hop, frames_B=lengths_B)
    return jnp.clip(wave_BA, -c.audio_limit, c.audio_limit)

  def _source_down(self, spectrum_BKC: jax.Array, channels: int, stride: int, stage: int) -> jax.Array:
    """Source spectrum [B, 120 T + 1, 18] at the frame rate of one stage."""
    kernel, pad = (1, 0) if stride == 1 else (2 * stride, stride // 2)
    return conv(channels, kernel, stride=stride, padding=[(pad, pad)], dtype=self.dtype, name=f"source_down_{stage}")(
      spectrum_BKC
    )


class Vocoder(nn.Module):
  """Mel (50 Hz) to audio (24 kHz) through f0 and harmonic source.

  Attributes:
    config: sizes and constants.
    dtype: compute dtype of the generator's convolutions; all else is float32.
  """

  config: VocoderConfig
  dtype: Any = jnp.float32

  def setup(self):
    c = self.config
    self.f0_predictor = F0Predictor(c.f0_channels)
    self.harmonic_mix = dense(1, (None, None), precision=jax.lax.Precision.HIGHEST)
    self.generator = Generator(c, self.dtype)

  def f0(self, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """f0 [B, T] in Hz of log-mel frames [B, T, M], 0 past each row's length."""
    return self.f0_predictor(mel_BTM, lengths_B)

  def source(self, f0_BT: jax.Array, phase_BH: jax.Array, noise_BAH: jax.Array) -> jax.Array:
    """Harmonic source [B, 480 T]: sines of f0 and its overtones, mixed into one signal.

    Args:
      f0_BT: Hz, 0 past a row's end.
      phase_BH: initial phases in cycles, H = harmonics + 1; see `request_phase_noise`.
      noise_BAH: standard normal noise [B, 480 T, H].
    """
    c = self.config
    sines_BAH, _ = harmonic_source(
      f0_BT,
      phase_BH,
      noise_BAH,
      amplitude=c.source_amplitude,
      noise_scale=c.source_noise,
      threshold=c.voiced_threshold,
    )
    return jnp.tanh(self.harmonic_mix(sines_BAH)[..., 0])

  def generate(self, mel_BTM: jax.Array, source_BA: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Audio [B, 480 T] of mel [B, T, M] and source [B, 480 T], 0 past each row's end."""
    return self.generator(mel_BTM, source_BA, lengths_B)

  def __call__(
    self, mel_BTM: jax.Array, lengths_B: jax.Array, phase_BH: jax.Array, noise_BAH: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Audio [B, 480 T] of mel [B, T, M], and {"f0": [B, T], "source": [B, 480 T]}.

    Args:
      mel_BTM: log-mel frames.
      lengths_B: valid frames of each row, int32 [B]; all results are 0 past them.
      phase_BH: initial phases in cycles, H = harmonics + 1.
      noise_BAH: standard normal noise of the source.
    """
    f0_BT = self.f0(mel_BTM, lengths_B)
    source_BA = self.source(f0_BT, phase_BH, noise_BAH)
    source_BA = jnp.where(padding_mask(lengths_B * HOP, source_BA.shape[1]), source_BA, 0)
    return self.generate(mel_BTM, source_BA, lengths_B), {"f0": f0_BT, "source": source_BA}
