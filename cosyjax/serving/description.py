"""The OpenAPI description, made from the bodies that the routes read."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cosyjax.serving.bodies import BatchBody, SpeechBody
from cosyjax.serving.encoders import FORMATS
from cosyjax.serving.settings import Settings
from cosyjax.version import __version__

_REF = "#/components/schemas/{model}"
_ERROR = {
  "type": "object",
  "required": ["error"],
  "properties": {
    "error": {
      "type": "object",
      "required": ["message", "type", "param", "code"],
      "properties": {
        "message": {"type": "string"},
        "type": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
      },
    }
  },
}
_STATUSES = {
  "400": "The request is wrong; `param` names the field.",
  "401": "No API key, or a wrong one.",
  "403": "Not allowed on this server.",
  "404": "No such model, voice or route.",
  "408": "The body did not arrive in time.",
  "413": "Too large.",
  "415": "Another kind of body is expected.",
  "429": "Full; `Retry-After` says when to try again.",
  "500": "The request failed inside the server.",
  "503": "The server is starting or stopping.",
  "507": "The disk is full.",
}


def describe(settings: Settings) -> dict[str, Any]:
  """The description of a server with these settings."""
  kinds: list[type[BaseModel]] = [SpeechBody, BatchBody]
  _, schemas = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_REF)
  audio = {form.media_type: {"schema": {"type": "string", "format": "binary"}} for form in FORMATS.values()}
  name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
  model = name | {"name": "model"}
  voices = {
    "get": _operation("Voices", _json({"type": "object"})),
    "post": _operation(
      "Make a voice",
      _json({"type": "object"}),
      _form(
        {
          "audio_sample": _file(),
          "name": {"type": "string", "minLength": 1},
          "consent": {"type": "string", "minLength": 1},
          "ref_text": {"type": "string"},
          "speaker_description": {"type": "string"},
        },
        ["audio_sample", "name", "consent"],
      ),
    ),
  }
  conversion = {
    "audio": _file(),
    "voice": {"type": "string"},
    "response_format": {"type": "string", "enum": list(FORMATS)},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
  }
  paths = {
    "/v1/audio/speech": {
      "post": _operation("Speak", audio | {"text/event-stream": {"schema": {"type": "string"}}}, _body("SpeechBody"))
    },
    "/v1/audio/speech/batch": {
      "post": _operation("Speak several texts", _json({"type": "object"}), _body("BatchBody"))
    },
    "/v1/audio/conversions": {"post": _operation("Convert a recording", audio, _form(conversion, ["audio"]))},
    "/v1/audio/voices": voices,
    "/v1/audio/voices/{name}": {
      "delete": _operation("Delete a voice", _json({"type": "object"})) | {"parameters": [name]}
    },
    "/v1/models": {"get": _operation("Models", _json({"type": "object"}))},
    "/v1/models/{model}": {"get": _operation("A model", _json({"type": "object"})) | {"parameters": [model]}},
    "/health": {"get": _operation("Whether the process answers", _json({"type": "object"}))},
    "/ready": {"get": _operation("Whether requests are taken", _json({"type": "object"}))},
    "/metrics": {"get": _operation("Prometheus metrics", {"text/plain": {"schema": {"type": "string"}}})},
  }
  components: dict[str, Any] = {"schemas": schemas["$defs"] | {"Error": _ERROR}}
  if settings.keys is not None:
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
  return {
    "openapi": "3.1.0",
    "info": {"title": "cosyjax", "version": __version__},
    "paths": paths,
    "components": components,
    "security": [{"key": []}] if settings.keys is not None else [],
  }


def _operation(summary: str, good: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
  error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
  responses = {"200": {"description": "Done.", "content": good}}
  responses |= {status: {"description": words, "content": error} for status, words in _STATUSES.items()}
  return {"summary": summary, "responses": responses} | ({"requestBody": body} if body else {})


def _json(schema: dict[str, Any]) -> dict[str, Any]:
  return {"application/json": {"schema": schema}}


def _body(model: str) -> dict[str, Any]:
  return {"required": True, "content": _json({"$ref": _REF.format(model=model)})}


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
  schema = {"type": "object", "properties": properties, "required": required}
  return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _file() -> dict[str, Any]:
  return {"type": "string", "format": "binary"}
