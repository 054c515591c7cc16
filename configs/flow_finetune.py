"""Fine-tunes the flow of a converted or trained model on one or several speakers (paper 2.7).

  python -m train.flow --config configs/flow_finetune.py --data CORPUS --out RUN --init MODEL_DIR

The four masks stay, so that the fine-tuned voice streams too. The learning rate is the paper's, 1e-5, constant.
A step is two minutes of audio. The length is in epochs of the data at hand: half an hour of speech is 15 steps, and
the run 750. Listen to the sounds of the evaluations; the checkpoint where the validation loss is lowest is kept, and
exported.
"""

import dataclasses
import runpy
from pathlib import Path

from cosyjax.config import FlowConfig
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.flow import Config, DataConfig


def config() -> Config:
  return Config(
    run=RunConfig(steps=1_000, epochs=50.0, eval_every=50, save_every=50, dtype="bfloat16", remat="full"),
    flow=FlowConfig(),  # that of --init takes its place
    objective=FlowObjective(),
    data=DataConfig(seconds=120.0),
    optim=OptimConfig(learning_rate=1e-5, warmup=50),
    mesh=MeshConfig(data=-1),
  )


def tiny() -> Config:
  small = runpy.run_path(str(Path(__file__).parent / "flow.py"))["tiny"]()
  return dataclasses.replace(small, run=RunConfig(steps=20, log_every=1, eval_every=10, eval_batches=2, save_every=10),
                             optim=OptimConfig(learning_rate=1e-5))  # fmt: skip
