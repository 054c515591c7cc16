"""Samplers: the nucleus, repetition, forbidden ids, and what a draw depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import LMConfig
from cosyjax.lm.sampling import Greedy, NoisyArgmax, RepetitionAware, forbid, nucleus

NONE = jnp.full((1, 10), -1, jnp.int32)


def draws(sampler, logits, recent=NONE, count=4000):
  """Ids drawn for `count` requests with the same scores."""
  keys = jax.random.split(jax.random.key(0), count)
  tile = lambda x: jnp.broadcast_to(jnp.asarray(x), (count, np.shape(x)[-1]))
  return np.asarray(jax.jit(sampler.__call__)(tile(logits), tile(recent), keys, jnp.zeros(count, jnp.int32)))


def test_nucleus_equals_the_reference(golden):
  data = golden("nucleus")
  log_probs, ids = jax.jit(lambda x: nucleus(x, float(data["top_p"]), int(data["top_k"])))(data["logp"])
  keep = np.zeros(data["keep"].shape, bool)
  for row, (row_ids, kept) in enumerate(zip(np.asarray(ids), np.isfinite(log_probs), strict=True)):
    keep[row, row_ids[kept]] = True
  np.testing.assert_array_equal(keep, data["keep"])
  logp = data["logp"] - jax.nn.logsumexp(data["logp"], axis=1, keepdims=True)
  np.testing.assert_allclose(log_probs[:, 0], logp.max(axis=1), atol=1e-6)


def test_nucleus_takes_equal_ids_in_order_and_at_least_one():
  _, ids = nucleus(jnp.zeros((1, 8)), 0.5, 8)
  assert ids[0].tolist() == list(range(8))
  log_probs, _ = nucleus(jnp.zeros((1, 8)), 0.5, 8)
  assert np.isfinite(log_probs).sum() == 4  # 0, 1/8, 2/8, 3/8 come before: all below one half
  log_probs, _ = nucleus(jnp.array([[9.0, 0.0, 0.0]]), 0.01, 2)
  assert np.isfinite(log_probs).sum() == 1


def test_draws_follow_the_nucleus():
  p = np.array([0.5, 0.25, 0.15, 0.1])  # 0.5, 0.75, 0.9: the third is the last with less than 0.8 before it
  ids = draws(RepetitionAware(), np.log(p)[None])
  share = np.bincount(ids, minlength=4) / len(ids)
  np.testing.assert_allclose(share, np.array([0.5, 0.25, 0.15, 0]) / 0.9, atol=0.03)


def test_a_repeated_id_is_replaced_from_the_whole_distribution():
  p = np.array([0.5, 0.25, 0.15, 0.1])
  recent = NONE.at[0, 3].set(0)
  ids = draws(RepetitionAware(), np.log(p)[None], recent)
  first = np.array([0.5, 0.25, 0.15, 0]) / 0.9
  again = np.array([0, 0.25, 0.15, 0.1]) / 0.5  # id 0 removed, nothing else
  share = np.bincount(ids, minlength=4) / len(ids)
  np.testing.assert_allclose(share, first * [0, 1, 1, 1] + first[0] * again, atol=0.03)


def test_each_row_is_drawn_under_its_own_settings():
  """Settings as arrays, one for each row, against the same as numbers for all rows."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(3 * rng.normal(size=(64, 300)), jnp.float32)
  recent = jnp.asarray(rng.integers(0, 12, (64, 10)), jnp.int32)
  keys, positions = jax.random.split(jax.random.key(1), 64), jnp.arange(64)
  settings = [(0.8, 25, 1, 1.0, 10), (1.0, 100, 99, 2.0, 10), (0.5, 3, 1, 0.5, 2), (0.0, 1, 99, 1.0, 0)]
  rows = [jnp.asarray([settings[i % 4][field] for i in range(64)]) for field in range(5)]
  together = np.asarray(jax.jit(RepetitionAware(*rows).__call__)(logits, recent, keys, positions))
  for i, one in enumerate(settings):
    alone = np.asarray(RepetitionAware(*one)(logits, recent, keys, positions))
    np.testing.assert_array_equal(together[i::4], alone[i::4])
  np.testing.assert_array_equal(together[3::4], np.argmax(logits, axis=1)[3::4])


def test_a_window_is_of_the_newest_ids():
  sure = jnp.array([[50.0, 0.0, 0.0, 0.0]])
  recent = NONE.at[0, 4].set(0)  # six ids ago
  assert np.all(draws(RepetitionAware(window=5), sure, recent, 50) == 0)
  assert np.all(draws(RepetitionAware(window=6), sure, recent, 50) != 0)


def test_temperature_flattens_the_distribution():
  p = np.array([0.8, 0.2])
  ids = draws(RepetitionAware(1.0, 2, 99, temperature=2.0), np.log(p)[None])
  np.testing.assert_allclose(np.mean(ids), np.sqrt(0.2) / (np.sqrt(0.8) + np.sqrt(0.2)), atol=0.03)


def test_repetition_threshold_comes_from_the_configuration():
  assert RepetitionAware.of(LMConfig()) == RepetitionAware(0.8, 25, 1)
  three = RepetitionAware.of(LMConfig(repeat_rate=0.3))
  assert three.threshold == 3
  sure = jnp.array([[50.0, 0.0, 0.0, 0.0]])
  assert np.all(draws(three, sure, NONE.at[0, :2].set(0), 50) == 0)
  assert np.all(draws(three, sure, NONE.at[0, :3].set(0), 50) != 0)


def test_a_draw_depends_on_its_key_and_position_alone():
  sampler, rng = jax.jit(RepetitionAware().__call__), np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(6, 500)), jnp.float32)
  recent = jnp.asarray(rng.integers(0, 500, (6, 10)), jnp.int32)
  keys, positions = jax.random.split(jax.random.key(1), 6), jnp.arange(6)
  together = sampler(logits, recent, keys, positions)
  alone = [int(sampler(logits[i : i + 1], recent[i : i + 1], keys[i : i + 1], positions[i : i + 1])[0]) for i in (4, 1)]
  assert alone == [together[4], together[1]]
  flat = jnp.zeros((64, 500))
  same_key = jnp.broadcast_to(keys[:1], (64,))
  tile = jnp.broadcast_to(NONE, (64, 10))
  assert len(set(np.asarray(sampler(flat, tile, same_key, jnp.arange(64))).tolist())) > 10
  assert len(set(np.asarray(sampler(flat, tile, same_key, jnp.zeros(64, jnp.int32))).tolist())) == 1


def test_forbidden_ids_are_never_drawn():
  logits = jnp.array([[0.0, 0.0, 5.0, 6.0, 7.0]])
  masked = forbid(logits, jnp.array([[True, False, True]]))
  assert masked.tolist() == [[0.0, 0.0, -np.inf, 6.0, -np.inf]]
  assert np.all(draws(RepetitionAware(), masked, NONE.at[0, 0].set(3), 200) < 2)  # id 3 is repeated, 2 and 4 forbidden


@pytest.mark.parametrize("dtype", (jnp.float16, jnp.float32))
def test_argmax_samplers(dtype):
  logits = jnp.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
  rest = (jnp.broadcast_to(NONE, (2, 10)), jax.random.split(jax.random.key(0), 2), jnp.array([0, 1]))
  assert Greedy()(logits, *rest).tolist() == [1, 1]
  noise = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], dtype)
  assert NoisyArgmax(noise)(logits, *rest).tolist() == [1, 2]
