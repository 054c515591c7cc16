"""The language model's slots: a sequence for every request, stepped together on the device."""

import functools
import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError, TextError
from cosyjax.inference.buckets import fit
from cosyjax.inference.limits import Limits
from cosyjax.inference.loaded_model import LoadedModel, segment_key
from cosyjax.inference.padding import column
from cosyjax.inference.requests import MAX_WINDOW, SAMPLERS, Request
from cosyjax.inference.voice import Voice
from cosyjax.lm import decode
from cosyjax.lm.interleave import GivenTokens, Interleaver, KnownText
from cosyjax.lm.sampling import RepetitionAware, repetitions
from cosyjax.lm.sequence import pad_sequences

DECODE_STEPS = 16  # tokens between two looks of the host: 0.64 s of speech
EXTENDS = (8, 64, 256, 1024)  # ids that go into sequences at once, padded to one of these
PREFIXES = 16  # prompts whose cached prefixes are kept
NEVER = 1 << 20  # repetitions that no window holds

Sequences = Sequence[tuple[GivenTokens, Request, int]]  # what each begins with, whose it is, and its segment's number


class LMSlots:
  """Sequences of the LM, by slot.

  Attributes:
    state: on the device; None until it is needed.
    capacity: cache positions of a slot.
  """

  def __init__(self, model: LoadedModel, count: int) -> None:
    self._model, self._config, self._count, self._ladder = model, model.config.lm, count, model.buckets.cache
    self._prefixes: OrderedDict[tuple[bytes, bytes], Any] = OrderedDict()
    program, network = model.program, model.modules["lm"]
    dtype = jnp.dtype(model.dtype)
    empty = lambda capacity: lambda: decode.empty_state(network.config, count, capacity, dtype, MAX_WINDOW)
    self._empty = {s: program(f"LM slots {count}/{s}", empty(s)) for s in self._ladder}
    self._grow = {s: program(f"LM grow/{s}", functools.partial(decode.grow, capacity=s)) for s in self._ladder[1:]}
    self._prefill = {s: program(f"LM prefill/{s}", functools.partial(_prefill, network, s)) for s in self._ladder}
    self._prefix = program("LM prefix", functools.partial(decode.prefix_cache, network))
    self._open = program("LM open", functools.partial(_prefill, network, None))
    self._insert = program("LM insert", decode.insert, donate=(0,))
    self._extend = program("LM extend", functools.partial(_extend, network), donate=(1,))
    self._decode = program("LM decode", functools.partial(_decode, network), donate=(1,))
    self.reset()

  @property
  def lost(self) -> bool:
    """Whether a failed program took the state with it."""
    return self.state is not None and self.state.filled_B.is_deleted()

  @property
  def grown(self) -> bool:
    """Whether slots have more room than they began with."""
    return self.capacity > self._ladder[0]

  def reset(self) -> None:
    """Drops all sequences; the next one starts from the smallest capacity."""
    self.state: decode.DecodeState | None = None
    self.capacity = self._ladder[0]
    self._seen = [0] * self._count  # tokens of each slot that the host knows
    self._samplers = _samplers([], self._count)

  def prepare(self, layout: KnownText | Interleaver) -> tuple[Any, int] | None:
    """The cache of what a sequence begins with whatever its text, and its length; computed once and kept."""
    ids_L, token_types_L = layout.prefix
    if len(ids_L) < 2:  # START alone is not worth a program call
      return None
    key = ids_L.tobytes(), token_types_L.tobytes()
    if key not in self._prefixes:
      rows = _padded([(ids_L, token_types_L)], self._fit("prefix", len(ids_L)))
      self._prefixes[key] = self._prefix(self._params, *rows)
      if len(self._prefixes) > PREFIXES:
        self._prefixes.popitem(last=False)
    self._prefixes.move_to_end(key)
    return self._prefixes[key], len(ids_L)

  def open(
    self, slot: int, append: GivenTokens, layout: KnownText | Interleaver, request: Request, number: int
  ) -> None:
    """Begins a sequence in a slot, after the cached prefix of its prompt.

    Args:
      slot: free, or of the same request.
      append: what `layout` opens with.
      layout: of the segment.
      request: resolved.
      number: of the segment in its request.

    Raises:
      TextError: text and prompt are too long together.
    """
    prepared = self.prepare(layout) if append.prefix else None
    skip = 0 if prepared is None else append.prefix
    past = () if prepared is None else (prepared[0], np.asarray([skip], np.int32))
    rest = append.ids_L[skip:], append.token_types_L[skip:]
    rows = _padded([rest], self._fit("prefix", len(rest[0])))
    before = 0 if prepared is None else self._fit("prefix", prepared[1])
    self._make_room(max(len(append.ids_L) + append.max_tokens, before + rows[0].shape[1]))
    samplers, keys = _samplers([request], 1), _keys([(append, request, number)], 1)
    one = self._open(self._params, rows, _bounds([append], 1), keys, samplers, *past)
    self.state = self._insert(None, self.state, one, np.int32(slot))
    self._seen[slot] = 0
    self._samplers = jax.tree.map(lambda all_B, new_1: _put(all_B, slot, new_1[0]), self._samplers, samplers)

  def open_all(self, sequences: Sequences) -> None:
    """Begins known sequences in all slots at once, from the first on; the rest stay idle.

    Raises:
      TextError: text and prompt are too long together.
    """
    appends = [append for append, _, _ in sequences]
    L = self._fit("prefix", max(len(a.ids_L) for a in appends))
    self.capacity = self._fit("cache", max(L, *(len(a.ids_L) + a.max_tokens for a in appends)))
    self._seen = [0] * self._count
    self._samplers = _samplers([request for _, request, _ in sequences], self._count)
    rows = _padded([(a.ids_L, a.token_types_L) for a in appends], L, self._count)
    more = _bounds(appends, self._count), _keys(sequences, self._count), self._samplers
    self.state = self._prefill[self.capacity](self._params, rows, *more)

  def extend(self, appends: Mapping[int, tuple[GivenTokens, int]]) -> None:
    """Gives waiting sequences more to read.

    Args:
      appends: by slot, what goes in and how many positions the sequence then has at most.
    """
    self._make_room(max(size for _, size in appends.values()))
    nothing = np.zeros(0, np.int32)
    by_slot = [appends[s][0] if s in appends else None for s in range(self._count)]
    L = fit(EXTENDS, max(len(a.ids_L) for a in by_slot if a is not None), "ids to append")
    rows = _padded([(nothing, nothing) if a is None else (a.ids_L, a.token_types_L) for a in by_slot], L)
    self.state = self._extend(self._params, self.state, rows, _bounds(by_slot, self._count), self._samplers)

  def step(self, slots: Sequence[int], steps: int = DECODE_STEPS) -> Any:
    """Starts up to so many decode steps of some slots; `collect` takes what is returned."""
    active_B = np.isin(np.arange(self._count), slots)
    steps, seen_B = np.int32(min(steps, DECODE_STEPS)), np.asarray(self._seen, np.int32)
    self.state, report = self._decode(self._params, self.state, steps, active_B, seen_B, self._samplers)
    return report, tuple(slots)

  def collect(self, started: Any) -> dict[int, tuple[np.ndarray, int]]:
    """New tokens of each slot, and why its sequence does not run (`cosyjax.lm.decode.RUNNING`: it does)."""
    report, slots = started
    tokens_BW, counts_B, ended_B = jax.device_get(report)
    found = {}
    for slot in slots:
      found[slot] = tokens_BW[slot, : counts_B[slot] - self._seen[slot]], int(ended_B[slot])
      self._seen[slot] = int(counts_B[slot])
    return found

  def rehearse(self, limits: Limits) -> None:
    """Makes all calls that streams within the limits can make."""
    buckets, request = self._model.buckets, _nobody(self._model)
    prefixes = buckets.up_to("prefix", limits.prefix)
    pairs = list(itertools.product((0, *prefixes), prefixes))
    smaller = None
    for capacity in buckets.up_to("cache", limits.cache):
      if smaller is not None:
        self.state, self.capacity = smaller, self._ladder[self._ladder.index(capacity) - 1]
        self._make_room(capacity)
      self.reset()
      self._make_room(capacity)
      for before, L in pairs:
        if before + L <= capacity:
          layout = KnownText(self._config, [0] * (before - 1), [0], np.zeros(0, np.int32), 0, 0)
          self.open(0, _nothing(before + L, before), layout, request, 0)
      for L in EXTENDS:
        if fit(EXTENDS, min(limits.prefix, EXTENDS[-1]), "ids to append") >= L:
          self.extend({0: (_nothing(L), 0)})
      self.step([0])
      smaller = self.state

  def rehearse_all(self, limits: Limits) -> None:
    """Makes all calls that segments within the limits can make offline, in so many slots."""
    buckets, request = self._model.buckets, _nobody(self._model)
    for L in buckets.up_to("prefix", limits.prefix):
      for capacity in buckets.up_to("cache", max(limits.cache, L)):
        if capacity >= L:
          self.open_all([(_nothing(L, most=capacity - L), request, 0)])
          self.step([0])

  @property
  def _params(self) -> Any:
    return self._model.params["lm"]

  def _make_room(self, size: int) -> None:
    capacity = self._fit("cache", size)
    if self.state is None:
      self.capacity = max(capacity, self.capacity)
      self.state = self._empty[self.capacity](None)
    while capacity > self.capacity:  # bucket by bucket, so that few programs serve
      self.capacity = next(s for s in self._ladder if s > self.capacity)
      self.state = self._grow[self.capacity](None, self.state)

  def _fit(self, ladder: str, size: int) -> int:
    try:
      return self._model.buckets.fit(ladder, size)
    except ConfigError as error:
      raise TextError(f"text, transcript and prompt are too long together: {error}") from error


