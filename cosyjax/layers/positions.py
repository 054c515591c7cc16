"""Positions as sines and cosines: absolute, relative, and rotary."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_SLOWEST = 10_000.0  # the slowest sine's wavelength over the fastest's


def sinusoids(positions: jax.Array, width: int, *, interleaved: bool = False, to_slowest: bool = False) -> jax.Array:
  """Sines and cosines of positions at `width / 2` rates (Vaswani et al. 2017, section 3.5): float32 [..., width].

  Args:
    positions: any shape.
    width: of a position's vector.
    interleaved: sines at even places and cosines at odd ones; else all sines, then all cosines.
    to_slowest: the last rate is the slowest one, 1/10000; else the rates stop one short of it.
  """
  half = width // 2
  rates = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(_SLOWEST) / (half - to_slowest)))
  angles = positions.astype(jnp.float32)[..., None] * rates.reshape((1,) * positions.ndim + (half,))
  sines, cosines = jnp.sin(angles), jnp.cos(angles)
  if interleaved:
    return jnp.stack([sines, cosines], axis=-1).reshape(*positions.shape, width)
  return jnp.concatenate([sines, cosines], axis=-1)


def relative_positions(queries: int, keys: int, width: int, offset: int | jax.Array = 0) -> jax.Array:
  """Sines and cosines of query position minus key position (Dai et al. 2019, section 3.3).

  Args:
    queries: number of queries, at positions offset, offset + 1, ...
    keys: number of keys, at positions 0, 1, ...
    width: of a row; sines at even places, cosines at odd ones.
    offset: position of the first query. May be traced.

  Returns:
    float32 [queries + keys, width]: row r holds position offset + queries - 1 - r. The last
    row is there for `relative_shift` and belongs to no pair.
  """
  return sinusoids(offset + queries - 1 - jnp.arange(queries + keys), width, interleaved=True)


def from_offsets(table_RNH: jax.Array, offset_B: jax.Array, queries: int) -> jax.Array:
  """The rows of a projected table of relative positions that belong to queries from `offset_B` on.

  Args:
    table_RNH: of `relative_positions` for queries that are the last among their keys.
    offset_B: int32, position of each row's first query.
    queries: number of queries.

  Returns:
    [B, R, N, H], as if the table had been made for that offset. Of keys after a row's last
    query, which it does not see, it is right only for the next few.
  """
  places = table_RNH.shape[0]
  start_B1 = (places - 2 * queries - offset_B)[:, None]
  return jnp.take(table_RNH, start_B1 + jnp.arange(places)[None], axis=0, mode="clip")


def relative_shift(x_BNTR: jax.Array) -> jax.Array:
  """Turns scores by relative position into scores by key: [B, N, T, T + S] -> [B, N, T, S].

  Row i of the result starts one place earlier than row i - 1, so with rows of T + S - 1
  instead of T + S the columns line up by themselves: out[i, j] = x[i, T - 1 - i + j].
  """
  *front, queries, places = x_BNTR.shape
  flat = x_BNTR.reshape(*front, queries * places)[..., queries - 1 : queries - 1 + queries * (places - 1)]
  return flat.reshape(*front, queries, places - 1)[..., : places - queries]


def rotary_angles(positions_BL: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines of rotary position embedding (Su et al. 2021), float32 [B, L, H/2] each."""
  rates = np.float32(1.0) / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
  angles = positions_BL.astype(jnp.float32)[..., None] * rates[None, None]
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BLNH: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns channel pairs (i, i + H/2) of each head by the angles of its position, in float32."""
  cos, sin = (a[:, :, None, :] for a in rotary)
  left, right = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
  return turned.astype(x_BLNH.dtype)
