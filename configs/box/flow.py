"""Flow of the model in the box: token encoder of 192, UNet of 160 channels, 6 M parameters.

  python -m train.flow --config configs/box/flow.py --data CORPUS --out RUN

M is 15 tokens as in the paper. `tiny` is a first voice's.
"""

from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.flow import Config, DataConfig

SPEAKER = 64  # numbers of a speaker vector, configs/box/speaker.py


def config() -> Config:
  return Config(
    run=RunConfig(steps=20_000, eval_every=500, eval_batches=4, save_every=250, keep_last=2),
    flow=FlowConfig(
      token_width=192,
      speaker_dim=SPEAKER,
      chunk=15,
      encoder=FlowEncoderConfig(width=192, heads=3, ffn=512, layers=3, up_layers=2),
      estimator=UNetConfig(channels=160, heads=4, head_dim=40, transformer_layers=1, mid_layers=6),
    ),
    objective=FlowObjective(),
    data=DataConfig(seconds=48.0, buckets=(2.5, 4.0, 5.5, 8.0)),
    optim=OptimConfig(learning_rate=1.2e-3, schedule="cosine", warmup=300, final=0.05, ema=0.998),
    mesh=MeshConfig(),
  )


def tiny() -> Config:
  return Config(
    run=RunConfig(steps=8_000, eval_every=500, eval_batches=4, save_every=250, keep_last=2),
    flow=FlowConfig(
      token_width=128,
      speaker_dim=SPEAKER,
      chunk=15,
      encoder=FlowEncoderConfig(width=128, heads=2, ffn=384, layers=2, up_layers=2),
      estimator=UNetConfig(channels=112, heads=2, head_dim=56, transformer_layers=1, mid_layers=4),
    ),
    objective=FlowObjective(),
    data=DataConfig(seconds=32.0, buckets=(2.5, 4.0, 5.5, 8.0)),
    optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup=200, final=0.05, ema=0.997),
    mesh=MeshConfig(),
  )
