"""The corpus that speech engines make is the same every time."""

import filecmp

import pytest

from cosyjax.data.manifest import read_manifest
from train import make_corpus


def test_same_seed_same_bytes(tmp_path, monkeypatch):
  speakers, versions, absent = make_corpus.installed()
  if not speakers:
    pytest.skip("no speech engine is installed: " + make_corpus.INSTALL)
  engine = next(iter(versions))  # one is enough; the first is the fastest
  speakers = [speaker for speaker in speakers if speaker.engine == engine]
  monkeypatch.setattr(make_corpus, "installed", lambda: (speakers, versions, absent))
  arguments = ["--utterances", "4", "--speakers", "3", "--seconds", "0.5", "3", "--held-out-speakers", "1"]
  for name, processes in (("a", "1"), ("b", "3")):
    assert make_corpus.main([*arguments, "--processes", processes, "--out", str(tmp_path / name)]) == 0
  files = {str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*") if file.is_file()}
  assert len(files) == 4 + 3
  same, _, _ = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)
  assert set(same) == files
  seen, unseen = (read_manifest(tmp_path / "a" / f"{name}.jsonl") for name in ("manifest", "unseen"))
  assert len(seen) + len(unseen) == 4
  assert {each.speaker for each in seen}.isdisjoint(each.speaker for each in unseen)
  assert make_corpus.main([*arguments, "--out", str(tmp_path / "a")]) == 2  # there is one already


def test_sentences_are_distinct():
  for language in ("en", "es"):
    lines = make_corpus.sentences(language, 0)
    found = [next(lines) for _ in range(3000)]
    assert len(set(found)) == 3000 and "{" not in "".join(found)
    again, other = make_corpus.sentences(language, 0), make_corpus.sentences(language, 1)
    assert [next(again) for _ in range(9)] == found[:9] != [next(other) for _ in range(9)]


def test_no_engine(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("PATH", "")
  assert make_corpus.main(["--out", str(tmp_path / "a")]) == 2
  assert "apt-get install" in capsys.readouterr().err and not (tmp_path / "a").exists()
