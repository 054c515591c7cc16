"""A sixth trainer: what has to be written for `train.loop`, small enough to be killed many times.

python -m tests.toy_trainer --config tests/toy_config.py --data anything --out DIR
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cosyjax.errors import DataError
from cosyjax.layers.basic import dense
from cosyjax.sharding import process_share
from cosyjax.training.optimiser import OptimConfig
from cosyjax.training.step import Loss
from train import cli, log, loop
from train import task as task_lib
from train.task import Findings, Network, Task, Trainer


@dataclasses.dataclass(frozen=True)
class DataConfig:
  rows: int = 16
  split: str = "train"
  eval_split: str = "validation"


@dataclasses.dataclass(frozen=True)
class Config:
  run: cli.RunConfig
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  mesh: cli.MeshConfig = dataclasses.field(default_factory=cli.MeshConfig)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  width: int = 64
  pause: float = 0.0  # seconds that a batch takes longer


class Batches:
  """Rows drawn from (seed, n, row): the same for any number of processes."""

  def __init__(self, config: Config, mesh: Mesh, last: float = float("inf")) -> None:
    (part, parts), rows = process_share(mesh), config.data.rows
    self.config, self.mine = config, range(part * rows // parts, (part + 1) * rows // parts)
    self.n, self.last = 0, last

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self.n >= self.last:
      raise StopIteration
    time.sleep(self.config.pause)
    seed = self.config.run.seed
    x = np.stack([np.random.default_rng((seed, self.n, row)).normal(size=8) for row in self.mine])
    self.n += 1
    return {"x": x.astype(np.float32), "key": np.array([seed, self.n - 1], np.uint32)}

  def state(self) -> dict:
    return {"n": self.n}

  def restore(self, state: dict) -> None:
    self.n = state["n"]

  def close(self) -> None:
    pass


def task(args: argparse.Namespace, config: Config) -> Task:
  up = dense(config.width, ("embed", "mlp"))
  shapes = {
    "x": jax.ShapeDtypeStruct((config.data.rows, 8), jnp.float32),
    "key": jax.ShapeDtypeStruct((2,), jnp.uint32),
  }

  def loss(params, batch, key, extra):
    y = up.apply({"params": params["up"]}, batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape))
    return Loss(jnp.sum(jnp.square(y - jnp.sin(batch["x"][:, :1]))), jnp.float32(y.shape[0]))

  def open_batches(directory: Path, split: str, mesh: Mesh, fixed: bool) -> Batches:
    if fixed and not config.run.eval_every:
      raise DataError("the toy is not evaluated")
    return Batches(config, mesh, 2 if fixed else float("inf"))

  return Task(
    config=config,
    networks=Network(lambda key: {"up": up.init(key, jnp.zeros((1, 8)))["params"]}, config.optim, config.run.steps),
    units="rows",
    metric="loss",
    open=open_batches,
    shapes=lambda row_multiple: shapes,
    amount=lambda batch: len(batch["x"]),
    capacity=lambda shapes: shapes["x"].shape[0],
    loss=loss,
    look=lambda params, extra, batch, key: loss(params, batch, key, extra),
    measure=lambda losses, batches: Findings(task_lib.means(losses)),
  )


TRAINER = Trainer("toy", __doc__, Config, task)


class SeenByAll(log.Log):
  """Shows in files what processes other than the first see, too."""

  def flush(self) -> dict[str, float]:
    step, values = self._pending[0] if self._pending else 0, super().flush()
    if values and jax.process_index():
      with (self.out / f"metrics{jax.process_index()}.jsonl").open("a") as file:
        file.write(json.dumps({"step": step} | values) + "\n")
    return values


def main(argv: list[str] | None = None) -> int:
  loop.Log = SeenByAll
  return loop.run(TRAINER, argv)


if __name__ == "__main__":
  sys.exit(loop.program("tests.toy_trainer"))
