"""One attention for all networks: the equation, however heads, caches and biases are laid out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.layers import platforms
from cosyjax.layers.attention import Distance, attend, make_mask


def arrays(K: int, biased: bool):
  """Queries, keys, values, mask, and what makes a part by distance."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  q, k, v = draw(2, 7, 4, 8), draw(2, 9, K, 8), draw(2, 9, K, 8)
  mask = rng.random((2, 7, 9)) < 0.5
  mask[:, :, 0] = True
  return q, k, v, mask, Distance(draw(2, 7, 4, 8), draw(16, 4, 8)) if biased else None


@pytest.mark.parametrize(
  ("K", "biased", "keys", "values"),
  [(4, False, "BSKH", "BSKH"), (4, True, "BSKH", "BSKH"), (2, False, "BKHS", "BKSH"), (1, True, "BSKH", "BKSH")],
)
def test_attention_is_its_equation(K, biased, keys, values):
  q, k, v, mask, distance = arrays(K, biased)
  order = lambda x, axes: np.transpose(x, ["BSKH".index(a) for a in axes])
  run = jax.jit(lambda q, k, v, mask: attend(q, k, v, make_mask(mask), distance=distance, keys=keys, values=values))
  y = run(q, order(k, keys), order(v, values), mask)
  k, v = (np.repeat(x, 4 // K, axis=2) for x in (k, v))
  scores = np.einsum("btnh,bsnh->bnts", q, k)
  if biased:  # row r of the table is of the distance 6 - r
    far = np.einsum("btnh,rnh->bntr", *distance)
    for t, s in itertools.product(range(7), range(9)):
      scores[:, :, t, s] += far[:, :, t, 6 - t + s]
  weights = np.where(mask[:, None], np.exp(scores / np.sqrt(8)), 0)
  expected = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), v)
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_query_that_sees_nothing_is_finite():
  q, k, v, mask, _ = arrays(4, False)
  mask[0, 3] = False
  y = attend(q, k, v, make_mask(jnp.asarray(mask)))
  np.testing.assert_allclose(y[0, 3], v[0].mean(axis=0), atol=1e-5)


def test_forms_have_a_reason_and_can_be_left_out(monkeypatch):
  for name, entry in platforms.FORMS.items():
    assert entry.why and entry.benchmark and entry.platform in ("cpu", "cuda", "tpu"), name
  entry = platforms.Form("cpu", "a test", "none")
  monkeypatch.setitem(platforms.FORMS, "test", entry)
  call = lambda: jax.jit(lambda x: platforms.form("test", lambda x: x + 1, lambda x: x)(x))(1)
  assert call() == 2
  with platforms.without("test"):
    assert call() == 1
  assert call() == 2
