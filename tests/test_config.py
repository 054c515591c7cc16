"""Configurations: presets, JSON round trip, refusals."""

import dataclasses
import json

import pytest

from cosyjax import config
from cosyjax.errors import ConfigError


@pytest.mark.parametrize("name", config.PRESETS)
def test_round_trip_through_json(name):
  model = config.PRESETS[name]()
  assert config.from_dict(json.loads(json.dumps(config.to_dict(model)))) == model


def test_release_sizes():
  model = config.cosyvoice2()
  assert model.speech_tokenizer.codebook_size == 6561
  assert (model.speech_vocab.end_id, model.speech_vocab.fill_id, model.speech_vocab.rows) == (6561, 6563, 6564)
  assert model.lm.head_dim == 64


def _changed(path: str, value) -> dict:
  data = json.loads(json.dumps(config.to_dict(config.tiny())))
  *parents, last = path.split(".")
  node = data
  for part in parents:
    node = node[part]
  node[last] = value
  return data


@pytest.mark.parametrize(
  ("path", "value", "said"),
  [
    ("lm.width", "64", "config.lm.width: expected int"),
    ("lm.width", True, "config.lm.width: expected int"),
    ("lm.nonsense", 1, "unknown fields ['nonsense']"),
    ("flow", None, "config.flow: expected an object"),
    ("vocoder.upsample_rates", 8, "config.vocoder.upsample_rates: expected a list"),
    ("vocoder.upsample_rates", [8, 5, 4], "samples per mel frame"),
    ("flow.speaker_dim", 192, "speaker.speaker_dim and flow.speaker_dim: 24 and 192"),
    ("lm.kv_heads", 3, "no multiple"),
  ],
)
def test_refusals_name_the_field(path, value, said):
  with pytest.raises(ConfigError) as error:
    config.from_dict(_changed(path, value))
  assert said in str(error.value)


def test_missing_field():
  data = config.to_dict(config.tiny())
  del data["lm"]["top_k"]
  with pytest.raises(ConfigError, match="missing fields \\['top_k'\\]"):
    config.from_dict(data)


def test_configs_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.tiny().lm.width = 3
