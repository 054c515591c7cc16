"""Many streams at once: requests take slots of one batch on the device, join and leave between steps.

engine = cosyjax.Engine(model, slots=4)
for packet in engine.stream("Hello from JAX.", voice, seed=1):
  play(packet.samples_A)

`Engine` is what callers hold: it checks a request, lays out its text and hands it to the scheduler
(`cosyjax.inference.scheduler`), whose one thread owns everything on the device.
"""

from collections.abc import AsyncIterable, Iterable
from typing import Any

from cosyjax.errors import ConfigError
from cosyjax.inference import schedule as schedule_lib
from cosyjax.inference.compilation import rehearse
from cosyjax.inference.limits import Limits
from cosyjax.inference.live_request import LiveRequest, LiveSegment
from cosyjax.inference.packets import Channel, Stream
from cosyjax.inference.padding import Progress
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.scheduler import Scheduler, Stats
from cosyjax.inference.slots import DeviceSlots
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.text_source import Inbox, read, whole_text
from cosyjax.inference.voice import Voice
from cosyjax.lm.interleave import Interleaver, KnownText
from cosyjax.text.incremental import TextStream

HISTORIES = ("full", "window")

Text = str | bytes | Iterable[str | bytes | None] | AsyncIterable[str | bytes | None]


class Engine:
  """Streams requests through one model.

  Made once and kept; compiles its programs when they are first needed, or all at once in
  `warm_up`. `stream` may be called from any thread and from coroutines.

  Attributes:
    model: the synthesizer whose parameters and text front end are used.
    slots: of LM, flow and vocoder, with their state on the device.
    schedule: of requests that name none.
  """

  def __init__(
    self,
    model: Synthesizer,
    *,
    slots: int = 4,
    queue: int = 64,
    schedule: Schedule | str = "balanced",
    history: str = "full",
    window: int = 8,
    seconds: float = 20.0,
    flow_steps: int | None = None,
  ) -> None:
    """Starts nothing and allocates nothing on the device yet.

    Args:
      model: loaded, or random.
      slots: requests served at once.
      queue: requests that may wait for a slot; one more is refused at once.
      schedule: default of requests, a `Schedule` or the name of a preset.
      history: what the flow keeps of a stream. "full": every key and value, exact. "window":
        those of the prompt and of the last `window` blocks, an approximation whose memory does
        not grow.
      window: blocks, for history "window".
      seconds: room per slot for prompt and speech together, to begin with; grows as needed.
      flow_steps: most Euler steps that a request may ask for; the model's if None. Caches take memory for each.

    Raises:
      ConfigError: an unknown name, a size below 1, or a model that cannot read text.
    """
    sizes = f"slots {slots}, window {window}, queue {queue}, seconds {seconds}"
    if min(slots, window) < 1 or queue < 0 or not seconds > 0:
      raise ConfigError(
        f"engine: expected slots and window of at least 1, queue and seconds not negative; found {sizes}"
      )
    if history not in HISTORIES:
      raise ConfigError(f"engine: expected history of {HISTORIES}, found {history!r}")
    if model.text_tokenizer is None:
      raise ConfigError("this model has no text tokenizer, so it cannot read text")
    self.model = model
    self.schedule = schedule_lib.resolve(schedule, model.config.flow.chunk)
    window = window if history == "window" else None
    room = {"window": window, "seconds": seconds, "flow_steps": flow_steps}
    self._make_slots = lambda: DeviceSlots(model.loaded, slots, self.schedule, **room)
    self.slots = self._make_slots()
    self._scheduler = Scheduler(self.slots, queue)

  def stream(
    self,
    text: Text,
    voice: Voice,
    *,
    schedule: Schedule | str | None = None,
    **options: Any,
  ) -> Stream:
    """Speaks `text` in `voice`; audio comes while it is made.

    Args:
      text: a string, or UTF-8 `bytes`, is text known as a whole, and its tokens are those of
        `synthesize`. An iterable, or inside a running event loop an async iterable, of `str` or UTF-8
        `bytes` is text that arrives; `cosyjax.text.incremental` says when it becomes tokens. A piece
        that is None is skipped.
      voice: whose first use computes its prompt's past, see `prepare`.
      schedule: instead of the engine's.
      **options: fields of `Request`: seed, instruction, mode, speed, temperature, ...

    Returns:
      An iterator of packets, for `for` and `async for`.

    Raises:
      TextError: the text, a string, cannot be spoken. For text that arrives the stream raises it.
      ConfigError: no text at all (a dict, a set, a number), an option is out of range, the mode does not fit
        the voice, or the schedule the engine.
      BusyError: all slots are taken and the queue is full; nothing was started.
      EngineError: the engine is closed.
    """
    self._scheduler.check_room()
    text = whole_text(text) if isinstance(text, (str, bytes, bytearray)) else text
    config, known = self.model.config, isinstance(text, str)
    asked = Request(text if known else "", voice, **options)
    request = asked.resolved(config)
    schedule = self.schedule if schedule is None else schedule_lib.resolve(schedule, config.flow.chunk)
    self.slots.flow.check(schedule, request)

    def segment(number: int, layout: KnownText | Interleaver) -> LiveSegment:
      return LiveSegment(number, layout, request, schedule, config.flow.chunk, config.flow.encoder.lookahead)

    channel = Channel(self._scheduler.wake)
    if known:
      live = LiveRequest(request, channel, config.audio.sample_rate)
      for number, (words, layout) in enumerate(self.model.known_text(asked)):
        live.segments.append(segment(number, layout))
        live.segments[-1].read(words, len(layout.text))
      self._scheduler.submit(live)
    else:
      prompt_ids, prompt_U = self.model.lm_prompt(asked)
      inbox = Inbox(self._scheduler.wake)
      new = lambda number: segment(number, Interleaver(config.lm, prompt_ids, prompt_U))
      stream = TextStream(self.model.text_tokenizer, config.text, **asked.reading)
      start = read(text, stream, inbox, channel)
      self._scheduler.submit(LiveRequest(request, channel, config.audio.sample_rate, inbox, new))
      start()
    return Stream(channel)

  def prepare(self, voice: Voice, **options: Any) -> None:
    """Computes a voice's past once and keeps it on the device: the first packet then does no prompt work.

    That is the LM's cache of what stands before the text and the flow's caches of the prompt
    up to its last whole chunk. The first request of a voice does the same by itself. The last
    eight voices used are kept. Waits for a free slot.

    Args:
      voice: whose; an equal voice loaded again counts as the same.
      **options: those of the requests to come; instruction, mode, flow_steps and guidance matter.

    Raises:
      ConfigError: the voice does not fit the engine.
      EngineError: the engine is closed.
    """
    asked = Request("", voice, **options)
    request = asked.resolved(self.model.config)
    self.slots.flow.check(self.schedule, request)
    prompt_ids, prompt_U = self.model.lm_prompt(asked)
    lm = self.model.config.lm
    layouts = KnownText(lm, prompt_ids, [], prompt_U, 0, 0), Interleaver(lm, prompt_ids, prompt_U)

    def work(slot: int) -> None:
      self.slots.flow.prepare(slot, request)
      for layout in layouts:
        self.slots.lm.prepare(layout)

    self._scheduler.call(work)

  def forget(self, voice: Voice) -> None:
    """Gives back the memory of a prepared voice; it may be used again."""
    self._scheduler.call(lambda slot: self.slots.flow.forget(voice))

  def warm_up(self, *, progress: Progress | None = None, **limits: Any) -> int:
    """Compiles all that requests within the limits can need, so that none of them compiles anything.

    Args:
      progress: called as ("warm-up", done, total).
      **limits: fields of `cosyjax.inference.limits.Limits`: seconds, prompt, prefix, cache, ...

    Returns:
      The number of programs.

    Raises:
      ConfigError: a limit is beyond the largest bucket.
    """
    return rehearse(lambda: self._make_slots().rehearse(Limits(**limits)), progress)

  def memory(self) -> dict[str, int]:
    """Bytes on the device, by what they hold: "lm", "flow", "vocoder", and prepared "voices"."""
    return self.slots.memory()

  @property
  def alive(self) -> bool:
    """Whether requests are taken: the engine is not closed, and its thread has not died."""
    return self._scheduler.alive

  def check_room(self) -> None:
    """Refuses what `stream` would refuse now, before anything is prepared for it.

    Raises:
      BusyError: all slots are taken and the queue is full.
      EngineError: the engine is closed.
    """
    self._scheduler.check_room()

  def stats(self) -> Stats:
    """What has become of all requests so far."""
    return self._scheduler.stats()

  def close(self) -> None:
    """Ends the thread; requests that still run end with an EngineError. The engine cannot be used again."""
    self._scheduler.close()

  def __del__(self) -> None:
    if hasattr(self, "_scheduler"):
      self._scheduler.close(wait=False)

  def __enter__(self) -> "Engine":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
