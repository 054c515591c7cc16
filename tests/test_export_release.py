"""Export to the official layout: the inverse of the conversion, tensor by tensor."""

import shutil
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from convert import engine, export_cosyvoice2
from convert.cosyvoice2 import convert_release
from convert.read_pt import read_pt
from convert.release import STEMS
from convert.reverse import reverse, split_weight_norm
from convert.speaker_table import read_voices
from convert.write_pt import write_pt
from cosyjax import checkpoint
from cosyjax.errors import ConversionError
from cosyjax.inference.voice import Voice
from cosyjax.text import TextTokenizer

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def exported(converted, release, tmp_path_factory):
  """The small model as a release again, with one voice."""
  directory = shutil.copytree(converted, tmp_path_factory.mktemp("models") / "with voice")
  mel_TM = RNG.normal(size=(100, 80)).astype(np.float32)
  voice = Voice(RNG.normal(size=24).astype(np.float32), np.arange(50, dtype=np.int32), mel_TM, "hello", {"format": "1"})
  voice.save(directory / "voices/anna.voice")
  out = tmp_path_factory.mktemp("releases") / "out"
  assert export_cosyvoice2.main([str(directory), str(out), "--release", str(release)]) == 0
  return out


def test_tensors_are_those_of_the_release(exported, release):
  for stem in STEMS.values():
    theirs, ours = read_pt(release / f"{stem}.pt"), read_pt(exported / f"{stem}.pt")
    assert theirs.keys() == ours.keys()
    if stem == "hift":  # of a direction only what it comes to with its length is in the model
      theirs, ours = engine.fold_weight_norm(theirs), engine.fold_weight_norm(ours)
    for name, tensor in theirs.items():
      np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


def test_safetensors_hold_the_same(exported):
  for stem in STEMS.values():
    plain, safe = read_pt(exported / f"{stem}.pt"), load_file(exported / f"{stem}.safetensors")
    assert plain.keys() == safe.keys()
    assert all(np.array_equal(plain[name], safe[name]) for name in plain)


def test_converting_the_export_gives_the_model(exported, release):
  """Contract 8, from our side: sizes, settings and every parameter, bit for bit."""
  config, results = convert_release(release)
  again, found = convert_release(exported)
  assert again == config
  for name, result in results.items():
    jax.tree.map(np.testing.assert_array_equal, found[name].params, result.params)


def test_text_side_and_voices(exported, converted):
  ours = TextTokenizer.load(converted / "text_tokenizer")
  theirs = TextTokenizer.load(exported / "CosyVoice-BlankEN")
  for text in ("Hello there.", "你好<strong>吗</strong>[laughter]"):
    assert theirs.encode(text) == ours.encode(text)
  names = set(load_file(exported / "CosyVoice-BlankEN/model.safetensors"))
  assert "model.embed_tokens.weight" in names and "model.layers.2.mlp.up_proj.weight" in names
  voice = read_voices(exported / "spk2info.pt", ours, 24, 80)["anna"]
  np.testing.assert_array_equal(voice.tokens_U, np.arange(50))
  assert voice.mel_TM.shape == (100, 80) and voice.transcript == "hello"


def test_what_is_in_the_way_or_of_another_model(exported, converted, release, tmp_path, capsys):
  assert export_cosyvoice2.main([str(converted), str(exported)]) == 1
  assert "is there already" in capsys.readouterr().err
  other = shutil.copytree(converted, tmp_path / "other")
  params = {name: _params(converted, name) for name in ("lm", "flow", "vocoder", "speech_tokenizer", "speaker")}
  params["speaker"] = jax.tree.map(lambda x: x + 1, params["speaker"])
  shutil.rmtree(other)
  tokenizer = TextTokenizer.load(converted / "text_tokenizer")
  checkpoint.save_model(other, checkpoint.load_config(converted), params, tokenizer.save)
  assert export_cosyvoice2.main([str(other), str(tmp_path / "out"), "--release", str(release), "--formats", "pt"]) == 1
  assert "expected the speaker of the model, found another" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
  assert export_cosyvoice2.main([str(other), str(tmp_path / "out"), "--formats", "pt"]) == 0
  out = capsys.readouterr().out
  assert "not written: speech_tokenizer_v2.onnx, campplus.onnx" in out
  assert "with 512 channels and 4 upper layers, whatever the YAML says; this one has 64 and 2" in out
  assert not list((tmp_path / "out").glob("*.safetensors")) and (tmp_path / "out/llm.pt").is_file()


