"""The flow's part of an engine: each hop of tokens is solved once, with caches of what came before."""

import dataclasses
import functools
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.flow import chunk_solver, matching
from cosyjax.flow import chunk_state as flow_state
from cosyjax.flow.chunk_cache import BLOCKS
from cosyjax.flow.noise import noise_table
from cosyjax.inference.buckets import fit
from cosyjax.inference.compilation import Program
from cosyjax.inference.padding import column, pad
from cosyjax.inference.stages import Stages
from cosyjax.inference.voice import Voice
from cosyjax.inference.work import Mel, Work

PROMPT_STEP = 256  # frames: prompts are kept in copies of a multiple of this
VOICES = 8  # prompts that are kept; the one not used for longest goes


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
  """One row of a chunk: `count` tokens that get frames, of their blocks, then those looked at."""

  slot: int
  tokens_U: np.ndarray
  count: int
  blocks_U: np.ndarray
  cond_TM: np.ndarray
  voice: Voice | None


class CachedFlow:
  """Solves each block once. Rows of caches, by slot.

  Attributes:
    state: on the device; None until it is needed.
    params: of the flow alone; every call hands each of its arrays over.
    frames, tokens: slots of a row in the UNet's caches and in the token encoder's.
    window: blocks that a frame sees besides the prompt; None: all.
  """

  def __init__(self, stages: Stages, slots: int, *, seconds: float, window: int | None, sizes: tuple[int, ...]) -> None:
    self._stages, self._slots, self.sizes, self.window = stages, slots, sizes, window
    self._model, self.params, self._config = stages.modules["flow"], stages.params["flow"], stages.config.flow
    self._rate, self._frame_rate = stages.config.audio.frames_per_token, stages.config.audio.frame_rate
    self._ladder = stages.buckets.history
    self._least = fit(
      self._ladder, int(seconds * self._frame_rate), "frames of history"
    )  # with a window: the encoder's alone
    self._times = matching.schedule(self._config.steps)
    self.groups = (*(g for g in (1, 4, 16, 64) if g < slots), slots)
    self.state: flow_state.FlowState | None = None
    self.frames = self.tokens = 0
    self._torn = False  # between the programs of one chunk
    self._done = [0] * slots  # frames of each row that are solved
    self._prepared: OrderedDict[bytes, tuple[flow_state.FlowState, int]] = OrderedDict()  # a prompt's past, its tokens
    self._holds: list[bytes | None] = [None] * slots  # whose prompt's keys stand at the front of the row
    self._encode = Program("flow encode", self._encode_fn, donate=(1,))
    self._step = Program("flow step", self._step_fn, donate=(1, 3))
    self._open = Program("flow open", self._open_fn, donate=(1,))
    self._insert = {
      k: Program(f"flow insert, keys {k}", functools.partial(self._insert_fn, k), donate=(1,)) for k in (True, False)
    }
    self._resizers: dict[tuple[str, int, int], Program] = {}

  # What is compiled.

  def _encode_fn(self, params, state, rows_b, chunk):
    return chunk_solver.encode_chunk(self._model, params, state, rows_b, chunk, window=self.window)

  def _step_fn(self, params, kept, guide, x_bTM, t, dt):
    return chunk_solver.euler_step(self._model, params, kept, guide, x_bTM, t, dt)

  def _open_fn(self, params, state, rows_B, pinned):
    del params
    return flow_state.open_rows(state, rows_B, pinned)

  def _insert_fn(self, keys, params, state, one, slot):
    del params
    return flow_state.insert(state, one, slot, keys)

  # What the engine calls.

  @property
  def lost(self) -> bool:
    """Whether a failed program took the state with it."""
    return self._torn or (self.state is not None and self.state.frames_B.is_deleted())

  @property
  def grown(self) -> bool:
    """Whether rows have more room than they began with."""
    return max(self.frames if self.window is None else 0, self._rate * self.tokens) > self._least

  def reset(self) -> None:
    """Forgets all rows (prepared voices stay); the next one starts from the smallest size."""
    self.state, self.frames, self.tokens, self._torn = None, 0, 0, False
    self._holds = [None] * self._slots

  def holds(self, slot: int, voice: Voice) -> bool:
    """Whether the prompt's keys and values are in the slot already."""
    return self._holds[slot] == voice.fingerprint and voice.fingerprint in self._prepared

  def prepare(self, voice: Voice, slot: int) -> None:
    """Solves the prompt's whole chunks in a free slot and keeps a copy of what they leave.

    A chunk looks ahead at the tokens after it, so one that ends the prompt has to wait for
    the first new tokens: `solve` does it.
    """
    c, P = self._config, len(voice.tokens_U)
    whole = max(P - c.encoder.lookahead, 0) // c.chunk * c.chunk
    if not whole or voice.fingerprint in self._prepared:
      return
    self._make_room(
      self._needs(self._rate * (whole + c.chunk), self._rate * (whole + c.chunk)), self._rate * (whole + c.chunk)
    )
    self._open_empty(slot, pinned=self._rate * (P // c.chunk * c.chunk))
    step = self.sizes[-1] // c.chunk * c.chunk
    for first in range(0, whole, step):
      count = min(step, whole - first)
      self._run([self._prompt_row(slot, voice, first, count)], self.sizes[-1])
    frames = min(-(-self._rate * whole // PROMPT_STEP) * PROMPT_STEP, self.frames)
    take = self._resizer("take", frames, frames // self._rate)
    self._prepared[voice.fingerprint] = take(self.params, self.state, np.int32(slot)), whole
    self._holds[slot] = voice.fingerprint
    if len(self._prepared) > VOICES:
      self._forget(next(iter(self._prepared)))

  def forget(self, voice: Voice) -> None:
    """Drops what `prepare` kept."""
    self._forget(voice.fingerprint)

  def _forget(self, key: bytes) -> None:
    self._prepared.pop(key, None)
    self._holds = [None if held == key else held for held in self._holds]

  def open(self, slot: int, voice: Voice) -> None:
    """Begins a stream in a slot, right after its prompt's whole chunks."""
    self.prepare(voice, slot)
    if voice.fingerprint not in self._prepared:
      whole = len(voice.tokens_U) // self._config.chunk * self._config.chunk
      self._make_room(self._needs(1, self._rate * whole), 1)
      self._open_empty(slot, pinned=self._rate * whole)
      return
    self._prepared.move_to_end(voice.fingerprint)
    one, whole = self._prepared[voice.fingerprint]
    self._make_room(self._needs(one.blocks_BS.shape[1], self._rate * whole), self._rate * one.encoder[BLOCKS].shape[1])
    insert = self._insert[not self.holds(slot, voice)]
    self.state = insert(self.params, self.state, one, np.int32(slot))
    self._done[slot], self._holds[slot] = self._rate * whole, voice.fingerprint

  def fits(self, work: Work) -> int:
    """The padded size, in tokens, of the program that solves a hop."""
    size = len(work.voice.tokens_U) - self._first(work) + work.hop.count
    return fit(self.sizes, size, "tokens in a hop")

  def _first(self, work: Work) -> int:
    """First prompt token that is solved with a hop: all are done, unless it is the first hop."""
    c, P = self._config.chunk, len(work.voice.tokens_U)
    whole = P // c * c
    if work.hop.number:
      return P
    # A chunk that had to wait for the first new tokens goes along if there is room.
    waits = self._done[work.slot] < self._rate * whole
    return whole - c if waits and c + P - whole + work.hop.count <= self.sizes[-1] else whole

  def solve(self, works: Sequence[Work]) -> Mel:
    """Starts solving hops, one of each of some slots."""
    chunk, rows, skips, behind = self._config.chunk, [], [], []
    size = max(self.fits(w) for w in works)
    for w in works:
      P, first = len(w.voice.tokens_U), self._first(w)
      new_U = np.asarray(w.tokens[w.hop.first : w.hop.first + w.hop.count + w.hop.ahead], np.int32)
      if w.hop.number == 0 and self._done[w.slot] < self._rate * first:
        behind.append(self._prompt_row(w.slot, w.voice, first - chunk, chunk, new_U))
      number = P // chunk + w.hop.number
      blocks_U = np.concatenate([np.arange(first, P) // chunk, np.full(w.hop.count, number)])
      tokens_U = np.concatenate([w.voice.tokens_U[first:], new_U])
      rows.append(_Row(w.slot, tokens_U, len(blocks_U), blocks_U, w.voice.mel_TM[self._rate * first :], w.voice))
      skips.append(self._rate * (P - first))
    if behind:
      self._run(behind, fit(self.sizes, chunk, "tokens in a chunk"))
    mel_bTM, order = self._run(rows, size)
    return Mel(mel_bTM, order, skips)

  def _prompt_row(self, slot: int, voice: Voice, first: int, count: int, after_U: np.ndarray | None = None) -> "_Row":
    """Whole chunks of a prompt, with the tokens that they look ahead at."""
    tokens_U = voice.tokens_U if after_U is None else np.concatenate([voice.tokens_U, after_U])
    tokens_U = tokens_U[first : first + count + self._config.encoder.lookahead]
    blocks_U = (first + np.arange(count)) // self._config.chunk
    return _Row(slot, tokens_U, count, blocks_U, voice.mel_TM[self._rate * first : self._rate * (first + count)], voice)

  def _run(self, rows: list["_Row"], size: int) -> tuple[jax.Array, list[int]]:
    """Solves one chunk of each row, padded to `size` tokens. Returns mel and the place of each row in it."""
    done = max(self._done[row.slot] for row in rows)
    self._make_room(0 if self.window is not None else done + self._rate * size, done + self._rate * size)
    b = fit(self.groups, len(rows), "rows")
    everyone = b == self._slots
    order = [row.slot for row in rows] if everyone else list(range(len(rows)))
    rows_b = None if everyone else column([row.slot for row in rows], b, fill=self._slots)
    chunk = self._chunk(dict(zip(order, rows, strict=True)), b, size)
    params = self.params
    kept, x_bTM, self._torn = list(self.state.estimator), chunk.noise_bTM, True
    state, guide = self._encode(params, self.state.replace(estimator=()), rows_b, chunk)
    for i, (t, dt) in enumerate(zip(self._times, np.diff(self._times), strict=False)):
      kept[i], x_bTM = self._step(params, kept[i], guide, x_bTM, t, dt)
    self.state, self._torn = state.replace(estimator=tuple(kept)), False
    for row in rows:
      self._done[row.slot] += self._rate * row.count
    return x_bTM, order

  def _chunk(self, rows: dict[int, "_Row"], b: int, size: int) -> chunk_solver.Chunk:
    """Rows by their place, padded."""
    T, c = self._rate * size, self._config
    nobody = _Row(0, np.zeros(0, np.int32), 0, np.zeros(0, np.int32), np.zeros((0, c.mel_bins), np.float32), None)
    every = [rows.get(i, nobody) for i in range(b)]
    noise_bTM = np.zeros((b, T, c.mel_bins), np.float32)
    for i, row in rows.items():
      start = self._done[row.slot]
      noise_bTM[i] = noise_table(start + T, c.mel_bins)[start:]
    speaker_bE = pad(
      [np.zeros(c.speaker_dim) if r.voice is None else r.voice.speaker_E for r in every], (b, c.speaker_dim), np.float32
    )
    return chunk_solver.Chunk(
      tokens_bC3=pad([r.tokens_U for r in every], (b, size + c.encoder.lookahead), np.int32),
      lengths_b=np.asarray([r.count for r in every], np.int32),
      ahead_b=np.asarray([len(r.tokens_U) - r.count for r in every], np.int32),
      blocks_bC=pad([r.blocks_U for r in every], (b, size), np.int32),
      cond_bTM=pad([r.cond_TM for r in every], (b, T, c.mel_bins), np.float32),
      speaker_bE=speaker_bE,
      noise_bTM=noise_bTM,
    )

  def _open_empty(self, slot: int, pinned: int) -> None:
    self.state = self._open(self.params, self.state, np.arange(self._slots) == slot, np.int32(pinned))
    self._done[slot], self._holds[slot] = 0, None

  def prepared_bytes(self) -> int:
    """What prepared voices take on the device."""
    return sum(a.nbytes for one, _ in self._prepared.values() for a in jax.tree.leaves(one))

  def plan(self, seconds: float, prompt: float) -> Iterator[tuple[Program, list[Any]]]:
    """Programs with the shapes of their arguments; see `Limits`."""
    params, smaller = self.params, None
    whole = int(prompt * self._frame_rate) // (self._rate * self._config.chunk) * self._rate * self._config.chunk
    end = int(seconds * self._frame_rate) + self._rate * self.sizes[-1]
    slot = jax.ShapeDtypeStruct((), np.int32)
    for S, tokens in self._sizes_up_to(self._needs(end, whole), end):
      empty = self._resizer("empty", S, tokens)
      state = jax.eval_shape(empty.function, params)
      yield (empty, []) if smaller is None else (self._resizer("grow", S, tokens), [smaller])
      smaller = state
      yield self._open, [state, jax.ShapeDtypeStruct((self._slots,), np.bool_), slot]
      for frames in range(PROMPT_STEP, whole + PROMPT_STEP, PROMPT_STEP):
        if frames <= S:
          take = self._resizer("take", frames, frames // self._rate)
          one = jax.eval_shape(take.function, params, state, slot)
          yield take, [state, slot]
          for insert in self._insert.values():
            yield insert, [state, one, slot]
      for b, size in itertools.product(self.groups, self.sizes):
        chunk = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self._chunk({}, b, size))
        rows_b = None if b == self._slots else jax.ShapeDtypeStruct((b,), np.int32)
        arguments = [state.replace(estimator=()), rows_b, chunk]
        yield self._encode, arguments
        _, guide = jax.eval_shape(self._encode_fn, params, *arguments)
        time = jax.ShapeDtypeStruct((), np.float32)
        yield self._step, [state.estimator[0], guide, chunk.noise_bTM, time, time]

  def _sizes_up_to(self, frames: int, encoder_frames: int) -> Iterator[tuple[int, int]]:
    """(slots of the UNet, of the token encoder) on the way to so many frames."""
    least = frames if self.window is not None else self._least
    S = fit(self._ladder, least, "frames of a stream")
    top = max(S, fit(self._ladder, max(frames if self.window is None else 0, encoder_frames), "frames of a stream"))
    for size in self._ladder:
      if S <= size <= top:
        yield (S if self.window is not None else size), size // self._rate

  def _needs(self, end: int, pinned: int) -> int:
    """Slots of the UNet's caches for a row that goes up to frame `end`."""
    return end if self.window is None else pinned + (self.window + 2) * self._rate * self.sizes[-1]

  def _make_room(self, frames: int, encoder_frames: int) -> None:
    """Room for so many frames in the UNet's caches and in the token encoder's, bucket by bucket."""
    least = 0 if self.window is not None else self._least
    S = max(fit(self._ladder, max(frames, least), "frames of a stream"), self.frames)
    tokens = max(
      fit(self._ladder, max(encoder_frames, S, self._least), "frames of a stream") // self._rate, self.tokens
    )
    params = self.params
    if self.state is None:
      self.state = self._resizer("empty", S, tokens)(params)
    elif (S, tokens) != (self.frames, self.tokens):
      self.state = self._resizer("grow", S, tokens)(params, self.state)
    self.frames, self.tokens = S, tokens

  def _resizer(self, what: str, frames: int, tokens: int) -> Program:
    """`empty`, `grow` or `take` for so many slots."""
    key = (what, frames, tokens)
    if key not in self._resizers:
      dtype = jnp.dtype(self._stages.dtype)
      functions = {
        "empty": lambda params: chunk_solver.empty(
          self._model, params, self._slots, frames=frames, tokens=tokens, dtype=dtype
        ),
        "grow": lambda params, state: flow_state.grow(state, frames, tokens),
        "take": lambda params, state, slot: flow_state.take(state, slot, frames, tokens),
      }
      self._resizers[key] = Program(f"flow {what}/{frames}", functions[what])
    return self._resizers[key]
