"""Manifests: every bad entry is refused with file and line, good ones become utterances."""

import base64
import io
import json

import numpy as np
import pytest
import soundfile

from cosyjax.data import manifest
from cosyjax.errors import DataError

RATE = 16_000


def packed(seconds: float, kind: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
  out = io.BytesIO()
  wave_A = 0.3 * np.sin(np.arange(round(seconds * rate)) * 0.05)
  soundfile.write(out, wave_A, rate, format=kind, subtype=subtype)
  return out.getvalue()


def row(n: int = 0, **changes) -> dict:
  row = {"id": f"a{n}", "audio": "one.wav", "text": "Good morning.", "speaker": "anna", "language": "en"}
  return {name: value for name, value in (row | changes).items() if value is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("audio")
  (folder / "one.wav").write_bytes(packed(1.0))
  (folder / "two.flac").write_bytes(packed(0.5, "FLAC", rate=44_100))
  (folder / "three.opus").write_bytes(packed(0.5, "OGG", "OPUS", rate=48_000))
  (folder / "short.wav").write_bytes(packed(0.1))
  (folder / "long.flac").write_bytes(packed(61.0, "FLAC"))
  (folder / "empty.wav").write_bytes(b"")
  (folder / "silent.wav").write_bytes(packed(0.0))
  (folder / "text.wav").write_text("This is no audio.")
  (folder / "cut.flac").write_bytes(packed(3.0, "FLAC")[:3000])
  (folder / "cut.wav").write_bytes(packed(3.0)[:50_000])
  (folder / "cut.opus").write_bytes(packed(3.0, "OGG", "OPUS", rate=48_000)[:12_000])
  (folder / "song.ogg").write_bytes(packed(1.0, "OGG", "VORBIS"))
  (folder / "apple.aiff").write_bytes(packed(1.0, "AIFF"))
  return folder


def written(folder, lines: list) -> str:
  file = folder / "manifest.jsonl"
  lines = [line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines]
  file.write_bytes(b"\n".join(lines) + b"\n")
  return str(file)


def test_good_rows(folder):
  audio_bytes = base64.b64encode(packed(0.7)).decode()
  rows = [
    row(0),
    row(1, audio="two.flac", text="早上好。", instruction="Speak slowly."),
    row(2, audio=str(folder / "three.opus")),
    row(3, audio=None, audio_bytes=audio_bytes),
  ]
  found = manifest.read_manifest(written(folder, [b"\xef\xbb\xbf" + json.dumps(rows[0]).encode(), b" ", *rows[1:]]))
  assert [each.id for each in found] == ["a0", "a1", "a2", "a3"]
  assert found[1].text == "早上好。" and found[1].instruction == "Speak slowly." and found[0].instruction == ""
  assert found[1].where.endswith("manifest.jsonl:3")
  examples = [each.example() for each in found]
  assert [example["rate"] for example in examples] == [16_000, 44_100, 48_000, 16_000]
  np.testing.assert_allclose([example["seconds"] for example in examples], [1.0, 0.5, 0.5, 0.7], atol=1e-4)
  assert examples[1]["audio"] == (folder / "two.flac").read_bytes()  # as given
  assert examples[3]["audio"] == packed(0.7)


def test_wav_of_open_length():
  """A program that writes into a pipe cannot know the length, and says the greatest."""
  wav = bytearray(packed(1.0))
  place = wav.index(b"data") + 4
  wav[4:8] = wav[place : place + 4] = b"\xff\xff\xff\x7f"
  assert manifest.measure(bytes(wav), "here") == (1.0, RATE)


BAD = {
  "not json": (b'{"id": "a0", ', "not JSON"),
  "not utf8": (b'{"id": "\xff"}', "expected UTF-8, found byte 0xff"),
  "a list": (["a0"], "expected a JSON object, found list"),
  "field twice": (b'{"id": "a0", "id": "b"}', "expected each field once, found 'id'"),
  "unknown field": (row(transcript="hi"), "found 'transcript'"),
  "missing field": (row(speaker=None), "expected 'speaker' too"),
  "number as text": (row(text=7), "expected a string as 'text', found int"),
  "empty text": (row(text="  "), "'text' that is not empty"),
  "empty speaker": (row(speaker=""), "'speaker' that is not empty"),
  "half a pair": (b'{"id":"a","audio":"one.wav","text":"\\ud800","speaker":"s","language":"en"}', "surrogate"),
  "no audio": (row(audio=None), "found neither"),
  "audio twice": (row(audio_bytes="AAAA"), "found both"),
  "not base64": (row(audio=None, audio_bytes="*"), "base64"),
  "missing": (row(audio="none.wav"), "found nothing at"),
  "folder": (row(audio="."), "expected an audio file at"),
  "empty file": (row(audio="empty.wav"), "found an empty file"),
  "no samples": (row(audio="silent.wav"), "found 0.000 s"),
  "not audio": (row(audio="text.wav"), "expected WAV, FLAC or Opus"),
  "vorbis": (row(audio="song.ogg"), "found OGG (VORBIS)"),
  "aiff": (row(audio="apple.aiff"), "found AIFF"),
  "cut flac": (row(audio="cut.flac"), "cut.flac: expected"),
  "cut wav": (row(audio="cut.wav"), "expected a whole file"),
  "cut opus": (row(audio="cut.opus"), "expected a whole file"),
  "too short": (row(audio="short.wav"), "expected 0.3 to 60 s of audio, found 0.100 s"),
  "too long": (row(audio="long.flac"), "found 61.000 s"),
  "id twice": (row(9), "found 'a9' of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_row(folder, name):
  line, words = BAD[name]
  file = written(folder, [row(9), line])
  with pytest.raises(DataError) as error:
    manifest.read_manifest(file)
  assert f"{file}:2: " in str(error.value) and words in str(error.value)
  assert "\n" not in str(error.value)


def test_bad_rows_are_listed_together(folder):
  file = written(folder, [row(0), *(row(n, text="") if n % 2 else row(n, audio="x.wav") for n in range(1, 31))])
  with pytest.raises(DataError) as error:
    manifest.read_manifest(file)
  first, *lines = str(error.value).splitlines()
  assert first == "30 of 31 entries cannot be used:"
  assert len(lines) == manifest.MAX_SHOWN + 1 and lines[-1] == "... and 10 more"
  assert [f":{n}: " in line for n, line in enumerate(lines[:-1], 2)] == [True] * manifest.MAX_SHOWN


def test_ids_are_unique_over_manifests(folder):
  file = written(folder, [row(0)])
  with pytest.raises(DataError, match="expected an id of its own"):
    manifest.read_manifest(file, file)


def test_audio_may_be_checked_later(folder):
  [utterance] = manifest.read_manifest(written(folder, [row(audio="cut.flac")]), check_audio=False)
  with pytest.raises(DataError, match=r"manifest.jsonl:1: .*cut.flac"):
    utterance.example()


def test_no_manifest(folder):
  with pytest.raises(DataError, match="expected a manifest of JSON lines"):
    manifest.read_manifest(folder / "none.jsonl")
  with pytest.raises(DataError, match="at least one entry"):
    manifest.read_manifest(written(folder, [b""]))


def test_folder(tmp_path):
  for name in ("hello.wav", "bob/a.flac", "bob/b.wav"):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(packed(1.0, file.suffix[1:].upper()))
    file.with_suffix(".txt").write_text(f"\ufeffThis is\n {file.stem}. ", encoding="utf-8")
  rows = manifest.manifest_of_folder(tmp_path, language="en")
  assert [each["id"] for each in rows] == ["bob/a", "bob/b", "hello"]
  assert [each["speaker"] for each in rows] == ["bob", "bob", tmp_path.name]
  assert rows[0]["text"] == "This is a." and rows[0]["audio"] == "bob/a.flac" and rows[0]["language"] == "en"
  assert {each["speaker"] for each in manifest.manifest_of_folder(tmp_path, language="en", speaker="x")} == {"x"}
  checked = manifest.check_entries([("here", each, str(tmp_path)) for each in rows])
  assert len(checked) == 3

  (tmp_path / "bob" / "a.txt").unlink()
  (tmp_path / "more.txt").write_text("nobody")
  (tmp_path / "hello.txt").write_bytes(b"\xff\xfe")
  (tmp_path / "bob" / "b.flac").write_bytes(b"")
  with pytest.raises(DataError) as error:
    manifest.manifest_of_folder(tmp_path, language="en")
  message = str(error.value)
  assert "a.flac: expected a transcript" in message and "more.txt: expected a recording" in message
  assert "hello.txt: expected text in UTF-8" in message and "expected one recording of this name" in message
  with pytest.raises(DataError, match="found none"):
    manifest.manifest_of_folder(tmp_path / "nowhere", language="en")
