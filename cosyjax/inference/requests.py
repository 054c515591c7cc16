"""What is asked for and what comes back, as values."""

import dataclasses
from pathlib import Path

import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.inference.voice import Voice

MODES = ("zero_shot", "cross_lingual", "instruct", "speaker")
SPEEDS = (0.5, 2.0)


@dataclasses.dataclass(frozen=True)
class Request:
  """One utterance to synthesise.

  Attributes:
    text: what to say; long text is split at sentence ends.
    voice: who says it.
    seed: 0 .. 2^32 - 1. Equal requests give equal audio, whatever else runs in the batch.
    instruction: how to say it ("say it happily"); put before the end-of-prompt tag by the
      library, so the text never needs that tag.
    mode: one of `MODES`, or None to take what voice and instruction allow (see `resolve_mode`).
    speed: 1 as the model speaks, 2 twice as fast; pitch is kept.
  """

  text: str
  voice: Voice
  seed: int = 0
  instruction: str | None = None
  mode: str | None = None
  speed: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
  """One piece of an utterance, as it was spoken.

  Attributes:
    text: after normalisation; empty in voice conversion.
    tokens_U: int32 speech tokens.
    ended: "end" (the model ended it), "length" (stopped at the maximum), "given" (no LM).
    seconds: of audio.
  """

  text: str
  tokens_U: np.ndarray
  ended: str
  seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
  """Synthesised speech.

  Attributes:
    samples_A: float32 in [-1, 1], mono.
    pieces: what was spoken, in order.
    rate: Hz.
  """

  samples_A: np.ndarray
  pieces: tuple[Piece, ...]
  rate: int

  @property
  def seconds(self) -> float:
    return len(self.samples_A) / self.rate

  def save(self, path: str | Path) -> None:
    """Writes a sound file (format by its ending), whole or not at all.

    Raises:
      OutputError: the file cannot be written.
    """
    from cosyjax.audio import write

    write(path, self.samples_A, self.rate)


def resolve_mode(request: Request) -> str:
  """The mode a request runs in.

  - zero_shot: the LM continues the prompt (transcript and tokens); needs both.
  - cross_lingual: no prompt for the LM, so the text may be in another language.
  - instruct: the instruction takes the transcript's place; the LM sees no prompt tokens.
  - speaker: nothing but a speaker vector is known.

  Raises:
    ConfigError: the request contradicts itself or its voice lacks what the mode needs.
  """
  voice, mode = request.voice, request.mode
  has_prompt, says = len(voice.tokens_U) > 0, bool(voice.transcript.strip())
  if not 0 <= request.seed < 2**32:
    raise ConfigError(f"seed: expected 0 .. 2^32 - 1, found {request.seed}")
  if not SPEEDS[0] <= request.speed <= SPEEDS[1]:
    raise ConfigError(f"speed: expected {SPEEDS[0]} .. {SPEEDS[1]}, found {request.speed}")
  if mode is None:
    if request.instruction is not None:
      return "instruct" if has_prompt else "speaker"
    return "speaker" if not has_prompt else "zero_shot" if says else "cross_lingual"
  if mode not in MODES:
    raise ConfigError(f"mode: expected one of {MODES}, found {mode!r}")
  if mode == "instruct" and request.instruction is None:
    raise ConfigError("mode 'instruct' needs an instruction")
  if mode in ("zero_shot", "cross_lingual") and request.instruction is not None:
    raise ConfigError(f"mode {mode!r} takes no instruction; leave mode out, or name 'instruct'")
  if mode != "speaker" and not has_prompt:
    raise ConfigError(f"mode {mode!r} needs a voice made from a recording; this one is a speaker vector alone")
  if mode == "zero_shot" and not says:
    raise ConfigError("mode 'zero_shot' needs the prompt's transcript; give it to voice(), or use 'cross_lingual'")
  return mode
