"""WebSocket /v1/audio/speech/stream: text goes in word by word, audio comes out while it is typed.

Messages are those of vLLM-Omni's endpoint of the same path. Beyond it: text reaches the language model
as it comes (`split_granularity: none`), `input.cancel` stops at once, and packets can carry word times.
"""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from cosyjax.errors import CosyError
from cosyjax.serving.arriving_text import ArrivingText
from cosyjax.serving.bodies import SessionConfig, check_model, parse_json, validated
from cosyjax.serving.delivery import Delivery, timed_words
from cosyjax.serving.encoders import RATE
from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.service import Service
from cosyjax.serving.settings import OPENAI_MODELS

log = logging.getLogger("cosyjax.serving")

WAITING = 1024  # messages that may wait while an utterance is spoken
AHEAD = 2 << 20  # bytes of unread audio beyond which text waits
SHOWN = 200  # characters of `sentence_text`
_ENDS = {
  "sentence": re.compile(r"[.!?。！？…\n]+[\"'”’)\]]*(?=\s|[^\x00-\x7f]|$)"),
  "clause": re.compile(r"[.!?,;:。！？，；：、…\n]+"),
}


@dataclasses.dataclass
class Utterance:
  """What is said between two `input.done`.

  Attributes:
    number: in the session.
    text: that arrives.
    task: speaks it.
    cancelled: by the client.
  """

  number: int
  text: ArrivingText
  task: asyncio.Task | None = None
  cancelled: bool = False


