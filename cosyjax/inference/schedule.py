"""When a stream's tokens are turned into audio: the sizes of its chunks, and the mask blocks they imply.

A chunk is what the flow solves at once. Its tokens (and whatever is left of the prompt, for the
first one) form a block of the attention mask; so any
schedule is a partition of the sequence into blocks, and the same blocks handed to
`cosyjax.flow.generate` give the same mel in one pass (see `cosyjax.layers.masks`).
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from cosyjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Sizes in tokens (25 a second).

  Attributes:
    first: new tokens in the first chunk, at least.
    then: sizes of the chunks after it; the last one repeats.
    border: the first chunk grows until prompt and chunk together end on a multiple of the model's
      chunk. Off, it has exactly `first` tokens.
  """

  first: int
  then: tuple[int, ...]
  border: bool = False

  def __post_init__(self) -> None:
    if self.first < 1 or not self.then or min(self.then) < 1:
      raise ConfigError(f"schedule: expected chunks of at least one token, found first {self.first}, then {self.then}")

  def chunks(self, prompt: int, chunk: int) -> Iterator[int]:
    """New tokens in each chunk, without end.

    Args:
      prompt: tokens of the prompt.
      chunk: tokens in a block of the model's training mask, M.
    """
    yield self.first + (-(prompt + self.first) % chunk if self.border else 0)
    yield from self.then[:-1]
    yield from itertools.repeat(self.then[-1])

  def largest(self, chunk: int) -> int:
    """Most tokens that a block can have: a chunk, or the first one with what is left of the prompt."""
    first = self.first + chunk - 1
    return max(*self.then, -(-first // chunk) * chunk if self.border else first)

  def blocks(self, prompt: int, new: int, chunk: int) -> np.ndarray:
    """Mask block of each token of a prompt and `new` tokens after it: int32 [prompt + new].

    Whole chunks of the prompt are blocks of their own; the first chunk takes in the rest.
    """
    whole = prompt // chunk
    blocks, number, done = np.empty(prompt + new, np.int32), whole, prompt
    blocks[: whole * chunk] = np.arange(whole * chunk) // chunk
    blocks[whole * chunk : prompt] = whole
    for size in self.chunks(prompt, chunk):
      if done >= prompt + new:
        return blocks
      blocks[done : done + size] = number
      number, done = number + 1, done + size
    raise AssertionError("chunks never end")


def lowest_latency(chunk: int) -> Schedule:
  """The first packet as early as its look-ahead allows, then chunks of M."""
  return Schedule(first=max(chunk * 3 // 5, 1), then=(chunk,))


def balanced(chunk: int) -> Schedule:
  """A first chunk that ends on a chunk border, a chunk of M, then 2M for half the work per token (paper 2.4)."""
  return Schedule(first=max(chunk * 3 // 5, 1), then=(chunk, 2 * chunk), border=True)


PRESETS = {"lowest": lowest_latency, "balanced": balanced}


def resolve(schedule: Schedule | str, chunk: int) -> Schedule:
  """A schedule by its name in `PRESETS`, or the one that is given.

  Raises:
    ConfigError: no such preset.
  """
  if isinstance(schedule, Schedule):
    return schedule
  if schedule not in PRESETS:
    raise ConfigError(f"schedule: expected one of {sorted(PRESETS)} or a Schedule, found {schedule!r}")
  return PRESETS[schedule](chunk)
