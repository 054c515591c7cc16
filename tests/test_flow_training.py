"""Training of the flow: what is drawn, the objective, and the layout of training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as config_lib
from cosyjax.errors import ConfigError
from cosyjax.flow import flow_objective
from cosyjax.flow.flow_model import Flow, init_arguments, stack, unstack
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.layers.basic import unbox
from tests.test_flow import converted, last

U, BINS = 14, 80
QUICK = {"xla_backend_optimization_level": "0"}  # compiling is nearly all of the time


def small() -> config_lib.FlowConfig:
  """One layer of everything but the UNet's middle."""
  config = config_lib.tiny().flow
  encoder = dataclasses.replace(config.encoder, width=16, ffn=16, heads=2, layers=1, up_layers=1)
  unet = dataclasses.replace(config.estimator, channels=16, transformer_layers=1, mid_layers=2)
  return dataclasses.replace(config, token_width=8, encoder=encoder, estimator=unet)


def shapes(model):
  return unbox(jax.eval_shape(lambda key: model.init(key, *init_arguments(model.config))["params"], jax.random.key(0)))


@pytest.fixture(scope="module")
def pair():
  """(model, parameters) with separate layers, and the same for training."""
  config, rng = small(), np.random.default_rng(0)
  plain, stacked = Flow(config), Flow(config, training=True, remat="full")
  params = jax.tree.map(lambda x: rng.normal(scale=0.1, size=x.shape).astype(np.float32), shapes(plain))
  return (plain, params), (stacked, stack(params))


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(1)
  return {
    "tokens_BU": rng.integers(0, 6561, (3, U)).astype(np.int32),
    "token_lengths_B": np.array([U, 9, 0], np.int32),
    "mel_BTM": rng.normal(size=(3, 2 * U, BINS)).astype(np.float32),
    "speaker_BE": rng.normal(size=(3, 24)).astype(np.float32),
  }


def differentiate(model):
  """(parameters, batch, draws) -> ((total, loss), gradients)."""

  def total(params, batch, draws):
    loss = flow_objective.objective(model, params, batch, draws)
    return loss.total, loss

  return jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)


@pytest.fixture(scope="module")
def gradients(pair):
  return differentiate(pair[1][0])


@functools.partial(jax.jit, static_argnames="c")
def draw(key, lengths, c):
  return flow_objective.draw(key, lengths, 2 * U, BINS, c)


def draws_of(batch, **options):
  return draw(jax.random.key(0), 2 * batch["token_lengths_B"], FlowObjective(**options))


def test_both_losses_of_the_reference(golden, release):
  model, params = converted(release)
  g = golden("flow_loss")
  lengths = g["lengths"].astype(np.int32)
  draws = flow_objective.Draws(
    mask_B=jnp.zeros(2, jnp.int32), kept_B=jnp.zeros(2, jnp.int32), keep_B=jnp.ones(2, bool), t_B=g["t"],
    noise_BTM=last(g["z"]),
  )  # fmt: skip

  def predict(x, cond, t, blocks, keep):
    # The file gives mu, the projected speaker and the reference frames as they are, for the velocity alone.
    blocks = jnp.repeat(blocks, 2, axis=1)
    args = (last(g["mu"]), g["spk"], last(g["cond"]), t, lengths, blocks)
    return model.apply({"params": params}, x, *args, method=model.velocity)

  @jax.jit
  def both():
    sums = (
      flow_objective.differences(
        predict,
        last(g["x1"]),
        lengths,
        draws,
        kind,
        chunk=model.config.chunk,
        frames_per_token=2,
        sigma_min=model.config.sigma_min,
      )
      for kind in ("l1", "squared")
    )
    return [jnp.sum(total) / jnp.sum(count) for total, count in sums]

  np.testing.assert_allclose(both(), [g["l1"], g["mse"]], atol=1e-4)


def test_the_stacked_layout_has_the_same_loss(pair, gradients, batch):
  (plain, params), (model, stacked) = pair
  assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, shapes(model))
  jax.tree.map(np.testing.assert_array_equal, unstack(stacked), params)
  draws = draws_of(batch)
  loss = jax.jit(lambda *args: flow_objective.objective(plain, *args), compiler_options=QUICK)(params, batch, draws)
  (value, _), _ = gradients(stacked, batch, draws)
  np.testing.assert_allclose(value, loss.total, rtol=1e-5)
  assert float(loss.weight) == 2 * (U + 9) * BINS
  for i in (0, 1):
    np.testing.assert_allclose(sum(m[i] for m in loss.metrics.values()), loss[i], rtol=1e-5)


