"""Connectionist temporal classification (Graves et al. 2006): its loss, and reading it greedily.

Letters: R CTC frame, L unit, V unit's score. The blank is 0.
"""

import jax
import jax.numpy as jnp
import optax

from cosyjax.layers.masks import padding_mask
from cosyjax.speech_tokenizer.units import BLANK


def feasible(frames_B: jax.Array, units_BL: jax.Array, unit_lengths_B: jax.Array) -> jax.Array:
  """True for rows whose frames can hold their units: each needs one, and a repeated unit a blank before it. [B]"""
  valid_BL = padding_mask(unit_lengths_B, units_BL.shape[1])
  repeats_B = jnp.sum((units_BL[:, 1:] == units_BL[:, :-1]) & valid_BL[:, 1:], axis=1)
  return unit_lengths_B + repeats_B <= frames_B


def loss(logits_BRV: jax.Array, frames_B: jax.Array, units_BL: jax.Array, unit_lengths_B: jax.Array) -> jax.Array:
  """Negative log-probability of each row's units, summed over all alignments: float32 [B].

  Args:
    logits_BRV: scores of blank and units, before the softmax.
    frames_B: valid frames of each row; the others change nothing.
    units_BL: int, right-padded with anything.
    unit_lengths_B: units of each row.

  Returns:
    0 where the units do not fit into the frames (`feasible`): no alignment exists, and nothing can be learned.
  """
  padded_BR = 1.0 - padding_mask(frames_B, logits_BRV.shape[1]).astype(jnp.float32)
  padded_BL = 1.0 - padding_mask(unit_lengths_B, units_BL.shape[1]).astype(jnp.float32)
  with jax.default_matmul_precision("highest"):  # picks log-probabilities by a product with ones and zeros
    rows_B = optax.ctc_loss(logits_BRV.astype(jnp.float32), padded_BR, units_BL, padded_BL, blank_id=BLANK)
  return jnp.where(feasible(frames_B, units_BL, unit_lengths_B), rows_B, 0.0)


def greedy(logits_BRV: jax.Array, frames_B: jax.Array) -> jax.Array:
  """Best unit of each frame, 0 where it repeats the one before, is blank, or is padding: int32 [B, R].

  What is left of a row without its zeros is what was read.
  """
  best_BR = jnp.argmax(logits_BRV, axis=-1).astype(jnp.int32)
  before_BR = jnp.pad(best_BR[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
  kept_BR = (best_BR != before_BR) & padding_mask(frames_B, best_BR.shape[1])
  return jnp.where(kept_BR, best_BR, BLANK)


def alignment(logits_RV: jax.Array, units_L: jax.Array) -> jax.Array:
  """Probability of each unit of a text at each frame, float32 [R, L]: a diagonal, once reading in order is learned."""
  return jnp.take(jax.nn.softmax(logits_RV.astype(jnp.float32)), units_L, axis=-1)
