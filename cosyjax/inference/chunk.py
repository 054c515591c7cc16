"""A chunk: speech tokens on their way through flow and vocoder."""

import dataclasses

import numpy as np

from cosyjax.inference.requests import Request


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
  """Speech tokens of a segment that flow and vocoder turn into audio in one go.

  Attributes:
    request: resolved; its voice's prompt stands before the segment.
    tokens_U: int32, those that get frames, then those after them that are only looked at.
    count: how many get frames.
    segment: number of the segment in its request.
    slot: that the request holds; None for a whole segment in one chunk, which needs no caches.
    first: tokens of the segment that earlier chunks have turned into audio.
    number: of the chunk in its segment, from 0.
    last: the segment ends with this chunk.
  """

  request: Request
  tokens_U: np.ndarray
  count: int
  segment: int = 0
  slot: int | None = None
  first: int = 0
  number: int = 0
  last: bool = True
