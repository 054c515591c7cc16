"""Vocoder of the model in the box: HiFT of 192 channels with two residual blocks a stage.

  python -m train.vocoder --config configs/box/vocoder.py --data CORPUS --out RUN

First on mel and f0 alone, then against discriminators; at last on the flow's mels (configs/box/vocoder_flow.py).
"""

from cosyjax.config import VocoderConfig
from cosyjax.training.optimiser import OptimConfig
from cosyjax.vocoder.discriminators import DiscriminatorConfig
from cosyjax.vocoder.gan_step import Objective
from train.cli import MeshConfig, RunConfig
from train.vocoder import Config, DataConfig


def config() -> Config:
  return Config(
    model=VocoderConfig(
      channels=192, f0_channels=96, resblock_kernels=(3, 7), resblock_dilations=((1, 3, 5),) * 2,
      source_kernels=(3, 3, 7), source_dilations=((1, 3),) * 3,
    ),
    discriminators=DiscriminatorConfig(
      periods=(2, 3, 5, 7), period_channels=(16, 32, 64, 128), spectra=((1024, 240, 600), (512, 120, 240)),
      spectrum_channels=12, spectrum_strides=(2, 2, 2),
    ),
    objective=Objective(mel_scales=((1920, 80), (480, 40))),
    data=DataConfig(rows=8, frames=24, eval_rows=4, eval_frames=200),
    optim=OptimConfig(learning_rate=1.5e-3, b1=0.8, b2=0.99, schedule="cosine", warmup=100, final=0.1, ema=0.998),
    discriminator_optim=OptimConfig(learning_rate=5e-4, b1=0.8, b2=0.99, warmup=100),
    run=RunConfig(steps=20_000, eval_every=500, eval_batches=2, save_every=250, keep_last=2),
    mesh=MeshConfig(),
    alone=6_000,
    target_f0=1_000,
  )  # fmt: skip


def tiny() -> Config:
  """The same networks: a vocoder depends on no other part, so a first voice's is the last one's beginning."""
  return config()
