"""Learned codebook: nearest code, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.layers.basic import unbox
from cosyjax.speech_tokenizer.vq import VectorQuantiser, nearest

MODULE = VectorQuantiser(codebook_size=7, commitment=0.5)


@pytest.fixture(scope="module")
def setup():
  x = jax.random.normal(jax.random.key(1), (2, 5, 4))
  return unbox(MODULE.init(jax.random.key(0), x)["params"]), x


def test_nearest_is_the_nearest():
  rng = np.random.default_rng(0)
  x, codes = rng.normal(size=(3, 6, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
  expected = np.linalg.norm(x[..., None, :] - codes, axis=-1).argmin(axis=-1)
  np.testing.assert_array_equal(nearest(jnp.asarray(x), jnp.asarray(codes)), expected)


def test_output_is_a_code_and_the_loss_its_distance(setup):
  params, x = setup
  quantised, ids, loss = MODULE.apply({"params": params}, x)
  np.testing.assert_allclose(quantised, params["codebook"][ids], atol=1e-6)
  centred = x - x.mean(-1, keepdims=True)
  inside = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(loss, 1.5 * np.mean((inside - params["codebook"][ids]) ** 2, axis=-1), rtol=1e-5)


def test_gradients_pass_straight_through_and_pull_both_sides(setup):
  params, x = setup
  weights = jax.random.normal(jax.random.key(2), x.shape)

  def outputs(params, x):
    quantised, _, loss = MODULE.apply({"params": params}, x)
    return jnp.sum(weights * quantised), jnp.sum(loss)

  through = jax.grad(lambda p, x: outputs(p, x)[0], argnums=(0, 1))(params, x)
  assert np.abs(through[0]["codebook"]).max() == 0  # what comes behind moves the vectors, not the codes
  normalised = lambda x: (lambda c: c * jax.lax.rsqrt((c**2).mean(-1, keepdims=True) + 1e-5))(x - x.mean(-1)[..., None])
  np.testing.assert_allclose(through[1], jax.grad(lambda x: jnp.sum(weights * normalised(x)))(x), atol=1e-5)
  pull = jax.grad(lambda p, x: outputs(p, x)[1], argnums=(0, 1))(params, x)
  ids = MODULE.apply({"params": params}, x)[1]
  used = np.isin(np.arange(7), ids)
  assert (np.abs(pull[0]["codebook"]).max(axis=1) > 0).tolist() == used.tolist()
  assert np.abs(pull[1]).max() > 0
