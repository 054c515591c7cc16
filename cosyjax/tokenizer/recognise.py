"""Reading speech back through the tokens: greedy CTC, and greedy attention decoding. Letters as in `asr`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.tokenizer import ctc, units
from cosyjax.tokenizer.asr import AsrConfig, AsrTokenizer, Quantised

METHODS = ("ctc", "attention")


def encode(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> tuple[Quantised, jax.Array]:
  """Tokens, and what encoder 2 makes of them: [B, U, D]."""
  variables = {"params": params}
  quantised = module.apply(variables, mel_BTM, lengths_B, method="quantise")
  lifted_BUD = module.apply(variables, quantised.codes, method="lift")
  return quantised, module.apply(variables, lifted_BUD, quantised.lengths_B, method="understand")


def read_ctc(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Best unit of each CTC frame without repetitions: int32 [B, R]; zeros are to be skipped. Jittable."""
  quantised, encoded_BUD = encode(module, params, mel_BTM, lengths_B)
  ctc_BRV = module.apply({"params": params}, encoded_BUD, method="ctc")
  return ctc.greedy(ctc_BRV, module.asr.ctc_rate * quantised.lengths_B)


def read_attention(module: AsrTokenizer, params: Any, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """Best next unit until the end is written: int32 [B, R]; zeros are to be skipped. Jittable.

  A row ends by itself or at twice its number of tokens, more bytes than anybody says in the time.
  """
  variables = {"params": params}
  quantised, encoded_BUD = encode(module, params, mel_BTM, lengths_B)
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
  state = (jnp.int32(0), start_B, cache, lengths_B > 0, jnp.zeros((batch, limit), jnp.int32))
  return jax.lax.while_loop(more, write, state)[-1]


def texts_of(ids_BR: Any) -> list[str]:
  """Texts of what `read_ctc` or `read_attention` returned."""
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
  """What a trained recogniser hears in a padded batch of recordings of at most 30 s.

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
  read = read_ctc if method == "ctc" else read_attention
  return jax.jit(functools.partial(read, AsrTokenizer(config, asr)))
