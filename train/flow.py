"""Trains the flow (paper 2.4): speech tokens, a speaker and a reference to mel spectrograms.

  python -m train.flow --config configs/flow.py --data CORPUS --out RUN
  python -m train.flow --config configs/flow_finetune.py --data CORPUS --out RUN --init MODEL_DIR
  python -m train.flow --config configs/box/flow_distilled.py --data CORPUS --out RUN --init MODEL_DIR

Needs the features speech_tokens, mel and speaker; see train.features. The same command resumes a run that
was stopped. Every row is drawn one of four attention masks, so that one model serves whole utterances
and streams. Evaluation measures each mask on the same times and noise every time, and speaks fixed
utterances of the evaluation corpus: their mel as pictures, and as sound with the vocoder of --init or --listen.

With `distil` above 0 the flow of --init is the teacher of one that needs so few steps and no guidance.
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

from cosyjax.config import AudioConfig, FlowConfig
from cosyjax.data.batches import SECONDS, Batches, bucket_rows, flow_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.data.iterator import global_shapes
from cosyjax.data.rows import FlowRows
from cosyjax.errors import ConfigError
from cosyjax.flow import distil, flow_objective
from cosyjax.flow.flow_model import Flow, init_arguments, stack
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.sharding import process_share, row_count
from cosyjax.training.optimiser import OptimConfig
from cosyjax.training.step import Loss
from train import loop, weights
from train import task as task_lib
from train.cli import MeshConfig, RunConfig
from train.listen import open_vocoder
from train.pictures import mel_picture
from train.task import Findings, HostBatch, Network, Shapes, Speak, Task, Trainer

FEATURES = ("speech_tokens", "mel", "speaker")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Batches, by length."""

  seconds: float = 7680.0  # of audio in a batch, over all devices, padding included
  buckets: tuple[float, ...] = SECONDS  # row lengths in seconds; utterances that are longer are left out
  split: str = "train"
  eval_split: str = "validation"
  workers: int = 0  # processes that read ahead; threads if 0


@dataclasses.dataclass(frozen=True)
class Config:
  """All settings of a run. With --init `flow` and `audio` are those of what it names."""

  run: RunConfig
  flow: FlowConfig
  objective: FlowObjective
  data: DataConfig
  optim: OptimConfig
  mesh: MeshConfig
  samples: int = 2  # utterances that each evaluation speaks
  prompt: float = 0.3  # share of each that it is given as a prompt
  audio: AudioConfig = dataclasses.field(default_factory=AudioConfig)
  distil: int = 0  # Euler steps without guidance to which the flow of --init is distilled; 0: ordinary training


def add_flags(flags: argparse.ArgumentParser) -> None:
  flags.add_argument("--listen", type=Path, metavar="MODEL_DIR", help="vocoder for the sounds of evaluations")


def task(args: argparse.Namespace, config: Config) -> Task:
  flow, audio = weights.sizes(args, "flow", config.flow), weights.audio(args, config.audio)
  taught = flow  # whose steps and guidance a distilled flow learns from
  if config.distil:
    distil.check_steps(config.distil, taught.steps)
    if not args.init and not args.compile_only:
      raise ConfigError("distil: expected the teacher as --init, also when a run is resumed")
    flow = dataclasses.replace(taught, steps=config.distil, guidance=0.0)
  config = dataclasses.replace(config, flow=flow, audio=audio)
  c, kind = flow, config.objective.kind
  model = Flow(c, jnp.dtype(config.run.dtype), training=True, remat=config.run.remat)

  def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Loss:
    lengths_B, (_, frames, mel_bins) = c.frames_per_token * batch["token_lengths_B"], batch["mel_BTM"].shape
    draws = flow_objective.draw(key, lengths_B, frames, mel_bins, config.objective)
    if config.distil:
      return distilled(params, extra, batch, draws)
    return flow_objective.objective(model, params, batch, draws, kind)

  def distilled(params: Any, teacher: Any, batch: dict[str, jax.Array], draws: flow_objective.Draws) -> Loss:
    of = {"few": config.distil, "many": taught.steps, "guidance": taught.guidance}
    return distil.objective(model, params, teacher, batch, draws, **of)

  def look(params: Any, extra: Any, batch: dict[str, jax.Array], key: jax.Array) -> Loss:
    if not config.distil:
      return flow_objective.validation(model, params, batch, key, kind=kind)
    lengths_B, (_, frames, mel_bins) = c.frames_per_token * batch["token_lengths_B"], batch["mel_BTM"].shape
    return distilled(params, extra, batch, flow_objective.fixed_draws(key, lengths_B, frames, mel_bins, 0))

  first = lambda key: model.init(key, *init_arguments(c))["params"]
  start = weights.starter(args, "flow", stack)
  if config.distil and start:
    given = start
    start = lambda begun: (given(begun)[0],) * 2  # the teacher is what the state carries along

  return Task(
    config=config,
    networks=Network((lambda key: (first(key),) * 2) if config.distil else first, config.optim, config.run.steps),
    units="audio seconds",
    metric="loss",
    open=functools.partial(open_batches, config),
    shapes=functools.partial(batch_shapes, config),
    amount=lambda batch: float(batch["token_lengths_B"].sum()) / audio.token_rate,
    capacity=lambda shapes: shapes["mel_BTM"].shape[0] * shapes["mel_BTM"].shape[1] / audio.frame_rate,
    loss=loss,
    look=look,
    measure=lambda losses, batches: Findings(by_mask(task_lib.means(losses))),
    start=start,
    speech=functools.partial(speech, args, config, model) if config.samples else None,
    sample_rate=audio.sample_rate,
    ids={"tokens_BU": (0, c.codebook_size)},
  )