# What is compiled. Arguments are padded; the first that is not fixed is the parameters.


def _prefill(network, capacity, params, rows, bounds, keys, sampler, prefix=None, starts_B=None):
  (ids_BL, token_types_BL, lengths_B), (min_tokens_B, max_tokens_B, mode_B), (seeds_B, numbers_B) = rows, bounds, keys
  before = 0 if prefix is None else prefix[0].v_BKSH.shape[2]
  keys_B = jax.vmap(segment_key)(seeds_B, numbers_B)
  capacity = before + ids_BL.shape[1] if capacity is None else capacity
  return decode.prefill(
    network, params, ids_BL, token_types_BL, lengths_B, min_tokens_B, max_tokens_B, keys_B, capacity=capacity,
    mode_B=mode_B, prefix=prefix, starts_B=starts_B, sampler=sampler, recent=MAX_WINDOW,
  )  # fmt: skip


def _extend(network, params, state, rows, bounds, sampler):
  min_tokens_B, max_tokens_B, mode_B = bounds
  new = {"min_tokens_B": min_tokens_B, "max_tokens_B": max_tokens_B, "mode_B": mode_B}
  return decode.extend(network, params, state, *rows, **new, sampler=sampler)


def _decode(network, params, state, steps, active_B, seen_B, sampler):
  state = decode.decode_steps(network, params, state, steps, active_B=active_B, sampler=sampler)
  # A slot may have drawn one id when it was given its last tokens, and `steps` since.
  places_BW = seen_B[:, None] + jnp.arange(DECODE_STEPS + 1)
  tokens_BW = jnp.take_along_axis(state.tokens_BU, jnp.minimum(places_BW, state.capacity - 1), axis=1)
  return state, (tokens_BW, state.counts_B, state.ended_B)


