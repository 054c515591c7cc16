"""Initial weights of the LM from a Qwen2 directory in safetensors format."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import qwen2, table_lm
from convert.engine import convert
from convert.read_pt import read_pt
from cosyjax.config import tiny
from cosyjax.errors import ConversionError
from cosyjax.layers.basic import unbox
from cosyjax.lm.text_speech_lm import TextSpeechLM

CONFIG = tiny().lm
SETTINGS = {
  "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": 512,
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes():
  row = jnp.zeros((1, 8), jnp.int32)
  init = lambda key: TextSpeechLM(CONFIG).init(key, row, row, jnp.array([8]))["params"]
  return unbox(jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope="module")
def tensors(release):
  """Qwen2's part of the small release under the names that it has by itself."""
  everything = read_pt(release / "llm.pt")
  prefix = "llm.model."
  return {n.removeprefix(prefix): np.array(x) for n, x in everything.items() if n.startswith(prefix + "model.")}


def write(directory, tensors, settings=SETTINGS):
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(settings))
  save_file(tensors, directory / "model.safetensors")
  return directory


def write_shards(directory, tensors):
  write(directory, tensors)
  (directory / "model.safetensors").unlink()
  names = sorted(tensors)
  halves = {"model-1.safetensors": names[: len(names) // 2], "model-2.safetensors": names[len(names) // 2 :]}
  for file, part in halves.items():
    save_file({name: tensors[name] for name in part}, directory / file)
  places = {name: file for file, part in halves.items() for name in part}
  (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
  return directory


@pytest.mark.parametrize("how", [write, write_shards])
def test_stack_and_text_embedding_come_from_the_file_and_the_rest_stays(tmp_path, release, shapes, tensors, how):
  fresh = jax.tree.map(lambda s: np.full(s.shape, 7.0, np.float32), shapes)
  found = qwen2.initial_params(how(tmp_path, tensors), CONFIG, fresh)
  whole = convert("lm", read_pt(release / "llm.pt"), table_lm.table(CONFIG), shapes).params
  for name in qwen2.PARTS:
    jax.tree.map(np.testing.assert_array_equal, found[name], whole[name])
  for name in ("speech_embedding", "special_embedding", "head"):
    assert found[name] is fresh[name]
  assert jax.tree.structure(found) == jax.tree.structure(shapes)


def test_half_precision_files_and_a_tied_head(tmp_path, shapes, tensors):
  import ml_dtypes

  half = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
  half["lm_head.weight"] = half["model.embed_tokens.weight"].copy()
  found = qwen2.initial_params(write(tmp_path, half), CONFIG, shapes)["text_embedding"]["embedding"]
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, half["model.embed_tokens.weight"].astype(np.float32))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"hidden_size": 128}, "width: expected 64, found 128"),
    ({"rope_theta": 1e4}, "rope_theta"),
    ({"model_type": "llama"}, "model_type"),
    ({"rope_scaling": {"type": "yarn"}}, "rotary"),
  ],
)
def test_another_model_is_refused(tmp_path, shapes, tensors, change, message):
  with pytest.raises(ConversionError, match=message):
    qwen2.initial_params(write(tmp_path, tensors, SETTINGS | change), CONFIG, shapes)


def test_tensors_that_do_not_fit_are_listed(tmp_path, shapes, tensors):
  wrong = dict(tensors) | {"model.extra.weight": np.zeros(3, np.float32)}
  del wrong["model.norm.weight"]
  with pytest.raises(ConversionError, match=r"(?s)unknown tensor llm.model.model.extra.*stack/norm/scale"):
    qwen2.initial_params(write(tmp_path, wrong), CONFIG, shapes)


def test_damaged_and_hostile_files(tmp_path, tensors):
  with pytest.raises(ConversionError, match="neither"):
    qwen2.read_tensors(tmp_path)
  directory = write(tmp_path / "a", tensors)
  file = directory / "model.safetensors"
  data = file.read_bytes()
  for bad in (data[:-5], data[:20], b"", (1 << 62).to_bytes(8, "little") + data[8:], b"\x05" + data[1:]):
    file.write_bytes(bad)
    with pytest.raises(ConversionError, match="safetensors"):
      qwen2.read_tensors(directory)
  save_file({"a": np.zeros(3, np.int32)}, file)
  with pytest.raises(ConversionError, match="floating point"):
    qwen2.read_tensors(directory)
  directory = write_shards(tmp_path / "b", tensors)
  index = directory / "model.safetensors.index.json"
  for places, message in (
    ({"a": "../a/model.safetensors"}, "beside it"),
    ({"a": "model-1.safetensors"}, "disagree"),
    ([], "weight_map"),
  ):
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ConversionError, match=message):
      qwen2.read_tensors(directory)


def test_program_says_what_can_be_started(tmp_path, tensors, capsys):
  assert qwen2.main([str(write(tmp_path / "good", tensors))]) == 0
  out = capsys.readouterr().out
  assert f"{len(tensors)} tensors" in out and "lm.width=64" in out and "lm.text_vocab=512" in out
  for name, settings, said in (
    ("kind", SETTINGS | {"model_type": "llama"}, "expected qwen2"),
    ("size", SETTINGS | {"num_hidden_layers": 4}, "nothing fills"),
    ("none", {"model_type": "qwen2"}, "expected numbers for"),
  ):
    assert qwen2.main([str(write(tmp_path / name, tensors, settings))]) == 1
    assert said in capsys.readouterr().err
  with pytest.raises(SystemExit):
    qwen2.main(["--help"])
  assert "Qwen2.5 directory" in capsys.readouterr().out
