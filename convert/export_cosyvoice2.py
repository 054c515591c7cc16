"""Exports a cosyjax model directory in the layout of an official CosyVoice 2 release.

  python -m convert.export_cosyvoice2 DIR OUT
  python -m convert.export_cosyvoice2 DIR OUT --release SRC --formats pt

OUT gets llm, flow and hift as .pt and .safetensors, cosyvoice2.yaml, CosyVoice-BlankEN/ and, if
DIR has voices, spk2info.pt: what the public PyTorch code loads strictly. It is convert.cosyvoice2
backwards; converting OUT gives DIR's parameters again, bit for bit. PyTorch is not needed.

The speech tokenizer and the speaker encoder are graphs in ONNX, which are not made here: with
--release they are copied from SRC if they are the networks of DIR. OUT must not exist; it appears
whole or not at all.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from convert import table_flow, table_lm, table_speaker, table_speech_tokenizer, table_vocoder
from convert.engine import Tensors, convert
from convert.read_onnx import read_onnx
from convert.release import GRAPHS, STEMS, TEXT_TOKENIZER, VOICES
from convert.reverse import reverse, split_weight_norm
from convert.speaker_table import speaker_entries
from convert.write_pt import write_pt
from convert.write_settings import cosyvoice2_yaml, qwen_config
from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import ConversionError, CosyError
from cosyjax.files import whole, write_whole
from cosyjax.inference.voice import Voice
from cosyjax.text import TextTokenizer

FORMATS = ("pt", "safetensors")
_TABLES = {"lm": table_lm.table, "flow": table_flow.table, "vocoder": table_vocoder.table}
_GRAPH_TABLES = {"speech_tokenizer": table_speech_tokenizer, "speaker": table_speaker}
_HEAD, _TEXT, _QWEN = "llm.model.lm_head.weight", "llm.model.model.embed_tokens.weight", "llm.model."


def export_tensors(config: config_lib.ModelConfig, component: str, params: Any) -> Tensors:
  """Tensors of the language model, the flow or the vocoder, under their names in a release.

  Args:
    config: of the model.
    component: "lm", "flow" or "vocoder".
    params: its parameters, unboxed, layers separate.

  Raises:
    ConversionError: a parameter has no name there, or the way back does not lead here again.
  """
  table = _TABLES[component](getattr(config, component))
  tensors = reverse(component, params, table)
  again = convert(component, tensors, table, params).params
  if changed := _differing(params, again):
    raise ConversionError(f"{component}: the export of {changed[:8]} does not convert to the same numbers")
  if component == "vocoder":
    return split_weight_norm(tensors, table_vocoder.WEIGHT_NORM)
  if component == "lm":  # the text model's own head, which nothing reads, is its embedding
    tensors[_HEAD] = tensors[_TEXT]
  return tensors


def export(directory: Path, out: Path, release: Path | None = None, formats: tuple[str, ...] = FORMATS) -> list[str]:
  """Writes the release `out` of a model directory.

  Args:
    directory: of the model.
    out: must not be there.
    release: official directory to copy the ONNX graphs from.
    formats: of the weights, some of `FORMATS`.

  Returns:
    What is to be said of it, line by line.

  Raises:
    CheckpointError: the model directory cannot be read.
    ConversionError: `out` is there, or the release's graphs are other networks.
    OutputError: it cannot be written.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ConversionError(f"{out} is there already; remove it or name another directory")
  config = checkpoint.load_config(directory)
  abstract = networks.abstract_params(config)
  read = lambda name: jax.tree.map(np.asarray, checkpoint.load_params(directory, name, abstract[name]))
  tokenizer = TextTokenizer.load(directory / "text_tokenizer")
  notes = _limits(config)
  with whole(out, directory=True) as work:
    for component, stem in STEMS.items():
      tensors = export_tensors(config, component, read(component))
      if "pt" in formats:
        write_pt(work / f"{stem}.pt", tensors)
      if "safetensors" in formats:
        _save(work / f"{stem}.safetensors", tensors)
      size = sum(t.size for t in tensors.values())
      notes.append(f"{stem}: {len(tensors)} tensors, {size:,} numbers")
      if component == "lm":
        (work / TEXT_TOKENIZER).mkdir()
        stack = {n.removeprefix(_QWEN): t for n, t in tensors.items() if n.startswith(_QWEN) and n != _HEAD}
        _save(work / TEXT_TOKENIZER / "model.safetensors", stack)
    write_whole(work / "cosyvoice2.yaml", cosyvoice2_yaml(config))
    write_whole(work / TEXT_TOKENIZER / "config.json", json.dumps(qwen_config(config), indent=2) + "\n")
    tokenizer.save(work / TEXT_TOKENIZER)
    if voices := {p.stem: Voice.load(p) for p in sorted((directory / "voices").glob("*.voice"))}:
      write_pt(work / VOICES, speaker_entries(voices, tokenizer))
      notes.append(f"{VOICES}: {', '.join(voices)}")
    if release is None:
      notes.append(f"not written: {', '.join(GRAPHS.values())}; --release SRC copies them from an official directory")
    else:
      for component, name in GRAPHS.items():
        _check_graph(release / name, component, config, read(component), abstract[component])
        shutil.copyfile(release / name, work / name)
        notes.append(f"{name}: copied from {release}, the same network")
  return notes


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m convert.export_cosyvoice2",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("directory", type=Path, metavar="DIR", help="model directory")
  parser.add_argument("out", type=Path, metavar="OUT", help="directory to make")
  parser.add_argument("--release", type=Path, metavar="SRC", help="official directory to copy the ONNX graphs from")
  parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="of the weights")
  args = parser.parse_args(argv)
  start = time.perf_counter()
  try:
    notes = export(args.directory, args.out, args.release, tuple(args.formats))
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print("\n".join(notes))
  print(f"wrote {args.out} in {time.perf_counter() - start:.1f} s")
  return 0


def _limits(config: config_lib.ModelConfig) -> list[str]:
  """What the public code cannot build from the settings, since it writes some sizes down itself."""
  encoder, fixed = config.flow.encoder, config_lib.FlowEncoderConfig()
  notes = []
  if (encoder.width, encoder.up_layers) != (fixed.width, fixed.up_layers):
    notes.append(
      f"the public code builds the flow's encoder with {fixed.width} channels and {fixed.up_layers} upper layers,"
      f" whatever the YAML says; this one has {encoder.width} and {encoder.up_layers}: only changed modules load it"
    )
  if config.text.split_cjk:
    notes.append("the public code does not split text ids of several Chinese characters, as this model was trained to")
  return notes


def _save(path: Path, tensors: Tensors) -> None:
  from safetensors.numpy import save_file

  save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path, metadata={"format": "pt"})
  path.chmod(0o644)  # the package makes files for their owner alone


def _check_graph(path: Path, component: str, config: config_lib.ModelConfig, params: Any, abstract: Any) -> None:
  """Refuses an ONNX graph that is not the model's own network."""
  module = _GRAPH_TABLES[component]
  table = module.table(getattr(config, component))
  theirs = convert(f"{component} ({path.name})", module.tensors(read_onnx(path)), table, abstract).params
  if changed := _differing(params, theirs):
    raise ConversionError(
      f"{path}: expected the {component.replace('_', ' ')} of the model, found another: {len(changed)} parameters"
      f" differ, {changed[0]} among them"
    )


def _differing(a: Any, b: Any) -> list[str]:
  """Paths of two parameter trees of equal structure that are not equal."""
  a, b = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (a, b))
  return [path for path in a if not np.array_equal(a[path], b[path])]


if __name__ == "__main__":
  sys.exit(main())
