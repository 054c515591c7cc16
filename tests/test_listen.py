"""What evaluations let one hear of a language model in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.config import AudioConfig, FlowEncoderConfig, LMConfig, SpeechVocab, UNetConfig, VocoderConfig
from cosyjax.data import feature_store as features_lib
from cosyjax.data.feature_store import Features
from cosyjax.data.rows import LMRows
from cosyjax.errors import ConfigError
from cosyjax.inference.compilation import count_compilations
from cosyjax.layers.stack import stack_layers
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from train.listen import MOST, LMListener, Utterance, first_utterances

HOP = AudioConfig().hop

LM = LMConfig(
  width=16, ffn=16, layers=2, heads=2, kv_heads=1, text_vocab=512, speech_vocab=SpeechVocab(81), repeat_rate=2.0
)
TINY = config_lib.tiny()
SPEAKER = 24
MODEL = dataclasses.replace(
  TINY,
  speech_tokenizer=dataclasses.replace(TINY.speech_tokenizer, fsq_dims=4),
  lm=LM,
  flow=dataclasses.replace(
    TINY.flow,
    codebook_size=81,
    token_width=8,
    speaker_dim=SPEAKER,
    steps=2,
    encoder=FlowEncoderConfig(width=8, heads=1, ffn=8, layers=1, up_layers=1),
    estimator=UNetConfig(channels=8, heads=1, head_dim=8, transformer_layers=1, mid_layers=1),
  ),
  vocoder=VocoderConfig(
    channels=8, f0_channels=8, harmonics=2, upsample_rates=(12, 10), upsample_kernels=(12, 10), resblock_kernels=(3,),
    resblock_dilations=((1,),), source_kernels=(3, 3), source_dilations=((1,), (1,)),
  ),
)  # fmt: skip


def utterances(**changes):
  """Two, of 20 and 30 tokens."""
  rng = np.random.default_rng(0)
  out = []
  for U in (20, 30):
    mel_TM = rng.normal(size=(2 * U, 80)).astype(np.float32)
    made = Utterance(np.arange(4), rng.integers(0, 81, U), mel_TM, rng.normal(size=SPEAKER).astype(np.float32))
    out.append(dataclasses.replace(made, **changes))
  return out


@pytest.fixture(scope="module")
def params():
  return jax.tree.map(np.asarray, stack_layers(networks.random_params(MODEL)["lm"]))


def leaning(params, likely):
  """Parameters whose next token is almost certain to be one of some ids."""
  bias_V = np.zeros_like(params["head"]["bias"])
  bias_V[likely] = 50.0
  return jax.tree.map(jnp.asarray, params | {"head": params["head"] | {"bias": bias_V}})


def test_numbers_of_a_model_that_stops_at_once_and_of_one_that_never_does(params):
  listener = LMListener(LM, utterances(), prompt=0.5, directory=None, dtype="float32")
  scalars, pictures, sounds = listener(leaning(params, [LM.speech_vocab.end_id]))
  assert scalars["sample_ended"] == 1 and scalars["sample_length_ratio"] == 2 / 25  # one token each, of 10 and 15
  assert 23 / 25 <= scalars["sample_token_error_rate"] <= 1
  assert not pictures and not sounds
  with count_compilations() as compiled:
    endless, _, _ = listener(leaning(params, [3, 5]))
    assert listener(leaning(params, [3, 5]))[0] == endless  # the draws are the same every time
  assert compiled.count == 0
  assert endless["sample_ended"] == 0 and endless["sample_length_ratio"] == MOST
  assert endless["sample_token_error_rate"] > 1


def test_what_is_said_beyond_the_recording_counts_as_errors(params):
  listener = LMListener(LM, utterances(tokens_U=np.full(12, 7)), prompt=0.25, directory=None, dtype="float32")
  scalars, _, _ = listener(leaning(params, [7]))
  assert scalars == {
    "sample_length_ratio": MOST,
    "sample_token_error_rate": 1.0,
    "sample_ended": 0.0,
  }  # the 9 that are too many


def test_flow_and_vocoder_of_a_model_directory_make_it_heard(params, tmp_path):
  tokenizer = TextTokenizer.load(tiny_tokenizer_dir())
  checkpoint.save_model(tmp_path / "model", MODEL, networks.random_params(MODEL), tokenizer.save)
  listener = LMListener(LM, utterances(), prompt=0.5, directory=tmp_path / "model", dtype="float32")
  _, pictures, sounds = listener(leaning(params, [LM.speech_vocab.end_id]))
  assert [len(wave_A) for wave_A in sounds.values()] == [2 * HOP, 2 * HOP]  # of one token each
  assert sorted(pictures) == ["mel_0", "mel_1"] and sorted(sounds) == ["speech_0", "speech_1"]
  assert all(np.all(np.isfinite(wave_A)) and np.any(wave_A) for wave_A in sounds.values())
  with count_compilations() as compiled:
    _, _, sounds = listener(leaning(params, [3, 5]))
  assert compiled.count == 0
  assert [len(wave_A) for wave_A in sounds.values()] == [2 * HOP * MOST * n for n in (10, 15)]

  options = {"prompt": 0.5, "directory": tmp_path / "model", "dtype": "float32"}
  assert not LMListener(LM, utterances(mel_TM=None), **options)(leaning(params, [3]))[2]
  with pytest.raises(ConfigError, match="vectors of 24 numbers, the corpus has 5"):
    LMListener(LM, utterances(speaker_E=np.ones(5)), **options)
  with pytest.raises(
    ConfigError, match=r"model: sizes .* lm.speech_vocab.codebook_size and flow.codebook_size: 625 and 81"
  ):
    LMListener(dataclasses.replace(LM, speech_vocab=SpeechVocab(625)), utterances(), **options)


def test_utterances_are_the_first_that_can_be_used(tmp_path):
  lengths = [0, 40, 200, 30, 50]
  for name in ("speech_tokens", "mel", "speaker"):
    with features_lib.ShardWriter(tmp_path, name, features_lib.shard_stem("validation", 0, 1), name) as shard:
      for n, U in enumerate(lengths):
        shard.add({
          "speech_tokens": np.full(U, n, np.int32),
          "mel": np.zeros((2 * U, 80), np.float32),
          "speaker": np.zeros(0 if n == 3 else SPEAKER, np.float32),
        }[name])  # fmt: skip
  features, texts = Features(tmp_path, "validation", ("speech_tokens",)), [np.arange(5)] * len(lengths)
  rows = LMRows(None, features, 0, LM, texts, [[9, 8]] * len(lengths), 1.0, 4, 0)
  first, second = first_utterances(rows, 2, length=96)  # the first has no speech, the third is too long
  np.testing.assert_array_equal(first.tokens_U, np.full(40, 1))
  np.testing.assert_array_equal(first.text_L, [9, 8, 0, 1, 2, 3, 4])
  assert first.mel_TM.shape == (80, 80) and len(first.speaker_E) == SPEAKER
  assert len(second.tokens_U) == 30 and second.mel_TM is None and second.speaker_E is None
