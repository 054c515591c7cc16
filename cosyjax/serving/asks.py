"""What a client asks for, as a value that every protocol fills in, and how it becomes a call of the engine."""

import dataclasses
import inspect
from typing import Any

from cosyjax.inference.engine import Engine
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import PRESETS
from cosyjax.inference.voice import Voice
from cosyjax.serving.encoders import FORMATS
from cosyjax.serving.problems import Problem
from cosyjax.serving.settings import Settings
from cosyjax.serving.stretch import split_speed

SPEEDS = (0.25, 4.0)
FLOW_STEPS = (1, 64)
LANGUAGES = {
  "english": "en", "chinese": "zh", "mandarin": "zh", "japanese": "ja", "korean": "ko", "cantonese": "yue",
  "german": "de", "french": "fr", "russian": "ru", "portuguese": "pt", "spanish": "es", "italian": "it",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ask:
  """One request for speech.

  Attributes:
    text: what to say; None where it arrives in pieces.
    voice: a name, or a voice itself.
    format: one of `FORMATS`.
    instruction: how to say it.
    speed: 1 as the model speaks; beyond half and twice the audio is stretched here.
    seed: equal seeds give equal audio.
    language: of the text, as a code or an English name; None or "auto" to find out.
    ref_audio, ref_text: a recording of the voice to take (see `received_audio.from_reference`) and what it says.
    flow_steps: Euler steps of the flow.
    history: what the flow keeps of the stream.
    schedule: sizes of chunks, by name.
    route: for metrics.
  """

  text: str | None
  voice: str | Voice | None = None
  format: str = "mp3"
  instruction: str | None = None
  speed: float = 1.0
  seed: int = 0
  language: str | None = None
  ref_audio: str | None = None
  ref_text: str | None = None
  flow_steps: int | None = None
  history: str | None = None
  schedule: str | None = None
  route: str = "python"


def check(ask: Ask, settings: Settings) -> None:
  """Refuses what no engine could serve, or not this server's.

  Raises:
    Problem: naming the field.
  """
  limits, most = settings.limits, settings.flow_steps or FLOW_STEPS[1]
  if ask.text is not None:
    if not ask.text.strip():
      raise Problem(400, "input: expected text to speak, found none", "invalid_text", "input")
    if len(ask.text) > limits.text:
      found = f"expected at most {limits.text} characters, found {len(ask.text)}"
      raise Problem(400, f"input: {found}", "text_too_long", "input")
  for name, value in (("instructions", ask.instruction), ("ref_text", ask.ref_text)):
    if value is not None and len(value) > limits.instruction:
      raise Problem(400, f"{name}: expected at most {limits.instruction} characters", "text_too_long", name)
  if ask.format not in FORMATS:
    raise Problem(400, f"response_format: expected one of {', '.join(FORMATS)}", "invalid_value", "response_format")
  if not SPEEDS[0] <= ask.speed <= SPEEDS[1]:
    raise Problem(400, f"speed: expected {SPEEDS[0]} to {SPEEDS[1]}, found {ask.speed}", "invalid_value", "speed")
  if not 0 <= ask.seed < 2**32:
    raise Problem(400, "seed: expected 0 to 2^32 - 1", "invalid_value", "seed")
  if ask.flow_steps is not None and not FLOW_STEPS[0] <= ask.flow_steps <= most:
    expected = f"expected {FLOW_STEPS[0]} to {most} on this server"
    raise Problem(400, f"flow_steps: {expected}, found {ask.flow_steps}", "invalid_value", "flow_steps")
  if ask.schedule is not None and ask.schedule not in PRESETS:
    raise Problem(400, f"schedule: expected one of {', '.join(PRESETS)}", "invalid_value", "schedule")
  if ask.history is not None and ask.history != settings.history:
    raise Problem(
      400, f"history: this server keeps {settings.history!r} for all requests", "unsupported_value", "history"
    )


def engine_options(ask: Ask, engine: Engine) -> dict[str, Any]:
  """Arguments of `Engine.stream` beyond text and voice.

  Raises:
    Problem: the engine does not take an option that was asked for.
  """
  speed, _ = split_speed(ask.speed)
  language = (ask.language or "").strip().lower()
  wanted = {
    "instruction": ask.instruction or None,
    "schedule": ask.schedule,
    "speed": None if speed == 1 else speed,
    "flow_steps": ask.flow_steps,
    "language": None if language in ("", "auto") else LANGUAGES.get(language, language),
  }
  given = {name: value for name, value in wanted.items() if value is not None}
  parameters = inspect.signature(engine.stream).parameters
  taken = set(parameters)
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    taken |= {field.name for field in dataclasses.fields(Request)}
  for name in given:
    if name not in taken:
      raise Problem(400, f"{name}: this server's engine has one setting for all requests", "unsupported_value", name)
  return {"seed": ask.seed} | given
