"""Whether a language model has found its alignment: accuracy by position, samples that end, phonemes read back.

  python -m train.lm_check --lm RUN --speech-tokenizer RUN --data CORPUS --phones PHONE_CORPUS --tokenizer TOKENIZER
  python -m train.lm_check ... --split train --count 64

Takes the first utterances of a split. The likeliest token is compared with the true one, given all true tokens before
it, apart for the ten tenths of an utterance: a model that reads its text keeps its accuracy to the end, one that only
continues speech loses it. Then it speaks each text without a prompt, and the recogniser that the speech tokenizer was
trained in reads the tokens: against the phonemes of the text, beside what it reads in the recording's own tokens. Of a
text that is not read aloud as it stands the figures say so long before a vocoder is there.

Prints one JSON object; --out writes it to a file too.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import config as config_lib
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.data.text import byte_units, transcript_ids
from cosyjax.errors import DataError
from cosyjax.evaluation import metrics
from cosyjax.inference.compilation import enable_cache
from cosyjax.lm import decode, loss
from cosyjax.lm.sequence import IGNORE, known_text_sequence, training_row
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.speech_tokenizer import ctc, fsq
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer
from cosyjax.text import TextTokenizer
from train import weights
from train.cli import at_exit
from train.export import FINISH

TENTHS = 10
MOST = 2  # a sample is cut at this times its recording's length


def read_phonemes(module: AsrTokenizer, params: Any, tokens: Sequence[np.ndarray]) -> list[list[int]]:
  """Units that the recogniser's CTC reads in speech tokens."""
  size = max(map(len, tokens))
  ids_BU = np.stack([np.pad(ids_U, (0, size - len(ids_U))) for ids_U in tokens])
  lengths_B = np.asarray([len(ids_U) for ids_U in tokens])

  @jax.jit
  def read(params: Any, ids_BU: jax.Array, lengths_B: jax.Array) -> jax.Array:
    apply = lambda *args, method: module.apply({"params": params}, *args, method=method)
    codes_BUJ = fsq.ids_to_codes(ids_BU, module.config.fsq_dims, module.config.fsq_levels)
    encoded_BUD = apply(apply(codes_BUJ, method="lift"), lengths_B, method="understand")
    return ctc.greedy(apply(encoded_BUD, method="ctc"), module.asr.ctc_rate * lengths_B)

  read_BR = np.asarray(read(params, ids_BU, lengths_B))
  return [row[row > 0].tolist() for row in read_BR]


def accuracy_by_tenths(model: TextSpeechLM, params: Any, rows: Sequence[Any]) -> list[float]:
  """Share of speech tokens of which the likeliest is the true one, in each tenth of the utterances."""
  size = max(len(row.ids_L) for row in rows)
  pad = lambda name, fill: np.stack(
    [np.pad(getattr(r, name), (0, size - len(r.ids_L)), constant_values=fill) for r in rows]
  )
  targets_BL = pad("targets_L", IGNORE)

  @jax.jit
  def right(params: Any, ids_BL: jax.Array, token_types_BL: jax.Array, targets_BL: jax.Array) -> jax.Array:
    segments_BL = jnp.ones_like(ids_BL)
    positions_BL = jnp.broadcast_to(jnp.arange(size), ids_BL.shape)
    given = {"segments_BL": segments_BL, "positions_BL": positions_BL, "speaker_BSE": None}
    hidden_BLD = model.apply({"params": params}, ids_BL, token_types_BL, **given, method=model.hidden)
    return loss.scores(hidden_BLD, params["head"], targets_BL).right_BL

  right_BL = np.asarray(right(params, pad("ids_L", 0), pad("token_types_L", 0), targets_BL))
  hits, counts = np.zeros(TENTHS), np.zeros(TENTHS)
  for row, row_targets_L in zip(right_BL, targets_BL, strict=True):
    places = np.flatnonzero(row_targets_L != IGNORE)
    tenths = np.arange(len(places)) * TENTHS // len(places)
    np.add.at(hits, tenths, row[places])
    np.add.at(counts, tenths, 1)
  return [round(float(x), 4) for x in hits / np.maximum(counts, 1)]


