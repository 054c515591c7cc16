"""Frozen model configurations: a model is a value.

One dataclass for the audio that all parts agree on, one for the ids of the speech vocabulary, one for
each network, one for the whole model. Every field that changes a parameter's shape or a request's
result stands here and travels in the model directory's `config.json`; nothing else does.

A network's configuration is all that its modules read, so sizes that several networks share stand in
each of them: `ModelConfig` refuses values that disagree, and `assemble` makes them agree. Where a
network has several kinds, the type of its configuration says which (`cosyjax.networks`).
"""

import dataclasses
import math
from typing import Any, ClassVar

from cosyjax import config_dict
from cosyjax.config_dict import to_dict as to_dict
from cosyjax.errors import ConfigError

COMPONENTS = ("lm", "flow", "vocoder", "speech_tokenizer", "speaker")


@dataclasses.dataclass(frozen=True)
class AudioConfig:
  """Synthesised audio, and the log-mel spectrogram that flow and vocoder exchange."""

  sample_rate: int = 24_000  # Hz
  hop: int = 480  # samples from one mel frame to the next
  n_fft: int = 1920
  win: int = 1920  # samples under the window, at most n_fft
  mel_bins: int = 80
  fmin: float = 0.0  # Hz, lower edge of the first mel filter
  fmax: float | None = 8000.0  # Hz, upper edge of the last one; half the sample rate if None
  frames_per_token: int = 2  # mel frames in a speech token

  def __post_init__(self) -> None:
    if self.sample_rate % self.samples_per_token:
      raise ConfigError(
        f"audio: {self.sample_rate} Hz is no whole number of tokens of {self.samples_per_token} samples"
      )
    if not self.hop <= self.n_fft or not 0 < self.win <= self.n_fft or (self.n_fft - self.hop) % 2:
      raise ConfigError(f"audio: expected win and hop up to n_fft, and n_fft - hop even, found {self}")

  @property
  def frame_rate(self) -> int:
    """Mel frames a second."""
    return self.sample_rate // self.hop

  @property
  def token_rate(self) -> int:
    """Speech tokens a second."""
    return self.sample_rate // self.samples_per_token

  @property
  def samples_per_token(self) -> int:
    """Audio samples in a speech token."""
    return self.hop * self.frames_per_token


