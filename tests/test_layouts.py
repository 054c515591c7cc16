"""Folders as they are published: recognised, read as they are, and all that is wrong in them listed at once."""

import io

import numpy as np
import pytest
import soundfile

from cosyjax.data import layouts, manifest
from cosyjax.errors import DataError
from train import build_corpus

RATE = 16_000


def put(file, seconds: float = 0.5) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  kind = file.suffix[1:].upper()
  soundfile.write(file, 0.3 * np.sin(np.arange(round(seconds * RATE)) * 0.05), RATE, format=kind)


def say(file, text: str) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(text, encoding="utf-8")


def libritts(folder) -> list:
  for name in ("train-clean-100/19/198/19_198_0", "dev-clean/84/121/84_121_1"):
    put(folder / f"{name}.wav")
    say(folder / f"{name}.normalized.txt", "Doctor Who.\n")
    say(folder / f"{name}.original.txt", "Dr. Who.")
  say(folder / "train-clean-100/19/198/19_198.trans.tsv", "19_198_0\tDr. Who.\tDoctor Who.")
  return [("dev-clean/84/121/84_121_1", "Doctor Who.", "84", "en"),
          ("train-clean-100/19/198/19_198_0", "Doctor Who.", "19", "en")]  # fmt: skip


def ljspeech(folder) -> list:
  for name in ("LJ001-0001", "LJ001-0002"):
    put(folder / "LJSpeech-1.1" / "wavs" / f"{name}.wav")
  say(folder / "LJSpeech-1.1" / "metadata.csv", 'LJ001-0001|In "1 day|In "one day\nLJ001-0002|Two.\n')
  return [("LJ001-0001", 'In "one day', "LJSpeech-1.1", "x"), ("LJ001-0002", "Two.", "LJSpeech-1.1", "x")]


def aishell1(folder) -> list:
  put(folder / "wav" / "dev" / "S0002" / "BAC009S0002W0122.wav")
  say(folder / "transcript" / "aishell_transcript_v0.8.txt", "BAC009S0002W0122 而 对 楼市 big data 作用\n")
  return [("BAC009S0002W0122", "而对楼市big data作用", "S0002", "zh")]


def aishell3(folder) -> list:
  for part, name in (("test", "SSB00110001"), ("train", "SSB00050001")):
    put(folder / part / "wav" / name[:7] / f"{name}.wav")
    say(folder / part / "content.txt", f"{name}.wav\t广 guang3 州 zhou1 女 nü3 花儿 huar1\n")
  return [("SSB00110001", "广州女花儿", "SSB0011", "zh"), ("SSB00050001", "广州女花儿", "SSB0005", "zh")]


def common_voice(folder) -> list:
  put(folder / "zh-CN" / "clips" / "common_voice_1.mp3")
  put(folder / "zh-CN" / "clips" / "common_voice_9.mp3")  # of no table that is read: not validated
  say(
    folder / "zh-CN" / "validated.tsv",
    "client_id\tpath\tsentence\tup_votes\tlocale\nc0ffee\tcommon_voice_1.mp3\t你好。\t2\tzh-CN\n",
  )
  return [("common_voice_1", "你好。", "c0ffee", "zh")]


KNOWN = {make.__name__: make for make in (libritts, ljspeech, aishell1, aishell3, common_voice)}


@pytest.mark.parametrize("name", KNOWN)
def test_published_folders_are_read_as_they_are(tmp_path, name):
  expected = KNOWN[name](tmp_path)
  assert layouts.recognise(tmp_path) == name
  language = None if expected[0][3] != "x" else "x"
  entries = layouts.read_folder(tmp_path, language=language)
  found = [tuple(entry[key] for key in ("id", "text", "speaker", "language")) for _, entry, _ in entries]
  assert found == expected
  assert len(manifest.check_entries(entries)) == len(expected)  # the recordings are found and decoded
  assert {entry["speaker"] for _, entry, _ in layouts.read_folder(tmp_path, language="x", speaker="me")} == {"me"}


