"""The Wyoming protocol, by which Home Assistant speaks: whole texts, and texts that arrive in pieces.

Lines of JSON with data and payload behind them, over plain TCP. The protocol knows no keys, so it
listens on loopback unless the operator says otherwise.
"""

import asyncio
import contextlib
import html
import json
import logging
import re
import secrets
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

from cosyjax.errors import CosyError
from cosyjax.serving.arriving_text import ArrivingText
from cosyjax.serving.asks import Ask
from cosyjax.serving.encoders import RATE
from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.service import Service
from cosyjax.version import __version__

log = logging.getLogger("cosyjax.serving")

LINE = 64 << 10  # bytes of an event's first line
DATA = 256 << 10  # bytes of what follows it
LANGUAGES = ["en", "zh", "ja", "ko", "yue", "de", "fr", "es", "it", "pt", "ru"]


async def read_event(reader: asyncio.StreamReader) -> Event | None:
  """The next event; None at the end, or at something that is none.

  Nothing is read beyond `LINE` and `DATA`, whatever an event says its size is.
  """
  try:
    line = await reader.readline()
    head = json.loads(line) if line else None
    if not isinstance(head, dict) or not isinstance(head.get("type"), str):
      return None
    data = head.get("data") or {}
    sizes = [head.get(name) or 0 for name in ("data_length", "payload_length")]
    if not all(isinstance(size, int) and 0 <= size <= DATA for size in sizes) or not isinstance(data, dict):
      return None
    if sizes[0]:
      more = json.loads(await reader.readexactly(sizes[0]))
      if not isinstance(more, dict):
        return None
      data = data | more
    payload = await reader.readexactly(sizes[1]) if sizes[1] else None
    return Event(head["type"], data, payload)
  except (ValueError, RecursionError, asyncio.IncompleteReadError, OSError):  # too long a line is a ValueError too
    return None


class WyomingPort:
  """Listens, and gives each connection a session."""

  def __init__(self, service: Service) -> None:
    self._service, self._open = service, 0
    self._server: asyncio.Server | None = None

  async def start(self, host: str, port: int) -> int:
    """Returns the port."""
    self._server = await asyncio.start_server(self._connected, host, port, limit=LINE)
    return self._server.sockets[0].getsockname()[1]

  async def stop(self) -> None:
    """Closes the port."""
    if self._server is not None:
      self._server.close()

  async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    self._open += 1
    try:
      if self._open <= self._service.settings.limits.connections:
        await _Session(self._service, reader, writer).run()
    except (OSError, ConnectionError):
      pass
    finally:
      self._open -= 1
      writer.close()
      with contextlib.suppress(Exception):  # it may have gone already
        await writer.wait_closed()


class _Session:
  """One connection."""

  def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    self._service, self._reader, self._writer = service, reader, writer
    self._limits, self._id = service.settings.limits, secrets.token_hex(8)
    self._task: asyncio.Task | None = None
    self._text: ArrivingText | None = None

  async def run(self) -> None:
    try:
      while (event := await self._next()) is not None:
        try:
          await self._handle(event)
        except CosyError as error:
          await self._complain(error)
    finally:
      if self._task is not None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

  async def _next(self) -> Event | None:
    while True:
      try:
        return await asyncio.wait_for(read_event(self._reader), self._limits.idle_seconds)
      except TimeoutError:
        # Where nothing was being read: an event that was cut in two ends the connection.
        if self._task is None or self._task.done():
          return None

  async def _handle(self, event: Event) -> None:
    if Describe.is_type(event.type):
      await self._send((await self._info()).event())
    elif Ping.is_type(event.type):
      await self._send(Pong(text=Ping.from_event(event).text).event())
    elif SynthesizeStart.is_type(event.type):
      await self._finish()
      start = _parsed(SynthesizeStart, event)
      self._text = ArrivingText(self._limits.arriving_text, self._limits.text_seconds)
      self._task = asyncio.create_task(self._speak(self._text, _name(start.voice), True))
    elif SynthesizeChunk.is_type(event.type):
      if self._text is not None:
        self._text.push(str(event.data.get("text", "")))
    elif SynthesizeStop.is_type(event.type):
      if self._text is not None:
        self._text.close()
        self._text = None
    elif Synthesize.is_type(event.type) and self._text is None:  # between start and stop it repeats what came in pieces
      await self._finish()
      asked = _parsed(Synthesize, event)
      text = _plain(asked.text) if str(getattr(asked.text_format, "value", asked.text_format)) == "ssml" else asked.text
      self._task = asyncio.create_task(self._speak(text, _name(asked.voice), False))

  async def _finish(self) -> None:
    if self._text is not None:
      self._text.close()
      self._text = None
    if self._task is not None:
      await asyncio.wait({self._task})
      self._task = None

  async def _speak(self, text: str | ArrivingText, voice: str | None, streamed: bool) -> None:
    arriving = isinstance(text, ArrivingText)
    try:
      if not arriving or await text.begun():
        ask = Ask(None if arriving else text, voice, format="pcm", route="wyoming")
        await self._deliver(ask, text if arriving else None)
    except CosyError as error:
      await self._complain(error)
    if streamed:
      await self._send(SynthesizeStopped().event())

  async def _deliver(self, ask: Ask, text: ArrivingText | None) -> None:
    delivery = await self._service.speak(ask, text)
    form = {"rate": RATE, "width": 2, "channels": 1}
    try:
      await self._send(AudioStart(**form).event())
      async for chunk in delivery:
        if chunk.data:
          await self._send(AudioChunk(audio=chunk.data, **form).event())
      await self._send(AudioStop().event())
    finally:
      delivery.cancel()
      fields = {"id": self._id, "outcome": delivery.outcome, "audio_seconds": round(delivery.seconds, 3)}
      if self._service.settings.log_texts:
        fields["text"] = text.said if text is not None else ask.text
      log.info("spoken", extra={"fields": fields})

  async def _complain(self, error: CosyError) -> None:
    problem = problem_of(error)
    await self._send(Error(text=problem.message, code=problem.code).event())

  async def _send(self, event: Event) -> None:
    try:
      await asyncio.wait_for(async_write_event(event, self._writer), self._limits.stall)
    except TimeoutError as error:
      self._writer.close()
      raise ConnectionError("the reader took nothing for too long") from error

  async def _info(self) -> Info:
    about = {
      "attribution": Attribution(name="cosyjax", url=""),
      "installed": True,
      "version": __version__,
    }
    names = [v["name"] for v in await self._service.list_voices() if not v.get("damaged")]
    voices = [TtsVoice(name=n, description=n, languages=LANGUAGES, **about) for n in names]
    name = self._service.settings.model_name
    program = TtsProgram(name=name, description=name, voices=voices, supports_synthesize_streaming=True, **about)
    return Info(tts=[program])


def _parsed(kind: Any, event: Event) -> Any:
  try:
    return kind.from_event(event)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise Problem(400, f"{event.type}: expected other data", "invalid_message") from error


def _name(voice: SynthesizeVoice | None) -> str | None:
  return str(voice.name) if voice is not None and voice.name is not None else None


def _plain(ssml: str) -> str:
  """The words of a text with SSML in it."""
  return html.unescape(re.sub(r"<[^<>]{0,1000}>", " ", str(ssml)))
