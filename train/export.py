"""Makes a model directory of what runs have trained, for synthesis, features and fine-tuning.

  python -m train.export --speech-tokenizer RUN --speaker RUN --rest tiny --out MODEL_DIR
  python -m train.export --base MODEL_DIR --lm RUN --flow RUN --vocoder RUN --out MODEL_DIR
  python -m train.export --rest tiny --out MODEL_DIR

Each RUN is the --out of a trainer. Its checkpoint of the best metric is taken, which is printed; with --last the
newest, with --step N that of step N.
Parts that no run gives come from --base, a model directory, or with --rest from a preset's random weights
(enough to compute features with, before the others are trained; of all parts, to try programs with). The
moving average of the parameters is exported where the run kept one.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import CheckpointError, ConfigError
from cosyjax.flow import flow_model as flow_lib
from cosyjax.layers.stack import unstack_layers
from cosyjax.speaker import speaker_objective as speaker_lib
from cosyjax.speech_tokenizer import asr_model as tokenizer_lib
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from train import cli, weights

# Component -> (parameters, extra) of training to the parameters of inference.
FINISH: dict[str, Callable[[Any, Any], Any]] = {
  "lm": lambda params, extra: unstack_layers(params),
  "flow": lambda params, extra: flow_lib.unstack(params),
  "vocoder": lambda params, extra: params,
  "speech_tokenizer": lambda params, extra: tokenizer_lib.subset(params),
  "speaker": lambda params, extra: speaker_lib.subset(params, extra),
}


def read_run(name: str, run: Path, step: int | None = None, last: bool = False) -> tuple[Any, Any, dict[str, Any], str]:
  """One network of a run: (its configuration, its parameters for inference, the run's settings, which step and why).

  Raises:
    CheckpointError: the run has no whole checkpoint, or is one of another trainer.
  """
  step, why = weights.choose(run, step, last)
  config, settings = weights.run_settings(name, run, step)
  if name == "lm" and settings.get("speaker"):
    raise CheckpointError(f"--lm {run}: has a speaker vector in the LM, an ablation that synthesis does not know")
  return config, FINISH[name](*weights.run_weights(name, run, step)), settings, why


def export(
  out: Path,
  runs: dict[str, Path],
  *,
  base: Path | None = None,
  rest: str | None = None,
  tokenizer: Path | None = None,
  step: int | None = None,
  last: bool = False,
) -> dict[str, str]:
  """Writes the model directory `out`.

  Args:
    out: must not be there.
    runs: component -> run directory.
    base: model directory for what no run gives.
    rest: preset for what neither gives.
    tokenizer: text tokenizer; that of the base, else the small built-in one.
    step: of the checkpoints; each run's best if None.
    last: takes each run's last checkpoint.

  Returns:
    Component -> where it comes from.

  Raises:
    CheckpointError: a run or the base cannot be used, or parts are missing.
    ConfigError: the parts' sizes do not fit together.
  """
  missing = [name for name in config_lib.COMPONENTS if name not in runs]
  if missing and not base and not rest:
    raise CheckpointError(f"no {', '.join(missing)}: name a run for each, or --base MODEL_DIR, or --rest PRESET")
  whole = checkpoint.load_config(base) if base else config_lib.PRESETS[rest or "tiny"]()
  params, origin, sizes = {}, {}, {}
  for name, run in runs.items():
    sizes[name], params[name], settings, why = read_run(name, run, step, last)
    origin[name] = f"{run}, {why}"
    if name == "lm":
      text = {key: settings["data"][key] for key in ("split_cjk",)}
      sizes["text"] = dataclasses.replace(whole.text, **text)
  if not base:  # random weights are of sizes that fit
    sizes = _fitting(whole, sizes)
  config = dataclasses.replace(whole, **sizes)
  shapes = networks.abstract_params(config)
  random = networks.random_params(config) if missing and not base else {}
  for name in missing:
    params[name] = checkpoint.load_params(base, name, shapes[name]) if base else random[name]
    origin[name] = str(base) if base else f"random weights of the preset {rest}"
  for name in config_lib.COMPONENTS:
    check_shapes(name, params[name], shapes[name], origin[name])
  directory = tokenizer or (base / "text_tokenizer" if base else tiny_tokenizer_dir())
  text_tokenizer = TextTokenizer.load(directory)
  if len(text_tokenizer) > config.lm.text_vocab:
    raise ConfigError(f"{directory}: {len(text_tokenizer)} text ids do not fit the LM's {config.lm.text_vocab}")
  checkpoint.save_model(out, config, params, text_tokenizer.save)
  return {name: origin[name] for name in config_lib.COMPONENTS}


def _fitting(whole: config_lib.ModelConfig, sizes: dict[str, Any]) -> dict[str, Any]:
  """`sizes`, and for the parts it lacks those of `whole` with as many codes and speaker numbers as `sizes` has."""
  tokens, speaker = sizes.get("speech_tokenizer", whole.speech_tokenizer), sizes.get("speaker", whole.speaker)
  vocab = dataclasses.replace(whole.speech_vocab, codebook_size=tokens.codebook_size)
  lm = dataclasses.replace(whole.lm, speech_vocab=vocab)
  flow = dataclasses.replace(whole.flow, codebook_size=tokens.codebook_size, speaker_dim=speaker.speaker_dim)
  return {"lm": lm, "flow": flow} | sizes


def check_shapes(name: str, params: Any, shapes: Any, where: str) -> None:
  """Raises CheckpointError, with a list, if parameters are not those that a model of these sizes has."""
  of = lambda tree: {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
  found, wanted = of(params), of(shapes)
  wrong = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
  if wrong:
    lines = "\n  ".join(f"{key}: expected {wanted.get(key)}, found {found.get(key)}" for key in wrong[:20])
    raise CheckpointError(f"{name} of {where} does not fit:\n  {lines}")


def main(argv: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name in FINISH:
    flags.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="RUN", help=f"run that trained the {name}")
  flags.add_argument("--base", type=Path, metavar="MODEL_DIR", help="gives what no run gives")
  flags.add_argument("--rest", choices=sorted(config_lib.PRESETS), help="random weights for what no run gives")
  flags.add_argument("--tokenizer", type=Path, metavar="DIR", help="text tokenizer, if not that of --base")
  flags.add_argument("--step", type=int, help="of the checkpoints; the best of each run if left out")
  flags.add_argument("--last", action="store_true", help="the last checkpoint of each run instead of the best")
  flags.add_argument("--out", type=Path, required=True, metavar="MODEL_DIR", help="directory to make")
  args = flags.parse_args(argv)
  if args.base and args.rest:
    flags.error("--base and --rest: expected one of them")
  runs = {name: run for name in FINISH if (run := getattr(args, name))}
  if not runs and not args.rest:
    flags.error("expected at least one run, or --rest: " + ", ".join(f"--{name.replace('_', '-')}" for name in FINISH))
  origin = export(args.out, runs, base=args.base, rest=args.rest, tokenizer=args.tokenizer, step=args.step,
                  last=args.last)  # fmt: skip
  for name, where in origin.items():
    print(f"{name:<18}{where}")
  print(f"wrote {args.out}")
  return 0


if __name__ == "__main__":
  sys.exit(cli.at_exit(main))
