"""Schedules against their formulas, weight decay by path, and Adam against its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as config_lib
from cosyjax.errors import ConfigError
from cosyjax.layers.remat import REMAT, policy, remat
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.training.optimiser import OptimConfig, decayed, learning_rate, make_optimiser


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse_sqrt"])
def test_schedules_follow_their_formulas(schedule):
  c = OptimConfig(learning_rate=2.0, schedule=schedule, warmup=4, final=0.1)
  rate = np.asarray(learning_rate(c, 20)(np.arange(20)))
  np.testing.assert_allclose(rate[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
  n = np.arange(4, 20)
  wanted = {
    "constant": np.full(16, 2.0),
    "cosine": 2.0 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (n - 4) / 15))),
    "inverse_sqrt": 2.0 * np.sqrt(4 / (n + 1)),
  }[schedule]
  np.testing.assert_allclose(rate[4:], wanted, rtol=1e-5)


def test_no_warmup_starts_at_the_peak_and_the_cosine_stays_at_its_end():
  rate = learning_rate(OptimConfig(learning_rate=3.0, schedule="cosine", final=0.5), 10)
  np.testing.assert_allclose([rate(0), rate(9), rate(1000)], [3.0, 1.5, 1.5], rtol=1e-6)


def test_decay_spares_norms_biases_and_embeddings():
  c = dataclasses.replace(config_lib.tiny().lm, speech_vocab=config_lib.SpeechVocab(16))
  ids = jnp.zeros((1, 4), jnp.int32)
  for scan in (False, True):
    lm = TextSpeechLM(c, scan=scan)
    boxed = jax.eval_shape(lambda lm=lm: lm.init(jax.random.key(0), ids, ids, jnp.array([4])))["params"]
    mask = jax.tree_util.tree_leaves_with_path(decayed(boxed))
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): value for path, value in mask}
    spared = [name for name, value in names.items() if not value]
    assert all(any(word in name for word in ("norm", "bias", "embedding")) for name in spared)
    decays = [name for name, value in names.items() if value]
    assert len(decays) >= 7 and not any(word in n for n in decays for word in ("norm", "bias", "embedding"))
  plain = {"slope": jnp.ones(3), "layers": {"slope": jnp.ones((2, 3)), "kernel": jnp.ones((2, 3, 4))}}
  assert decayed(plain) == {"slope": False, "layers": {"slope": False, "kernel": True}}


def test_two_steps_of_adamw_with_clipping_by_hand():
  c = OptimConfig(learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.01, clip=1.0)
  tx = make_optimiser(c, 10)
  params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
  state = tx.init(params)
  wanted = {name: np.asarray(x, np.float64) for name, x in params.items()}
  m, v = ({name: np.zeros_like(x) for name, x in wanted.items()} for _ in range(2))
  for t in (1, 2):
    grads = {"kernel": jnp.array([[3.0, -4.0]]) * t, "bias": jnp.array([12.0])}
    updates, state = tx.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()))
    for name, g in grads.items():
      g = np.asarray(g, np.float64) * min(1.0, 1.0 / norm)
      m[name], v[name] = 0.8 * m[name] + 0.2 * g, 0.9 * v[name] + 0.1 * g * g
      step = m[name] / (1 - 0.8**t) / (np.sqrt(v[name] / (1 - 0.9**t)) + 1e-6)
      wanted[name] = wanted[name] - 0.1 * (step + (0.01 * wanted[name] if name == "kernel" else 0.0))
  for name, x in params.items():
    np.testing.assert_allclose(x, wanted[name], atol=1e-5)


def test_wrong_settings_are_refused_by_name():
  with pytest.raises(
    ConfigError, match=r"optim.schedule: expected one of constant, .*; optim.ema: expected 0 to below 1"
  ):
    OptimConfig(schedule="linear", ema=1.0)
  with pytest.raises(ConfigError, match=r"optim.accumulate"):
    OptimConfig(accumulate=0)


def test_remat_policies_change_no_gradient():
  assert REMAT[0] == "none" and REMAT[-1] == "full"
  x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
  f = lambda w: jnp.sum(jnp.tanh(jnp.sin(x @ w) @ w.T))
  w = jnp.ones((3, 3)) / 3
  kept = {}
  for name in REMAT:
    g = jax.checkpoint(f, policy=policy(name))
    np.testing.assert_allclose(jax.grad(g)(w), jax.grad(f)(w), rtol=1e-6)
    kept[name] = str(jax.make_jaxpr(jax.grad(g))(w)).count("sin ")
  assert kept["full"] > kept["none"]  # computed again
  with pytest.raises(ConfigError, match="remat: expected one of none, dots, weights, full, found 'some'"):
    policy("some")
  assert remat(TextSpeechLM, "none") is TextSpeechLM and remat(TextSpeechLM, "full") is not TextSpeechLM
