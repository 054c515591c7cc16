"""Flow matching from speech tokens to mel at full size, from scratch (paper 2.4).

  python -m train.flow --config configs/flow.py --data CORPUS --eval-data HELD_OUT --out RUN

A step is 7680 s of audio, 4.5e14 FLOPs: 0.1 s at 15 % of the 64 chips of a v5p 4x4x4. 100,000 steps are
210,000 hours of speech: some three hours there. On one GPU: `--set data.seconds=480`. Watch loss_full,
loss_two_chunks, loss_chunk and loss_causal: they fall together, the more a mask shows the lower.
"""

from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.flow import Config, DataConfig


def config() -> Config:
  return Config(
    run=RunConfig(steps=100_000, eval_every=1_000, save_every=1_000, dtype="bfloat16", remat="full"),
    flow=FlowConfig(),
    objective=FlowObjective(),
    data=DataConfig(seconds=7680.0, workers=4),
    optim=OptimConfig(learning_rate=2e-4, schedule="cosine", final=0.1, warmup=2_000, ema=0.999),
    mesh=MeshConfig(data=-1),
  )


def tiny() -> Config:
  """An hour of speech, a quarter of an hour on two CPU cores."""
  return Config(
    run=RunConfig(steps=1500, eval_every=250, eval_batches=4, save_every=250),
    flow=FlowConfig(
      token_width=64,
      speaker_dim=24,
      encoder=FlowEncoderConfig(width=64, heads=4, ffn=128, layers=2, up_layers=2),
      estimator=UNetConfig(channels=32, heads=2, head_dim=16, transformer_layers=1, mid_layers=2),
    ),
    objective=FlowObjective(),
    data=DataConfig(seconds=32.0, buckets=(4.0, 8.0)),
    optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup=50, final=0.05),
    mesh=MeshConfig(),
  )
