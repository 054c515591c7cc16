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

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cosyjax.analysis.flops import training_flops
from cosyjax.config import SpeechTokenizerConfig, to_dict
from cosyjax.data.batches import SECONDS, asr_batches, bucket_rows
from cosyjax.data.corpus import Corpus
from cosyjax.errors import DataError
from cosyjax.evaluation import metrics as measures
from cosyjax.layers.basic import unbox
from cosyjax.sharding import batch_sharding, process_share, put_batch, row_count, share_count
from cosyjax.speech_tokenizer import ctc, recognise, units
from cosyjax.speech_tokenizer.asr_loss import asr_loss, compare, hear
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, init_arguments
from cosyjax.speech_tokenizer.augment import AugmentConfig, augment
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.processes import together
from cosyjax.training.step import Loss, make_update, summarise
from cosyjax.training.train_state import abstract_state, create_state, state_shardings, with_shardings
from train import cli, compile_only, runtime
from train.cli import MeshConfig, RunConfig
from train.log import Log
from train.pictures import alignment_picture
from train.runtime import due


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Batches: rows of like length."""

  seconds: float = 120.0  # of audio in a batch, padding included, over all devices
  buckets: tuple[float, ...] = SECONDS  # row lengths
  unit_rate: float = 30.0  # bytes of text that a second of audio may have
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


def main(argv: Sequence[str] | None = None, look: compile_only.Look | None = None) -> int:
  # ---- settings
  args, config = cli.parse(__doc__, Config, argv, runs=look is None)
  runtime.join(args)
  c, run, data = config, config.run, config.data
  module = AsrTokenizer(c.tokenizer, c.asr, jnp.dtype(run.dtype), run.remat)
  init = lambda key: module.init(key, *init_arguments(c.tokenizer))["params"]

  def loss_fn(params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any) -> Loss:
    if c.augment != AugmentConfig():
      mel_BTM = augment(key, batch["log_mel_BTM"], batch["lengths_B"], c.augment)
      batch = batch | {"log_mel_BTM": mel_BTM}
    return asr_loss(module, params, batch)

  tx = make_optimiser(c.optim, run.steps)
  abstract = abstract_state(init, tx, c.optim)

  # ---- compile only
  create = lambda mesh: create_state(init, tx, c.optim, mesh, runtime.make_key(run.seed, "params"))
  step_of = functools.partial(build, config=c, abstract=abstract, loss_fn=loss_fn, tx=tx)
  what = {"mesh": c.mesh, "units": "audio seconds", "dtype": run.dtype}
  if look:
    return look(step_of, create, config, **what)
  if args.compile_only:
    return compile_only.report("speech_tokenizer", args.compile_only, step_of, **what, file=args.report)

  # ---- devices
  mesh = runtime.start(args, c)

  # ---- data
  split = {"row_multiple": row_count(mesh), "seed": run.seed, "process": process_share(mesh)}
  split |= {"seconds": data.seconds, "buckets": data.buckets, "unit_rate": data.unit_rate, "f0": c.asr.pitch_weight > 0}
  batches = asr_batches(Corpus(args.data), None, **split, workers=data.workers)
  fixed = fixed_batches(args, c, split)

  # ---- state: resumed, or created
  shardings = state_shardings(abstract, mesh)
  checkpoints = Checkpoints(
    args.out / "checkpoints", config=to_dict(c), keep_last=run.keep_last, keep_best=run.keep_best,
    metric="token_error_rate", every=run.save_every, allow_config_change=args.allow_config_change,
  )  # fmt: skip
  step = 0
  if checkpoints.latest() is not None:
    step, state, position = checkpoints.restore(with_shardings(abstract, mesh))
    batches.restore(position)
  else:
    state = create(mesh)

  # ---- update and evaluation
  update = together(make_update(loss_fn, tx, c.optim, run.steps, shardings), "step")
  everywhere = NamedSharding(mesh, PartitionSpec())
  look = jax.jit(functools.partial(look_at, module, c.attention_reads), out_shardings=everywhere)
  look = together(look, "evaluation")
  shapes = batches.shapes[-1]
  flops = training_flops(functools.partial(total, loss_fn), unbox(abstract).params, shapes)
  seconds = shapes["log_mel_BTM"].shape[0] * shapes["log_mel_BTM"].shape[1] / 100
  log = Log(
    args.out, total_steps=run.steps, config=to_dict(c), units="audio seconds", flops_per_unit=flops / seconds,
    dtype=run.dtype, log_every=run.log_every, start=step, name="speech_tokenizer",
  )  # fmt: skip
  stop = runtime.Stop()
  score = None

  # ---- loop
  while step < run.steps:
    batch = next(batches)
    heard = float(batch["lengths_B"].sum()) / 100 * share_count(mesh)
    batch = put_batch(batch, mesh)
    with jax.set_mesh(mesh), runtime.no_copies():
      state, metrics = update(state, batch)
    step += 1
    log.step(step, metrics, heard, stats=batches.stats)
    stop.poll(step)
    if fixed and (due(step, run.eval_every) or step == run.steps):
      params = state.params if state.ema is None else state.ema
      scalars, pictures = evaluate(look, params, fixed, mesh, c)
      score = scalars["token_error_rate"]
      log.evaluation(step, scalars, pictures)
    if due(step, run.save_every) or stop.asked or step == run.steps:
      log.flush()
      checkpoints.save(step, state, batches.state(), metric=score, wait=step == run.steps)
    if stop.asked:
      break
  checkpoints.close()
  batches.close()
  log.close()
  stop.close()
  return runtime.STOPPED if stop.asked and step < run.steps else 0


def fixed_batches(args: Any, config: Config, options: dict[str, Any]) -> list[dict[str, np.ndarray]]:
  """The batches of every evaluation: of the split "validation", or with --eval-data else of "train"; [] without one."""
  splits = ("validation", "train") if args.eval_data else ("validation",)
  for split in splits:
    try:
      corpus = Corpus(args.eval_data or args.data, split)
      batches = asr_batches(corpus, None, **options, shuffle=False, keep_rest=True)
    except DataError as error:
      if args.eval_data and split == splits[-1]:
        raise
      print(f"no evaluation on {split}: {error}", file=sys.stderr)
    else:
      found = [next(batches) for _ in range(min(config.run.eval_batches, batches.plan.batches))]
      batches.close()
      return found
  return []


def look_at(
  module: AsrTokenizer, attention: bool, params: Any, batch: dict[str, jax.Array]
) -> tuple[Loss, dict[str, jax.Array]]:
  """Loss of a batch, and what is read in it and which tokens it has, for the host to measure."""
  heard = hear(module, params, batch)
  tokens = heard.quantised
  out = {
    "tokens_BU": tokens.ids_BU,
    "lengths_B": tokens.lengths_B,
    "read_BR": ctc.greedy(heard.ctc_BRV, module.asr.ctc_rate * tokens.lengths_B),
    "alignment_RL": ctc.alignment(heard.ctc_BRV[0], batch["units_BL"][0]),
    "units_BL": batch["units_BL"],
    "unit_lengths_B": batch["unit_lengths_B"],
  }
  if attention:
    out["written_BR"] = recognise.read_attention(module, params, batch["log_mel_BTM"], batch["lengths_B"])
  return compare(module.asr, heard, batch), out


def evaluate(
  look: Any, params: Any, batches: Sequence[dict[str, np.ndarray]], mesh: Mesh, config: Config
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
  """Scalars and pictures over fixed batches: losses, error rates, use of the codebook."""
  losses, truth, read, written, alignment = [], [], [], [], None
  codes = config.tokenizer.codebook_size if config.asr.quantiser == "fsq" else config.asr.vq_codes
  counts_C = np.zeros(codes, np.int64)
  for batch in batches:
    loss, out = jax.device_get(look(params, put_batch(batch, mesh)))
    losses.append(loss)
    for row in np.flatnonzero(out["lengths_B"]):
      truth.append(out["units_BL"][row, : out["unit_lengths_B"][row]].tolist())
      read.append(out["read_BR"][row][out["read_BR"][row] > 0].tolist())
      if config.attention_reads:
        written.append(out["written_BR"][row][out["written_BR"][row] > 0].tolist())
      counts_C += np.bincount(out["tokens_BU"][row, : out["lengths_B"][row]], minlength=codes)
    if alignment is None:
      alignment = out["alignment_RL"][: config.asr.ctc_rate * out["lengths_B"][0], : out["unit_lengths_B"][0]]
  loss, metrics = summarise(jax.tree.map(lambda *parts: np.sum(parts), *losses))
  use = measures.codebook_use(counts_C)
  scalars = {"loss": float(loss)} | {name: float(value) for name, value in metrics.items()}
  scalars["token_error_rate"] = measures.error_rate(truth, read)
  scalars["character_error_rate"] = measures.error_rate(map(units.decode, truth), map(units.decode, read))
  if config.attention_reads:
    scalars["token_error_rate_attention"] = measures.error_rate(truth, written)
  scalars |= {"codes_used": use.utilisation, "codes_used_of_fillable": use.of_fillable, "perplexity": use.perplexity}
  return scalars, {"ctc_alignment": alignment_picture(alignment.T)}


def total(loss_fn: Any, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """The summed loss of a batch with any key: for counting FLOPs."""
  return loss_fn(params, batch, jax.random.key(0), None).total


def build(
  mesh: Mesh, *, config: Config, abstract: Any, loss_fn: Any, tx: Any
) -> tuple[Any, tuple[Any, Any], float, float]:
  """What --compile-only compiles: the step on the batch of the longest rows."""
  c, data = config, config.data
  rows = bucket_rows(data.buckets, data.seconds, row_count(mesh))[-1]
  frames = round(data.buckets[-1] * 100)
  place = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=batch_sharding(mesh))
  batch = {
    "log_mel_BTM": place((rows, frames, c.tokenizer.mel_bins), jnp.float32),
    "lengths_B": place((rows,), jnp.int32),
    "units_BL": place((rows, 10 + int(frames / 100 * data.unit_rate)), jnp.int32),
    "unit_lengths_B": place((rows,), jnp.int32),
    "key": jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=NamedSharding(mesh, PartitionSpec())),
  }
  if c.asr.pitch_weight:
    batch["f0_BT"] = place((rows, frames // 2), jnp.float32)
  update = make_update(loss_fn, tx, c.optim, c.run.steps, state_shardings(abstract, mesh))
  flops = training_flops(functools.partial(total, loss_fn), unbox(abstract).params, batch)
  return update, (with_shardings(abstract, mesh), batch), rows * frames / 100, flops


if __name__ == "__main__":
  from train.speech_tokenizer import main as run  # the module that the configuration file imports too

  sys.exit(cli.at_exit(run))
