"""What is asked for and what comes back, as values."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax import config as config_lib
from cosyjax.errors import ConfigError
from cosyjax.inference.voice import Voice
from cosyjax.lm.sampling import CANDIDATES
from cosyjax.text.language import LANGUAGES, detect_language
from cosyjax.text.lexicon import Lexicon

MODES = ("zero_shot", "cross_lingual", "instruct", "speaker")
SAMPLERS = ("repetition_aware", "nucleus", "greedy")
MAX_WINDOW = 64  # recent speech tokens that repetition-aware sampling can look at
RANGES = {  # of what may be asked for, both ends included
  "seed": (0, 2**32 - 1),
  "speed": (0.5, 2.0),
  "temperature": (0.01, 10.0),
  "top_p": (0.0, 1.0),
  "top_k": (1, CANDIDATES),
  "repeat_window": (0, MAX_WINDOW),
  "repeat_rate": (0.0, math.inf),
  "flow_steps": (1, 100),
  "guidance": (0.0, 10.0),
}


@dataclasses.dataclass(frozen=True)
class Request:
  """A text to speak, by whom and how. What is None takes the model's default.

  Attributes:
    text: what to say; long text is split at sentence ends.
    voice: who says it.
    seed: 0 .. 2^32 - 1. Equal requests give equal audio, whatever else runs in the batch.
    instruction: how to say it ("say it happily"); put before the end-of-prompt tag by the
      library, so the text never needs that tag.
    mode: one of `MODES`, or None to take what voice and instruction allow (see `resolve_mode`).
    speed: 1 as the model speaks, 2 twice as fast; pitch is kept.
    language: how the text is read: "en", "zh", "other", or "auto", which finds out; digits and signs
      alone are then read in the language of the voice's transcript.
    lexicon: words of the caller's to put in the place of words, after reading.
    sampler: one of `SAMPLERS`: nucleus sampling that replaces what repeats (the model's way), nucleus
      sampling alone, or the likeliest token.
    temperature: above 1 flattens the distribution of speech tokens, below 1 sharpens it.
    top_p, top_k: size of the nucleus, by probability and by number.
    repeat_window: how many recent tokens a drawn one is compared with.
    repeat_rate: share of the window that a token may fill before it is drawn again from the whole distribution.
    flow_steps: Euler steps of the flow.
    guidance: strength of the flow's classifier-free guidance.
  """

  text: str
  voice: Voice
  seed: int = 0
  instruction: str | None = None
  mode: str | None = None
  speed: float = 1.0
  language: str = "auto"
  lexicon: Lexicon | None = None
  sampler: str | None = None
  temperature: float | None = None
  top_p: float | None = None
  top_k: int | None = None
  repeat_window: int | None = None
  repeat_rate: float | None = None
  flow_steps: int | None = None
  guidance: float | None = None

  @property
  def reading(self) -> dict[str, Any]:
    """What the text front end has to know: arguments of `cosyjax.text.prepare` and `TextStream`."""
    prompt_language = detect_language(self.voice.transcript)
    return {"language": self.language, "prompt_language": prompt_language, "lexicon": self.lexicon}

  def resolved(self, config: config_lib.ModelConfig) -> "Request":
    """The same request with nothing left open: mode and defaults filled in, the voice as the flow sees it.

    Raises:
      ConfigError: a value is out of its range, or the request contradicts itself (see `resolve_mode`).
    """
    mode, lm = resolve_mode(self), config.lm
    defaults = {
      "sampler": SAMPLERS[0],
      "temperature": 1.0,
      "top_p": lm.top_p,
      "top_k": lm.top_k,
      "repeat_window": lm.repeat_window,
      "repeat_rate": lm.repeat_rate,
      "flow_steps": config.flow.steps,
      "guidance": config.flow.guidance,
    }
    filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
    voice = Voice.from_speaker(self.voice.speaker_E, config.flow.mel_bins) if mode == "speaker" else self.voice
    return dataclasses.replace(self, mode=mode, voice=voice, **filled)


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
  """A stretch of a request's text, as it was spoken.

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
    segments: what was spoken, in order.
    rate: Hz.
  """

  samples_A: np.ndarray
  segments: tuple[Segment, ...]
  rate: int

  @property
  def seconds(self) -> float:
    """Length of the audio."""
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
    ConfigError: a value is out of its range, the request contradicts itself, or its voice lacks what the mode needs.
  """
  voice, mode = request.voice, request.mode
  has_prompt, says = len(voice.tokens_U) > 0, bool(voice.transcript.strip())
  for name, (low, high) in RANGES.items():
    value = getattr(request, name)
    if value is not None and not low <= value <= high:
      raise ConfigError(f"{name}: expected {low} .. {high}, found {value}")
  if request.language not in LANGUAGES:
    raise ConfigError(f"language: expected one of {LANGUAGES}, found {request.language!r}")
  if request.lexicon is not None and not isinstance(request.lexicon, Lexicon):
    raise ConfigError(f"lexicon: expected a cosyjax.text.Lexicon, found {type(request.lexicon).__name__}")
  if request.sampler is not None and request.sampler not in SAMPLERS:
    raise ConfigError(f"sampler: expected one of {SAMPLERS}, found {request.sampler!r}")
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
