"""Trains the vocoder against its discriminators, from scratch or from given weights.

  python -m train.vocoder --config configs/vocoder.py --data CORPUS --out RUN
  python -m train.vocoder --config configs/vocoder.py --tiny --data CORPUS --out RUN
  python -m train.vocoder --config configs/vocoder_finetune.py --init MODEL --data CORPUS --out RUN
  python -m train.vocoder --config configs/vocoder.py --compile-only v5e:16x16

The corpus needs the features mel and f0: python -m train.features CORPUS --names mel f0. To train on what
the flow makes of the recordings' own tokens instead of on their mel, compute it with python -m
train.flow_mels CORPUS --model MODEL and set data.mel=flow_mel, as configs/vocoder_finetune.py does.
Evaluation reads the corpus's split "validation", or that of --eval-data, utterances whole.

--init starts the generator from a model directory's vocoder; the discriminators, which no release has,
start afresh. A run directory that is there is resumed.

Exit status: 0, 1 for an error (or a step that does not fit, with --compile-only), 75 when stopped by a
signal and saved.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cosyjax.analysis.gan_flops import step_flops
from cosyjax.audio.stft import fft_options
from cosyjax.config import AudioConfig, VocoderConfig
from cosyjax.data.batches import Batches, vocoder_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.data.iterator import global_shapes
from cosyjax.data.rows import VocoderRows
from cosyjax.errors import ConfigError
from cosyjax.sharding import process_share, row_count
from cosyjax.training.optimiser import OptimConfig
from cosyjax.vocoder.discriminators import DiscriminatorConfig, Discriminators
from cosyjax.vocoder.gan_step import Objective, evaluate, make_updates
from cosyjax.vocoder.hift import Vocoder, init_arguments
from cosyjax.vocoder.losses import log_mel
from train import loop, runtime, weights
from train import task as task_lib
from train.cli import MeshConfig, RunConfig
from train.pictures import mel_picture
from train.task import Findings, HostBatch, Network, Task, Trainer

GENERATOR, DISCRIMINATORS = "generator", "discriminators"


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Crops to train on, whole utterances to evaluate on."""

  rows: int = 256  # crops in a batch, over all devices
  frames: int = 51  # mel frames of a crop, 50 a second
  split: str = "train"  # of the corpus
  eval_split: str = "validation"
  mel: str = "mel"  # feature that is vocoded; "flow_mel" is what the flow makes of the recording's tokens
  eval_rows: int = 8  # utterances in a batch of evaluation; raised to what the mesh's rows divide
  eval_frames: int = 500  # of an utterance that evaluation resynthesises; longer ones are cut
  workers: int = 0  # processes that read ahead; threads if 0


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run of this trainer depends on."""

  model: VocoderConfig
  discriminators: DiscriminatorConfig
  objective: Objective
  data: DataConfig
  optim: OptimConfig  # of the generator
  discriminator_optim: OptimConfig
  run: RunConfig
  mesh: MeshConfig
  alone: int = 0  # so many steps at first the generator learns mel and f0 alone
  target_f0: int = 0  # so many steps at first the source runs at the recording's f0, not at the predicted one
  audio: AudioConfig = dataclasses.field(default_factory=AudioConfig)

  def __post_init__(self):
    if self.optim.accumulate != self.discriminator_optim.accumulate:
      raise ConfigError("optim.accumulate and discriminator_optim.accumulate: expected the same number")


def task(args: argparse.Namespace, config: Config) -> Task:
  sizes, audio = weights.sizes(args, "vocoder", config.model), weights.audio(args, config.audio)
  c = config = dataclasses.replace(config, model=sizes, audio=audio)
  dtype, run, data = jnp.dtype(c.run.dtype), c.run, c.data
  model, discriminators = Vocoder(c.model, dtype), Discriminators(c.discriminators, dtype)
  generate = lambda key: model.init(key, *init_arguments(c.model))["params"]
  discriminate = lambda key: discriminators.init(key, jnp.zeros((1, data.frames * audio.hop)))["params"]
  networks = {
    GENERATOR: Network(generate, c.optim, run.steps, GENERATOR),
    DISCRIMINATORS: Network(discriminate, c.discriminator_optim, max(run.steps - c.alone, 1), DISCRIMINATORS),
  }

  def updates(shardings: Any) -> dict[int, task_lib.Update]:
    each = lambda what: {name: what(network) for name, network in networks.items()}
    alone, both = make_updates(
      model, discriminators, c.objective, each(lambda n: n.tx), each(lambda n: n.optim), each(lambda n: n.steps),
      target_f0=c.target_f0, remat=run.remat, shardings=shardings,
    )  # fmt: skip
    return {0: alone, c.alone: both} if c.alone else {0: both}

  return Task(
    config=config,
    networks=networks,
    units="audio seconds",
    metric="mel",
    open=functools.partial(open_batches, config),
    shapes=lambda _: global_shapes(VocoderRows(None, None, 0, data.mel, audio), data.rows, data.frames),
    amount=lambda batch: float(batch["lengths_B"].sum()) / audio.frame_rate,
    capacity=lambda shapes: shapes["mel_BTM"].shape[0] * shapes["mel_BTM"].shape[1] / audio.frame_rate,
    flops=lambda shapes, step: step_flops(model, discriminators, *shapes["f0_BT"].shape, alone=step < c.alone),
    updates=updates,
    main=GENERATOR,
    look=lambda params, extra, batch, key: evaluate(model, params, batch, key),
    measure=functools.partial(measure, audio),
    sample_rate=audio.sample_rate,
    compiler_options=fft_options,
    start=weights.starter(args, "vocoder"),
  )


def measure(audio: AudioConfig, results: Sequence[Any], batches: Sequence[HostBatch]) -> Findings:
  """Scalars over fixed utterances; a picture and sounds of the longest one of the first batch."""
  totals = jax.tree.map(lambda *parts: np.sum(parts), *(sums for sums, _ in results))
  scalars = {name: float(a / b) for name, (a, b) in totals.items() if b}
  if not runtime.is_main():
    return Findings(scalars)
  batch, wave_BA = batches[0], results[0][1]  # process 0 holds the first rows
  row = int(np.argmax(batch["lengths_B"]))
  frames = int(batch["lengths_B"][row])
  waves = {"recording": batch["audio_BA"][row], "resynthesis": np.asarray(wave_BA)[row]}
  log = functools.partial(log_mel, n_fft=audio.n_fft, bins=audio.mel_bins, sample_rate=audio.sample_rate)
  mels = (np.asarray(log(wave_A[None])[0, :frames]) for wave_A in waves.values())
  return Findings(
    scalars, {"mel": mel_picture(*mels)}, {name: wave_A[: frames * audio.hop] for name, wave_A in waves.items()}
  )


def open_batches(config: Config, directory: Path, split: str, mesh: Mesh, fixed: bool) -> Batches:
  """Crops for training; whole utterances for evaluation."""
  c = config.data
  features, multiple = Features(directory, split, (c.mel, "f0")), row_count(mesh)
  rows, frames = (-(-c.eval_rows // multiple) * multiple, c.eval_frames) if fixed else (c.rows, c.frames)
  order = task_lib.order(fixed, c.workers)
  return vocoder_batches(
    Corpus(directory, split), features, rows=rows, frames=frames, mel=c.mel, audio=config.audio, seed=config.run.seed,
    process=process_share(mesh), **order,
  )  # fmt: skip


TRAINER = Trainer("vocoder", __doc__, Config, task)
main = functools.partial(loop.run, TRAINER)

if __name__ == "__main__":
  raise SystemExit(loop.program("train.vocoder"))
