"""A flow of few steps without guidance, learned from one of many steps with it.

The student follows its own path: from noise by its few Euler steps. After each it should be where the teacher is after
its share of steps, from the same noise and under the same conditions (progressive distillation, Salimans and Ho 2022,
arXiv:2202.00512, with the guidance distilled as well, Meng et al. 2023, arXiv:2210.03142; several halvings at once, and
on the student's own path, so that its second step learns to start where its first one ends).
"""

from typing import Any

import jax
import jax.numpy as jnp

from cosyjax.errors import ConfigError
from cosyjax.flow import matching
from cosyjax.flow.flow_model import Flow
from cosyjax.flow.flow_objective import MASKS, Draws, blocks_of
from cosyjax.layers.masks import padding_mask, repeat_blocks
from cosyjax.training.step import Loss


def check_steps(few: int, many: int) -> int:
  """Teacher's steps to one of the student's.

  Raises:
    ConfigError: the student's steps do not divide the teacher's, so that their times never meet.
  """
  if few < 1 or many % few or many == few:
    raise ConfigError(f"distil: expected steps that divide the teacher's {many}, found {few}")
  return many // few


def objective(
  model: Flow,
  params: Any,
  teacher: Any,
  batch: dict[str, jax.Array],
  draws: Draws,
  *,
  few: int,
  many: int,
  guidance: float,
) -> Loss:
  """Mean absolute difference of mel between student and teacher after each of the student's steps.

  Args:
    model: with `training=True` and stacked parameters, or without; student and teacher alike.
    params: of the student.
    teacher: parameters; no gradient goes there.
    batch: `tokens_BU`, `token_lengths_B`, `mel_BTM` (of which only the kept reference is read) and `speaker_BE`.
    draws: of `flow_objective.draw`; times and dropped conditions are not asked.
    few: the student's steps.
    many: the teacher's, a multiple.
    guidance: the teacher's.

  Returns:
    Sums over all valid numbers; the metrics are those of each mask's rows, and "last", of the last step alone.
  """
  share, c = check_steps(few, many), model.config
  teacher = jax.lax.stop_gradient(teacher)
  mel_BTM, tokens = batch["mel_BTM"], batch["tokens_BU"].shape[1]
  lengths_B = c.frames_per_token * batch["token_lengths_B"]
  blocks_BU = blocks_of(draws.mask_B, tokens, c.chunk)
  blocks_BT = repeat_blocks(blocks_BU, c.frames_per_token)
  cond_BTM = jnp.where(padding_mask(draws.kept_B, mel_BTM.shape[1])[..., None], mel_BTM, 0.0)

  def conditions(weights: Any) -> tuple[jax.Array, jax.Array]:
    apply = lambda *args, method: model.apply({"params": weights}, *args, method=method)
    mu_BTM = apply(batch["tokens_BU"], batch["token_lengths_B"], blocks_BU, method=Flow.encode)
    return mu_BTM, apply(batch["speaker_BE"], method=Flow.project_speaker)

  def velocity(weights: Any, *args: jax.Array) -> jax.Array:
    return model.apply({"params": weights}, *args, method=Flow.velocity)

  taught = (*conditions(teacher), cond_BTM)
  nothing = tuple(jnp.zeros_like(x) for x in taught)

  def guided(x_BTM: jax.Array, t_B: jax.Array) -> jax.Array:
    one, other = (velocity(teacher, x_BTM, *by, t_B, lengths_B, blocks_BT) for by in (taught, nothing))
    return matching.guided(one, other, guidance)

  times, own = matching.schedule(many), (*conditions(params), cond_BTM)
  x_BTM = goal_BTM = draws.noise_BTM
  differences = []
  for step in range(few):
    part = times[step * share : (step + 1) * share + 1]
    goal_BTM = jax.lax.stop_gradient(matching.euler(guided, goal_BTM, part))
    start_B = jnp.full(x_BTM.shape[:1], part[0], jnp.float32)
    x_BTM = x_BTM + (part[-1] - part[0]) * velocity(params, x_BTM, *own, start_B, lengths_B, blocks_BT)
    differences.append(matching.row_sums(x_BTM, goal_BTM, lengths_B))
    x_BTM = jax.lax.stop_gradient(x_BTM)
  sums_B, counts_B = (sum(each[i] for each in differences) for i in range(2))
  of = lambda x_B, i: jnp.sum(jnp.where(draws.mask_B == i, x_B, 0.0))
  metrics = {name: (of(sums_B, i), of(counts_B, i)) for i, name in enumerate(MASKS)}
  metrics["last"] = tuple(jnp.sum(x_B) for x_B in differences[-1])
  return Loss(jnp.sum(sums_B), jnp.sum(counts_B), metrics)
