"""Audio files: reading, resampling, checks on speech, hostile input."""

import errno
import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from cosyjax.audio import check_speech, read, resample
from cosyjax.audio import io as module
from cosyjax.errors import AudioError


def sine(rate, seconds=1.0, hz=440.0, level=0.5):
  return (level * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def encoded(wave, rate=24_000, kind="WAV", subtype=None):
  out = io.BytesIO()
  soundfile.write(out, wave, rate, subtype, format=kind)
  return out.getvalue()


def fails(code):
  def function(*_, **__):
    raise OSError(code, os.strerror(code))

  return function


@pytest.mark.parametrize(
  ("kind", "subtype", "atol"),
  [
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "FLOAT", 0),
    ("WAV", "DOUBLE", 1e-7),
    ("WAV", "PCM_U8", 0.02),
    ("WAV", "ULAW", 0.03),
    ("WAV", "IMA_ADPCM", 0.1),
    ("FLAC", "PCM_24", 1e-6),
    ("AIFF", "PCM_16", 1e-4),
    ("OGG", "VORBIS", 0.1),
  ],
)
def test_reads_any_format(tmp_path, kind, subtype, atol):
  path = tmp_path / f"a.{kind.lower()}"
  path.write_bytes(encoded(sine(24_000), kind=kind, subtype=subtype))
  for source in (path, str(path), io.BytesIO(path.read_bytes())):
    wave_A, rate = read(source)
    assert rate == 24_000 and wave_A.dtype == np.float32 and wave_A.ndim == 1
    assert 0 <= len(wave_A) - 24_000 < 600  # ADPCM fills its last block ...
    np.testing.assert_allclose(wave_A[100:24_000], sine(24_000)[100:], atol=atol)  # ... and needs a start


def test_stream_need_not_seek_and_may_fail():
  class Stream:
    def __init__(self, read):
      self.read = read

  data = encoded(sine(24_000))
  assert len(read(Stream(io.BytesIO(data).read))[0]) == 24_000
  with pytest.raises(AudioError, match=r"audio stream: .*Input/output error"):
    read(Stream(fails(errno.EIO)))
  with pytest.raises(AudioError, match="found one of str"):
    read(io.StringIO("RIFF"))


def test_stream_without_end_is_refused(monkeypatch):
  monkeypatch.setattr(module, "MAX_BYTES", 1000)
  with pytest.raises(AudioError, match="at most 1000 bytes"):
    read(io.BytesIO(encoded(sine(24_000))))


def test_channels_are_averaged(monkeypatch):
  monkeypatch.setattr(module, "_BLOCK", 1000)  # several blocks, the last one short
  channels_AC = np.random.default_rng(0).uniform(-0.5, 0.5, (24_010, 3)).astype(np.float32)
  wave_A, _ = read(io.BytesIO(encoded(channels_AC, subtype="FLOAT")))
  np.testing.assert_allclose(wave_A, channels_AC.mean(1), atol=1e-7)


def test_read_resamples():
  wave_A, rate = read(io.BytesIO(encoded(sine(44_100), 44_100, subtype="FLOAT")), 16_000)
  assert rate == 16_000 and wave_A.dtype == np.float32
  np.testing.assert_allclose(wave_A[500:-500], sine(16_000)[500:-500], atol=1e-4)


@pytest.mark.parametrize(
  ("rate_in", "rate_out"), [(24_000, 16_000), (16_000, 24_000), (44_100, 24_000), (8_000, 24_000)]
)
def test_resampling_keeps_frequency_level_and_phase(rate_in, rate_out):
  wave_A = resample(sine(rate_in, 2), rate_in, rate_out)
  assert len(wave_A) == 2 * rate_out
  np.testing.assert_allclose(wave_A[1000:-1000], sine(rate_out, 2)[1000:-1000], atol=1e-4)


def test_resampling_removes_what_would_alias():
  assert np.abs(resample(sine(24_000, hz=10_000), 24_000, 16_000)[1000:-1000]).max() < 1e-5


def test_resample_refuses_nonsense():
  wave_A = sine(24_000)
  assert resample(wave_A, 24_000, 24_000) is wave_A
  with pytest.raises(AudioError, match=r"one channel \[A\], found shape \(2, 5\)"):
    resample(np.zeros((2, 5)), 24_000, 16_000)
  with pytest.raises(AudioError, match="positive rates"):
    resample(wave_A, 0, 16_000)


