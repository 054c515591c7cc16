"""The training loop: one function for every trainer, which states its `train.task.Task`.

    TRAINER = Trainer("flow", __doc__, Config, task)

    def main(argv=None):
      return loop.run(TRAINER, argv)

The loop owns what flags mean, meshes, creating and resuming states, --init, checkpoints, logging, evaluation,
signals and exit codes: 0; 1 for an error (or a step that does not fit, with --compile-only); 75 when stopped by
a signal and saved; 128 and the signal's number when a second one came before that was done.
"""

import dataclasses
import functools
import importlib
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cosyjax import config as config_lib
from cosyjax.errors import DataError
from cosyjax.sharding import put_batch, row_count, share_count
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.processes import together
from cosyjax.training.train_state import TrainState, replace_params
from train import cli, compile_only, runtime, weights
from train import task as task_lib
from train.log import Log
from train.runtime import due
from train.task import Batches, Findings, HostBatch, Task, Trainer


def run(trainer: Trainer, argv: Sequence[str] | None = None) -> int:
  """A trainer's program, from its flags to its exit code.

  Raises:
    CosyError: what `train.cli.at_exit` prints in a line.
  """
  args, config = cli.parse(trainer.doc, trainer.config, argv, trainer.flags)
  runtime.join(args)
  task = trainer.task(args, config)
  if args.compile_only:
    return compile_only.report(
      f"train.{trainer.name}", args.compile_only, functools.partial(task_lib.build, task), mesh=task.config.mesh,
      units=task.units, dtype=task.config.run.dtype, file=args.report,
    )  # fmt: skip
  stop = runtime.Stop()
  try:
    return train(trainer, args, task, stop)
  finally:
    stop.close()


def program(name: str) -> int:
  """Runs the module `train.NAME` under that name, which its configuration files know it by."""
  return cli.at_exit(importlib.import_module(name).main)


def train(trainer: Trainer, args: Any, task: Task, stop: runtime.Stop) -> int:
  """Trains until the run is over or a signal comes; returns the exit code."""
  # ---- devices, data, and with it the length of the run
  mesh = runtime.start(args, task.config)
  split = task.config.data.split
  batches = task.open(args.data, split, mesh, False)
  if task.config.run.epochs:
    task = trainer.task(args, with_steps(task.config, batches))
  config, options = task.config, task.config.run
  fixed, speak = evaluation_set(task, args, mesh)

  # ---- state: resumed, or created and perhaps given weights
  boxed = task_lib.abstract(task)
  checkpoints = Checkpoints(
    args.out / "checkpoints",
    config=config_lib.to_dict(config),
    defaults=cli.defaults(config),
    upgrade=functools.partial(weights.upgraded, trainer.name),
    keep_last=options.keep_last,
    keep_best=options.keep_best,
    metric=task.metric,
    allow_config_change=args.allow_config_change,
  )
  step, state, origin = 0, None, "a new run"
  if checkpoints.latest() is not None:
    step, state, iterator = checkpoints.restore(task_lib.placed(task, mesh, boxed))
    batches.restore(iterator)
    origin = f"resumed from step {step}"
  else:
    state = task_lib.create(task, mesh)
    if task.start:
      state, origin = started(task, state), f"a new run from the weights of {args.init or args.qwen}"

  # ---- updates, evaluation and log
  updates = {first: together(update, "step") for first, update in task_lib.updates(task, mesh, boxed).items()}
  everywhere = NamedSharding(mesh, PartitionSpec())
  look = jax.jit(task.look, out_shardings=everywhere, compiler_options=task.compiler_options())
  look = together(look, "evaluation")
  shapes = task.shapes(row_count(mesh))
  stage = max(first for first in updates if first <= step)
  log = Log(
    args.out,
    total_steps=options.steps,
    config=config_lib.to_dict(config),
    units=task.units,
    sample_rate=task.sample_rate,
    flops_per_unit=task_lib.model_flops(task, shapes, stage) / task.capacity(shapes),
    dtype=options.dtype,
    devices=mesh.size,
    log_every=options.log_every,
    start=step,
    name=trainer.name,
  )
  log.say(banner(trainer, args, task, mesh, batches, origin, task.capacity(shapes), boxed))

  # ---- loop
  metric = None
  while step < options.steps:
    host = next(batches)
    batch = put_batch(host, mesh)
    if step in updates and step != stage:
      stage = step
      log.rate(task_lib.model_flops(task, shapes, stage) / task.capacity(shapes))
    with jax.set_mesh(mesh), runtime.no_copies():
      state, metrics = updates[stage](state, batch)
    step += 1
    log.step(step, metrics, task.amount(host) * share_count(mesh), stats=getattr(batches, "stats", None))
    stop.poll(step)
    if fixed and (due(step, options.eval_every) or step == options.steps):
      found = evaluate(task, look, state, fixed, speak, mesh)
      log.evaluation(step, *found)
      metric = found.scalars[task.metric]
    if due(step, options.save_every) or stop.asked or step == options.steps:
      log.flush()
      checkpoints.save(step, state, batches.state(), metric=metric, wait=step == options.steps or stop.asked)
    if stop.asked:
      break
  checkpoints.close()
  batches.close()
  log.say(closing(trainer, args, step, options.steps, checkpoints))
  log.close()
  return runtime.STOPPED if step < options.steps else 0


