"""Model directory and voice file: round trips, and clear words for whatever is wrong with them."""

import json
import os

import jax
import numpy as np
import pytest

from cosyjax import checkpoint, config
from cosyjax.errors import CheckpointError, ConfigError, OutputError
from cosyjax.inference.voice import Voice


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  return {
    name: {"layer": {"kernel": rng.normal(size=(4, 3)).astype(np.float32)}, "scale": np.ones(3, np.float32)}
    for name in config.COMPONENTS
  }


def _abstract(tree):
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


@pytest.fixture(scope="module")
def directory(params, tmp_path_factory):
  path = tmp_path_factory.mktemp("models") / "small"
  checkpoint.save_model(path, config.tiny(), params, lambda d: (d / "vocab.json").write_text("{}"))
  return path


def test_round_trip(directory, params):
  assert checkpoint.load_config(directory) == config.tiny()
  for name in config.COMPONENTS:
    loaded = checkpoint.load_params(directory, name, _abstract(params[name]))
    jax.tree.map(np.testing.assert_array_equal, loaded, params[name])
  assert sorted(p.name for p in directory.iterdir()) == ["config.json", "params", "text_tokenizer", "voices"]


def test_nothing_is_left_when_saving_fails(params, tmp_path):
  def fail(_):
    raise OSError(28, "No space left on device")

  with pytest.raises(OutputError, match="No space left"):
    checkpoint.save_model(tmp_path / "m", config.tiny(), params, fail)
  assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_way_is_kept(directory, params):
  before = sorted(directory.rglob("*"))
  with pytest.raises(OutputError, match="already there"):
    checkpoint.save_model(directory, config.tiny(), params, lambda d: None)
  assert sorted(directory.rglob("*")) == before


def test_other_sizes_are_named(directory, params):
  abstract = _abstract(params["lm"])
  abstract["layer"]["kernel"] = jax.ShapeDtypeStruct((4, 5), np.float32)
  with pytest.raises(CheckpointError, match=r"layer/kernel: expected \(4, 5\), found \(4, 3\)"):
    checkpoint.load_params(directory, "lm", abstract)


def test_missing_component_and_missing_directory(directory, params, tmp_path):
  with pytest.raises(CheckpointError, match="no parameters of discriminator"):
    checkpoint.load_params(directory, "discriminator", _abstract(params["lm"]))
  with pytest.raises(CheckpointError, match="no model directory"):
    checkpoint.load_config(tmp_path / "nowhere")


def test_an_official_release_is_recognised(release):
  with pytest.raises(CheckpointError, match=r"convert it first: python -m convert\.cosyvoice2"):
    checkpoint.load_config(release)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "model": {}}'])
def test_broken_config(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(CheckpointError, match=r"config\.json"):
    checkpoint.load_config(tmp_path)


def test_truncated_parameters(params, tmp_path):
  checkpoint.save_model(tmp_path / "m", config.tiny(), params, lambda d: None)
  for file in (tmp_path / "m/params/flow").rglob("*"):
    if file.is_file() and file.stat().st_size > 0:
      os.truncate(file, file.stat().st_size // 2)
  with pytest.raises(CheckpointError, match="flow"):
    checkpoint.load_params(tmp_path / "m", "flow", _abstract(params["flow"]))


def _voice() -> Voice:
  rng = np.random.default_rng(1)
  mel = rng.normal(size=(14, 80)).astype(np.float32)
  return Voice(rng.normal(size=24).astype(np.float32), np.arange(7, dtype=np.int32), mel, "你好。", {"format": "1"})


def test_voice_round_trip(tmp_path):
  voice = _voice()
  voice.save(tmp_path / "a.voice")
  again = Voice.load(tmp_path / "a.voice")
  for name in ("speaker_E", "tokens_U", "mel_TM"):
    np.testing.assert_array_equal(getattr(again, name), getattr(voice, name))
  assert (again.transcript, again.versions) == (voice.transcript, voice.versions)
  assert [p.name for p in tmp_path.iterdir()] == ["a.voice"]


def test_voice_that_cannot_be(tmp_path):
  with pytest.raises(ConfigError, match="7 tokens need 14 mel frames, found 13"):
    Voice(np.zeros(24, np.float32), np.zeros(7, np.int32), np.zeros((13, 80), np.float32))
  with pytest.raises(ConfigError, match="finite"):
    Voice.from_speaker(np.full(24, np.nan))


def test_voice_files_that_are_none(tmp_path):
  voice = _voice()
  voice.save(tmp_path / "good")
  data = (tmp_path / "good").read_bytes()
  header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
  bad = {
    "truncated": data[:-100],
    "empty": b"",
    "text": b"not a voice",
    "other": len(header).to_bytes(8, "little") + header + b"\0\0\0\0",
    "version": data.replace(b'\\"format\\": \\"1\\"', b'\\"format\\": \\"9\\"'),
  }
  for name, content in bad.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
      Voice.load(tmp_path / name)
  with pytest.raises(CheckpointError):
    Voice.load(tmp_path / "absent")
  with pytest.raises(OutputError):
    voice.save(tmp_path / "no such folder" / "v")