@dataclasses.dataclass(frozen=True)
class SpeechVocab:
  """Speech ids of the LM: C codes of the speech tokenizer, then the special tokens.

  Special tokens are named by their place among the special rows: place p is id C + p. The defaults are
  those of CosyVoice 2; CosyVoice 3 has 200 special rows, start and turn among them, and no bias.
  """

  codebook_size: int = 6561  # C
  special_rows: int = 3  # rows after the codes, in the speech embedding and in the head
  end: int = 0  # target after the last speech token
  fill: int = 2  # target where the next group of streamed text is due
  ends_known: tuple[int, ...] = (0, 1, 2)  # places that end a segment whose text is all known
  ends_streamed: tuple[int, ...] = (0,)  # places that end a segment of streamed text; others but fill are errors
  # Start of sequence and turn of speech: rows of an embedding of their own, or (own_rows 0) places as above.
  own_rows: int = 2
  start: int = 0
  turn: int = 1
  head_bias: bool = True

  def __post_init__(self) -> None:
    places = {"end": self.end, "fill": self.fill}
    places |= {f"ends_known {p}": p for p in self.ends_known} | {f"ends_streamed {p}": p for p in self.ends_streamed}
    wrong = [name for name, place in places.items() if not 0 <= place < self.special_rows]
    limit = self.own_rows or self.special_rows
    wrong += [name for name in ("start", "turn") if not 0 <= getattr(self, name) < limit]
    if wrong:
      raise ConfigError(f"speech_vocab: {', '.join(wrong)}: no such row among {self.special_rows} special ones")

  @property
  def rows(self) -> int:
    """Rows of the speech embedding and of the head."""
    return self.codebook_size + self.special_rows

  @property
  def end_id(self) -> int:
    """Id of the target after the last speech token."""
    return self.codebook_size + self.end

  @property
  def fill_id(self) -> int:
    """Id after which the next group of streamed text follows."""
    return self.codebook_size + self.fill

  @property
  def start_id(self) -> int:
    """Id of the start of sequence, in the table that `own_rows` says."""
    return self.start if self.own_rows else self.codebook_size + self.start

  @property
  def turn_id(self) -> int:
    """Id of the turn of speech, in the table that `own_rows` says."""
    return self.turn if self.own_rows else self.codebook_size + self.turn


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Text front end: host side only."""

  split_cjk: bool = False  # split BPE tokens of several Chinese characters (paper 2.1); the release does not
  normalise: bool = True  # read out numbers and symbols
  min_tokens: int = 60  # a segment of long text is not closed below this many tokens ...
  max_tokens: int = 80  # ... and is closed before it grows past this many
  merge_tokens: int = 20  # a last segment shorter than this joins the one before


@dataclasses.dataclass(frozen=True)
class SpeechTokenizerConfig:
  """Speech tokenizer: 16 kHz log-mel to 25 Hz ids (paper 2.2)."""

  token_rate: ClassVar[int] = 25  # Hz: two halvings of 100 Hz frames

  mel_bins: int = 128
  width: int = 1280
  heads: int = 20
  layers: int = 6
  fsq_dims: int = 8
  fsq_levels: int = 3  # 2K+1 with K = 1
  fsmn_kernel: int = 31

  @property
  def codebook_size(self) -> int:
    """Number of codes."""
    return self.fsq_levels**self.fsq_dims


@dataclasses.dataclass(frozen=True)
class SpeakerConfig:
  """CAM++ speaker encoder (Wang et al. 2023)."""

  mel_bins: int = 80
  speaker_dim: int = 192
  growth: int = 32
  bottleneck: int = 4  # width of a dense layer's bottleneck, in growths
  width: int = 128  # channels out of the first time-delay layer
  head_channels: int = 32  # channels of the two-dimensional front
  layers: tuple[int, ...] = (12, 24, 16)  # of each densely connected group
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
  speech_vocab: SpeechVocab = SpeechVocab()
  rope_theta: float = 1_000_000.0
  norm_eps: float = 1e-6
  mix_text: int = 5  # N of the interleaved layout
  mix_speech: int = 15  # M of the interleaved layout
  # repetition-aware sampling
  top_p: float = 0.8
  top_k: int = 25
  repeat_window: int = 10
  repeat_rate: float = 0.1  # tau: redraw if the id fills at least this share of the window
  min_tokens_per_text: float = 2.0  # speech tokens per new text token: no end below ...
  max_tokens_per_text: float = 20.0  # ... and stop at

  @property
  def head_dim(self) -> int:
    """Width of an attention head."""
    return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class FlowEncoderConfig:
  """Token encoder of the flow: look-ahead convolution, attention, upsampling to mel frames."""

  type: ClassVar[str] = "transformer"

  width: int = 512
  heads: int = 8
  ffn: int = 2048
  layers: int = 6  # at the rate of tokens
  up_layers: int = 4  # at the rate of mel frames
  lookahead: int = 3  # tokens


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Velocity network of the flow: causal one-dimensional UNet without resampling."""

  type: ClassVar[str] = "unet"

  channels: int = 256
  heads: int = 8
  head_dim: int = 64
  transformer_layers: int = 4  # in each of the UNet's layers
  mid_layers: int = 12


@dataclasses.dataclass(frozen=True)
class FlowConfig:
  """Conditional flow matching from speech tokens to mel (paper 2.4)."""

  codebook_size: int = 6561
  token_width: int = 512  # token embedding
  mel_bins: int = 80
  frames_per_token: int = 2
  speaker_dim: int = 192
  chunk: int = 25  # M in tokens
  steps: int = 10
  guidance: float = 0.7
  sigma_min: float = 1e-6
  encoder: FlowEncoderConfig = FlowEncoderConfig()
  estimator: UNetConfig = UNetConfig()


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
  """HiFT vocoder: f0, harmonic source, iSTFT generator."""

  type: ClassVar[str] = "hift"

  sample_rate: int = 24_000
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

  @property
  def samples_per_frame(self) -> int:
    """Audio samples of a mel frame."""
    return self.hop * math.prod(self.upsample_rates)

  @property
  def frame_rate(self) -> int:
    """Mel frames a second."""
    return self.sample_rate // self.samples_per_frame


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Everything needed to build the five networks and the text front end.

  `family` names the release or recipe that a model follows; programs show it, and no module reads it.
  """

  family: str = "cosyvoice2"
  audio: AudioConfig = AudioConfig()
  text: TextConfig = TextConfig()
  speech_tokenizer: SpeechTokenizerConfig = SpeechTokenizerConfig()
  speaker: SpeakerConfig = SpeakerConfig()
  lm: LMConfig = LMConfig()
  flow: FlowConfig = FlowConfig()
  vocoder: VocoderConfig = VocoderConfig()

  def __post_init__(self) -> None:
    _check_agreement(self)

  @property
  def speech_vocab(self) -> SpeechVocab:
    """Speech ids, which the LM's configuration holds."""
    return self.lm.speech_vocab


