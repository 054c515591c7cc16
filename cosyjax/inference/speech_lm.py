"""The language model's part of an engine: a slot for every request, stepped together on the device."""

import functools
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError, TextError
from cosyjax.inference.buckets import fit
from cosyjax.inference.compilation import Program
from cosyjax.inference.padding import column
from cosyjax.inference.stages import DECODE_STEPS, Stages, piece_key
from cosyjax.inference.utterance import Row
from cosyjax.lm import decode
from cosyjax.lm.interleave import Append
from cosyjax.lm.sequence import pad_rows

APPENDS = (8, 64, 256, 1024)  # ids that go into rows at once, padded to one of these
PREFIXES = 16  # prompts whose cached prefixes are kept


class SpeechLM:
  """Rows of the LM, by slot.

  Attributes:
    state: on the device; None until it is needed.
    capacity: cache slots of a row.
  """

  def __init__(self, stages: Stages, slots: int) -> None:
    self._stages, self._slots = stages, slots
    self._model, self.params, self._ladder = stages.modules["lm"], stages.params["lm"], stages.buckets.cache
    self.state: decode.DecodeState | None = None
    self.capacity = self._ladder[0]
    self._seen = [0] * slots  # tokens of each row that the host knows
    self._prefixes: OrderedDict[tuple[bytes, bytes], Any] = OrderedDict()
    self._empty = {s: Program(f"LM slots/{s}", functools.partial(self._empty_fn, s)) for s in self._ladder}
    self._grow = {s: Program(f"LM grow/{s}", functools.partial(self._grow_fn, s)) for s in self._ladder[1:]}
    self._prefix = Program("LM prefix", self._prefix_fn)
    self._begin = Program("LM begin", self._begin_fn)
    self._insert = Program("LM insert", self._insert_fn, donate=(1,))
    self._extend = Program("LM extend", self._extend_fn, donate=(1,))
    self._decode = Program("LM decode", self._decode_fn, donate=(1,))

  # What is compiled.

  def _empty_fn(self, capacity, params):
    del params
    return decode.empty_state(self._stages.config.lm, self._slots, capacity, jnp.dtype(self._stages.dtype))

  def _grow_fn(self, capacity, params, state):
    del params
    return decode.grow(state, capacity)

  def _prefix_fn(self, params, ids_1L, token_types_1L, lengths_1):
    return decode.prefix_cache(self._model, params, ids_1L, token_types_1L, lengths_1)

  def _begin_fn(self, params, rows, bounds, seed, piece, *past):
    (ids_1L, token_types_1L, lengths_1), (min_tokens_1, max_tokens_1, mode_1) = rows, bounds
    before = past[0][0].v_BKSH.shape[2] if past else 0
    return decode.prefill(
      self._model, params, ids_1L, token_types_1L, lengths_1, min_tokens_1, max_tokens_1, piece_key(seed, piece)[None],
      mode_B=mode_1, capacity=before + ids_1L.shape[1], **dict(zip(("prefix", "starts_B"), past, strict=False)),
    )  # fmt: skip

  def _insert_fn(self, params, state, one, slot):
    del params
    return decode.insert(state, one, slot)

  def _extend_fn(self, params, state, rows, bounds):
    min_tokens_B, max_tokens_B, mode_B = bounds
    new = {"min_tokens_B": min_tokens_B, "max_tokens_B": max_tokens_B, "mode_B": mode_B}
    return decode.extend(self._model, params, state, *rows, **new)

  def _decode_fn(self, params, state, steps, active_B, seen_B):
    state = decode.decode_steps(self._model, params, state, steps, active_B=active_B)
    # A row may have drawn one id when it was given its last tokens, and `steps` since.
    places_BW = seen_B[:, None] + jnp.arange(DECODE_STEPS + 1)
    tokens_BW = jnp.take_along_axis(state.tokens_BU, jnp.minimum(places_BW, state.capacity - 1), axis=1)
    return state, (tokens_BW, state.counts_B, state.ended_B)

  # What the engine calls.

  @property
  def lost(self) -> bool:
    """Whether a failed program took the state with it."""
    return self.state is not None and self.state.filled_B.is_deleted()

  @property
  def grown(self) -> bool:
    """Whether rows have more room than they began with."""
    return self.capacity > self._ladder[0]

  def reset(self) -> None:
    """Forgets all rows; the next one starts from the smallest capacity."""
    self.state, self.capacity = None, self._ladder[0]

  def prepare(self, row: Row) -> tuple[Any, int] | None:
    """The cache of what a row begins with whatever its text, and its length; computed once and kept."""
    ids_L, token_types_L = row.prefix
    if len(ids_L) < 2:  # START alone is not worth a program call
      return None
    key = ids_L.tobytes(), token_types_L.tobytes()
    if key not in self._prefixes:
      rows = _padded([(ids_L, token_types_L)], self._fit_prefix(len(ids_L)))
      self._prefixes[key] = self._prefix(self.params, *rows)
      if len(self._prefixes) > PREFIXES:
        self._prefixes.popitem(last=False)
    self._prefixes.move_to_end(key)
    return self._prefixes[key], len(ids_L)

  def begin(self, slot: int, append: Append, row: Row, seed: int, piece: int) -> None:
    """Starts a row in a slot, after the cached prefix of its prompt.

    Raises:
      TextError: text and prompt are too long together.
    """
    params, prepared = self.params, self.prepare(row) if append.prefix else None
    skip = 0 if prepared is None else append.prefix
    past = () if prepared is None else (prepared[0], np.asarray([skip], np.int32))
    rest = append.ids_L[skip:], append.token_types_L[skip:]
    rows = _padded([rest], self._fit_prefix(len(rest[0])))
    before = 0 if prepared is None else self._fit_prefix(prepared[1])
    self._make_room(max(len(append.ids_L) + append.max_tokens, before + rows[0].shape[1]))
    one = self._begin(params, rows, _bounds([append], 1), np.uint32(seed), np.uint32(piece), *past)
    self.state = self._insert(params, self.state, one, np.int32(slot))
    self._seen[slot] = 0

  def extend(self, appends: dict[int, tuple[Append, int]]) -> None:
    """Gives waiting rows more to read.

    Args:
      appends: by slot, what goes in and how many positions the row then has at most.
    """
    self._make_room(max(size for _, size in appends.values()))
    nothing = np.zeros(0, np.int32)
    by_slot = [appends[s][0] if s in appends else None for s in range(self._slots)]
    L = fit(APPENDS, max(len(a.ids_L) for a in by_slot if a is not None), "ids to append")
    rows = _padded([(nothing, nothing) if a is None else (a.ids_L, a.token_types_L) for a in by_slot], L)
    self.state = self._extend(self.params, self.state, rows, _bounds(by_slot, self._slots))

  def decode(self, slots: Sequence[int], steps: int) -> Any:
    """Starts up to `steps` steps of some rows; `collect` takes what is returned."""
    active_B = np.isin(np.arange(self._slots), slots)
    steps = np.int32(min(steps, DECODE_STEPS))
    seen_B = np.asarray(self._seen, np.int32)
    self.state, report = self._decode(self.params, self.state, steps, active_B, seen_B)
    return report, tuple(slots)

  def collect(self, started: Any) -> dict[int, tuple[np.ndarray, int]]:
    """New tokens of each slot, and why its row does not run (`cosyjax.lm.decode.RUNNING`: it does)."""
    report, slots = started
    tokens_BW, counts_B, ended_B = jax.device_get(report)
    found = {}
    for slot in slots:
      found[slot] = tokens_BW[slot, : counts_B[slot] - self._seen[slot]], int(ended_B[slot])
      self._seen[slot] = int(counts_B[slot])
    return found

  def plan(self, prefix: int, cache: int) -> Iterator[tuple[Program, list[Any]]]:
    """Programs with the shapes of their arguments, for rows of up to so many ids; see `Limits`."""
    buckets, params = self._stages.buckets, self.params
    shape = lambda dims, dtype=np.int32: jax.ShapeDtypeStruct(dims, dtype)
    rows = lambda B, L: [shape((B, L)), shape((B, L)), shape((B,))]
    prefixes = buckets.up_to("prefix", prefix)

    def begin(before: int, L: int) -> list[Any]:
      past = [jax.eval_shape(self._prefix_fn, params, *rows(1, before)), shape((1,))] if before else []
      return [rows(1, L), [shape((1,))] * 3, *[shape((), np.uint32)] * 2, *past]

    one = lambda before, L: jax.eval_shape(self._begin_fn, params, *begin(before, L))
    for before, L in itertools.product((0, *prefixes), prefixes):
      yield self._begin, begin(before, L)
    smaller = None
    for s in buckets.up_to("cache", cache):
      yield self._empty[s], []
      state = jax.eval_shape(self._empty[s].function, params)
      if smaller is not None:
        yield self._grow[s], [smaller]
      smaller = state
      for before in (0, *prefixes):
        for L in prefixes:
          if before + L <= s:
            yield self._insert, [state, one(before, L), shape(())]
      for L in APPENDS:
        if max(fit(APPENDS, min(prefix, APPENDS[-1]), "ids"), 8) >= L:
          yield self._extend, [state, rows(self._slots, L), [shape((self._slots,))] * 3]
      yield self._decode, [state, shape(()), shape((self._slots,), np.bool_), shape((self._slots,))]
    for P in prefixes:
      yield self._prefix, rows(1, P)

  def _make_room(self, size: int) -> None:
    try:
      capacity = self._stages.buckets.fit("cache", size)
    except ConfigError as error:
      raise TextError(f"text, transcript and prompt are too long together: {error}") from error
    if self.state is None:
      self.capacity = max(capacity, self.capacity)
      self.state = self._empty[self.capacity](self.params)
    while capacity > self.capacity:  # bucket by bucket, so that few programs serve
      self.capacity = next(s for s in self._ladder if s > self.capacity)
      self.state = self._grow[self.capacity](self.params, self.state)

  def _fit_prefix(self, size: int) -> int:
    try:
      return self._stages.buckets.fit("prefix", size)
    except ConfigError as error:
      raise TextError(f"text, transcript and prompt are too long together: {error}") from error


def _padded(rows: list[tuple[np.ndarray, np.ndarray]], length: int) -> list[np.ndarray]:
  padded = pad_rows(rows, length=length)
  return [padded.ids_BL, padded.token_types_BL, padded.lengths_B]


def _bounds(appends: Sequence[Append | None], batch: int) -> list[np.ndarray]:
  """Least, most and mode of each row; zeros where nothing goes in."""
  numbers = lambda name: column([0 if a is None else getattr(a, name) for a in appends], batch)
  return [numbers(name) for name in ("min_tokens", "max_tokens", "mode")]
