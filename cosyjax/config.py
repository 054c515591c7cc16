"""Frozen model configurations: one dataclass per network, one for the whole model.

Two presets: `cosyvoice2()` has the sizes of the official 0.5 B release, `tiny()` runs in
seconds on a laptop. Every field that changes a parameter's shape or a request's result
lives here and travels in the model directory's `config.json`; nothing else does.
"""

import dataclasses
import types
import typing
from typing import Any

from cosyjax.errors import ConfigError

SAMPLE_RATE = 24_000  # Hz, of the synthesised audio
TOKEN_RATE = 25  # speech tokens a second
MEL_RATE = 50  # mel frames a second, twice the token rate
HOP = SAMPLE_RATE // MEL_RATE  # 480 samples of audio in a mel frame


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Text front end: host side only."""

  split_cjk: bool = False  # split BPE tokens of several Chinese characters (paper 2.1); the release does not
  normalise: bool = True  # read out numbers and symbols
  min_tokens: int = 60  # a piece of long text is not closed below this many tokens ...
  max_tokens: int = 80  # ... and is closed before it grows past this many
  merge_tokens: int = 20  # a last piece shorter than this joins the one before


@dataclasses.dataclass(frozen=True)
class SpeechTokenizerConfig:
  """Speech tokenizer: 16 kHz log-mel to 25 Hz ids (paper 2.2)."""

  mel_bins: int = 128
  width: int = 1280
  heads: int = 20
  layers: int = 6
  fsq_dims: int = 8
  fsq_levels: int = 3  # 2K+1 with K = 1
  fsmn_kernel: int = 31

  @property
  def codebook_size(self) -> int:
    return self.fsq_levels**self.fsq_dims


@dataclasses.dataclass(frozen=True)
class SpeakerConfig:
  """CAM++ speaker encoder (Wang et al. 2023)."""

  mel_bins: int = 80
  embedding: int = 192
  growth: int = 32
  bottleneck: int = 4  # width of a dense layer's bottleneck, in growths
  width: int = 128  # channels out of the first time-delay layer
  head_channels: int = 32  # channels of the two-dimensional front
  blocks: tuple[int, ...] = (12, 24, 16)
  kernels: tuple[int, ...] = (3, 3, 3)
  dilations: tuple[int, ...] = (1, 2, 2)
  # Sum of a short last context segment over a full segment's length: what ONNX Runtime made of the released graph
  # (opset 14) until mid-2026. PyTorch, and we by default, average over the frames that are there.
  full_segment_divisor: bool = False


@dataclasses.dataclass(frozen=True)
class LMConfig:
  """Text-speech language model on a Qwen2 stack (paper 2.3)."""

  width: int = 896
  ffn: int = 4864
  layers: int = 24
  heads: int = 14
  kv_heads: int = 2
  text_vocab: int = 151_936
  speech_codes: int = 6561  # C; rows C (end), C+1 (stop), C+2 (fill) follow in embedding and head
  rope_theta: float = 1_000_000.0
  norm_eps: float = 1e-6
  mix_text: int = 5  # N of the interleaved layout
  mix_speech: int = 15  # M of the interleaved layout
  # repetition-aware sampling
  top_p: float = 0.8
  top_k: int = 25
  repeat_window: int = 10
  repeat_rate: float = 0.1  # tau: redraw if the id fills at least this share of the window
  min_ratio: float = 2.0  # speech tokens per new text token: no end below ...
  max_ratio: float = 20.0  # ... and stop at

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  @property
  def speech_vocab(self) -> int:
    return self.speech_codes + 3

  @property
  def end_id(self) -> int:
    return self.speech_codes

  @property
  def stop_id(self) -> int:
    return self.speech_codes + 1

  @property
  def fill_id(self) -> int:
    return self.speech_codes + 2


@dataclasses.dataclass(frozen=True)
class FlowEncoderConfig:
  """Token encoder of the flow: look-ahead convolution, attention, upsampling by two."""

  width: int = 512
  heads: int = 8
  ffn: int = 2048
  blocks: int = 6  # at 25 Hz
  up_blocks: int = 4  # at 50 Hz
  lookahead: int = 3  # tokens


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Velocity network of the flow: causal one-dimensional UNet without resampling."""

  channels: int = 256
  heads: int = 8
  head_dim: int = 64
  blocks: int = 4  # transformer blocks per stage
  mid_stages: int = 12


