"""The one engine and all that is done with it: every route is a thin layer over these coroutines.

service = Service(lambda: cosyjax.Engine(model, slots=4), voices, Settings())
await service.start()
delivery = await service.speak(Ask("Hello from JAX.", format="wav"))
async for chunk in delivery:
  send(chunk.data)
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cosyjax import audio
from cosyjax.errors import CosyError, EngineError
from cosyjax.inference.engine import Engine
from cosyjax.inference.requests import Speech
from cosyjax.inference.voice import Voice
from cosyjax.serving import asks, received_audio
from cosyjax.serving.asks import Ask
from cosyjax.serving.delivery import Budget, Delivery
from cosyjax.serving.device_line import DeviceLine
from cosyjax.serving.encoders import RATE, encode
from cosyjax.serving.meters import CompileWatch, Meters
from cosyjax.serving.problems import Problem, problem_of, unavailable
from cosyjax.serving.settings import Settings
from cosyjax.serving.stretch import split_speed
from cosyjax.serving.voice_store import VoiceStore

log = logging.getLogger("cosyjax.serving")

LOOK = 0.5  # seconds between looks whether the engine lives
INLINE = 400  # characters that are laid out without leaving the event loop
RECENT = 16  # voices from recordings in requests that are kept in memory
RESTARTS = 3  # engines that may die before the server gives up


class Service:
  """Speech, voices and conversions for any number of clients.

  Attributes:
    settings: of the operator.
    voices: by name.
    meters: what Prometheus reads.
    engine: None before `start`, and while a dead one is replaced.
    draining: whether new requests are refused because the server is to stop.
  """

  def __init__(
    self,
    make_engine: Callable[[], Engine],
    voices: VoiceStore,
    settings: Settings,
    warm_up: Callable[[Engine], None] | None = None,
  ) -> None:
    """
    Args:
      make_engine: makes the engine, and another one if it should die.
      voices: by name.
      settings: of the operator.
      warm_up: run on a new engine before requests are taken; blocks, so it gets a thread.
    """
    self.settings, self.voices, self.meters = settings, voices, Meters()
    self.engine: Engine | None = None
    self.draining = False
    self._make_engine, self._warm_up = make_engine, warm_up
    self._warm = self._gone = False
    self._budget = Budget(settings.limits.unread_all)
    self._encoders = ThreadPoolExecutor(2, "cosyjax-encode")
    self._device = DeviceLine(settings.limits.analyses, settings.limits.retry_after)
    self._recent: dict[bytes, Voice] = {}
    self._deliveries: set[Delivery] = set()
    self._compiled = CompileWatch(self.meters)
    self._watch: asyncio.Task | None = None

  # Life.

  async def start(self, wait: bool = True) -> None:
    """Makes the engine and warms it up. Does nothing if that is under way already.

    Args:
      wait: False returns at once; requests are refused until `ready`.
    """
    self._watch = self._watch or asyncio.create_task(self._live(), name="cosyjax-watch")
    while wait and not self.ready and not self._watch.done():
      await asyncio.sleep(0.01)
    if self._watch.done():
      await self._watch  # raises what stopped it

  async def _live(self) -> None:
    for attempt in range(RESTARTS + 1):
      if attempt:
        self.meters.restarts.inc()
        log.error("the engine died and is made anew", extra={"fields": {"attempt": attempt}})
      self.engine = await asyncio.to_thread(self._make_engine)
      if self._warm_up is not None:
        await asyncio.to_thread(self._warm_up, self.engine)
      self._compiled.open()
      self._warm = True
      while self.engine_alive:
        self.look()
        await asyncio.sleep(LOOK)
      self._warm, dead = False, self.engine
      self._compiled.close()
      for delivery in list(self._deliveries):
        delivery.fail(EngineError("the engine died while the request ran; try again"))
      await asyncio.to_thread(_close_quietly, dead)
    self._gone = True
    log.error("the engine died too often; the server has to be started again")

  @property
  def engine_alive(self) -> bool:
    """Whether there is an engine whose thread has not died."""
    return self.engine is not None and self.engine.alive

  @property
  def ready(self) -> bool:
    """Whether requests are taken."""
    return self._warm and self.engine_alive and not self.draining

  def state(self) -> str:
    """ "ready", "starting", "draining" or "dead"."""
    if self.draining:
      return "draining"
    return "ready" if self.ready else "dead" if self._gone else "starting"

  def look(self) -> None:
    """Brings the gauges up to date."""
    meters = self.meters
    meters.ready.set(self.ready)
    meters.unread.set(self._budget.taken)
    self._compiled.look()
    if self.engine is not None:
      stats = self.engine.stats()
      meters.slots.labels("running").set(stats.running)
      meters.slots.labels("free").set(stats.free_slots)
      meters.queue.set(stats.waiting)

  async def drain(self) -> bool:
    """Refuses new requests and waits for those that run. Returns whether all ended in time."""
    self.draining = True
    end = time.monotonic() + self.settings.limits.drain
    while self._deliveries and time.monotonic() < end:
      await asyncio.sleep(0.05)
    done = not self._deliveries
    for delivery in list(self._deliveries):
      delivery.cancel()
    return done

  async def stop(self) -> None:
    """Ends everything at once."""
    self.draining = True
    if self._watch is not None:
      self._watch.cancel()
      await asyncio.gather(self._watch, return_exceptions=True)
    for delivery in list(self._deliveries):
      delivery.cancel()
    self._compiled.close()
    if self.engine is not None:
      await asyncio.to_thread(_close_quietly, self.engine)
    self._encoders.shutdown(wait=False, cancel_futures=True)
    self._device.stop()

  # Speech.

  async def speak(self, ask: Ask, text: AsyncIterable[str] | None = None) -> Delivery:
    """Starts a request and returns once its first packet is there.

    Args:
      ask: what is asked for.
      text: arriving pieces, in place of `ask.text`.

    Returns:
      The audio; whoever takes it must read it to its end or `cancel` it.

    Raises:
      Problem: refused, or failed before the first packet.
    """
    delivery = await self.begin(ask, text)
    try:
      await delivery.first()
    except asyncio.CancelledError:
      delivery.cancel()
      raise
    return delivery

  async def begin(self, ask: Ask, text: AsyncIterable[str] | None = None) -> Delivery:
    """As `speak`, without waiting for audio."""
    began = time.perf_counter()
    self.meters.begin(ask.route)
    try:
      self._admit()
      asks.check(ask, self.settings)
      options = asks.engine_options(ask, self.engine)
      voice = await self._voice_of(ask)
      stream = await self._stream(ask.text if text is None else text, voice, options)
    except BaseException as error:
      raise self._refuse(ask.route, error) from error
    delivery = Delivery(
      stream,
      ask.format,
      limits=self.settings.limits,
      budget=self._budget,
      pool=self._encoders,
      on_packet=lambda seconds, first: (self.meters.first_packet if first else self.meters.gap).observe(seconds),
      on_end=lambda delivery: self._ended(ask.route, delivery),
      began=began,
      stretch=split_speed(ask.speed)[1],
    )
    self._deliveries.add(delivery)
    return delivery

  async def _stream(self, text: Any, voice: Voice, options: dict[str, Any]) -> Any:
    if isinstance(text, str) and len(text) > INLINE:
      return await asyncio.to_thread(self.engine.stream, text, voice, **options)
    return self.engine.stream(text, voice, **options)

  def _admit(self) -> None:
    """Refuses at once what could not be served now."""
    wait = self.settings.limits.retry_after
    if not self.ready:
      raise unavailable(f"the server is {self.state()}", wait)
    if self._budget.spent:
      raise Problem(429, "too much audio waits for slow readers; try again later", "busy", None, wait)
    self.engine.check_room()

  def _refuse(self, route: str, error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
      self.meters.end(route, "cancelled")
      return error
    problem = problem_of(error, retry_after=self.settings.limits.retry_after)
    if problem.code == "internal_error":
      log.error("a request failed", exc_info=error)
    self.meters.end(route, "refused" if problem.status < 500 or problem.status == 503 else "failed")
    return problem

  def _ended(self, route: str, delivery: Delivery) -> None:
    self._deliveries.discard(delivery)
    self.meters.end(route, delivery.outcome)
    self.meters.audio.inc(delivery.seconds)

  async def _voice_of(self, ask: Ask) -> Voice:
    if ask.ref_audio is not None:
      data = await asyncio.to_thread(received_audio.from_reference, ask.ref_audio, self.settings)
      return await self.analyse(data, ask.ref_text or "")
    if isinstance(ask.voice, Voice):
      return ask.voice
    return await asyncio.to_thread(self.voices.resolve, ask.voice)

  def count_ids(self, text: str) -> int:
    """Text ids that a text has, for usage figures."""
    try:
      return len(self.engine.model.text_tokenizer.encode(text))
    except (CosyError, AttributeError):
      return len(text) // 4

  @property
  def token_rate(self) -> int:
    """Speech tokens a second."""
    return self.engine.model.config.audio.token_rate

  # Recordings.

  async def analyse(self, data: bytes, transcript: str, param: str = "ref_audio") -> Voice:
    """Makes a voice from a recording's bytes.

    Raises:
      AudioError: it cannot serve as speech.
      Problem: too many recordings wait for the device.
    """

    def work() -> Voice:
      return self.engine.model.voice(
        received_audio.decode(data, self.settings.limits.prompt_seconds, param), transcript
      )

    key = hashlib.blake2b(data, key=hashlib.blake2b(transcript.encode("utf-8", "replace")).digest()).digest()
    if key not in self._recent:  # whoever sends a recording with each request has it analysed once
      self._recent[key] = await self._device.run(work)
      while len(self._recent) > RECENT:
        self._recent.pop(next(iter(self._recent)))
    return self._recent[key]

  async def add_voice(
    self, name: str, data: bytes, transcript: str, consent: str, description: str = "", mime_type: str = ""
  ) -> tuple[dict[str, Any], bool]:
    """Makes and keeps a voice.

    Returns:
      What clients are told of it, and whether it took the place of another.

    Raises:
      Problem, AudioError, OutputError: nothing has been kept then.
    """
    if not consent.strip():
      why = "expected a statement of the speaker's consent, such as who gave it and when; it is kept with the voice"
      raise Problem(400, f"consent: {why}", "no_consent", "consent")
    if not self.ready:
      raise unavailable(f"the server is {self.state()}", self.settings.limits.retry_after)
    if len(data) > self.settings.limits.recording:
      raise Problem(
        413, f"audio_sample: expected at most {self.settings.limits.recording} bytes", "too_large", "audio_sample"
      )
    voice = await self.analyse(data, transcript, "audio_sample")
    details = {
      "consent": consent.strip(),
      "description": description.strip(),
      "mime_type": mime_type,
      "recording_bytes": str(len(data)),
    }
    entry, replaced = await asyncio.to_thread(self.voices.add, name, voice, details)
    return await asyncio.to_thread(self.voices.describe, entry), replaced

  async def delete_voice(self, name: str) -> None:
    """Deletes a client's voice, from the device too.

    Raises:
      Problem: there is none, or it is not a client's.
    """
    voice = await asyncio.to_thread(self.voices.delete, name)
    if voice is not None and self.engine is not None:  # waits for a free slot, so nobody waits for it
      self._device.later(lambda: self.engine.forget(voice))

  async def list_voices(self) -> list[dict[str, Any]]:
    """What clients are told of all voices."""
    return await asyncio.to_thread(lambda: [self.voices.describe(entry) for entry in self.voices.entries()])

  async def convert(self, data: bytes, ask: Ask) -> bytes:
    """Says what a recording says in the voice that is asked for, encoded as a whole.

    Raises:
      Problem: refused, or failed.
    """
    self.meters.begin(ask.route)
    try:
      self._admit()
      asks.check(ask, self.settings)
      voice = await self._voice_of(ask)

      def work() -> Speech:
        wave = received_audio.decode(data, self.settings.limits.source_seconds, "audio")
        return self.engine.model.convert_voice(wave, voice, seed=ask.seed)

      speech = await self._device.run(work)
      loop = asyncio.get_running_loop()
      wave_A = audio.resample(speech.samples_A, speech.rate, RATE)
      encoded = await loop.run_in_executor(self._encoders, encode, ask.format, wave_A)
    except BaseException as error:
      raise self._refuse(ask.route, error) from error
    self.meters.end(ask.route, "done")
    self.meters.audio.inc(speech.seconds)
    return encoded


def _close_quietly(engine: Engine) -> None:
  try:
    engine.close()
  except Exception:
    log.exception("an engine could not be closed")
