"""Choosing the next speech token, batched on the device.

A sampler is a value (a pytree without parameters, except where noted) with one method:

  ids_B = sampler(logits_BV, recent_BW, keys_B, positions_B)

`recent_BW` holds the last ids of each row (-1 where there are fewer), `keys_B` one key per
request, `positions_B` how many tokens each has produced. Every draw's key is the request's,
with the stage, the position and the draw folded in: it depends on nothing else.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp

from cosyjax.config import LMConfig

LM_STAGE = 0  # folded into a request's key for everything the LM draws
CANDIDATES = 100  # ids that a nucleus can hold
_NUCLEUS_DRAW, _FULL_DRAW = 0, 1


@flax.struct.dataclass
class RepetitionAware:
  """Repetition-aware nucleus sampling (paper 2.3; VALL-E 2, Chen et al. 2024).

  One id is drawn from the nucleus. If it fills too much of the window of recent ids, it is
  removed and one id is drawn from the whole distribution.

  Every attribute is a number, or an array [B] of one for each row.

  Attributes:
    top_p, top_k: size of the nucleus, see `nucleus`; at most `CANDIDATES` ids.
    threshold: occurrences in the window from which an id is removed.
    temperature: divides the scores.
    window: how many of the recent ids count; all if None.
  """

  top_p: float | jax.Array = 0.8
  top_k: int | jax.Array = 25
  threshold: int | jax.Array = 1
  temperature: float | jax.Array = 1.0
  window: int | jax.Array | None = None

  @classmethod
  def of(cls, config: LMConfig) -> "RepetitionAware":
    """The sampler of a configuration."""
    return cls(config.top_p, config.top_k, repetitions(config.repeat_window, config.repeat_rate))

  def __call__(
    self, logits_BV: jax.Array, recent_BW: jax.Array, keys_B: jax.Array, positions_B: jax.Array
  ) -> jax.Array:
    """Draws one id for each row."""
    keys_B = jax.vmap(lambda key, p: jax.random.fold_in(jax.random.fold_in(key, LM_STAGE), p))(keys_B, positions_B)
    logits_BV = logits_BV.astype(jnp.float32) / _column(self.temperature)
    logits_Bk, ids_Bk = nucleus(logits_BV, self.top_p, self.top_k)
    slot_B = _draw(keys_B, _NUCLEUS_DRAW, logits_Bk)
    first_B = jnp.take_along_axis(ids_Bk, slot_B[:, None], axis=1)[:, 0]
    same_BW = recent_BW == first_B[:, None]
    if self.window is not None:
      same_BW &= jnp.arange(recent_BW.shape[1], 0, -1)[None] <= _column(self.window)
    repeated_B = jnp.sum(same_BW, axis=1) >= self.threshold
    rest_BV = jnp.where(jnp.arange(logits_BV.shape[1]) == first_B[:, None], -jnp.inf, logits_BV)
    return jnp.where(repeated_B, _draw(keys_B, _FULL_DRAW, rest_BV), first_B).astype(jnp.int32)


@flax.struct.dataclass
class Greedy:
  """The likeliest id."""

  def __call__(
    self, logits_BV: jax.Array, recent_BW: jax.Array, keys_B: jax.Array, positions_B: jax.Array
  ) -> jax.Array:
    """Take the likeliest id of each row."""
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@flax.struct.dataclass
class NoisyArgmax:
  """The id of the highest log-probability plus given noise: draws that any framework can repeat.

  Attributes:
    noise_PV: added to the log-probabilities at each position; an array, hence a leaf.
  """

  noise_PV: jax.Array

  def __call__(
    self, logits_BV: jax.Array, recent_BW: jax.Array, keys_B: jax.Array, positions_B: jax.Array
  ) -> jax.Array:
    """Take the highest id of each row, its position's noise added."""
    noise_BV = self.noise_PV[positions_B].astype(jnp.float32)
    return jnp.argmax(jax.nn.log_softmax(logits_BV) + noise_BV, axis=-1).astype(jnp.int32)


Sampler = RepetitionAware | Greedy | NoisyArgmax


def nucleus(logits_BV: jax.Array, top_p: float | jax.Array, top_k: int | jax.Array) -> tuple[jax.Array, jax.Array]:
  """Candidates of nucleus sampling, likeliest first.

  An id is a candidate while those before it sum to less than `top_p` and number less than
  `top_k`; of equal ids the lower comes first. The first id always is one.

  Args:
    logits_BV: scores.
    top_p, top_k: numbers, or one for each row.

  Returns:
    (log-probabilities, -inf for what is no candidate; ids): each [B, min(CANDIDATES, V)].
  """
  logits_BV = logits_BV.astype(jnp.float32)
  values_Bk, ids_Bk = jax.lax.top_k(logits_BV, min(CANDIDATES, logits_BV.shape[-1]))
  values_Bk = values_Bk - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
  probabilities_Bk = jnp.exp(values_Bk)
  before_Bk = jnp.cumsum(probabilities_Bk, axis=-1) - probabilities_Bk
  place_1k = jnp.arange(ids_Bk.shape[1])[None]
  inside_Bk = ((before_Bk < _column(top_p)) & (place_1k < _column(top_k))) | (place_1k == 0)
  return jnp.where(inside_Bk, values_Bk, -jnp.inf), ids_Bk


def repetitions(window: int, rate: float) -> int:
  """Occurrences in a window that fill at least this share of it."""
  return math.ceil(window * rate - 1e-6)


def forbid(logits_BV: jax.Array, forbidden_BJ: jax.Array) -> jax.Array:
  """Sets the scores of forbidden special ids to -inf.

  Args:
    logits_BV: scores of C codes, then of J special ids.
    forbidden_BJ: bool, for each of the special ids.
  """
  codes = logits_BV.shape[-1] - forbidden_BJ.shape[-1]
  mask_BV = jnp.pad(forbidden_BJ, ((0, 0), (codes, 0)))
  return jnp.where(mask_BV, -jnp.inf, logits_BV)


def _column(value: float | jax.Array) -> jax.Array:
  """A number for each row as [B, 1], or one for all as [1, 1]."""
  return jnp.reshape(jnp.asarray(value), (-1, 1))


def _draw(keys_B: jax.Array, draw: int, logits_BV: jax.Array) -> jax.Array:
  """One index per row from softmax(logits), by the Gumbel rule."""
  return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, draw), row))(keys_B, logits_BV)
