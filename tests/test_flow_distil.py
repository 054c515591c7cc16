"""A flow of two steps without guidance that learns from one of ten with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.errors import ConfigError
from cosyjax.flow import distil, flow_objective
from cosyjax.flow.flow_model import Flow, init_arguments, stack
from cosyjax.flow.generate import generate
from cosyjax.layers.basic import unbox

CONFIG = FlowConfig(
  codebook_size=27, token_width=8, speaker_dim=6, chunk=2, mel_bins=8, steps=4, guidance=0.7,
  encoder=FlowEncoderConfig(width=8, heads=2, ffn=8, layers=1, up_layers=1),
  estimator=UNetConfig(channels=16, heads=2, head_dim=4, transformer_layers=1, mid_layers=1),
)  # fmt: skip
TAUGHT = {"few": 2, "many": 4, "guidance": 0.7}


@pytest.fixture(scope="module")
def setting():
  model = Flow(CONFIG, training=True)
  teacher = unbox(Flow(CONFIG).init(jax.random.key(0), *init_arguments(CONFIG))["params"])
  rng = np.random.default_rng(0)
  batch = {
    "tokens_BU": rng.integers(0, 27, (3, 6)).astype(np.int32),
    "token_lengths_B": np.asarray([6, 4, 0], np.int32),
    "mel_BTM": rng.normal(size=(3, 12, 8)).astype(np.float32),
    "speaker_BE": rng.normal(size=(3, 6)).astype(np.float32),
  }
  draws = flow_objective.fixed_draws(jax.random.key(1), 2 * batch["token_lengths_B"], 12, 8, 0)
  return model, teacher, batch, draws


def test_what_the_student_is_compared_with_is_what_the_teacher_generates(setting):
  model, teacher, batch, draws = setting
  student = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), teacher)
  few = dataclasses.replace(CONFIG, steps=2, guidance=0.0)

  def mel(config, params):
    lengths_B, mel_BTM = batch["token_lengths_B"], batch["mel_BTM"]
    row = (batch["tokens_BU"], lengths_B, mel_BTM, draws.kept_B, batch["speaker_BE"], draws.noise_BTM)
    return generate(Flow(config), params, *row)

  expected = jnp.sum(jnp.abs(mel(few, student) - mel(CONFIG, teacher)))
  loss = distil.objective(model, stack(student), stack(teacher), batch, draws, **TAUGHT)
  assert float(loss.metrics["last"][0]) == pytest.approx(float(expected), rel=1e-4)
  assert float(loss.weight) == 2 * 20 * 8  # steps, frames, bins
  assert float(loss.total) == pytest.approx(
    sum(float(loss.metrics[name][0]) for name in flow_objective.MASKS), rel=1e-5
  )


@pytest.mark.long
def test_the_student_learns_and_the_teacher_does_not(setting):
  model, teacher, batch, draws = setting
  teacher = stack(teacher)

  @jax.jit
  def value_and_grads(params, teacher):
    def loss(params, teacher):
      found = distil.objective(model, params, teacher, batch, draws, **TAUGHT)
      return found.total / found.weight

    return jax.value_and_grad(loss, argnums=(0, 1))(params, teacher)

  tx = optax.adam(3e-3)
  params, state = teacher, tx.init(teacher)
  first, (_, of_teacher) = value_and_grads(params, teacher)
  assert all(float(jnp.max(jnp.abs(x))) == 0 for x in jax.tree.leaves(of_teacher))
  for _ in range(60):
    value, (grads, _) = value_and_grads(params, teacher)
    updates, state = tx.update(grads, state)
    params = optax.apply_updates(params, updates)
  assert float(value) < 0.5 * float(first)


def test_steps_have_to_divide_the_teachers():
  assert distil.check_steps(2, 10) == 5
  for few in (0, 3, 10):
    with pytest.raises(ConfigError, match="divide the teacher's 10"):
      distil.check_steps(few, 10)
