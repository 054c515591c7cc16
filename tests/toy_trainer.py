"""A trainer of the same build as those in `train/`, small enough to be killed many times.

python -m tests.toy_trainer --config tests/toy_config.py --data anything --out DIR
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import config as config_lib
from cosyjax.layers.basic import dense
from cosyjax.sharding import put_batch
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.processes import together
from cosyjax.training.step import Loss, make_update
from cosyjax.training.train_state import abstract_state, create_state, state_shardings, with_shardings
from train import cli, runtime


@dataclasses.dataclass(frozen=True)
class Config:
  run: cli.RunConfig
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  mesh: cli.MeshConfig = dataclasses.field(default_factory=cli.MeshConfig)
  width: int = 64
  rows: int = 16
  pause: float = 0.0  # seconds that a step takes longer


class Batches:
  """Rows drawn from (seed, n, row): the same for any number of processes."""

  def __init__(self, config: Config, share: tuple[int, int]) -> None:
    self.config, self.share, self.n = config, share, 0

  def __next__(self) -> dict[str, np.ndarray]:
    (part, parts), rows = self.share, self.config.rows
    mine = range(part * rows // parts, (part + 1) * rows // parts)
    x = np.stack([np.random.default_rng((self.config.run.seed, self.n, row)).normal(size=8) for row in mine])
    key = np.array([self.config.run.seed, self.n], np.uint32)
    self.n += 1
    return {"x": x.astype(np.float32), "key": key}

  def state(self) -> dict:
    return {"n": self.n}

  def restore(self, state: dict) -> None:
    self.n = state["n"]


def main(argv: Sequence[str] | None = None) -> int:
  args, config = cli.parse(__doc__, Config, argv)
  runtime.join(args)
  run = config.run

  # -------- Devices, model, optimiser
  mesh = runtime.start(args, config)
  up = dense(config.width, ("embed", "mlp"))
  init = lambda key: {"up": up.init(key, jnp.zeros((1, 8)))["params"]}

  def loss_fn(params, batch, key, extra):
    y = up.apply({"params": params["up"]}, batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape))
    return Loss(jnp.sum(jnp.square(y - jnp.sin(batch["x"][:, :1]))), jnp.float32(y.shape[0]))

  tx = make_optimiser(config.optim, run.steps)
  abstract = abstract_state(init, tx, config.optim)
  update = together(make_update(loss_fn, tx, config.optim, run.steps, state_shardings(abstract, mesh)), "step")

  # -------- Data, state
  from cosyjax.sharding import process_share

  batches = Batches(config, process_share(mesh))
  checkpoints = Checkpoints(
    args.out / "checkpoints",
    config=config_lib.to_dict(config),
    keep_last=run.keep_last,
    keep_best=run.keep_best,
    metric="loss",
    allow_config_change=args.allow_config_change,
  )
  if checkpoints.latest() is None:
    step, state = 0, create_state(init, tx, config.optim, mesh, runtime.make_key(run.seed, "params"))
  else:
    step, state, iterator = checkpoints.restore(with_shardings(abstract, mesh))
    batches.restore(iterator)

  # -------- Loop
  stop = runtime.Stop()
  with (Path(args.out) / f"metrics{'' if runtime.is_main() else jax.process_index()}.jsonl").open("a") as log:
    while step < run.steps:
      batch = put_batch(next(batches), mesh)
      with runtime.no_copies():
        state, metrics = update(state, batch)
      step += 1
      shown = {name: float(value) for name, value in metrics.items()}
      log.write(json.dumps({"step": step} | shown) + "\n")
      log.flush()
      runtime.check_bad(shown, step)
      time.sleep(config.pause)
      stop.poll(step)
      if runtime.due(step, run.save_every) or stop.asked or step == run.steps:
        last = stop.asked or step == run.steps
        checkpoints.save(step, state, batches.state(), metric=shown["loss"], wait=last)
      if stop.asked and step < run.steps:
        checkpoints.close()
        return runtime.STOPPED
  checkpoints.close()
  return 0


if __name__ == "__main__":
  sys.exit(cli.at_exit(main))
