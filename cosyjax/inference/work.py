"""What passes between an engine's worker, its flow and its vocoder."""

import dataclasses
from collections.abc import Sequence

import jax

from cosyjax.inference.schedule import Schedule
from cosyjax.inference.utterance import Hop
from cosyjax.inference.voice import Voice


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
  """A hop to solve.

  Attributes:
    slot: of the request.
    voice: as the flow sees it: without tokens if there is no prompt.
    schedule: of the request.
    hop: which tokens.
    tokens: all new speech ids so far.
    seed, piece: of the request, and the utterance's number in it.
  """

  slot: int
  voice: Voice
  schedule: Schedule
  hop: Hop
  tokens: Sequence[int]
  seed: int
  piece: int


@dataclasses.dataclass(frozen=True, eq=False)
class Mel:
  """Frames on the device.

  Attributes:
    mel_bTM: rows of solved frames.
    rows: which row belongs to which piece of work.
    skips: frames of the row before the new ones.
  """

  mel_bTM: jax.Array
  rows: list[int]
  skips: list[int]

  def part(self, works: Sequence[int]) -> "Mel":
    """That of some pieces of work, by their index."""
    return Mel(self.mel_bTM, [self.rows[i] for i in works], [self.skips[i] for i in works])
