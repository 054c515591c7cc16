"""Releases that differ from the plain one: what is read all the same, what is said of it, what is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import cosyvoice2, inspect
from convert.read_pt import read_pt
from convert.release import check_pointer, find_release, read_weights, strip_prefixes
from convert.speaker_table import file_name
from convert.write_pt import write_pt
from cosyjax import checkpoint
from cosyjax.errors import ConversionError
from cosyjax.inference.voice import Voice

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 2023316821\n" % (b"0" * 64)


@pytest.fixture
def source(release, tmp_path):
  """A copy of the small release, to be changed."""
  return shutil.copytree(release, tmp_path / "release")


def _prefixed(tensors, prefix):
  return {prefix + name: tensor for name, tensor in tensors.items()}


def _same(found, expected):
  assert found.keys() == expected.keys()
  for name, tensor in expected.items():
    np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_training(source, prefix):
  plain = read_pt(source / "flow.pt")
  write_pt(source / "flow.pt", _prefixed(plain, prefix))
  release = find_release(source)
  _same(read_weights(release, "flow"), plain)
  said = "\n".join(release.notes)
  for part in prefix.rstrip(".").split("."):
    assert f"flow.pt: prefix '{part}.' taken off all names" in said


def test_prefix_of_a_compiled_part():
  tensors = {"decoder.estimator._orig_mod.w": np.zeros(2), "encoder.w": np.ones(2)}
  found, said = strip_prefixes(tensors)
  assert sorted(found) == ["decoder.estimator.w", "encoder.w"] and "1 names" in said[0]
  with pytest.raises(ConversionError, match="two tensors are called"):
    strip_prefixes({"a._orig_mod.w": np.zeros(2), "a.w": np.ones(2)})
  assert strip_prefixes({"module.w": np.zeros(2), "w": np.ones(2)})[1] == []


def test_vocoder_of_adversarial_training(source):
  plain = read_weights(find_release(source), "vocoder")
  raw = read_pt(source / "hift.pt")
  discriminators = {
    "discriminator.mpd.0.weight": np.ones((2, 3), np.float32),
    "discriminator.mrd.bias": np.ones(2, np.float32),
  }
  write_pt(source / "hift.pt", _prefixed(_prefixed(raw, "generator.") | discriminators, "module."))
  release = find_release(source)
  _same(read_weights(release, "vocoder"), plain)
  said = "\n".join(release.notes)
  assert "discriminator.* left out, 2 tensors" in said and "prefix 'generator.' taken off" in said
  write_pt(source / "hift.pt", _prefixed(raw, "generator.") | {"conv_pre.bias": raw["conv_pre.bias"]})
  with pytest.raises(ConversionError, match="two tensors of the vocoder have one name"):
    read_weights(find_release(source), "vocoder")


def test_safetensors_in_place_of_pt_and_beside_it(source):
  plain = {name: read_weights(find_release(source), name) for name in ("lm", "flow", "vocoder")}
  raw = {stem: read_pt(source / f"{stem}.pt") for stem in ("llm", "flow", "hift")}
  for stem, tensors in raw.items():
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, source / f"{stem}.safetensors")
  release = find_release(source)
  assert release.files["lm"].name == "llm.pt"
  assert "llm.safetensors is there and not read: llm.pt is" in release.notes
  for stem in raw:
    (source / f"{stem}.pt").unlink()
  release = find_release(source)
  for name, tensors in plain.items():
    _same(read_weights(release, name), tensors)
  for stem in raw:
    (source / f"{stem}.safetensors").unlink()
  together = {f"{stem}.{n}": np.ascontiguousarray(t) for stem, tensors in raw.items() for n, t in tensors.items()}
  save_file(together, source / "model.safetensors")
  release = find_release(source)
  for name, tensors in plain.items():
    _same(read_weights(release, name), tensors)
  for stem in ("flow", "hift"):
    write_pt(source / f"{stem}.pt", raw[stem])
  save_file({n: np.ascontiguousarray(t) for n, t in raw["llm"].items()}, source / "model.safetensors")
  _same(read_weights(find_release(source), "lm"), plain["lm"])
  write_pt(source / "llm.pt", raw["llm"])
  assert "model.safetensors is there and not read: the .pt files are" in find_release(source).notes


@pytest.mark.parametrize(
  "name", ["llm.pt", "hift.pt", "campplus.onnx", "cosyvoice2.yaml", "CosyVoice-BlankEN/vocab.json"]
)
def test_pointers_of_git_lfs(source, name):
  (source / name).write_bytes(POINTER)
  with pytest.raises(ConversionError, match=r"is a Git-LFS pointer, not the file of 2023316821 bytes.*git lfs pull"):
    find_release(source)
  check_pointer(source / "flow.pt")


def test_what_is_no_release(source):
  shutil.copy(source / "flow.pt", source / "llm.pt")
  with pytest.raises(ConversionError, match=r"llm\.pt: expected the tensors of the lm, found those of the flow"):
    read_weights(find_release(source), "lm")
  (source / "speech_tokenizer_v2.onnx").rename(source / "speech_tokenizer_v1.onnx")
  with pytest.raises(ConversionError, match=r"speech_tokenizer_v2\.onnx not found.*CosyVoice 1"):
    find_release(source)
  (source / "speech_tokenizer_v1.onnx").unlink()
  (source / "cosyvoice2.yaml").rename(source / "cosyvoice3.yaml")
  with pytest.raises(ConversionError, match="CosyVoice 3"):
    find_release(source)


def test_choice_of_the_language_model_settings_and_speakers(source, tmp_path, capsys):
  """One conversion with all that a release may have besides: printed, kept in the model directory, shown again."""
  (source / "cosyvoice2.yaml").rename(source / "cosyvoice.yaml")
  shutil.copy(source / "llm.pt", source / "llm.rl.pt")
  vector = np.random.default_rng(0).normal(size=(1, 24)).astype(np.float32)
  prompt = {
    "llm_embedding": vector,
    "flow_embedding": vector,
    "prompt_text": np.array([[5, 6, 7]]),
    "flow_prompt_speech_token": np.arange(50, dtype=np.int32)[None],
    "prompt_speech_feat": np.ones((1, 100, 80), np.float32),
  }
  write_pt(source / "spk2info.pt", {"中文女": {"embedding": vector}, "me/../x": prompt})
  assert cosyvoice2.main([str(source), str(tmp_path / "plain")]) == 0
  assert "the language model is llm.pt; there is llm.rl.pt too: --llm llm.rl.pt takes it" in capsys.readouterr().out
  target = tmp_path / "m"
  assert cosyvoice2.main([str(source), str(target), "--llm", "llm.rl.pt"]) == 0
  printed = capsys.readouterr().out
  assert "lm (llm.rl.pt)" not in printed and "llm.rl.pt" in printed and "speaker '中文女'" in printed

  kept = json.loads((target / "config.json").read_text())["source"]
  assert kept["lm"] == "llm.rl.pt" and "llm.pt" not in kept["files"] and "cosyvoice.yaml" in kept["files"]
  for name, facts in kept["files"].items():
    data = (source / name).read_bytes()
    assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
  checkpoint.load_config(target)

  assert sorted(p.name for p in (target / "voices").iterdir()) == ["me_.._x.voice", "中文女.voice"]
  alone, whole = Voice.load(target / "voices/中文女.voice"), Voice.load(target / "voices/me_.._x.voice")
  np.testing.assert_array_equal(alone.speaker_E, vector[0])
  assert len(alone.tokens_U) == 0 and len(whole.tokens_U) == 50 and whole.mel_TM.shape == (100, 80)
  assert whole.transcript

  assert inspect.main([str(target)]) == 0
  shown = capsys.readouterr().out
  for name, facts in kept["files"].items():
    assert facts["sha256"] in shown and name in shown
  assert "language model: llm.rl.pt" in shown and "中文女.voice: the speaker vector alone" in shown
  assert inspect.main([str(target), "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["source"] == kept
  assert inspect.main([str(source)]) == 1
  assert "is no model directory" in capsys.readouterr().err
  assert cosyvoice2.main([str(source), str(tmp_path / "n"), "--llm", "llm.dpo.pt"]) == 1
  assert "--llm llm.dpo.pt: expected a file" in capsys.readouterr().err


def test_speakers_that_do_not_fit(source, tmp_path, capsys):
  write_pt(source / "spk2info.pt", {"a": {"embedding": np.ones((1, 23), np.float32)}})
  assert cosyvoice2.main([str(source), str(tmp_path / "m")]) == 1
  assert "speaker 'a': expected a finite vector of 24 numbers, found shape (1, 23)" in capsys.readouterr().err
  assert not (tmp_path / "m").exists()


def test_names_of_voice_files():
  names = {"Anna": "Anna.voice", "../../etc": "_.._etc.voice", "a:b\\c": "a_b_c.voice", " . ": "speaker.voice"}
  assert {speaker: file_name(speaker) for speaker in names} == names
