"""Settings of `tests.toy_trainer`.

Command: python -m tests.toy_trainer --config tests/toy_config.py --data anything --out DIR
Cost: seconds. Metric: the loss falls.
"""

from cosyjax.training.optimiser import OptimConfig
from tests.toy_trainer import Config
from train.cli import RunConfig


def config() -> Config:
  run = RunConfig(steps=200, save_every=3, log_every=1, eval_every=0, keep_last=2)
  return Config(run, OptimConfig(ema=0.9, weight_decay=0.1, accumulate=2))


def tiny() -> Config:
  return config()