def _params(directory, name):
  from cosyjax import networks

  abstract = networks.abstract_params(checkpoint.load_config(directory))[name]
  return jax.tree.map(np.asarray, checkpoint.load_params(directory, name, abstract))


def test_weight_norm_comes_back_bit_for_bit():
  shapes = {"a.weight": (64, 32, 7), "b.weight": (3, 5, 2), "b.bias": (3,)}
  tensors = {name: (RNG.normal(size=s) * 10.0 ** RNG.integers(-6, 4)).astype(np.float32) for name, s in shapes.items()}
  tensors["b.weight"][1] = 0
  split = split_weight_norm(tensors, r".*\.weight")
  assert sorted(split)[:2] == ["a.parametrizations.weight.original0", "a.parametrizations.weight.original1"]
  assert split["a.parametrizations.weight.original0"].shape == (64, 1, 1)
  for name, tensor in engine.fold_weight_norm(split).items():
    np.testing.assert_array_equal(tensor, tensors[name])


@pytest.mark.parametrize(
  ("transform", "shape"),
  [
    (engine.copy, (4,)),
    (engine.linear, (4, 6)),
    (engine.conv1d, (4, 6, 3)),
    (engine.conv1d_transposed, (4, 6, 3)),
    (engine.pointwise, (4, 6, 1)),
    (engine.heads_out(2), (4, 6)),
    (engine.heads_out(2), (4,)),
    (engine.heads_in(2), (4, 6)),
  ],
)
def test_transforms_have_a_way_back(transform, shape):
  w = RNG.normal(size=shape)
  np.testing.assert_array_equal(transform.backward(transform(w)), w)


def test_parameters_without_a_name_are_listed():
  rules = (
    engine.Rule(r"blocks\.(\d+)\.(q|k)\.weight", r"\2/layer_\1"),
    engine.Rule(r"old\.weight", "odd", lambda w: w),
    engine.Rule(r"twin\.(\w)", r"twin_\1"),
    engine.Rule(r"other\.a", "twin_a"),
  )
  one = np.ones(2, np.float32)
  assert list(reverse("x", {"q": {"layer_7": one}}, engine.Table(rules))) == ["blocks.7.q.weight"]
  with pytest.raises(ConversionError) as error:
    reverse("x", {"v": {"layer_0": one}, "odd": one, "twin_a": one}, engine.Table(rules))
  for said in ("3 parameters", "v/layer_0 is filled by 0", "odd: its transform", "twin_a is filled by 2"):
    assert said in str(error.value)


def test_files_are_those_of_pytorch(tmp_path):
  """Entries, alignment and shared storages of `torch.save`; equal tensors give equal files."""
  w = RNG.normal(size=(5, 3)).astype(np.float32)
  tensors = {"w": w, "again": w, "turned": w.T, "none": np.zeros((0, 2), np.float32), "n": np.arange(3)}
  write_pt(tmp_path / "x.pt", tensors | {"inner": {"one": np.float32(2.5).reshape(())}})
  with zipfile.ZipFile(tmp_path / "x.pt") as archive:
    names = archive.namelist()
    assert names[:2] == ["x/data.pkl", "x/byteorder"] and names[-1] == "x/version"
    assert [n for n in names if "/data/" in n] == [f"x/data/{i}" for i in range(5)]
    for entry in archive.infolist():
      begin = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
      assert begin % 64 == 0 and entry.compress_type == zipfile.ZIP_STORED
  found = read_pt(tmp_path / "x.pt")
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(found[name], tensor)
  assert found["inner.one"] == 2.5 and found["n"].dtype == np.int64
  write_pt(tmp_path / "again.pt", tensors | {"inner": {"one": np.float32(2.5).reshape(())}})
  assert (tmp_path / "again.pt").stat().st_size >= (tmp_path / "x.pt").stat().st_size
  with pytest.raises(ConversionError, match="epoch: expected an array"):
    write_pt(tmp_path / "y.pt", {"epoch": 3})
  assert not (tmp_path / "y.pt").exists()
