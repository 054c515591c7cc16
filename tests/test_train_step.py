"""The update step: microbatches, non-finite steps, moving average, keys; the same on eight devices as on one."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config
from cosyjax.errors import CheckpointError, ConfigError, TrainingError
from cosyjax.layers.basic import dense, embed
from cosyjax.layers.constrain import shard_rows
from cosyjax.lm.loss import token_log_probs
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.sharding import batch_sharding, make_mesh, mesh_shape, process_share, put_batch
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.step import Loss, make_update
from cosyjax.training.train_state import (
  abstract_state,
  create_state,
  replace_params,
  state_shardings,
  with_shardings,
)
from train import runtime

NET = dense(3, ("embed", "mlp"))
STEPS = 20


def init(key):
  return NET.init(key, jnp.zeros((1, 4)))["params"], {"seen": jnp.zeros(())}


def loss_fn(params, batch, key, extra):
  """Squared error over valid rows; NaN where the batch says so."""
  error = jnp.sum(jnp.square(NET.apply({"params": params}, batch["x"]) - batch["y"]), axis=-1) * batch["valid"]
  rows = jnp.sum(batch["valid"])
  drawn = jax.random.uniform(key)
  total = jnp.sum(error) + jnp.sum(batch["poison"])
  return Loss(total, rows, {"drawn": (drawn, jnp.float32(1)), "worst": (jnp.max(error), jnp.float32(1))},
              {"seen": extra["seen"] + rows})  # fmt: skip


def batch(n, poison=0.0):
  rng = np.random.default_rng(n)
  x, y = rng.normal(size=(8, 4)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
  valid = np.array([1, 1, 1, 0, 1, 1, 0, 0], np.float32)
  return {"x": x, "y": y, "valid": valid, "poison": np.full(8, poison, np.float32), "key": np.array([n, 7], np.uint32)}


def start(**settings):
  c = OptimConfig(**{"learning_rate": 0.1, "clip": 0.0} | settings)
  tx = make_optimiser(c, STEPS)
  mesh = make_mesh(devices=jax.devices()[:1])
  state = create_state(init, tx, c, mesh, runtime.make_key(0, "params"))
  update = make_update(loss_fn, tx, c, STEPS)
  return state, lambda state, b: update(state, put_batch(b, mesh))


def values(tree):
  return jax.tree.map(np.array, tree)


def test_microbatches_give_the_step_of_the_whole_batch():
  found = {}
  for count in (1, 2, 4):
    state, update = start(accumulate=count)
    for n in range(3):
      state, metrics = update(state, batch(n))
    found[count] = values((state.params, state.extra, metrics["loss"], metrics["grad_norm"]))
  for count in (2, 4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[count], found[1])
  assert float(found[4][1]["seen"]) == 15
  with pytest.raises(ConfigError, match="accumulate: 3 microbatches do not divide the 8 rows"):
    start(accumulate=3)[1](start()[0], batch(0))


def test_metrics_keys_average_and_a_step_that_is_not_finite():
  state, update = start(ema=0.5, warmup=2)
  before = values(state)
  assert jax.tree.all(jax.tree.map(np.array_equal, before.ema, before.params))
  state, metrics = update(state, batch(0))
  first = values(state)
  expected = before.params["kernel"] * 0.5 + first.params["kernel"] * 0.5
  np.testing.assert_allclose(first.ema["kernel"], expected, atol=1e-6)
  assert set(metrics) == {"loss", "drawn", "worst", "grad_norm", "learning_rate", "bad", "skipped"}
  assert all(m.dtype == jnp.float32 and m.shape == () for m in metrics.values())
  np.testing.assert_allclose(metrics["learning_rate"], 0.05)
  np.testing.assert_allclose(
    metrics["drawn"], jax.random.uniform(jax.random.wrap_key_data(jnp.array([0, 7], jnp.uint32)))
  )
  b = batch(0)
  error = np.sum(np.square(b["x"] @ before.params["kernel"] + before.params["bias"] - b["y"]), axis=-1) * b["valid"]
  np.testing.assert_allclose(metrics["loss"], error.sum() / 5, rtol=1e-5)

  for n, poison in enumerate((np.nan, np.inf)):
    state, metrics = update(state, batch(1, poison))
    assert (float(metrics["bad"]), float(metrics["skipped"])) == (n + 1, n + 1)
  after = values(state)
  for name in ("params", "opt_state", "ema", "extra", "key"):  # bit for bit as they were
    assert jax.tree.all(jax.tree.map(np.array_equal, getattr(after, name), getattr(first, name))), name
  assert int(after.step) == 3
  state, metrics = update(state, batch(1))
  assert (float(metrics["bad"]), float(metrics["skipped"])) == (0, 2)
  np.testing.assert_allclose(metrics["learning_rate"], 0.1)  # the second update that was made, not the fourth step
  assert not np.array_equal(values(state).params["kernel"], after.params["kernel"])


def test_ten_bad_steps_end_a_run():
  runtime.check_bad({"loss": float("nan"), "bad": 9.0})
  with pytest.raises(TrainingError, match="10 steps in a row at step 70"):
    runtime.check_bad({"generator/bad": 10.0}, 70)


def test_starting_from_given_weights():
  state, update = start(ema=0.5)
  state, _ = update(state, batch(0))
  params = {"kernel": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)}
  state = replace_params(state, params)
  assert int(state.step) == 0 and not any(np.any(x) for x in jax.tree.leaves(state.opt_state))
  np.testing.assert_array_equal(state.ema["kernel"], 1.0)
  update(state, batch(0))  # donates: params and average must not share buffers
  with pytest.raises(CheckpointError, match=r"kernel'\]: expected \(4, 3\), found \(3, 4\)"):
    replace_params(start()[0], params | {"kernel": np.ones((3, 4))})


def test_mesh_sizes():
  assert mesh_shape(-1, 2, 2, 8) == (2, 2, 2) and mesh_shape(8, 1, 1, 8) == (8, 1, 1)
  for wrong in ((-1, -1, 1), (3, -1, 1), (2, 2, 1), (0, 1, 1), (-1, 16, 1)):
    with pytest.raises(ConfigError, match="mesh data="):
      mesh_shape(*wrong, 8)


class Toy(nn.Module):
  """A stand-in for the LM, of the same signature, which compiles in a second."""

  @nn.compact
  def __call__(self, ids_BL, token_types_BL, lengths_B):
    x = embed(64, 64, ("vocab", "embed"), name="text_embedding")(ids_BL) + token_types_BL[..., None]
    assert jax.sharding.get_abstract_mesh().empty == self.is_initializing()  # a step is traced under its mesh
    x = shard_rows(x)
    x = jnp.tanh(dense(128, ("embed", "mlp"), name="up")(x))
    return dense(64, ("mlp", "embed"), name="down")(x)


def tokens(n):
  rng = np.random.default_rng(n)
  draw = lambda high: rng.integers(0, high, (8, 16)).astype(np.int32)
  return {"ids_BL": draw(60), "token_types_BL": draw(2), "targets_BL": draw(62) - 1,
          "lengths_B": rng.integers(8, 17, 8).astype(np.int32), "key": np.array([n, 1], np.uint32)}  # fmt: skip


@pytest.mark.parametrize("net", ["toy", pytest.param("lm", marks=pytest.mark.long)])
def test_eight_devices_give_the_losses_of_one(net):
  shapes, lm = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8)], Toy()
  if net == "lm":
    shapes.append((2, 2, 2))
    sizes = dataclasses.replace(config.tiny().lm, speech_vocab=config.SpeechVocab(61), layers=1, text_vocab=64, heads=8)
    lm = TextSpeechLM(sizes)
  ids = jnp.zeros((1, 8), jnp.int32)
  init = lambda key: lm.init(key, ids, ids, jnp.array([8]))["params"]

  def loss_fn(params, batch, key, extra):
    logits = lm.apply({"params": params}, batch["ids_BL"], batch["token_types_BL"], batch["lengths_B"])
    drop = jax.random.bernoulli(key, 0.2, batch["targets_BL"].shape)  # drawn for the whole batch from one key
    targets = jnp.where(drop, -1, batch["targets_BL"])
    return Loss(-jnp.sum(token_log_probs(logits, targets)), jnp.sum(targets >= 0).astype(jnp.float32))

  c = OptimConfig(learning_rate=3e-3, ema=0.9, weight_decay=0.01)
  tx = make_optimiser(c, 8)
  abstract = abstract_state(init, tx, c)
  losses = {}
  for shape in shapes:
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    assert process_share(mesh) == (0, 1)
    shardings = state_shardings(abstract, mesh)
    state = create_state(init, tx, c, mesh, jax.random.key(0))
    whole, biggest = 0, 0
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
      assert x.sharding == s
      whole += x.nbytes
      biggest += x.addressable_shards[0].data.nbytes
    # Parameters, both moments and the average are spread: what remains whole is norms, biases, counts
    spread = shape[1] * shape[2]
    assert biggest < whole / spread + 0.16 * whole, (shape, biggest, whole)
    moments = jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, dict))
    for tree in (state.params, state.ema, *[s for s in moments if isinstance(s, dict)]):
      table = tree["text_embedding"]["embedding"]
      assert table.addressable_shards[0].data.shape == (64 // shape[2], 64 // shape[1]), shape
    update = make_update(loss_fn, tx, c, 8, shardings)
    losses[shape] = []
    for n in range(3):
      given = put_batch(tokens(n), mesh)
      assert given["ids_BL"].sharding == batch_sharding(mesh) and given["key"].is_fully_replicated
      assert given["ids_BL"].addressable_shards[0].data.shape[0] == 8 // (shape[0] * shape[1])
      old = state
      with runtime.no_copies():
        state, metrics = update(state, given)
      assert old.params["text_embedding"]["embedding"].is_deleted()  # donated
      losses[shape].append([float(metrics["loss"]), float(metrics["grad_norm"])])
    assert update._cache_size() == 1
    assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, state, shardings)))
    wanted = with_shardings(abstract, mesh)
    assert jax.tree.structure(wanted) == jax.tree.structure(state)
  for shape, found in losses.items():
    found, wanted = np.array(found), np.array(losses[1, 1, 1])
    np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=0, atol=1e-5, err_msg=str(shape))  # losses
    np.testing.assert_allclose(found[:, 1], wanted[:, 1], rtol=1e-5, err_msg=str(shape))  # norms of gradients
