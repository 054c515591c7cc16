"""Training of the speech tokenizer: recognising text through its tokens (paper 2.2).

    log-mel -> encoder 1 -> quantiser -> encoder 2 -> CTC, attention decoder

Encoder 1 and the projection before the rounding are the `SpeechTokenizer` that is kept; the rest
sees only its tokens and makes it keep what the text needs. An optional head makes it keep the pitch
as well (last row of Table 7), and a learned codebook may stand in for FSQ (Table 4).

T counts 100 Hz frames of the log-mel, U tokens, R CTC frames (`ctc_rate` to a token), L units.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.errors import ConfigError
from cosyjax.layers.activations import gelu
from cosyjax.layers.basic import LayerNorm, dense
from cosyjax.layers.remat import remat
from cosyjax.speech_tokenizer import fsq
from cosyjax.speech_tokenizer.asr_decoder import Decoder, KeysValues
from cosyjax.speech_tokenizer.speech_encoder import (
  Frames,
  Layer,
  SpeechEncoder,
  SpeechTokenizer,
  precision_of,
)
from cosyjax.speech_tokenizer.speech_encoder import init_arguments as tokenizer_arguments
from cosyjax.speech_tokenizer.units import CTC_UNITS
from cosyjax.speech_tokenizer.vq import VectorQuantiser

QUANTISERS = ("fsq", "vq")


@dataclasses.dataclass(frozen=True)
class AsrConfig:
  """What only training has: everything behind the tokens, and how it is weighed."""

  layers: int = 6  # of encoder 2
  decoder_layers: int = 6
  ctc_weight: float = 0.3  # the attention decoder weighs the rest
  ctc_rate: int = 2  # CTC frames to a token: bytes come faster than 25 Hz in Chinese, and in fast speech
  label_smoothing: float = 0.0  # of the attention decoder's targets
  pitch_weight: float = 0.0  # 0: no pitch head
  quantiser: str = "fsq"
  saturation: float = 0.5  # weight of what keeps FSQ's digits alive, see `saturation`
  vq_codes: int = 4096
  commitment: float = 0.25

  def __post_init__(self) -> None:
    if self.quantiser not in QUANTISERS:
      raise ConfigError(f"asr.quantiser: expected one of {QUANTISERS}, found {self.quantiser!r}")
    if not 0 <= self.ctc_weight <= 1:
      raise ConfigError(f"asr.ctc_weight: expected 0 to 1, found {self.ctc_weight}")


class Quantised(NamedTuple):
  """Tokens of a batch.

  Attributes:
    codes: what encoder 2 reads: FSQ levels [B, U, J], or vectors of the codebook [B, U, D].
    ids_BU: int32; 0 in FSQ's padding.
    lengths_B: tokens of each row.
    loss_BU: what keeps the codes in use: `saturation`, or the pull between vectors and codes.
  """

  codes: jax.Array
  ids_BU: jax.Array
  lengths_B: jax.Array
  loss_BU: jax.Array


class Recognised(NamedTuple):
  """What the losses compare.

  Attributes:
    quantised: the tokens.
    ctc_BRV: scores of blank and bytes at each CTC frame, float32.
    scores_BLV: scores of the unit after each given one, float32.
    pitch_BU22: per token two mel frames, each (logit of being voiced, log of f0 over 150 Hz); None without a head.
  """

  quantised: Quantised
  ctc_BRV: jax.Array
  scores_BLV: jax.Array
  pitch_BU22: jax.Array | None


class AsrTokenizer(nn.Module):
  """The tokenizer inside a recogniser. `params["tokenizer"]` is all that `SpeechTokenizer` needs (`subset`)."""

  config: SpeechTokenizerConfig
  asr: AsrConfig
  dtype: Any = jnp.float32
  remat: str = "none"

  def setup(self) -> None:
    """Make the parts."""
    c, a, exact = self.config, self.asr, {"dtype": self.dtype, "precision": precision_of(self.dtype)}
    if a.quantiser == "fsq":
      self.tokenizer = SpeechTokenizer(c, self.dtype, self.remat)
      self.expand = dense(c.width, (None, "embed"), **exact)
    else:
      self.encoder = SpeechEncoder(c, self.dtype, self.remat)
      self.codebook = VectorQuantiser(a.vq_codes, a.commitment, self.dtype)
    self.upper = [remat(Layer, self.remat)(c, self.dtype) for _ in range(a.layers)]
    self.upper_norm = LayerNorm()
    self.ctc_head = dense(a.ctc_rate * CTC_UNITS, ("embed", "vocab"), **exact)
    self.decoder = Decoder(c.width, c.heads, a.decoder_layers, self.dtype, self.remat)
    if a.pitch_weight:
      self.pitch_in = dense(c.width, ("embed", "mlp"), **exact)
      self.pitch_out = dense((2, 2), ("mlp", None, None), **exact)

  def quantise(self, mel_BTM: jax.Array, lengths_B: jax.Array) -> Quantised:
    """Log-mel (as `SpeechTokenizer`) to tokens. Gradients pass straight through the rounding."""
    if self.asr.quantiser == "fsq":
      ids_BU, lengths_B, out = self.tokenizer(mel_BTM, lengths_B)
      codes_BUJ = fsq.quantise(out["projected"], self.config.fsq_levels)
      return Quantised(codes_BUJ, ids_BU, lengths_B, self.asr.saturation * saturation(out["projected"]))
    hidden_BUD, lengths_B = self.encoder(mel_BTM, lengths_B)
    codes_BUD, ids_BU, loss_BU = self.codebook(hidden_BUD)
    return Quantised(codes_BUD, ids_BU, lengths_B.astype(jnp.int32), loss_BU)

  def lift(self, codes: jax.Array) -> jax.Array:
    """Codes as vectors of the model's width, [B, U, D]."""
    codes = codes.astype(self.dtype)
    return self.expand(codes) if self.asr.quantiser == "fsq" else codes

  def understand(self, lifted_BUD: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Encoder 2: lifted codes to what CTC and the decoder read, [B, U, D]."""
    frames = Frames.of(lengths_B, lifted_BUD.shape[1], self.config)
    for layer in self.upper:
      lifted_BUD = layer(lifted_BUD, frames)
    return self.upper_norm(lifted_BUD)

  def ctc(self, encoded_BUD: jax.Array) -> jax.Array:
    """Scores of blank and bytes, float32 [B, R, V] with R = ctc_rate U."""
    batch, tokens = encoded_BUD.shape[:2]
    return self.ctc_head(encoded_BUD).reshape(batch, tokens * self.asr.ctc_rate, CTC_UNITS).astype(jnp.float32)

  def pitch(self, lifted_BUD: jax.Array) -> jax.Array:
    """Voicing logit and log-f0 of the two mel frames of a token, float32 [B, U, 2, 2]."""
    return self.pitch_out(gelu(self.pitch_in(lifted_BUD))).astype(jnp.float32)

  def speech(self, encoded_BUD: jax.Array) -> list[KeysValues]:
    """See `Decoder.speech`."""
    return self.decoder.speech(encoded_BUD)

  def decode(self, *args: Any) -> tuple[jax.Array, list[KeysValues]]:
    """See `Decoder`."""
    return self.decoder(*args)

  def empty(self, batch: int, size: int) -> list[KeysValues]:
    """See `Decoder.empty`."""
    return self.decoder.empty(batch, size)

  def __call__(self, mel_BTM: jax.Array, lengths_B: jax.Array, ids_BL: jax.Array) -> Recognised:
    """Everything that training compares.

    Args:
      mel_BTM: 16 kHz log-mel at 100 Hz.
      lengths_B: its valid frames; may be traced.
      ids_BL: `units.START` and the text's units, right-padded: what the attention decoder is given.

    Returns:
      No value of a valid frame or unit depends on padding.
    """
    quantised = self.quantise(mel_BTM, lengths_B)
    lifted_BUD = self.lift(quantised.codes)
    encoded_BUD = self.understand(lifted_BUD, quantised.lengths_B)
    scores_BLV, _ = self.decoder(ids_BL, self.decoder.speech(encoded_BUD), quantised.lengths_B)
    pitch_BU22 = self.pitch(lifted_BUD) if self.asr.pitch_weight else None
    return Recognised(quantised, self.ctc(encoded_BUD), scores_BLV, pitch_BU22)


def saturation(projected_BUJ: jax.Array) -> jax.Array:
  """How far values lie where tanh is flat: mean over digits of the squared excess of |x| over 1, float32 [B, U].

  There a digit gets no gradient, whatever the text would need, and stays as it is: within some hundred steps most
  digits of a tokenizer trained from scratch are constants. Within 1 the slope is at least 0.42, and all levels of a
  digit with three lie there.
  """
  return jnp.mean(jnp.square(jnp.maximum(jnp.abs(projected_BUJ) - 1.0, 0.0)), axis=-1)


def init_arguments(config: SpeechTokenizerConfig) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Arguments of a small call that creates every parameter of an `AsrTokenizer`."""
  return (*tokenizer_arguments(config), jnp.zeros((1, 8), jnp.int32))


def subset(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters of the `SpeechTokenizer` inside those of an `AsrTokenizer`.

  Raises:
    ConfigError: they were trained with a learned codebook, which `SpeechTokenizer` does not have.
  """
  if "tokenizer" not in params:
    raise ConfigError("asr.quantiser: only a tokenizer trained with 'fsq' can be exported, found 'vq'")
  return params["tokenizer"]
