"""Eight devices against one, with the steps of the vocoder and of the flow (the LM: `test_train_step.py`)."""

import dataclasses

import jax
import numpy as np
import pytest

from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.flow import flow_objective
from cosyjax.flow.flow_model import Flow, init_arguments
from cosyjax.sharding import make_mesh, put_batch
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.step import make_update
from cosyjax.training.train_state import abstract_state, create_state, state_shardings
from cosyjax.vocoder import gan_step
from tests import test_train_vocoder as small
from train import runtime

OPTIM = OptimConfig(learning_rate=1e-3)


def vocoder():
  """(mesh -> state, update, shardings; number -> batch)."""
  # Compiling is nearly all of the time: one kind of discriminator, and one mel
  model, judges, transforms, optims, steps = small._parts(OPTIM, dataclasses.replace(small.JUDGES, spectra=()))
  objective = gan_step.Objective(mel_scales=gan_step.Objective().mel_scales[:1])
  inits = small.inits(model, judges)
  abstract = {name: abstract_state(inits[name], transforms[name], optims[name]) for name in inits}

  def start(mesh):
    shardings = {name: state_shardings(abstract[name], mesh) for name in abstract}
    made = {name: create_state(inits[name], transforms[name], optims[name], mesh, jax.random.key(0)) for name in inits}
    updates = gan_step.make_updates(model, judges, objective, transforms, optims, steps, shardings=shardings)
    return made, updates[1], shardings

  return start, small._batch


def flow():
  """(mesh -> state, update, shardings; number -> batch)."""
  c = FlowConfig(
    token_width=16,
    speaker_dim=24,
    codebook_size=27,
    encoder=FlowEncoderConfig(width=16, heads=8, ffn=16, layers=1, up_layers=1),
    estimator=UNetConfig(channels=16, heads=8, head_dim=8, transformer_layers=1, mid_layers=1),
  )
  model, objective, tx = Flow(c, training=True), flow_objective.FlowObjective(), make_optimiser(OPTIM, 100)
  init = lambda key: model.init(key, *init_arguments(c))["params"]
  abstract = abstract_state(init, tx, OPTIM)

  def loss_fn(params, batch, key, extra):
    draws = flow_objective.draw(key, 2 * batch["token_lengths_B"], batch["mel_BTM"].shape[1], 80, objective)
    return flow_objective.objective(model, params, batch, draws, objective.kind)

  def start(mesh):
    shardings = state_shardings(abstract, mesh)
    made = create_state(init, tx, OPTIM, mesh, jax.random.key(0))
    return made, make_update(loss_fn, tx, OPTIM, 100, shardings), shardings

  def batch(n):
    rng = np.random.default_rng(n)
    return {
      "tokens_BU": rng.integers(0, 27, (8, 12)).astype(np.int32),
      "key": np.array([n, 1], np.uint32),
      "token_lengths_B": rng.integers(6, 13, 8).astype(np.int32),
      "mel_BTM": rng.normal(size=(8, 24, 80)).astype(np.float32),
      "speaker_BE": rng.normal(size=(8, 24)).astype(np.float32),
    }

  return start, batch


@pytest.mark.long
@pytest.mark.parametrize("net", [vocoder, flow])
def test_eight_devices_give_the_losses_of_one(net):
  start, batch = net()
  losses = {}
  for shape in [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8)]:
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    state, update, shardings = start(mesh)
    size = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
    held, losses[shape] = size(state), []
    if shape == (1, 1, 1):
      whole = held
    print(shape, "holds", held / whole, flush=True)
    assert held < (0.6 if shape[1] * shape[2] > 1 else 1.01) * whole, shape  # parameters and moments are spread
    for n in range(3):
      given = put_batch(batch(n), mesh)
      with runtime.no_copies():
        state, metrics = update(state, given)
      names = [name for name in sorted(metrics) if not name.endswith("grad_norm")]
      losses[shape].append([float(metrics[name]) for name in names])
    assert update._cache_size() == 1
    assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, state, shardings)))
    far = np.max(np.abs(np.array(losses[shape]) - np.array(losses[1, 1, 1])), axis=0)
    print({name: (value, off) for name, value, off in zip(names, losses[shape][-1], far.tolist(), strict=True)})
  for shape, found in losses.items():
    np.testing.assert_allclose(found, losses[1, 1, 1], rtol=1e-5, atol=1e-5, err_msg=str((shape, names)))
