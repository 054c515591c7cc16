"""How far the vocoder looks: which mel frames, source samples and inner frames a stretch of audio is made of.

Everything in the network is a window of fixed size except the harmonics' phase, which is a
sum over all frames before. Walking back from the audio, layer by layer, gives for every
layer the first and the last position that matter: what a stream must wait for, what it must
keep, and how much of a window each stage has to compute.
"""

import dataclasses
import functools
import math

from cosyjax.config import VocoderConfig
from cosyjax.vocoder.f0 import LAYERS


@dataclasses.dataclass(frozen=True)
class Reach:
  """Positions before and after a stretch of whole mel frames that its audio is made of.

  Attributes:
    mel: (before, after) in mel frames, through the generator alone.
    source: (before, after) in samples of the harmonic source.
    stages: (before, after) in frames of each upsampling stage's output, in its own rate; for
      the last stage in frames of the STFT.
    f0: frames on either side that one value of f0 is made of.
    hop: samples of a mel frame.
  """

  mel: tuple[int, int]
  source: tuple[int, int]
  stages: tuple[tuple[int, int], ...]
  f0: int
  hop: int

  @property
  def context(self) -> int:
    """Mel frames before a stretch that a window must begin with.

    The phase in the first half of a frame needs the frame before; hence half a frame more.
    """
    return max(self.mel[0], (self.source[0] + self.hop // 2 - 1) // self.hop + 1)

  @property
  def look_ahead(self) -> int:
    """Mel frames that must have arrived after a frame before its audio is final.

    The source waits longest: the second half of a frame runs at the next frame's frequency,
    and f0 is made of frames on either side.
    """
    return max(self.mel[1], (self.hop - 1 + self.source[1] + self.hop // 2) // self.hop + self.f0)


@functools.lru_cache
def reach(config: VocoderConfig) -> Reach:
  """Reach of the network that `config` describes."""
  c = config
  half, hop = c.n_fft // 2, c.samples_per_frame
  # Frame k of the inverse STFT covers samples hop k - half + 1 .. hop k + half - 1: a Hann window begins with a zero.
  first, last = math.ceil((1 - half) / c.hop), (hop - 1 + half - 1) // c.hop
  first, last = first - 3, last + 3  # the last convolution
  stages, spectrum = [], [0, 0]
  count = len(c.upsample_rates)
  blocks = max(map(block_reach, c.resblock_kernels, c.resblock_dilations))
  for i in reversed(range(count)):
    rate, kernel = c.upsample_rates[i], c.upsample_kernels[i]
    stages.append((first, last))
    first, last = first - blocks, last + blocks
    stride, side = math.prod(c.upsample_rates[i + 1 :]), block_reach(c.source_kernels[i], c.source_dilations[i])
    taps, pad = (1, 0) if stride == 1 else (2 * stride, stride // 2)
    spectrum[0] = min(spectrum[0], (first - side) * stride - pad)
    spectrum[1] = max(spectrum[1], (last + side) * stride - pad + taps - 1)
    if i == count - 1:  # STFT frame k is made of upsampled frame k - 1
      first, last = first - 1, last - 1
    pad = (kernel - rate) // 2
    first, last = math.ceil((first + pad - kernel + 1) / rate), (last + pad) // rate
  first, last = first - 3, last + 3  # the first convolution
  samples = spectrum[0] * c.hop - half + 1, spectrum[1] * c.hop + half - 1
  widths = [math.prod(c.upsample_rates[: i + 1]) for i in range(count)]
  return Reach(
    mel=(-first, last),
    source=(-samples[0], samples[1] - hop + 1),
    stages=tuple((-a, b - width + 1) for (a, b), width in zip(reversed(stages), widths, strict=True)),
    f0=LAYERS,
    hop=hop,
  )


def block_reach(kernel: int, dilations: tuple[int, ...]) -> int:
  """Frames on either side that a residual block reads: a dilated and a plain convolution for each dilation."""
  return (kernel - 1) // 2 * sum(d + 1 for d in dilations)
