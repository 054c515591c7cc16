"""Voices of clients: made with consent, kept as files, found by name, deleted for good."""

import dataclasses
import io
from pathlib import Path

import av
import numpy as np
import pytest

import cosyjax
from cosyjax.errors import AudioError, CheckpointError
from cosyjax.serving import received_audio
from cosyjax.serving.encoders import encode, encoder
from cosyjax.serving.problems import Problem
from cosyjax.serving.settings import Limits, Settings
from cosyjax.serving.voice_store import VoiceStore, check_name
from tests.serving_fake import CONFIG, RATE, FakeEngine, serving, tone, voice_of

CONSENT = "I am the speaker, and agree that this server speaks in my voice."


def recording(seconds=1.0, name="wav"):
  return encode(name, tone(1, int(RATE * seconds)))


def post(live, name="berta", data=None, **fields):
  form = {"name": name, "consent": CONSENT, "ref_text": "hello there"} | fields
  sample = {"audio_sample": ("a.wav", recording() if data is None else data, "audio/wav")}
  return live.client.post("/v1/audio/voices", data=form, files=sample)


@pytest.fixture
def live(tmp_path):
  settings = Settings(limits=Limits(voices=3, recording=200_000, prompt_seconds=10.0))
  make = lambda s: VoiceStore(s, CONFIG, directory=tmp_path / "voices", built_in={"anna": voice_of()})
  with serving(FakeEngine, settings, make) as live:
    live.folder = tmp_path / "voices"
    yield live


def test_a_voice_is_kept_with_its_consent_and_speaks(live):
  answer = post(live).json()
  assert answer["success"] and answer["id"] == "berta" and "overwritten" not in answer
  assert answer["voice"]["consent"] == CONSENT and answer["voice"]["ref_text"] == "hello there"
  [file] = live.folder.iterdir()
  kept = cosyjax.Voice.load(file)
  assert kept.versions["consent"] == CONSENT and kept.transcript == "hello there" and file.stat().st_mode & 0o077 == 0
  listed = live.client.get("/v1/audio/voices").json()
  assert [v["name"] for v in listed["voices"]] == ["anna", "berta"]
  [uploaded] = listed["uploaded_voices"]
  assert uploaded["name"] == "berta" and uploaded["file_size"] == len(recording()) and uploaded["created_at"] > 1e9
  assert live.speech(voice="berta").status_code == 200
  assert live.engine.given[-1]["voice"].transcript == "hello there"
  again = post(live, ref_text="something else").json()
  assert again["overwritten"] and again["voice"]["ref_text"] == "something else"
  assert live.speech(voice="berta").status_code == 200
  assert live.engine.given[-1]["voice"].transcript == "something else"
  assert live.client.delete("/v1/audio/voices/berta").json()["success"]
  assert not list(live.folder.iterdir())
  assert live.speech(voice="berta").json()["error"]["code"] == "voice_not_found"
  gone = live.client.delete("/v1/audio/voices/berta")
  assert gone.status_code == 404 and gone.json()["success"] is False and gone.json()["error"]["message"]
  live.service._device._pool.submit(lambda: None).result(5)
  assert any("forgotten" in given for given in live.engine.given)


def test_voices_made_by_another_server_are_seen_at_once(live):
  voice_of(2.0).save(live.folder / "carla.voice")
  assert live.speech(voice="carla").status_code == 200
  assert [v["name"] for v in live.client.get("/v1/audio/voices").json()["voices"]] == ["anna", "carla"]


@pytest.mark.parametrize(
  ("fields", "status", "code"),
  [
    ({"consent": ""}, 400, "no_consent"),
    ({"consent": "  "}, 400, "no_consent"),
    ({"consent": "x" * 3000}, 400, "text_too_long"),
    ({"name": ""}, 400, "invalid_name"),
    ({"name": "../berta"}, 400, "invalid_name"),
    ({"name": "/etc/passwd"}, 400, "invalid_name"),
    ({"name": ".hidden"}, 400, "invalid_name"),
    ({"name": "a\x00b"}, 400, "invalid_name"),
    ({"name": "x" * 65}, 400, "invalid_name"),
    ({"name": "a+b"}, 400, "invalid_name"),
    ({"data": b"nonsense"}, 400, "invalid_audio"),
    ({"data": encode("wav", np.zeros(24_000, np.float32))}, 400, "invalid_audio"),
    ({"data": encode("flac", np.zeros(24_000 * 400, np.float32))}, 400, "invalid_audio"),
    ({"data": b"RIFF" + bytes(200_001)}, 413, "too_large"),
    ({"data": b""}, 400, "missing_field"),
  ],
)
def test_what_is_refused_leaves_nothing(live, fields, status, code):
  answer = post(live, **fields)
  assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
  assert not list(live.folder.iterdir())


def test_as_many_voices_as_may_be(live):
  assert [post(live, name=f"v{n}").status_code for n in range(4)] == [200, 200, 200, 400]
  assert post(live, name="v1").status_code == 200  # takes the place of one that is there
  assert len(list(live.folder.iterdir())) == 3
  protected = live.client.delete("/v1/audio/voices/anna")
  assert protected.status_code == 403 and protected.json()["error"]["code"] == "voice_protected"


