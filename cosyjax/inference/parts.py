"""What an engine has on the device: LM, flow and vocoder, with a row of state for every slot."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.inference.buckets import fit
from cosyjax.inference.compilation import Program
from cosyjax.inference.padding import Tracker
from cosyjax.inference.recompute import Recompute
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.solver import CachedFlow
from cosyjax.inference.speech_lm import SpeechLM
from cosyjax.inference.stages import SOURCE_STAGE, Progress, Stages, piece_key
from cosyjax.inference.utterance import Row
from cosyjax.inference.voice import Voice
from cosyjax.inference.work import Mel, Work
from cosyjax.vocoder.chunk_vocoder import Exact, Released

HISTORIES = ("full", "window", "none")
VOCODERS = {"exact": Exact, "released": Released}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What requests may come to; beyond it, they still run but compile first.

  Attributes:
    prefix: ids that go into an LM row before its first token: text, transcript, prompt tokens.
    cache: positions of an LM row, prefix and new tokens together.
    seconds: of prompt and speech together, in one utterance.
    prompt: seconds of the longest prompt.
  """

  prefix: int = 256
  cache: int = 1024
  seconds: float = 20.0
  prompt: float = 10.0


class VocoderRows:
  """The vocoder's part: carried context, by slot."""

  def __init__(self, stages: Stages, slots: int, scheme: Exact | Released, groups: tuple[int, ...]) -> None:
    self._stages, self._slots, self.scheme, self._groups = stages, slots, scheme, groups
    self.params = stages.params["vocoder"]
    self.state: Any = None
    self._empty = Program("vocoder slots", lambda params: scheme.empty(slots))
    self._open = Program("vocoder open", lambda params, state, rows: scheme.open_rows(state, rows), donate=(1,))
    self._steps = {
      last: Program(f"vocoder stream{', last' if last else ''}", self._step_fn, donate=(1,)) for last in (False, True)
    }

  def _step_fn(self, params, state, rows_b, mel_bTM, skips_b, lengths_b, seeds_b, pieces_b, *last_b):
    # New frames first; what is behind them is not read.
    mel_bTM = jax.vmap(lambda mel, skip: jnp.roll(mel, -skip, axis=0))(mel_bTM, skips_b)
    keys_b = jax.vmap(lambda s, p: jax.random.fold_in(piece_key(s, p), SOURCE_STAGE))(seeds_b, pieces_b)
    args = (rows_b, mel_bTM, lengths_b, last_b[0] if last_b else None, keys_b)
    return self.scheme.step(self._stages.modules["vocoder"], params, state, *args)

  @property
  def lost(self) -> bool:
    return self.state is not None and self.state.held_B.is_deleted()

  def reset(self) -> None:
    self.state = None

  def open(self, slot: int) -> None:
    """Begins an utterance in a slot."""
    params = self.params
    self.state = self._empty(params) if self.state is None else self.state
    self.state = self._open(params, self.state, np.asarray([slot], np.int32))

  def step(self, mel: Mel, works: Sequence[Work]) -> tuple[jax.Array, jax.Array]:
    """Starts on the frames of a group: audio [b, A] and samples in each row, on the device."""
    b = mel.mel_bTM.shape[0]
    spread = lambda values, fill=0, dtype=np.int32: _spread(values, mel.rows, b, fill, dtype)
    rows_b = spread([w.slot for w in works], fill=self._slots)
    args = [
      rows_b,
      mel.mel_bTM,
      spread(mel.skips),
      spread([self._stages.config.audio.frames_per_token * w.hop.count for w in works]),
    ]
    args += [spread([getattr(w, name) for w in works], dtype=np.uint32) for name in ("seed", "piece")]
    if any(w.hop.last for w in works):
      args.append(spread([w.hop.last for w in works], dtype=np.bool_))
    self.state, wave_bA, samples_b = self._steps[len(args) > 6](self.params, self.state, *args)
    return wave_bA, samples_b

  def plan(self, sizes: Sequence[int]) -> Iterator[tuple[Program, list[Any]]]:
    """Programs with the shapes of their arguments, for hops padded to so many tokens."""
    params, mel_bins = self.params, self._stages.config.vocoder.mel_bins
    shape = lambda dims, dtype=np.int32: jax.ShapeDtypeStruct(dims, dtype)
    yield self._empty, []
    state = jax.eval_shape(self._empty.function, params)
    yield self._open, [state, shape((1,))]
    for b, size in itertools.product(self._groups, sizes):
      args = [
        state,
        shape((b,)),
        shape((b, self._stages.config.audio.frames_per_token * size, mel_bins), np.float32),
        shape((b,)),
        shape((b,)),
      ]
      args += [shape((b,), np.uint32)] * 2
      yield self._steps[False], args
      yield self._steps[True], [*args, shape((b,), np.bool_)]


def _spread(values: Sequence[Any], rows: Sequence[int], batch: int, fill: Any, dtype: Any) -> np.ndarray:
  """Values in their rows of a batch."""
  out = np.full(batch, fill, dtype)
  out[list(rows)] = values
  return out


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
  """A group's audio, still on its way."""

  wave_bA: jax.Array
  samples_b: jax.Array
  rows: list[int]
  works: Sequence[Work]

  def samples(self) -> list[np.ndarray]:
    """Waits, and gives the audio [A] of each piece of work."""
    wave_bA, samples_b = jax.device_get((self.wave_bA, self.samples_b))
    return [wave_bA[row, : samples_b[row]] for row in self.rows]