# ---- length, weights to start from


def with_steps(config: Any, batches: Batches) -> Any:
  """The configuration with as many steps as its epochs have batches."""
  steps = max(math.ceil(config.run.epochs * batches.plan.batches), 1)
  return dataclasses.replace(config, run=dataclasses.replace(config.run, steps=steps))


def started(task: Task, state: Any) -> Any:
  """A fresh state with the weights that the task starts from."""
  one: TrainState = state[task.main] if task.main else state
  params, extra = task.start(one.params)
  one = replace_params(one, params, extra)
  return state | {task.main: one} if task.main else one


# ---- evaluation


def evaluation_set(task: Task, args: Any, mesh: Mesh) -> tuple[list[HostBatch], task_lib.Speak | None]:
  """The batches of every evaluation, and what speaks there; none if there is no corpus for it."""
  run, data = task.config.run, task.config.data
  splits = (data.eval_split, "train") if args.eval_data else (data.eval_split,)
  for split in splits:
    try:
      batches = task.open(args.eval_data or args.data, split, mesh, True)
    except DataError as error:
      if args.eval_data and split == splits[-1]:
        raise
      if split == splits[-1] and runtime.is_main():
        print(f"no evaluation: {error}", file=sys.stderr)
      continue
    fixed = [batch for _, batch in zip(range(run.eval_batches), batches, strict=False)]
    batches.close()
    alone = fixed and task.speech and jax.process_count() == 1
    return fixed, task.speech(batches, fixed) if alone else None
  return [], None


def evaluate(task: Task, look: Any, state: Any, fixed: Sequence[HostBatch], speak: Any, mesh: Mesh) -> Findings:
  """What the parameters, or their moving average, do on the fixed batches; each under the same key every time."""
  one: TrainState = state[task.main] if task.main else state
  params, key = one.params if one.ema is None else one.ema, runtime.make_key(task.config.run.seed, "validation")
  results = []
  for i, batch in enumerate(fixed):
    own = runtime.everywhere(jax.random.fold_in(key, i), mesh)
    with jax.set_mesh(mesh):
      results.append(jax.device_get(look(params, one.extra, put_batch(batch, mesh), own)))
  found = task.measure(results, fixed)
  if speak is None:
    return found
  return Findings(*(a | b for a, b in zip(found, speak(params), strict=True)))


# ---- what is said at the start and at the end


def banner(
  trainer: Trainer, args: Any, task: Task, mesh: Mesh, batches: Batches, origin: str, capacity: float, boxed: Any
) -> str:
  """What is trained on what, how long, and where to look: a few lines."""
  run, device = task.config.run, mesh.devices.flat[0]
  states = [boxed] if isinstance(boxed, TrainState) else boxed.values()
  size = sum(math.prod(x.shape) for s in states for x in jax.tree.leaves(s.params))
  axes = ", ".join(f"{name} {count}" for name, count in mesh.shape.items())
  lines = [f"train.{trainer.name}: {size:,} parameters on {mesh.size} x {device.device_kind}, mesh {axes}, "
           f"{run.dtype}; {origin}"]  # fmt: skip
  epoch = getattr(getattr(batches, "plan", None), "batches", 0)
  data, length = f"data: {args.data}", f"length: {run.steps:,} steps of at most {capacity:,.6g} {task.units}"
  corpus = getattr(getattr(batches, "rows", None), "corpus", None)
  if (seconds_N := getattr(corpus, "seconds_N", None)) is not None:
    data += f", {np.sum(seconds_N) / 3600:.2f} hours in {len(seconds_N):,} utterances of {task.config.data.split!r}"
  if epoch:
    length += f", {run.steps / epoch:,.1f} epochs of {epoch:,} steps"
  often = f"checkpoints every {run.save_every} steps" if run.save_every else "a checkpoint at the end"
  lines += [data, length, f"files: {args.out}: {often}, metrics.jsonl; tensorboard --logdir {args.out}/tensorboard"]
  return "\n  ".join(lines)


def closing(trainer: Trainer, args: Any, step: int, steps: int, checkpoints: Checkpoints) -> str:
  """How the run ended, and the command that comes next."""
  best, metric = checkpoints.best()
  found = f"; best {checkpoints.metric} {metric:.4g} at step {best}" if metric is not None else ""
  if step < steps:
    where = f"stopped and saved at step {step} of {steps} in {args.out}"
    return f"train.{trainer.name}: {where}{found}\n  the same command goes on"
  done = f"train.{trainer.name}: {step} steps done in {args.out}{found}"
  if trainer.name not in weights.SETTINGS:
    return done
  out = Path(args.out)
  base = ["--base", str(args.init)] if args.init and not weights.is_run(args.init) else ["--rest", "tiny"]
  command = ["python", "-m", "train.export", f"--{trainer.name.replace('_', '-')}", str(out), *base]
  command += ["--out", f"models/{out.name}"]
  return f"{done}\n  next: {shlex.join(command)}"
