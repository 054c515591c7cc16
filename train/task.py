"""What a trainer states: its networks, loss, data and measures. `train.loop` does the rest.

A trainer is a module with a `Trainer` value; see `train/flow.py`, or `tests/toy_trainer.py` for the smallest one.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cosyjax.analysis.flops import training_flops
from cosyjax.layers.basic import unbox
from cosyjax.sharding import batch_sharding, row_count
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.step import Loss, LossFn, make_update, summarise
from cosyjax.training.train_state import (
  Init,
  TrainState,
  abstract_state,
  create_state,
  state_shardings,
  with_shardings,
)
from train import runtime

Shapes = dict[str, jax.ShapeDtypeStruct]
HostBatch = dict[str, np.ndarray]
Update = Callable[[Any, dict[str, jax.Array]], tuple[Any, dict[str, jax.Array]]]  # jitted: (state, batch) -> ...


class Batches(Protocol):
  """What the loop asks of data; `cosyjax.data.iterator.Batches` is one."""

  def __next__(self) -> HostBatch: ...
  def state(self) -> dict[str, Any]: ...
  def restore(self, state: dict[str, Any]) -> None: ...
  def close(self) -> None: ...


class Findings(NamedTuple):
  """What an evaluation found.

  Attributes:
    scalars: by name.
    pictures: uint8 [height, width, 3], see `train.pictures`.
    sounds: float32 [A] at the task's sample rate.
  """

  scalars: dict[str, float]
  pictures: dict[str, np.ndarray] = {}
  sounds: dict[str, np.ndarray] = {}


Speak = Callable[[Any], Findings]  # parameters -> what they say


@dataclasses.dataclass(frozen=True)
class Network:
  """One network in training, which has a `TrainState` of its own.

  Attributes:
    init: key -> boxed parameters, or a pair of those and the initial `extra`.
    optim: how it learns.
    steps: length of its run, where its learning rate's schedule ends.
    key: name of the draw that its first parameters come from.
  """

  init: Init
  optim: OptimConfig
  steps: int
  key: str = "params"

  @property
  def tx(self) -> Any:
    """Its optimiser."""
    return make_optimiser(self.optim, self.steps)


@dataclasses.dataclass(frozen=True)
class Task:
  """Everything about a run that is its trainer's own.

  Attributes:
    config: settings of the run, a frozen dataclass with `run`, `mesh` and `data` (with `split` and `eval_split`).
    networks: one, or several by name; a state is a `TrainState`, or one for each name.
    units: what speed is counted in, "tokens" or "audio seconds".
    metric: scalar of evaluation that orders checkpoints, the lowest being best.
    open: (directory, split, mesh, fixed) -> batches; fixed ones come once, in order, and raise DataError if missing.
    shapes: rows of a batch are a multiple of this number -> shapes of the largest batch, over all devices.
    amount: units in a batch of arrays, without padding.
    capacity: units in a full batch of these shapes.
    look: (params, extra, batch, key) -> arrays; jitted by the loop, on every batch of an evaluation.
    measure: (results of `look` on the host, one for each batch, and those batches) -> findings.
    loss: of one network; see `cosyjax.training.step.LossFn`.
    flops: (shapes, step) -> model FLOPs of the update at that step; those of the loss if None.
    updates: where a loss is not enough: shardings of the state, or None -> first step -> the jitted update from there.
    main: the network that is evaluated and that --init is for, where there are several.
    start: fresh parameters -> (given ones, their `extra` or None); None for a run from scratch.
    speech: (fixed batches, as opened, and as a list) -> parameters to what they say; None where they cannot.
    compiler_options: gives those that `look` is compiled with, once there are devices.
    sample_rate: of the sounds that evaluation gives, in Hz.
    ids: of each batch field of whole numbers, the lowest and the first that is too high; for made-up batches.
  """

  config: Any
  networks: Network | dict[str, Network]
  units: str
  metric: str
  open: Callable[[Path, str, Mesh, bool], Batches]
  shapes: Callable[[int], Shapes]
  amount: Callable[[HostBatch], float]
  capacity: Callable[[Shapes], float]
  look: Callable[[Any, Any, dict[str, jax.Array], jax.Array], Any]
  measure: Callable[[Sequence[Any], Sequence[HostBatch]], Findings]
  loss: LossFn | None = None
  flops: Callable[[Shapes, int], float] | None = None
  updates: Callable[[Any], dict[int, Update]] | None = None
  main: str = ""
  start: Callable[[Any], tuple[Any, Any]] | None = None
  speech: Callable[[Any, Sequence[HostBatch]], Speak | None] | None = None
  compiler_options: Callable[[], dict[str, Any]] = dict
  sample_rate: int = 24_000
  ids: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


class Trainer(NamedTuple):
  """A trainer's program.

  Attributes:
    name: of the module in `train/`, and of the part of a model that it trains.
    doc: the module's docstring.
    config: the dataclass that a configuration file of it makes.
    task: (flags, configuration) -> task. Reads no more of the corpus than the sizes of networks ask for.
    flags: adds the trainer's own flags to a parser.
  """

  name: str
  doc: str
  config: type
  task: Callable[[argparse.Namespace, Any], Task]
  flags: Callable[[argparse.ArgumentParser], None] | None = None


# ---- states, by the task's networks


def over_networks(f: Callable[..., Any], networks: Network | dict[str, Network], *trees: Any) -> Any:
  """`f` of each network and its part of `trees`."""
  if isinstance(networks, Network):
    return f(networks, *trees)
  return {name: f(network, *(tree[name] for tree in trees)) for name, network in networks.items()}


def abstract(task: Task) -> Any:
  """Shapes, dtypes and logical axes of the state (boxed), without computing anything."""
  return over_networks(lambda n: abstract_state(n.init, n.tx, n.optim), task.networks)


def create(task: Task, mesh: Mesh) -> Any:
  """The state that a new run begins with, in its shards."""
  key = lambda n: runtime.make_key(task.config.run.seed, n.key)
  return over_networks(lambda n: create_state(n.init, n.tx, n.optim, mesh, key(n)), task.networks)


def placed(task: Task, mesh: Mesh, boxed: Any | None = None) -> Any:
  """The state as `jax.ShapeDtypeStruct`s with shardings: what restoring and compiling ahead take."""
  boxed = abstract(task) if boxed is None else boxed
  return over_networks(lambda _, one: with_shardings(one, mesh), task.networks, boxed)


def updates(task: Task, mesh: Mesh, boxed: Any | None = None) -> dict[int, Update]:
  """First step -> the jitted update from there on."""
  boxed = abstract(task) if boxed is None else boxed
  shardings = over_networks(lambda _, one: state_shardings(one, mesh), task.networks, boxed)
  if task.updates:
    return task.updates(shardings)
  n = task.networks
  return {0: make_update(task.loss, n.tx, n.optim, n.steps, shardings)}


def abstract_params(task: Task) -> Any:
  """Shapes of the (main) network's parameters and `extra`: for counting FLOPs."""
  network = task.networks[task.main] if task.main else task.networks
  state: TrainState = unbox(abstract_state(network.init, network.tx, network.optim))
  return state.params, state.extra


