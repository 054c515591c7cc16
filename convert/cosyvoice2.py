"""Converts an official CosyVoice 2 directory into a cosyjax model directory.

  python -m convert.cosyvoice2 SRC DST

SRC holds llm.pt, flow.pt, hift.pt, speech_tokenizer_v2.onnx, campplus.onnx, cosyvoice2.yaml
and CosyVoice-BlankEN/, as released. PyTorch is not needed, and none of the files' code is
run: weights are read as tensors or not at all. DST must not exist; it appears whole or not
at all.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from convert import (
  table_flow,
  table_lm,
  table_speaker,
  table_speech_tokenizer,
  table_vocoder,
)
from convert.engine import Converted, Tensors, convert, fold_weight_norm
from convert.read_onnx import read_onnx
from convert.read_pt import read_pt
from convert.read_yaml import read_yaml
from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import ConversionError, CosyError
from cosyjax.text import TextTokenizer

TEXT_TOKENIZER = "CosyVoice-BlankEN"
FILES = {
  "lm": "llm.pt",
  "flow": "flow.pt",
  "vocoder": "hift.pt",
  "speech_tokenizer": "speech_tokenizer_v2.onnx",
  "speaker": "campplus.onnx",
}


def convert_release(source: Path) -> tuple[config_lib.ModelConfig, dict[str, Converted]]:
  """Reads and converts all five components of a release directory.

  Args:
    source: the directory.

  Returns:
    The model's configuration, and per component the parameters with their counts.

  Raises:
    ConversionError: a file is missing, or tensors do not fit (all of them are listed).
    UnsafeFileError: a weight file asks for more than tensors.
  """
  wanted = [*FILES.values(), "cosyvoice2.yaml", f"{TEXT_TOKENIZER}/config.json"]
  missing = [name for name in wanted if not (source / name).is_file()]
  if missing:
    raise ConversionError(f"{source} is no CosyVoice 2 release: {', '.join(missing)} not found")
  yaml = read_yaml(source / "cosyvoice2.yaml")
  qwen = _read_json(source / TEXT_TOKENIZER / "config.json")
  tensors: dict[str, Tensors] = {
    "lm": read_pt(source / FILES["lm"]),
    "flow": read_pt(source / FILES["flow"]),
    "vocoder": fold_weight_norm(_without_prefix(read_pt(source / FILES["vocoder"]), "generator.")),
    "speech_tokenizer": table_speech_tokenizer.tensors(read_onnx(source / FILES["speech_tokenizer"])),
    "speaker": table_speaker.tensors(read_onnx(source / FILES["speaker"])),
  }
  config = config_lib.ModelConfig(
    lm=table_lm.config_of(qwen, tensors["lm"], yaml),
    flow=table_flow.config_of(yaml, tensors["flow"]),
    vocoder=table_vocoder.config_of(yaml, tensors["vocoder"]),
    speech_tokenizer=table_speech_tokenizer.config_of(tensors["speech_tokenizer"]),
    speaker=table_speaker.config_of(tensors["speaker"]),
  )
  tables = {
    "lm": table_lm.table(config.lm),
    "flow": table_flow.table(config.flow),
    "vocoder": table_vocoder.table(config.vocoder),
    "speech_tokenizer": table_speech_tokenizer.table(config.speech_tokenizer),
    "speaker": table_speaker.table(config.speaker),
  }
  abstract = networks.abstract_params(config)
  results = {}
  for name in config_lib.COMPONENTS:
    results[name] = convert(f"{name} ({FILES[name]})", tensors.pop(name), tables[name], abstract[name])
  return config, results


def report(results: dict[str, Converted]) -> str:
  """The table that the program prints: component, tensors read, parameters, ignored names."""
  lines = [f"{'component':<18}{'tensors':>8}{'parameters':>14}  ignored"]
  for name, result in results.items():
    ignored = ", ".join(result.ignored) or "-"
    lines.append(f"{name:<18}{result.tensors_read:>8}{result.parameters:>14,}  {ignored}")
  total = sum(r.parameters for r in results.values())
  lines.append(f"{'all':<18}{sum(r.tensors_read for r in results.values()):>8}{total:>14,}")
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(prog="python -m convert.cosyvoice2", description=__doc__.split("\n")[0])
  parser.add_argument("source", type=Path, metavar="SRC", help="official CosyVoice 2 directory")
  parser.add_argument("target", type=Path, metavar="DST", help="model directory to make")
  args = parser.parse_args(argv)
  logging.basicConfig(format="%(message)s", level=logging.WARNING)
  start = time.perf_counter()
  try:
    if args.target.exists() and any(args.target.iterdir()):
      raise ConversionError(f"{args.target} is there already; remove it or name another directory")
    config, results = convert_release(args.source)
    tokenizer = TextTokenizer.load(args.source / TEXT_TOKENIZER)
    if len(tokenizer) > config.lm.text_vocab:
      raise ConversionError(f"{len(tokenizer)} text ids do not fit the LM's {config.lm.text_vocab} embeddings")
    checkpoint.save_model(args.target, config, {n: r.params for n, r in results.items()}, tokenizer.save)
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(report(results))
  print(f"wrote {args.target} in {time.perf_counter() - start:.1f} s")
  return 0


def _read_json(path: Path) -> dict[str, Any]:
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
    raise ConversionError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(data, dict):
    raise ConversionError(f"{path}: expected an object, found {type(data).__name__}")
  return data


def _without_prefix(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
  """Vocoder checkpoints of a training run put the generator's tensors below `generator.`."""
  return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


if __name__ == "__main__":
  sys.exit(main())
