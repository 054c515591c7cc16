"""Initial weights of the text-speech model from a Qwen2 or Qwen2.5 directory.

  python -m train.lm --qwen DIR ... starts a training from them
  python -m convert.qwen2 DIR      says whether it can start one, and of what size

The directory is what the model hub hands out: config.json and model.safetensors, or several
files of that kind with model.safetensors.index.json. Its text embedding and its stack are read;
the speech embedding, the special tokens and the speech head have no counterpart and stay fresh.
A safetensors file holds tensors and nothing that could run.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convert import table_lm
from convert.engine import Converted, Table, Tensors, convert
from convert.read_safetensors import read_safetensors
from cosyjax import config as config_lib
from cosyjax import networks
from cosyjax.config import LMConfig
from cosyjax.errors import ConversionError, CosyError

PARTS = ("text_embedding", "stack")  # of the model's parameters, what Qwen2 gives
_PREFIX = "llm.model."  # under which a CosyVoice 2 checkpoint holds the same tensors
_FIELDS = {
  "hidden_size": "width",
  "intermediate_size": "ffn",
  "num_hidden_layers": "layers",
  "num_attention_heads": "heads",
  "num_key_value_heads": "kv_heads",
  "rms_norm_eps": "norm_eps",
}


def initial_params(directory: str | Path, config: LMConfig, params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters with the text embedding and the stack of a Qwen2 model.

  Args:
    directory: config.json and weights in safetensors format.
    config: of the model to fill; every size must be the directory's.
    params: fresh parameters with separate layers, or their shapes (unboxed).

  Returns:
    Like `params`, with NumPy arrays (float32) where Qwen2 has values and the given leaves elsewhere.

  Raises:
    ConversionError: files are missing or damaged, or anything does not fit (all of it is listed).
  """
  directory = Path(directory)
  check_config(read_json(directory / "config.json"), config, directory)
  wanted = {name: params[name] for name in PARTS}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), wanted)
  return dict(params) | read(directory, config, shapes).params


def read(directory: Path, config: LMConfig, abstract: Any) -> Converted:
  """The tensors of a directory as our parameters; see `initial_params`."""
  rules = table_lm.table(config)
  rules = Table(tuple(rule for rule in rules.rules if rule.path.startswith(PARTS)), rules.ignored)
  tensors = {_PREFIX + name: value for name, value in read_tensors(directory).items()}
  return convert(f"lm from {directory}", tensors, rules, abstract)


def read_tensors(directory: str | Path) -> Tensors:
  """All tensors of a directory of safetensors files: name -> float32 array.

  Raises:
    ConversionError: a file is missing, damaged, or outside the directory.
  """
  directory = Path(directory)
  single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
  if single.is_file():
    return read_safetensors(single)
  if not index.is_file():
    raise ConversionError(f"{directory} holds neither {single.name} nor {index.name}")
  places = read_json(index).get("weight_map")
  if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
    raise ConversionError(f"{index}: expected a weight_map from tensor names to file names")
  out: Tensors = {}
  for name in sorted(set(places.values())):
    if Path(name).name != name or not name.endswith(".safetensors"):
      raise ConversionError(f"{index}: {name!r} is not the name of a safetensors file beside it")
    out |= read_safetensors(directory / name)
  if out.keys() != places.keys():
    wrong = sorted(out.keys() ^ places.keys())
    raise ConversionError(f"{index} and the files it names disagree on {len(wrong)} tensors: {wrong[:8]}")
  return out


def check_config(theirs: Mapping[str, Any], config: LMConfig, directory: Path) -> None:
  """Refuses a Qwen2 directory whose sizes or kind are not those of `config`.

  Raises:
    ConversionError: lists what differs.
  """
  rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
  found = {ours: theirs.get(name) for name, ours in _FIELDS.items()}
  found |= {"rope_theta": theirs.get("rope_theta", rope.get("rope_theta"))}
  ours = dataclasses.asdict(config)
  wrong = [f"{name}: expected {ours[name]}, found {value}" for name, value in found.items() if value != ours[name]]
  if theirs.get("model_type") != "qwen2":
    wrong.append(f"model_type: expected qwen2, found {theirs.get('model_type')!r}")
  if rope.get("rope_type", rope.get("type", "default")) != "default":
    wrong.append(f"expected plain rotary embedding, found {rope}")
  if wrong:
    raise ConversionError(f"{directory / 'config.json'} is not of the model to be trained: " + "; ".join(wrong))


def read_json(path: Path) -> dict[str, Any]:
  """A JSON object of a file.

  Raises:
    ConversionError: no such file, or not that.
  """
  try:
    data = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ConversionError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(data, dict):
    raise ConversionError(f"{path}: expected a JSON object")
  return data


def lm_config(directory: Path) -> LMConfig:
  """Configuration of the language model that a directory's weights can start.

  Raises:
    ConversionError: files are missing or damaged, or it is no plain Qwen2.
  """
  theirs = read_json(directory / "config.json")
  rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
  sizes = {ours: theirs.get(name) for name, ours in _FIELDS.items()}
  sizes |= {"rope_theta": theirs.get("rope_theta", rope.get("rope_theta")), "text_vocab": theirs.get("vocab_size")}
  wrong = [name for name, value in sizes.items() if isinstance(value, bool) or not isinstance(value, int | float)]
  if wrong:
    raise ConversionError(f"{directory / 'config.json'}: expected numbers for {wrong}, found none")
  config = dataclasses.replace(LMConfig(), **sizes)
  check_config(theirs, config, directory)
  return config


def main(argv: list[str] | None = None) -> int:
  style = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(prog="python -m convert.qwen2", description=__doc__, formatter_class=style)
  parser.add_argument("directory", type=Path, metavar="DIR", help="Qwen2 or Qwen2.5 directory")
  args = parser.parse_args(argv)
  try:
    config = lm_config(args.directory)
    whole = dataclasses.replace(config_lib.cosyvoice2(), lm=config)
    abstract = networks.abstract_params(whole)["lm"]
    found = read(args.directory, config, {name: abstract[name] for name in PARTS})
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(
    f"{args.directory}: {found.tensors_read} tensors, {found.parameters:,} parameters can start a language model of"
  )
  for name in (*_FIELDS.values(), "rope_theta", "text_vocab"):
    print(f"  lm.{name}={getattr(config, name):g}" if name == "rope_theta" else f"  lm.{name}={getattr(config, name)}")
  if found.ignored:
    print(f"not read: {', '.join(found.ignored)}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
