"""Fine-tunes a converted or trained language model on one or several speakers (paper 2.7).

  python -m train.lm --config configs/lm_finetune.py --data CORPUS --out RUN --init MODEL_DIR

Each text begins with "Speaker X<|endofprompt|>", X as the manifest names its speaker; with
`--set data.speaker_tag=unknown` with "unknown<|endofprompt|>", which keeps speakers apart from those that
have a name, and with `data.speaker_tag=` with nothing. Instructions come from the manifest's field (2.6).
The learning rate is the paper's, 1e-5, constant. The length is in epochs of the data at hand: half an hour of one
voice is about 60,000 tokens, two steps, and the run 100 steps. The checkpoint where the validation loss is lowest is
kept, and exported.
"""

from cosyjax.config import LMConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.lm import Config, DataConfig


def config() -> Config:
  return Config(
    run=RunConfig(steps=1_000, epochs=50.0, eval_every=10, save_every=10, dtype="bfloat16", remat="full"),
    lm=LMConfig(),  # that of --init takes its place
    data=DataConfig(rows=16, length=2048, speaker_tag="speaker"),
    optim=OptimConfig(learning_rate=1e-5, warmup=10),
    mesh=MeshConfig(data=-1),
  )


def tiny() -> Config:
  return Config(
    run=RunConfig(steps=20, log_every=1, eval_every=10, eval_batches=2, save_every=10),
    lm=LMConfig(width=64, ffn=128, layers=3, heads=4, kv_heads=2, text_vocab=512),
    data=DataConfig(rows=4, length=512, speaker_tag="speaker"),
    optim=OptimConfig(learning_rate=1e-5),
    mesh=MeshConfig(),
  )