class TextSocket:
  """One session."""

  def __init__(self, service: Service, socket: WebSocket) -> None:
    self._service, self._socket, self._limits = service, socket, service.settings.limits
    self._config: SessionConfig | None = None
    self._messages: collections.deque[dict[str, Any]] = collections.deque()
    self._arrived = asyncio.Event()
    self._current: Utterance | None = None
    self._delivery: Delivery | None = None
    self._number = 0
    self._left = False

  async def run(self) -> None:
    """Serves the session until one side ends it."""
    await self._socket.accept()
    receiving = asyncio.create_task(self._receive(), name="cosyjax-socket")
    code = 1000
    try:
      code = await self._serve()
    except Exception as error:
      if not isinstance(error, WebSocketDisconnect | OSError | RuntimeError):
        log.error("a session failed", exc_info=error)
      code = 1011
    finally:
      self._left = True
      self._cancel()
      receiving.cancel()
      if self._current is not None and self._current.task is not None:
        self._current.task.cancel()
        await asyncio.gather(self._current.task, return_exceptions=True)
      if self._socket.client_state is WebSocketState.CONNECTED:
        with contextlib.suppress(Exception):  # it may have gone meanwhile
          await self._socket.close(code)

  # What comes.

  async def _receive(self) -> None:
    """Reads on while an utterance is spoken, so that a cancel is seen at once."""
    try:
      while True:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
          break
        self._take(message.get("text"))
    except (WebSocketDisconnect, RuntimeError, OSError):
      pass
    self._left = True
    self._cancel()
    self._arrived.set()

  def _take(self, text: str | None) -> None:
    try:
      if text is None:
        raise Problem(400, "expected JSON in text messages, found a binary one", "invalid_json")
      value = parse_json(text)
      if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise Problem(400, "expected a JSON object with a type", "invalid_message")
      if value["type"] == "input.cancel":
        self._messages.clear()
        self._cancel()
    except Problem as problem:
      value = {"type": "", "problem": problem}
    if len(self._messages) >= WAITING:
      value = {"type": "", "problem": Problem(400, "too many messages wait", "too_many_messages"), "end": True}
      self._messages.clear()
    self._messages.append(value)
    self._arrived.set()

  def _cancel(self) -> None:
    if self._current is not None:
      self._current.cancelled = True
      self._current.text.close()
    if self._delivery is not None:
      self._delivery.cancel()

  async def _next(self) -> dict[str, Any] | None:
    """The next message; None when the client has gone, or has been silent too long."""
    while not self._messages:
      if self._left:
        return None
      self._arrived.clear()
      busy = self._current is not None
      try:
        await asyncio.wait_for(self._arrived.wait(), 1.0 if busy else self._limits.idle_seconds)
      except TimeoutError:
        if not busy:
          await self._say_error(Problem(408, "nothing was said for too long", "idle"))
          return None
        if self._current.task.done() and self._current.text.closed:
          await self._finish()
    return self._messages.popleft()

  async def _serve(self) -> int:
    """Handles messages in order. Returns the code to close with."""
    while (message := await self._next()) is not None:
      try:
        if not await self._handle(message):
          return 1000
      except CosyError as error:
        await self._say_error(problem_of(error))
        if message.get("end"):
          return 1008
    return 1000

  async def _handle(self, message: dict[str, Any]) -> bool:
    """Returns whether the session goes on."""
    kind = message["type"]
    if kind == "session.config":
      await self._configure(message)
    elif kind == "input.text":
      await self._text(message)
    elif kind == "input.done":
      await self._done()
    elif kind == "input.cancel":
      if self._current is not None:
        await self._finish()
    elif kind == "session.close":
      if self._current is not None:
        self._current.text.close()
        await self._finish()
      return False
    else:
      raise message.get("problem") or Problem(400, "this type of message is not known", "unknown_message", "type")
    return True

  async def _configure(self, message: dict[str, Any]) -> None:
    if self._current is not None and self._current.text.closed:
      await self._finish()
    if self._current is not None:
      why = "session.config comes before an utterance's text, or after its input.done"
      raise Problem(400, why, "config_while_speaking")
    config = validated(SessionConfig, message)
    check_model(config.model, (self._service.settings.model_name, *OPENAI_MODELS))
    self._config = config
    await self._say(
      "session.configured",
      session_id=secrets.token_hex(8),
      response_format=config.response_format or "pcm",
      stream_audio=config.stream_audio,
      split_granularity=config.split_granularity,
      sample_rate=RATE,
    )

  async def _text(self, message: dict[str, Any]) -> None:
    text = message.get("text")
    if not isinstance(text, str):
      raise Problem(400, "input.text: expected a text", "invalid_value", "text")
    if self._config is None:
      raise Problem(400, "expected session.config before any text", "no_config")
    if self._current is not None and self._current.text.closed:
      await self._finish()  # what is said next waits until this has been spoken
    if self._current is None:
      self._open()
    self._current.text.push(text)

  async def _done(self) -> None:
    if self._config is None:
      raise Problem(400, "expected session.config before any text", "no_config")
    if self._current is not None and self._current.text.closed:
      await self._finish()
    if self._current is None:
      self._open()
    self._current.text.close()

  def _open(self) -> None:
    text = ArrivingText(self._limits.arriving_text, self._limits.text_seconds)
    self._current = Utterance(self._number, text)
    self._current.task = asyncio.create_task(self._speak(self._current, self._config), name="cosyjax-utterance")
    self._number += 1

  async def _finish(self) -> None:
    """Waits until the current utterance has been spoken, or has been cancelled."""
    current = self._current
    await asyncio.wait({current.task})
    self._current = None
    if not current.task.cancelled() and current.task.exception() is not None:
      raise current.task.exception()

  # What goes.

  async def _speak(self, utterance: Utterance, config: SessionConfig) -> None:
    total, index = 0, 0
    try:
      async for text in self._parts(utterance.text, config.split_granularity):
        total += await self._part(utterance, config, text, index)
        index += 1
        if utterance.cancelled:
          break
    except CosyError as error:
      if not utterance.cancelled:
        await self._say_error(problem_of(error), utterance.number)
    utterance.text.close()
    fields = {"utterance": utterance.number, "chars": len(utterance.text.said), "cancelled": utterance.cancelled}
    if self._service.settings.log_texts:
      fields["text"] = utterance.text.said
    log.info("spoken", extra={"fields": {"id": self._socket.scope["state"]["request_id"]} | fields})
    if self._left:
      return
    if utterance.cancelled:
      await self._say("audio.cancelled", utterance_index=utterance.number, total_bytes=total)
    more = {"cancelled": True} if utterance.cancelled else {}
    await self._say("session.done", utterance_index=utterance.number, total_sentences=index, **more)

  async def _parts(self, text: ArrivingText, granularity: str) -> AsyncIterator[str | ArrivingText]:
    """What is spoken as one request each: all of the text as it comes, or whole sentences or clauses."""
    if granularity == "none":
      if await text.begun():
        yield text
      return
    held = ""
    async for piece in text:
      held += piece
      while (match := _ENDS[granularity].search(held)) is not None and match.end() < len(held):
        part, held = held[: match.end()], held[match.end() :]
        if re.search(r"\w", part):
          yield part
    if re.search(r"\w", held):
      yield held

  async def _part(self, utterance: Utterance, config: SessionConfig, text: str | ArrivingText, index: int) -> int:
    """Speaks one request to its end. Returns the bytes sent."""
    if utterance.cancelled:
      return 0
    arriving = isinstance(text, ArrivingText)
    ask = config.ask(None if arriving else text, "socket", default_format="pcm")
    delivery = self._delivery = await self._service.begin(ask, text if arriving else None)
    if utterance.cancelled:  # while it was taken in
      delivery.cancel()
    if arriving:
      text.hold = lambda: delivery.unread > AHEAD and not delivery.outcome
    place = {"utterance_index": utterance.number, "sentence_index": index}
    total, held, failed = 0, [], None
    try:
      await delivery.first()
      if utterance.cancelled:
        return 0
      shown = (text.said if arriving else text).strip()[:SHOWN]
      await self._say("audio.start", **place, sentence_text=shown, format=ask.format, sample_rate=RATE, channels=1)
      async for chunk in delivery:
        total += len(chunk.data)
        if config.timestamps:
          await self._say("audio.chunk", **place, **_timed(chunk))
        elif not config.stream_audio:
          held.append(chunk.data)
        elif chunk.data:
          await self._send(self._socket.send_bytes(chunk.data))
      if held and not utterance.cancelled:
        await self._send(self._socket.send_bytes(b"".join(held)))
    except CosyError as error:
      failed = error
    finally:
      delivery.cancel()
      self._delivery = None
    if utterance.cancelled or self._left:
      return total
    if total or failed is None:
      await self._say("audio.done", **place, total_bytes=total, error=failed is not None)
    if failed is not None:
      raise failed
    return total

  async def _say(self, kind: str, **fields: Any) -> None:
    await self._send(self._socket.send_text(json.dumps({"type": kind} | fields)))

  async def _say_error(self, problem: Problem, utterance: int | None = None) -> None:
    where = {} if utterance is None else {"utterance_index": utterance}
    await self._say("error", message=problem.message, code=problem.code, **problem.body(), **where)

  async def _send(self, sending: Any) -> None:
    try:
      await asyncio.wait_for(sending, self._limits.stall)
    except TimeoutError as error:
      self._left = True
      raise WebSocketDisconnect(1008) from error


def _timed(chunk: Any) -> dict[str, Any]:
  """A chunk as fields of `audio.chunk`."""
  fields: dict[str, Any] = {"audio_b64": base64.b64encode(chunk.data).decode()}
  if chunk.packet is not None:
    packet = chunk.packet
    fields |= {"start": round(packet.start, 3), "seconds": round(packet.seconds, 3), "text": packet.text}
    fields |= {"timestamps": timed_words(packet), "approximate": True}
  return fields
