"""One request while an engine serves it."""

import time
from collections import deque
from collections.abc import Callable

from cosyjax.inference.packets import Channel
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.utterance import Hop, Inbox, Utterance
from cosyjax.inference.voice import Voice
from cosyjax.inference.work import Work
from cosyjax.lm.interleave import Append

READ_AHEAD = 2  # utterances behind the one that is spoken; more text than that has to wait


class Job:
  """One request while it is served.

  Attributes:
    voice: the prompt as the flow sees it.
    utterances: in order; the first is being solved, the first that is not done decoded.
    inbox: of text that arrives; None if all is known.
    new_utterance: makes the next one, by its number, for text that arrives.
  """

  def __init__(
    self,
    voice: Voice,
    seed: int,
    schedule: Schedule,
    channel: Channel,
    rate: int,
    inbox: Inbox | None = None,
    new_utterance: Callable[[int], Utterance] | None = None,
  ) -> None:
    self.voice, self.seed, self.schedule, self.channel = voice, seed, schedule, channel
    self.rate = rate
    self.inbox, self.new_utterance = inbox, new_utterance
    self.utterances: deque[Utterance] = deque()
    self.slot = -1
    self.submitted = time.perf_counter()
    self.first_packet = 0.0
    self.samples = self.packets = self.read_utterances = 0
    self.opened = -1  # number of the utterance that flow and vocoder have begun
    self.text_ended = inbox is None

  @property
  def decoding(self) -> Utterance | None:
    return next((u for u in self.utterances if not u.done), None)

  def answer(self) -> Append | None:
    """What goes into the LM row that is decoded, if it waits and there is enough text."""
    spoken = self.decoding
    return spoken.next() if spoken is not None and spoken.waiting else None

  @property
  def due(self) -> Hop | None:
    return self.utterances[0].due() if self.utterances else None

  def work(self) -> Work:
    """The hop that is due, as flow and vocoder take it."""
    spoken, hop = self.utterances[0], self.due
    return Work(self.slot, self.voice, self.schedule, hop, spoken.tokens, self.seed, spoken.number)

  @property
  def deadline(self) -> float:
    """When its listener runs out of audio; before everybody else's while there is none."""
    return self.first_packet + self.samples / self.rate if self.packets else self.submitted - 1e9

  def take_text(self) -> bool:
    """Hands what has come in to the utterances' rows. Returns whether there was anything."""
    if self.text_ended or len(self.utterances) > READ_AHEAD:
      return False
    items, closed = self.inbox.take()
    for item in items:
      if not self.utterances or self.utterances[-1].row.closed:
        self.utterances.append(self.new_utterance(self.read_utterances))
        self.read_utterances += 1
      self.utterances[-1].push(item)
    if closed:
      self.text_ended = True
      if self.utterances and not self.utterances[-1].row.closed:
        self.utterances[-1].row.close()
    return bool(items) or closed
