"""PyTorch names of the HiFT vocoder (`hift.pt`, weight norm folded) and its configuration."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.engine import Rule, Table, conv1d, conv1d_transposed, linear
from cosyjax.config import VocoderConfig
from cosyjax.errors import ConversionError

# Weights with weight norm, of which `hift.pt` has length and direction.
WEIGHT_NORM = r"(conv_pre|conv_post|ups\.\d+|(source_)?resblocks\..*|f0_predictor\.condnet\.\d+)\.weight"


def table(config: VocoderConfig) -> Table:
  """Rules from `hift.pt` to the parameters of `cosyjax.vocoder.hift.Vocoder`."""
  rules = []

  def layer(pattern: str, path: str, transform) -> None:
    rules.append(Rule(pattern + r"\.weight", f"{path}/kernel", transform))
    rules.append(Rule(pattern + r"\.bias", f"{path}/bias"))

  layer(r"m_source\.l_linear", "harmonic_mix", linear)
  layer(r"conv_pre", "generator/conv_in", conv1d)
  layer(r"ups\.(\d+)", r"generator/up_\1", conv1d_transposed)
  layer(r"source_downs\.(\d+)", r"generator/source_down_\1", conv1d)
  layer(r"conv_post", "generator/conv_out", conv1d)
  layer(r"f0_predictor\.classifier", "f0_predictor/out", linear)
  for i in range(5):  # an activation stands between two convolutions of the Sequential
    layer(rf"f0_predictor\.condnet\.{2 * i}", f"f0_predictor/conv_{i}", conv1d)

  blocks = {r"source_resblocks\.(\d+)": r"source_block_\1"}
  kernels = len(config.resblock_kernels)
  for n in range(len(config.upsample_rates) * kernels):  # one flat list, by stage, then by kernel
    blocks[rf"resblocks\.({n})"] = f"block_{n // kernels}_{n % kernels}"
  for source, target in blocks.items():
    for number, place in (("1", "in"), ("2", "out")):
      layer(rf"{source}\.convs{number}\.(\d+)", rf"generator/{target}/conv_\2_{place}", conv1d)
      rules.append(Rule(rf"{source}\.activations{number}\.(\d+)\.alpha", rf"generator/{target}/snake_\2_{place}/alpha"))
  return Table(tuple(rules))


def config_of(settings: Mapping[str, Any] | None, tensors: Mapping[str, np.ndarray]) -> VocoderConfig:
  """Configuration of the vocoder whose tensors these are.

  Sizes come from the tensors' shapes. What no shape shows (rates, dilations, hop, constants)
  comes from the YAML's `hift` section, or is CosyVoice 2's where there is none.

  Args:
    settings: the whole of `cosyvoice2.yaml` as `convert.read_yaml.read_yaml` returns it, or None.
    tensors: `hift.pt`, weight norm folded.

  Raises:
    ConversionError: a tensor that sizes are read from is missing, or the YAML contradicts the tensors or
      describes another kind of vocoder.
  """
  told = dict((settings or {}).get("hift") or {})
  default = VocoderConfig()
  stages, blocks = _count(tensors, r"ups\.(\d+)\.weight"), _count(tensors, r"resblocks\.(\d+)\.convs1\.0\.weight")
  if not stages or blocks % stages:
    raise ConversionError(f"vocoder: {stages} upsampling layers and {blocks} residual blocks; expected a multiple")
  channels, mel_bins, _ = _shape(tensors, "conv_pre.weight", 3)
  stft = told.get("istft_params") or {}
  config = VocoderConfig(
    mel_bins=mel_bins,
    channels=channels,
    f0_channels=_shape(tensors, "f0_predictor.condnet.0.weight", 3)[0],
    harmonics=_shape(tensors, "m_source.l_linear.weight", 2)[1] - 1,
    upsample_rates=tuple(told.get("upsample_rates", default.upsample_rates)),
    upsample_kernels=tuple(_shape(tensors, f"ups.{i}.weight", 3)[2] for i in range(stages)),
    n_fft=_shape(tensors, "conv_post.weight", 3)[0] - 2,
    hop=stft.get("hop_len", default.hop),
    resblock_kernels=tuple(_shape(tensors, f"resblocks.{i}.convs1.0.weight", 3)[2] for i in range(blocks // stages)),
    resblock_dilations=_nested(told.get("resblock_dilation_sizes", default.resblock_dilations)),
    source_kernels=tuple(_shape(tensors, f"source_resblocks.{i}.convs1.0.weight", 3)[2] for i in range(stages)),
    source_dilations=_nested(told.get("source_resblock_dilation_sizes", default.source_dilations)),
    leaky_slope=float(told.get("lrelu_slope", default.leaky_slope)),
    audio_limit=float(told.get("audio_limit", default.audio_limit)),
    source_amplitude=float(told.get("nsf_alpha", default.source_amplitude)),
    source_noise=float(told.get("nsf_sigma", default.source_noise)),
    voiced_threshold=float(told.get("nsf_voiced_threshold", default.voiced_threshold)),
  )
  _check(config, told, stft)
  return config


def _check(config: VocoderConfig, told: Mapping[str, Any], stft: Mapping[str, Any]) -> None:
  """Refuses a YAML that says something else than the tensors, or a vocoder of another rate."""
  found = {
    "sampling_rate": (config.sample_rate, told.get("sampling_rate")),
    "in_channels": (config.mel_bins, told.get("in_channels")),
    "base_channels": (config.channels, told.get("base_channels")),
    "nb_harmonics": (config.harmonics, told.get("nb_harmonics")),
    "upsample_kernel_sizes": (list(config.upsample_kernels), told.get("upsample_kernel_sizes")),
    "resblock_kernel_sizes": (list(config.resblock_kernels), told.get("resblock_kernel_sizes")),
    "source_resblock_kernel_sizes": (list(config.source_kernels), told.get("source_resblock_kernel_sizes")),
    "istft_params.n_fft": (config.n_fft, stft.get("n_fft")),
  }
  wrong = [f"hift.{k}: expected {want}, found {have}" for k, (want, have) in found.items() if have not in (None, want)]
  stages, kernels = len(config.upsample_kernels), len(config.resblock_kernels)
  lengths = {
    "upsample_rates": (stages, config.upsample_rates),
    "resblock_dilation_sizes": (kernels, config.resblock_dilations),
    "source_resblock_dilation_sizes": (stages, config.source_dilations),
  }
  wrong += [f"hift.{k}: expected {n} entries, found {list(v)}" for k, (n, v) in lengths.items() if len(v) != n]
  if wrong:
    raise ConversionError("vocoder settings and tensors disagree:\n  " + "\n  ".join(wrong))


def _count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
  return sum(1 for name in tensors if re.fullmatch(pattern, name))


def _shape(tensors: Mapping[str, np.ndarray], name: str, rank: int) -> tuple[int, ...]:
  if name not in tensors:
    raise ConversionError(f"vocoder: tensor {name} is missing; are these the tensors of hift.pt, weight norm folded?")
  shape = tensors[name].shape
  if len(shape) != rank:
    raise ConversionError(f"vocoder: tensor {name} has shape {shape}, expected {rank} axes")
  return shape


def _nested(value: Any) -> tuple[tuple[int, ...], ...]:
  return tuple(tuple(row) for row in value)
