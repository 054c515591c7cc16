"""The five networks as `train.box_device` trains them: sizes, losses, batches, and their steps compiled ahead."""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.data.batches import Batches, asr_batches, flow_batches, lm_batches, speaker_batches
from cosyjax.data.plan import BucketPlan
from cosyjax.flow.flow_model import Flow
from cosyjax.speaker import speaker_objective
from cosyjax.speech_tokenizer.asr_model import AsrTokenizer
from cosyjax.text import TextTokenizer
from cosyjax.training.step import Loss
from train import cli
from train import flow as flow_trainer
from train import lm as lm_trainer
from train import speaker as speaker_trainer
from train import speech_tokenizer as tokenizer_trainer
from train import vocoder as vocoder_trainer
from train.box_fit import Fit
from train.box_memory import CropRows, MemoryCorpus, MemoryFeatures, Utterance

CONFIGS = Path("configs/box")


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Batches, for the memory and the appetite of one large accelerator."""

  longest: float = 8.0  # seconds of an utterance
  buckets: tuple[float, ...] = (4.0, 8.0)
  tokenizer_seconds: float = 768.0
  flow_seconds: float = 768.0
  speaker_rows: int = 192
  lm_rows: int = 64
  lm_length: int = 512
  crops: int = 64
  crop_frames: int = 32
  feature_rows: int = 64
  first_hours: float = 6.0  # of speech with which the tokenizer begins


TINY = Sizes(3.0, (3.0,), 12.0, 12.0, 4, 2, 128, 2, 16, 8, 0.0)


class Parts:
  """Settings of the five networks from configs/box, and the trainers' tasks: what they learn, and by which loss.

  Attributes:
    tasks: speech_tokenizer, lm, flow. The speaker encoder's depends on the corpus, the vocoder's is `train.box_gan`'s.
  """

  def __init__(self, tiny: bool, dtype: str, sizes: Sizes) -> None:
    load = lambda name, trainer: cli.load(CONFIGS / f"{name}.py", trainer.Config, tiny=tiny)
    compute = lambda c: dataclasses.replace(c, run=dataclasses.replace(c.run, dtype=dtype))
    self.sizes = sizes
    self.tokenizer = compute(load("speech_tokenizer", tokenizer_trainer))
    self.speaker, self.lm = load("speaker", speaker_trainer), compute(load("lm", lm_trainer))
    self.flow = compute(load("flow", flow_trainer))
    vocoder = compute(load("vocoder", vocoder_trainer))
    crops = dataclasses.replace(vocoder.data, rows=sizes.crops, frames=sizes.crop_frames)
    self.vocoder = dataclasses.replace(vocoder, data=crops, alone=0, target_f0=200)
    args = argparse.Namespace(init=None, listen=None, qwen=None, data=None, tokenizer=None, compile_only=None)
    of = {"speech_tokenizer": (tokenizer_trainer, self.tokenizer), "lm": (lm_trainer, self.lm),
          "flow": (flow_trainer, self.flow)}  # fmt: skip
    self.tasks = {name: trainer.task(args, config) for name, (trainer, config) in of.items()}
    self.asr = AsrTokenizer(self.tokenizer.tokenizer, self.tokenizer.asr, jnp.dtype(dtype))
    self.flow_model = Flow(self.flow.flow, jnp.dtype(dtype), training=True)

  def speaker_task(self, speakers: int) -> tuple[Any, Any]:
    """(first parameters and statistics, loss) of the speaker encoder with so many speakers to tell apart."""
    module = speaker_objective.SpeakerClassifier(self.speaker.speaker, speakers)

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Loss:
      return speaker_objective.speaker_loss(module, self.speaker.margin, params, batch, extra)

    return functools.partial(speaker_objective.init, module), loss

  # ---- batches

  def tokenizer_batches(self, utterances: Sequence[Utterance], found: MemoryFeatures, **options: Any) -> Batches:
    s, rate = self.sizes, self.tokenizer.data.unit_rate
    corpus = MemoryCorpus(utterances, phones=True)
    return asr_batches(corpus, found, seconds=s.tokenizer_seconds, buckets=s.buckets, unit_rate=rate, **options)

  def lm_batches(self, utterances: Any, found: MemoryFeatures, texts: TextTokenizer, **options: Any) -> Batches:
    sizes = {"rows": self.sizes.lm_rows, "length": self.sizes.lm_length, "interleave": self.lm.data.interleave}
    return lm_batches(MemoryCorpus(utterances), found, texts, self.lm.lm, **sizes, **options)

  def flow_batches(self, utterances: Any, found: MemoryFeatures, **options: Any) -> Batches:
    s = self.sizes
    return flow_batches(MemoryCorpus(utterances), found, seconds=s.flow_seconds, buckets=s.buckets, **options)

  def speaker_batches(self, utterances: Any, found: MemoryFeatures, **options: Any) -> Batches:
    frames = round(100 * self.speaker.data.seconds)
    return speaker_batches(MemoryCorpus(utterances), found, rows=self.sizes.speaker_rows, frames=frames, **options)

  def crop_batches(self, utterances: Sequence[Utterance], found: MemoryFeatures) -> Batches:
    rows = CropRows(MemoryCorpus(utterances), found, 0, [one.wave_A for one in utterances])
    lengths_N = np.minimum(found.lengths("mel"), self.sizes.crop_frames)
    sizes = {"buckets": (self.sizes.crop_frames,), "rows": (self.sizes.crops,)}
    return Batches(rows, BucketPlan(lengths_N, **sizes, seed=0, shuffle=True, keep_rest=False), seed=0)


def prepare(parts: Parts, speakers: int, what: str) -> Fit:
  """A network's compiled step. Shapes follow from settings alone, so nothing waits for data."""
  blank = Utterance(np.zeros(1, np.int16), "a", "a", "a", "en")
  seconds = max(parts.sizes.buckets)
  lengths = {"log_mel_16k": 100 * seconds, "fbank": 100 * seconds, "mel": 50 * seconds, "speech_tokens": 25 * seconds}
  shape = {"log_mel_16k": (128,), "fbank": (80,), "mel": (80,)}
  some = [blank] * 4096  # enough for a batch of any stage
  one = {name: np.zeros((int(n), *shape.get(name, ())), np.int32 if name == "speech_tokens" else np.float32)
         for name, n in lengths.items()}  # fmt: skip
  one["speaker"] = np.zeros(parts.speaker.speaker.speaker_dim, np.float32)
  found = MemoryFeatures({name: [array] * len(some) for name, array in one.items()})
  if what == "speaker":
    init, loss = parts.speaker_task(speakers)
    return Fit.prepare(what, loss, init, parts.speaker.optim, parts.speaker_batches(some, found).shapes)
  task = parts.tasks[what]
  if what == "speech_tokenizer":
    shapes = parts.tokenizer_batches(some, found).shapes
  elif what == "flow":
    shapes = parts.flow_batches(some, found).shapes
  else:
    rows, length = parts.sizes.lm_rows, parts.sizes.lm_length
    names = ("ids_BL", "token_types_BL", "targets_BL", "segments_BL", "positions_BL")
    shapes = [{name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in names}]
    shapes[0]["key"] = jax.ShapeDtypeStruct((2,), np.uint32)
  return Fit.prepare(what, task.loss, task.networks.init, task.networks.optim, shapes)
