"""Training of the speaker encoder: margin, batch norms and their folding."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import tiny
from cosyjax.layers.basic import unbox
from cosyjax.speaker import speaker_objective
from cosyjax.speaker.campplus import SpeakerEncoder
from cosyjax.speaker.margin import margin_logits, margin_loss, warm_margin
from cosyjax.speaker.norms import BatchNorms, move

SIZES = {"mel_bins": 16, "head_channels": 4, "width": 8, "growth": 4, "speaker_dim": 6}
CONFIG = dataclasses.replace(tiny().speaker, **SIZES, layers=(1,), kernels=(3,), dilations=(2,))
MODULE = speaker_objective.SpeakerClassifier(CONFIG, 5)
MARGIN = speaker_objective.MarginConfig(warmup=4)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles twice as fast


@pytest.fixture(scope="module")
def state():
  params, extra = speaker_objective.init(MODULE, jax.random.key(0))
  # Scales and biases unlike their first values, so that folding has something to do.
  draw = lambda path, leaf: leaf + 0.3 * np.random.default_rng(len(str(path))).normal(size=leaf.shape).astype("f")
  return jax.tree_util.tree_map_with_path(draw, unbox(params)), extra


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  fbank_BTM = rng.normal(0, 3, (4, 230, 16)).astype(np.float32)
  return {"fbank_BTM": fbank_BTM, "lengths_B": np.array([230, 117, 57, 0]), "labels_B": np.array([4, 0, 2, 0])}


@pytest.fixture(scope="module")
def step():
  def total(params, batch, extra):
    loss = speaker_objective.speaker_loss(MODULE, MARGIN, params, batch, extra)
    return loss.total, loss

  return quick_jit(jax.grad(total, has_aux=True))


def test_the_margin_is_added_to_the_angle():
  angles = np.array([0.3, 1.2, 2.0, 2.9])
  cosines_BS = np.cos(np.stack([angles, np.full(4, 1.0)], axis=1)).astype(np.float32)
  logits_BS = margin_logits(jnp.asarray(cosines_BS), jnp.zeros(4, int), margin=0.2, scale=32.0)
  np.testing.assert_allclose(logits_BS[:, 1], 32 * np.cos(1.0), rtol=1e-5)
  np.testing.assert_allclose(logits_BS[:, 0], 32 * np.cos(angles + 0.2), rtol=1e-4)
  # Beyond pi - margin a larger angle still scores lower.
  far = np.cos(np.linspace(2.5, math.pi, 60)).astype(np.float32)[:, None]
  assert (np.diff(margin_logits(jnp.asarray(far), jnp.zeros(60, int))[:, 0]) < 0).all()
  assert np.isfinite(jax.grad(lambda x: margin_logits(x, jnp.array([0])).sum())(jnp.ones((1, 2)))).all()


def test_rows_without_speech_count_for_nothing_and_the_margin_warms_up():
  cosines_BS, labels_B = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.0, 0.0]]), jnp.array([0, 1, 0])
  loss, right, rows = margin_loss(cosines_BS, labels_B, jnp.array([True, True, False]), scale=1.0, margin=0.0)
  np.testing.assert_allclose(loss, np.log1p(np.exp(-0.8)) + np.log1p(np.exp(0.6)), rtol=1e-5)
  assert (float(right), float(rows)) == (1, 2)
  assert [float(warm_margin(jnp.float32(n), 4)) for n in (0, 2, 4, 9)] == pytest.approx([0, 0.1, 0.2, 0.2])


def test_padding_changes_neither_loss_nor_statistics(step, state, batch):
  params, extra = state
  grads, loss = step(params, batch, extra)
  other = {**batch, "fbank_BTM": batch["fbank_BTM"].copy()}
  for row, length in enumerate(batch["lengths_B"]):
    other["fbank_BTM"][row, length:] = 7.0
  other_grads, again = step(params, other, extra)
  assert float(loss.weight) == 3
  np.testing.assert_allclose(loss.total, again.total, rtol=1e-5)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  jax.tree.map(close, (loss.extra, grads), (again.extra, other_grads))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_folded_inference_equals_the_norms_in_evaluation(step, state, batch):
  params, extra = state
  _, loss = step(params, batch, extra)
  extra = loss.extra
  evaluate = quick_jit(lambda *args: speaker_objective.speaker_vectors(MODULE, *args))
  expected = np.asarray(evaluate(params, extra, batch["fbank_BTM"], batch["lengths_B"]))
  folded = speaker_objective.subset(params, extra)
  wanted = jax.eval_shape(SpeakerEncoder(CONFIG).init, jax.random.key(0), jnp.zeros((1, 200, 16)), jnp.array([200]))
  shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
  assert shapes(folded) == shapes(unbox(wanted)["params"])
  found = quick_jit(SpeakerEncoder(CONFIG).apply)({"params": folded}, batch["fbank_BTM"], batch["lengths_B"])
  assert np.abs(expected[0] - expected[1]).max() > 0.1
  np.testing.assert_allclose(found[:3], expected[:3], atol=1e-4)


@pytest.mark.long
def test_evaluation_under_the_statistics_of_the_batch_is_training(state, batch):
  params, _ = state

  def both(fbank_BTM, lengths_B):
    norms, encoder = BatchNorms(), SpeakerEncoder(CONFIG)
    trained = encoder.apply({"params": params["encoder"]}, fbank_BTM, lengths_B, norms)
    return trained, encoder.apply({"params": params["encoder"]}, fbank_BTM, lengths_B, BatchNorms(norms.found))

  trained, evaluated = quick_jit(both)(batch["fbank_BTM"], batch["lengths_B"])
  np.testing.assert_allclose(trained, evaluated, atol=1e-5)
  # The last norm of all: mean 0 and variance 1 over the rows with speech.
  np.testing.assert_allclose(trained[:3].mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(trained[:3].var(axis=0), 1, atol=1e-2)


def test_moving_averages_start_as_plain_means():
  still = {"a": {"mean": jnp.zeros(1)}}
  for batches, (value, expected) in enumerate([(3.0, 3.0), (5.0, 4.0), (9.0, 0.6 * 4 + 0.4 * 9)]):
    still = move(still, {"a": {"mean": jnp.full(1, value)}}, jnp.float32(batches), decay=0.6)
    np.testing.assert_allclose(still["a"]["mean"], expected, rtol=1e-6)


def test_first_parameters_have_the_initialisers_scales():
  params, extra = speaker_objective.init(MODULE, jax.random.key(0))
  again, _ = speaker_objective.init(MODULE, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, params, again)
  local = unbox(params)["encoder"]["block_0_layer_0"]["local"]["kernel"]
  assert float(local.std()) == pytest.approx((3 * 16) ** -0.5, rel=0.2)
  assert set(extra) == {"batches", "norms"}