def test_a_layout_that_is_not_there_is_refused(tmp_path):
  put(tmp_path / "a.wav")
  say(tmp_path / "a.txt", "Hi.")
  assert layouts.recognise(tmp_path) == "plain"
  with pytest.raises(DataError, match=r"expected the layout ljspeech .*found no metadata.csv"):
    layouts.read_folder(tmp_path, language="en", layout="ljspeech")
  with pytest.raises(DataError, match="expected a language to be given"):
    layouts.read_folder(tmp_path)
  with pytest.raises(DataError, match="expected one of libritts"):
    layouts.read_folder(tmp_path, language="en", layout="vctk")


def test_all_mistakes_of_a_folder_are_listed_once_in_one_pass(tmp_path, capsys, caplog):
  put(tmp_path / "wavs" / "a.wav")
  put(tmp_path / "wavs" / "b.wav")
  put(tmp_path / "wavs" / "silent.flac", 0.1)
  (tmp_path / "wavs" / "text.wav").write_text("This is no audio.")
  (tmp_path / "wavs" / "old.mp3").write_bytes(b"ID3 and nothing else")
  say(tmp_path / "metadata.csv", "a|A.\nsilent|S.\nno form\ngone|G.\ntext|T.\nold|O.\na|Again.\n")
  out = tmp_path / "corpus"
  assert build_corpus.main(["--folder", str(tmp_path), "--language", "en", "--out", str(out)]) == 2
  said = capsys.readouterr().err
  faults = said[said.index("cannot be used:") :].splitlines()[1:]
  wrong = {"b.wav": "expected a line in metadata.csv", "silent.flac": "found 0.100 s", "csv:3": "expected ID|text",
           "csv:4": "expected a recording gone", "text.wav": "expected WAV, FLAC or Opus",
           "old.mp3": "cannot be decoded", "csv:7": "expected each recording once"}  # fmt: skip
  assert len(faults) == len(wrong) and not out.exists()
  for place, words in wrong.items():
    assert sum(f"{place}:" in fault and words in fault and fault.count(place) == 1 for fault in faults) == 1, place
  entries = layouts.read_folder(tmp_path, language="en")
  with pytest.raises(DataError, match="7 of 8 entries"):
    manifest.check_entries(entries, leave_out=0.8)
  [kept] = manifest.check_entries(entries, leave_out=0.9)
  assert kept.id == "a" and "7 of 8 entries" in caplog.text and "gone" in caplog.text


def test_mp3_is_kept_as_flac_at_its_rate_and_other_files_as_they_are(tmp_path):
  put(tmp_path / "a.mp3", 1.0)
  put(tmp_path / "b.wav", 1.0)
  for name in "ab":
    say(tmp_path / f"{name}.txt", "Hi.")
  a, b = manifest.check_entries(layouts.read_folder(tmp_path, language="en"))
  first, second = a.example(), a.example()
  assert first["audio"] == second["audio"] and first["audio"].startswith(b"fLaC") and first["rate"] == RATE
  kept, rate = soundfile.read(io.BytesIO(first["audio"]))
  given, _ = soundfile.read(tmp_path / "a.mp3")
  assert rate == RATE and first["seconds"] == len(given) / RATE
  np.testing.assert_allclose(kept, given, atol=1 / 32767)
  assert b.example()["audio"] == (tmp_path / "b.wav").read_bytes()


def test_m4a_is_kept_as_flac(tmp_path):
  av = pytest.importorskip("av")
  wave = (9000 * np.sin(np.arange(RATE) * 0.05)).astype(np.int16)
  with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as file:
    track = file.add_stream("aac", rate=RATE, layout="mono")
    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
    frame.sample_rate = RATE
    for packet in [*track.encode(frame), *track.encode(None)]:
      file.mux(packet)
  say(tmp_path / "a.txt", "Hi.")
  [a] = manifest.check_entries(layouts.read_folder(tmp_path, language="en"))
  example = a.example()
  assert example["audio"].startswith(b"fLaC") and example["rate"] == RATE and 0.9 < example["seconds"] < 1.2
  (tmp_path / "a.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:300])
  with pytest.raises(DataError, match=r"a\.m4a: expected"):
    a.example()
