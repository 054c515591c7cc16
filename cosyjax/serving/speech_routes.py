"""HTTP routes that speak: one text, a batch, a conversion."""

import asyncio
import base64
import json
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cosyjax.serving.answers import Answer, Send, body, speech_answer, start, whole
from cosyjax.serving.asks import Ask
from cosyjax.serving.bodies import BatchBody, Options, SpeechBody, check_model, parse_json, validated
from cosyjax.serving.encoders import FORMATS
from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.service import Service
from cosyjax.serving.settings import OPENAI_MODELS
from cosyjax.serving.voice_routes import read_form

TOGETHER = 8  # items of a batch under way at once


class SpeechRoutes:
  """Handlers; see docs/serving.md."""

  def __init__(self, service: Service) -> None:
    self._service = service

  async def _json(self, request: Request) -> Any:
    return parse_json(await request.body())

  def _check_model(self, options: Options) -> None:
    check_model(options.model, (self._service.settings.model_name, *OPENAI_MODELS))

  async def speech(self, request: Request) -> Response:
    """POST /v1/audio/speech"""
    asked = validated(SpeechBody, await self._json(request))
    self._check_model(asked)
    sse = asked.stream_format == "sse"
    return speech_answer(self._service, asked.ask(asked.input, "sse" if sse else "speech"), sse)

  async def batch(self, request: Request) -> Response:
    """POST /v1/audio/speech/batch"""
    asked = validated(BatchBody, await self._json(request))
    most = self._service.settings.limits.batch
    if len(asked.items) > most:
      raise Problem(400, f"items: expected 1 to {most}, found {len(asked.items)}", "invalid_value", "items")
    self._check_model(asked)
    asks = [item.ask(item.input, "batch", asked, "wav") for item in asked.items]

    async def work(scope: dict[str, Any], send: Send) -> None:
      together = asyncio.Semaphore(TOGETHER)
      async with asyncio.TaskGroup() as group:  # leaving it early cancels what still runs
        tasks = [group.create_task(self._item(n, ask, together)) for n, ask in enumerate(asks)]
      results = [task.result() for task in tasks]
      good = sum(r["status"] == "success" for r in results)
      answer = {"id": f"speech-batch-{secrets.token_hex(8)}", "results": results, "total": len(results)}
      data = json.dumps(answer | {"succeeded": good, "failed": len(results) - good}).encode()
      await start(send, 200, {"content-type": "application/json", "content-length": str(len(data))})
      await body(send, data, self._service.settings.limits.stall, more=False)

    return Answer(work)

  async def _item(self, number: int, ask: Ask, together: asyncio.Semaphore) -> dict[str, Any]:
    async with together:
      try:
        data, used, _ = await whole(self._service, ask)
      except Exception as error:
        problem = problem_of(error)
        return {"index": number, "status": "error", "error": problem.message, "code": problem.code}
    coded = base64.b64encode(data).decode()
    media_type = FORMATS[ask.format].media_type
    return {"index": number, "status": "success", "audio_data": coded, "media_type": media_type, "usage": used}

  async def conversion(self, request: Request) -> Response:
    """POST /v1/audio/conversions"""
    fields, files = await read_form(request, {"audio": True})
    seed = fields.get("seed", "0")
    if not seed.isdigit() or len(seed) > 10:
      raise Problem(400, "seed: expected 0 to 2^32 - 1", "invalid_value", "seed")
    names = ("model", "voice", "response_format", "ref_text", "ref_audio")
    values = {name: fields[name] for name in names if name in fields} | {"seed": int(seed)}
    asked = validated(Options, values)
    self._check_model(asked)
    ask = asked.ask(None, "conversion", default_format="wav")

    async def work(scope: dict[str, Any], send: Send) -> None:
      data = await self._service.convert(files["audio"].data, ask)
      kind = FORMATS[ask.format].media_type
      await start(send, 200, {"content-type": kind, "content-length": str(len(data))})
      await body(send, data, self._service.settings.limits.stall, more=False)

    return Answer(work)

  async def models(self, request: Request) -> Response:
    """GET /v1/models, and GET /v1/audio/models"""
    return JSONResponse({"object": "list", "data": self._models(), "models": self._models()})

  async def model(self, request: Request) -> Response:
    """GET /v1/models/{model}"""
    name = request.path_params["model"]
    found = next((m for m in self._models() if m["id"] == name), None)
    if found is None:
      raise Problem(404, "there is no such model here", "model_not_found", "model")
    return JSONResponse(found)

  def _models(self) -> list[dict[str, Any]]:
    settings = self._service.settings
    about = {"object": "model", "created": 0, "owned_by": "cosyjax"}
    ours = {"id": settings.model_name, "name": settings.model_name} | about
    if settings.random_weights:
      ours["description"] = "random weights: it makes noise, not speech"
    return [ours, *({"id": name, "name": name} | about for name in OPENAI_MODELS)]
