"""HiFT vocoder at full size against period and spectrogram discriminators, from scratch.

  python -m train.vocoder --config configs/vocoder.py --data CORPUS --out RUN
  python -m train.vocoder --config configs/vocoder.py --tiny --data CORPUS --out RUN

Full size: 500,000 steps of 256 crops of 1.02 s. A step has 1.4e14 FLOPs (2.4e13 without discriminators), the run
7e19: by arithmetic three and a half hours at 20 % of the 64 chips of a v5p 4x4x4, a week at 30 % of one
H200 in TF32. Watch the validation's mel, the mean distance of log mel (in nepers) of whole utterances, and
listen: the adversarial losses say who leads, not how it sounds.
"""

from cosyjax.config import VocoderConfig
from cosyjax.training.optimiser import OptimConfig
from cosyjax.vocoder.discriminators import DiscriminatorConfig, tiny_discriminators
from cosyjax.vocoder.gan_step import Objective
from train.cli import MeshConfig, RunConfig
from train.vocoder import Config, DataConfig

# Momentum of 0.8 is HiFi-GAN's: what a gradient's opponent was like 10 steps ago matters little.
ADAM = OptimConfig(learning_rate=2e-4, b1=0.8, b2=0.99)


def config() -> Config:
  return Config(
    model=VocoderConfig(),
    discriminators=DiscriminatorConfig(),
    objective=Objective(),
    data=DataConfig(rows=256, frames=51, workers=8),
    optim=ADAM,
    discriminator_optim=ADAM,
    run=RunConfig(steps=500_000, log_every=50, eval_every=5_000, save_every=5_000),
    mesh=MeshConfig(),
    target_f0=5_000,
  )


def tiny() -> Config:
  """A vocoder of 64 channels: about a quarter of an hour on two CPU cores, 1,000 steps of it without discriminators."""
  return Config(
    model=VocoderConfig(channels=64, f0_channels=32),
    discriminators=tiny_discriminators(),
    objective=Objective(mel_scales=((1920, 80), (480, 40))),
    data=DataConfig(rows=8, frames=25, eval_rows=4, eval_frames=200),
    optim=OptimConfig(learning_rate=2e-3, b1=0.8, b2=0.99, schedule="cosine", warmup=50, final=0.1),
    discriminator_optim=OptimConfig(learning_rate=1e-3, b1=0.8, b2=0.99, warmup=50),
    run=RunConfig(steps=1_500, eval_every=250, eval_batches=2, save_every=250),
    mesh=MeshConfig(),
    alone=1_000,
    target_f0=300,
  )
