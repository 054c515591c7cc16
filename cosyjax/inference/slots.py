"""What runs on the device: slots of LM, flow and vocoder, one protocol for the three.

A network's slots are a batch of fixed shapes that running requests hold a place in. A request is
opened in a slot, steps take some of the slots further, and whatever stood in a slot is gone when
the next request is opened there. Streams use them from the engine's thread, chunk by chunk;
offline synthesis uses them on the spot, and its chunks, whole segments, take a path without caches.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax

from cosyjax.inference.flow_slots import FlowSlots
from cosyjax.inference.limits import Limits
from cosyjax.inference.lm_slots import LMSlots
from cosyjax.inference.loaded_model import LoadedModel
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.vocoder_slots import VocoderSlots


class Slots(Protocol):
  """Device state of one network or of several, a slot for each request that runs. Not thread-safe."""

  @property
  def lost(self) -> bool:
    """Whether a program failed on the device and took the state with it."""
    ...

  @property
  def grown(self) -> bool:
    """Whether slots have more room than they began with."""
    ...

  def reset(self) -> None:
    """Drops the state of all slots; the next request starts from the smallest size."""
    ...

  def open(self, slot: int, *what: Any) -> None:
    """Begins in a slot; whatever was there is gone."""
    ...

  def step(self, what: Sequence[Any], *more: Any) -> Any:
    """Starts the next step of some slots; returns without waiting for the device."""
    ...

  def rehearse(self, limits: Limits) -> None:
    """Makes all calls that requests within the limits can make; see `compilation.rehearse`."""
    ...


class DeviceSlots:
  """Slots of all three networks.

  Attributes:
    count: of slots.
    lm, flow, vocoder: of each network.
  """

  def __init__(
    self,
    model: LoadedModel,
    count: int,
    schedule: Schedule,
    *,
    window: int | None,
    seconds: float,
    flow_steps: int | None = None,
  ) -> None:
    """Allocates nothing on the device yet.

    Args:
      model: loaded.
      count: requests that run at once.
      schedule: the largest chunks to be solved.
      window: blocks that the flow keeps of a stream besides the prompt; None: all.
      seconds: room for prompt and speech to begin with.
      flow_steps: most Euler steps of a request; the model's if None.
    """
    self.count = count
    self.lm = LMSlots(model, count)
    largest = schedule.largest(model.config.flow.chunk)
    self.flow = FlowSlots(model, count, largest=largest, window=window, seconds=seconds, steps=flow_steps)
    self.vocoder = VocoderSlots(model, count, sizes=self.flow.sizes, groups=self.flow.groups)

  @property
  def _parts(self) -> tuple[Slots, ...]:
    return self.lm, self.flow, self.vocoder

  @property
  def lost(self) -> bool:
    """Whether any network's state was lost."""
    return any(part.lost for part in self._parts)

  @property
  def grown(self) -> bool:
    """Whether any network's slots have grown."""
    return any(part.grown for part in self._parts)

  def reset(self) -> None:
    """Drops the state of all slots. Prepared voices stay."""
    for part in self._parts:
      part.reset()

  def shrink(self) -> None:
    """Gives back what long requests had slots grow to; called when nothing runs."""
    if self.grown:
      self.reset()

  def open(self, slot: int, request: Request) -> None:
    """Begins a segment in a slot's flow and vocoder."""
    self.flow.open(slot, request)
    self.vocoder.open(slot)

  def rehearse(self, limits: Limits) -> None:
    """Makes all calls that streams within the limits can make."""
    for part in self._parts:
      part.rehearse(limits)

  def memory(self) -> dict[str, int]:
    """Bytes on the device, by what they hold."""
    size = lambda tree: sum(a.nbytes for a in jax.tree.leaves(tree))
    found = {name: size(getattr(self, name).state) for name in ("lm", "flow", "vocoder")}
    return found | {"voices": self.flow.prepared_bytes()}
