"""Trains the speaker encoder: CAM++ with an additive angular margin.

  python -m train.speaker --config configs/speaker.py --data CORPUS --out RUN
  python -m train.speaker --config configs/speaker.py --tiny --data CORPUS --out RUN
  python -m train.speaker --config configs/speaker.py --compile-only v5e:16x16

The corpus needs the feature fbank: python -m train.features CORPUS --names fbank. Evaluation compares
every pair of recordings of the split "unseen" (speakers that training never hears), of the corpus or of
--eval-data, and gives the equal error rate. A run directory that is there is resumed.

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

from cosyjax.config import SpeakerConfig
from cosyjax.data.batches import Batches, speaker_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.iterator import global_shapes
from cosyjax.data.rows import SpeakerRows
from cosyjax.errors import ConfigError, DataError
from cosyjax.evaluation import metrics as measures
from cosyjax.sharding import process_share
from cosyjax.speaker import speaker_objective
from cosyjax.training.optimiser import OptimConfig
from cosyjax.training.step import Loss
from train import loop, weights
from train import task as task_lib
from train.cli import MeshConfig, RunConfig
from train.task import Findings, Network, Task, Trainer

SPEAKERS = 20_000  # that --compile-only assumes where there is no corpus to count them in


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Batches: crops of one length."""

  rows: int = 128  # over all devices
  seconds: float = 3.0  # of a crop
  eval_seconds: float = 8.0  # that evaluation hears of a recording, at most
  eval_rows: int = 32
  split: str = "train"  # of the corpus
  eval_split: str = "unseen"
  workers: int = 0  # processes that read ahead; threads if 0


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run of this trainer depends on."""

  speaker: SpeakerConfig
  margin: speaker_objective.MarginConfig
  data: DataConfig
  optim: OptimConfig
  run: RunConfig
  mesh: MeshConfig


def task(args: argparse.Namespace, config: Config) -> Task:
  if args.init and not weights.is_run(args.init):
    raise ConfigError(
      f"--init {args.init}: a model directory has the speaker encoder with the statistics of its norms folded in, "
      "which training needs apart; expected the --out of a run of train.speaker"
    )
  c = config = dataclasses.replace(config, speaker=weights.sizes(args, "speaker", config.speaker))
  speakers = count_speakers(args.data, c.data.split) if args.data else SPEAKERS
  module = speaker_objective.SpeakerClassifier(c.speaker, speakers, jnp.dtype(c.run.dtype))

  def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Loss:
    return speaker_objective.speaker_loss(module, c.margin, params, batch, extra)

  return Task(
    config=config,
    networks=Network(functools.partial(speaker_objective.init, module), c.optim, c.run.steps),
    units="audio seconds",
    metric="equal_error_rate",
    open=functools.partial(open_batches, config),
    shapes=lambda _: global_shapes(SpeakerRows(None, None, 0, None), c.data.rows, round(100 * c.data.seconds)),
    amount=lambda batch: float(batch["lengths_B"].sum()) / 100,
    capacity=lambda shapes: shapes["fbank_BTM"].shape[0] * shapes["fbank_BTM"].shape[1] / 100,
    loss=loss,
    look=functools.partial(look, module),
    measure=lambda results, batches: Findings(measure(results)),
    start=weights.starter(args, "speaker", fresh=("directions",)),
    ids={"labels_B": (0, speakers)},
  )


def count_speakers(directory: Path, split: str) -> int:
  """How many people speak in a split of a corpus.

  Raises:
    DataError: fewer than two, whom nothing could be told apart from.
  """
  names = sorted(set(Corpus(directory, split).names))
  if len(names) < 2:
    found = f"one, {names[0]!r}" if names else "none"
    raise DataError(
      f"{directory}: split {split!r}: expected two speakers or more, for the encoder learns to tell them apart; found "
      f"{found}. The speaker of an entry is its 'speaker' in the manifest, or the folder that its recording lies in"
    )
  return len(names)


def look(
  module: speaker_objective.SpeakerClassifier, params: Any, extra: Any, batch: dict[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
  """Vectors of a batch, and whose they are."""
  vectors_BE = speaker_objective.speaker_vectors(module, params, extra, batch["fbank_BTM"], batch["lengths_B"])
  return {"vectors_BE": vectors_BE, "labels_B": batch["labels_B"], "lengths_B": batch["lengths_B"]}


def measure(results: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
  """Equal error rate over all pairs of the recordings in fixed batches, and what the pairs look like."""
  vectors_NE, labels_N = (np.concatenate([out[n][out["lengths_B"] > 0] for out in results])
                          for n in ("vectors_BE", "labels_B"))  # fmt: skip
  scores, same = measures.verification_trials(vectors_NE, labels_N)
  mean = lambda of: float(scores[of].mean()) if of.any() else float("nan")
  return {
    "equal_error_rate": measures.equal_error_rate(scores, same),
    "cosine_same": mean(same),
    "cosine_other": mean(~same),
    "trials": float(len(same)),
  }


def open_batches(config: Config, directory: Path, split: str, mesh: Mesh, fixed: bool) -> Batches:
  c = config.data
  rows, seconds = (c.eval_rows, c.eval_seconds) if fixed else (c.rows, c.seconds)
  return speaker_batches(
    Corpus(directory, split), None, rows=rows, frames=round(100 * seconds), seed=config.run.seed,
    process=process_share(mesh), **task_lib.order(fixed, c.workers),
  )  # fmt: skip


TRAINER = Trainer("speaker", __doc__, Config, task)
main = functools.partial(loop.run, TRAINER)

if __name__ == "__main__":
  raise SystemExit(loop.program("train.speaker"))
