"""The server over the real engine: what is heard over the wire is what Python hears."""

import io
import json
import time

import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

import cosyjax
from cosyjax.serving.encoders import pcm16
from cosyjax.serving.settings import Settings
from cosyjax.serving.voice_store import VoiceStore
from tests.conftest import ASSETS
from tests.serving_fake import serving

TEXT = "Hello from JAX, this is a stream of words."
SAYS = "希望你以后能够做的比我还好呦。"


@pytest.fixture(scope="module")
def voice(shallow):
  return shallow.voice(ASSETS / "prompt.wav", SAYS)


@pytest.fixture(scope="module")
def live(shallow, voice, tmp_path_factory):
  folder = tmp_path_factory.mktemp("voices")
  make = lambda s: VoiceStore(s, shallow.config, directory=folder, built_in={"anna": voice})
  with serving(lambda: cosyjax.Engine(shallow, slots=16, seconds=5.0), Settings(), make) as live:
    live.client.timeout = 600  # programs are compiled when they are first needed
    yield live


def heard(stream) -> bytes:
  return b"".join(pcm16(p.samples_A).tobytes() for p in stream)


def near(found: bytes, expected: bytes) -> None:
  """Equal but for the last bits, which may depend on what else runs in the batch."""
  assert len(found) == len(expected)
  np.testing.assert_allclose(np.frombuffer(found, "<i2"), np.frombuffer(expected, "<i2"), atol=40)


def test_speech_over_http_is_the_engines(live, voice):
  answer = live.speech(TEXT, response_format="pcm", voice="anna", seed=5, speed=1.25)
  assert answer.status_code == 200
  near(answer.content, heard(live.engine.stream(TEXT, voice, seed=5, speed=1.25)))
  assert live.settled()["done"] == 1


def test_words_over_the_socket_are_the_engines(live, voice):
  pieces = ["Hel", "lo from J", "AX, this is a str", "eam of words."]
  with connect(live.socket_url, ping_timeout=600) as line:
    line.send(json.dumps({"type": "session.config", "voice": "anna", "seed": 5}))
    for piece in pieces:
      line.send(json.dumps({"type": "input.text", "text": piece}))
    line.send(json.dumps({"type": "input.done"}))
    messages = []
    while not (messages and '"session.done"' in str(messages[-1])):
      messages.append(line.recv(600))
  near(b"".join(m for m in messages if isinstance(m, bytes)), heard(live.engine.stream(iter(pieces), voice, seed=5)))


def test_a_voice_that_is_posted_is_the_models(live, voice):
  with (ASSETS / "prompt.wav").open("rb") as file:
    form = {"name": "berta", "consent": "given", "ref_text": SAYS}
    answer = live.client.post("/v1/audio/voices", data=form, files={"audio_sample": ("p.wav", file, "audio/wav")})
  assert answer.status_code == 200, answer.text
  kept = live.service.voices.resolve("berta")
  assert kept.fingerprint == voice.fingerprint
  assert live.client.delete("/v1/audio/voices/berta").status_code == 200


def test_a_conversion_is_the_models(live, shallow, voice, recordings):
  wave_A, rate = recordings["aishell_0121"]
  file = io.BytesIO()
  soundfile.write(file, wave_A[: 2 * rate], rate, format="WAV", subtype="FLOAT")
  data = {"voice": "anna", "response_format": "pcm", "seed": "3"}
  answer = live.client.post("/v1/audio/conversions", data=data, files={"audio": ("a.wav", file.getvalue())})
  assert answer.status_code == 200, answer.text
  near(answer.content, pcm16(shallow.convert_voice((wave_A[: 2 * rate], rate), voice, seed=3).samples_A).tobytes())


@pytest.mark.parametrize("text", ["。！", "<|endofprompt|>", "\u200b"])
def test_texts_that_cannot_be_spoken_are_refused(live, text):
  assert live.speech(text, response_format="pcm").status_code == 400
  assert live.engine.stats().free_slots >= 0


def test_lost_device_state_fails_what_runs_and_the_next_request_is_normal(live, monkeypatch):
  flow = live.engine.slots.flow

  def dies(*_):
    flow.state.frames_B.delete()
    raise RuntimeError("the device fell over")

  monkeypatch.setattr(flow, "step", dies)
  answer = live.speech(TEXT)
  monkeypatch.undo()
  assert answer.status_code == 500 and "fell over" not in answer.text
  assert live.client.get("/ready").status_code == 200
  assert live.speech(TEXT).status_code == 200
  assert live.settled()["failed"] == 1


def test_a_dead_thread_is_made_anew(live, monkeypatch):
  """The engine's thread ends in the middle of a request: a defined answer, and then a new engine."""
  old = live.engine

  def ends(*_):
    raise SystemExit  # which the engine's own net does not hold

  monkeypatch.setattr(old._scheduler, "_step", ends)
  answer = live.speech(TEXT)
  assert answer.status_code == 503 and answer.headers["retry-after"]
  end = time.monotonic() + 30
  while not live.service.ready:
    assert time.monotonic() < end
    time.sleep(0.05)
  assert live.engine is not old and live.speech(TEXT).status_code == 200
