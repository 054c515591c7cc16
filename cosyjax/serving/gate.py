"""The door: who may come in, how much they may bring, and what is noted down of it."""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.service import Service
from cosyjax.serving.settings import is_loopback

log = logging.getLogger("cosyjax.serving")

OPEN = ("/health", "/ready", "/openapi.json")  # no key needed; the page neither, it asks for one
KEY_PROTOCOL = "cosyjax.key."  # a page's WebSocket cannot set headers, so the key comes as a subprotocol
SPILL = 16 << 20  # bytes of a refused body that are read and thrown away, so that its sender sees the answer
SPILL_SECONDS = 5.0
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = "GET, POST, DELETE, OPTIONS"


class Gate:
  """ASGI middleware around the whole application."""

  def __init__(self, app: Any, service: Service, page_paths: Callable[[str], bool]) -> None:
    """
    Args:
      app: behind the door.
      service: whose settings, limits and meters count.
      page_paths: whether a path belongs to the page, which may be fetched without a key.
    """
    self._app, self._service, self._settings = app, service, service.settings
    self._is_page, self._open = page_paths, 0

  async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serves one request or socket."""
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
      return
    visit = _Visit(scope, receive, send, self._service)
    self._open += 1
    self._service.meters.connections.set(self._open)
    try:
      if await self._enter(visit):
        scope["app"] = self  # makes the router raise what it does not find
        await self._app(scope, visit.receive, visit.send)
    except HTTPException as error:  # of the router: no such route, or another method
      await visit.refuse(
        Problem(error.status_code, error.detail, "not_found" if error.status_code == 404 else "bad_method")
      )
    except Exception as error:
      await visit.refuse(error)
    finally:
      self._open -= 1
      self._service.meters.connections.set(self._open)
      visit.note()

  async def _enter(self, visit: "_Visit") -> bool:
    """Whether the request goes on to the application."""
    if self._open > self._settings.limits.connections and visit.path not in OPEN:
      wait = self._settings.limits.retry_after
      raise Problem(429, "too many connections; try again later", "busy", None, wait)
    self._check_host(visit.header("host"))
    preflight = self._check_origin(visit)
    if preflight:
      await visit.answer(204, {"access-control-max-age": "600"}, b"")
      return False
    self._check_key(visit)
    if visit.header("content-encoding") not in ("", "identity"):
      raise Problem(415, "compressed bodies are not taken", "unsupported_encoding")
    length = visit.header("content-length")
    if length and (not length.isdigit() or len(length) > 18 or int(length) > self._settings.limits.body):
      raise Problem(413, f"expected a body of at most {self._settings.limits.body} bytes", "too_large")
    return True

  def _check_host(self, host: str) -> None:
    """Against names that lead here without being ours (DNS rebinding)."""
    allowed = self._settings.hosts
    if not allowed and not is_loopback(self._settings.host):
      return
    name = _host_name(host)
    if name not in allowed and not is_loopback(name):
      raise Problem(403, "this server does not go by that name; see --allow-host", "host_refused")

  def _check_origin(self, visit: "_Visit") -> bool:
    """Refuses pages of other origins. Returns whether this is a preflight that has been granted."""
    origin = visit.header("origin")
    if not origin:
      return False
    allowed = self._settings.origins
    granted = "*" in allowed or origin in allowed
    if granted:
      visit.more |= {"access-control-allow-origin": origin, "vary": "Origin", "access-control-expose-headers": "*"}
    elif not _same(origin, visit.header("host")):
      raise Problem(403, "pages of other origins may not call this server; see --cors-origin", "origin_refused")
    if visit.method == "OPTIONS" and visit.header("access-control-request-method"):
      asked = visit.header("access-control-request-headers")
      names = asked if re.fullmatch(r"[A-Za-z0-9 ,_-]{0,512}", asked) else "authorization, content-type"
      visit.more |= {"access-control-allow-methods": _METHODS, "access-control-allow-headers": names}
      return granted
    return False

  def _check_key(self, visit: "_Visit") -> None:
    keys = self._settings.keys
    if keys is None or visit.path in OPEN or (visit.method == "GET" and self._is_page(visit.path)):
      return
    given = visit.header("authorization")
    key = given[7:].strip() if given[:7].lower() == "bearer " else visit.header("x-api-key") or visit.header("api-key")
    if not key and visit.is_socket:
      offered = visit.scope.get("subprotocols") or []
      key = next((p.removeprefix(KEY_PROTOCOL) for p in offered if p.startswith(KEY_PROTOCOL)), "")
    if not keys.admit(key):
      said = "expected an API key in the header `Authorization: Bearer ...`; found " + (
        "another one" if key else "none"
      )
      raise Problem(401, said, "invalid_api_key")


class _Visit:
  """One request or socket: its headers, what it has sent, and how it was answered."""

  def __init__(self, scope: dict[str, Any], receive: Any, send: Any, service: Service) -> None:
    self.scope, self._receive, self._send, self._service = scope, receive, send, service
    self.is_socket = scope["type"] == "websocket"
    self.method, self.path = scope.get("method", "WEBSOCKET"), scope.get("path", "")
    self._headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
    given = self.header("x-request-id")
    self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
    self.more: dict[str, str] = {"x-request-id": self.id, "x-content-type-options": "nosniff"}
    self.status, self._began, self._body, self._body_done = 0, time.perf_counter(), 0, False
    self._deadline = self._began + service.settings.limits.body_seconds
    scope.setdefault("state", {})
    scope["state"] |= {"request_id": self.id, "facts": {}}

  def header(self, name: str) -> str:
    return self._headers.get(name, "")

  async def receive(self) -> dict[str, Any]:
    """Hands on what comes, as far as a body's limits go."""
    limits = self._service.settings.limits
    if self.is_socket or self._body_done:
      return await self._receive()
    try:
      message = await asyncio.wait_for(self._receive(), max(self._deadline - time.perf_counter(), 0.001))
    except TimeoutError as error:
      raise Problem(408, f"the body did not arrive within {limits.body_seconds:g} s", "timeout") from error
    if message["type"] == "http.request":
      self._body += len(message.get("body", b""))
      self._body_done = not message.get("more_body", False)
      if self._body > limits.body:
        raise Problem(413, f"expected a body of at most {limits.body} bytes", "too_large")
    else:
      self._body_done = True
    return message

  async def send(self, message: dict[str, Any]) -> None:
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
      self.status = message["status"]
      there = {k.lower() for k, _ in message.get("headers", [])}
      more = [(k.encode(), v.encode("latin-1")) for k, v in self.more.items() if k.encode() not in there]
      message = message | {"headers": [*message.get("headers", []), *more]}
    elif message["type"] == "websocket.accept":
      self.status = 101
      offered = self.scope.get("subprotocols") or []
      if "cosyjax" in offered and any(p.startswith(KEY_PROTOCOL) for p in offered):
        message = message | {"subprotocol": "cosyjax"}
    await self._send(message)

  async def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
    """Answers a request, or the handshake of a socket that is refused."""
    names = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    names.append((b"content-length", str(len(body)).encode()))
    if not self.is_socket:
      await self.send({"type": "http.response.start", "status": status, "headers": names})
      await self.send({"type": "http.response.body", "body": body})
    elif "websocket.http.response" in self.scope.get("extensions", {}):
      await self.send({"type": "websocket.http.response.start", "status": status, "headers": names})
      await self.send({"type": "websocket.http.response.body", "body": body})
    else:
      self.status = status
      await self._send({"type": "websocket.close", "code": 1008})

  async def refuse(self, error: Exception) -> None:
    """Answers an error, if nothing has been answered yet."""
    problem = problem_of(error, retry_after=self._service.settings.limits.retry_after)
    if problem.code == "internal_error":
      log.error("a request failed", exc_info=error, extra={"fields": {"id": self.id, "path": self.path}})
    if self.status:  # in the middle of an answer: cutting it off is all that can be done, and the server does so
      self.scope["state"]["facts"] |= {"cut": problem.code}
      return
    if not self.is_socket and not self._body_done and problem.status != 408:
      await self._spill()
    headers = {"content-type": "application/json"} | problem.headers()
    await self.answer(problem.status, headers, json.dumps(problem.body()).encode())

  async def _spill(self) -> None:
    """Reads on for a while: whoever is still sending would otherwise find the line cut and no answer."""
    taken, end = 0, time.perf_counter() + SPILL_SECONDS
    if self.header("expect").lower() == "100-continue":
      return
    while taken < SPILL and not self._body_done and (left := end - time.perf_counter()) > 0:
      try:
        message = await asyncio.wait_for(self._receive(), left)
      except TimeoutError:
        return
      taken += len(message.get("body", b""))
      self._body_done = message["type"] != "http.request" or not message.get("more_body", False)

  def note(self) -> None:
    """One line in the log and one count, without texts."""
    name = getattr(self.scope.get("endpoint"), "__name__", "other")
    self._service.meters.http.labels(name, str(self.status)).inc()
    fields = {"id": self.id, "method": self.method, "route": name, "status": self.status}
    fields |= {"seconds": round(time.perf_counter() - self._began, 4)} | self.scope["state"]["facts"]
    level = logging.DEBUG if name in ("health", "ready", "metrics", "page") else logging.INFO
    log.log(level, "answered", extra={"fields": fields})


def _host_name(host: str) -> str:
  """Of a Host header, without its port."""
  host = host.strip().lower()
  return host[1 : host.find("]")] if host.startswith("[") else host.rsplit(":", 1)[0] if ":" in host else host


def _same(origin: str, host: str) -> bool:
  try:
    return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
  except ValueError:
    return False
