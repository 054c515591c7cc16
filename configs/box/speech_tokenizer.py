"""Speech tokenizer of the model in the box: four blocks before 6561 codes, two behind them, phonemes as units.

  python -m train.speech_tokenizer --config configs/box/speech_tokenizer.py --data PHONE_CORPUS --out RUN

The corpus's texts are phonemes, one printable character each (`train.phones`). `tiny` is the size of a first voice, for
an hour or two of two CPU cores. Augmented so that recordings,
which are noisier and of other people than the teachers' speech, give the tokens of what is said in them.
"""

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.speech_tokenizer.asr_model import AsrConfig
from cosyjax.speech_tokenizer.augment import AugmentConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.speech_tokenizer import Config, DataConfig

AUGMENT = AugmentConfig(
  time_masks=2, time_width=25, time_share=0.08, bin_masks=2, bin_width=16, hiss=0.4, blur=4.0, warp=0.12, colour=3.0,
  rise=1000,
)  # fmt: skip


def config() -> Config:
  return Config(
    tokenizer=SpeechTokenizerConfig(width=192, heads=3, layers=4),
    asr=AsrConfig(layers=2, decoder_layers=1, ctc_weight=0.85, ctc_rate=1),
    data=DataConfig(seconds=48.0, buckets=(2.0, 3.0, 4.0, 5.5, 8.0, 12.0)),
    optim=OptimConfig(learning_rate=1.5e-3, schedule="cosine", warmup=200, final=0.05, b2=0.98, ema=0.998),
    run=RunConfig(steps=8000, eval_every=500, save_every=250, eval_batches=12, keep_last=2),
    mesh=MeshConfig(),
    attention_reads=False,
    augment=AUGMENT,
  )


def tiny() -> Config:
  return Config(
    tokenizer=SpeechTokenizerConfig(width=128, heads=2, layers=3),
    asr=AsrConfig(layers=2, decoder_layers=1, ctc_weight=0.85, ctc_rate=1),
    data=DataConfig(seconds=32.0, buckets=(2.5, 4.0, 5.5, 8.0)),
    optim=OptimConfig(learning_rate=1.5e-3, schedule="cosine", warmup=100, final=0.05, b2=0.98, ema=0.995),
    run=RunConfig(steps=4000, eval_every=500, save_every=250, eval_batches=12, keep_last=2),
    mesh=MeshConfig(),
    attention_reads=False,
    augment=AUGMENT,
  )
