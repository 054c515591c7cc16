"""Conditional flow matching: path, objective, schedule, guidance and solver (paper 2.4).

Pure functions of arrays; the network comes in as a function.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.layers.masks import padding_mask

KINDS = ("l1", "squared")
Velocity = Callable[[jax.Array, jax.Array], jax.Array]  # (x_BTM, t_B) -> v_BTM


def schedule(steps: int) -> np.ndarray:
  """Times 1 - cos(pi s / 2) at `steps + 1` equal places s from 0 to 1 (paper 2.4): float32, dense near 0."""
  if steps < 1:
    raise ConfigError(f"steps: expected at least 1, found {steps}")
  return (1.0 - np.cos(np.linspace(0.0, 1.0, steps + 1) * (np.pi / 2))).astype(np.float32)


def interpolate(
  x1_BTM: jax.Array, noise_BTM: jax.Array, t_B: jax.Array, sigma_min: float = 1e-6
) -> tuple[jax.Array, jax.Array]:
  """Point on the straight path from noise to data, and the velocity there.

  Returns:
    x_t = (1 - (1 - sigma) t) noise + t x1, and its derivative x1 - (1 - sigma) noise.
  """
  t_B11 = t_B[:, None, None]
  return (1.0 - (1.0 - sigma_min) * t_B11) * noise_BTM + t_B11 * x1_BTM, x1_BTM - (1.0 - sigma_min) * noise_BTM


def row_sums(
  prediction_BTM: jax.Array, target_BTM: jax.Array, lengths_B: jax.Array, kind: str = "l1"
) -> tuple[jax.Array, jax.Array]:
  """Difference of two velocities, summed over the valid frames of each row.

  Args:
    prediction_BTM: of the network.
    target_BTM: from `interpolate`.
    lengths_B: frames in each row.
    kind: "l1" (the paper) or "squared" (what the upstream training code computes).

  Returns:
    (sums, how many numbers each is the sum of), float32 [B] each.

  Raises:
    ConfigError: another kind.
  """
  if kind not in KINDS:
    raise ConfigError(f"loss kind: expected 'l1' or 'squared', found {kind!r}")
  difference = prediction_BTM.astype(jnp.float32) - target_BTM.astype(jnp.float32)
  difference = jnp.abs(difference) if kind == "l1" else jnp.square(difference)
  valid_BT1 = padding_mask(lengths_B, difference.shape[1])[..., None]
  return jnp.sum(jnp.where(valid_BT1, difference, 0.0), axis=(1, 2)), lengths_B * jnp.float32(difference.shape[2])


def loss(prediction_BTM: jax.Array, target_BTM: jax.Array, lengths_B: jax.Array, kind: str = "l1") -> jax.Array:
  """Mean difference of two velocities over the valid frames of the whole batch; see `row_sums`."""
  sums_B, counts_B = row_sums(prediction_BTM, target_BTM, lengths_B, kind)
  return jnp.sum(sums_B) / jnp.maximum(jnp.sum(counts_B), 1.0)


def guided(with_condition: jax.Array, without: jax.Array, guidance: float | jax.Array) -> jax.Array:
  """Classifier-free guidance: (1 + w) v(condition) - w v(nothing)."""
  return (1.0 + guidance) * with_condition - guidance * without


def euler(velocity: Velocity, noise_BTM: jax.Array, times: np.ndarray | jax.Array, *, unroll: int = 1) -> jax.Array:
  """Follows the velocity from noise to mel by Euler steps.

  Args:
    velocity: (x_BTM, t_B) -> derivative of x at time t.
    noise_BTM: x at the first time.
    times: [steps + 1], as from `schedule`.
    unroll: steps compiled out in a row. 1 compiles fastest; all of them leave nothing for the
      host to do between steps, which GPUs like.

  Returns:
    float32 [B, T, M].
  """
  times = jnp.asarray(times, jnp.float32)

  def step(x_BTM: jax.Array, span: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    start, width = span
    return x_BTM + width * velocity(x_BTM, jnp.broadcast_to(start, x_BTM.shape[:1])), None

  return jax.lax.scan(step, noise_BTM.astype(jnp.float32), (times[:-1], jnp.diff(times)), unroll=unroll)[0]
