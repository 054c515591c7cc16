"""Times a trainer's real step on the devices that are here, on batches that are made up: no corpus is needed.

  python -m train.benchmark --trainer lm --config configs/lm.py --tiny
  python -m train.benchmark --trainer lm --config configs/lm.py --set data.rows=16 run.remat=full --steps 10
  python -m train.benchmark --trainer flow --config configs/flow.py --profile /tmp/profile --top 20 --json flow.json

The step, its parameters and the shapes of its batch are the trainer's own, as --compile-only compiles them (of batches
in buckets: the longest rows). --config, --tiny and --set are those of the trainer; a mesh that does not fit the devices
is replaced by one of data alone.

Every row is full, so units a second are an upper bound of what a corpus with padding gives. MFU is that of
cosyjax.analysis.flops. --profile keeps a profile of two more steps, --top prints its longest operations.
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax.analysis.flops import peak_flops, utilisation
from cosyjax.analysis.profile import peak_bytes, top_kernels
from cosyjax.errors import ConfigError, OutputError, TrainingError
from cosyjax.files import write_whole
from cosyjax.lm.sequence import SPEECH, TEXT
from cosyjax.sharding import make_mesh, mesh_shape
from train import cli
from train import task as task_lib
from train.task import Task

TRAINERS = ("lm", "flow", "vocoder", "speaker", "speech_tokenizer")
PROFILED = 2  # steps in a profile


def main(argv: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                  allow_abbrev=False)  # fmt: skip
  flags.add_argument("--trainer", required=True, choices=TRAINERS)
  flags.add_argument("--steps", type=int, default=10, help="steps to time, after one that is not")
  flags.add_argument("--profile", type=Path, metavar="DIR", help="keep a profile of two more steps")
  flags.add_argument("--top", type=int, default=0, metavar="K", help="print the profile's longest operations")
  flags.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
  args, rest = flags.parse_known_args(argv)
  if args.top and not args.profile:
    flags.error("--top needs --profile")
  if args.steps < 1:
    raise ConfigError(f"--steps: expected 1 or more, found {args.steps}")
  if args.json and not args.json.absolute().parent.is_dir():
    raise OutputError(f"{args.json.parent} is not a directory")

  trainer = importlib.import_module(f"train.{args.trainer}").TRAINER
  own, config = cli.parse(trainer.doc, trainer.config, rest, trainer.flags, runs=False)
  record = {"trainer": args.trainer} | measure(trainer.task(own, config), args, jax.devices()[: own.devices])
  print(describe(record), flush=True)
  if args.json:
    write_whole(args.json, json.dumps(record, indent=2) + "\n")
  return 0


def measure(task: Task, args: Any, devices: list[jax.Device]) -> dict[str, Any]:
  """Compiles a trainer's step, runs it, and gives the figures. Seconds, bytes, shares from 0 to 1.

  Args:
    task: the trainer's.
    args: `steps`, `profile` and `top` of the command line.
    devices: to run on.

  Raises:
    TrainingError: loss or gradient of a step was not finite, so that its time says nothing.
  """
  mesh, dtype = task.config.mesh, task.config.run.dtype
  count = len(devices)
  try:
    shape = mesh_shape(mesh.data, mesh.fsdp, mesh.tensor, count)
  except ConfigError as error:
    print(f"{error}: all of them are used for data")
    shape = (count, 1, 1)
  made = make_mesh(*shape, devices=devices)
  update, (_, shapes), per_step, model_flops = task_lib.build(task, made)
  with jax.set_mesh(made):
    state = task_lib.create(task, made)
    batch = {name: jax.device_put(fill(name, shapes, task.ids), x.sharding) for name, x in shapes.items()}
    start = time.perf_counter()
    step = update.lower(state, batch).compile()
    compiled = time.perf_counter() - start
    seconds = []
    for _ in range(args.steps + 1):
      start = time.perf_counter()
      state, metrics = jax.block_until_ready(step(state, batch))
      seconds.append(time.perf_counter() - start)
    del seconds[0]  # it allocates
    if args.profile:
      with jax.profiler.trace(str(args.profile)):
        for _ in range(PROFILED):
          state, metrics = jax.block_until_ready(step(state, batch))
  values = {name: float(x) for name, x in metrics.items()}
  if any(value for name, value in values.items() if name.rsplit("/", 1)[-1] == "skipped"):
    raise TrainingError("loss or gradient of made-up batches is not finite: a lower optim.learning_rate may help")
  device, median = jax.devices()[0].device_kind, statistics.median(seconds)
  mfu = model_flops and utilisation(model_flops, median, count, peak_flops(device, dtype))
  return {
    "device": device,
    "devices": count,
    "mesh": dict(made.shape),
    "dtype": dtype,
    "steps": args.steps,
    "batch": {name: list(x.shape) for name, x in shapes.items()},
    "units": task.units,
    "units_per_step": per_step,
    "compile_seconds": compiled,
    "step_p50": median,
    "step_min": min(seconds),
    "units_per_second": per_step / median,
    "model_flops": model_flops,
    "mfu": mfu,
    "peak_bytes": peak_bytes(),
    "metrics": values,
    "kernels": [(name, ms / PROFILED, calls) for name, ms, calls in top_kernels(args.profile, args.top)]
    if args.top else [],
  }  # fmt: skip


def fill(name: str, shapes: task_lib.Shapes, ids: dict[str, tuple[int, int]]) -> np.ndarray:
  """One field of a full batch: random ids in their whole range, noise for sound, no padding.

  Args:
    name: of the field, as in `cosyjax.data.batches`.
    shapes: shape and dtype of every field.
    ids: the lowest and the first that is too high, by field; see `train.task.Task`.

  Raises:
    ConfigError: a field that is not known here.
  """
  random, like = np.random.default_rng(0), shapes[name]
  shape = like.shape
  if name == "key":
    value = random.integers(2**32, size=shape, dtype=np.uint32)
  elif np.issubdtype(like.dtype, np.floating):
    value = random.uniform(80.0, 400.0, shape) if name.startswith("f0") else random.normal(0.0, 0.1, shape)
  elif name == "token_types_BL":  # a text, then four times as much speech
    value = np.broadcast_to(np.where(np.arange(shape[1]) < shape[1] // 5, TEXT, SPEECH), shape)
  elif name == "segments_BL":
    value = np.ones(shape)
  elif name == "positions_BL":
    value = np.broadcast_to(np.arange(shape[1]), shape)
  elif name.endswith("lengths_B"):
    value = np.full(shape, _length(name, shapes))
  elif name in ids:
    value = random.integers(*ids[name], size=shape)
  else:
    raise ConfigError(f"benchmark: no rule for the field {name!r} of a batch")
  return np.asarray(value, like.dtype)


def _length(name: str, shapes: dict[str, jax.ShapeDtypeStruct]) -> int:
  """A full row; of text a third of the places, as there are three times as many as speech commonly needs."""
  if name == "unit_lengths_B":
    return max(shapes["units_BL"].shape[1] // 3, 1)
  if name == "token_lengths_B":
    return shapes["tokens_BU"].shape[1]
  return next(x.shape[1] for field, x in shapes.items() if field.endswith("_BTM"))


def describe(record: dict[str, Any]) -> str:
  """The figures for people."""
  mesh = ", ".join(f"{axis} {size}" for axis, size in record["mesh"].items())
  lines = [f"train.{record['trainer']} on {record['devices']} x {record['device']}, mesh {mesh}, {record['dtype']}"]
  add = lambda label, text: lines.append(f"  {label:<12}{text}")
  add("batch", ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in record["batch"].items()))
  add("compiled in", f"{record['compile_seconds']:.1f} s")
  add("step", f"p50 {1e3 * record['step_p50']:.1f} ms, least {1e3 * record['step_min']:.1f} ms, of {record['steps']}")
  add("speed", f"{record['units_per_second']:,.0f} {record['units']} a second")
  if record["mfu"]:
    add("MFU", f"{record['mfu']:.1%} ({record['model_flops']:.3g} FLOPs a step)")
  add("memory", f"{record['peak_bytes'] / 2**30:.2f} GiB at most")
  lines += [f"  {ms:>9.3f} ms {calls // PROFILED:>5} x  {name}" for name, ms, calls in record["kernels"]]
  return "\n".join(lines)


if __name__ == "__main__":
  raise SystemExit(cli.at_exit(main))
