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

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cosyjax import checkpoint
from cosyjax.analysis.gan_flops import step_flops
from cosyjax.audio.stft import fft_options
from cosyjax.config import HOP, MEL_RATE, VocoderConfig, to_dict
from cosyjax.data.batches import vocoder_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.errors import ConfigError, DataError
from cosyjax.sharding import batch_sharding, process_share, put_batch, row_count, share_count
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.processes import together
from cosyjax.training.train_state import abstract_state, create_state, replace_params, state_shardings, with_shardings
from cosyjax.vocoder.discriminators import DiscriminatorConfig, Discriminators
from cosyjax.vocoder.gan_step import Objective, evaluate, make_updates
from cosyjax.vocoder.hift import Vocoder, init_arguments
from cosyjax.vocoder.losses import log_mel
from train import cli, compile_only, runtime
from train.cli import MeshConfig, RunConfig
from train.log import Log
from train.pictures import mel_picture
from train.runtime import due

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

  def __post_init__(self):
    if self.optim.accumulate != self.discriminator_optim.accumulate:
      raise ConfigError("optim.accumulate and discriminator_optim.accumulate: expected the same number")


def main(argv: Sequence[str] | None = None, look: compile_only.Look | None = None) -> int:
  # ---- settings
  args, config = cli.parse(__doc__, Config, argv, runs=look is None)
  runtime.join(args)
  if args.init:
    config = dataclasses.replace(config, model=checkpoint.load_config(args.init).vocoder)
  c, run, data = config, config.run, config.data

  # ---- models and optimisers
  model, judges, inits, transforms, optims, steps = networks(c)
  abstract = {name: abstract_state(inits[name], transforms[name], optims[name]) for name in inits}

  def updates_on(mesh: Mesh):
    return make_updates(
      model, judges, c.objective, transforms, optims, steps, target_f0=c.target_f0, remat=run.remat,
      shardings={name: state_shardings(abstract[name], mesh) for name in abstract},
    )  # fmt: skip

  def states_on(mesh: Mesh):
    return {name: with_shardings(abstract[name], mesh) for name in abstract}

  # ---- compile only: the step of both networks, for devices that are not there
  def build(mesh: Mesh):
    place = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=batch_sharding(mesh))
    batch = {
      "audio_BA": place((data.rows, data.frames * HOP), jnp.float32),
      "mel_BTM": place((data.rows, data.frames, c.model.mel_bins), jnp.float32),
      "f0_BT": place((data.rows, data.frames), jnp.float32),
      "lengths_B": place((data.rows,), jnp.int32),
      "key": jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=NamedSharding(mesh, PartitionSpec())),
    }
    flops = step_flops(model, judges, data.rows, data.frames)
    return updates_on(mesh)[1], (states_on(mesh), batch), data.rows * data.frames / MEL_RATE, flops

  def create(mesh: Mesh):
    key = lambda name: runtime.make_key(run.seed, name)
    return {name: create_state(inits[name], transforms[name], optims[name], mesh, key(name)) for name in inits}

  what = {"mesh": c.mesh, "units": "audio seconds", "dtype": run.dtype}
  if look:
    return look(build, create, config, **what)
  if args.compile_only:
    return compile_only.report("train.vocoder", args.compile_only, build, **what, file=args.report)

  # ---- devices
  mesh = runtime.start(args, c)
  stop = runtime.Stop()
  share = process_share(mesh)

  # ---- data
  def crops(directory: Any, name: str, **options: Any):
    features = Features(directory, name, (data.mel, "f0"))
    return vocoder_batches(Corpus(directory, name), features, mel=data.mel, process=share, **options)

  batches = crops(args.data, data.split, rows=data.rows, frames=data.frames, seed=run.seed, workers=data.workers)
  rows = -(-data.eval_rows // row_count(mesh)) * row_count(mesh)
  fixed = []
  try:
    held_out = crops(
      args.eval_data or args.data, data.eval_split, rows=rows, frames=data.eval_frames, shuffle=False, keep_rest=True
    )
  except DataError as error:
    if args.eval_data:
      raise
    print(f"no evaluation: {error}", file=sys.stderr)
  else:
    fixed = [next(held_out) for _ in range(min(run.eval_batches, held_out.plan.batches))]
    held_out.close()

  # ---- state: resumed, or created and perhaps given weights
  checkpoints = Checkpoints(
    args.out / "checkpoints", config=to_dict(c), keep_last=run.keep_last, keep_best=run.keep_best,
    metric="mel", every=run.save_every, allow_config_change=args.allow_config_change,
  )  # fmt: skip
  if checkpoints.latest() is not None:
    step, states, position = checkpoints.restore(states_on(mesh))
    batches.restore(position)
  else:
    step, states = 0, create(mesh)
    if args.init:
      wanted = states_on(mesh)[GENERATOR].params
      weights = checkpoint.load_params(args.init, "vocoder", wanted, jax.tree.map(lambda x: x.sharding, wanted))
      states[GENERATOR] = replace_params(states[GENERATOR], weights)

  # ---- update, evaluation and log
  alone, both = (together(update, "step") for update in updates_on(mesh))
  whole = NamedSharding(mesh, PartitionSpec())
  judge = jax.jit(functools.partial(evaluate, model), out_shardings=whole, compiler_options=fft_options())
  look = together(judge, "evaluation")
  log = Log(
    args.out,
    total_steps=run.steps,
    config=to_dict(c),
    units="audio seconds",
    flops_per_unit=step_flops(model, judges, 1, data.frames, alone=step < c.alone) * MEL_RATE / data.frames,
    dtype=run.dtype,
    log_every=run.log_every,
    start=step,
    name="vocoder",
  )

  # ---- loop
  score, code = None, 0
  while step < run.steps:
    host = next(batches)
    batch = put_batch(host, mesh)
    with runtime.no_copies():
      states, metrics = (alone if step < c.alone else both)(states, batch)
    step += 1
    log.step(step, metrics, float(host["lengths_B"].sum()) / MEL_RATE * share_count(mesh), stats=batches.stats)
    stop.poll(step)
    if fixed and (due(step, run.eval_every) or step == run.steps):
      scalars, pictures, sounds = evaluation(look, states[GENERATOR], fixed, mesh)
      log.evaluation(step, scalars, pictures, sounds)
      score = scalars["mel"]
    if due(step, run.save_every) or stop.asked or step == run.steps:
      log.flush()
      checkpoints.save(step, states, batches.state(), metric=score, wait=step == run.steps or stop.asked)
    if stop.asked and step < run.steps:
      code = runtime.STOPPED
      break
  checkpoints.close()
  batches.close()
  log.close()
  stop.close()
  return code


def networks(c: Config) -> tuple[Vocoder, Discriminators, dict, dict, dict, dict]:
  """Both networks; and, by name, what makes their parameters, their optimisers, settings, and lengths of run."""
  dtype = jnp.dtype(c.run.dtype)
  model, judges = Vocoder(c.model, dtype), Discriminators(c.discriminators, dtype)
  inits = {
    GENERATOR: lambda key: model.init(key, *init_arguments(c.model))["params"],
    DISCRIMINATORS: lambda key: judges.init(key, jnp.zeros((1, c.data.frames * HOP)))["params"],
  }
  optims = {GENERATOR: c.optim, DISCRIMINATORS: c.discriminator_optim}
  steps = {GENERATOR: c.run.steps, DISCRIMINATORS: max(c.run.steps - c.alone, 1)}
  transforms = {name: make_optimiser(optims[name], steps[name]) for name in optims}
  return model, judges, inits, transforms, optims, steps


def evaluation(
  look: Any, state: Any, batches: Sequence[dict[str, np.ndarray]], mesh: Mesh
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Scalars over fixed utterances; a picture and sounds of the longest one of the first batch."""
  params = state.params if state.ema is None else state.ema
  sums, pictures, sounds = [], {}, {}
  for n, batch in enumerate(batches):
    key = runtime.everywhere(runtime.make_key(n, "evaluation"), mesh)
    found, wave_BA = look(params, put_batch(batch, mesh), key)
    sums.append(jax.device_get(found))
    if n == 0 and runtime.is_main():  # process 0 holds the first rows
      row = int(np.argmax(batch["lengths_B"]))
      frames = int(batch["lengths_B"][row])
      waves = {"recording": batch["audio_BA"][row], "resynthesis": np.asarray(wave_BA)[row]}
      mels = (np.asarray(log_mel(wave_A[None], 1920, 80)[0, :frames]) for wave_A in waves.values())
      pictures = {"mel": mel_picture(*mels)}
      sounds = {name: wave_A[: frames * HOP] for name, wave_A in waves.items()}
  totals = jax.tree.map(lambda *parts: np.sum(parts), *sums)
  return {name: float(a / max(b, 1)) for name, (a, b) in totals.items()}, pictures, sounds


if __name__ == "__main__":
  from train.vocoder import main as run  # the module that the configuration file imports too

  sys.exit(cli.at_exit(run))
