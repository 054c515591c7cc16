"""An engine without a model, and a server on loopback around it: tests of what lies between clients and the engine."""

import asyncio
import contextlib
import dataclasses
import logging
import socket
import threading
import time
import types
from collections.abc import AsyncIterable, Callable, Iterator
from typing import Any

import httpx
import numpy as np

from cosyjax import config
from cosyjax.errors import BusyError, EngineError, TextError
from cosyjax.inference.packets import Packet
from cosyjax.inference.requests import Speech
from cosyjax.inference.voice import Voice, voice_versions
from cosyjax.serving.server import run
from cosyjax.serving.service import Service
from cosyjax.serving.settings import Settings
from cosyjax.serving.voice_store import VoiceStore

RATE = 24_000
CONFIG = config.tiny()


def voice_of(seconds: float = 1.0, transcript: str = "what it says") -> Voice:
  """A voice from a recording that never was."""
  U = int(25 * seconds)
  rng = np.random.default_rng(0)
  speaker_E = rng.standard_normal(CONFIG.flow.speaker_dim).astype(np.float32)
  mel_TM = np.zeros((2 * U, CONFIG.flow.mel_bins), np.float32)
  return Voice(speaker_E, np.arange(U, dtype=np.int32), mel_TM, transcript, voice_versions())


def tone(number: int, samples: int) -> np.ndarray:
  """Audio by which a packet is known again."""
  t = np.arange(samples) / RATE
  return (0.3 * np.sin(2 * np.pi * (200 + 40 * number) * t) + 0.05 * np.sin(977 * t * t)).astype(np.float32)


class FakeStream:
  """As the engine's: packets for `async for`."""

  def __init__(self, engine: "FakeEngine", text: Any, seed: int) -> None:
    self._engine, self._text, self._seed, self._cancelled = engine, text, seed, False
    self._packets = self._run()
    self._over, self._holds = False, "waiting"

  def __aiter__(self):
    return self._packets

  async def _run(self):
    engine, number, start = self._engine, 0, 0.0
    try:
      while engine.running >= engine.slots:
        await asyncio.sleep(0.001)
        if self._cancelled:
          return
      self._hold("running")
      async for piece in self._pieces():
        if engine.error is not None:
          error, engine.error = engine.error, None
          raise error
        await asyncio.sleep(engine.pause)
        while not engine.alive:
          await asyncio.sleep(0.01)
        if self._cancelled:
          return
        samples_A = tone(number + self._seed, engine.samples)
        yield Packet(number, samples_A, start, piece, 0.0, RATE)
        number, start = number + 1, start + len(samples_A) / RATE
    finally:
      self._hold(None)

  def _hold(self, what: str | None) -> None:
    """A place in the queue, then in the batch, then none; a cancelled request gives it back at once."""
    if self._holds is not None:
      setattr(self._engine, self._holds, getattr(self._engine, self._holds) - 1)
      self._holds = what
      if what is not None:
        setattr(self._engine, what, getattr(self._engine, what) + 1)
    self._over = self._holds is None

  async def _pieces(self):
    if isinstance(self._text, str):
      words = self._text.split(" ")
      for i in range(0, len(words), 3):
        yield " ".join(words[i : i + 3]) + " "
      return
    some = False
    async for piece in self._text:
      some = some or any(c.isalnum() for c in piece)
      words = piece.split(" ")
      for i in range(0, len(words), 3):
        if (few := " ".join(words[i : i + 3])).strip():
          yield few + " " * (i + 3 < len(words))
    if not some:
      raise TextError("nothing that can be spoken")

  def cancel(self) -> None:
    if not self._cancelled and not self._over:
      self._cancelled = True
      self._engine.cancelled += 1
      self._hold(None)


