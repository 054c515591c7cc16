"""The vocoder's slots: mel of chunks to audio, with the context that is carried from chunk to chunk."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.inference.chunk import Chunk
from cosyjax.inference.flow_slots import Places
from cosyjax.inference.limits import Limits
from cosyjax.inference.loaded_model import LoadedModel, source_key
from cosyjax.inference.requests import Request
from cosyjax.inference.speed import frames_ready, neighbours
from cosyjax.inference.voice import Voice
from cosyjax.vocoder.chunk_vocoder import Exact


class VocoderSlots:
  """What the vocoder carries, by slot, and the last frame before a chunk, which another speed needs.

  Attributes:
    state: on the device; None until it is needed.
    scheme: how audio is cut.
  """

  def __init__(self, model: LoadedModel, count: int, *, sizes: Sequence[int], groups: Sequence[int]) -> None:
    """Allocates nothing on the device yet.

    Args:
      model: loaded.
      count: of slots.
      sizes, groups: tokens of padded chunks and chunks computed together, for `rehearse`.
    """
    self._rate = model.config.audio.frames_per_token
    self._model, self._count, self._sizes, self._groups = model, count, sizes, groups
    self.scheme = Exact(model.config.vocoder)
    network = model.modules["vocoder"]
    scheme, bins = self.scheme, model.config.vocoder.mel_bins
    empty = lambda: (scheme.empty(count), jnp.zeros((count, bins)))
    self._empty = model.program(f"vocoder slots {count}", empty)
    opened = lambda state, slots_b: (scheme.open_slots(state[0], slots_b), state[1])
    self._open = model.program("vocoder open", opened, donate=(0,))
    step = functools.partial(_step, self.scheme, network)
    self._steps = {
      last: model.program(f"vocoder stream{', last' if last else ''}", step, donate=(1,)) for last in (False, True)
    }
    self.reset()

  @property
  def lost(self) -> bool:
    """Whether a failed program took the state with it."""
    return self.state is not None and self.state[1].is_deleted()

  @property
  def grown(self) -> bool:
    """Slots always have the same room."""
    return False

  def reset(self) -> None:
    """Drops the state of all slots."""
    self.state: Any = None
    self._frames = [(0, 0)] * self._count  # of each slot: frames taken in, and what they are at the request's speed

  def open(self, slot: int) -> None:
    """Begins a segment in a slot."""
    self.state = self._empty(None) if self.state is None else self.state
    self.state = self._open(None, self.state, np.asarray([slot], np.int32))
    self._frames[slot] = (0, 0)

  def step(self, chunks: Sequence[Chunk], mel_bTM: jax.Array, places: Places) -> Any:
    """Starts on the frames of solved chunks.

    Args:
      chunks: of some slots, one of each.
      mel_bTM: of `FlowSlots.step`, on the device.
      places: where in it the frames of each chunk are.

    Returns:
      For `collect`.
    """
    b, T = mel_bTM.shape[:2]
    size = T if all(c.request.speed >= 1 for c in chunks) else 2 * T + 1
    before_bT, after_bT = np.zeros((2, b, size), np.int32)
    share_bT = np.zeros((b, size), np.float32)
    slots_b, (kept_b, lengths_b, seeds_b, numbers_b) = np.full(b, self._count, np.int32), np.zeros((4, b), np.int64)
    last_b, now = np.zeros(b, bool), {}
    for chunk, (line, start) in zip(chunks, places, strict=True):
      taken, made = self._frames[chunk.slot]
      end, speed = taken + self._rate * chunk.count, chunk.request.speed
      ready = frames_ready(end, speed, chunk.last)
      low, high, share = neighbours(made, ready, speed, end)
      n, shift = ready - made, 1 + start - taken  # frame 0 of the window is the last one of the chunk before
      before_bT[line, :n], after_bT[line, :n], share_bT[line, :n] = low + shift, high + shift, share
      slots_b[line], kept_b[line], lengths_b[line], last_b[line] = chunk.slot, end - 1 + shift, n, chunk.last
      seeds_b[line], numbers_b[line], now[chunk.slot] = chunk.request.seed, chunk.segment, (end, ready)
    keys = seeds_b.astype(np.uint32), numbers_b.astype(np.uint32)
    frames = before_bT, after_bT, share_bT, kept_b.astype(np.int32), lengths_b.astype(np.int32)
    more = (last_b,) if last_b.any() else ()
    self.state, *audio = self._steps[bool(more)](self._params, self.state, slots_b, mel_bTM, frames, keys, *more)
    for slot, counts in now.items():
      self._frames[slot] = counts
    return audio, [line for line, _ in places]

  def collect(self, started: Any) -> list[np.ndarray]:
    """Waits, and gives the audio [A] of each chunk."""
    audio, lines = started
    wave_bA, samples_b = jax.device_get(audio)
    return [wave_bA[line, : samples_b[line]] for line in lines]

  def rehearse(self, limits: Limits) -> None:
    """Makes all calls that streams within the limits can make."""
    request, bins = self._nobody(), self._model.config.vocoder.mel_bins
    speeds = (1.0, limits.slowest) if limits.slowest < 1 else (1.0,)
    self.open(0)
    for b, size, speed, last in itertools.product(self._groups, self._sizes, speeds, (False, True)):
      self._frames = [(0, 0)] * self._count
      chunk = Chunk(request(speed), np.zeros(size, np.int32), size, slot=0, last=last)
      self.step([chunk], jax.ShapeDtypeStruct((b, self._rate * size, bins), np.float32), [(0, 0)])

  def _nobody(self) -> Any:
    voice = Voice.from_speaker(np.zeros(1), self._model.config.flow.mel_bins)
    return lambda speed: Request("", voice, speed=speed).resolved(self._model.config)

  @property
  def _params(self) -> Any:
    return self._model.params["vocoder"]


# What is compiled. The first argument that is not fixed is the parameters.


def _step(scheme, network, params, state, slots_b, mel_bTM, frames, keys, last_b=None):
  before_bT, after_bT, share_bT, kept_b, lengths_b = frames
  carried, last_BM = state
  window_bTM = jnp.concatenate([last_BM.at[slots_b].get(mode="clip")[:, None], mel_bTM], axis=1)
  frame = jax.vmap(lambda mel_TM, at: mel_TM[at])
  share_bT1 = share_bT[..., None]
  mel_bTM = frame(window_bTM, before_bT) * (1 - share_bT1) + frame(window_bTM, after_bT) * share_bT1
  last_BM = last_BM.at[slots_b].set(frame(window_bTM, kept_b), mode="drop")
  keys_b = jax.vmap(source_key)(*keys)
  carried, wave_bA, samples_b = scheme.step(network, params, carried, slots_b, mel_bTM, lengths_b, last_b, keys_b)
  return (carried, last_BM), wave_bA, samples_b