class Parts:
  """LM, flow and vocoder of one engine. Not thread-safe: the worker's thread owns it.

  Attributes:
    slots: rows.
    lm, flow, recompute, vocoder: the parts.
  """

  def __init__(
    self, stages: Stages, slots: int, schedule: Schedule, *, history: str, window: int, seconds: float, vocoder: str
  ) -> None:
    self.slots, self._stages, self._history = slots, stages, history
    self._chunk = stages.config.flow.chunk
    sizes, top = [self._chunk], schedule.largest(self._chunk)
    while sizes[-1] < top:
      sizes.append(2 * sizes[-1])
    self._largest = sizes[-1]
    self.lm = SpeechLM(stages, slots)
    self.flow = CachedFlow(
      stages, slots, seconds=seconds, window=window if history == "window" else None, sizes=tuple(sizes)
    )
    self.recompute = Recompute(stages, self.flow.groups)
    self.vocoder = VocoderRows(stages, slots, VOCODERS[vocoder](stages.config.vocoder), self.flow.groups)

  @property
  def lost(self) -> bool:
    """Whether a program failed on the device and took state with it."""
    return self.lm.lost or self.flow.lost or self.vocoder.lost

  def reset(self) -> None:
    """Drops the state of all slots. Prepared voices stay."""
    for part in (self.lm, self.flow, self.vocoder):
      part.reset()

  def shrink(self) -> None:
    """Gives back what long requests had slots grow to; called when nothing runs."""
    if self.lm.grown or self.flow.grown:
      self.reset()

  def check(self, schedule: Schedule, voice: Voice) -> None:
    """Refuses a schedule or a prompt that this engine was not made for.

    Raises:
      ConfigError: it does not fit.
    """
    if not self._caches(schedule):
      return
    if schedule.largest(self._chunk) > self._largest:
      found = f"hops of up to {schedule.largest(self._chunk)} tokens"
      raise ConfigError(
        f"schedule: this engine's hops have at most {self._largest} tokens, found {found}; make the engine with it"
      )
    fit(
      self._stages.buckets.history,
      self._stages.config.audio.frames_per_token * len(voice.tokens_U),
      "frames of a prompt",
    )

  def best_slot(self, free: Sequence[int], voice: Voice) -> int:
    """Index in `free` of the slot to take: one where the voice's prompt is already."""
    return next((i for i, slot in enumerate(free) if self.flow.holds(slot, voice)), 0)

  def prepare(self, voice: Voice, rows: Sequence[Row], slot: int) -> None:
    """Computes a voice's past, in a free slot: of the flow, and of each kind of LM row."""
    if self._history != "none":
      self.flow.prepare(voice, slot)
    for row in rows:
      self.lm.prepare(row)

  def forget(self, voice: Voice) -> None:
    self.flow.forget(voice)

  def open(self, slot: int, voice: Voice, schedule: Schedule) -> None:
    """Begins an utterance in a slot's flow and vocoder."""
    if self._caches(schedule):
      self.flow.open(slot, voice)
    self.vocoder.open(slot)

  def group(self, works: Sequence[Work]) -> list[int]:
    """Which of these, most urgent first, are solved together: those that fit the first one's program."""
    cached = self._caches(works[0].schedule)
    solver = self.flow if cached else self.recompute
    size = solver.fits(works[0])
    alike = [i for i, w in enumerate(works) if self._caches(w.schedule) == cached and solver.fits(w) <= size]
    return alike[: self.flow.groups[-1]]

  def solve(self, works: Sequence[Work]) -> Mel:
    """Starts a group's hops."""
    return (self.flow if self._caches(works[0].schedule) else self.recompute).solve(works)

  def vocode(self, mel: Mel, works: Sequence[Work]) -> Solved:
    """Starts on the audio of solved hops."""
    wave_bA, samples_b = self.vocoder.step(mel, works)
    return Solved(wave_bA, samples_b, mel.rows, works)

  def _caches(self, schedule: Schedule) -> bool:
    return self._history != "none" and not schedule.released

  def warm_up(self, progress: Progress | None = None, **limits: Any) -> int:
    """Compiles all programs that requests within the limits can need, a few at a time.

    Args:
      progress: called as ("warm-up", done, total).
      **limits: fields of `Limits`.

    Returns:
      The number of programs.
    """
    plan = list(self._plan(Limits(**limits)))
    tracker = Tracker(progress, "warm-up", len(plan))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles without the interpreter's lock
      for future in as_completed([pool.submit(program.prepare, *args) for program, args in plan]):
        future.result()
        tracker.add(1)
    return len(plan)

  def _plan(self, limits: Limits) -> Iterator[tuple[Program, list[Any]]]:
    plans = [(self.lm, self.lm.plan(limits.prefix, limits.cache)), (self.vocoder, self.vocoder.plan(self.flow.sizes))]
    if self._history != "none":
      plans.append((self.flow, self.flow.plan(limits.seconds, limits.prompt)))
    for part, plan in plans:
      yield from ((program, [part.params, *args]) for program, args in plan)

  def memory(self) -> dict[str, int]:
    """Bytes on the device, by what they hold."""
    size = lambda tree: sum(a.nbytes for a in jax.tree.leaves(tree))
    found = {"lm": size(self.lm.state), "flow": size(self.flow.state), "vocoder": size(self.vocoder.state)}
    return found | {"voices": self.flow.prepared_bytes()}
