"""Parameter counts of the full-size model, without making it."""

import math

import jax
import numpy as np
import pytest

from cosyjax import config, networks
from cosyjax.layers.basic import unbox


@pytest.fixture(scope="module")
def shapes():
  return networks.abstract_params(config.cosyvoice2())


def _count(tree) -> float:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6


def test_full_size_parameter_counts(shapes):
  lm, flow = shapes["lm"], shapes["flow"]
  assert _count(lm["stack"]) == pytest.approx(357.9, abs=0.1)  # layers and final norm
  assert _count(lm["text_embedding"]) == pytest.approx(136.1, abs=0.1)
  assert _count(lm["head"]) == pytest.approx(5.89, abs=0.01)
  assert _count(flow["unet"]) == pytest.approx(71.3, abs=0.1)
  assert _count(flow) == pytest.approx(112.5, abs=0.1)
  assert _count(shapes["vocoder"]) == pytest.approx(20.8, abs=0.1)
  assert _count(shapes["speaker"]) == pytest.approx(6.85, abs=0.05)


def test_no_parameter_is_anything_but_float32(shapes):
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes)} == {"float32"}


def test_random_weights_are_seeded():
  a, b, c = (networks.random_params(config.tiny(), seed) for seed in (0, 0, 1))
  same = lambda x, y: all(np.array_equal(p, q) for p, q in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
  assert same(a, b)
  assert not same(a, c)


def test_random_weights_have_the_initialisers_scales():
  drawn = networks.random_params(config.tiny())["lm"]
  made = jax.jit(lambda key: unbox(networks.init_params(config.tiny(), "lm", key)))(jax.random.key(0))
  assert jax.tree.structure(drawn) == jax.tree.structure(made)
  for ours, theirs in zip(jax.tree.leaves(drawn), jax.tree.leaves(made), strict=True):
    assert ours.shape == theirs.shape
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.15, abs=1e-6)
