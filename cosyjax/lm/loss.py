"""Objective of the text-speech model and its accuracy, over the positions that have a target."""

import jax
import jax.numpy as jnp

from cosyjax.lm.sequence import IGNORE


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