def cosyvoice2() -> ModelConfig:
  """Sizes of the official CosyVoice 2 0.5 B release."""
  return ModelConfig()


def tiny() -> ModelConfig:
  """A model of the same build and a thousandth of the size, for tests and the demo."""
  return assemble(
    speech_tokenizer=SpeechTokenizerConfig(width=128, heads=2, layers=2),
    speaker=SpeakerConfig(speaker_dim=24, growth=8, width=32),
    lm=LMConfig(width=64, ffn=128, layers=3, heads=4, kv_heads=2, text_vocab=512),
    flow=FlowConfig(
      token_width=64,
      encoder=FlowEncoderConfig(width=64, heads=4, ffn=128, layers=2, up_layers=2),
      estimator=UNetConfig(channels=32, heads=2, head_dim=16, transformer_layers=1, mid_layers=2),
    ),
    vocoder=VocoderConfig(channels=64, f0_channels=32),
  )


PRESETS = {"cosyvoice2": cosyvoice2, "tiny": tiny}


def assemble(**parts: Any) -> ModelConfig:
  """A model of the given parts, the others as by default, with the sizes made equal that several of them repeat.

  Mel bins, rates and frames per token are taken from `audio`, the codebook's size from the speech tokenizer, the
  length of speaker vectors from the speaker encoder.

  Args:
    parts: fields of `ModelConfig`.

  Raises:
    ConfigError: parts that cannot be made to agree, such as the vocoder's upsampling and the audio's hop.
  """
  c = {f.name: parts.pop(f.name, f.default) for f in dataclasses.fields(ModelConfig)} | parts
  audio, codes = c["audio"], c["speech_tokenizer"].codebook_size
  shared = {"mel_bins": audio.mel_bins}
  flow = shared | {"codebook_size": codes, "speaker_dim": c["speaker"].speaker_dim}
  flow |= {"frames_per_token": audio.frames_per_token}
  c["flow"] = dataclasses.replace(c["flow"], **flow)
  c["vocoder"] = dataclasses.replace(c["vocoder"], **shared, sample_rate=audio.sample_rate)
  vocab = dataclasses.replace(c["lm"].speech_vocab, codebook_size=codes)
  c["lm"] = dataclasses.replace(c["lm"], speech_vocab=vocab)
  return ModelConfig(**c)


def from_dict(data: dict[str, Any], kind: Any = ModelConfig, where: str = "config") -> Any:
  """Rebuilds a configuration from `to_dict`'s output; see `cosyjax.config_dict.from_dict`."""
  return config_dict.from_dict(data, kind, where)


def _check_agreement(c: ModelConfig) -> None:
  """Refuses sizes under which one part's output does not fit the next part's input."""
  codes, audio = c.lm.speech_vocab.codebook_size, c.audio
  pairs = {
    "speech_tokenizer.codebook_size and lm.speech_vocab.codebook_size": (c.speech_tokenizer.codebook_size, codes),
    "lm.speech_vocab.codebook_size and flow.codebook_size": (codes, c.flow.codebook_size),
    "speaker.speaker_dim and flow.speaker_dim": (c.speaker.speaker_dim, c.flow.speaker_dim),
    "audio.mel_bins and flow.mel_bins": (audio.mel_bins, c.flow.mel_bins),
    "audio.mel_bins and vocoder.mel_bins": (audio.mel_bins, c.vocoder.mel_bins),
    "audio.frames_per_token and flow.frames_per_token": (audio.frames_per_token, c.flow.frames_per_token),
    "audio.token_rate and that of the speech tokenizer": (audio.token_rate, c.speech_tokenizer.token_rate),
    "audio.sample_rate and vocoder.sample_rate": (audio.sample_rate, c.vocoder.sample_rate),
    "audio.hop and samples per mel frame of the vocoder": (audio.hop, c.vocoder.samples_per_frame),
    "lm.width and lm.heads * lm.head_dim": (c.lm.width, c.lm.heads * c.lm.head_dim),
  }
  wrong = [f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b]
  if c.lm.heads % c.lm.kv_heads:
    wrong.append(f"lm.heads {c.lm.heads} is no multiple of lm.kv_heads {c.lm.kv_heads}")
  if wrong:
    raise ConfigError("sizes that must agree do not: " + "; ".join(wrong))
