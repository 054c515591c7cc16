"""Speech over HTTP: formats, events, errors, batches, and what becomes of requests whose clients leave."""

import base64
import io
import json
import threading
import time

import av
import numpy as np
import pytest

from cosyjax.errors import EngineError
from cosyjax.serving.encoders import FORMATS, encode, encoder, pcm16
from cosyjax.serving.stretch import Stretch
from tests.serving_fake import RATE, FakeEngine, serving, tone

TEXT = "One two three four five six seven eight nine."  # three packets


@pytest.fixture(scope="module")
def live():
  with serving(FakeEngine) as live:
    yield live


def expected(packets: int, samples: int = 4_800, seed: int = 0) -> np.ndarray:
  return np.concatenate([tone(n + seed, samples) for n in range(packets)])


def decoded(name: str, data: bytes) -> np.ndarray:
  """float32 [A] at 24 kHz, as FFmpeg decodes it."""
  if name == "pcm":
    return np.frombuffer(data, "<i2") / np.float32(32767)
  with av.open(io.BytesIO(data)) as container:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    frames = [f for frame in [*container.decode(audio=0), None] for f in resampler.resample(frame)]
  return np.concatenate([f.to_ndarray()[0] for f in frames])


DELAYS = {"mp3": 1105, "aac": 1024}  # samples before the first one: these formats cannot say so in a stream
PADDING = {"mp3": 1152 + 529, "aac": 2048}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("samples", [24_000, 50_001])
def test_the_end_of_a_stream_is_not_cut(name, samples):
  """Decodes what was sent: its length, and its last 200 ms."""
  rng = np.random.default_rng(0)
  smooth = np.convolve(rng.standard_normal(samples + 63), np.hanning(64), "valid")
  wave_A = (0.2 * smooth / np.abs(smooth).max()).astype(np.float32)
  one = encoder(name)
  parts = [one.push(wave_A[i : i + 9_000]) for i in range(0, samples, 9_000)]
  assert len(parts[0]) > 0.4 * len(parts[1]), "the first packet does not wait for the second"
  found_A = decoded(name, b"".join([*parts, one.finish()]))
  delay = DELAYS.get(name, 0)
  if name in DELAYS:
    assert samples + delay <= len(found_A) <= samples + delay + PADDING[name]
  else:
    assert len(found_A) == samples
  tail_A = found_A[delay + samples - 4_800 : delay + samples]
  assert np.corrcoef(tail_A, wave_A[-4_800:])[0, 1] > (0.9 if name in ("mp3", "aac", "opus") else 0.9999)


def test_a_whole_wav_says_how_long_it_is():
  data = encode("wav", tone(0, 2_400))
  assert int.from_bytes(data[40:44], "little") == 4_800 and len(data) == 44 + 4_800


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_over_the_wire(live, name):
  answer = live.speech(TEXT, response_format=name)
  assert answer.status_code == 200 and answer.headers["content-type"] == FORMATS[name].media_type
  assert answer.headers["x-request-id"] and answer.headers["cache-control"] == "no-cache"
  found_A = decoded(name, answer.content)
  if name in DELAYS:
    assert len(found_A) >= 3 * 4_800 + DELAYS[name]
  else:
    assert len(found_A) == 3 * 4_800
  if name in ("pcm", "wav", "flac"):
    np.testing.assert_allclose(found_A, expected(3), atol=1e-4)


def test_mp3_is_the_default_and_a_wav_stream_has_open_sizes(live):
  assert live.speech().headers["content-type"] == "audio/mpeg"
  data = live.speech(response_format="wav").content
  assert data[4:8] == data[40:44] == b"\xff\xff\xff\xff"


def test_server_sent_events(live):
  answer = live.speech(TEXT, stream_format="sse", response_format="pcm")
  assert answer.headers["content-type"].startswith("text/event-stream")
  lines = [line for line in answer.text.split("\n") if line]
  assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
  events = [json.loads(line[6:]) for line in lines[:-1]]
  assert [e["type"] for e in events] == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
  audio = b"".join(base64.b64decode(e["audio"]) for e in events[:-1])
  assert audio == pcm16(expected(3)).tobytes()
  assert events[-1]["usage"] == {"input_tokens": 9, "output_tokens": 15, "total_tokens": 24}


