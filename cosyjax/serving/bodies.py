"""Bodies of requests, as pydantic models: what they may hold, with words for the OpenAPI description."""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from cosyjax.serving.asks import FLOW_STEPS, SPEEDS, Ask
from cosyjax.serving.problems import Problem

FormatName = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
Text = Annotated[str, Field(max_length=1 << 20)]  # the operator's limit is checked after it, and is lower


class VoiceId(BaseModel):
  """A voice by its id."""

  id: str = Field(max_length=512)


class Options(BaseModel):
  """What every way of asking for speech has in common. Unknown fields are passed over."""

  model_config = ConfigDict(extra="ignore", protected_namespaces=())

  model: str | None = Field(None, max_length=256, description="The name that GET /v1/models lists, or one of OpenAI's.")
  voice: str | VoiceId | None = Field(
    None,
    validation_alias=AliasChoices("voice", "speaker"),
    description="A voice's name, any of OpenAI's voice names, or an object with an id.",
  )
  instructions: Text | None = Field(None, description='How to say it, such as "say it happily".')
  response_format: FormatName | None = Field(None, description="mp3 if left out; pcm is 24 kHz, 16 bit, little endian.")
  speed: float | None = Field(None, ge=SPEEDS[0], le=SPEEDS[1])
  seed: int | None = Field(None, ge=0, lt=2**32, description="Equal seeds give equal audio.")
  language: str | None = Field(None, max_length=64)
  ref_audio: str | None = Field(None, description="A recording of the voice to take: data URL or base64.")
  ref_text: Text | None = Field(None, description="What that recording says.")
  flow_steps: int | None = Field(None, ge=FLOW_STEPS[0], le=FLOW_STEPS[1])
  history: str | None = Field(None, max_length=32)
  schedule: str | None = Field(None, max_length=32)

  def ask(self, text: str | None, route: str, base: "Options | None" = None, default_format: str = "mp3") -> Ask:
    """The request; what is left out here is taken from `base`."""
    get = lambda name: _first(getattr(self, name), getattr(base, name, None))
    voice = get("voice")
    return Ask(
      text=text,
      voice=voice.id if isinstance(voice, VoiceId) else voice,
      format=get("response_format") or default_format,
      instruction=get("instructions"),
      speed=_first(get("speed"), 1.0),
      seed=_first(get("seed"), 0),
      language=get("language"),
      ref_audio=get("ref_audio"),
      ref_text=get("ref_text"),
      flow_steps=get("flow_steps"),
      history=get("history"),
      schedule=get("schedule"),
      route=route,
    )


class SpeechBody(Options):
  """OpenAI's body, and more."""

  input: Text = Field(description="What to say.")
  stream_format: Literal["audio", "sse"] | None = Field(None, description="Bytes of audio, or server-sent events.")


class BatchItem(Options):
  """One text of a batch; its options go before the batch's."""

  input: Text


class BatchBody(Options):
  """Several texts at once."""

  items: list[BatchItem] = Field(min_length=1)


class SessionConfig(Options):
  """First message of a WebSocket, and again between utterances."""

  stream_audio: bool = Field(True, description="False: one binary message for each stretch of speech.")
  split_granularity: Literal["none", "sentence", "clause"] = Field(
    "none", description="none: words go to the model as they come. Otherwise each sentence or clause is one request."
  )
  timestamps: bool = Field(
    False,
    validation_alias=AliasChoices("timestamps", "word_timestamps"),
    description="audio.chunk messages with base64 and approximate word times, in place of binary ones.",
  )


def _first(*values: Any) -> Any:
  return next((v for v in values if v is not None), None)


Body = TypeVar("Body", bound=BaseModel)


def parse_json(data: bytes | str) -> Any:
  """A JSON document.

  Raises:
    Problem: it is none.
  """
  try:
    return json.loads(data.decode("utf-8") if isinstance(data, bytes) else data)
  except UnicodeDecodeError as error:
    raise Problem(400, "the body is not UTF-8 text", "invalid_json") from error
  except RecursionError as error:
    raise Problem(400, "the body is nested too deeply", "invalid_json") from error
  except ValueError as error:
    raise Problem(400, f"the body is not JSON: {error}", "invalid_json") from error


def validated(kind: type[Body], value: Any) -> Body:
  """A JSON value as a body.

  Raises:
    Problem: naming the first field that is wrong, without repeating what was in it.
  """
  try:
    return kind.model_validate(value)
  except ValidationError as error:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "VoiceId")) or None
    message = first["msg"][:1].lower() + first["msg"][1:]
    raise Problem(400, f"{where or 'body'}: {message}", "invalid_value", where) from error
  except RecursionError as error:
    raise Problem(400, "the body is nested too deeply", "invalid_json") from error


def check_model(name: str | None, known: tuple[str, ...]) -> None:
  """Refuses a model that is not here.

  Raises:
    Problem: 404, as OpenAI answers.
  """
  if name and name not in known and not name.startswith("gpt-4o-mini-tts"):
    message = f"model: there is no such model here; there is {known[0]!r}"
    raise Problem(404, message, "model_not_found", "model")