# ---- evaluation


def by_mask(means: dict[str, float]) -> dict[str, float]:
  """The loss, and that of each mask as `loss_...`."""
  return {name if name == "loss" else f"loss_{name}": value for name, value in means.items()}


def speech(args: argparse.Namespace, config: Config, model: Flow, _: Batches, fixed: Sequence[HostBatch]) -> Speak:
  """What lets the flow speak the first utterances of the evaluation: each mel below the true one, and sounds."""
  solve = jax.jit(functools.partial(generate, model))
  directory = args.listen or (args.init if args.init and not weights.is_run(args.init) else None)
  vocode = open_vocoder(directory, dtype=config.run.dtype) if directory else None
  some = {name: x[: config.samples] for name, x in fixed[0].items() if name != "key"}
  lengths_B = config.flow.frames_per_token * some["token_lengths_B"]
  _, frames, mel_bins = some["mel_BTM"].shape
  prompts_B = (config.prompt * lengths_B).astype(np.int32)

  def speak(params: Any) -> Findings:
    mel_BTM = solve(
      params, some["tokens_BU"], some["token_lengths_B"], some["mel_BTM"], prompts_B, some["speaker_BE"],
      noise_table(frames, mel_bins),
    )  # fmt: skip
    made = [mel_TM[:length] for mel_TM, length in zip(np.asarray(mel_BTM), lengths_B, strict=True)]
    pairs = zip(some["mel_BTM"], made, strict=True)
    pictures = {f"mel_{i}": mel_picture(true[: len(mel_TM)], mel_TM) for i, (true, mel_TM) in enumerate(pairs)}
    waves = vocode(made) if vocode else []
    return Findings({}, pictures, {f"speech_{i}": wave_A for i, wave_A in enumerate(waves)})

  return speak


# ---- data


def open_batches(config: Config, directory: Path, split: str, mesh: Mesh, fixed: bool) -> Batches:
  features = Features(directory, split, FEATURES)
  batches = flow_batches(
    Corpus(directory, split),
    features,
    seconds=config.data.seconds,
    buckets=config.data.buckets,
    row_multiple=row_count(mesh),
    seed=config.run.seed,
    audio=config.audio,
    process=process_share(mesh),
    **task_lib.order(fixed, config.data.workers),
  )
  if (found := batches.shapes[0]["speaker_BE"].shape[1]) != config.flow.speaker_dim:
    raise ConfigError(f"{directory}: speaker vectors of length {found}, the flow takes {config.flow.speaker_dim}")
  return batches


def batch_shapes(config: Config, row_multiple: int) -> Shapes:
  """Shapes of the global batch of the longest rows."""
  c = config.data
  rows = bucket_rows(c.buckets, c.seconds, row_multiple)[-1]
  reader = FlowRows(None, None, 0, config.flow.speaker_dim, config.audio)
  return global_shapes(reader, rows, round(c.buckets[-1] * config.audio.token_rate))


TRAINER = Trainer("flow", __doc__, Config, task, add_flags)
main = functools.partial(loop.run, TRAINER)

if __name__ == "__main__":
  raise SystemExit(loop.program("train.flow"))
