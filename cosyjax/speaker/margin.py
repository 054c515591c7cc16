"""Additive angular margin softmax (Deng et al. 2019, "ArcFace"), which trains the speaker encoder.

A vector and the direction of each speaker enclose an angle; the right speaker's has to be smaller
than all others by a margin. Letters: E vector, S speaker.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import named, normalise_l2

SCALE = 32.0
MARGIN = 0.2  # radians


class SpeakerDirections(nn.Module):
  """One learned direction for each speaker of the training set, dropped afterwards."""

  speakers: int

  @nn.compact
  def __call__(self, vectors_BE: jax.Array) -> jax.Array:
    """Cosine of the angle between each vector and each direction, float32 [B, S]."""
    init = named(nn.initializers.normal(1.0), "embed", "vocab")
    directions_ES = self.param("directions", init, (vectors_BE.shape[-1], self.speakers), jnp.float32)
    towards_ES = normalise_l2(directions_ES.T).T
    return jnp.dot(normalise_l2(vectors_BE), towards_ES, precision=jax.lax.Precision.HIGHEST)


def margin_logits(
  cosines_BS: jax.Array, labels_B: jax.Array, margin: float | jax.Array = MARGIN, scale: float = SCALE
) -> jax.Array:
  """scale cos(angle + margin) for the right speaker, scale cos(angle) for the others: float32 [B, S].

  Beyond pi - margin, where cos(angle + margin) would rise again, the right speaker's cosine is lowered by
  margin sin(margin) instead, so that a worse vector never scores higher.

  Args:
    cosines_BS: in [-1, 1].
    labels_B: int, the right speaker.
    margin: radians; may be traced (`warm_margin`).
    scale: inverse temperature of the softmax that follows.
  """
  right_BS = jnp.arange(cosines_BS.shape[1]) == labels_B[:, None]
  # The slope of the root is infinite at 0: angles of less than 1e-3 are as good as none.
  sines_BS = jnp.sqrt(jnp.maximum(1.0 - jnp.square(cosines_BS), 1e-6))
  moved_BS = cosines_BS * jnp.cos(margin) - sines_BS * jnp.sin(margin)
  moved_BS = jnp.where(cosines_BS > jnp.cos(math.pi - margin), moved_BS, cosines_BS - margin * jnp.sin(margin))
  return scale * jnp.where(right_BS, moved_BS, cosines_BS)


def warm_margin(step: jax.Array, steps: int, margin: float = MARGIN) -> jax.Array:
  """A margin that grows linearly to its full size over the first `steps` steps."""
  return margin * jnp.minimum(step.astype(jnp.float32) / max(steps, 1), 1.0)


def margin_loss(
  cosines_BS: jax.Array, labels_B: jax.Array, valid_B: jax.Array, margin: Any = MARGIN, scale: float = SCALE
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Sums over valid rows: cross-entropy, rows whose nearest direction is the right one, and the number of rows."""
  logits_BS = margin_logits(cosines_BS, labels_B, margin, scale)
  picked_B = jnp.take_along_axis(logits_BS, labels_B[:, None], axis=-1)[:, 0]
  loss = jnp.sum(jax.nn.logsumexp(logits_BS, axis=-1) - picked_B, where=valid_B)
  right = jnp.sum(jnp.argmax(cosines_BS, axis=-1) == labels_B, where=valid_B, dtype=jnp.float32)
  return loss, right, jnp.sum(valid_B, dtype=jnp.float32)