# Their arguments.


def _padded(rows: Sequence[tuple[np.ndarray, np.ndarray]], length: int, batch: int | None = None) -> list[np.ndarray]:
  padded = pad_sequences(rows, length=length, batch=batch)
  return [padded.ids_BL, padded.token_types_BL, padded.lengths_B]


def _bounds(appends: Sequence[GivenTokens | None], batch: int) -> list[np.ndarray]:
  """Bounds of speech tokens, and mode, of each sequence; zeros where nothing goes in."""
  numbers = lambda name: column([0 if a is None else getattr(a, name) for a in appends], batch)
  return [numbers(name) for name in ("min_tokens", "max_tokens", "mode")]


def _keys(sequences: Sequences, batch: int) -> list[np.ndarray]:
  seeds, numbers = [request.seed for _, request, _ in sequences], [number for _, _, number in sequences]
  return [column(values, batch, dtype=np.uint32) for values in (seeds, numbers)]


def _samplers(requests: Sequence[Request], batch: int) -> RepetitionAware:
  """How each slot's tokens are drawn: every sampler of `SAMPLERS` is repetition-aware sampling of some settings."""
  out = RepetitionAware(*(np.ones(batch, t) for t in (np.float32, np.int32, np.int32, np.float32, np.int32)))
  for slot, r in enumerate(requests):
    redraws = r.sampler == SAMPLERS[0] and r.repeat_window > 0
    out.top_p[slot], out.top_k[slot] = r.top_p, 1 if r.sampler == "greedy" else r.top_k
    out.threshold[slot] = repetitions(r.repeat_window, r.repeat_rate) if redraws else NEVER
    out.temperature[slot], out.window[slot] = r.temperature, r.repeat_window
  return out


def _put(values: np.ndarray, at: int, value: Any) -> np.ndarray:
  values = values.copy()  # a program that runs may still read the old one
  values[at] = value
  return values


def _nobody(model: LoadedModel) -> Request:
  return Request("", Voice.from_speaker(np.zeros(1)), mode="speaker").resolved(model.config)


def _nothing(length: int, prefix: int = 0, most: int = 0) -> GivenTokens:
  return GivenTokens(*np.zeros((2, length), np.int32), 0, most, decode.KNOWN, prefix)
