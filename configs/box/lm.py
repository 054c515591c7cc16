"""Language model of the model in the box: eight Qwen2 layers of 320, 13 M parameters with embeddings and head.

  python -m train.lm --config configs/box/lm.py --data CORPUS --out RUN --tokenizer TOKENIZER

`tiny` is a first voice's: six layers of 192. Short rows: utterances are short, and a short row's attention is cheap.
"""

from cosyjax.config import LMConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.lm import Config, DataConfig

TEXT_VOCAB = 4352  # the tokenizer's entries and tags, rounded up


def config() -> Config:
  return Config(
    run=RunConfig(steps=12_000, eval_every=500, eval_batches=8, save_every=250, keep_last=2),
    lm=LMConfig(
      width=320,
      ffn=896,
      layers=8,
      heads=5,
      kv_heads=1,
      text_vocab=TEXT_VOCAB,
      rope_theta=10_000.0,
      min_tokens_per_text=1.0,
    ),
    data=DataConfig(rows=8, length=512, interleave=0.4),
    optim=OptimConfig(
      learning_rate=1.5e-3, schedule="cosine", warmup=300, final=0.05, b2=0.98, weight_decay=0.05, clip=1.0, ema=0.998
    ),
    mesh=MeshConfig(),
  )


def tiny() -> Config:
  return Config(
    run=RunConfig(steps=5_000, eval_every=250, eval_batches=8, save_every=250, keep_last=2),
    lm=LMConfig(
      width=192,
      ffn=512,
      layers=6,
      heads=3,
      kv_heads=1,
      text_vocab=TEXT_VOCAB,
      rope_theta=10_000.0,
      min_tokens_per_text=1.0,
    ),
    data=DataConfig(rows=6, length=384, interleave=0.3),
    optim=OptimConfig(
      learning_rate=2e-3, schedule="cosine", warmup=200, final=0.05, b2=0.98, weight_decay=0.05, clip=1.0, ema=0.995
    ),
    mesh=MeshConfig(),
  )
