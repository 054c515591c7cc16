"""Runs the application with uvicorn: one process, one event loop, and a drain when it is told to stop."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cosyjax.serving.app import make_app
from cosyjax.serving.service import Service
from cosyjax.serving.wyoming_port import WyomingPort

log = logging.getLogger("cosyjax.serving")

HEADERS = 32 << 10  # bytes of a request's head
HEAD_SECONDS = 15.0  # within which it has to arrive
SOCKET_BYTES = 1 << 20  # of one message of a WebSocket
BACKLOG = 512


class PatientProtocol(H11Protocol):
  """HTTP/1.1, with an end to the patience for a first request's head."""

  def connection_made(self, transport: Any) -> None:
    """Starts the clock of a connection."""
    super().connection_made(transport)
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
      # asyncio does so for sockets of its own making alone; without it a small packet waits 40 ms for an answer.
      sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_late)

  def connection_lost(self, exc: Exception | None) -> None:
    """Stops the clock."""
    self._head_timer.cancel()
    super().connection_lost(exc)

  def _head_late(self) -> None:
    if self.cycle is None and not self.transport.is_closing():
      self.transport.close()


class Server(uvicorn.Server):
  """uvicorn's server; SIGTERM and SIGINT first refuse new requests and let those that run finish."""

  def __init__(self, config: uvicorn.Config, service: Service) -> None:
    super().__init__(config)
    self._service = service
    self._draining: asyncio.Task | None = None

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Takes SIGTERM and SIGINT, where this is the main thread."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
      yield
      return
    for number in (signal.SIGTERM, signal.SIGINT):
      loop.add_signal_handler(number, self.end)
    try:
      yield
    finally:
      for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)

  def end(self) -> None:
    """Begins to drain; a second call ends at once."""
    if self._draining is not None:
      self.should_exit = self.force_exit = True
      return
    self._draining = asyncio.get_running_loop().create_task(self._drain())

  async def _drain(self) -> None:
    log.warning("stopping: running requests finish", extra={"fields": {"limit": self._service.settings.limits.drain}})
    done = await self._service.drain()
    log.warning("stopped" if done else "stopped: some requests were cut off", extra={"fields": {}})
    await asyncio.sleep(0.2)  # for last bytes
    self.should_exit = True


async def run(service: Service, *, wyoming: tuple[str, int] | None = None, sock: socket.socket | None = None) -> None:
  """Serves until a signal ends it.

  Args:
    service: not started yet.
    wyoming: host and port of the Wyoming protocol; None for none.
    sock: a bound socket, in place of the settings' host and port.

  Raises:
    OSError: an address is taken.
  """
  settings, limits = service.settings, service.settings.limits
  config = uvicorn.Config(
    make_app(service),
    host=settings.host,
    port=settings.port,
    http=PatientProtocol,
    ws="websockets-sansio",
    ws_max_size=SOCKET_BYTES + 4 * limits.recording // 3,
    ws_per_message_deflate=False,
    h11_max_incomplete_event_size=HEADERS,
    timeout_keep_alive=10,
    timeout_graceful_shutdown=2,
    backlog=BACKLOG,
    lifespan="off",
    access_log=False,
    log_config=None,
    server_header=False,
    proxy_headers=False,
  )
  server, port = Server(config, service), WyomingPort(service)
  starting = asyncio.create_task(service.start())
  starting.add_done_callback(lambda task: task.cancelled() or task.exception() is None or server.end())
  try:
    if wyoming is not None:
      await port.start(*wyoming)
    await server.serve(sockets=[sock] if sock is not None else None)
  finally:
    await port.stop()
    starting.cancel()
    await service.stop()
  if not starting.cancelled() and starting.exception() is not None:
    raise starting.exception()


class JsonLines(logging.Formatter):
  """Log records as one JSON object a line."""

  def format(self, record: logging.LogRecord) -> str:
    """A record as one line."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
    line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
    line |= getattr(record, "fields", {})
    if record.exc_info:
      line["trace"] = self.formatException(record.exc_info)
    return json.dumps(line, ensure_ascii=False, default=str)


def log_to(stream: Any = None, level: int = logging.INFO) -> None:
  """Sends the server's log lines to a stream; standard error if None."""
  handler = logging.StreamHandler(stream or sys.stderr)
  handler.setFormatter(JsonLines())
  handler.addFilter(lambda record: "returned without completing" not in record.getMessage())  # answers cut on purpose
  for name in ("cosyjax.serving", "uvicorn.error"):
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level if name.startswith("cosyjax") else logging.WARNING)
