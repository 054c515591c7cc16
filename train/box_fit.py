"""Training for so many seconds instead of so many steps: the learning rate follows the clock."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cosyjax.layers.basic import unbox
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.step import LossFn, make_update
from cosyjax.training.train_state import TrainState, abstract_state, replace_params

EVERY = 50  # steps between two lines of the log
LOOKS = 5
IN_FLIGHT = 4  # steps that the device may be behind the host


class Rate(NamedTuple):
  """State of `by_rate`: the learning rate of the next step, set by the loop."""

  rate: jax.Array


def by_rate() -> optax.GradientTransformationExtraArgs:
  """Steps of the length that the state says."""
  init = lambda params: Rate(jnp.zeros((), jnp.float32))

  def update(updates: Any, state: Rate, params: Any = None, **_: Any) -> tuple[Any, Rate]:
    return jax.tree.map(lambda u: -u * state.rate.astype(u.dtype), updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def rate_at(c: OptimConfig, share: float, step: int) -> float:
  """Learning rate when `share` of the time is over: a linear rise by steps, then a cosine by the clock."""
  rise = min((step + 1) / max(c.warmup, 1), 1.0)
  fall = c.final + (1 - c.final) * 0.5 * (1 + np.cos(np.pi * min(max(share, 0.0), 1.0)))
  return float(c.learning_rate * rise * fall)


@dataclasses.dataclass
class Fit:
  """One network's training, made ready before its data is there.

  Attributes:
    name: of the stage, in the log.
    optim: rate, warm-up, moving average, clipping; its schedule is not asked.
    updates: the compiled step for each shape of a batch.
    tx, abstract: of the state.
    init: key -> (boxed) parameters.
  """

  name: str
  optim: OptimConfig
  init: Callable[[jax.Array], Any]
  tx: Any
  abstract: TrainState
  updates: dict[Any, Any]

  @classmethod
  def prepare(
    cls, name: str, loss_fn: LossFn, init: Callable[[jax.Array], Any], optim: OptimConfig, shapes: list[dict[str, Any]]
  ) -> "Fit":
    """Compiles the step for batches of each of these shapes. Any thread may call."""
    tx = make_optimiser(optim, 1, by_rate())
    abstract = unbox(abstract_state(init, tx, optim))
    update = make_update(loss_fn, tx, optim, 1)
    updates = {_shape_of(batch): update.lower(abstract, batch).compile() for batch in shapes}
    return cls(name, optim, init, tx, abstract, updates)

  def state(self, seed: int, params: Any | None = None) -> TrainState:
    """A fresh state, or one that starts from given parameters of the same shapes."""
    return fresh_state(self.init, self.abstract, seed, params)

  def run(
    self,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    seconds: float,
    log: "Journal",
    look: Callable[[Any], dict[str, float]] | None = None,
    keep: str = "",
  ) -> TrainState:
    """Steps until the time is over; returns the state, its average that of the best look if `keep` names a figure.

    Args:
      state: of `state`.
      batches: as `cosyjax.data.batches` gives them.
      seconds: from the first step on.
      log: gets a line every `EVERY` steps.
      look: measures the averaged parameters, `LOOKS` times and at the end.
      keep: the figure of `look` of which the lowest is best.
    """
    begin, step, looks, waiting = time.monotonic(), 0, 1, []
    best, lowest = None, float("inf")
    copy = lambda tree: jax.tree.map(jnp.array, tree)  # the state's own arrays are donated
    # The first look compiles: beside the steps, and none is taken before it is done.
    warm = threading.Thread(target=look, args=(copy(average(state)),), daemon=True) if look else None
    if warm:
      warm.start()
    while (share := (time.monotonic() - begin) / seconds) < 1:
      rate = rate_at(self.optim, share, step)
      state = state.replace(opt_state=(*state.opt_state[:-1], Rate(jnp.float32(rate))))
      batch = next(batches)
      state, metrics = self.updates[_shape_of(batch)](state, jax.device_put(batch))
      step += 1
      waiting.append(metrics)
      if len(waiting) > IN_FLIGHT:
        shown = waiting.pop(0)
        jax.block_until_ready(shown["loss"])
        if step % EVERY == 0:
          log.add(self.name, step=step, rate=rate, **{k: float(v) for k, v in shown.items()})
      if look and share > looks / (LOOKS + 1) and not warm.is_alive():
        looks += 1
        found = look(average(state))
        log.add(f"{self.name}/held_out", step=step, **found)
        if keep and found[keep] < lowest:
          lowest, best = found[keep], copy(average(state))
    if warm:
      warm.join()
    found = look(average(state)) if look else {}
    log.add(f"{self.name}/done", step=step, seconds=time.monotonic() - begin, **found)
    if best is not None and lowest < found[keep]:
      log.add(f"{self.name}/kept", **{keep: lowest})
      return state.replace(**{"params" if state.ema is None else "ema": best})
    return state


def _shape_of(batch: dict[str, Any]) -> tuple:
  """What tells batches of one kind apart: the shapes of all their arrays."""
  return tuple(sorted((name, tuple(x.shape)) for name, x in batch.items()))


def fresh_state(init: Any, abstract: TrainState, seed: int, params: Any | None = None) -> TrainState:
  """A state of parameters that `init` draws, or of given ones, counts and moments at zero.

  Raises:
    CheckpointError: the given parameters are of other shapes.
  """
  key = jax.random.key(seed)
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
  made = unbox(jax.jit(init)(key))
  made, extra = made if isinstance(made, tuple) else (made, {})
  copy = lambda tree: jax.tree.map(jnp.array, tree)
  state = state.replace(params=copy(made), extra=copy(extra), key=jnp.array(jax.random.key_data(key)))
  state = state if state.ema is None else state.replace(ema=copy(made))
  return state if params is None else replace_params(state, params)


def average(state: TrainState) -> Any:
  """The moving average of the parameters, or these where there is none."""
  return state.params if state.ema is None else state.ema


class Journal:
  """Lines of JSON with the seconds since the start; the same on the screen."""

  def __init__(self, file: Path) -> None:
    self._file, self._begin = file, time.monotonic()

  def add(self, what: str, **values: Any) -> None:
    row = {"t": round(time.monotonic() - self._begin, 1), "what": what}
    row |= {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in values.items()}
    line = json.dumps(row)
    print(line, flush=True)
    with self._file.open("a", encoding="utf-8") as file:
      file.write(line + "\n")
