"""Text-speech language model of 0.5 B parameters, from Qwen2.5-0.5B (paper 2.3).

  python -m train.lm --config configs/lm.py --data CORPUS --eval-data HELD_OUT --out RUN --qwen Qwen2.5-0.5B

Without --qwen the stack starts from scratch and wants --tokenizer. A step is 524,288 tokens: 1.3e15 FLOPs,
or 0.11 s at 40 % of the 64 chips of a v5p 4x4x4. 50,000 steps are 26 G tokens, some 200,000 hours of speech
seen once: an hour and a half there. On one 80 GB GPU: `--set data.rows=16 optim.accumulate=1 run.remat=full`.
Watch the validation's accuracy beside accuracy_unigram, and loss_known and loss_interleaved, which should keep close.
"""

from cosyjax.config import LMConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.lm import Config, DataConfig


def config() -> Config:
  return Config(
    run=RunConfig(steps=50_000, eval_every=1_000, save_every=1_000, dtype="bfloat16", remat="full"),
    lm=LMConfig(),
    data=DataConfig(rows=256, length=2048, workers=4),
    optim=OptimConfig(learning_rate=2e-4, schedule="cosine", final=0.1, warmup=2_000, b2=0.95, weight_decay=0.01),
    mesh=MeshConfig(data=-1, fsdp=16),
  )


def tiny() -> Config:
  """An hour of speech, some minutes on two CPU cores."""
  return Config(
    run=RunConfig(steps=1000, eval_every=100, eval_batches=4, save_every=200),
    lm=LMConfig(width=64, ffn=128, layers=3, heads=4, kv_heads=2, text_vocab=512),
    data=DataConfig(rows=8, length=512),
    optim=OptimConfig(learning_rate=3e-3, schedule="cosine", warmup=50, final=0.05),
    mesh=MeshConfig(),
  )
