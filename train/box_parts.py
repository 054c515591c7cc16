"""The five networks as `train.box_device` trains them: sizes, losses, batches, and their steps compiled ahead."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.data.batches import Batches, asr_batches, flow_batches, lm_batches, speaker_batches
from cosyjax.data.plan import BucketPlan
from cosyjax.flow import flow_objective
from cosyjax.flow.flow_model import Flow
from cosyjax.flow.flow_model import init_arguments as flow_arguments
from cosyjax.lm import lm_objective
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.speech_tokenizer.asr_model import AsrTokenizer
from cosyjax.text import TextTokenizer
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
  """Modules, losses and settings of the five networks, from configs/box."""

  def __init__(self, tiny: bool, dtype: str, sizes: Sizes) -> None:
    load = lambda name, trainer: cli.load(CONFIGS / f"{name}.py", trainer.Config, tiny=tiny)
    self.sizes = sizes
    self.tokenizer, self.speaker = load("speech_tokenizer", tokenizer_trainer), load("speaker", speaker_trainer)
    self.lm, self.flow = load("lm", lm_trainer), load("flow", flow_trainer)
    run = lambda c: dataclasses.replace(c.run, dtype=dtype)
    frames = dataclasses.replace(load("vocoder", vocoder_trainer).data, rows=sizes.crops, frames=sizes.crop_frames)
    self.vocoder = load("vocoder", vocoder_trainer)
    self.vocoder = dataclasses.replace(self.vocoder, data=frames, alone=0, target_f0=200, run=run(self.vocoder))
    kind = jnp.dtype(dtype)
    self.asr = AsrTokenizer(self.tokenizer.tokenizer, self.tokenizer.asr, kind)
    self.lm_model = TextSpeechLM(self.lm.lm, kind, scan=True)
    self.flow_model = Flow(self.flow.flow, kind, training=True)

  # ---- losses, as the trainers have them

  def lm_loss(self, params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Any:
    return lm_objective.objective(self.lm_model, params, batch)

  def flow_loss(self, params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Any:
    lengths_B, (_, frames, bins) = 2 * batch["token_lengths_B"], batch["mel_BTM"].shape
    draws = flow_objective.draw(key, lengths_B, frames, bins, self.flow.objective)
    return flow_objective.objective(self.flow_model, params, batch, draws, self.flow.objective.kind)

  # ---- first parameters

  def lm_init(self, key: jax.Array) -> Any:
    row = jnp.zeros((1, 8), jnp.int32)
    return self.lm_model.init(key, row, row, segments_BL=row, speaker_BSE=None)["params"]

  def flow_init(self, key: jax.Array) -> Any:
    return self.flow_model.init(key, *flow_arguments(self.flow.flow))["params"]

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
  one["speaker"] = np.zeros(parts.speaker.speaker.embedding, np.float32)
  found = MemoryFeatures({name: [array] * len(some) for name, array in one.items()})
  if what == "speech_tokenizer":
    init, loss = tokenizer_trainer.parts(parts.tokenizer, parts.asr)
    return Fit.prepare(what, loss, init, parts.tokenizer.optim, parts.tokenizer_batches(some, found).shapes)
  if what == "speaker":
    _, init, loss = speaker_trainer.parts(parts.speaker, speakers)
    return Fit.prepare(what, loss, init, parts.speaker.optim, parts.speaker_batches(some, found).shapes)
  if what == "flow":
    return Fit.prepare(what, parts.flow_loss, parts.flow_init, parts.flow.optim, parts.flow_batches(some, found).shapes)
  rows, length = parts.sizes.lm_rows, parts.sizes.lm_length
  names = ("ids_BL", "kinds_BL", "targets_BL", "segments_BL", "positions_BL")
  shapes = {name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in names}
  shapes["key"] = jax.ShapeDtypeStruct((2,), np.uint32)
  return Fit.prepare(what, parts.lm_loss, parts.lm_init, parts.lm.optim, [shapes])
