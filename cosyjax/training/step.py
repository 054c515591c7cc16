"""The update step: gradients over microbatches, one optimiser step, and a guard against non-finite numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cosyjax.errors import ConfigError
from cosyjax.sharding import traced_under
from cosyjax.training.optimiser import OptimConfig, learning_rate, written
from cosyjax.training.train_state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Loss(NamedTuple):
  """What a loss function returns: sums, so that microbatches and devices can be added up.

  Attributes:
    total: float32, sum of the loss over the targets.
    weight: float32, number of targets. The step follows the gradient of total / weight.
    metrics: name -> (sum, weight); what is shown is their quotient.
    extra: the state's `extra` after this batch; None leaves it as it is.
  """

  total: jax.Array
  weight: jax.Array
  metrics: dict[str, tuple[jax.Array, jax.Array]] = {}
  extra: Any = None


LossFn = Callable[[Any, Batch, jax.Array, Any], Loss]  # params, batch, key, extra


def make_update(
  loss_fn: LossFn, tx: optax.GradientTransformation, c: OptimConfig, steps: int, shardings: TrainState | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The jitted step `(state, batch) -> (state, metrics)`. It donates the state.

  A leaf of the batch without rows (`key`) is the same for all; every other leaf has the rows
  as its first axis. The step's key is `batch["key"]` (uint32 [2]), or the state's own folded
  with the step if there is none. With `accumulate` = n > 1 the rows are dealt out to n
  microbatches in turn (row i goes to microbatch i mod n, which keeps every row on its
  device); microbatch i draws from the key folded with i.

  Args:
    loss_fn: `(params, batch, key, extra) -> Loss`; the key is a typed one.
    tx: from `make_optimiser`.
    c: its configuration.
    steps: length of the run, for the rate that is shown.
    shardings: from `state_shardings`. The new state is then laid out exactly like the old
      one, metrics are on every device, and activations lie where `cosyjax.layers.constrain`
      says.

  Returns:
    A jitted function. Metrics are float32 scalars: "loss", those of the loss function,
    "grad_norm" (before clipping), "learning_rate", "bad", "skipped". A step whose loss or
    gradient is not finite changes nothing but `step`, `bad` and `skipped`.
  """

  def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = step_key(state, batch)
    grads, loss = accumulate_gradients(loss_fn, state.params, batch, key, state.extra, c.accumulate)
    value, metrics = summarise(loss)
    state, info = apply_gradients(state, grads, value, tx, c, extra=loss.extra, steps=steps)
    return state, {"loss": value} | metrics | info

  if shardings is None:
    return jax.jit(update, donate_argnums=0)
  mesh = jax.tree.leaves(shardings)[0].mesh
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.jit(traced_under(mesh, update), donate_argnums=0, out_shardings=(shardings, replicated))


def step_key(state: TrainState, batch: Batch) -> jax.Array:
  """The typed key of this step: the batch's, or the state's folded with the step."""
  if "key" in batch:
    return jax.random.wrap_key_data(batch["key"])
  return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def accumulate_gradients(
  loss_fn: LossFn, params: Any, batch: Batch, key: jax.Array, extra: Any, count: int = 1
) -> tuple[Any, Loss]:
  """Gradient of total / weight over the whole batch, and the summed `Loss`.

  Raises:
    ConfigError: the rows of the batch are no multiple of `count`.
  """

  def one(batch: Batch, key: jax.Array, extra: Any) -> tuple[Any, Loss]:
    def total(params: Any) -> tuple[jax.Array, Loss]:
      loss = loss_fn(params, batch, key, extra)
      loss = loss._replace(extra=extra) if loss.extra is None else loss
      # One batch has its weight already: dividing the loss by it saves a pass over the gradients.
      weight = jax.lax.stop_gradient(_positive(loss.weight)) if count == 1 else 1.0
      return loss.total.astype(jnp.float32) / weight, loss

    return jax.grad(total, has_aux=True)(params)

  if count == 1:
    return one(batch, key, extra)
  shared, rows = split_rows(batch, count)

  def body(carry: tuple[Any, Any], item: tuple[Batch, jax.Array]) -> tuple[tuple[Any, Any], Loss]:
    grads, extra = carry
    part, index = item
    more, loss = one(part | shared, jax.random.fold_in(key, index), extra)
    return (jax.tree.map(jnp.add, grads, more), loss.extra), loss._replace(extra=None)

  zeros = jax.tree.map(jnp.zeros_like, params)
  (grads, extra), losses = jax.lax.scan(body, (zeros, extra), (rows, jnp.arange(count)))
  loss = jax.tree.map(lambda x: jnp.sum(x, axis=0), losses)._replace(extra=extra)
  scale = 1.0 / _positive(loss.weight)
  return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads), loss


def split_rows(batch: Batch, count: int) -> tuple[Batch, Batch]:
  """(leaves without rows, leaves with their rows dealt out to `count` microbatches: [count, B / count, ...])."""
  shared = {name: x for name, x in batch.items() if name == "key" or x.ndim == 0}
  out = {}
  for name, x in batch.items():
    if name in shared:
      continue
    if x.shape[0] % count:
      raise ConfigError(f"optim.accumulate: {count} microbatches do not divide the {x.shape[0]} rows of {name!r}")
    out[name] = jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)
  return shared, out


def summarise(loss: Loss) -> tuple[jax.Array, Metrics]:
  """(mean loss, mean of each metric), float32 scalars; 0 where there is no target."""
  mean = lambda total, weight: (total / _positive(weight)).astype(jnp.float32)
  return mean(loss.total, loss.weight), {name: mean(*pair) for name, pair in loss.metrics.items()}


def apply_gradients(
  state: TrainState,
  grads: Any,
  loss: jax.Array,
  tx: optax.GradientTransformation,
  c: OptimConfig,
  *,
  extra: Any = None,
  steps: int | None = None,
) -> tuple[TrainState, Metrics]:
  """One optimiser step, or none if loss or gradient is not finite.

  Args:
    state: before the step.
    grads: of the mean loss, like `state.params`.
    loss: mean loss; only asked whether it is finite.
    tx, c: from `make_optimiser`, and its configuration (moving average).
    extra: the state's new `extra`; None keeps the old one.
    steps: length of the run; with it the metrics have "learning_rate".

  Returns:
    (state, {"grad_norm", "bad", "skipped"} and perhaps "learning_rate").
  """
  norm = optax.global_norm(grads).astype(jnp.float32)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
  updates, opt_state = tx.update(grads, state.opt_state, state.params, finite=finite)
  params = keep(optax.apply_updates(state.params, updates), state.params)
  ema = state.ema
  if ema is not None:
    params = written(params)
    ema = keep(jax.tree.map(lambda old, new: c.ema * old + (1.0 - c.ema) * new, ema, params), ema)
  extra = state.extra if extra is None else extra
  info = {"grad_norm": norm}
  if steps is not None:
    info["learning_rate"] = learning_rate(c, steps)(state.step - state.skipped)
  state = state.replace(
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    ema=ema,
    extra=keep(extra, state.extra),
    bad=jnp.where(finite, 0, state.bad + 1),
    skipped=state.skipped + jnp.where(finite, 0, 1),
  )
  return state, info | {"bad": state.bad.astype(jnp.float32), "skipped": state.skipped.astype(jnp.float32)}


def _positive(weight: jax.Array) -> jax.Array:
  weight = jnp.asarray(weight, jnp.float32)
  return jnp.where(weight > 0, weight, 1.0)
