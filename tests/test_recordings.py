"""Recordings as people have them: containers, channels that cancel, and what makes a prompt doubtful."""

import builtins
import io

import av
import numpy as np
import pytest
import soundfile

from cosyjax import audio
from cosyjax.audio.containers import container_of
from cosyjax.errors import AudioError, TextError

RATE = 24_000


def speech(seconds: float = 2.0, pause: float = 0.1) -> np.ndarray:
  """A hum in syllables with a pause after each, and a little noise."""
  time_A = np.arange(int(seconds * RATE)) / RATE
  gate_A = (np.mod(time_A, 0.4 + pause) < 0.4) * np.abs(np.sin(np.pi * np.mod(time_A, 0.4 + pause) / 0.4))
  noise_A = 1e-4 * np.random.default_rng(0).standard_normal(len(time_A))
  return (0.3 * gate_A * np.sin(2 * np.pi * 180 * time_A) + noise_A).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
  return (1e-4 * np.random.default_rng(1).standard_normal(int(seconds * RATE))).astype(np.float32)


def encoded(kind: str, codec: str, rate: int, wave_A: np.ndarray) -> bytes:
  out = io.BytesIO()
  with av.open(out, "w", format=kind) as file:
    track = file.add_stream(codec, rate=rate, layout="mono")
    frame = av.AudioFrame.from_ndarray(wave_A[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    for part in av.AudioResampler(track.format, "mono", rate, frame_size=track.frame_size or 960).resample(frame):
      file.mux(track.encode(part))
    file.mux(track.encode(None))
  return out.getvalue()


@pytest.mark.parametrize(
  ("name", "kind", "codec", "rate"),
  [("a.m4a", "ipod", "aac", 24_000), ("a.webm", "webm", "libopus", 48_000), ("a.mp4", "mp4", "libmp3lame", 24_000)],
)
def test_containers_are_read(tmp_path, name, kind, codec, rate):
  wave_A = audio.resample(speech(), RATE, rate)
  data = encoded(kind, codec, rate, wave_A)
  (tmp_path / name).write_bytes(data)
  found_A, found_rate = audio.read(tmp_path / name)
  assert found_rate == rate and abs(len(found_A) - len(wave_A)) < 0.1 * rate
  level = lambda x: float(np.sqrt(np.mean(np.square(x))))
  assert abs(level(found_A) / level(wave_A) - 1) < 0.1
  np.testing.assert_array_equal(audio.read(io.BytesIO(data))[0], found_A)
  with pytest.raises(AudioError, match=r"expected at most 1 s of audio .* found more"):
    audio.read(tmp_path / name, max_seconds=1.0)


def test_a_damaged_container_and_one_without_audio(tmp_path):
  data = encoded("ipod", "aac", RATE, speech())
  for cut in (12, 200, len(data) // 2):
    (tmp_path / "cut.m4a").write_bytes(data[:cut])
    try:
      audio.read(tmp_path / "cut.m4a")
    except AudioError as error:
      assert "cut.m4a: expected" in str(error)
  (tmp_path / "text.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + b"nothing" * 50)
  with pytest.raises(AudioError, match=r"text\.m4a: expected"):
    audio.read(tmp_path / "text.m4a")


def test_without_pyav_the_message_says_what_to_do(tmp_path, monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == "av":
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  (tmp_path / "a.amr").write_bytes(b"#!AMR\n" + bytes(100))
  with pytest.raises(AudioError, match=r"a\.amr: expected audio that libsndfile reads, .*; install PyAV to read it"):
    audio.read(tmp_path / "a.amr")


def test_other_files_are_left_to_libsndfile():
  wav = io.BytesIO()
  soundfile.write(wav, speech(0.5), RATE, format="WAV")
  for head in (wav.getvalue()[:16], b"ID3\x04" + bytes(12), b"OggS" + bytes(12), b"fLaC" + bytes(12), b""):
    assert container_of(head) is None


def test_channels_in_opposite_phase(tmp_path, caplog):
  wave_A = speech()
  soundfile.write(tmp_path / "wired.wav", np.stack([wave_A, -0.9 * wave_A], axis=1), RATE, subtype="FLOAT")
  found_A, _ = audio.read(tmp_path / "wired.wav")
  np.testing.assert_array_equal(found_A, wave_A)
  assert "wired.wav: its two channels are in opposite phase" in caplog.text
  caplog.clear()
  soundfile.write(tmp_path / "one.wav", np.stack([wave_A, 0 * wave_A], axis=1), RATE, subtype="FLOAT")
  np.testing.assert_allclose(audio.read(tmp_path / "one.wav")[0], wave_A / 2, atol=1e-7)
  assert not caplog.text


def test_silence_around_a_prompt_is_trimmed_unless_told_otherwise():
  wave_A = np.concatenate([silence(1.5), speech(), silence(2.0)])
  found = audio.inspect_prompt(wave_A, RATE)
  assert abs(found.start / RATE - 1.3) < 0.06 and abs(found.stop / RATE - 3.7) < 0.2
  assert len(found.notes) == 1 and "of silence before the speech" in found.notes[0] and not found.warnings
  left = audio.inspect_prompt(wave_A, RATE, trim=False)
  assert (left.start, left.stop, left.notes) == (0, len(wave_A), ())
  short = np.concatenate([silence(0.3), speech(), silence(0.4)])
  assert audio.inspect_prompt(short, RATE).stop == len(short)


@pytest.mark.parametrize(
  ("wave_A", "said"),
  [
    (np.concatenate([silence(0.2), np.clip(8 * speech(), -0.5, 0.5), silence(0.3)]), "clipped"),
    (np.concatenate([speech(), silence(0.3)]) + 0.1 * np.random.default_rng(2).standard_normal(55_200), "noisy"),
    (np.concatenate([silence(0.2), speech(1.7)]), "cut in the middle of a word"),
    (
      np.concatenate([silence(0.2), speech(1.0), silence(3.0), speech(1.0), silence(0.3)]),
      "s of silence between words",
    ),
  ],
)
def test_doubtful_prompts_are_named(wave_A, said):
  found = audio.inspect_prompt(wave_A.astype(np.float32), RATE)
  assert [w for w in found.warnings if said in w] and len(found.warnings) == 1, found


def test_recordings_of_people_raise_no_doubt(recordings):
  for name, (wave_A, rate) in recordings.items():
    assert not [w for w in audio.inspect_prompt(wave_A, rate).warnings if "clipped" in w or "between" in w], name


def test_a_transcript_has_to_fit():
  audio.check_transcript("The birch canoe slid on the smooth planks.", 1.5, "a.wav")
  audio.check_transcript("希望你以后能够做的比我还好呦。", 1.5, "a.wav")
  with pytest.raises(
    TextError, match=r"a\.wav: expected .* said in 1\.0 s, found one of 77 letters, which takes 2\.2 s"
  ):
    audio.check_transcript("twelve words" + " and more of it" * 6 + "!", 1.0, "a.wav")
  with pytest.raises(TextError, match=r"30 Han characters or kana, which takes 2\.1 s"):
    audio.check_transcript("好" * 30, 2.0, "a.wav")


def test_a_voice_is_made_of_the_speech_alone(shallow, monkeypatch, caplog):
  seen = []

  def analyse(model, wave_24k, wave_16k):
    seen.append((len(wave_24k) / RATE, len(wave_16k) / 16_000))
    return np.zeros(4, np.int32), np.zeros((8, 80), np.float32), np.ones(24, np.float32)

  monkeypatch.setattr("cosyjax.inference.synthesizer.recordings.analyse", analyse)
  wave_A = np.concatenate([silence(1.5), speech(), silence(2.0)])
  shallow.voice((wave_A, RATE), "a hum")
  assert "the recording: 1.3 s of silence before the speech" in caplog.text
  shallow.voice((wave_A, RATE), "a hum", trim=False)
  assert [round(a, 1) for a, _ in seen] == [2.3, 5.5] and all(abs(a - b) < 1e-3 for a, b in seen)
  with pytest.raises(TextError, match=r"the recording: expected a transcript"):
    shallow.voice((wave_A, RATE), "far too many words " * 20)
  assert len(seen) == 2