class FakeEngine:
  """Takes requests as the engine does, and makes tones."""

  def __init__(self, slots: int = 4, queue: int = 8, pause: float = 0.0, samples: int = 4_800) -> None:
    self.slots, self.queue, self.pause, self.samples = slots, queue, pause, samples
    self.running = self.waiting = self.cancelled = 0
    self.alive, self.error = True, None
    self.given: list[dict[str, Any]] = []
    self.model = types.SimpleNamespace(
      config=CONFIG,
      text_tokenizer=types.SimpleNamespace(encode=lambda text: text.split()),
      voice=self._voice,
      convert_voice=lambda wave, voice, seed=0: Speech(tone(seed, 12_000), (), RATE),
    )

  def _voice(self, wave: tuple[np.ndarray, int], transcript: str = "") -> Voice:
    from cosyjax import audio

    audio.check_speech(wave[0], wave[1], where="the recording")
    return dataclasses.replace(voice_of(len(wave[0]) / wave[1]), transcript=transcript)

  def check_room(self) -> None:
    if not self.alive:
      raise EngineError("the engine is closed")
    if self.waiting + self.running >= self.slots + self.queue:
      raise BusyError("all slots are taken; try again later")

  def stream(
    self,
    text: str | AsyncIterable[str],
    voice: Voice,
    *,
    seed: int = 0,
    instruction=None,
    mode=None,
    schedule=None,
    speed=1.0,
  ) -> FakeStream:
    self.check_room()
    if isinstance(text, str) and not any(c.isalnum() for c in text):
      raise TextError("nothing that can be spoken")
    self.given.append({"text": text, "voice": voice, "seed": seed, "instruction": instruction, "schedule": schedule})
    self.given[-1]["speed"] = speed
    self.waiting += 1
    return FakeStream(self, text, seed)

  def forget(self, voice: Voice) -> None:
    self.given.append({"forgotten": voice})

  def stats(self) -> Any:
    free = self.slots - self.running
    return types.SimpleNamespace(running=self.running, waiting=self.waiting, free_slots=free)

  def close(self) -> None:
    self.alive = False


class Live:
  """A server that runs.

  Attributes:
    url: of it.
    service: inside it.
    engine: inside that.
  """

  def __init__(self, service: Service, port: int) -> None:
    self.service, self.port, self.url = service, port, f"http://127.0.0.1:{port}"
    self.socket_url = f"ws://127.0.0.1:{port}/v1/audio/speech/stream"
    self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
    self.loop: asyncio.AbstractEventLoop | None = None

  @property
  def engine(self) -> Any:
    return self.service.engine

  def speech(self, text: str = "One two three four five six.", **more: Any) -> httpx.Response:
    return self.client.post("/v1/audio/speech", json={"input": text} | more)

  def settled(self, seconds: float = 5.0) -> dict[str, int]:
    """Totals once nothing runs any more; fails if that takes longer."""
    end = time.monotonic() + seconds
    while True:
      totals, stats = self.service.meters.totals(), self.engine.stats()
      if totals["submitted"] == sum(totals.values()) - totals["submitted"] and not stats.running + stats.waiting:
        return totals
      assert time.monotonic() < end, (totals, stats)
      time.sleep(0.01)


@contextlib.contextmanager
def serving(
  make_engine: Callable[[], Any],
  settings: Settings | None = None,
  voices: Callable[[Settings], VoiceStore] | None = None,
  warm_up: Any = None,
  wait: float = 60.0,
  **more: Any,
) -> Iterator[Live]:
  """Runs a server in a thread of its own."""
  settings = settings or Settings()
  store = voices(settings) if voices else VoiceStore(settings, CONFIG, built_in={"anna": voice_of()})
  service = Service(make_engine, store, settings, warm_up)
  sock = socket.create_server(("127.0.0.1", 0))
  live, failed = Live(service, sock.getsockname()[1]), []

  async def main() -> None:
    live.loop = asyncio.get_running_loop()
    live.task = asyncio.current_task()
    await run(service, sock=sock, **more)

  def target() -> None:
    try:
      asyncio.run(main())
    except asyncio.CancelledError:
      pass
    except BaseException as error:
      failed.append(error)
      logging.exception("the server ended")

  thread = threading.Thread(target=target, daemon=True)
  thread.start()
  end = time.monotonic() + wait
  while not service.ready and wait:
    assert thread.is_alive() and time.monotonic() < end, failed
    time.sleep(0.01)
  try:
    yield live
  finally:
    live.client.close()
    if thread.is_alive():
      live.loop.call_soon_threadsafe(live.task.cancel)
    thread.join(20)
    assert not thread.is_alive()
