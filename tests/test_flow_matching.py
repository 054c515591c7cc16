"""Schedule, solver, guidance, objective, noise and attention on their own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import ConfigError
from cosyjax.flow import matching, noise
from cosyjax.layers.activations import gelu, mish
from cosyjax.layers.positions import relative_positions, relative_shift


def test_schedule_is_a_quarter_cosine():
  times = matching.schedule(10)
  assert times.dtype == np.float32
  np.testing.assert_allclose(times[[0, 5, 10]], [0.0, 1.0 - np.sqrt(0.5), 1.0], atol=1e-7)
  assert np.all(np.diff(times, 2) > 0)  # steps grow
  with pytest.raises(ConfigError, match="at least 1"):
    matching.schedule(0)


@pytest.mark.parametrize("unroll", [1, 10])
def test_euler_takes_each_step_at_its_own_time(unroll):
  x = jnp.full((2, 3, 4), 2.0)
  times = matching.schedule(10)
  expected = 2.0
  for start, end in itertools.pairwise(times):
    expected += (end - start) * (expected + start)
  y = matching.euler(lambda x, t: x + t[:, None, None], x, times, unroll=unroll)
  np.testing.assert_allclose(y, np.full(x.shape, expected), rtol=1e-6)


def test_straight_path_is_solved_exactly():
  """Along interpolate's path the velocity does not depend on t, so any schedule arrives at the data."""
  x1, x0 = (jax.random.normal(jax.random.key(i), (2, 5, 3)) for i in range(2))
  start, target = matching.interpolate(x1, x0, jnp.zeros(2), 0.0)
  np.testing.assert_array_equal(start, x0)
  np.testing.assert_allclose(matching.euler(lambda x, t: target, x0, matching.schedule(7)), x1, atol=1e-5)
  middle, _ = matching.interpolate(x1, x0, jnp.array([0.25, 1.0]), 1e-6)
  np.testing.assert_allclose(middle[0], 0.75 * x0[0] + 0.25 * x1[0], atol=1e-5)
  np.testing.assert_allclose(middle[1], x1[1], atol=1e-5)


def test_guidance_pushes_away_from_the_unconditional():
  a, b = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
  np.testing.assert_allclose(matching.guided(a, b, 0.0), a)
  np.testing.assert_allclose(matching.guided(a, b, 0.7), [1.7, 0.6], rtol=1e-6)


def test_loss_counts_valid_frames_only():
  prediction = jnp.stack([jnp.full((4, 2), 3.0), jnp.full((4, 2), 1.0)])
  prediction = prediction.at[1, 1:].set(jnp.nan)  # padding may hold anything
  target, lengths = jnp.ones((2, 4, 2)), jnp.array([3, 1])
  assert float(matching.loss(prediction, target, lengths)) == pytest.approx(1.5)
  assert float(matching.loss(prediction, target, lengths, "squared")) == pytest.approx(3.0)
  with pytest.raises(ConfigError, match="huber"):
    matching.loss(prediction, target, lengths, "huber")


def test_noise_table_goes_on_past_its_end():
  table_TM = noise.noise_table(15_001)
  assert table_TM.shape == (15_001, 80)
  np.testing.assert_array_equal(table_TM[:15_000], noise.noise_table(15_000))
  # PyTorch's second draw of (80, 15000) after torch.manual_seed(0).
  np.testing.assert_allclose(
    noise.noise_table(30_000)[15_000, :4], [-0.13559136, 1.6595248, -0.23403426, 0.9801877], atol=1e-6
  )
  assert not table_TM.flags.writeable
  assert noise.noise_table(0).shape == (0, 80)


def test_request_noise_is_a_function_of_key_and_frame():
  short, long = (noise.request_noise(jax.random.key(3), n) for n in (5, 64))
  np.testing.assert_array_equal(short, long[:5])
  assert long.shape == (64, 80)
  assert abs(float(long.mean())) < 0.05
  assert float(long.std()) == pytest.approx(1.0, abs=0.05)
  assert float(jnp.abs(long[0] - long[1]).max()) > 0.1
  other = noise.request_noise(jax.random.key(4), 5)
  assert float(jnp.abs(other - short).max()) > 0.1
  batch = jax.vmap(lambda k: noise.request_noise(k, 5))(jnp.stack([jax.random.key(4), jax.random.key(3)]))
  np.testing.assert_array_equal(batch, jnp.stack([other, short]))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (3, 3), (2, 6), (5, 2)])
def test_relative_shift_lines_distances_up_with_keys(queries, keys):
  offset = 2
  distance = (offset + queries - 1 - np.arange(queries + keys)).astype(np.float32)
  rows = np.arange(queries, dtype=np.float32)[:, None] * 1000
  shifted = relative_shift(jnp.asarray(rows + distance)[None, None])[0, 0]
  expected = rows + (offset + np.arange(queries))[:, None] - np.arange(keys)
  np.testing.assert_array_equal(shifted, expected)


def test_relative_positions_are_sines_and_cosines_of_the_distance():
  table = relative_positions(3, 4, 6, offset=jnp.int32(2))
  distance = np.arange(4, -3, -1)[:, None] * 10000.0 ** (-np.arange(0, 6, 2) / 6)
  np.testing.assert_allclose(table[:, 0::2], np.sin(distance), atol=1e-6)
  np.testing.assert_allclose(table[:, 1::2], np.cos(distance), atol=1e-6)


def test_activations():
  x = jnp.linspace(-90.0, 90.0, 1801)
  np.testing.assert_allclose(mish(x), jax.nn.mish(x), atol=1e-5)
  np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-5)
  assert bool(jnp.isfinite(jax.vmap(jax.grad(mish))(x)).all())
