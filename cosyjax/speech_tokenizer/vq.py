"""Vector quantisation (van den Oord et al. 2017), which the paper compares with FSQ (Table 4).

The codebook is a parameter like any other: a loss pulls each code towards the vectors that chose
it, another (commitment) the vectors towards their code, and the decoder's gradient goes straight
through the choice. Letters: C codebook entry, D width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import LayerNorm, named


class VectorQuantiser(nn.Module):
  """Replaces each vector by the nearest of `codebook_size` learned ones.

  Vectors are normalised first, so that they and the codes, drawn from a standard normal
  distribution, lie at the same distance from zero.
  """

  codebook_size: int
  commitment: float = 0.25
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, hidden_BUD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantises every vector on its own.

    Returns:
      quantised [B, U, D] with the gradient of the normalised input, ids int32 [B, U], and the loss of
      each vector, float32 [B, U]: the mean over D of both squared distances, the second times `commitment`.
    """
    init = named(nn.initializers.normal(1.0), "vocab", "embed")
    codes_CD = self.param("codebook", init, (self.codebook_size, hidden_BUD.shape[-1]), jnp.float32)
    x_BUD = LayerNorm(name="norm")(hidden_BUD.astype(jnp.float32))
    ids_BU = nearest(jax.lax.stop_gradient(x_BUD), jax.lax.stop_gradient(codes_CD))
    chosen_BUD = jnp.take(codes_CD, ids_BU, axis=0)
    pull_codes_BU = jnp.mean(jnp.square(chosen_BUD - jax.lax.stop_gradient(x_BUD)), axis=-1)
    pull_input_BU = jnp.mean(jnp.square(x_BUD - jax.lax.stop_gradient(chosen_BUD)), axis=-1)
    quantised_BUD = x_BUD + jax.lax.stop_gradient(chosen_BUD - x_BUD)
    return quantised_BUD.astype(self.dtype), ids_BU, pull_codes_BU + self.commitment * pull_input_BU


def nearest(x: jax.Array, codes_CD: jax.Array) -> jax.Array:
  """Index of the code at the smallest Euclidean distance from each vector: [..., D] -> int32 [...]."""
  # |x - c|^2 without |x|^2, which is the same for all codes.
  dots = jnp.einsum("...D,CD->...C", x, codes_CD, precision=jax.lax.Precision.HIGHEST)
  return jnp.argmin(jnp.sum(jnp.square(codes_CD), axis=-1) - 2.0 * dots, axis=-1).astype(jnp.int32)
