"""Speech tokenizer at full size: encoder 1 of 6 blocks, FSQ of 3^8 = 6561 codes, encoder 2, ASR decoder.

    python -m train.speech_tokenizer --config configs/speech_tokenizer.py --data CORPUS --out RUN
    python -m train.speech_tokenizer --config configs/speech_tokenizer.py --tiny --data CORPUS --out RUN

Full size: 100,000 steps of 2.1 hours of speech (one epoch of 200,000 hours, the paper's data), in
bfloat16 on a pod. A step has 5.6e14 FLOPs, the run 5.6e19: by arithmetic 80 minutes at 40 % of the 64 chips of
a v5p 4x4x4. `--set asr.pitch_weight=0.1` adds the pitch loss, `--set asr.quantiser=vq` is the
comparison of Table 4. What to look at: token_error_rate of the validation split, codes_used and perplexity.

Tiny: an hour of speech, 15 to 20 minutes on two CPU cores; see `tiny`.
"""

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.speech_tokenizer.asr_model import AsrConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.speech_tokenizer import Config, DataConfig


def config() -> Config:
  return Config(
    tokenizer=SpeechTokenizerConfig(),
    asr=AsrConfig(layers=6, decoder_layers=6, ctc_weight=0.3),
    data=DataConfig(seconds=7680.0, workers=8),
    optim=OptimConfig(
      learning_rate=5e-4, schedule="inverse_sqrt", warmup=10_000, b2=0.98, weight_decay=0.01, ema=0.999
    ),
    run=RunConfig(steps=100_000, eval_every=2000, save_every=2000, eval_batches=8, dtype="bfloat16", remat="weights"),
    mesh=MeshConfig(data=-1, fsdp=1),
  )


def tiny() -> Config:
  """Two blocks of 128 on each side of the quantiser; CTC weighs most, since it learns to read first."""
  return Config(
    tokenizer=SpeechTokenizerConfig(width=128, heads=2, layers=2),
    asr=AsrConfig(layers=2, decoder_layers=1, ctc_weight=0.8, ctc_rate=1),
    data=DataConfig(seconds=45.0, buckets=(4.0, 5.5, 8.0, 12.0)),
    optim=OptimConfig(learning_rate=1.5e-3, schedule="cosine", warmup=100, final=0.05, b2=0.98),
    run=RunConfig(steps=4000, eval_every=500, save_every=500, eval_batches=12),
    mesh=MeshConfig(),
  )
