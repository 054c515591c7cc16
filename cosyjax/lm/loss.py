"""Objective of the text-speech model and its accuracy, over the positions that have a target."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.layers.constrain import shard_none, shard_rows
from cosyjax.lm.sequence import IGNORE

CHUNK = 256  # positions of a row whose logits are there at a time
FEW = 2048  # positions of a whole batch whose logits are made at once and kept


class Scores(NamedTuple):
  """Log-probability of each position's target, and whether it scored highest.

  Attributes:
    log_probs_BL: float32, log-probability of the target; 0 where there is none.
    right_BL: bool, the target had the highest score; False where there is none.
  """

  log_probs_BL: jax.Array
  right_BL: jax.Array


def token_log_probs(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
  """Log-probability of each target, float32 [B, L]; 0 where the target is `IGNORE`."""
  logits_BLV = logits_BLV.astype(jnp.float32)
  picked = jnp.take_along_axis(logits_BLV, jnp.maximum(targets_BL, 0)[..., None], axis=-1)[..., 0]
  return jnp.where(targets_BL == IGNORE, 0.0, picked - jax.nn.logsumexp(logits_BLV, axis=-1))


def cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
  """Mean negative log-probability over all targets of the batch: float32 scalar, 0 if there is none."""
  total = -jnp.sum(token_log_probs(logits_BLV, targets_BL))
  return total / jnp.maximum(jnp.sum(targets_BL != IGNORE), 1)


def accuracy(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
  """Share of targets that have the highest score: float32 scalar, 0 if there is none."""
  right = (jnp.argmax(logits_BLV, axis=-1) == targets_BL) & (targets_BL != IGNORE)
  return jnp.sum(right) / jnp.maximum(jnp.sum(targets_BL != IGNORE), 1).astype(jnp.float32)


def scores(hidden_BLD: jax.Array, head: dict[str, Any], targets_BL: jax.Array, *, chunk: int = CHUNK) -> Scores:
  """Scores of all targets without ever holding the logits of more than `chunk` positions of each row.

  The backward pass makes each chunk's logits again, a small part of a step's work. Batches of up to `FEW`
  positions, for which that saves nothing, are scored at once.

  Args:
    hidden_BLD: of `TextSpeechLM.hidden`; its type is that of the product, which sums in float32.
    head: the parameters of the model's head.
    targets_BL: int32 speech ids, or `IGNORE`.
    chunk: positions at a time; L is padded to a multiple of it.
  """
  batch, length, _ = hidden_BLD.shape
  chunk = min(chunk, length)
  count = -(-length // chunk)
  kernel_VD = shard_none(head["kernel"].astype(hidden_BLD.dtype))  # gathered once, not once a chunk
  bias_V = head["bias"].astype(jnp.float32) if "bias" in head else 0.0

  def split(x: jax.Array, fill: int) -> jax.Array:
    """[B, L, ...] to [count, B, chunk, ...]."""
    rest = ((0, 0),) * (x.ndim - 2)
    x = jnp.pad(x, ((0, 0), (0, count * chunk - length), *rest), constant_values=fill)
    return jnp.moveaxis(x.reshape(batch, count, chunk, *x.shape[2:]), 1, 0)

  def score(hidden_BcD: jax.Array, targets_Bc: jax.Array) -> Scores:
    hidden_BcD = shard_rows(hidden_BcD)
    logits_BcV = jnp.einsum("bcd,vd->bcv", hidden_BcD, kernel_VD, preferred_element_type=jnp.float32) + bias_V
    logits_BcV = shard_rows(logits_BcV)
    right_Bc = (jnp.argmax(logits_BcV, axis=-1) == targets_Bc) & (targets_Bc != IGNORE)
    return Scores(token_log_probs(logits_BcV, targets_Bc), right_Bc)

  if batch * length <= FEW:
    return score(hidden_BLD, targets_BL)
  again = jax.checkpoint(score)
  _, chunks = jax.lax.scan(lambda _, x: (None, again(*x)), None, (split(hidden_BLD, 0), split(targets_BL, IGNORE)))
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, count * chunk)[:, :length]
  return Scores(*(join(x) for x in chunks))
