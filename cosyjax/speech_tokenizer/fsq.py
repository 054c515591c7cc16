"""Finite scalar quantisation (Mentzer et al. 2023), as CosyVoice 2 uses it (paper 2.2, equations 1 to 3).

A frame is projected to a few numbers (eight in the release), each is squashed into the open
interval (-K - 1/2, K + 1/2) and rounded to one of 2K+1 levels. A token id is the number whose
digits in base 2K+1 are the levels, counted from zero, lowest digit first. Letter J: digits.
"""

import jax
import jax.numpy as jnp

from cosyjax.errors import ConfigError

# Keeps |K tanh| below K: the trained scale of the release.
_SQUASH = 0.999


def largest_code(levels: int) -> int:
  """K of 2K+1 levels.

  Raises:
    ConfigError: the number of levels is even or below three, so that no code lies at zero.
  """
  if levels < 3 or levels % 2 == 0:
    raise ConfigError(f"fsq_levels: expected an odd number of at least 3, found {levels}")
  return levels // 2


def squash(projected: jax.Array, levels: int) -> jax.Array:
  """Projected values within (-K, K), before rounding, in float32: 0.999 K tanh(x)."""
  return (_SQUASH * largest_code(levels)) * jnp.tanh(projected.astype(jnp.float32))


def quantise(projected: jax.Array, levels: int) -> jax.Array:
  """Codes -K..K as float32, whose gradient is that of `squash` (straight through the rounding).

  Args:
    projected: [..., J], any real values.
    levels: 2K+1.
  """
  squashed = squash(projected, levels)
  return squashed + jax.lax.stop_gradient(jnp.round(squashed) - squashed)


def codes_to_ids(codes: jax.Array, levels: int) -> jax.Array:
  """Token ids sum_j (h_j + K) (2K+1)^j: codes [..., J] in -K..K -> int32 [...]."""
  digits = jnp.round(codes).astype(jnp.int32) + largest_code(levels)
  return jnp.sum(digits * levels ** jnp.arange(codes.shape[-1], dtype=jnp.int32), axis=-1)


def ids_to_codes(ids: jax.Array, dims: int, levels: int) -> jax.Array:
  """Inverse of `codes_to_ids`: int ids [...] below levels**dims -> float32 codes [..., dims]."""
  digits = ids.astype(jnp.int32)[..., None] // levels ** jnp.arange(dims, dtype=jnp.int32) % levels
  return (digits - largest_code(levels)).astype(jnp.float32)