@pytest.mark.long
def test_the_stacked_layout_has_the_same_gradients(pair, gradients, batch):
  (plain, params), (_, stacked) = pair
  _, expected = differentiate(plain)(params, batch, draws_of(batch))
  _, found = gradients(stacked, batch, draws_of(batch))
  scale = max(float(np.abs(g).max()) for g in jax.tree.leaves(expected))
  for a, b in zip(jax.tree.leaves(unstack(found)), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_padding_and_empty_rows_count_nothing(pair, gradients, batch):
  _, (_, stacked) = pair
  draws = draws_of(batch)
  other = {name: np.array(x) for name, x in batch.items()}
  other["mel_BTM"][1, 18:], other["mel_BTM"][2] = 50.0, -50.0
  other["tokens_BU"][1, 9:], other["tokens_BU"][2] = 3, 4
  noise = draws.noise_BTM.at[1, 18:].set(9.0)
  (value, _), grads = gradients(stacked, batch, draws)
  (value_other, _), grads_other = gradients(stacked, other, draws.replace(noise_BTM=noise))
  np.testing.assert_allclose(value_other, value, rtol=1e-6)
  scale = max(float(np.abs(g).max()) for g in jax.tree.leaves(grads))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), grads_other, grads)


def test_dropped_rows_lose_their_conditions(pair, gradients, batch):
  """No row keeps its conditions: neither speaker nor tokens have a gradient, the UNet has."""
  _, (_, stacked) = pair
  draws = draws_of(batch, drop=1.0)
  assert not np.any(draws.keep_B)
  (value, _), grads = gradients(stacked, batch, draws)
  for name in ("speaker", "encoder", "token_embedding", "to_mel"):
    for leaf in jax.tree.leaves(grads[name]):
      np.testing.assert_array_equal(leaf, 0)
  assert float(np.abs(grads["unet"]["down_conv"]["conv"]["kernel"]).max()) > 0
  (kept, _), grads = gradients(stacked, batch, draws.replace(keep_B=jnp.ones(3, bool)))
  assert abs(float(kept - value)) > 1e-3 and float(np.abs(grads["speaker"]["kernel"]).max()) > 0


def test_masks_are_the_blocks_of_the_paper():
  blocks = jax.jit(flow_objective.blocks_of, static_argnums=(1, 2))(jnp.arange(4), 7, 3)
  expected = [[0] * 7, list(range(7)), [0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0, 1]]
  np.testing.assert_array_equal(blocks, expected)


def test_draws_follow_their_distributions():
  lengths = np.full(4000, 200)
  lengths[:10] = 0
  many = jax.jit(lambda key, c: flow_objective.draw(key, lengths, 1, 1, c), static_argnums=1, compiler_options=QUICK)
  paper, released = (
    jax.tree.map(np.asarray, many(jax.random.key(0), c))
    for c in (FlowObjective(), FlowObjective(masks=(1.0, 0.0, 1.0, 0.0), bare=0.5))
  )
  np.testing.assert_allclose(np.bincount(paper.mask_B, minlength=4) / 4000, 0.25, atol=0.03)
  assert paper.keep_B.mean() == pytest.approx(0.8, abs=0.03)
  assert paper.t_B.mean() == pytest.approx(0.5, abs=0.02) and paper.t_B.min() >= 0 and paper.t_B.max() < 1
  assert paper.kept_B.min() == 0 and 57 <= paper.kept_B.max() <= 60
  assert paper.kept_B[10:].mean() == pytest.approx(30, abs=1) and not np.any(paper.kept_B[:10])
  assert paper.noise_BTM.std() == pytest.approx(1, abs=0.05)
  assert set(np.unique(released.mask_B)) == {0, 2}
  assert (released.kept_B[10:] == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_fixed_draws_differ_in_their_mask_alone():
  fixed = jax.jit(lambda mask: flow_objective.fixed_draws(jax.random.key(5), jnp.array([20, 12, 8, 4]), 20, 3, mask))
  one, two = fixed(0), fixed(3)
  assert np.all(two.mask_B == 3) and not np.any(one.mask_B)
  jax.tree.map(np.testing.assert_array_equal, one.replace(mask_B=two.mask_B), two)
  assert np.all(one.keep_B)
  assert sorted((np.asarray(one.t_B) * 4).astype(int).tolist()) == [0, 1, 2, 3]  # one in each quarter


@pytest.mark.parametrize(
  "wrong", [{"kind": "huber"}, {"masks": (1.0, 1.0)}, {"masks": (0.0,) * 4}, {"kept": (0.5, 0.2)}, {"drop": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
  with pytest.raises(ConfigError, match=next(iter(wrong))):
    FlowObjective(**wrong)
