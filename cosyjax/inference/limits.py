"""What a warm-up prepares for."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
  """What requests may come to; beyond it they still run, but compile first.

  Attributes:
    batch: segments that are computed together offline.
    prompt: seconds of the longest prompt, as a recording and in a voice.
    seconds: of prompt and speech together, in one segment.
    prefix: positions of an LM sequence before its first new token: text, transcript or instruction, the
      prompt's tokens, and two.
    cache: positions of an LM sequence in all: the prefix, and the most speech tokens that the text may take.
    slowest: lowest speed.
    flow_steps: Euler steps that requests ask for offline; the model's if None. Streams compile nothing for them.
    recordings: whether voices are made from recordings, or come from files.
    sources: whether recordings (of up to 30 s) are converted to another voice.
  """

  batch: int = 1
  prompt: float = 10.0
  seconds: float = 20.0
  prefix: int = 256
  cache: int = 1024
  slowest: float = 1.0
  flow_steps: int | None = None
  recordings: bool = True
  sources: bool = False