# Hostile input


def hostile():
  """name -> (file name, bytes, seconds of audio that may come back)."""
  wav, flac = encoded(sine(24_000) * 0.9), encoded(sine(24_000), kind="FLAC")
  ogg, mp3 = encoded(sine(24_000), kind="OGG"), encoded(sine(24_000), kind="MP3")
  noise = np.random.default_rng(0).bytes(4000)
  files = {"empty": b"", "text": b"hello " * 500, "noise": noise, "one byte": b"R", "riff then noise": wav[:44] + noise}
  for cut in (4, 12, 20, 30, 36, 43, 44, 45, 1000):
    files[f"wav cut at {cut}"] = wav[:cut]
  for cut in (4, 10, 42, 50, len(flac) // 2):
    files[f"flac cut at {cut}"] = flac[:cut]
  for cut in (27, 60, len(ogg) // 2):
    files[f"ogg cut at {cut}"] = ogg[:cut]
    files[f"mp3 cut at {cut}"] = mp3[:cut]

  def patched(data, at, value):
    return data[:at] + value + data[at + len(value) :]

  for value in (0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFF):
    for field, at in {"riff size": 4, "format size": 16, "rate": 24, "byte rate": 28, "data size": 40}.items():
      files[f"wav {field} {value}"] = patched(wav, at, struct.pack("<I", value))
  for value in (0, 3, 255, 1025, 65_535):
    for field, at in {"format": 20, "channels": 22, "block": 32, "bits": 34}.items():
      files[f"wav {field} {value}"] = patched(wav, at, struct.pack("<H", value))
  files["flac of unknown length"] = patched(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4))
  files["flac of 68 billion samples"] = patched(flac, 21, bytes([flac[21] | 0x0F]) + b"\xff" * 4)
  files["flac of one hour"] = patched(flac, 21, bytes([flac[21] & 0xF0]) + struct.pack(">I", 3600 * 24_000))
  files["flac damaged"] = patched(flac, len(flac) // 2, noise[:300])
  for rate in (1, 999, 1000, 384_000):
    files[f"{rate} Hz"] = encoded(sine(24_000, 0.1), rate)
  for channels in (2, 64, 1024):
    files[f"{channels} channels"] = encoded(np.tile(sine(24_000, 0.1)[:, None], channels))
  files["no samples"] = encoded(np.zeros(0))
  files["one sample"] = encoded(np.ones(1))
  files["two channels, no samples"] = encoded(np.zeros((0, 2)))
  files["not finite"] = encoded(np.array([0, np.nan, np.inf, -np.inf, 1e38] * 100), subtype="FLOAT")
  for header in (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"FORM",
    b"fLaC",
    b"OggS",
    b"ID3\x04",
    b".snd",
    b"caff",
    b"\xff\xfb\x90\x44",
  ):
    files[f"{header!r} then noise"] = header + noise
  return files


HOSTILE = hostile()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("suffix", [".wav", ".raw"])
def test_hostile_file_is_audio_or_a_typed_error(tmp_path, capfd, name, suffix):
  path = tmp_path / f"hostile{suffix}"
  path.write_bytes(HOSTILE[name])
  for source in (path, io.BytesIO(HOSTILE[name])):
    for rate in (None, 24_000):
      try:
        wave_A, rate_out = read(source, rate)
      except AudioError as error:
        assert str(path) in str(error) or "audio stream" in str(error)
      else:
        assert wave_A.dtype == np.float32 and wave_A.ndim == 1 and wave_A.size
        assert rate is None or rate_out == rate
      if isinstance(source, io.BytesIO):
        source.seek(0)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("empty", "found an empty file"),
    ("text", "cannot be decoded"),
    ("wav cut at 44", "found no samples"),
    ("no samples", "found no samples"),
    ("1 Hz", "from 1000 to 768000 Hz, found 1"),
    ("flac of unknown length", "says how long it is"),
    ("flac of 68 billion samples", "at most 3600 s of audio at 24000 Hz, found 2863311"),
    ("flac damaged", "cannot be decoded"),
  ],
)
def test_hostile_file_is_named(tmp_path, name, message):
  path = tmp_path / "hostile.wav"
  path.write_bytes(HOSTILE[name])
  with pytest.raises(AudioError, match=message) as caught:
    read(path)
  assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["wav data size 4294967295", "wav riff size 0", "384000 Hz", "64 channels"])
