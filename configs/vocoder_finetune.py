"""Fine-tuning of a converted vocoder on the mel that the flow makes, to mend what the flow blurs.

  python -m train.flow_mels CORPUS --model MODEL
  python -m train.vocoder --config configs/vocoder_finetune.py --init MODEL --data CORPUS --out RUN

20,000 steps of 64 crops have 7e17 FLOPs: by arithmetic an hour and a half at 30 % of one H200 in TF32. A
release has no discriminators: fresh ones have to learn against a generator that is good already, hence a
slow start and a low rate of the generator. Watch the validation's mel: it begins where the released
vocoder is with these mels.
"""

import dataclasses

from configs import vocoder
from cosyjax.training.optimiser import OptimConfig
from train.cli import RunConfig
from train.vocoder import Config

ADAM = OptimConfig(learning_rate=2e-5, b1=0.8, b2=0.99, warmup=500)
JUDGES = OptimConfig(learning_rate=2e-4, b1=0.8, b2=0.99, warmup=500)


def config() -> Config:
  base = vocoder.config()
  return dataclasses.replace(
    base,
    data=dataclasses.replace(base.data, rows=64, mel="flow_mel"),
    optim=ADAM,
    discriminator_optim=JUDGES,
    run=RunConfig(steps=20_000, eval_every=1_000, save_every=1_000),
    target_f0=0,
  )


def tiny() -> Config:
  base = vocoder.tiny()
  return dataclasses.replace(
    base,
    data=dataclasses.replace(base.data, mel="flow_mel"),
    optim=dataclasses.replace(base.optim, learning_rate=2e-4),
    run=RunConfig(steps=200, eval_every=100, eval_batches=2, save_every=100),
    alone=0,
    target_f0=0,
  )
