"""Trains the flow (paper 2.4): speech tokens, a speaker and a reference to mel spectrograms.

  python -m train.flow --config configs/flow.py --data CORPUS --out RUN
  python -m train.flow --config configs/flow_finetune.py --data CORPUS --out RUN --init MODEL_DIR

Needs the features speech_tokens, mel and speaker; see train.features. The same command resumes a run that
was stopped. Every row is drawn one of four attention masks, so that one model serves whole utterances
and streams. Evaluation measures each mask on the same times and noise every time, and speaks fixed
utterances of the evaluation corpus: their mel as pictures, and as sound with the vocoder of --init or --listen.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.analysis import flops
from cosyjax.config import MEL_RATE, TOKEN_RATE, FlowConfig
from cosyjax.data.batches import SECONDS, Batches, bucket_rows, flow_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.errors import ConfigError, DataError
from cosyjax.flow import flow_objective
from cosyjax.flow.flow_model import Flow, init_arguments, stack
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.layers.basic import unbox
from cosyjax.sharding import batch_sharding, process_share, put_batch, row_count, share_count
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.processes import together
from cosyjax.training.step import make_update, summarise
from cosyjax.training.train_state import abstract_state, create_state, replace_params, state_shardings, with_shardings
from train import cli, compile_only, runtime
from train.cli import MeshConfig, RunConfig
from train.listen import open_stages
from train.log import Log
from train.pictures import mel_picture
from train.runtime import due

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
  """All settings of a run. With --init the sizes in `flow` are those of the model directory."""

  run: RunConfig
  flow: FlowConfig
  objective: FlowObjective
  data: DataConfig
  optim: OptimConfig
  mesh: MeshConfig
  samples: int = 2  # utterances that each evaluation speaks
  prompt: float = 0.3  # share of each that it is given as a prompt


def main(argv: list[str] | None = None, look: compile_only.Look | None = None) -> int:
  # ---- settings
  flags = cli.parser(__doc__)
  flags.add_argument("--listen", type=Path, metavar="MODEL_DIR", help="vocoder for the sounds of evaluations")
  args, config = cli.parse(__doc__, Config, argv, flags, runs=look is None)
  runtime.join(args)
  if args.init:
    config = dataclasses.replace(config, flow=checkpoint.load_config(args.init).flow)
  run, data, optim = config.run, config.data, config.optim

  # ---- model and optimiser
  model = Flow(config.flow, jnp.dtype(run.dtype), training=True, remat=run.remat)
  tx = make_optimiser(optim, run.steps)
  init = lambda key: model.init(key, *init_arguments(config.flow))["params"]
  abstract = abstract_state(init, tx, optim)

  def loss_fn(params: Any, batch: dict[str, jax.Array], key: jax.Array, extra: Any):
    lengths_B, (_, frames, mel_bins) = 2 * batch["token_lengths_B"], batch["mel_BTM"].shape
    draws = flow_objective.draw(key, lengths_B, frames, mel_bins, config.objective)
    return flow_objective.objective(model, params, batch, draws, config.objective.kind)

  def flops_per_second(shapes: dict[str, jax.ShapeDtypeStruct]) -> float:
    """Model FLOPs of a training step for each second of audio in its batch."""
    forward = lambda params, batch: loss_fn(params, batch, jax.random.key(0), None).total
    rows, frames, _ = shapes["mel_BTM"].shape
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), unbox(abstract).params)
    return flops.training_flops(forward, params, shapes) / (rows * frames / MEL_RATE)

  # ---- compile only: the step on the longest rows, for devices that are not there
  def build(mesh: Mesh):
    shapes = batch_shapes(config, row_count(mesh))
    rows, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    place = lambda name, x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole if name == "key" else rows)
    batch = {name: place(name, x) for name, x in shapes.items()}
    update = make_update(loss_fn, tx, optim, run.steps, state_shardings(abstract, mesh))
    seconds = shapes["mel_BTM"].shape[0] * shapes["mel_BTM"].shape[1] / MEL_RATE
    return update, (with_shardings(abstract, mesh), batch), seconds, flops_per_second(shapes) * seconds

  create = lambda mesh: create_state(init, tx, optim, mesh, runtime.make_key(run.seed, "params"))
  what = {"mesh": config.mesh, "units": "audio seconds", "dtype": run.dtype}
  if look:
    return look(build, create, config, **what)
  if args.compile_only:
    return compile_only.report("train.flow", args.compile_only, build, **what, file=args.report)

  # ---- devices
  mesh = runtime.start(args, config)
  stop = runtime.Stop()

  # ---- data
  batches = make_batches(args.data, (data.split,), config, mesh)
  fixed = fixed_batches(args, config, mesh)

  # ---- state: resumed, or created and perhaps given weights
  checkpoints = Checkpoints(
    args.out / "checkpoints",
    config=config_lib.to_dict(config),
    keep_last=run.keep_last,
    keep_best=run.keep_best,
    metric="validation loss",
    every=run.save_every,
    allow_config_change=args.allow_config_change,
  )
  if checkpoints.latest() is not None:
    step, state, iterator = checkpoints.restore(with_shardings(abstract, mesh))
    batches.restore(iterator)
  else:
    step, state = 0, create(mesh)
    if args.init:
      state = replace_params(state, stack(released_params(args.init, "flow")))

  # ---- update and evaluation
  update = together(make_update(loss_fn, tx, optim, run.steps, state_shardings(abstract, mesh)), "step")
  whole = NamedSharding(mesh, PartitionSpec())
  evaluate = functools.partial(flow_objective.validation, model, kind=config.objective.kind)
  evaluate = together(jax.jit(evaluate, out_shardings=whole), "evaluation")
  speak = make_speaker(model, config, args.listen or args.init)
  log = Log(
    args.out,
    total_steps=run.steps,
    config=config_lib.to_dict(config),
    units="audio seconds",
    flops_per_unit=flops_per_second(batches.shapes[-1]),
    dtype=run.dtype,
    log_every=run.log_every,
    start=step,
    name="flow",
  )

  # ---- loop
  metric, code = None, 0
  while step < run.steps:
    host = next(batches)
    batch = put_batch(host, mesh)
    with jax.set_mesh(mesh), runtime.no_copies():
      state, metrics = update(state, batch)
    step += 1
    seconds = float(host["token_lengths_B"].sum()) / TOKEN_RATE * share_count(mesh)
    log.step(step, metrics, seconds, stats=batches.stats)
    stop.poll(step)
    if fixed and (due(step, run.eval_every) or step == run.steps):
      params = state.params if state.ema is None else state.ema
      found = validate(evaluate, params, fixed, config, mesh)
      pictures, sounds = speak(params, fixed[0]) if config.samples and jax.process_count() == 1 else ({}, {})
      log.evaluation(step, found, pictures, sounds)
      metric = found["loss"]
    if due(step, run.save_every) or stop.asked or step == run.steps:
      log.flush()
      checkpoints.save(step, state, batches.state(), metric=metric, wait=step == run.steps or stop.asked)
    if stop.asked and step < run.steps:
      code = runtime.STOPPED
      break
  checkpoints.close()
  batches.close()
  log.close()
  stop.close()
  return code


# ---- evaluation


def validate(evaluate, params, fixed: list[dict[str, np.ndarray]], config: Config, mesh: Mesh) -> dict[str, float]:
  """Loss of each mask over the fixed batches, and their mean."""
  key = runtime.make_key(config.run.seed, "validation")
  losses = []
  for i, batch in enumerate(fixed):
    one = runtime.everywhere(jax.random.fold_in(key, i), mesh)
    with jax.set_mesh(mesh):
      losses.append(jax.device_get(evaluate(params, put_batch(batch, mesh), one)))
  loss, metrics = summarise(jax.tree.map(lambda *parts: np.sum(parts), *losses))
  return {"loss": float(loss)} | {f"loss_{name}": float(value) for name, value in metrics.items()}


def make_speaker(model: Flow, config: Config, directory: Path | None):
  """The function that speaks the first utterances of a batch: (params, batch) -> (pictures, sounds).

  A picture shows the true mel above the generated one.
  """
  solve = jax.jit(functools.partial(generate, model))
  stages = open_stages(directory, ("vocoder",), dtype=config.run.dtype) if directory else None

  def speak(params, batch: dict[str, np.ndarray]):
    some = {name: x[: config.samples] for name, x in batch.items() if name != "key"}
    lengths_B, frames = 2 * some["token_lengths_B"], some["mel_BTM"].shape[1]
    prompts_B = (config.prompt * lengths_B).astype(np.int32)
    mel_BTM = solve(
      params, some["tokens_BU"], some["token_lengths_B"], some["mel_BTM"], prompts_B, some["speaker_BE"],
      noise_table(frames),
    )  # fmt: skip
    made = [mel_TM[:length] for mel_TM, length in zip(np.asarray(mel_BTM), lengths_B, strict=True)]
    pairs = zip(some["mel_BTM"], made, strict=True)
    pictures = {f"mel_{i}": mel_picture(true[: len(mel_TM)], mel_TM) for i, (true, mel_TM) in enumerate(pairs)}
    waves = stages.vocode(made, [(0, i) for i in range(len(made))]) if stages else []
    return pictures, {f"speech_{i}": wave_A for i, wave_A in enumerate(waves)}

  return speak


def fixed_batches(args, config: Config, mesh: Mesh) -> list[dict[str, np.ndarray]]:
  """The batches of every evaluation; none if there is no corpus for it."""
  splits = (config.data.eval_split, "train") if args.eval_data else (config.data.eval_split,)
  try:
    batches = make_batches(args.eval_data or args.data, splits, config, mesh, fixed=True)
  except DataError as error:
    if args.eval_data:
      raise
    print(f"no evaluation: {error}")
    return []
  found = [batch for _, batch in zip(range(config.run.eval_batches), batches, strict=False)]
  batches.close()
  return found


# ---- data


def make_batches(
  directory: Path, splits: tuple[str, ...], config: Config, mesh: Mesh, *, fixed: bool = False
) -> Batches:
  """Batches of the first of the splits that is there; once through and in order if they are to stay the same."""
  for split in splits:
    try:
      features = Features(directory, split, FEATURES)
      break
    except DataError:
      if split == splits[-1]:
        raise
  batches = flow_batches(
    Corpus(directory, split),
    features,
    seconds=config.data.seconds,
    buckets=config.data.buckets,
    row_multiple=row_count(mesh),
    seed=config.run.seed,
    process=process_share(mesh),
    workers=0 if fixed else config.data.workers,
    **({"shuffle": False, "keep_rest": True, "epochs": 1} if fixed else {}),
  )
  if (found := batches.shapes[0]["speaker_BE"].shape[1]) != config.flow.speaker:
    raise ConfigError(f"{directory}: speaker vectors of length {found}, the flow takes {config.flow.speaker}")
  return batches


def batch_shapes(config: Config, row_multiple: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the global batch of the longest rows."""
  c, tokens = config.flow, round(config.data.buckets[-1] * TOKEN_RATE)
  rows = bucket_rows(config.data.buckets, config.data.seconds, row_multiple)[-1]
  return {
    "tokens_BU": jax.ShapeDtypeStruct((rows, tokens), jnp.int32),
    "token_lengths_B": jax.ShapeDtypeStruct((rows,), jnp.int32),
    "mel_BTM": jax.ShapeDtypeStruct((rows, 2 * tokens, c.mel_bins), jnp.float32),
    "speaker_BE": jax.ShapeDtypeStruct((rows, c.speaker), jnp.float32),
    "key": jax.ShapeDtypeStruct((2,), jnp.uint32),
  }


def released_params(directory: Path, component: str) -> dict:
  """Parameters of a model directory, on the host."""
  shapes = networks.abstract_params(checkpoint.load_config(directory))[component]
  return jax.tree.map(np.asarray, checkpoint.load_params(directory, component, shapes))


if __name__ == "__main__":
  from train import flow  # by its own name: configuration files build the classes of that module

  raise SystemExit(cli.at_exit(flow.main))
