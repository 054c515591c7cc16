"""Converts an official CosyVoice 2 directory into a cosyjax model directory.

  python -m convert.cosyvoice2 SRC DST
  python -m convert.cosyvoice2 SRC DST --llm llm.rl.pt

SRC holds llm.pt, flow.pt, hift.pt, speech_tokenizer_v2.onnx, campplus.onnx, cosyvoice2.yaml
(or cosyvoice.yaml) and CosyVoice-BlankEN/, as released; spk2info.pt becomes voices. Weights may
be .safetensors in place of .pt, or one model.safetensors. PyTorch is not needed, and none of
the files' code is run: weights are read as tensors or not at all. DST must not exist; it
appears whole or not at all, with the SHA-256 of every file it was made of.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from convert import release as release_lib
from convert import (
  table_flow,
  table_lm,
  table_speaker,
  table_speech_tokenizer,
  table_vocoder,
)
from convert.engine import Converted, Tensors, convert
from convert.read_onnx import read_onnx
from convert.read_yaml import read_yaml
from convert.release import TEXT_TOKENIZER, Release
from convert.speaker_table import file_name, read_voices
from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import ConversionError, CosyError
from cosyjax.inference.voice import Voice
from cosyjax.text import TextTokenizer


def convert_release(source: Path | Release) -> tuple[config_lib.ModelConfig, dict[str, Converted]]:
  """Reads and converts all five components of a release.

  Args:
    source: the directory, or what `find_release` found in it; its notes then say what was left out.

  Returns:
    The model's configuration, and per component the parameters with their counts.

  Raises:
    ConversionError: a file is missing, or tensors do not fit (all of them are listed).
    UnsafeFileError: a weight file asks for more than tensors.
  """
  release = source if isinstance(source, Release) else release_lib.find_release(source)
  yaml = read_yaml(release.settings)
  qwen = _read_json(release.directory / TEXT_TOKENIZER / "config.json")
  tensors: dict[str, Tensors] = {
    **{name: release_lib.read_weights(release, name) for name in release_lib.STEMS},
    "speech_tokenizer": table_speech_tokenizer.tensors(read_onnx(release.files["speech_tokenizer"])),
    "speaker": table_speaker.tensors(read_onnx(release.files["speaker"])),
  }
  flow = table_flow.config_of(yaml, tensors["flow"])
  config = config_lib.ModelConfig(
    audio=_audio_of(yaml, flow),
    lm=table_lm.config_of(qwen, tensors["lm"], yaml),
    flow=flow,
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
    results[name] = convert(f"{name} ({release.files[name].name})", tensors.pop(name), tables[name], abstract[name])
  return config, results


def _audio_of(yaml: dict[str, Any], flow: config_lib.FlowConfig) -> config_lib.AudioConfig:
  """Mel settings of `cosyvoice2.yaml`; the release's where it is silent."""
  told = yaml.get("feat_extractor")
  told = told if isinstance(told, dict) else {}
  names = {"sampling_rate": "sample_rate", "hop_size": "hop", "n_fft": "n_fft", "win_size": "win"}
  found = {ours: told[theirs] for theirs, ours in names.items() if isinstance(told.get(theirs), int)}
  found |= {name: float(told[name]) for name in ("fmin", "fmax") if isinstance(told.get(name), int | float)}
  if told.get("fmax", 0) is None:  # half the sample rate
    found["fmax"] = None
  return config_lib.AudioConfig(**found, mel_bins=flow.mel_bins, frames_per_token=flow.frames_per_token)


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
  parser = argparse.ArgumentParser(
    prog="python -m convert.cosyvoice2", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("source", type=Path, metavar="SRC", help="official CosyVoice 2 directory")
  parser.add_argument("target", type=Path, metavar="DST", help="model directory to make")
  parser.add_argument("--llm", type=Path, metavar="FILE", help="language model in place of llm.pt, such as llm.rl.pt")
  args = parser.parse_args(argv)
  logging.basicConfig(format="%(message)s", level=logging.WARNING)
  start = time.perf_counter()
  try:
    if args.target.exists() and any(args.target.iterdir()):
      raise ConversionError(f"{args.target} is there already; remove it or name another directory")
    release = release_lib.find_release(args.source, args.llm)
    config, results = convert_release(release)
    tokenizer = TextTokenizer.load(args.source / TEXT_TOKENIZER)
    if len(tokenizer) > config.lm.text_vocab:
      raise ConversionError(f"{len(tokenizer)} text ids do not fit the LM's {config.lm.text_vocab} embeddings")
    voices = _voices(release, tokenizer, config)
    source = {
      "lm": release.files["lm"].name,
      "files": release.digests,
      "notes": release.notes,
    }
    checkpoint.save_model(
      args.target, config, {n: r.params for n, r in results.items()}, tokenizer.save, source=source,
      save_voices=lambda folder: [voice.save(folder / name) for name, voice in voices.items()],
    )  # fmt: skip
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(report(results))
  for note in release.notes:
    print(note)
  print(f"wrote {args.target} in {time.perf_counter() - start:.1f} s")
  return 0


def _voices(release: Release, tokenizer: TextTokenizer, config: config_lib.ModelConfig) -> dict[str, Voice]:
  """File name -> voice, of a release's table of speakers."""
  if release.voices is None:
    return {}
  found = read_voices(release.voices, tokenizer, config.speaker.speaker_dim, config.flow.mel_bins)
  voices: dict[str, Voice] = {}
  for speaker, voice in found.items():
    name = file_name(speaker)
    if name in voices:
      raise ConversionError(f"{release.voices}: two speakers would be voices/{name}, one of them {speaker!r}")
    voices[name] = voice
    what = f"{voice.seconds:.1f} s of prompt" if len(voice.tokens_U) else "the speaker vector alone"
    release.notes.append(f"{release.voices.name}: speaker {speaker!r} is voices/{name} ({what})")
  return voices


def _read_json(path: Path) -> dict[str, Any]:
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
    raise ConversionError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(data, dict):
    raise ConversionError(f"{path}: expected an object, found {type(data).__name__}")
  return data


if __name__ == "__main__":
  sys.exit(main())
