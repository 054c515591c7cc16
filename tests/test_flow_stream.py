"""Streams of the flow: whatever the blocks, chunks, slots and padding, the mel of the whole sequence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as config_lib
from cosyjax.errors import ConfigError
from cosyjax.flow import chunk_state as state_lib
from cosyjax.flow import matching, noise
from cosyjax.flow.chunk_solver import Chunk, advance, empty, encode_chunk, euler_step
from cosyjax.flow.flow_model import Flow, init_arguments
from cosyjax.flow.generate import generate
from cosyjax.layers import masks
from cosyjax.layers.basic import unbox

B, b = 3, 2  # slots of the state, rows of a step
U, C = 40, 12  # tokens of the longest stream, tokens of a padded chunk
RATE = config_lib.FlowConfig.frames_per_token
S = RATE * (U + C)
LOOKAHEAD = config_lib.FlowEncoderConfig.lookahead
STEPS = 2


@dataclasses.dataclass
class Stream:
  """What is said in one stream, and how it is cut: `sizes` are tokens in each of its blocks."""

  tokens: np.ndarray
  sizes: list[int]
  prompt: np.ndarray
  speaker: np.ndarray

  @property
  def blocks(self) -> np.ndarray:
    return np.repeat(np.arange(len(self.sizes)), self.sizes).astype(np.int32)

  def chunk(self, first: int, count: int, junk: float = 0.0, size: int = C) -> Chunk:
    """Tokens first ... first + count as a chunk of one row, padded with junk."""
    ahead = min(LOOKAHEAD, len(self.tokens) - first - count)
    bins = self.prompt.shape[1]
    cond = np.zeros((RATE * len(self.tokens), bins))
    cond[: len(self.prompt)] = self.prompt
    start, end = RATE * first, RATE * (first + count)

    def padded(values: np.ndarray, length: int, fill: float = junk) -> np.ndarray:
      row = np.full((1, length, *values.shape[1:]), fill, np.float32 if values.dtype.kind == "f" else np.int32)
      row[0, : len(values)] = values
      return row

    return Chunk(
      tokens_bC3=padded(self.tokens[first : first + count + ahead], size + LOOKAHEAD),
      lengths_b=np.array([count], np.int32),
      ahead_b=np.array([ahead], np.int32),
      blocks_bC=padded(self.blocks[first : first + count], size, fill=-1),  # all would see it
      cond_bTM=padded(cond[start:end], RATE * size),
      speaker_bE=self.speaker[None].astype(np.float32),
      noise_bTM=padded(noise.noise_table(end)[start:], RATE * size),
    )

  def cut(self, rng: np.random.Generator | None = None) -> list[tuple[int, int]]:
    """Chunks (first token, tokens): a block each, or as many blocks as the draw says and a chunk holds."""
    chunks, block = [], 0
    while block < len(self.sizes):
      count, end = self.sizes[block], block + 1
      while rng is not None and end < len(self.sizes) and count + self.sizes[end] <= C and rng.random() < 0.5:
        count, end = count + self.sizes[end], end + 1
      chunks.append((sum(self.sizes[:block]), count))
      block = end
    return chunks


NOTHING = (0, 0)


def together(chunks: list[Chunk]) -> Chunk:
  return jax.tree.map(lambda *rows: np.concatenate(rows), *chunks)


@pytest.fixture(scope="module")
def flow():
  """Tiny flow with random weights, one block to a stack."""
  config = config_lib.tiny().flow
  encoder = dataclasses.replace(config.encoder, layers=1, up_layers=1)
  config = dataclasses.replace(config, encoder=encoder, estimator=dataclasses.replace(config.estimator, mid_layers=1))
  model = Flow(config)
  return model, unbox(jax.jit(model.init)(jax.random.key(0), *init_arguments(config))["params"])


@pytest.fixture(scope="module")
def draw(flow):
  """draw(rng, sizes=None, prompt=None) -> a stream; `prompt` in tokens."""
  config = flow[0].config

  def stream(rng, sizes=None, prompt=None):
    if sizes is None:
      sizes, most = [], rng.integers(1, U + 1)
      while sum(sizes) < most:
        sizes.append(int(min(rng.integers(1, C + 1), most - sum(sizes))))
    total = sum(sizes)
    prompt = int(rng.integers(0, total + 1)) if prompt is None else prompt
    tokens = rng.integers(0, config.codebook_size, total)
    return Stream(
      tokens, sizes, rng.normal(-4, 2, (RATE * prompt, config.mel_bins)), rng.normal(size=config.speaker_dim)
    )

  return stream


@pytest.fixture(scope="module")
def whole(flow):
  """The mel of a stream in one pass."""
  model, params = flow
  jitted = jax.jit(lambda *a: generate(model, params, *a[:-1], chunk=a[-1], steps=STEPS))

  def run(stream):
    count = len(stream.tokens)
    ids, blocks = np.zeros((1, U), np.int32), np.zeros(U, np.int32)
    ids[0, :count], blocks[:count] = stream.tokens, stream.blocks
    prompt = np.zeros((1, RATE * U, stream.prompt.shape[1]), np.float32)
    prompt[0, : len(stream.prompt)] = stream.prompt
    speaker, table = stream.speaker[None].astype(np.float32), noise.noise_table(RATE * U)
    mel = jitted(ids, np.array([count]), prompt, np.array([len(stream.prompt)]), speaker, table, blocks)
    return np.asarray(mel[0, : RATE * count])

  return run


@pytest.fixture(scope="module")
def new(flow):
  return lambda rows=B, frames=S, **more: empty(*flow, rows, frames=frames, steps=STEPS, **more)


@pytest.fixture(scope="module")
def step(flow):
  """Compiled `advance` that checks its padding: (state, rows, chunk, window=None) -> (state, mel)."""
  model, params = flow

  @functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
  def run(state, rows, chunk, window):
    return advance(model, params, state, rows, chunk, window=window)

  def checked(state, rows, chunk, window=None):
    state, mel = run(state, None if rows is None else np.asarray(rows, np.int32), chunk, window)
    mel = np.asarray(mel)
    assert all(np.all(m[RATE * n :] == 0) for m, n in zip(mel, chunk.lengths_b, strict=True))
    return state, mel

  return checked


open_slots = jax.jit(state_lib.open_slots, donate_argnums=0)
take = jax.jit(state_lib.take, static_argnums=(2, 3))
insert = jax.jit(state_lib.insert, static_argnums=3, donate_argnums=0)


def follow(step, state, slot, stream, chunks, window=None):
  """Runs chunks of one stream in a slot, beside a row that fills the group. Returns (state, mel)."""
  mels = []
  for first, count in chunks:
    chunk = together([stream.chunk(*NOTHING, junk=9.0), stream.chunk(first, count)])
    state, mel = step(state, [B, slot], chunk, window)
    mels.append(mel[1, : RATE * count])
  return state, np.concatenate(mels)


# Contracts 1, 2 and 5.


@pytest.mark.parametrize("seed", range(4))
def test_streams_of_any_cut_give_the_mel_of_one_pass(draw, whole, new, step, seed):
  """More streams than slots, advanced in any order, in groups with padding, from blocks of any size."""
  rng = np.random.default_rng(seed)
  streams = [draw(rng) for _ in range(5)]
  waiting, free, running, heard = list(range(5)), list(range(B)), {}, {i: [] for i in range(5)}
  state = new()
  while waiting or running:
    while waiting and free and (not running or rng.random() < 0.7):
      stream, slot = waiting.pop(0), free.pop(int(rng.integers(len(free))))
      state = open_slots(state, np.arange(B) == slot)
      running[stream] = (slot, streams[stream].cut(rng))
    chosen = [int(i) for i in rng.permutation(list(running))[: rng.integers(1, b + 1)]]
    group: list[int | None] = [*chosen, *[None] * (b - len(chosen))]
    rng.shuffle(group)
    junk = float(rng.normal() * 100)
    cuts = {i: running[i][1].pop(0) for i in chosen}
    chunks = [streams[i or 0].chunk(*cuts.get(i, NOTHING), junk=junk) for i in group]
    state, mel = step(state, [B if i is None else running[i][0] for i in group], together(chunks))
    for row, i in enumerate(group):
      if i is not None:
        heard[i].append(mel[row, : RATE * cuts[i][1]])
        if not running[i][1]:
          free.append(running.pop(i)[0])
  for i, stream in enumerate(streams):
    np.testing.assert_allclose(np.concatenate(heard[i]), whole(stream), atol=1e-4)


def test_blocks_matter(draw, whole):
  stream = draw(np.random.default_rng(5), [8, 8, 8])
  other = dataclasses.replace(stream, sizes=[12, 12])
  assert np.abs(whole(stream) - whole(other)).max() > 1e-2


def test_all_slots_in_order_is_the_same_as_some(draw, whole, new, step):
  """Without `rows_b`: three streams side by side, one of them shorter."""
  rng = np.random.default_rng(6)
  streams = [draw(rng, sizes) for sizes in ([7, 12, 3], [12], [1, 2, 12])]
  state, heard = new(), [[] for _ in streams]
  cuts = [s.cut() for s in streams]
  for i in range(3):
    now = [cut[i] if i < len(cut) else NOTHING for cut in cuts]
    state, mel = step(state, None, together([s.chunk(*c, junk=50.0) for s, c in zip(streams, now, strict=True)]))
    for row, (_, count) in enumerate(now):
      heard[row].append(mel[row, : RATE * count])
  for stream, mels in zip(streams, heard, strict=True):
    np.testing.assert_allclose(np.concatenate(mels), whole(stream), atol=1e-4)


@pytest.mark.parametrize("rows", [None, [B, B]], ids=["all", "group"])
def test_rows_of_nothing_change_nothing(draw, new, step, rows):
  rng = np.random.default_rng(7)
  stream = draw(rng, [10, 12])
  state, _ = follow(step, new(), B - 1, stream, [(0, 10)])
  before = jax.tree.map(np.array, state)
  nothing = together([stream.chunk(*NOTHING, junk=77.0)] * (B if rows is None else b))
  after, _ = step(state, rows, nothing)
  jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, after))


def test_padding_changes_no_valid_frame(draw, new, step):
  """The same stream with other padding, and beside another stream instead of alone."""
  rng = np.random.default_rng(8)
  stream, mate = draw(rng, [5, 7, 12]), draw(rng, [12, 2, 4])
  _, alone = follow(step, new(), 0, stream, stream.cut())
  state, mels = new(), []
  for (first, count), other in zip(stream.cut(), mate.cut(), strict=True):
    state, mel = step(state, [2, 1], together([stream.chunk(first, count, junk=1e3), mate.chunk(*other, junk=-1e3)]))
    mels.append(mel[0, : RATE * count])
  np.testing.assert_allclose(np.concatenate(mels), alone, atol=1e-4)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_few_tokens_after_a_block(draw, whole, new, step, left):
  """The look-ahead of the last large block is what there is: 0, 1 or 2 tokens, which then end the stream."""
  stream = draw(np.random.default_rng(9), [6, 11, *[left] * (left > 0)])
  assert stream.chunk(6, 11).ahead_b[0] == left
  _, mel = follow(step, new(), 1, stream, stream.cut())
  np.testing.assert_allclose(mel, whole(stream), atol=1e-4)


# Contract 4.


def test_gradient_ends_with_chunk_and_lookahead(flow, draw):
  """A chunk's mel by every token of the stream, and by what pads the chunk: as in one pass, and 0 beyond."""
  model, params = flow
  stream = draw(np.random.default_rng(10), [6, 9, 12])
  ids = np.arange(len(stream.tokens))  # all different: the embedding's rows tell the tokens apart
  stream = dataclasses.replace(stream, tokens=ids)
  junk = 99
  chunks = [stream.chunk(0, 6, junk=junk), stream.chunk(6, 9, junk=junk)]
  state = empty(*flow, 1, frames=S, steps=1)  # what a step sees, all steps see; compiling backwards is slow
  weights = jnp.cos(jnp.arange(model.config.mel_bins, dtype=jnp.float32))

  def put(table):
    return {**params, "token_embedding": {**params["token_embedding"], "embedding": table}}

  def streamed(table, state):
    for chunk in chunks:
      state, mel = advance(model, put(table), state, None, chunk)
    return jnp.sum(mel[0, :18] * weights)

  def one_pass(table):
    prompt = stream.prompt[None].astype(np.float32)
    arguments = (ids[None], np.array([27]), prompt, np.array([prompt.shape[1]]), stream.speaker[None])
    mel = generate(model, put(table), *arguments, noise.noise_table(54), chunk=stream.blocks, steps=1)
    return jnp.sum(mel[0, 12:30] * weights)

  table = params["token_embedding"]["embedding"]
  gradient = np.asarray(jax.jit(jax.grad(streamed))(table, state))
  size = np.abs(gradient).sum(-1)
  assert np.all(size[: 15 + LOOKAHEAD] > 0)
  assert np.all(size[15 + LOOKAHEAD :] == 0)  # later tokens, and 99, which is the padding
  np.testing.assert_allclose(gradient, jax.jit(jax.grad(one_pass))(table), atol=1e-4)


