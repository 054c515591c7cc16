"""Trains the speech tokenizer by recognising text through its tokens (paper 2.2).

  python -m train.speech_tokenizer --config configs/speech_tokenizer.py --data CORPUS --out RUN
  python -m train.speech_tokenizer --config configs/speech_tokenizer.py --tiny --data CORPUS --out RUN
  python -m train.speech_tokenizer --config configs/speech_tokenizer.py --compile-only v5e:16x16

The corpus needs the feature log_mel_16k (and f0 for the pitch loss): python -m train.features CORPUS
--names log_mel_16k. Evaluation reads the corpus's split "validation", or that of --eval-data.

--set asr.quantiser=vq trains a learned codebook instead of FSQ (Table 4), --set asr.pitch_weight=0.1
makes the tokens keep the pitch (Table 7). A run directory that is there is resumed.

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

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.data.batches import SECONDS, Batches, asr_batches, bucket_rows
from cosyjax.data.corpus import Corpus
from cosyjax.data.iterator import global_shapes
from cosyjax.data.rows import AsrRows
from cosyjax.evaluation import metrics as measures
from cosyjax.sharding import process_share, row_count
from cosyjax.speech_tokenizer import ctc, recognise, units
from cosyjax.speech_tokenizer.asr_loss import asr_loss, compare, outputs
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, init_arguments
from cosyjax.speech_tokenizer.augment import AugmentConfig, augment
from cosyjax.training.optimiser import OptimConfig
from cosyjax.training.step import Loss
from train import loop, weights
from train import task as task_lib
from train.cli import MeshConfig, RunConfig
from train.pictures import alignment_picture
from train.task import Findings, HostBatch, Network, Shapes, Task, Trainer


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Batches: rows of like length."""

  seconds: float = 120.0  # of audio in a batch, padding included, over all devices
  buckets: tuple[float, ...] = SECONDS  # row lengths
  unit_rate: float = 30.0  # bytes of text that a second of audio may have
  split: str = "train"  # of the corpus
  eval_split: str = "validation"
  workers: int = 0  # processes that read ahead; threads if 0


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run of this trainer depends on."""

  tokenizer: SpeechTokenizerConfig
  asr: AsrConfig
  data: DataConfig
  optim: OptimConfig
  run: RunConfig
  mesh: MeshConfig
  attention_reads: bool = True  # evaluation also decodes with the attention decoder
  augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)  # of training's recordings alone


def task(args: argparse.Namespace, config: Config) -> Task:
  config = dataclasses.replace(config, tokenizer=weights.sizes(args, "speech_tokenizer", config.tokenizer))
  c, run = config, config.run
  module = AsrTokenizer(c.tokenizer, c.asr, jnp.dtype(run.dtype), run.remat)

  def init(key: jax.Array) -> Any:
    params = module.init(key, *init_arguments(c.tokenizer))["params"]
    return (params, {"batches": jnp.zeros((), jnp.float32)}) if c.augment.rise else params

  def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Loss:
    after, strength = None, 1.0
    if c.augment.rise:  # what the state carries along counts the batches
      after = {"batches": extra["batches"] + 1.0}
      strength = jnp.minimum(extra["batches"] / c.augment.rise, 1.0)
    if c.augment != AugmentConfig():
      mel_BTM = augment(key, batch["log_mel_BTM"], batch["lengths_B"], c.augment, strength)
      batch = batch | {"log_mel_BTM": mel_BTM}
    return asr_loss(module, params, batch)._replace(extra=after)

  return Task(
    config=config,
    networks=Network(init, c.optim, run.steps),
    units="audio seconds",
    metric="token_error_rate",
    open=functools.partial(open_batches, config),
    shapes=functools.partial(batch_shapes, config),
    amount=lambda batch: float(batch["lengths_B"].sum()) / 100,
    capacity=lambda shapes: shapes["log_mel_BTM"].shape[0] * shapes["log_mel_BTM"].shape[1] / 100,
    loss=loss,
    look=functools.partial(look, module, c.attention_reads),
    measure=functools.partial(measure, config),
    start=weights.starter(args, "speech_tokenizer", lambda params: {"tokenizer": params}),
    ids={"units_BL": (1, units.CTC_UNITS)},
  )


def look(
  module: AsrTokenizer, attention: bool, params: Any, extra: Any, batch: dict[str, jax.Array], key: jax.Array
) -> tuple[Loss, dict[str, jax.Array]]:
  """Loss of a batch, and what is read in it and which tokens it has, for the host to measure."""
  found = outputs(module, params, batch)
  tokens = found.quantised
  out = {
    "tokens_BU": tokens.ids_BU,
    "lengths_B": tokens.lengths_B,
    "read_BR": ctc.greedy(found.ctc_BRV, module.asr.ctc_rate * tokens.lengths_B),
    "alignment_RL": ctc.alignment(found.ctc_BRV[0], batch["units_BL"][0]),
    "units_BL": batch["units_BL"],
    "unit_lengths_B": batch["unit_lengths_B"],
  }
  if attention:
    out["written_BR"] = recognise.read_attention(module, params, batch["log_mel_BTM"], batch["lengths_B"])
  return compare(module.asr, found, batch), out


def measure(config: Config, results: Sequence[Any], batches: Sequence[HostBatch]) -> Findings:
  """Scalars and pictures over fixed batches: losses, error rates, use of the codebook."""
  truth, read, written, alignment = [], [], [], None
  codes = config.tokenizer.codebook_size if config.asr.quantiser == "fsq" else config.asr.vq_codes
  counts_C = np.zeros(codes, np.int64)
  for _, out in results:
    for row in np.flatnonzero(out["lengths_B"]):
      truth.append(out["units_BL"][row, : out["unit_lengths_B"][row]].tolist())
      read.append(out["read_BR"][row][out["read_BR"][row] > 0].tolist())
      if config.attention_reads:
        written.append(out["written_BR"][row][out["written_BR"][row] > 0].tolist())
      counts_C += np.bincount(out["tokens_BU"][row, : out["lengths_B"][row]], minlength=codes)
    if alignment is None:
      alignment = out["alignment_RL"][: config.asr.ctc_rate * out["lengths_B"][0], : out["unit_lengths_B"][0]]
  use = measures.codebook_use(counts_C)
  scalars = task_lib.means([loss for loss, _ in results])
  scalars["token_error_rate"] = measures.error_rate(truth, read)
  scalars["character_error_rate"] = measures.error_rate(map(units.decode, truth), map(units.decode, read))
  if config.attention_reads:
    scalars["token_error_rate_attention"] = measures.error_rate(truth, written)
  scalars |= {"codes_used": use.utilisation, "codes_used_of_fillable": use.of_fillable, "perplexity": use.perplexity}
  return Findings(scalars, {"ctc_alignment": alignment_picture(alignment.T)})


def open_batches(config: Config, directory: Path, split: str, mesh: Mesh, fixed: bool) -> Batches:
  c = config.data
  return asr_batches(
    Corpus(directory, split), None, seconds=c.seconds, buckets=c.buckets, row_multiple=row_count(mesh),
    unit_rate=c.unit_rate, f0=config.asr.pitch_weight > 0, seed=config.run.seed, process=process_share(mesh),
    **task_lib.order(fixed, c.workers),
  )  # fmt: skip


def batch_shapes(config: Config, row_multiple: int) -> Shapes:
  """Shapes of the global batch of the longest rows."""
  c = config.data
  reader = AsrRows(None, None, 0, c.unit_rate, config.asr.pitch_weight > 0)
  return global_shapes(reader, bucket_rows(c.buckets, c.seconds, row_multiple)[-1], round(c.buckets[-1] * 100))


TRAINER = Trainer("speech_tokenizer", __doc__, Config, task)
main = functools.partial(loop.run, TRAINER)

if __name__ == "__main__":
  raise SystemExit(loop.program("train.speech_tokenizer"))