def model_flops(task: Task, shapes: Shapes, step: int) -> float:
  """Model FLOPs of the update at a step on a batch of these shapes."""
  if task.flops:
    return task.flops(shapes, step)
  params, extra = abstract_params(task)
  return training_flops(lambda params, extra, batch: task.loss(params, batch, jax.random.key(0), extra).total,
                        params, extra, shapes)  # fmt: skip


def build(task: Task, mesh: Mesh) -> tuple[Update, tuple[Any, Any], float, float]:
  """The last update of a run and what it takes: see `train.compile_only.Build`."""
  boxed, shapes = abstract(task), task.shapes(row_count(mesh))
  rows, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  place = lambda name, x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole if name == "key" else rows)
  batch = {name: place(name, x) for name, x in shapes.items()}
  update = updates(task, mesh, boxed)
  last = max(update)
  return update[last], (placed(task, mesh, boxed), batch), task.capacity(shapes), model_flops(task, shapes, last)


# ---- data and measures


def order(fixed: bool, workers: int) -> dict[str, Any]:
  """How the factories of `cosyjax.data.batches` read: shuffled without end, or once through and in order."""
  return {"shuffle": False, "keep_rest": True, "epochs": 1} if fixed else {"workers": workers}


def means(losses: Sequence[Loss]) -> dict[str, float]:
  """Loss and metrics over several batches, each a sum and a weight; one that nothing was counted for is left out."""
  total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *losses)
  counted = {name: pair for name, pair in total.metrics.items() if pair[1] > 0}
  loss, metrics = summarise(total._replace(metrics=counted))
  return {"loss": float(loss)} | {name: float(value) for name, value in metrics.items()}
