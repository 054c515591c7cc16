"""The look at a language model's alignment: accuracy place by place, phonemes read in tokens alone."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import LMConfig, SpeechTokenizerConfig, SpeechVocab
from cosyjax.layers.basic import unbox
from cosyjax.lm.sequence import training_row
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.speech_tokenizer import recognise
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, init_arguments
from train import lm_check

LM = LMConfig(width=8, ffn=8, layers=1, heads=2, kv_heads=1, text_vocab=16, speech_vocab=SpeechVocab(codebook_size=9))


def test_accuracy_is_counted_in_the_tenth_where_the_token_stands():
  model = TextSpeechLM(LM)
  row = jnp.zeros((1, 4), jnp.int32)
  params = unbox(model.init(jax.random.key(0), row, row, segments_BL=row)["params"])
  bias_V = jnp.zeros(LM.speech_vocab.rows).at[3].set(1e3)  # this model says 3, always
  params = params | {"head": params["head"] | {"bias": bias_V}}
  speech_U = np.where(np.arange(19) < 10, 3, 5)
  rows = [training_row([1, 2], speech_U, LM, interleaved=False), training_row([1], [3, 5, 3], LM, interleaved=False)]
  # 19 tokens and an end, two to a tenth; three and an end, in tenths 0, 2, 5 and 7.
  expected = np.asarray([2, 2, 2, 2, 2, 0, 0, 0, 0, 0]) + np.asarray([1, 0, 0, 0, 0, 1, 0, 0, 0, 0])
  counts = np.asarray([2] * 10) + np.asarray([1, 0, 1, 0, 0, 1, 0, 1, 0, 0])
  np.testing.assert_allclose(lm_check.accuracy_by_tenths(model, params, rows), expected / counts, atol=1e-4)


def test_what_is_read_in_tokens_is_what_is_read_in_their_recording():
  sizes = SpeechTokenizerConfig(mel_bins=16, width=16, heads=2, layers=1)
  module = AsrTokenizer(sizes, AsrConfig(layers=1, decoder_layers=1, ctc_rate=2))
  params = unbox(module.init(jax.random.key(0), *init_arguments(sizes))["params"])
  params["tokenizer"]["project"]["kernel"] *= 30  # so that tokens differ
  mel_BTM = jax.random.normal(jax.random.key(1), (2, 80, 16))
  lengths_B = jnp.asarray([80, 50])
  quantised = module.apply({"params": params}, mel_BTM, lengths_B, method="quantise")
  tokens = [np.asarray(ids_U)[:n] for ids_U, n in zip(quantised.ids_BU, quantised.lengths_B, strict=True)]
  assert len(set(tokens[0].tolist())) > 5
  read_BR = np.asarray(recognise.read_ctc(module, params, mel_BTM, lengths_B))
  expected = [row[row > 0].tolist() for row in read_BR]
  assert lm_check.read_phonemes(module, params, tokens) == expected and expected[0]
