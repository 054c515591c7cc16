"""Speaker encoder of the model in the box: CAM++ with thirteen dense layers and vectors of 64 numbers.

python -m train.speaker --config configs/box/speaker.py --data CORPUS --out RUN
"""

import dataclasses

from cosyjax.config import SpeakerConfig
from cosyjax.speaker.speaker_objective import MarginConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.speaker import Config, DataConfig


def config() -> Config:
  speaker = SpeakerConfig(
    speaker_dim=64, growth=16, width=64, head_channels=12, layers=(3, 6, 4), kernels=(3, 3, 3), dilations=(1, 2, 2)
  )
  return Config(
    speaker=speaker,
    margin=MarginConfig(warmup=400),
    data=DataConfig(rows=32, seconds=2.0, eval_seconds=4.0, eval_rows=16),
    optim=OptimConfig(learning_rate=3e-3, schedule="cosine", warmup=100, final=0.01, weight_decay=1e-2),
    run=RunConfig(steps=2500, eval_every=250, save_every=250, eval_batches=8, keep_last=2),
    mesh=MeshConfig(),
  )


def tiny() -> Config:
  """The same network, which is small enough, for half as long."""
  c = config()
  return dataclasses.replace(c, run=dataclasses.replace(c.run, steps=1200))
