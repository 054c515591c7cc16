"""Which mel frames, source samples and inner frames a stretch of audio is made of.

Everything in the network is a window of fixed size except the harmonics' phase, which is a sum over all frames
before. Walking back from the audio, layer by layer, gives for every layer the first and the last position that
matter: what a stream holds back, what it keeps, and how much of a window each level has to compute.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

from cosyjax.config import VocoderConfig
from cosyjax.vocoder.layer_plan import F0_LAYERS, ConvShape, generator_plan

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
  """Positions before and after a stretch of whole mel frames that its audio is made of.

  Attributes:
    mel: (before, after) in mel frames, through the generator alone.
    source: (before, after) in samples of the harmonic source.
    levels: (before, after) in frames of each level's output, in its own rate; for the last level in frames of
      the STFT.
    f0: frames on either side that one value of f0 is made of.
    hop: samples of a mel frame.
  """

  mel: Span
  source: Span
  levels: tuple[Span, ...]
  f0: int
  hop: int

  @property
  def context(self) -> int:
    """Mel frames before a stretch that a window must begin with.

    The phase in the first half of a frame needs the frame before; hence half a frame more.
    """
    return max(self.mel[0], (self.source[0] + self.hop // 2 - 1) // self.hop + 1)

  @property
  def lookahead(self) -> int:
    """Mel frames that must have arrived after a frame before its audio is final.

    The source takes longest: the second half of a frame runs at the next frame's frequency,
    and f0 is made of frames on either side.
    """
    return max(self.mel[1], (self.hop - 1 + self.source[1] + self.hop // 2) // self.hop + self.f0)


@functools.lru_cache
def receptive_field(config: VocoderConfig) -> ReceptiveField:
  """Receptive field of the network that `config` describes."""
  c, plan, half, hop = config, generator_plan(config), config.n_fft // 2, config.samples_per_frame
  # Frame k of the inverse STFT covers samples hop k - half + 1 .. hop k + half - 1: a Hann window begins with a zero.
  span = plan.conv_out.reads(math.ceil((1 - half) / c.hop), (hop - 1 + half - 1) // c.hop)
  levels, spectrum = [], (0, 0)
  for level in reversed(plan.levels):
    levels.append(span)
    span = _union(span, *(chained(layers, span) for layers in level.resblocks))
    spectrum = _union(spectrum, level.source.reads(*chained(level.source_resblock, span)))
    if level is plan.levels[-1]:  # STFT frame k is made of upsampled frame k - 1
      span = span[0] - 1, span[1] - 1
    span = level.up.reads(*span)
  span = plan.conv_in.reads(*span)
  samples = spectrum[0] * c.hop - half + 1, spectrum[1] * c.hop + half - 1
  widths = [math.prod(c.upsample_rates[: i + 1]) for i in range(len(levels))]
  return ReceptiveField(
    mel=(-span[0], span[1]),
    source=(-samples[0], samples[1] - hop + 1),
    levels=tuple((-a, b - width + 1) for (a, b), width in zip(reversed(levels), widths, strict=True)),
    f0=max(map(abs, chained(F0_LAYERS, (0, 0)))),
    hop=hop,
  )


def chained(layers: Sequence[ConvShape], span: Span) -> Span:
  """First and last input of layers, one after the other, that their outputs of a span are made of."""
  for layer in reversed(layers):
    span = layer.reads(*span)
  return span


def _union(*spans: Span) -> Span:
  return min(first for first, _ in spans), max(last for _, last in spans)
