"""Discriminators of the vocoder's waveform, and of its spectra.

Multi-period discriminators (HiFi-GAN: Kong et al. 2020, arXiv:2010.05646, section 2.3) see every
p-th sample; multi-resolution spectrogram discriminators (UnivNet: Jang et al. 2021,
arXiv:2106.07889, section 2.3) see the magnitudes of short-time Fourier transforms.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.audio.stft import frame, reflect_pad, rfft
from cosyjax.audio.tables import hann_window
from cosyjax.layers.basic import named
from cosyjax.layers.convolutions import strided_conv

Scores = dict[str, jax.Array]
Features = dict[str, tuple[jax.Array, ...]]

_QUIET = 1e-12  # power below which a bin's magnitude is constant: the root of 0 has no slope
_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # the default where the recipe comes from


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """Sizes of all discriminators; the defaults are those that CosyVoice 2 is trained against (41 M parameters)."""

  periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # one discriminator each; none for ()
  period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
  period_kernel: int = 5
  period_stride: int = 3  # of all convolutions but the last
  # One spectrogram discriminator for each triple: points of the transform, hop and window in samples.
  spectra: tuple[tuple[int, ...], ...] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
  spectrum_channels: int = 32
  spectrum_strides: tuple[int, ...] = (1, 2, 2, 2)  # over frequency, of the 3 x 9 convolutions
  leaky_slope: float = 0.1
  weight_norm: bool = True


def tiny_discriminators() -> DiscriminatorConfig:
  """Discriminators of the same build that a laptop can train against."""
  return DiscriminatorConfig(
    periods=(2, 3, 5),
    period_channels=(16, 32, 64, 64),
    spectra=((512, 240, 480),),
    spectrum_channels=8,
    spectrum_strides=(2, 2, 2),
  )


class NormConv(nn.Module):
  """Convolution whose kernel is, with `weight_norm`, a length times a direction: w = scale * v / |v|.

  There is one length and one direction for each output channel (Salimans and Kingma 2016,
  arXiv:1602.07868, eq. 2). Both are plain parameters, so the step size of a kernel's direction
  does not depend on its length, and nothing but the parameters is carried from step to step.

  Attributes:
    features: output channels.
    kernel: taps along each axis; odd, and padded such that a stride of 1 keeps the size.
    stride: along the last axis.
    weight_norm: else a plain kernel.
    dtype: of the computation.
  """

  features: int
  kernel: tuple[int, ...]
  stride: int = 1
  weight_norm: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, ..., C] to [B, ..., features]."""
    shape = (*self.kernel, x.shape[-1], self.features)
    names = (*(None,) * len(self.kernel), "conv_in", "conv_out")
    name = "direction" if self.weight_norm else "kernel"
    weight = self.param(name, named(_kernel, *names), shape, jnp.float32)
    if self.weight_norm:
      norm_C = jnp.sqrt(jnp.sum(jnp.square(weight), axis=tuple(range(weight.ndim - 1))))
      start = named(lambda key, shape, dtype: norm_C, "conv_out")  # the kernel starts as the direction itself
      scale_C = self.param("scale", start, (self.features,), jnp.float32)
      weight = weight * (scale_C / norm_C)
    bias_C = self.param("bias", named(nn.initializers.zeros, "conv_out"), (self.features,), jnp.float32)
    x, weight = x.astype(self.dtype), weight.astype(self.dtype)
    y = strided_conv(x, weight, self.stride)
    return y + bias_C.astype(self.dtype)


