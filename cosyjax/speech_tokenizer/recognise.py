"""Reading speech back through the tokens: greedy CTC, greedy attention decoding, both. Letters as in `asr`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.speech_tokenizer import ctc, units
from cosyjax.speech_tokenizer.asr_loss import answers
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, Quantised

METHODS = ("ctc", "attention", "joint")


def encode(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> tuple[Quantised, jax.Array]:
  """Tokens, and what encoder 2 makes of them: [B, U, D]."""
  variables = {"params": params}
  quantised = module.apply(variables, mel_BTM, lengths_B, method="quantise")
  lifted_BUD = module.apply(variables, quantised.codes, method="lift")
  return quantised, module.apply(variables, lifted_BUD, quantised.lengths_B, method="understand")


def read_ctc(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Best unit of each CTC frame without repetitions: int32 [B, R]; zeros are to be skipped. Jittable."""
  return _spell(module, params, *encode(module, params, mel_BTM, lengths_B))[0]


def read_attention(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Best next unit until the end is written: int32 [B, R]; zeros are to be skipped. Jittable.

  A row ends by itself or at twice its number of tokens, more bytes than are spoken in the time.
  """
  return _write(module, params, *encode(module, params, mel_BTM, lengths_B))


def read_joint(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Of the texts that CTC and attention read, the one that both together find likelier: int32 [B, R]. Jittable.

  Texts are scored as in training, (1 - w) attention + w CTC with the weight w of `AsrConfig` (Watanabe et al. 2017,
  "Hybrid CTC/attention architecture", section IV, with two hypotheses).
  """
  variables, a = {"params": params}, module.asr
  quantised, encoded_BUD = encode(module, params, mel_BTM, lengths_B)
  spelled_BR, ctc_BRV = _spell(module, params, quantised, encoded_BUD)
  written_BR = _write(module, params, quantised, encoded_BUD)
  speech = module.apply(variables, encoded_BUD, method="speech")
  longest = max(spelled_BR.shape[1], written_BR.shape[1])

  def cost(ids_BR: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The text without gaps, and its negative log-probability [B]."""
    ids_BR = jnp.pad(ids_BR, ((0, 0), (0, longest - ids_BR.shape[1])))
    ids_BR = jnp.take_along_axis(ids_BR, jnp.argsort(ids_BR == units.BLANK, axis=1, stable=True), axis=1)
    sizes_B, frames_B = jnp.sum(ids_BR != units.BLANK, axis=1), a.ctc_rate * quantised.lengths_B
    given_BR = jnp.pad(ids_BR, ((0, 0), (1, 0)), constant_values=units.START)
    scores_BRV, _ = module.apply(variables, given_BR, speech, quantised.lengths_B, method="decode")
    targets_BR, counted_BR = answers(ids_BR, sizes_B, lengths_B > 0)
    chances_BR = jnp.take_along_axis(jax.nn.log_softmax(scores_BRV), targets_BR[..., None], axis=-1)[..., 0]
    attention_B = -jnp.sum(chances_BR, axis=1, where=counted_BR)
    ctc_B = ctc.loss(ctc_BRV, frames_B, ids_BR, sizes_B)
    ctc_B = jnp.where(ctc.feasible(frames_B, ids_BR, sizes_B), ctc_B, jnp.inf)  # no frames to say so much in
    return ids_BR, (1 - a.ctc_weight) * attention_B + (a.ctc_weight * ctc_B if a.ctc_weight else 0.0)

  (spelled_BR, spelled_B), (written_BR, written_B) = cost(spelled_BR), cost(written_BR)
  return jnp.where((written_B < spelled_B)[:, None], written_BR, spelled_BR)


def _spell(
  module: AsrTokenizer, params: Any, quantised: Quantised, encoded_BUD: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(what CTC reads, its scores)."""
  ctc_BRV = module.apply({"params": params}, encoded_BUD, method="ctc")
  return ctc.greedy(ctc_BRV, module.asr.ctc_rate * quantised.lengths_B), ctc_BRV


def _write(module: AsrTokenizer, params: Any, quantised: Quantised, encoded_BUD: jax.Array) -> jax.Array:
  """What the attention decoder reads."""
  variables = {"params": params}
  speech = module.apply(variables, encoded_BUD, method="speech")
  batch, limit = encoded_BUD.shape[0], 2 * encoded_BUD.shape[1]

  def more(state: Any) -> jax.Array:
    step, _, _, open_B, _ = state
    return (step < limit) & jnp.any(open_B)

  def write(state: Any) -> Any:
    step, last_B, cache, open_B, ids_BR = state
    args = last_B[:, None], speech, quantised.lengths_B, step, cache
    scores_B1V, cache = module.apply(variables, *args, method="decode")
    # Neither padding nor the start is ever a target.
    scores_BV = scores_B1V[:, 0].at[:, jnp.array([units.BLANK, units.START])].set(-jnp.inf)
    next_B = jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)
    open_B = open_B & (next_B != units.END) & (step < 2 * quantised.lengths_B)
    next_B = jnp.where(open_B, next_B, units.BLANK)
    return step + 1, next_B, cache, open_B, ids_BR.at[:, step].set(next_B)

  start_B = jnp.full((batch,), units.START, jnp.int32)
  cache = module.apply(variables, batch, limit, method="empty")
  state = (jnp.int32(0), start_B, cache, quantised.lengths_B > 0, jnp.zeros((batch, limit), jnp.int32))
  return jax.lax.while_loop(more, write, state)[-1]


def texts_of(ids_BR: Any) -> list[str]:
  """Texts of what one of the readers returned."""
  return [units.decode(row) for row in np.asarray(ids_BR).tolist()]


def recognise(
  params: Any,
  config: SpeechTokenizerConfig,
  asr: AsrConfig,
  mel_BTM: Any,
  lengths_B: Any,
  *,
  method: str = "ctc",
) -> list[str]:
  """Texts that a trained recogniser reads from a padded batch of recordings of at most 30 s.

  Args:
    params: of `AsrTokenizer`, all of it.
    config, asr: the sizes it was trained with.
    mel_BTM: 16 kHz log-mel at 100 Hz (`audio.features.log_mel_16k`).
    lengths_B: its valid frames.
    method: "ctc" reads every frame once, and cannot skip or repeat what was said; "attention" has a language
      model within it, but may lose its place in speech unlike its training's.

  Raises:
    ValueError: another method.
  """
  if method not in METHODS:
    raise ValueError(f"method: expected one of {METHODS}, found {method!r}")
  return texts_of(_reader(config, asr, method)(params, jnp.asarray(mel_BTM), jnp.asarray(lengths_B)))


@functools.lru_cache(maxsize=8)
def _reader(config: SpeechTokenizerConfig, asr: AsrConfig, method: str) -> Any:
  read = {"ctc": read_ctc, "attention": read_attention, "joint": read_joint}[method]
  return jax.jit(functools.partial(read, AsrTokenizer(config, asr)))