def test_odd_but_honest_file_is_read(tmp_path, name):
  wave_A, _ = read(io.BytesIO(HOSTILE[name]))
  expected_A, _ = soundfile.read(io.BytesIO(HOSTILE[name]), always_2d=True)
  np.testing.assert_allclose(wave_A, expected_A.mean(1), atol=1e-6)


def test_what_is_no_file_is_refused(tmp_path):
  os.mkfifo(tmp_path / "pipe.wav")
  (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
  cases = {tmp_path: "a folder", tmp_path / "none.wav": "nothing there", tmp_path / "pipe.wav": "no plain file"}
  cases |= {"/dev/null": "no plain file", tmp_path / "loop.wav": "audio file", "a\0b.wav": "audio file"}
  cases |= {tmp_path / ("x" * 300): "audio file", None: "NoneType", 5: "int"}
  for source, message in cases.items():
    with pytest.raises(AudioError, match=message):
      read(source)


def test_long_file_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
  path = tmp_path / "long.flac"
  path.write_bytes(encoded(np.zeros(24_000 * 5), kind="FLAC"))
  assert len(read(path, max_seconds=5)[0]) == 24_000 * 5
  monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
  with pytest.raises(AudioError, match=r"at most 4\.9 s of audio at 24000 Hz, found 5\.000 s"):
    read(path, max_seconds=4.9)
  monkeypatch.setattr(module, "MAX_SAMPLES", 1000)
  with pytest.raises(AudioError, match="at most"):
    read(path)


def test_declared_length_takes_no_memory(tmp_path):
  """Nor time: a header of one hour over one second of audio."""
  path = tmp_path / "hour.flac"
  path.write_bytes(HOSTILE["flac of one hour"])
  program = """
import resource, sys
from cosyjax.audio import read
from cosyjax.errors import AudioError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
  read(sys.argv[1])
except AudioError:
  pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
  output = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True, timeout=60)
  assert int(output.stdout) < 64 * 1024 * (1024 if sys.platform == "darwin" else 1)


def test_import_needs_no_audio_library():
  program = """
import sys
sys.modules["soundfile"] = sys.modules["soxr"] = None
import cosyjax.audio
"""
  subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# Checks on speech


def test_speech_passes():
  check_speech(sine(24_000), 24_000, where="x")
  check_speech(np.clip(3 * sine(24_000), -1, 1), 24_000, where="x")  # clipped
  check_speech(3 * sine(24_000), 24_000, where="x")  # over full scale
  check_speech(sine(24_000, level=2e-3), 24_000, where="x")  # quiet
  check_speech(sine(24_000, 0.5), 24_000, where="x")
  check_speech(sine(8_000, 31), 8_000, where="x", max_seconds=None)


@pytest.mark.parametrize(
  ("wave_A", "message"),
  [
    (np.zeros(0), "no samples"),
    (np.zeros((2, 24_000)), r"one channel \[A\], found shape \(2, 24000\)"),
    (np.zeros(24_000), "silence"),
    (np.full(24_000, 0.3), "silence"),  # direct current
    (sine(24_000, level=0.9e-3), "silence"),
    (sine(24_000, 0.499), r"0\.5 to 30 s of speech, found 0\.499 s"),
    (sine(24_000, 30.01), r"0\.5 to 30 s of speech, found 30\.010 s"),
    (np.where(np.arange(24_000) == 77, np.nan, sine(24_000)), "found nan at sample 77"),
    (np.where(np.arange(24_000) == 78, -np.inf, sine(24_000)), "found -inf at sample 78"),
    (sine(24_000) * 32_768, "full scale 1, found a peak of 16384"),
  ],
)
def test_not_speech_is_refused(wave_A, message):
  with pytest.raises(AudioError, match=f"^my file: .*{message}"):
    check_speech(wave_A, 24_000, where="my file")
