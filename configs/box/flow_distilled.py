"""Flow of the model in the box with two Euler steps and no guidance, distilled from the one of ten guided steps.

  python -m train.flow --config configs/box/flow_distilled.py --init MODEL_DIR --data CORPUS --out RUN

A step costs about nine of the flow's own: twenty evaluations of the teacher and two of the student with gradients.
"""

import dataclasses
import runpy
from pathlib import Path

from train.flow import Config


def _of(size: str) -> Config:
  c = runpy.run_path(str(Path(__file__).with_name("flow.py")))[size]()
  return dataclasses.replace(
    c,
    distil=2,
    data=dataclasses.replace(c.data, seconds=c.data.seconds / 2),
    optim=dataclasses.replace(c.optim, learning_rate=c.optim.learning_rate / 3),
    run=dataclasses.replace(c.run, steps=2_000, eval_every=250),
  )


def config() -> Config:
  return _of("config")


def tiny() -> Config:
  return _of("tiny")
