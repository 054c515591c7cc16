"""The convolutions of the vocoder's networks, in order, as values.

The modules are built from these lists, and receptive fields are computed from the same: see
`cosyjax.vocoder.receptive_field`.
"""

import functools
import math
from typing import NamedTuple

from cosyjax.config import VocoderConfig


class ConvShape(NamedTuple):
  """A convolution over frames.

  Attributes:
    kernel, stride, dilation: taps, frames from one output to the next, and between two taps.
    before, after: zeros put on either side.
  """

  kernel: int
  stride: int = 1
  dilation: int = 1
  before: int = 0
  after: int = 0

  @classmethod
  def same(cls, kernel: int, dilation: int = 1) -> "ConvShape":
    """Centred, as many frames out as in; for an odd kernel."""
    side = (kernel - 1) * dilation // 2
    return cls(kernel, 1, dilation, side, side)

  def reads(self, first: int, last: int) -> tuple[int, int]:
    """First and last input frame that output frames `first` to `last` are made of."""
    reach = (self.kernel - 1) * self.dilation
    return first * self.stride - self.before, last * self.stride - self.before + reach


class UpConvShape(NamedTuple):
  """A transposed convolution to `rate` frames for each; `kernel - rate` is even, and half of it is cut off a side."""

  kernel: int
  rate: int

  def reads(self, first: int, last: int) -> tuple[int, int]:
    """First and last input frame that output frames `first` to `last` are made of."""
    pad = (self.kernel - self.rate) // 2
    return math.ceil((first + pad - self.kernel + 1) / self.rate), (last + pad) // self.rate


class LevelPlan(NamedTuple):
  """What happens at one rate of the generator.

  Attributes:
    up: from the rate below.
    source: of the source's spectrum, to this rate.
    source_resblock: pairs of convolutions of the residual block behind it.
    resblocks: pairs of each residual block over the sum; their mean goes on.
  """

  up: UpConvShape
  source: ConvShape
  source_resblock: tuple[ConvShape, ...]
  resblocks: tuple[tuple[ConvShape, ...], ...]


class GeneratorPlan(NamedTuple):
  """All convolutions of the generator: one before the levels, and one behind them."""

  conv_in: ConvShape
  levels: tuple[LevelPlan, ...]
  conv_out: ConvShape


F0_LAYERS = (ConvShape.same(3),) * 5


def resblock_plan(kernel: int, dilations: tuple[int, ...]) -> tuple[ConvShape, ...]:
  """A dilated and a plain convolution for each dilation."""
  return tuple(layer for d in dilations for layer in (ConvShape.same(kernel, d), ConvShape.same(kernel)))


@functools.lru_cache
def generator_plan(config: VocoderConfig) -> GeneratorPlan:
  """Convolutions of the generator that `config` describes."""
  c, levels = config, []
  resblocks = tuple(map(resblock_plan, c.resblock_kernels, c.resblock_dilations))
  for i, (rate, kernel) in enumerate(zip(c.upsample_rates, c.upsample_kernels, strict=True)):
    stride = math.prod(c.upsample_rates[i + 1 :])
    side = 0 if stride == 1 else stride // 2
    source = ConvShape(1 if stride == 1 else 2 * stride, stride, 1, side, side)
    source_resblock = resblock_plan(c.source_kernels[i], c.source_dilations[i])
    levels.append(LevelPlan(UpConvShape(kernel, rate), source, source_resblock, resblocks))
  return GeneratorPlan(ConvShape.same(7), tuple(levels), ConvShape.same(7))
