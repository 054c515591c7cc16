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
from cosyjax.config import SpeakerConfig, to_dict
from cosyjax.data.batches import speaker_batches
from cosyjax.data.corpus import Corpus
from cosyjax.errors import DataError
from cosyjax.evaluation import metrics as measures
from cosyjax.layers.basic import unbox
from cosyjax.sharding import batch_sharding, process_share, put_batch
from cosyjax.speaker import speaker_objective
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.processes import together
from cosyjax.training.step import make_update
from cosyjax.training.train_state import abstract_state, create_state, state_shardings, with_shardings
from train import cli, compile_only, runtime
from train.cli import MeshConfig, RunConfig
from train.log import Log
from train.runtime import due

SPEAKERS = 20_000  # that --compile-only assumes where there is no corpus to count them in


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Batches: crops of one length."""

  rows: int = 128  # over all devices
  seconds: float = 3.0  # of a crop
  eval_seconds: float = 8.0  # that evaluation hears of a recording, at most
  eval_rows: int = 32
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


def main(argv: Sequence[str] | None = None, look: compile_only.Look | None = None) -> int:
  # ---- settings
  args, config = cli.parse(__doc__, Config, argv, runs=look is None)
  runtime.join(args)
  c, run, data = config, config.run, config.data
  tx = make_optimiser(c.optim, run.steps)

  create = lambda init, mesh: create_state(init, tx, c.optim, mesh, runtime.make_key(run.seed, "params"))

  # ---- compile only
  if args.compile_only or look:
    _, init, loss_fn = parts(c, SPEAKERS)
    abstract = abstract_state(init, tx, c.optim)
    step_of = functools.partial(build, config=c, abstract=abstract, loss_fn=loss_fn, tx=tx)
    what = {"mesh": c.mesh, "units": "audio seconds", "dtype": run.dtype}
    if look:
      return look(step_of, functools.partial(create, init), config, **what)
    return compile_only.report("speaker", args.compile_only, step_of, **what, file=args.report)

  # ---- devices
  mesh = runtime.start(args, c)

  # ---- data
  share = {"seed": run.seed, "process": process_share(mesh)}
  batches = speaker_batches(
    Corpus(args.data), None, rows=data.rows, frames=round(100 * data.seconds), workers=data.workers, **share
  )
  fixed = fixed_batches(args, c, share)

  # ---- state: resumed, or created
  module, init, loss_fn = parts(c, len(batches.speakers))
  abstract = abstract_state(init, tx, c.optim)
  shardings = state_shardings(abstract, mesh)
  checkpoints = Checkpoints(
    args.out / "checkpoints", config=to_dict(c), keep_last=run.keep_last, keep_best=run.keep_best,
    metric="equal_error_rate", every=run.save_every, allow_config_change=args.allow_config_change,
  )  # fmt: skip
  step = 0
  if checkpoints.latest() is not None:
    step, state, position = checkpoints.restore(with_shardings(abstract, mesh))
    batches.restore(position)
  else:
    state = create(init, mesh)

  # ---- update and evaluation
  update = together(make_update(loss_fn, tx, c.optim, run.steps, shardings), "step")
  everywhere = NamedSharding(mesh, PartitionSpec())
  look = together(jax.jit(functools.partial(look_at, module), out_shardings=everywhere), "evaluation")
  flops = training_flops(loss_fn, unbox(abstract).params, batches.shapes[-1], None, unbox(abstract).extra)
  heard = data.rows * data.seconds
  log = Log(
    args.out, total_steps=run.steps, config=to_dict(c), units="audio seconds", flops_per_unit=flops / heard,
    dtype=run.dtype, log_every=run.log_every, start=step, name="speaker",
  )  # fmt: skip
  stop = runtime.Stop()
  score = None

  # ---- loop
  while step < run.steps:
    batch = put_batch(next(batches), mesh)
    with jax.set_mesh(mesh), runtime.no_copies():
      state, metrics = update(state, batch)
    step += 1
    log.step(step, metrics, heard, stats=batches.stats)
    stop.poll(step)
    if fixed and (due(step, run.eval_every) or step == run.steps):
      params = state.params if state.ema is None else state.ema
      scalars = evaluate(look, params, state.extra, fixed, mesh)
      score = scalars["equal_error_rate"]
      log.evaluation(step, scalars)
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


def parts(config: Config, speakers: int) -> tuple[speaker_objective.SpeakerClassifier, Any, Any]:
  """The classifier of so many speakers, its first parameters, and its loss."""
  module = speaker_objective.SpeakerClassifier(config.speaker, speakers, jnp.dtype(config.run.dtype))
  loss = lambda params, batch, key, extra: speaker_objective.speaker_loss(module, config.margin, params, batch, extra)
  return module, functools.partial(speaker_objective.init, module), loss


def fixed_batches(args: Any, config: Config, options: dict[str, Any]) -> list[dict[str, np.ndarray]]:
  """The batches of every evaluation: of `data.eval_split`, or with --eval-data else of "train"; [] without one."""
  data, run = config.data, config.run
  sizes = {"rows": data.eval_rows, "frames": round(100 * data.eval_seconds)}
  splits = (data.eval_split, "train") if args.eval_data else (data.eval_split,)
  for split in splits:
    try:
      corpus = Corpus(args.eval_data or args.data, split)
      batches = speaker_batches(corpus, None, **sizes, **options, shuffle=False, keep_rest=True)
    except DataError as error:
      if args.eval_data and split == splits[-1]:
        raise
      print(f"no evaluation on {split}: {error}", file=sys.stderr)
    else:
      found = [next(batches) for _ in range(min(run.eval_batches, batches.plan.batches))]
      batches.close()
      return found
  return []


def look_at(
  module: speaker_objective.SpeakerClassifier, params: Any, extra: Any, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """Vectors of a batch, and whose they are."""
  vectors_BE = speaker_objective.speaker_vectors(module, params, extra, batch["fbank_BTM"], batch["lengths_B"])
  return {"vectors_BE": vectors_BE, "labels_B": batch["labels_B"], "lengths_B": batch["lengths_B"]}


def evaluate(
  look: Any, params: Any, extra: Any, batches: Sequence[dict[str, np.ndarray]], mesh: Mesh
) -> dict[str, float]:
  """Equal error rate over all pairs of the recordings in fixed batches, and what the pairs look like."""
  found = [jax.device_get(look(params, extra, put_batch(batch, mesh))) for batch in batches]
  vectors_NE, labels_N = (np.concatenate([out[n][out["lengths_B"] > 0] for out in found])
                          for n in ("vectors_BE", "labels_B"))  # fmt: skip
  scores, same = measures.verification_trials(vectors_NE, labels_N)
  mean = lambda of: float(scores[of].mean()) if of.any() else float("nan")
  return {
    "equal_error_rate": measures.equal_error_rate(scores, same),
    "cosine_same": mean(same),
    "cosine_other": mean(~same),
    "trials": float(len(same)),
  }


def build(
  mesh: Mesh, *, config: Config, abstract: Any, loss_fn: Any, tx: Any
) -> tuple[Any, tuple[Any, Any], float, float]:
  """What --compile-only compiles."""
  c, data = config, config.data
  place = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=batch_sharding(mesh))
  batch = {
    "fbank_BTM": place((data.rows, round(100 * data.seconds), c.speaker.mel_bins), jnp.float32),
    "lengths_B": place((data.rows,), jnp.int32),
    "labels_B": place((data.rows,), jnp.int32),
    "key": jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=NamedSharding(mesh, PartitionSpec())),
  }
  update = make_update(loss_fn, tx, c.optim, c.run.steps, state_shardings(abstract, mesh))
  flops = training_flops(loss_fn, unbox(abstract).params, batch, None, unbox(abstract).extra)
  return update, (with_shardings(abstract, mesh), batch), data.rows * data.seconds, flops


if __name__ == "__main__":
  from train.speaker import main as run  # the module that the configuration file imports too

  sys.exit(cli.at_exit(run))