class PeriodDiscriminator(nn.Module):
  """Scores each of the `period` combs of a waveform: its samples `period` apart."""

  period: int
  config: DiscriminatorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave_BA: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Waveform [B, A] to scores float32 [B, N] and the feature maps, each [B, period, time, C]."""
    c, p = self.config, self.period
    batch, samples = wave_BA.shape
    if rest := -samples % p:
      wave_BA = jnp.pad(wave_BA, ((0, 0), (0, rest)), mode="reflect")
    # The combs are rows: nothing mixes them, and a convolution over one axis is the cheaper one.
    x = wave_BA.reshape(batch, -1, p).transpose(0, 2, 1).reshape(batch * p, -1, 1)
    features = []
    for i, channels in enumerate(c.period_channels):
      stride = c.period_stride if i + 1 < len(c.period_channels) else 1
      x = NormConv(channels, (c.period_kernel,), stride, c.weight_norm, self.dtype, name=f"conv_{i}")(x)
      x = nn.leaky_relu(x, c.leaky_slope)
      features.append(x)
    x = NormConv(1, (3,), 1, c.weight_norm, self.dtype, name="out")(x)
    features.append(x)
    return _scores(x, batch), tuple(y.reshape(batch, p, *y.shape[1:]) for y in features)


class SpectrumDiscriminator(nn.Module):
  """Scores the magnitudes of one short-time Fourier transform as a picture.

  Attributes:
    spectrum: points of the transform, hop and window, in samples.
  """

  spectrum: tuple[int, ...]
  config: DiscriminatorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave_BA: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Waveform [B, A] to scores float32 [B, N] and the feature maps, each [B, time, frequency, C]."""
    c = self.config
    x = magnitudes(wave_BA, *self.spectrum)[..., None]
    features = []
    for i, stride in enumerate((*c.spectrum_strides, 1)):
      kernel = (3, 9) if i < len(c.spectrum_strides) else (3, 3)
      conv = NormConv(c.spectrum_channels, kernel, stride, c.weight_norm, self.dtype, name=f"conv_{i}")
      x = nn.leaky_relu(conv(x), c.leaky_slope)
      features.append(x)
    x = NormConv(1, (3, 3), 1, c.weight_norm, self.dtype, name="out")(x)
    return _scores(x, len(wave_BA)), (*features, x)


class Discriminators(nn.Module):
  """All discriminators of a configuration, each on its own.

  Attributes:
    config: sizes.
    dtype: compute dtype of the convolutions; parameters, spectra and scores are float32.
  """

  config: DiscriminatorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave_BA: jax.Array) -> tuple[Scores, Features]:
    """Scores waveforms [B, A] in -1 .. 1.

    Returns:
      By discriminator's name: the scores [B, N], 1 for real and 0 for generated after training,
      and the outputs of all its layers, which feature matching compares.
    """
    c = self.config
    members = {f"period_{p}": PeriodDiscriminator(p, c, self.dtype, name=f"period_{p}") for p in c.periods}
    for s in c.spectra:
      members[f"spectrum_{s[0]}"] = SpectrumDiscriminator(s, c, self.dtype, name=f"spectrum_{s[0]}")
    results = {name: member(wave_BA) for name, member in members.items()}
    return {name: r[0] for name, r in results.items()}, {name: r[1] for name, r in results.items()}


def magnitudes(wave_BA: jax.Array, n_fft: int, hop: int, window: int) -> jax.Array:
  """Magnitudes [B, T, n_fft // 2 + 1] of Hann windows centred every `hop` samples, T = A // hop + 1.

  A shift within the transform's frame changes phases only, so just the samples under the window
  are cut out: frames of a whole number of hops, where those of `n_fft` would have to be gathered.

  Raises:
    ValueError: A is at most half a window.
  """
  wave_BA = reflect_pad(wave_BA.astype(jnp.float32), window // 2)
  frames_BTA = frame(wave_BA, window, hop) * hann_window(window)
  real_BTC, imag_BTC = rfft(frames_BTA, n_fft)
  return jnp.sqrt(jnp.maximum(real_BTC**2 + imag_BTC**2, np.float32(_QUIET)))


def _scores(x: jax.Array, batch: int) -> jax.Array:
  return x.astype(jnp.float32).reshape(batch, -1)
