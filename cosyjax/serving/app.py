"""The application: routes behind one door, over one `Service`.

app = make_app(service)  # any ASGI server runs it; cosyjax.serving.server does it with a drain at the end
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.routing import Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from cosyjax.serving.gate import Gate
from cosyjax.serving.operation_routes import OperationRoutes
from cosyjax.serving.service import Service
from cosyjax.serving.speech_routes import SpeechRoutes
from cosyjax.serving.text_socket import TextSocket
from cosyjax.serving.voice_routes import VoiceRoutes


def make_app(service: Service, *, starts: bool = False) -> Gate:
  """The ASGI application of a service.

  Args:
    service: that speaks.
    starts: whether the application's start and end (ASGI's lifespan) are those of the service too.
  """
  speech, voices, operation = SpeechRoutes(service), VoiceRoutes(service), OperationRoutes(service)

  async def speech_stream(socket: WebSocket) -> None:
    await TextSocket(service, socket).run()

  @contextlib.asynccontextmanager
  async def lifespan(_: Any) -> AsyncIterator[None]:
    if starts:
      await service.start(wait=False)
    yield
    if starts:
      await service.drain()
      await service.stop()

  get, post, delete = ["GET"], ["POST"], ["DELETE"]
  routes = [
    Route("/v1/audio/speech", speech.speech, methods=post),
    Route("/v1/audio/speech/batch", speech.batch, methods=post),
    Route("/v1/audio/conversions", speech.conversion, methods=post),
    WebSocketRoute("/v1/audio/speech/stream", speech_stream),
    Route("/v1/audio/voices", voices.add, methods=post),
    Route("/v1/audio/voices/{name}", voices.delete, methods=delete),
    Route("/v1/models/{model:path}", speech.model, methods=get),
    Route("/health", operation.health, methods=get),
    Route("/ready", operation.ready, methods=get),
    Route("/metrics", operation.metrics, methods=get),
    Route("/openapi.json", operation.openapi, methods=get),
    Route("/v1", operation.v1, methods=get),
  ]
  routes += [Route(f"{base}/audio/voices", voices.voices, methods=get) for base in ("/v1", "")]
  routes += [Route(path, speech.models, methods=get) for path in ("/v1/models", "/v1/audio/models", "/audio/models")]
  routes.append(Route("/audio/speech", speech.speech, methods=post))  # clients whose base URL has no /v1
  if service.settings.page:
    routes += [Route("/", operation.page, methods=get), Route("/page/{file}", operation.page, methods=get)]
  return Gate(Router(routes, redirect_slashes=False, lifespan=lifespan), service, operation.is_page)