def check(args: argparse.Namespace) -> dict[str, Any]:
  """The figures.

  Raises:
    CheckpointError, DataError: a run or a corpus cannot be used.
  """
  step, _ = weights.choose(args.lm)
  lm_config, settings = weights.run_settings("lm", args.lm, step)
  lm_params = FINISH["lm"](*weights.run_weights("lm", args.lm, step))
  tokenizer = TextTokenizer.load(args.tokenizer, split_cjk=settings["data"]["split_cjk"])
  at, _ = weights.choose(args.speech_tokenizer)
  sizes, asr_settings = weights.run_settings("speech_tokenizer", args.speech_tokenizer, at)
  asr_params = weights.run_weights("speech_tokenizer", args.speech_tokenizer, at).params
  module = AsrTokenizer(sizes, config_lib.from_dict(asr_settings["asr"], AsrConfig, "asr"))

  corpus, phones = Corpus(args.data, args.split), Corpus(args.phones, args.split)
  features = Features(args.data, args.split, ("speech_tokens",))
  spelled = {name: n for n, name in enumerate(phones.ids_N.tolist())}
  texts, tokens, units = [], [], []
  for i, name in enumerate(corpus.ids_N.tolist()):
    if len(texts) < args.count and name in spelled and len(features.read("speech_tokens", i)):
      texts.append(transcript_ids(corpus[i], tokenizer))
      tokens.append(features.read("speech_tokens", i))
      units.append(byte_units(phones[spelled[name]]["text"]).tolist())
  if not texts:
    raise DataError(f"{args.phones}: expected utterances of {args.data} by their ids, found none in {args.split}")

  model = TextSpeechLM(lm_config)
  rows = [training_row(*pair, lm_config, interleaved=False) for pair in zip(texts, tokens, strict=True)]
  accuracy = accuracy_by_tenths(model, lm_params, rows)
  keys_B = jax.random.split(jax.random.key(args.seed), len(texts))
  said = decode.generate(
    model, lm_params, [known_text_sequence((), text_L, config=lm_config) for text_L in texts], keys_B, [1] * len(texts),
    [MOST * len(tokens_U) for tokens_U in tokens],
  )  # fmt: skip
  made = [one.tokens_U for one in said]
  error = lambda found: round(metrics.error_rate(units, read_phonemes(module, asr_params, found)), 4)
  return {
    "step": step,
    "utterances": len(texts),
    "accuracy": round(float(np.mean(accuracy)), 4),
    "accuracy_by_tenths": accuracy,
    "sample_ended": float(np.mean([one.ended == "end" for one in said])),
    "sample_length_ratio": round(sum(map(len, made)) / sum(map(len, tokens)), 4),
    "phoneme_error": error([np.asarray(ids_U) if len(ids_U) else np.zeros(1, np.int32) for ids_U in made]),
    "phoneme_error_of_recordings": error(tokens),
  }


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.lm_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--lm", type=Path, required=True, metavar="RUN")
  parser.add_argument("--speech-tokenizer", type=Path, required=True, metavar="RUN")
  parser.add_argument("--data", type=Path, required=True, help="corpus with the feature speech_tokens")
  parser.add_argument("--phones", type=Path, required=True, help="corpus of the same utterances, phonemes for text")
  parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="text tokenizer")
  parser.add_argument("--split", default="validation")
  parser.add_argument("--count", type=int, default=32, help="utterances")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", type=Path, metavar="FILE")
  args = parser.parse_args(argv)
  enable_cache()
  found = json.dumps(check(args), indent=2)
  print(found)
  if args.out:
    args.out.write_text(found + "\n", encoding="utf-8")
  return 0


if __name__ == "__main__":
  sys.exit(at_exit(main))
