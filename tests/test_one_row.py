"""Attention of one row and one head at a time, as TPUs train it, is attention; and nothing moves between devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cosyjax import sharding
from cosyjax.analysis import collectives
from cosyjax.flow.chunk_cache import NO_CACHE
from cosyjax.layers import attention
from cosyjax.layers.rows import one_row_at_a_time


@pytest.mark.parametrize("by_distance", [False, True])
def test_head_by_head_is_all_heads(by_distance):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  q, k, v = (draw(3, 12, 4, 8) for _ in range(3))
  blocks_BT = jnp.asarray(rng.integers(0, 4, (3, 12)), jnp.int32)
  mask = NO_CACHE.mask(blocks_BT)
  far = (draw(3, 12, 4, 8), draw(24, 4, 8)) if by_distance else ()

  def run(form):
    def total(q, k, v, far):
      y = form(q, k, v, mask, attention.Distance(*far) if far else None)
      return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True))(q, k, v, far)

  plain, alone = run(attention._at_once), run(attention._by_head)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), plain, alone)


def test_packed_rows_one_by_one_are_all_rows():
  rng = np.random.default_rng(1)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  arrays = (
    draw(3, 40, 4, 8),
    draw(3, 40, 2, 8),
    draw(3, 40, 2, 8),
    jnp.asarray(rng.integers(1, 3, (3, 40))).sort(axis=1),
  )
  together = attention._in_pieces(*arrays)
  np.testing.assert_allclose(one_row_at_a_time(attention._in_pieces, *arrays), together, atol=1e-6)


def test_rows_and_heads_stay_on_their_devices():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  place = NamedSharding(mesh, P(sharding.ROW_AXES, None, "tensor"))
  rng = np.random.default_rng(0)
  draw = lambda: jax.device_put(rng.standard_normal((8, 16, 4, 8)).astype(np.float32), place)
  q, k, v, g = (draw() for _ in range(4))
  blocks_BT = jax.device_put(rng.integers(0, 4, (8, 16)).astype(np.int32), NamedSharding(mesh, P(sharding.ROW_AXES)))

  def step(form):
    def run(q, k, v, blocks_BT, g):
      y, pull = jax.vjp(lambda *a: form(*a, NO_CACHE.mask(blocks_BT), None), q, k, v)
      return y, pull(g)

    with jax.set_mesh(mesh):
      compiled = jax.jit(run, out_shardings=(place, (place,) * 3)).lower(q, k, v, blocks_BT, g).compile()
    return compiled, compiled(q, k, v, blocks_BT, g)

  alone, found = step(attention._by_head)
  _, wanted = step(attention._at_once)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
  text = alone.as_text()
  scores = [line for line in text.splitlines() if re.search(r"f32\[(1,)*16,16\]", line) and "dot" in line]
  assert collectives.by_kind(collectives.collectives(text, 8)) == {} and scores
