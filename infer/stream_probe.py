"""Where the time of a stream goes: the calls of an engine's slots timed one by one."""

import collections
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cosyjax.inference.engine import Engine
from cosyjax.inference.requests import Request
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.voice import Voice
from cosyjax.lm.decode import CLOSED
from cosyjax.lm.interleave import Interleaver
from cosyjax.text.incremental import TextStream


@dataclasses.dataclass(frozen=True)
class Event:
  """A call of one network's slots.

  Attributes:
    stage: "lm", "flow" or "vocoder".
    seconds: until the device was done.
    tokens: that the flow solved in it; 0 elsewhere.
    samples: of audio that came of it.
  """

  stage: str
  seconds: float
  tokens: int = 0
  samples: int = 0


class Probe:
  """Within it, every call of an engine's slots is waited for before the next one starts. For one stream at a time.

  Attributes:
    events: calls in order.
    tokens_U: speech ids that the flow was last given.
  """

  CALLS = {"lm": ("open", "extend", "step"), "flow": ("open", "step"), "vocoder": ("open", "step")}

  def __init__(self, engine: Engine) -> None:
    self._slots = engine.slots
    self.events: list[Event] = []
    self.tokens_U = np.zeros(0, np.int32)

  def __enter__(self) -> "Probe":
    for name, calls in self.CALLS.items():
      slots = getattr(self._slots, name)
      for call in calls:
        setattr(slots, call, self._timed(name, slots, getattr(slots, call)))
    return self

  def __exit__(self, *_: object) -> None:
    for name, calls in self.CALLS.items():
      for call in calls:
        delattr(getattr(self._slots, name), call)  # the class's own shows again

  def _timed(self, stage: str, slots: Any, function: Callable) -> Callable:
    def timed(*args: Any) -> Any:
      start = time.perf_counter()
      result = function(*args)
      jax.block_until_ready((slots.state, result))
      seconds = time.perf_counter() - start
      tokens = samples = 0
      if stage == "flow" and function.__name__ == "step":
        [chunk] = args[0]
        tokens, self.tokens_U = chunk.count, np.concatenate([self.tokens_U[: chunk.first], chunk.tokens_U])
      elif stage == "vocoder" and function.__name__ == "step":
        samples = sum(map(len, slots.collect(result)))
      self.events.append(Event(stage, seconds, tokens, samples))
      return result

    return timed

  def first_packet(self) -> dict[str, float]:
    """Eq. 11 of the paper from the events up to the first audio: M and milliseconds per token."""
    end = next(i for i, event in enumerate(self.events) if event.samples)
    events = self.events[: end + 1]
    tokens = sum(event.tokens for event in events)
    spent = {stage: 1e3 * sum(e.seconds for e in events if e.stage == stage) for stage in ("lm", "flow", "vocoder")}
    delays = {f"d_{short}_ms": spent[stage] / tokens for short, stage in zip(("lm", "fm", "voc"), spent, strict=True)}
    return {"m_tokens": tokens, **delays, "l_tts_ms": tokens * sum(delays.values())}

  def chunks(self) -> list[dict[str, float]]:
    """Tokens of each chunk, and the milliseconds that each network spent between it and the one before."""
    found, spent = [], collections.Counter()
    for event in self.events:
      spent[event.stage] += 1e3 * event.seconds
      spent["tokens"] += event.tokens
      if event.stage == "vocoder" and spent["tokens"]:
        found.append({name: spent[name] for name in ("tokens", "lm", "flow", "vocoder")})
        spent.clear()
    return found

  def total(self, *stages: str) -> float:
    """Seconds that some networks spent."""
    return sum(event.seconds for event in self.events if event.stage in stages)


def growth(chunks: Sequence[dict[str, float]]) -> tuple[float | None, int]:
  """Time of the last chunks over that of the first after the first packet, up to five each, of equal sizes.

  Returns:
    The ratio of their medians, and how many chunks were taken at either end; (None, 0) if there are too few.
  """
  sizes = collections.Counter(c["tokens"] for c in chunks[1:])
  if not sizes:
    return None, 0
  [(size, _)] = sizes.most_common(1)
  times = [c["lm"] + c["flow"] + c["vocoder"] for c in chunks[1:] if c["tokens"] == size]
  n = min(5, len(times) // 2)
  return (statistics.median(times[-n:]) / statistics.median(times[:n]), n) if n else (None, 0)


def needed_text(
  model: Synthesizer, voice: Voice, mode: str | None, pieces: Sequence[str], tokens: int
) -> tuple[int, int]:
  """How much of a text has to arrive before the LM may have spoken `tokens` tokens, at N:M.

  Returns:
    Text ids that are in the LM's sequence by then, and pieces that have arrived.
  """
  prompt_ids, prompt_speech_U = model.lm_prompt(Request("", voice, mode=mode))
  layout = Interleaver(model.config.lm, prompt_ids, prompt_speech_U)
  stream = TextStream(model.text_tokenizer, model.config.text)
  spoken, opened = 0, False
  for number in range(len(pieces) + 1):
    fed = stream.push(pieces[number]) if number < len(pieces) else stream.close()
    for part in fed:
      if not layout.closed:  # the first utterance
        layout.push(part.ids)
        if part.last:
          layout.close()
    while spoken < tokens:
      append = layout.extend(spoken) if opened else layout.prefill()
      if append is None:
        break
      opened, spoken = True, append.max_tokens
      if append.mode == CLOSED:
        return layout.text_used, number + 1
    if spoken >= tokens:
      return layout.text_used, number + 1
  return layout.text_used, len(pieces)


def at_rate(pieces: Sequence[str], times: Sequence[float]) -> Iterator[str]:
  """Pieces as they arrive, seconds after the first is asked for."""
  began = time.perf_counter()
  for piece, when in zip(pieces, times, strict=True):
    time.sleep(max(began + when - time.perf_counter(), 0))
    yield piece