@dataclasses.dataclass(frozen=True)
class FlowConfig:
  """Conditional flow matching from speech tokens to mel (paper 2.4)."""

  codes: int = 6561
  token_width: int = 512  # token embedding
  mel_bins: int = 80
  speaker: int = 192
  chunk: int = 25  # M in tokens; twice that in mel frames
  steps: int = 10
  guidance: float = 0.7
  sigma_min: float = 1e-6
  encoder: FlowEncoderConfig = FlowEncoderConfig()
  unet: UNetConfig = UNetConfig()


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
  """HiFT vocoder: f0, harmonic source, iSTFT generator."""

  mel_bins: int = 80
  channels: int = 512
  f0_channels: int = 512
  harmonics: int = 8
  upsample_rates: tuple[int, ...] = (8, 5, 3)
  upsample_kernels: tuple[int, ...] = (16, 11, 7)
  n_fft: int = 16
  hop: int = 4
  resblock_kernels: tuple[int, ...] = (3, 7, 11)
  resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
  source_kernels: tuple[int, ...] = (7, 7, 11)
  source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
  leaky_slope: float = 0.1
  audio_limit: float = 0.99
  source_amplitude: float = 0.1
  source_noise: float = 0.003
  voiced_threshold: float = 10.0  # Hz


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Everything needed to build the five networks and the text front end."""

  text: TextConfig = TextConfig()
  speech_tokenizer: SpeechTokenizerConfig = SpeechTokenizerConfig()
  speaker: SpeakerConfig = SpeakerConfig()
  lm: LMConfig = LMConfig()
  flow: FlowConfig = FlowConfig()
  vocoder: VocoderConfig = VocoderConfig()

  def __post_init__(self):
    _check_agreement(self)


COMPONENTS = ("lm", "flow", "vocoder", "speech_tokenizer", "speaker")


def cosyvoice2() -> ModelConfig:
  """Sizes of the official CosyVoice 2 0.5 B release."""
  return ModelConfig()


def tiny() -> ModelConfig:
  """A model of the same build and a thousandth of the size, for tests and the demo."""
  return ModelConfig(
    speech_tokenizer=SpeechTokenizerConfig(width=128, heads=2, layers=2),
    speaker=SpeakerConfig(embedding=24, growth=8, width=32),
    lm=LMConfig(width=64, ffn=128, layers=3, heads=4, kv_heads=2, text_vocab=512),
    flow=FlowConfig(
      token_width=64,
      speaker=24,
      encoder=FlowEncoderConfig(width=64, heads=4, ffn=128, blocks=2, up_blocks=2),
      unet=UNetConfig(channels=32, heads=2, head_dim=16, blocks=1, mid_stages=2),
    ),
    vocoder=VocoderConfig(channels=64, f0_channels=32),
  )


PRESETS = {"cosyvoice2": cosyvoice2, "tiny": tiny}


def to_dict(config: Any) -> dict[str, Any]:
  """Plain nested dict of a configuration, ready for JSON."""
  return dataclasses.asdict(config)


def from_dict(data: dict[str, Any], kind: type = ModelConfig, where: str = "config") -> Any:
  """Rebuilds a configuration from `to_dict`'s output.

  Args:
    data: nested dict, as read from JSON (lists stand for tuples).
    kind: the dataclass to build.
    where: name used in error messages.

  Raises:
    ConfigError: a field is unknown, missing, or of the wrong type.
  """
  if not isinstance(data, dict):
    raise ConfigError(f"{where}: expected an object, found {type(data).__name__}")
  fields = {f.name: f.type for f in dataclasses.fields(kind)}
  hints = typing.get_type_hints(kind)
  unknown = sorted(set(data) - set(fields))
  missing = sorted(set(fields) - set(data))
  if unknown or missing:
    raise ConfigError(f"{where}: unknown fields {unknown}, missing fields {missing} of {kind.__name__}")
  return kind(**{name: _value(data[name], hints[name], f"{where}.{name}") for name in fields})


def _value(value: Any, hint: Any, where: str) -> Any:
  if dataclasses.is_dataclass(hint):
    return from_dict(value, hint, where)
  if isinstance(hint, types.GenericAlias):  # tuple[X, ...]
    if not isinstance(value, list | tuple):
      raise ConfigError(f"{where}: expected a list, found {value!r}")
    return tuple(_value(item, hint.__args__[0], where) for item in value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
  return value


def _check_agreement(c: ModelConfig) -> None:
  """Refuses sizes under which one stage's output does not fit the next stage's input."""
  pairs = {
    "speech_tokenizer codes and lm.speech_codes": (c.speech_tokenizer.codebook_size, c.lm.speech_codes),
    "lm.speech_codes and flow.codes": (c.lm.speech_codes, c.flow.codes),
    "speaker.embedding and flow.speaker": (c.speaker.embedding, c.flow.speaker),
    "flow.mel_bins and vocoder.mel_bins": (c.flow.mel_bins, c.vocoder.mel_bins),
    "lm.width and lm.heads * lm.head_dim": (c.lm.width, c.lm.heads * c.lm.head_dim),
  }
  rate = c.vocoder.hop
  for factor in c.vocoder.upsample_rates:
    rate *= factor
  pairs["samples per mel frame and vocoder hop"] = (HOP, rate)
  wrong = [f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b]
  if c.lm.heads % c.lm.kv_heads:
    wrong.append(f"lm.heads {c.lm.heads} is no multiple of lm.kv_heads {c.lm.kv_heads}")
  if wrong:
    raise ConfigError("sizes that must agree do not: " + "; ".join(wrong))
