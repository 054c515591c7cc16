"""The flow of streams: each chunk of tokens is solved once, with all that came before in caches.

Under a mask of blocks no frame depends on a later block, at any Euler step or layer. So what
one block leaves at a step (keys and values for attention, last frames for convolutions) is all
that later blocks need of it, and solving block by block gives the mel that `generate` gives for
the whole sequence under the same blocks. A chunk costs the same wherever it stands.

Many streams share one state, a slot each. A step advances some of the slots by a chunk:

    state, guide = encode_chunk(...)                        # the chunk's tokens, once
    for i in range(steps):                                  # one compiled program, called `steps` times
      cached, x_bTM = euler_step(..., state.estimator[i], guide, x_bTM, times[i], times[i + 1] - times[i])

`advance` is this as one function. Programs that donate the state write it in place.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.flow import matching
from cosyjax.flow.chunk_cache import BLOCKS, KEYS, VALUES, Cache, ChunkCache, slots_of, target_slots, write
from cosyjax.flow.chunk_state import FlowState, word_of
from cosyjax.flow.flow_model import Flow
from cosyjax.layers import masks


@flax.struct.dataclass
class Chunk:
  """Next tokens of b streams, each one block or several whole ones, padded to C tokens; T = 2C frames.

  Attributes:
    tokens_bC3: int32 [b, C + lookahead]: a row's tokens and, right after them, those that are
      only looked at. What follows has no influence.
    lengths_b: int32, tokens that get frames. A row of 0 changes nothing.
    ahead_b: int32, tokens after them that are looked at. All that there are, up to the
      look-ahead: fewer say that the stream ends there.
    blocks_bC: int32, block of each token, rising within a stream. A block is never split.
    cond_bTM: mel of the prompt on its frames, 0 elsewhere.
    speaker_bE: speaker vectors of any length (norm).
    noise_bTM: x at time 0: each row's own part of its request's noise, from its `frames_B` on.
  """

  tokens_bC3: jax.Array
  lengths_b: jax.Array
  ahead_b: jax.Array
  blocks_bC: jax.Array
  cond_bTM: jax.Array
  speaker_bE: jax.Array
  noise_bTM: jax.Array


@flax.struct.dataclass
class Guide:
  """What all Euler steps of a chunk go by: arguments of the estimator and of `ChunkCache`, from `encode_chunk`."""

  mu_bTM: jax.Array
  speaker_bM: jax.Array
  cond_bTM: jax.Array
  lengths_b: jax.Array
  blocks_bT: jax.Array
  write_b: jax.Array
  key_blocks_bS: jax.Array
  pinned_bS: jax.Array
  slots_b: jax.Array | None
  window: int | None = flax.struct.field(pytree_node=False)


def encode_chunk(
  model: Flow, params: Any, state: FlowState, slots_b: jax.Array | None, chunk: Chunk, *, window: int | None = None
) -> tuple[FlowState, Guide]:
  """Encodes a chunk's tokens and makes room for its frames. `state.estimator` is passed through and may be ().

  Args:
    model: the flow's module.
    params: its parameters.
    state: streams.
    slots_b: int32 [b], slot of each of the chunk's rows, no two alike; B (the number of slots) for
      rows of length 0 that only fill the group. None: the chunk has all B slots in order.
    chunk: the tokens. Every row needs `frames_B + T <= S` and as much room in the encoder,
      T being the padded size: what does not fit is dropped.
    window: blocks before its own that a frame of the estimator sees, besides the pinned first
      frames: an approximation, for streams without end. Positions are then used round and round,
      and S has to be at least the pinned frames + those of `window` blocks + 2T. The token
      encoder sees everything all the same. None is exact: everything is seen.

  Returns:
    (state, guide): guide is for `euler_step`.
  """
  batch, positions = state.blocks_BS.shape
  rate = model.config.frames_per_token
  room = rate * chunk.blocks_bC.shape[1]
  frames_b, write_b, pinned_b = (slots_of(a, slots_b) for a in (state.frames_B, state.write_B, state.pinned_B))
  if window is not None:
    write_b = jnp.where(write_b + room > positions, pinned_b, write_b)
  to_b = target_slots(slots_b, chunk.lengths_b, batch)

  # Padding is written too, as NEVER: no frame sees it, and the next chunk overwrites it.
  blocks_bC = masks.pad_blocks(chunk.blocks_bC, chunk.lengths_b)
  blocks_bT = masks.repeat_blocks(blocks_bC, rate)
  token_blocks_BS = write(state.encoder[BLOCKS], to_b, blocks_bC, frames_b // rate)
  blocks_BS = write(state.blocks_BS, to_b, blocks_bT, write_b)

  cached = {name: array for name, array in state.encoder.items() if name != BLOCKS}
  cache = ChunkCache(cached, chunk.lengths_b, frames_b // rate, slots_of(token_blocks_BS, slots_b), slots_b)
  present_b = chunk.lengths_b + chunk.ahead_b
  arguments = (chunk.tokens_bC3, present_b, chunk.blocks_bC, chunk.lengths_b, cache)
  mu_bTM = model.apply({"params": params}, *arguments, method=Flow.encode)
  speaker_bM = model.apply({"params": params}, chunk.speaker_bE, method=Flow.project_speaker)

  lengths_b = rate * chunk.lengths_b
  guide = Guide(
    mu_bTM=mu_bTM,
    speaker_bM=speaker_bM,
    cond_bTM=chunk.cond_bTM,
    lengths_b=lengths_b,
    blocks_bT=blocks_bT,
    write_b=write_b,
    key_blocks_bS=slots_of(blocks_BS, slots_b),
    pinned_bS=masks.padding_mask(pinned_b, positions),
    slots_b=slots_b,
    window=window,
  )
  state = state.replace(
    encoder=cache.arrays | {BLOCKS: token_blocks_BS},
    blocks_BS=blocks_BS,
    frames_B=state.frames_B.at[to_b].set(frames_b + lengths_b, mode="drop"),
    write_B=state.write_B.at[to_b].set(write_b + lengths_b, mode="drop"),
  )
  return state, guide


def euler_step(
  model: Flow,
  params: Any,
  cached: Cache,
  guide: Guide,
  x_bTM: jax.Array,
  t: jax.Array | float,
  dt: jax.Array | float,
  *,
  guidance: float | jax.Array | None = None,
) -> tuple[Cache, jax.Array]:
  """Follows the velocity from time t to t + dt.

  Args:
    model, params: the flow.
    cached: `state.estimator[i]` of this step; an empty dict says that no stream has begun, all slots given.
    guide: from `encode_chunk`.
    x_bTM: where the chunk is at time t: the noise at first.
    t, dt: of `matching.schedule`, the same for all; may be traced.
    guidance: strength w; the config's if None.

  Returns:
    (cached, x_bTM) after the step. Padding of x means nothing.
  """
  guidance = model.config.guidance if guidance is None else guidance
  twice = lambda a: jnp.concatenate([a, a])
  or_nothing = lambda a: jnp.concatenate([a, jnp.zeros_like(a)])
  slots_2b = guide.slots_b
  if slots_2b is not None:
    batch = next(iter(cached.values())).shape[0] // 2
    slots_2b = jnp.concatenate([slots_2b, batch + slots_2b])
  lengths_2b, write_2b, blocks_2bS = twice(guide.lengths_b), twice(guide.write_b), twice(guide.key_blocks_bS)
  cache = ChunkCache(dict(cached), lengths_2b, write_2b, blocks_2bS, slots_2b, guide.window, twice(guide.pinned_bS))
  x_2bTM, t_2b = twice(x_bTM), jnp.full(2 * x_bTM.shape[0], t, jnp.float32)
  conditions = or_nothing(guide.mu_bTM), or_nothing(guide.speaker_bM), or_nothing(guide.cond_bTM)
  arguments = (x_2bTM, *conditions, t_2b, lengths_2b, twice(guide.blocks_bT), cache)
  v_2bTM = model.apply({"params": params}, *arguments, method=Flow.velocity)
  return cache.arrays, x_bTM + dt * matching.guided(*jnp.split(v_2bTM, 2), guidance)


def advance(
  model: Flow,
  params: Any,
  state: FlowState,
  slots_b: jax.Array | None,
  chunk: Chunk,
  *,
  guidance: float | jax.Array | None = None,
  window: int | None = None,
) -> tuple[FlowState, jax.Array]:
  """Solves a chunk: `encode_chunk`, then an `euler_step` for each of the state's.

  Returns:
    (state, mel): float32 [b, T, M], zero past each slot's frames.
  """
  state, guide = encode_chunk(model, params, state, slots_b, chunk, window=window)
  times = matching.schedule(len(state.estimator))
  x_bTM, estimator = chunk.noise_bTM.astype(jnp.float32), []
  for cached, t, dt in zip(state.estimator, times, np.diff(times), strict=False):
    cached, x_bTM = euler_step(model, params, cached, guide, x_bTM, t, dt, guidance=guidance)
    estimator.append(cached)
  mel_bTM = jnp.where(masks.padding_mask(guide.lengths_b, x_bTM.shape[1])[..., None], x_bTM, 0.0)
  return state.replace(estimator=tuple(estimator)), mel_bTM


def empty(
  model: Flow,
  params: Any,
  batch: int,
  *,
  frames: int,
  tokens: int | None = None,
  steps: int | None = None,
  dtype: Any = None,
) -> FlowState:
  """State of streams that have not begun.

  Args:
    model, params: the flow; only shapes of the parameters are read.
    batch: slots B.
    frames: positions S of the estimator's caches.
    tokens: positions of the token encoder's; as many as `frames` need if None. A window wants more.
    steps: Euler steps; the config's if None.
    dtype: of keys and values; that in which the model computes if None.

  Raises:
    ConfigError: steps is below 1.
  """
  steps = model.config.steps if steps is None else steps
  matching.schedule(steps)  # refuses what is no number of steps
  rate = model.config.frames_per_token
  tokens = -(-frames // rate) if tokens is None else tokens
  shapes = jax.eval_shape(lambda p: _first_token(model, p, _bare(batch, frames, tokens, rate)), params)

  def zeros(name: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(shape.shape, dtype if dtype is not None and word_of(name) in (KEYS, VALUES) else shape.dtype)

  state = _bare(batch, frames, tokens, rate)
  encoder, estimator = ({n: s for n, s in arrays.items() if n != BLOCKS} for arrays in shapes)
  encoder = {name: zeros(name, shape) for name, shape in encoder.items()} | state.encoder
  return state.replace(
    encoder=encoder, estimator=tuple({n: zeros(n, s) for n, s in estimator.items()} for _ in range(steps))
  )


def _bare(batch: int, frames: int, tokens: int, rate: int) -> FlowState:
  """A state with stamps and counters but no caches yet."""
  stamps = lambda positions: jnp.full((batch, positions), masks.NEVER, jnp.int32)
  # Three arrays, not one three times: a donated buffer may be given once only.
  counters = {name: jnp.zeros(batch, jnp.int32) for name in ("frames_B", "write_B", "pinned_B")}
  return FlowState(
    encoder={BLOCKS: stamps(tokens)}, estimator=(), blocks_BS=stamps(frames), **counters, frames_per_token=rate
  )


def _first_token(model: Flow, params: Any, state: FlowState) -> tuple[Cache, Cache]:
  """What encoder and one Euler step cache of a token."""
  batch, c = state.frames_B.shape[0], model.config
  one_b, mel_bTM = jnp.ones(batch, jnp.int32), jnp.zeros((batch, c.frames_per_token, c.mel_bins))
  ids_bX, blocks_bC = (jnp.zeros((batch, n), jnp.int32) for n in (1 + c.encoder.lookahead, 1))
  chunk = Chunk(ids_bX, one_b, one_b, blocks_bC, mel_bTM, jnp.ones((batch, c.speaker_dim)), mel_bTM)
  state, guide = encode_chunk(model, params, state, None, chunk)
  return state.encoder, euler_step(model, params, {}, guide, mel_bTM, 0.0, 0.0)[0]