def test_options_reach_the_engine(live):
  live.engine.given.clear()
  more = {"instructions": "say it happily", "seed": 7, "schedule": "lowest", "speed": 1.5, "voice": {"id": "anna"}}
  answer = live.speech(TEXT, response_format="pcm", unknown_field=1, **more)
  given = live.engine.given[-1]
  assert answer.content == pcm16(expected(3, seed=7)).tobytes()
  assert (given["instruction"], given["seed"], given["schedule"], given["speed"]) == (
    "say it happily", 7, "lowest", 1.5
  )  # fmt: skip
  for name in ("alloy", "cedar", "default", None):
    assert live.speech(voice=name).status_code == 200
  refused = live.speech(flow_steps=4)  # this engine takes no such option
  assert refused.status_code == 400 and refused.json()["error"]["param"] == "flow_steps"


@pytest.mark.parametrize(("speed", "engine_speed"), [(0.25, 0.5), (0.5, 0.5), (2, 2.0), (3.3, 2.0), (4, 2.0)])
def test_speeds_beyond_the_engines_are_stretched(live, speed, engine_speed):
  """The fake engine takes no notice of its speed, so what is left is seen alone."""
  found_A = decoded("pcm", live.speech(TEXT, speed=speed, response_format="pcm").content)
  assert live.engine.given[-1]["speed"] == engine_speed
  assert len(found_A) == round(3 * 4_800 * engine_speed / speed)
  assert 0.8 < np.std(found_A) / np.std(expected(3)) < 1.1


