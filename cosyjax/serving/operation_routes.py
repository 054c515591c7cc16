"""HTTP routes for those who run the server, and the page."""

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cosyjax.serving.description import describe
from cosyjax.serving.service import Service
from cosyjax.version import __version__

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
  "media-src blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class OperationRoutes:
  """Handlers; see docs/serving.md."""

  def __init__(self, service: Service) -> None:
    self._service = service
    self._files = _page_files() if service.settings.page else {}

  async def health(self, request: Request) -> Response:
    """GET /health: the process answers."""
    about = {"status": "ok", "version": __version__, "engine": self._service.state()}
    return JSONResponse(about | {"random_weights": self._service.settings.random_weights})

  async def ready(self, request: Request) -> Response:
    """GET /ready: requests are taken."""
    ready = self._service.ready
    return JSONResponse({"ready": ready, "engine": self._service.state()}, 200 if ready else 503)

  async def metrics(self, request: Request) -> Response:
    """GET /metrics"""
    self._service.look()
    return Response(self._service.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

  async def v1(self, request: Request) -> Response:
    """GET /v1: clients that look whether somebody is there."""
    return JSONResponse({"object": "api", "model": self._service.settings.model_name})

  async def openapi(self, request: Request) -> Response:
    """GET /openapi.json"""
    return JSONResponse(describe(self._service.settings))

  async def page(self, request: Request) -> Response:
    """GET / and its files, which are read once, at the start."""
    name = request.path_params.get("file", "index.html")
    if name not in self._files:
      return JSONResponse(
        {"error": {"message": "not found", "type": "invalid_request_error", "code": "not_found"}}, 404
      )
    data, kind, tag = self._files[name]
    headers = {
      "etag": tag,
      "cache-control": "no-cache",
      "content-security-policy": POLICY,
      "referrer-policy": "no-referrer",
    }
    if request.headers.get("if-none-match") == tag:
      return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)

  def is_page(self, path: str) -> bool:
    """Whether a path belongs to the page."""
    return path == "/" or (path.startswith("/page/") and path.removeprefix("/page/") in self._files)


def _page_files() -> dict[str, tuple[bytes, str, str]]:
  """Name -> bytes, media type and tag of each file of the page."""
  found = {}
  for entry in (resources.files("cosyjax.serving") / "page").iterdir():
    kind = TYPES.get(entry.name.rsplit(".", 1)[-1])
    if kind is not None:
      data = entry.read_bytes()
      found[entry.name] = data, kind, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
  return found
