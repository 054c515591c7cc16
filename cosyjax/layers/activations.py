"""Activations that the networks share."""

import math

import jax
import jax.numpy as jnp


def gelu(x: jax.Array) -> jax.Array:
  """x Phi(x), exact (Hendrycks and Gimpel 2016)."""
  return (0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))).astype(x.dtype)


def mish(x: jax.Array) -> jax.Array:
  """x tanh(log(1 + e^x)) (Misra 2019) by one exponential: tanh(log(1 + e)) = e(e+2) / (e(e+2) + 2)."""
  e = jnp.exp(jnp.minimum(x, 20.0))  # beyond 20 the factor is 1 in float32
  n = e * (e + 2.0)
  return x * (n / (n + 2.0))