def test_a_damaged_file_is_a_defined_answer(live):
  assert post(live).status_code == 200
  path = live.folder / "berta.voice"
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  answer = live.speech(voice="berta")
  assert answer.status_code == 500 and answer.json()["error"]["code"] == "voice_damaged"
  assert next(v for v in live.client.get("/v1/audio/voices").json()["voices"] if v["name"] == "berta")["damaged"]
  other = dataclasses.replace(voice_of(), tokens_U=np.full(25, 10**6, np.int32))
  other.save(path)
  assert "damaged" in live.speech(voice="berta").json()["error"]["message"]
  path.write_bytes(bytes(5 << 20))
  assert live.speech(voice="berta").status_code == 500
  assert live.speech(voice="anna").status_code == 200
  assert live.client.delete("/v1/audio/voices/berta").json()["success"]


def test_a_full_disk_is_a_defined_answer(live, monkeypatch):
  def full(self, path):
    from cosyjax.errors import OutputError

    try:
      raise OSError(28, "No space left on device")
    except OSError as error:
      raise OutputError(f"{path} cannot be written: {error}") from error

  monkeypatch.setattr(cosyjax.Voice, "save", full)
  answer = post(live)
  assert answer.status_code == 507 and answer.json()["error"]["code"] == "disk_full"
  monkeypatch.undo()
  assert post(live).status_code == 200


def test_names():
  for good in ("anna", "Anna Maria", "v1.2-b_c", "安娜", "Ä"):
    assert check_name(good) == good
  assert check_name("A\u0308") == "Ä"
  for bad in ("", " ", ".", "..", "a/b", "a\\b", "-a", "a.", "a\nb", "安" * 30):
    with pytest.raises(Problem):
      check_name(bad)


def test_mixing_is_for_voices_that_are_vectors_alone(tmp_path):
  vectors = [cosyjax.Voice.from_speaker(v, CONFIG.flow.mel_bins) for v in np.eye(2, CONFIG.flow.speaker_dim)]
  store = VoiceStore(Settings(), CONFIG, built_in={"a": vectors[0], "b": vectors[1], "c": voice_of()})
  mixed = store.resolve("a(3)+b(1)")
  np.testing.assert_allclose(mixed.speaker_E[:2], [0.75, 0.25], atol=1e-6)
  for wrong, said in (("a+c", "no recording"), ("a+", "a mix such as"), ("a(0)+b", "above 0"), ("a+x", "no voice")):
    with pytest.raises(Problem, match=said):
      store.resolve(wrong)


def test_without_any_voice_the_answer_says_what_to_do():
  with serving(FakeEngine, voices=lambda s: VoiceStore(s, CONFIG)) as live:
    assert live.speech().json()["error"]["code"] == "no_voice"
    assert post(live).json()["error"]["code"] == "voices_closed"


def test_files_and_urls_only_where_the_operator_allows_them(tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.wav").write_bytes(b"inside")
  (tmp_path / "b.wav").write_bytes(b"outside")
  (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "b.wav")
  settings = Settings(files=tmp_path / "in")
  read = lambda text: received_audio.from_reference(text, settings)
  assert read((tmp_path / "in" / "a.wav").as_uri()) == b"inside"
  for path in ("b.wav", "in/link.wav", "in/../b.wav", "in", "in/none.wav"):
    with pytest.raises(Problem, match="no such file"):
      read(f"file://{tmp_path}/{path}")
  with pytest.raises(Problem, match="fetches nothing"):
    read("http://127.0.0.1/a.wav")
  small = Settings(limits=Limits(recording=4))
  for text in ("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB", "data:audio/wav;base64,QUFBQUFBQUFBQUFBQUFBQUFBQUFB"):
    with pytest.raises(Problem, match="at most 4 bytes"):
      received_audio.from_reference(text, small)


def mp4(wave_A, form="mp4", codec="aac"):
  file = io.BytesIO()
  with av.open(file, "w", format=form) as container:
    stream = container.add_stream(codec, rate=RATE, layout="mono")
    frame = av.AudioFrame.from_ndarray(wave_A[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = RATE
    stream.codec_context.format = "fltp" if codec == "aac" else "flt"
    if codec != "aac":
      frame = av.AudioFrame.from_ndarray(wave_A[None].astype(np.float32), format="flt", layout="mono")
      frame.sample_rate = RATE
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return file.getvalue()


@pytest.mark.parametrize(
  "make",
  [
    lambda w: encode("wav", w),
    lambda w: encoder("wav").push(w),
    lambda w: encode("mp3", w),
    lambda w: encode("flac", w),
    lambda w: encode("opus", w),
    lambda w: encode("aac", w),
    mp4,
    lambda w: mp4(w, "webm", "libopus"),
  ],
  ids=["wav", "open wav", "mp3", "flac", "ogg", "aac", "mp4", "webm"],
)
def test_recordings_in_the_formats_that_clients_send(make):
  data = make(tone(1, RATE))
  wave_A, rate = received_audio.decode(data, 10.0)
  assert 0.99 < len(wave_A) / rate < 1.2
  with pytest.raises(AudioError, match="at most"):
    received_audio.decode(data, 0.5)
  for cut in (12, len(data) // 3):
    try:
      assert len(received_audio.decode(data[:cut], 10.0)[0]) <= len(wave_A)
    except AudioError as error:
      assert "ref_audio" in str(error)


def test_a_voice_of_another_model_is_not_taken(tmp_path):
  path = Path(tmp_path) / "x.voice"
  cosyjax.Voice.from_speaker(np.ones(7), CONFIG.flow.mel_bins).save(path)
  store = VoiceStore(Settings(), CONFIG, shipped=tmp_path)
  with pytest.raises(CheckpointError):
    store.resolve("x")
