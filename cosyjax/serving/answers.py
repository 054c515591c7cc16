"""Answers whose status waits for the first packet, and whose requests end when their reader goes."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import Response

from cosyjax.errors import CosyError
from cosyjax.serving.asks import Ask
from cosyjax.serving.delivery import Chunk, Delivery
from cosyjax.serving.encoders import FORMATS
from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.service import Service

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answer(Response):
  """Runs `work(send)` until it ends or the client has gone; then cancels it."""

  def __init__(self, work: Callable[[dict[str, Any], Send], Awaitable[None]]) -> None:
    super().__init__()
    self._work = work

  async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
    """Answers one request."""
    work = asyncio.create_task(self._work(scope, send))
    gone = asyncio.create_task(_disconnected(receive))
    try:
      await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
      if not work.done():
        work.cancel()
        scope["state"]["facts"]["outcome"] = "cancelled"
      with contextlib.suppress(asyncio.CancelledError, OSError):
        await work
    finally:
      work.cancel()
      gone.cancel()


async def _disconnected(receive: Any) -> None:
  while (await receive())["type"] != "http.disconnect":
    pass


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
  """Begins an answer."""
  names = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
  await send({"type": "http.response.start", "status": status, "headers": names})


async def body(send: Send, data: bytes, stall: float, more: bool = True) -> None:
  """Sends a part; a reader who takes nothing for `stall` seconds is cut off."""
  try:
    await asyncio.wait_for(send({"type": "http.response.body", "body": data, "more_body": more}), stall)
  except TimeoutError as error:
    raise Problem(408, "the reader took nothing for too long", "stalled") from error


@contextlib.asynccontextmanager
async def reading(delivery: Delivery, facts: dict[str, Any]) -> AsyncIterator[Delivery]:
  """Sees to it that a delivery ends with its reader, and notes down what became of it."""
  try:
    yield delivery
  finally:
    delivery.cancel()
    facts |= {"outcome": delivery.outcome, "first_packet": round(delivery.first_seconds, 4)}
    facts |= {"audio_seconds": round(delivery.seconds, 3)}


def speech_answer(service: Service, ask: Ask, sse: bool) -> Answer:
  """The audio of a request, as bytes or as server-sent events."""

  async def work(scope: dict[str, Any], send: Send) -> None:
    facts, stall = scope["state"]["facts"], service.settings.limits.stall
    facts |= {"chars": len(ask.text or ""), "format": ask.format}
    if service.settings.log_texts:
      facts["text"] = ask.text
    async with reading(await service.speak(ask), facts) as delivery:
      kind = "text/event-stream" if sse else FORMATS[ask.format].media_type
      await start(send, 200, {"content-type": kind} | STREAM_HEADERS)
      parts = _events(delivery, service, ask) if sse else _bytes(delivery)
      async for part in parts:
        await body(send, part, stall)
      await body(send, b"", stall, more=False)

  return Answer(work)


async def _bytes(delivery: Delivery) -> AsyncIterator[bytes]:
  async for chunk in delivery:
    if chunk.data:
      yield chunk.data


async def _events(delivery: Delivery, service: Service, ask: Ask) -> AsyncIterator[bytes]:
  try:
    async for chunk in delivery:
      if chunk.data:
        yield event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk.data).decode()})
  except CosyError as error:
    yield event({"type": "speech.audio.error"} | problem_of(error).body())
    return
  yield event({"type": "speech.audio.done", "usage": usage(service, ask.text or "", delivery)})
  yield b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
  """A server-sent event."""
  return f"data: {json.dumps(value)}\n\n".encode()


def usage(service: Service, text: str, delivery: Delivery) -> dict[str, int]:
  """Text ids read and speech tokens spoken."""
  read, spoken = service.count_ids(text), round(delivery.seconds * service.token_rate)
  return {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}


async def whole(service: Service, ask: Ask) -> tuple[bytes, dict[str, int], Delivery]:
  """All audio of a request at once, and its usage.

  Raises:
    Problem: refused, or failed.
  """
  delivery = await service.speak(ask)
  try:
    parts: list[Chunk] = [chunk async for chunk in delivery]
  finally:
    delivery.cancel()
  return b"".join(chunk.data for chunk in parts), usage(service, ask.text or "", delivery), delivery
