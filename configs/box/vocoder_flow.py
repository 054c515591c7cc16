"""Vocoder of the model in the box on the flow's mels (`train.flow_mels`), with discriminators from the first step.

python -m train.vocoder --config configs/box/vocoder_flow.py --init MODEL_DIR --data CORPUS --out RUN
"""

import dataclasses
import runpy
from pathlib import Path

from train.vocoder import Config


def config() -> Config:
  c = runpy.run_path(str(Path(__file__).with_name("vocoder.py")))["config"]()
  return dataclasses.replace(
    c,
    data=dataclasses.replace(c.data, mel="flow_mel"),
    optim=dataclasses.replace(c.optim, learning_rate=2e-4),
    discriminator_optim=dataclasses.replace(c.discriminator_optim, learning_rate=2e-4),
    run=dataclasses.replace(c.run, steps=4_000),
    alone=0,
    target_f0=0,
  )


def tiny() -> Config:
  return config()