# Prompts and room.


def test_prompt_computed_once_goes_on_as_if_computed_in_place(draw, whole, new, step):
  rng = np.random.default_rng(11)
  spoken = draw(rng, [9, 12, 5, 8], prompt=9)
  said_after = dataclasses.replace(spoken, tokens=np.concatenate([spoken.tokens[:12], rng.integers(0, 99, 22)]))
  mate = draw(rng, [12, 12, 12])
  one, _ = step(new(1, RATE * C), None, spoken.chunk(0, 9))  # capacity of the prompt, padding included
  state = new()
  for slot in range(B):  # a slot that was used before
    state, _ = follow(step, state, slot, mate, [(0, 12), (12, 12)])
  state = insert(state, one, 1, True)
  state, mel = follow(step, state, 1, spoken, spoken.cut()[1:])
  np.testing.assert_allclose(mel, whole(spoken)[RATE * 9 :], atol=1e-4)

  # The slot's first frames are still the prompt's: histories, stamps and counters are enough.
  state = insert(state, one, 1, False)
  state, mel = follow(step, state, 1, said_after, said_after.cut()[1:])
  np.testing.assert_allclose(mel, whole(said_after)[RATE * 9 :], atol=1e-4)

  # What was inserted can be taken again, also out of a stream that has gone on.
  again = take(insert(state, one, 2, True), 2, RATE * C, C)
  jax.tree.map(np.testing.assert_array_equal, again, one)
  state = insert(new(), one, 0, True)
  state, _ = follow(step, state, 0, spoken, spoken.cut()[1:2])
  copy = take(state, 0, RATE * 21, 21)
  state = insert(new(), copy, 2, True)
  _, mel = follow(step, state, 2, spoken, spoken.cut()[2:])
  np.testing.assert_allclose(mel, whole(spoken)[RATE * 21 :], atol=1e-4)


