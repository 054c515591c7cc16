"""The flow's slots: each chunk of tokens is solved once, with caches of what came before."""

import dataclasses
import functools
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.flow import chunk_solver, matching
from cosyjax.flow import chunk_state as flow_state
from cosyjax.flow.chunk_cache import BLOCKS
from cosyjax.flow.noise import noise_table
from cosyjax.inference.buckets import fit
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.compilation import Program
from cosyjax.inference.limits import Limits
from cosyjax.inference.loaded_model import LoadedModel
from cosyjax.inference.padding import column
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import Schedule
from cosyjax.inference.voice import Voice

PROMPT_STEP = 256  # frames: prompts are kept in copies of a multiple of this
VOICES = 8  # prompts that are kept; the one not used for longest goes

Prompt = tuple[
  bytes, int, float
]  # whose caches are equal: of one voice, solved in the same steps under the same guidance
Places = list[tuple[int, int]]  # of each chunk: its line in a batch of mel, and the first of its frames there


class FlowSlots:
  """Caches of the flow, by slot.

  Attributes:
    state: on the device; None until it is needed.
    frames, tokens: positions of a slot in the estimator's caches and in the token encoder's.
    steps: most Euler steps of a request: there are caches for so many.
    sizes, groups: tokens of a padded chunk, and chunks solved together: ascending.
  """

  def __init__(
    self, model: LoadedModel, count: int, *, largest: int, window: int | None, seconds: float, steps: int | None = None
  ) -> None:
    """Allocates nothing on the device yet.

    Args:
      model: loaded.
      count: of slots.
      largest: tokens of the largest chunk.
      window: blocks that a frame sees besides the prompt; None: all.
      seconds: room of a slot to begin with.
      steps: most Euler steps of a request; the model's if None.
    """
    self._model, self._count, self._window = model, count, window
    self._config, self._rate = model.config.flow, model.config.flow.frames_per_token
    self.steps = steps or self._config.steps
    self._ladder = model.buckets.history
    frames = int(seconds * model.config.audio.frame_rate)
    self._least = fit(self._ladder, frames, "frames of history")  # with a window: the encoder's alone
    sizes = [self._config.chunk]
    while sizes[-1] < largest:
      sizes.append(2 * sizes[-1])
    self.sizes = tuple(sizes)
    self.groups = (*(g for g in (1, 4, 16, 64) if g < count), count)
    self._prepared: OrderedDict[Prompt, tuple[Any, int]] = OrderedDict()  # caches, and prompt tokens in them
    network, program = model.modules["flow"], model.program
    encode = functools.partial(chunk_solver.encode_chunk, network, window=window)
    euler = lambda params, *args: chunk_solver.euler_step(network, params, *args[:-1], guidance=args[-1])
    self._encode = program(f"flow encode, window {window}", encode, donate=(1,))
    self._euler = program("flow step", euler, donate=(1, 3))
    self._open = program("flow open", flow_state.open_slots, donate=(0,))
    self._insert = {
      keys: program(f"flow insert, keys {keys}", functools.partial(flow_state.insert, keys=keys), donate=(0,))
      for keys in (True, False)
    }
    self.reset()

  @property
  def lost(self) -> bool:
    """Whether a failed program took the state with it."""
    return self._torn or (self.state is not None and self.state.frames_B.is_deleted())

  @property
  def grown(self) -> bool:
    """Whether slots have more room than they began with."""
    return max(self.frames if self._window is None else 0, self._rate * self.tokens) > self._least

  def reset(self) -> None:
    """Drops the state of all slots (prepared voices stay); the next one starts from the smallest size."""
    self.state: flow_state.FlowState | None = None
    self.frames = self.tokens = 0
    self._torn = False  # between the programs of one chunk
    self._done = [0] * self._count  # frames of each slot that are solved
    self._holds: list[Prompt | None] = [None] * self._count  # whose prompt's keys stand at the front of the slot

  # Prompts.

  def check(self, schedule: Schedule, request: Request) -> None:
    """Refuses a schedule or a request that these slots were not made for.

    Raises:
      ConfigError: it does not fit.
    """
    largest = schedule.largest(self._config.chunk)
    if largest > self.sizes[-1]:
      raise ConfigError(
        f"schedule: this engine's chunks have at most {self.sizes[-1]} tokens, found chunks of up to {largest} tokens; "
        "make the engine with it"
      )
    if request.flow_steps > self.steps:
      raise ConfigError(
        f"flow_steps: this engine has caches for {self.steps}, found {request.flow_steps}; make it with flow_steps"
      )
    fit(self._ladder, self._rate * len(request.voice.tokens_U), "frames of a prompt")

  def best_slot(self, free: Sequence[int], request: Request) -> int:
    """Index in `free` of the slot to take: one where the prompt of the request's voice is already."""
    return next((i for i, slot in enumerate(free) if self._has(slot, _prompt(request))), 0)

  def _has(self, slot: int, prompt: Prompt) -> bool:
    return self._holds[slot] == prompt and prompt in self._prepared

  def prepare(self, slot: int, request: Request) -> None:
    """Solves the prompt's whole chunks in a free slot and keeps a copy of what they leave.

    A chunk looks ahead at the tokens after it, so one that ends the prompt has to wait for
    the first new tokens: `step` does it.
    """
    c, prompt, P = self._config, _prompt(request), len(request.voice.tokens_U)
    whole = max(P - c.encoder.lookahead, 0) // c.chunk * c.chunk
    if not whole or prompt in self._prepared:
      return
    end = self._rate * (whole + c.chunk)
    self._make_room(self._needs(end, end), end)
    self._open_empty(slot, pinned=self._rate * (P // c.chunk * c.chunk))
    step = self.sizes[-1] // c.chunk * c.chunk
    for first in range(0, whole, step):
      count = min(step, whole - first)
      self._run([(self._prompt_chunk(slot, request, first, count), first)], self.sizes[-1])
    frames = min(-(-self._rate * whole // PROMPT_STEP) * PROMPT_STEP, self.frames)
    take = self._resizer("take", frames, frames // self._rate)
    self._prepared[prompt] = take(None, self.state, np.int32(slot)), whole
    self._holds[slot] = prompt
    if len(self._prepared) > VOICES:
      self._forget(next(iter(self._prepared)))

  def forget(self, voice: Voice) -> None:
    """Drops what `prepare` kept of a voice."""
    for prompt in [prompt for prompt in self._prepared if prompt[0] == voice.fingerprint]:
      self._forget(prompt)

  def _forget(self, prompt: Prompt) -> None:
    self._prepared.pop(prompt, None)
    self._holds = [None if held == prompt else held for held in self._holds]

  def prepared_bytes(self) -> int:
    """What prepared voices take on the device."""
    return sum(a.nbytes for one, _ in self._prepared.values() for a in jax.tree.leaves(one))

  # Requests.

  def open(self, slot: int, request: Request) -> None:
    """Begins a segment in a slot, right after its prompt's whole chunks."""
    self.prepare(slot, request)
    prompt = _prompt(request)
    if prompt not in self._prepared:
      whole = len(request.voice.tokens_U) // self._config.chunk * self._config.chunk
      self._make_room(self._needs(1, self._rate * whole), 1)
      self._open_empty(slot, pinned=self._rate * whole)
      return
    self._prepared.move_to_end(prompt)
    one, whole = self._prepared[prompt]
    self._make_room(self._needs(one.blocks_BS.shape[1], self._rate * whole), self._rate * one.encoder[BLOCKS].shape[1])
    insert = self._insert[not self._has(slot, prompt)]
    self.state = insert(None, self.state, one, np.int32(slot))
    self._done[slot], self._holds[slot] = self._rate * whole, prompt

  def group(self, chunks: Sequence[Chunk]) -> list[int]:
    """Which of these, most urgent first, are solved together: those that fit the first one's program."""
    size, steps = self._fits(chunks[0]), chunks[0].request.flow_steps
    alike = [i for i, c in enumerate(chunks) if self._fits(c) <= size and c.request.flow_steps == steps]
    return alike[: self.groups[-1]]

  def step(self, chunks: Sequence[Chunk]) -> tuple[jax.Array, Places]:
    """Starts solving chunks of some slots, one of each, all in equally many Euler steps.

    Returns:
      Mel on the device, [b, T, M], and where in it the new frames of each chunk are.
    """
    waiting, starts, runs = [], [], []
    for c in chunks:
      prompt_U, first = c.request.voice.tokens_U, self._first(c)
      if self._done[c.slot] < self._rate * first and c.number == 0:
        start = first - self._config.chunk
        waiting.append((self._prompt_chunk(c.slot, c.request, start, self._config.chunk, c.tokens_U), start))
      tokens_U, count = np.concatenate([prompt_U[first:], c.tokens_U]), len(prompt_U) - first + c.count
      runs.append((dataclasses.replace(c, tokens_U=tokens_U, count=count), first))
      starts.append(self._rate * (len(prompt_U) - first))
    if waiting:
      self._run(waiting, fit(self.sizes, self._config.chunk, "tokens in a chunk"))
    mel_bTM, lines = self._run(runs, max(self._fits(c) for c in chunks))
    return mel_bTM, list(zip(lines, starts, strict=True))

  def rehearse(self, limits: Limits) -> None:
    """Makes all calls that streams within the limits can make."""
    c = self._config
    longest = int(limits.prompt * self._model.config.audio.frame_rate) // (self._rate * c.chunk) * c.chunk
    end = int(limits.seconds * self._model.config.audio.frame_rate) + self._rate * self.sizes[-1]
    # The shortest prompt of each size that prompts are kept in.
    least = [(frames // (self._rate * c.chunk) + 1) * c.chunk for frames in range(0, self._rate * longest, PROMPT_STEP)]
    prompts = {whole: self._nobody(whole + c.encoder.lookahead) for whole in least if whole <= longest}
    nobody, smaller = self._nobody(), None
    for frames, tokens in self._room_up_to(self._needs(end, self._rate * longest), end):
      if smaller is not None:
        self.state, self.frames, self.tokens = smaller
        self._make_room(frames, self._rate * tokens)
      self.reset()
      self._make_room(frames, self._rate * tokens)
      self.open(0, nobody)
      for whole, prompt in prompts.items():
        if self._rate * (whole + c.chunk) <= frames:
          self._prepared.clear()
          self.open(0, prompt)  # its keys are in place
          self._holds[0] = None
          self.open(0, prompt)
      smaller = self.state, self.frames, self.tokens
      for b, size in itertools.product(self.groups, self.sizes):
        self._done = [0] * self._count
        chunk = Chunk(nobody, np.zeros(size, np.int32), size, number=1, last=False)
        self.step([dataclasses.replace(chunk, slot=slot) for slot in range(b)])

  # Inside.

  def _nobody(self, tokens: int = 0) -> Request:
    """A request with a prompt of so many tokens, for rehearsals."""
    c, zeros = self._config, np.zeros
    mel_TM = zeros((self._rate * tokens, c.mel_bins), np.float32)
    voice = Voice(zeros(c.speaker_dim, np.float32), zeros(tokens, np.int32), mel_TM)
    return Request("", voice).resolved(self._model.config)

  @property
  def _params(self) -> Any:
    return self._model.params["flow"]

  def _fits(self, chunk: Chunk) -> int:
    """The padded size, in tokens, of the program that solves a chunk."""
    size = len(chunk.request.voice.tokens_U) - self._first(chunk) + chunk.count
    return fit(self.sizes, size, "tokens in a chunk")

  def _first(self, chunk: Chunk) -> int:
    """First prompt token that is solved with a chunk: all are done, unless it is the first chunk."""
    c, P = self._config.chunk, len(chunk.request.voice.tokens_U)
    whole = P // c * c
    if chunk.number:
      return P
    # A chunk of the prompt that had to wait for the first new tokens goes along if there is room.
    waits = self._done[chunk.slot] < self._rate * whole
    return whole - c if waits and c + P - whole + chunk.count <= self.sizes[-1] else whole

  def _prompt_chunk(self, slot: int, request: Request, first: int, count: int, after_U: Sequence[int] = ()) -> Chunk:
    """Whole chunks of a prompt, with the tokens that they look ahead at."""
    tokens_U = np.concatenate([request.voice.tokens_U, np.asarray(after_U, np.int32)])
    return Chunk(
      request, tokens_U[first : first + count + self._config.encoder.lookahead], count, slot=slot, last=False
    )

  def _run(self, chunks: Sequence[tuple[Chunk, int]], size: int) -> tuple[jax.Array, list[int]]:
    """Solves chunks, padded to `size` tokens.

    Args:
      chunks: each with the position of its first token, the prompt's included.
      size: of `sizes`.

    Returns:
      Mel, and the line of each chunk in it.
    """
    slots = [c.slot for c, _ in chunks]
    done = max(self._done[slot] for slot in slots)
    self._make_room(0 if self._window is not None else done + self._rate * size, done + self._rate * size)
    b = fit(self.groups, len(chunks), "chunks")
    lines = slots if b == self._count else list(range(len(chunks)))
    slots_b = None if b == self._count else column(slots, b, fill=self._count)
    batch, guidance_b11 = self._batch(dict(zip(lines, chunks, strict=True)), b, size)
    times = matching.schedule(chunks[0][0].request.flow_steps)
    kept, x_bTM, self._torn = list(self.state.estimator), batch.noise_bTM, True
    state, guide = self._encode(self._params, self.state.replace(estimator=()), slots_b, batch)
    for i, (t, dt) in enumerate(zip(times, np.diff(times), strict=False)):
      kept[i], x_bTM = self._euler(self._params, kept[i], guide, x_bTM, t, dt, guidance_b11)
    self.state, self._torn = state.replace(estimator=tuple(kept)), False
    for c, _ in chunks:
      self._done[c.slot] += self._rate * c.count
    return x_bTM, lines

  def _batch(self, chunks: dict[int, tuple[Chunk, int]], b: int, size: int) -> tuple[chunk_solver.Chunk, np.ndarray]:
    """Chunks by their line, padded, and the guidance of each."""
    c, T = self._config, self._rate * size
    tokens_bC3, blocks_bC = np.zeros((b, size + c.encoder.lookahead), np.int32), np.zeros((b, size), np.int32)
    lengths_b, ahead_b = np.zeros((2, b), np.int32)
    cond_bTM, noise_bTM = np.zeros((2, b, T, c.mel_bins), np.float32)
    speaker_bE, guidance_b11 = np.zeros((b, c.speaker_dim), np.float32), np.zeros((b, 1, 1), np.float32)
    for i, (chunk, first) in chunks.items():
      voice, count, start = chunk.request.voice, chunk.count, self._done[chunk.slot]
      place_U, P = first + np.arange(count), len(voice.tokens_U)
      cond_TM = voice.mel_TM[self._rate * first : self._rate * (first + count)]
      tokens_bC3[i, : len(chunk.tokens_U)] = chunk.tokens_U
      blocks_bC[i, :count] = np.where(place_U < P, place_U // c.chunk, P // c.chunk + chunk.number)
      lengths_b[i], ahead_b[i] = count, len(chunk.tokens_U) - count
      cond_bTM[i, : len(cond_TM)] = cond_TM
      noise_bTM[i] = noise_table(start + T, c.mel_bins)[start:]
      speaker_bE[i], guidance_b11[i] = voice.speaker_E, chunk.request.guidance
    arrays = tokens_bC3, lengths_b, ahead_b, blocks_bC, cond_bTM, speaker_bE, noise_bTM
    return chunk_solver.Chunk(*arrays), guidance_b11

  def _open_empty(self, slot: int, pinned: int) -> None:
    self.state = self._open(None, self.state, np.arange(self._count) == slot, np.int32(pinned))
    self._done[slot], self._holds[slot] = 0, None

  # Room.

  def _room_up_to(self, frames: int, encoder_frames: int) -> list[tuple[int, int]]:
    """(frames of the estimator, tokens of the encoder) on the way to so many frames."""
    least = frames if self._window is not None else self._least
    S = fit(self._ladder, least, "frames of a stream")
    top = max(S, fit(self._ladder, max(frames if self._window is None else 0, encoder_frames), "frames of a stream"))
    return [(S if self._window is not None else n, n // self._rate) for n in self._ladder if S <= n <= top]

  def _needs(self, end: int, pinned: int) -> int:
    """Frames of the estimator's caches for a slot that goes up to frame `end`."""
    return end if self._window is None else pinned + (self._window + 2) * self._rate * self.sizes[-1]

  def _make_room(self, frames: int, encoder_frames: int) -> None:
    """Room for so many frames in the estimator's caches and in the token encoder's, bucket by bucket."""
    least = 0 if self._window is not None else self._least
    S = max(fit(self._ladder, max(frames, least), "frames of a stream"), self.frames)
    frames = fit(self._ladder, max(encoder_frames, S, self._least), "frames of a stream")
    tokens = max(frames // self._rate, self.tokens)
    if self.state is None:
      self.state = self._resizer("empty", S, tokens)(self._params)
    elif self._window is not None and (S, tokens) != (self.frames, self.tokens):
      self.state = self._resizer("grow", S, tokens)(None, self.state)
    else:
      for n in self._ladder:
        if self.frames < n <= S:
          self.state = self._resizer("grow", n, n // self._rate)(None, self.state)
    self.frames, self.tokens = S, tokens

  def _resizer(self, what: str, frames: int, tokens: int) -> Program:
    """`empty`, `grow` or `take` for so much room."""
    network, size = self._model.modules["flow"], {"frames": frames, "tokens": tokens}
    if what != "empty":
      return self._model.program(f"flow {what} {size}", functools.partial(getattr(flow_state, what), **size))
    count, more = self._count, {"steps": self.steps, "dtype": jnp.dtype(self._model.dtype)}
    empty = lambda params: chunk_solver.empty(network, params, count, **size, **more)
    return self._model.program(f"flow {count} slots, {size}, {more}", empty)


def _prompt(request: Request) -> Prompt:
  return request.voice.fingerprint, request.flow_steps, request.guidance