@pytest.mark.parametrize("speed", [0.5, 0.83, 1.5, 2.0])
def test_a_stretched_stream_keeps_its_pitch_and_does_not_depend_on_its_pieces(speed):
  t = np.arange(50_001) / RATE
  wave_A = (0.3 * np.sin(2 * np.pi * 220 * t) + 0.1 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
  pieces, whole = Stretch(speed), Stretch(speed)
  found_A = np.concatenate([*(pieces.push(wave_A[i : i + 7_000]) for i in range(0, 50_001, 7_000)), pieces.finish()])
  np.testing.assert_array_equal(found_A, np.concatenate([whole.push(wave_A), whole.finish()]))
  assert len(found_A) == round(50_001 / speed)
  spectrum = np.abs(np.fft.rfft(found_A[2_000:18_384] * np.hanning(16_384)))
  assert abs(np.argmax(spectrum) * RATE / 16_384 - 220) < 1.5
  assert abs(np.std(found_A[2_000:-2_000]) / np.std(wave_A) - 1) < 0.01
  assert np.max(np.abs(np.diff(found_A[:-2_000]))) < 1.5 * np.max(np.abs(np.diff(wave_A))), "no clicks"


def reference(seconds=1.0, name="wav"):
  return encode(name, tone(1, int(RATE * seconds)))


@pytest.mark.parametrize("shape", ["data:audio/wav;base64,{}", "{}"])
def test_a_voice_from_the_request_itself(live, shape):
  live.engine.given.clear()
  ref = shape.format(base64.b64encode(reference()).decode())
  assert live.speech(ref_audio=ref, ref_text="hello there").status_code == 200
  assert live.engine.given[-1]["voice"].transcript == "hello there"


@pytest.mark.parametrize(
  ("body", "status", "param", "code"),
  [
    ({}, 400, "input", "invalid_value"),
    ({"input": ""}, 400, "input", "invalid_text"),
    ({"input": "。！"}, 400, None, "invalid_text"),
    ({"input": 7}, 400, "input", "invalid_value"),
    ({"input": "x" * 4097}, 400, "input", "text_too_long"),
    ({"input": "Hi.", "speed": 4.01}, 400, "speed", "invalid_value"),
    ({"input": "Hi.", "speed": "nan"}, 400, "speed", "invalid_value"),
    ({"input": "Hi.", "response_format": "mp9"}, 400, "response_format", "invalid_value"),
    ({"input": "Hi.", "seed": -1}, 400, "seed", "invalid_value"),
    ({"input": "Hi.", "schedule": "x"}, 400, "schedule", "invalid_value"),
    ({"input": "Hi.", "model": "gpt-9"}, 404, "model", "model_not_found"),
    ({"input": "Hi.", "voice": "nobody"}, 404, "voice", "voice_not_found"),
    ({"input": "Hi.", "voice": "../../etc/passwd"}, 404, "voice", "voice_not_found"),
    ({"input": "Hi.", "voice": "anna(2)+anna"}, 400, "voice", "invalid_mix"),
    ({"input": "Hi.", "ref_audio": "not base64!"}, 400, "ref_audio", "invalid_audio"),
    ({"input": "Hi.", "ref_audio": "data:audio/wav;base64,QUJD"}, 400, None, "invalid_audio"),
    ({"input": "Hi.", "ref_audio": "file:///etc/passwd"}, 403, "ref_audio", "files_closed"),
    ({"input": "Hi.", "ref_audio": "http://127.0.0.1:9/a.wav"}, 403, "ref_audio", "urls_closed"),
    ([], 400, None, "invalid_value"),
  ],
)
def test_what_is_wrong_has_a_status_before_any_audio(live, body, status, param, code):
  answer = live.client.post("/v1/audio/speech", json=body)
  error = answer.json()["error"]
  assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
  kind = "permission_error" if status == 403 else "invalid_request_error"
  assert set(error) == {"message", "type", "param", "code"} and error["type"] == kind
  assert live.speech().status_code == 200


def test_an_error_before_the_first_packet_is_a_status_and_one_after_it_cuts_the_line(live):
  live.engine.error = RuntimeError("secret detail")
  answer = live.speech(TEXT)
  assert answer.status_code == 500 and "secret" not in answer.text
  live.engine.error = EngineError("the engine lost its state")
  assert live.speech(TEXT).status_code == 503
  before = live.settled()
  live.engine.pause = 0.05
  try:
    for sse in (False, True):
      body = {"input": TEXT, "response_format": "pcm", "stream_format": "sse" if sse else "audio"}
      with live.client.stream("POST", "/v1/audio/speech", json=body) as answer:
        parts = answer.iter_bytes()
        assert answer.status_code == 200 and next(parts)
        live.engine.error = RuntimeError("late")
        if sse:
          assert b"speech.audio.error" in b"".join(parts)
        else:
          with pytest.raises(Exception, match="peer closed"):
            b"".join(parts)
  finally:
    live.engine.pause = 0.0
  after = live.settled()
  assert after["failed"] == before["failed"] + 2
  assert live.speech(TEXT).status_code == 200


def test_a_client_who_leaves_ends_its_request(live):
  before, cancelled = live.settled(), live.engine.cancelled
  live.engine.pause = 0.1
  try:
    with live.client.stream("POST", "/v1/audio/speech", json={"input": TEXT * 20}) as answer:
      parts = answer.iter_bytes()
      next(parts)
    after = live.settled(2.0)
  finally:
    live.engine.pause = 0.0
  assert after["cancelled"] == before["cancelled"] + 1 and live.engine.cancelled == cancelled + 1


def test_a_full_engine_refuses_at_once():
  body = {"input": TEXT * 40, "response_format": "pcm"}
  with serving(lambda: FakeEngine(slots=1, queue=1, pause=0.05)) as live:
    with live.client.stream("POST", "/v1/audio/speech", json=body) as first:
      parts = first.iter_bytes()
      next(parts)
      waiting = threading.Thread(target=live.speech, args=("Hi.",))
      waiting.start()
      end = time.monotonic() + 5
      while not live.engine.waiting:
        assert time.monotonic() < end
        time.sleep(0.01)
      start = time.perf_counter()
      answer = live.speech()
      took = time.perf_counter() - start
      assert answer.status_code == 429 and answer.headers["retry-after"] == "2"
      assert answer.json()["error"]["type"] == "rate_limit_error"
      print(f"refused in {1000 * took:.1f} ms")
    waiting.join()
    totals = live.settled()
    assert (totals["refused"], totals["cancelled"], totals["done"]) == (1, 1, 1)


def test_a_batch(live):
  items = [
    {"input": TEXT},
    {"input": "。"},
    {"input": "Hi.", "response_format": "mp3", "seed": 3},
    {"input": "Hi.", "voice": "x"},
  ]
  answer = live.client.post("/v1/audio/speech/batch", json={"items": items, "response_format": "wav"}).json()
  assert (answer["total"], answer["succeeded"], answer["failed"]) == (4, 2, 2)
  assert [r["status"] for r in answer["results"]] == ["success", "error", "success", "error"]
  assert [r["index"] for r in answer["results"]] == [0, 1, 2, 3]
  first, third = answer["results"][0], answer["results"][2]
  assert first["media_type"] == "audio/wav" and third["media_type"] == "audio/mpeg"
  assert len(decoded("wav", base64.b64decode(first["audio_data"]))) == 3 * 4_800
  assert first["usage"]["total_tokens"] == 24
  for wrong in ({"items": []}, {"items": [{"input": "Hi."}] * 33}, {}):
    assert live.client.post("/v1/audio/speech/batch", json=wrong).status_code == 400


def test_a_conversion(live):
  files = {"audio": ("a.wav", reference(), "audio/wav")}
  answer = live.client.post("/v1/audio/conversions", files=files, data={"voice": "anna", "seed": "2"})
  assert answer.status_code == 200 and answer.content == encode("wav", tone(2, 12_000))
  mp3 = live.client.post("/v1/audio/conversions", files=files, data={"response_format": "mp3"})
  assert mp3.headers["content-type"] == "audio/mpeg"
  assert live.client.post("/v1/audio/conversions", data={"voice": "anna"}).status_code == 415
  assert live.client.post("/v1/audio/conversions", files=files, data={"seed": "x"}).status_code == 400
  assert live.client.post("/v1/audio/conversions", files={"audio": ("a", b"nonsense")}).status_code == 400


def test_models_and_voices_in_the_shapes_that_clients_read(live):
  models = live.client.get("/v1/models").json()
  assert models["object"] == "list" and models["data"][0]["id"] == "cosyjax"
  assert live.client.get("/v1/models/tts-1").json()["id"] == "tts-1"
  assert live.client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"
  assert live.client.get("/audio/models").json()["models"][0]["id"] == "cosyjax"
  voices = live.client.get("/audio/voices").json()["voices"]
  assert {"id": "anna", "name": "anna"}.items() <= voices[0].items()
  assert live.client.get("/v1/audio/voices", params={"legacy": "true"}).json()["voices"] == ["anna"]
  assert live.client.get("/v1").status_code == 200


def test_a_model_at_another_rate_is_heard_at_the_wires():
  """PCM of OpenAI's API is 24 kHz, whatever the model makes."""
  import dataclasses

  class Slow(FakeEngine):
    def stream(self, *args, **options):
      stream = super().stream(*args, **options)
      packets = stream._packets
      stream._packets = (dataclasses.replace(p, rate=16_000) async for p in packets)
      return stream

  with serving(Slow) as live:
    found_A = decoded("pcm", live.speech(TEXT, response_format="pcm").content)
    assert abs(len(found_A) - 3 * 4_800 * 1.5) <= 2
    spectrum = np.abs(np.fft.rfft(found_A[:7_000] * np.hanning(7_000)))
    assert abs(np.argmax(spectrum) * RATE / 7_000 - 200 / 1.5) < 8  # a tone of 200 Hz, taken to be of 16 kHz