def test_inserting_what_does_not_fit_is_refused(new):
  with pytest.raises(ConfigError, match=r"1 slot of at most 104 frames and 52 tokens, found \(1, 106, 53\)"):
    state_lib.insert(new(), new(1, S + 2), 0)
  with pytest.raises(ConfigError, match="found \\(3, "):
    state_lib.insert(new(), new(), 0)


def test_growing_in_the_middle_changes_nothing(draw, whole, new, step):
  stream = draw(np.random.default_rng(12), [10, 12, 11])
  state, first = follow(step, new(frames=RATE * (10 + C)), 2, stream, [(0, 10)])
  state = state_lib.grow(state, S, S // RATE)
  state, rest = follow(step, state, 2, stream, stream.cut()[1:])
  np.testing.assert_allclose(np.concatenate([first, rest]), whole(stream), atol=1e-4)
  shapes = lambda state: jax.tree.map(lambda a: (a.shape, a.dtype), state)
  assert shapes(state) == shapes(new())


# Windows.


def test_window_is_full_history_when_wide_and_near_it_when_narrow(draw, whole, new, step):
  stream = draw(np.random.default_rng(13), [6, 8, 8, 8, 8], prompt=6)
  exact = whole(stream)
  pinned = RATE * 6

  def run(window, frames, pinned=pinned):
    state = open_slots(new(frames=frames, tokens=S // RATE), np.ones(B, bool), pinned)
    return follow(step, state, 1, stream, stream.cut(), window)

  _, wide = run(4, S)
  np.testing.assert_allclose(wide, exact, atol=1e-4)
  _, narrow = run(1, S)
  np.testing.assert_allclose(narrow[: RATE * 22], exact[: RATE * 22], atol=1e-4)  # nothing is out of sight yet
  error = np.abs(narrow - exact).max()
  print(f"window of one block: largest difference {error:.3f}, mel's standard deviation {exact.std():.3f}")
  assert 1e-3 < error < exact.std()
  # In the fewest slots they are used more than once: pinned frames, one block, twice a padded chunk.
  slots = pinned + RATE * 8 + 2 * RATE * C
  state, around = run(1, slots)
  assert int(state.frames_B[1]) > int(state.write_B[1])  # it went round
  np.testing.assert_allclose(around, narrow, atol=1e-4)
  _, unpinned = run(1, S, pinned=0)
  assert np.abs(unpinned - narrow).max() > 1e-3


def test_window_mask_written_out():
  query, key = jnp.array([2, 3]), jnp.array([0, 0, 1, 2, 3, masks.NEVER])
  rows = lambda **more: ["".join(str(int(x)) for x in row) for row in masks.block_mask(query, key, **more)]
  assert rows() == ["111100", "111110"]
  assert rows(window=1) == ["001100", "000110"]
  assert rows(window=1, pinned=jnp.arange(6) < 1) == ["101100", "100110"]


# The pieces that a program is made of.


def test_steps_compiled_apart_are_advance(flow, draw, whole, new):
  """As an engine runs it: the encoder and one Euler step are programs, with the caches donated."""
  model, params = flow
  encode = jax.jit(lambda state, rows, chunk: encode_chunk(model, params, state, rows, chunk), donate_argnums=0)
  euler = jax.jit(lambda kept, guide, x, t, dt: euler_step(model, params, kept, guide, x, t, dt), donate_argnums=0)
  stream = draw(np.random.default_rng(14), [11, 3, 12])
  state, times, mels = new(), matching.schedule(STEPS), []
  for first, count in stream.cut():
    chunk, unet = stream.chunk(first, count), list(state.estimator)
    state, guide = encode(state.replace(estimator=()), np.array([2], np.int32), chunk)
    x = chunk.noise_bTM
    for i in range(STEPS):
      unet[i], x = euler(unet[i], guide, x, times[i], times[i + 1] - times[i])
    state = state.replace(estimator=tuple(unet))
    mels.append(x[0, : RATE * count])
  np.testing.assert_allclose(np.concatenate(mels), whole(stream), atol=1e-4)


def test_guidance_is_that_of_one_pass(flow, draw, new):
  model, params = flow
  stream = draw(np.random.default_rng(15), [C], prompt=4)
  chunk = stream.chunk(0, C)
  run = jax.jit(lambda w: advance(model, params, new(1), None, chunk, guidance=w)[1])
  ids, prompt = stream.tokens[None].astype(np.int32), stream.prompt[None].astype(np.float32)
  speaker, table = chunk.speaker_bE, noise.noise_table(RATE * C)
  arguments = (ids, jnp.array([C]), prompt, jnp.array([RATE * 4]), speaker, table)
  one_pass = jax.jit(lambda w: generate(model, params, *arguments, guidance=w, steps=STEPS))
  for w in (0.0, 2.0):
    np.testing.assert_allclose(run(w), one_pass(w), atol=1e-4)


def test_caches_in_bfloat16_stay_near(draw, whole, new, step):
  stream = draw(np.random.default_rng(16), [12, 12, 12])
  state, mel = follow(step, new(dtype=jnp.bfloat16), 0, stream, stream.cut())
  assert {a.dtype.name for n, a in state.estimator[0].items() if n.endswith("keys")} == {"bfloat16"}
  exact = whole(stream)
  assert 0 < np.abs(mel - exact).mean() < 0.02 * exact.std()


def test_size_of_the_caches(flow, new):
  model, _ = flow
  caches = [a for n, a in _named(new(1)) if n.endswith(("keys", "values"))]
  assert sum(a.nbytes for a in caches) == S * state_lib.bytes_per_frame(model.config, steps=STEPS)
  # UNet: 10 steps, 2 branches, 56 layers, keys and values of 512 numbers of 2 bytes. Encoder: 7 layers a frame.
  full = state_lib.bytes_per_frame(config_lib.cosyvoice2().flow, jnp.bfloat16)
  assert full == 10 * 2 * 56 * 2 * 512 * 2 + 7 * 2 * 512 * 2


def _named(state):
  for kept in (state.encoder, *state.estimator):
    yield from kept.items()


def test_no_steps_are_refused(flow):
  with pytest.raises(ConfigError, match="steps: expected at least 1, found 0"):
    empty(*flow, 1, frames=8, steps=0)
