"""Weights that a run starts from, or that leave it: of a model directory, or of another run.

Of a run, the checkpoint of the best metric is taken unless told otherwise; see `choose`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.config_format import upgrade_part
from cosyjax.errors import CheckpointError, ConfigError
from cosyjax.training.checkpoint_read import best_step, read_arrays, read_part, saved_steps

# Where a run's configuration has the sizes of the network it trains.
SETTINGS = {"lm": "lm", "flow": "flow", "vocoder": "model", "speech_tokenizer": "tokenizer", "speaker": "speaker"}
STATES = {"vocoder": "generator"}  # whose checkpoints hold several states


class Given(NamedTuple):
  """Parameters as a run has them, and their `extra` or None."""

  params: Any
  extra: Any


def is_run(directory: Path) -> bool:
  """Whether a directory is that of a run, and not a model directory."""
  return (directory / "checkpoints").is_dir()


def choose(run: Path, step: int | None = None, last: bool = False) -> tuple[int, str]:
  """A step of a run and why it is taken: the given one, the last, or the one of the best metric.

  Raises:
    CheckpointError: the run has no such checkpoint, or none.
  """
  folder = run / "checkpoints"
  if not run.is_dir():
    raise CheckpointError(f"{run}: no such folder; expected the --out of a trainer")
  if not (steps := saved_steps(folder)):
    raise CheckpointError(f"{folder}: expected a checkpoint, found none")
  if step is not None:
    if step not in steps:
      raise CheckpointError(f"{folder}: expected a checkpoint of step {step}, found {', '.join(map(str, steps))}")
    return step, f"step {step}, as asked for"
  best, name, value = best_step(folder)
  if last or best is None:
    return steps[-1], f"step {steps[-1]}, the last"
  return best, f"step {best}, the best by {name} ({value:.4g})" + (", and the last" if best == steps[-1] else "")


def run_settings(name: str, run: Path, step: int) -> tuple[Any, dict[str, Any]]:
  """(sizes of a network, all settings) of a run that trained it.

  Raises:
    CheckpointError: it is a run of another trainer.
  """
  folder = run / "checkpoints"
  settings = upgraded(name, read_part(folder, step, "config"))
  kind = config_lib.ModelConfig.__dataclass_fields__[name].type
  try:
    sizes = config_lib.from_dict(settings[SETTINGS[name]], kind, f"{folder}: {SETTINGS[name]}")
  except (KeyError, ConfigError) as error:
    raise CheckpointError(f"{run}: a run of another trainer; expected one of train.{name} ({error})") from None
  return sizes, settings


def upgraded(name: str, settings: dict[str, Any]) -> dict[str, Any]:
  """The settings of a run of any version, as they are written now."""
  part = SETTINGS.get(name)
  return settings | {part: upgrade_part(name, settings[part])} if part in settings else settings


def run_weights(name: str, run: Path, step: int) -> Given:
  """Parameters of a run on the host, their moving average where it kept one, in the layout of training."""
  folder, state = run / "checkpoints", STATES.get(name, "")
  there = {path.removeprefix(state).lstrip("/").split("/")[0] for path in read_part(folder, step, "info")["arrays"]}
  read = lambda item: read_arrays(folder, step, f"{state}/{item}".lstrip("/"))[1] if item in there else None
  return Given(read("ema" if "ema" in there else "params"), read("extra"))


def sizes(args: Any, name: str, own: Any) -> Any:
  """Sizes of a network: those of --init, or the configuration's `own` without it."""
  if not args.init:
    return own
  if is_run(args.init):
    return run_settings(name, args.init, choose(args.init, args.init_step, args.init_last)[0])[0]
  return getattr(checkpoint.load_config(args.init), name)


def audio(args: Any, own: Any) -> Any:
  """Rates and mel settings: those of --init, or the configuration's `own` without it."""
  if not args.init:
    return own
  if not is_run(args.init):
    return checkpoint.load_config(args.init).audio
  settings = read_part(args.init / "checkpoints", choose(args.init, args.init_step, args.init_last)[0], "config")
  return config_lib.from_dict(settings["audio"], type(own), str(args.init)) if "audio" in settings else own


def starter(
  args: Any, name: str, stacked: Callable[[Any], Any] = lambda params: params, fresh: tuple[str, ...] = ()
) -> Callable[[Any], tuple[Any, Any]] | None:
  """What --init does to fresh parameters, for `Task.start`; None without it.

  Args:
    args: flags.
    name: of the network.
    stacked: parameters of a model directory -> the same as they are trained, or a part of them.
    fresh: parts that stay fresh: what depends on the corpus and not on the model.
  """
  if not args.init:
    return None

  def start(begun: Any) -> tuple[Any, Any]:
    if is_run(args.init):
      step, why = choose(args.init, args.init_step, args.init_last)
      found = run_weights(name, args.init, step)
      if jax.process_index() == 0:
        print(f"--init {args.init}: {why}", file=sys.stderr, flush=True)
    else:
      shapes = networks.abstract_params(checkpoint.load_config(args.init))[name]
      params = jax.tree.map(np.asarray, checkpoint.load_params(args.init, name, shapes))
      found = Given(stacked(params), None)
    kept = {part: begun[part] for part in begun if part in fresh or part not in found.params}
    return dict(found.params) | kept, found.extra

  return start
