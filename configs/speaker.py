"""Speaker encoder at full size: CAM++, 192 numbers a voice, additive angular margin.

    python -m train.speaker --config configs/speaker.py --data CORPUS --out RUN
    python -m train.speaker --config configs/speaker.py --tiny --data CORPUS --out RUN

Full size: 100,000 steps of 1024 crops of 3 s. A step has 9.9e12 FLOPs, the run 1e18: by arithmetic an hour at 30 % of
one H200. What to look at: equal_error_rate over all pairs of
recordings of speakers that training never hears.

Tiny: an hour of speech with some fifty voices, minutes on two CPU cores.
"""

from cosyjax.config import SpeakerConfig
from cosyjax.speaker.speaker_objective import MarginConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.speaker import Config, DataConfig


def config() -> Config:
  return Config(
    speaker=SpeakerConfig(),
    margin=MarginConfig(warmup=10_000),
    data=DataConfig(rows=1024, seconds=3.0, eval_rows=256, workers=8),
    optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup=5000, final=0.01, weight_decay=1e-2),
    run=RunConfig(steps=100_000, eval_every=2000, save_every=2000, eval_batches=40, dtype="bfloat16"),
    mesh=MeshConfig(),
  )


def tiny() -> Config:
  """Eight dense layers instead of 52: a couple of minutes to compile, a few to train."""
  speaker = SpeakerConfig(
    speaker_dim=24, growth=8, width=32, head_channels=8, layers=(2, 4, 2), kernels=(3, 3, 3), dilations=(1, 2, 2)
  )
  return Config(
    speaker=speaker,
    margin=MarginConfig(warmup=200),
    data=DataConfig(rows=32, seconds=2.0, eval_seconds=5.0, eval_rows=16),
    optim=OptimConfig(learning_rate=3e-3, schedule="cosine", warmup=50, final=0.01, weight_decay=1e-2),
    run=RunConfig(steps=600, eval_every=100, save_every=200, eval_batches=8),
    mesh=MeshConfig(),
  )
