"""Many streams at once: requests take slots of one batch on the device, join and leave between steps.

engine = cosyjax.Engine(model, slots=4)
for packet in engine.stream("Hello from JAX.", voice, seed=1):
  play(packet.samples_A)

`Engine` is what callers hold: it checks a request, lays out its text and hands it to the worker
(`cosyjax.inference.worker`), whose one thread owns everything on the device.
"""

from collections.abc import AsyncIterable, Iterable
from typing import Any

from cosyjax.errors import ConfigError
from cosyjax.inference import schedule as schedule_lib
from cosyjax.inference.job import Job
from cosyjax.inference.packets import Channel, Stream
from cosyjax.inference.parts import HISTORIES, VOCODERS, Parts
from cosyjax.inference.readers import read
from cosyjax.inference.requests import Request, resolve_mode
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.stages import Progress
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.utterance import Inbox, KnownText, Utterance
from cosyjax.inference.voice import Voice
from cosyjax.inference.worker import Stats, Worker
from cosyjax.lm.interleave import Interleaver
from cosyjax.text import prepare
from cosyjax.text.incremental import TextStream

Text = str | Iterable[str | bytes] | AsyncIterable[str | bytes]


class Engine:
  """Streams requests through one model.

  Made once and kept; compiles its programs when they are first needed, or all at once in
  `warm_up`. `stream` may be called from any thread and from coroutines.

  Attributes:
    model: the synthesizer whose parameters and text front end are used.
    parts: LM, flow and vocoder with their state on the device.
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
    vocoder: str = "exact",
  ) -> None:
    """Starts nothing and allocates nothing on the device yet.

    Args:
      model: loaded, or random.
      slots: requests served at once.
      queue: requests that may wait for a slot; one more is refused at once.
      schedule: default of requests, a `Schedule` or the name of a preset.
      history: what the flow keeps of a stream. "full": every key and value, exact. "window":
        those of the prompt and of the last `window` blocks, an approximation whose memory does
        not grow. "none": nothing, every hop solves the whole sequence again, exact and slow.
      window: blocks, for history "window".
      seconds: room per slot for prompt and speech together, to begin with; grows as needed.
      vocoder: "exact" (equals the offline vocoder) or "released" (cross-fades).

    Raises:
      ConfigError: an unknown name, a size below 1, or a model that cannot read text.
    """
    sizes = f"slots {slots}, window {window}, queue {queue}, seconds {seconds}"
    if min(slots, window) < 1 or queue < 0 or not seconds > 0:
      raise ConfigError(
        f"engine: expected slots and window of at least 1, queue and seconds not negative; found {sizes}"
      )
    if history not in HISTORIES or vocoder not in VOCODERS:
      expected = f"history of {sorted(HISTORIES)} and vocoder of {sorted(VOCODERS)}"
      raise ConfigError(f"engine: expected {expected}, found {history!r} and {vocoder!r}")
    if model.text_tokenizer is None:
      raise ConfigError("this model has no text tokenizer, so it cannot read text")
    self.model = model
    self.schedule = schedule_lib.resolve(schedule, model.config.flow.chunk)
    self.parts = Parts(
      model.stages, slots, self.schedule, history=history, window=window, seconds=seconds, vocoder=vocoder
    )
    self._worker = Worker(self.parts, queue)

  def stream(
    self,
    text: Text,
    voice: Voice,
    *,
    seed: int = 0,
    instruction: str | None = None,
    mode: str | None = None,
    schedule: Schedule | str | None = None,
  ) -> Stream:
    """Speaks `text` in `voice`; audio comes while it is made.

    Args:
      text: a string is text known as a whole, and its tokens are those of `synthesize`. An
        iterable, or inside a running event loop an async iterable, of `str` or UTF-8 `bytes` is
        text that arrives; `cosyjax.text.incremental` says when it becomes tokens.
      voice: whose first use computes its prompt's past, see `prepare`.
      seed, instruction, mode: as in `Request`.
      schedule: instead of the engine's.

    Returns:
      An iterator of packets, for `for` and `async for`.

    Raises:
      TextError: the text, a string, cannot be spoken. For text that arrives the stream raises it.
      ConfigError: the mode does not fit the voice, or the schedule the engine.
      BusyError: all slots are taken and the queue is full; nothing was started.
      EngineError: the engine is closed.
    """
    self._worker.check_room()
    config, tokenizer = self.model.config, self.model.text_tokenizer
    request = Request(text if isinstance(text, str) else "", voice, seed, instruction, mode)
    mode = resolve_mode(request)
    schedule = self.schedule if schedule is None else schedule_lib.resolve(schedule, config.flow.chunk)
    prompt_ids, prompt_speech_U = self.model.lm_prompt(request)
    flow_prompt = voice if mode != "speaker" else Voice.from_speaker(voice.speaker_E, config.flow.mel_bins)
    self.parts.check(schedule, flow_prompt)

    def utterance(number: int, row: Any) -> Utterance:
      sizes = len(flow_prompt.tokens_U), config.flow.chunk, config.flow.encoder.lookahead
      return Utterance(number, row, schedule, *sizes)

    channel = Channel(self._worker.wake)
    if isinstance(text, str):
      job = Job(flow_prompt, seed, schedule, channel, config.audio.sample_rate)
      for number, piece in enumerate(prepare(text, tokenizer, config.text)):
        lm = config.lm
        bounds = (int(len(piece.ids) * r) for r in (lm.min_tokens_per_text, lm.max_tokens_per_text))
        spoken = utterance(number, KnownText(lm, prompt_ids, piece.ids, prompt_speech_U, *bounds))
        spoken.read(piece.text, len(piece.ids))
        job.utterances.append(spoken)
      self._worker.submit(job)
    else:
      inbox = Inbox(self._worker.wake)
      new = lambda number: utterance(number, Interleaver(config.lm, prompt_ids, prompt_speech_U))
      start = read(text, TextStream(tokenizer, config.text), inbox, channel)
      self._worker.submit(Job(flow_prompt, seed, schedule, channel, config.audio.sample_rate, inbox, new))
      start()
    return Stream(channel)

  def prepare(self, voice: Voice, *, instruction: str | None = None, mode: str | None = None) -> None:
    """Computes a voice's past once and keeps it on the device: the first packet then does no prompt work.

    That is the LM's cache of what stands before the text and the flow's caches of the prompt
    up to its last whole chunk. The first request of a voice does the same by itself. The last
    eight voices used are kept. Waits for a free slot.

    Args:
      voice: whose; an equal voice loaded again counts as the same.
      instruction, mode: those of the requests to come.

    Raises:
      ConfigError: the voice does not fit the engine.
      EngineError: the engine is closed.
    """
    self.parts.check(self.schedule, voice)
    prompt_ids, prompt_speech_U = self.model.lm_prompt(Request("", voice, instruction=instruction, mode=mode))
    rows = [
      KnownText(prompt_ids, [], prompt_speech_U, 0, 0),
      Interleaver(self.model.config.lm, prompt_ids, prompt_speech_U),
    ]
    self._worker.call(lambda slot: self.parts.prepare(voice, rows, slot))

  def forget(self, voice: Voice) -> None:
    """Gives back the memory of a prepared voice; it may be used again."""
    self._worker.call(lambda slot: self.parts.forget(voice))

  def warm_up(self, *, progress: Progress | None = None, **limits: Any) -> int:
    """Compiles all that requests within the limits can need; see `cosyjax.inference.parts.Limits`.

    Returns:
      The number of programs.
    """
    return self.parts.warm_up(progress, **limits)

  def stats(self) -> Stats:
    """What has become of all requests so far."""
    return self._worker.stats()

  def close(self) -> None:
    """Ends the thread; requests that still run end with an EngineError. The engine cannot be used again."""
    self._worker.close()

  def __del__(self) -> None:
    if hasattr(self, "_worker"):
      self._worker.close(wait=False)

  def __enter__(self) -> "Engine":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
