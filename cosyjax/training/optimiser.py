"""Adam and AdamW with clipping, and three learning-rate schedules."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cosyjax.errors import ConfigError

SCHEDULES = ("constant", "cosine", "inverse_sqrt")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """How parameters follow gradients.

  Attributes:
    learning_rate: the peak, reached at the end of the warm-up.
    schedule: one of `SCHEDULES`, after the warm-up.
    warmup: steps of linear rise. The first step has rate `learning_rate / warmup`.
    final: of the cosine schedule, the share of the rate that is left at the last step.
    b1, b2, eps: of Adam (Kingma and Ba 2015).
    weight_decay: decoupled (Loshchilov and Hutter 2019), on kernels only: no norms, biases,
      embeddings. 0 is plain Adam.
    clip: greatest norm of the whole gradient; 0 does not clip.
    accumulate: microbatches per step.
    ema: decay of the moving average of parameters; 0 keeps none.
  """

  learning_rate: float = 1e-3
  schedule: str = "constant"
  warmup: int = 0
  final: float = 0.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip: float = 5.0
  accumulate: int = 1
  ema: float = 0.0

  def __post_init__(self):
    wrong = []
    if self.schedule not in SCHEDULES:
      wrong.append(f"schedule: expected one of {', '.join(SCHEDULES)}, found {self.schedule!r}")
    if self.accumulate < 1:
      wrong.append(f"accumulate: expected 1 or more, found {self.accumulate}")
    for name in ("learning_rate", "warmup", "weight_decay", "clip", "eps"):
      if not getattr(self, name) >= 0:
        wrong.append(f"{name}: expected 0 or more, found {getattr(self, name)}")
    for name in ("b1", "b2", "ema"):
      if not 0 <= getattr(self, name) < 1:
        wrong.append(f"{name}: expected 0 to below 1, found {getattr(self, name)}")
    if not 0 <= self.final <= 1:
      wrong.append(f"final: expected 0 to 1, found {self.final}")
    if wrong:
      raise ConfigError("optim." + "; optim.".join(wrong))


def learning_rate(c: OptimConfig, steps: int) -> optax.Schedule:
  """Rate as a function of the number of updates made so far (0 for the first), float32.

  Args:
    c: peak, warm-up and form.
    steps: length of the run, where the cosine ends.
  """

  first = max(c.warmup, 1)
  after = {
    "constant": optax.constant_schedule(c.learning_rate),
    "cosine": optax.cosine_decay_schedule(c.learning_rate, max(steps - 1 - c.warmup, 1), c.final),
    "inverse_sqrt": lambda n: c.learning_rate * jnp.sqrt(first / jnp.maximum(n + c.warmup + 1.0, first)),
  }[c.schedule]
  if c.warmup > 1:
    rise = optax.linear_schedule(c.learning_rate / c.warmup, c.learning_rate, c.warmup - 1)
    joined = optax.join_schedules([rise, after], [c.warmup])
  else:
    joined = optax.join_schedules([optax.constant_schedule(c.learning_rate), after], [c.warmup])
  return lambda count: jnp.asarray(joined(jnp.asarray(count)), jnp.float32)


def make_optimiser(
  c: OptimConfig, steps: int, rate: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
  """Clip, Adam, decay, rate: an optax chain whose state is zeros and counts only.

  `rate` takes the place of the schedule: a transformation that makes steps of directions.

  `update(grads, state, params, finite=True)`: where `finite` is false the new state is the old one, and the
  updates are not to be used. The question is asked where moments are made: asked afterwards, it would keep
  old and new moments alive at once, and cost a pass over each.
  """
  parts = [_clip(c.clip)] if c.clip else []
  parts.append(_scale_by_adam(c.b1, c.b2, c.eps))
  if c.weight_decay:
    parts.append(optax.add_decayed_weights(c.weight_decay, mask=decayed))
  return optax.chain(*parts, _scale_by_rate(learning_rate(c, steps)) if rate is None else rate)


def written(tree: Any) -> Any:
  """The same arrays; on CPUs, made before whatever reads them is.

  XLA fuses what makes moments into what reads them, too. Accelerators then write parameters and moments in one pass.
  On CPUs that takes a pass each, all of which read the old moments, so that these are copied before one of the
  passes may overwrite them.
  """
  return jax.lax.platform_dependent(tree, cpu=jax.lax.optimization_barrier, default=lambda tree: tree)


def _clip(limit: float) -> optax.GradientTransformation:
  """Gradients times one number, which the passes that read them apply on their way."""

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    norm = optax.global_norm(grads)
    scale = jnp.where(norm > limit, limit / norm, 1.0)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
  """Adam's direction (Kingma and Ba 2015, algorithm 1)."""

  def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None, *, finite: Any = True, **_: Any):
    move = lambda old, new: jnp.where(finite, new, old)
    count = move(state.count, optax.safe_increment(state.count))
    mu = jax.tree.map(lambda m, g: move(m, b1 * m + (1.0 - b1) * g), state.mu, grads)
    nu = jax.tree.map(lambda v, g: move(v, b2 * v + (1.0 - b2) * jnp.square(g)), state.nu, grads)
    mu, nu = written((mu, nu))
    n = jnp.maximum(count, 1).astype(jnp.float32)
    unbias_1, unbias_2 = 1.0 / (1.0 - b1**n), 1.0 / (1.0 - b2**n)
    direction = jax.tree.map(lambda m, v: m * unbias_1 / (jnp.sqrt(v * unbias_2) + eps), mu, nu)
    return direction, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformationExtraArgs(optax.scale_by_adam(b1, b2, eps).init, update)


def _scale_by_rate(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
  """Steps against the gradient, as long as the schedule says after the updates made so far."""

  def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None, *, finite: Any = True, **_: Any):
    step = -rate(state.count)
    count = jnp.where(finite, optax.safe_increment(state.count), state.count)
    return jax.tree.map(lambda u: u * step.astype(u.dtype), updates), optax.ScaleByScheduleState(count)

  return optax.GradientTransformationExtraArgs(optax.scale_by_schedule(rate).init, update)


def decayed(params: Any) -> Any:
  """Tree of bool: which parameters weight decay applies to.

  Kernels, by their path: no norm, bias or embedding, and nothing of one axis (slopes,
  moving offsets). A leading axis of stacked layers does not count.
  """

  def rule(path: tuple, leaf: Any) -> bool:
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    names = [name for name in names if name != "value"]  # boxes around parameters
    axes = len(leaf.shape) - ("layers" in names)
    plain = names[-1] in ("bias", "scale", "embedding") or "bias" in names[-1]
    return axes > 1 and not plain and not any("norm" in name or "embedding" in name for name in names)

  return jax.tree_util.tree_map_with_path(rule, params)
