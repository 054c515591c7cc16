"""Real clients against a server on loopback: OpenAI's, LiveKit's, Pipecat's, and what chat front ends send.

Needs `pip install -e '.[serve-tests]'`. Wyoming's own client is in test_serving_wyoming.
"""

import asyncio
import time

import numpy as np
import pytest

from cosyjax.serving.encoders import FORMATS, pcm16
from cosyjax.serving.settings import Keys, Settings
from tests.serving_fake import FakeEngine, serving, tone
from tests.test_serving_speech import decoded

pytestmark = pytest.mark.long

TEXT = "One two three four five six seven eight nine."  # three packets
KEY = "a-key-of-enough-letters"
EXPECTED = np.concatenate([tone(n, 4_800) for n in range(3)])


@pytest.fixture(scope="module")
def live():
  with serving(FakeEngine, Settings(keys=Keys([KEY]))) as live:
    live.client.headers["authorization"] = f"Bearer {KEY}"
    yield live


@pytest.fixture(scope="module")
def client(live):
  import openai

  with openai.OpenAI(base_url=live.url + "/v1", api_key=KEY, max_retries=0) as client:
    yield client


@pytest.mark.parametrize("name", FORMATS)
def test_openai_in_every_format(client, name):
  answer = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format=name)
  found_A = decoded(name, answer.content)
  assert len(found_A) >= len(EXPECTED)
  if name in ("pcm", "wav", "flac"):
    np.testing.assert_allclose(found_A, EXPECTED, atol=1e-4)


def test_openai_streams_while_it_is_made(live, client, tmp_path):
  live.engine.pause = 0.2
  try:
    start, times, data = time.perf_counter(), [], b""
    with client.audio.speech.with_streaming_response.create(
      model="gpt-4o-mini-tts",
      voice={"id": "anna"},
      input=TEXT,
      response_format="pcm",
      instructions="happily",
      speed=1.5,
    ) as answer:
      for part in answer.iter_bytes():
        times.append(time.perf_counter() - start)
        data += part
    assert data == pcm16(EXPECTED).tobytes() and times[0] < times[-1] - 0.3
    assert live.engine.given[-1]["instruction"] == "happily" and live.engine.given[-1]["speed"] == 1.5
  finally:
    live.engine.pause = 0.0
  with client.audio.speech.with_streaming_response.create(model="tts-1", voice="anna", input=TEXT) as answer:
    answer.stream_to_file(tmp_path / "speech.mp3")
  assert len(decoded("mp3", (tmp_path / "speech.mp3").read_bytes())) >= len(EXPECTED)


def test_openai_understands_the_errors(live, client):
  import openai

  ask = {"model": "tts-1", "voice": "alloy", "input": TEXT}
  for wrong, kind, code in (
    ({"input": ""}, openai.BadRequestError, "invalid_text"),
    ({"input": "x" * 4097}, openai.BadRequestError, "text_too_long"),
    ({"response_format": "mp9"}, openai.BadRequestError, "invalid_value"),
    ({"speed": 9.0}, openai.BadRequestError, "invalid_value"),
    ({"model": "none"}, openai.NotFoundError, "model_not_found"),
    ({"voice": "nobody"}, openai.NotFoundError, "voice_not_found"),
  ):
    with pytest.raises(kind) as raised:
      client.audio.speech.create(**ask | wrong)
    assert raised.value.code == code and raised.value.request_id and raised.value.body["message"]
  with pytest.raises(openai.AuthenticationError):
    client.with_options(api_key="wrong").audio.speech.create(**ask)
  live.engine.error = RuntimeError("inside")
  with pytest.raises(openai.InternalServerError):
    client.audio.speech.create(**ask)
  live.engine.queue, queue = -live.engine.slots, live.engine.queue
  try:
    with pytest.raises(openai.RateLimitError):
      client.audio.speech.create(**ask)
  finally:
    live.engine.queue = queue
  assert "cosyjax" in [m.id for m in client.models.list()] and client.models.retrieve("cosyjax").id == "cosyjax"


@pytest.mark.parametrize(
  "model", ["cosyjax", "gpt-4o-mini-tts", "tts-1"]
)  # events for the first two, bytes for the last
@pytest.mark.parametrize("form", ["mp3", "wav", "pcm", "opus"])
def test_livekit(live, model, form):
  from livekit.plugins import openai

  async def run():
    tts = openai.TTS(model=model, voice="ash", base_url=live.url + "/v1", api_key=KEY, response_format=form)
    frames = [event.frame async for event in tts.synthesize(TEXT)]
    await tts.aclose()
    return frames

  frames = asyncio.run(run())
  assert {f.sample_rate for f in frames} == {24_000} and {f.num_channels for f in frames} == {1}
  assert sum(f.samples_per_channel for f in frames) / 24_000 == pytest.approx(0.6, abs=0.1)


def test_livekit_is_told_of_errors_and_may_interrupt(live):
  from livekit.agents import APIConnectOptions, APIStatusError
  from livekit.plugins import openai

  async def run():
    tts = openai.TTS(model="cosyjax", voice="nobody", base_url=live.url + "/v1", api_key=KEY)
    with pytest.raises(APIStatusError) as raised:
      async for _ in tts.synthesize(TEXT, conn_options=APIConnectOptions(max_retry=0)):
        pass
    assert raised.value.status_code == 404
    tts.update_options(voice="anna")
    stream = tts.synthesize(TEXT * 30)
    async for _ in stream:
      break
    await stream.aclose()
    await tts.aclose()

  before = live.settled()
  live.engine.pause = 0.05
  try:
    asyncio.run(run())
    after = live.settled(3.0)
  finally:
    live.engine.pause = 0.0
  assert after["cancelled"] == before["cancelled"] + 1 and after["refused"] == before["refused"] + 1


def test_pipecat(live):
  from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame
  from pipecat.services.openai.tts import OpenAITTSService

  async def run():
    settings = OpenAITTSService.Settings(voice="alloy", instructions="happily")
    service = OpenAITTSService(api_key=KEY, base_url=live.url + "/v1", sample_rate=24_000, settings=settings)
    service._sample_rate = 24_000  # a pipeline's start would set it
    frames = [frame async for frame in service.run_tts(TEXT, "one")]
    assert not any(isinstance(f, ErrorFrame) for f in frames)
    audio = b"".join(f.audio for f in frames if isinstance(f, TTSAudioRawFrame))
    speaking = service.run_tts(TEXT * 30, "two")  # and is interrupted
    async for frame in speaking:
      if isinstance(frame, TTSAudioRawFrame):
        break
    await speaking.aclose()
    await service._client.close()
    return audio

  before = live.settled()
  live.engine.pause = 0.02
  try:
    assert asyncio.run(run()) == pcm16(EXPECTED).tobytes()
    assert live.settled(3.0)["cancelled"] == before["cancelled"] + 1
  finally:
    live.engine.pause = 0.0


def test_chat_front_ends(live):
  """Open WebUI: lists from /audio/models and /audio/voices, reads the whole body. SillyTavern: its own base path."""
  for base in ("", "/v1"):
    models = live.client.get(f"{base}/audio/models").json()["models"]
    voices = live.client.get(f"{base}/audio/voices").json()["voices"]
    assert all("id" in m for m in models) and all({"id", "name"} <= set(v) for v in voices)
  body = {"model": "tts-1", "input": TEXT, "voice": "alloy", "some_parameter_of_a_user": 1}
  whole = live.client.post("/v1/audio/speech", json=body)
  assert whole.status_code == 200 and len(decoded("mp3", whole.content)) >= len(EXPECTED)
  failed = live.client.post("/v1/audio/speech", json=body | {"input": "。"})
  assert failed.status_code == 400 and failed.json()["error"]["message"]
  silly = {"input": TEXT, "voice": "nova", "response_format": "mp3", "model": "tts-1", "speed": 1}
  assert live.client.post("/v1/audio/speech", json=silly).headers["content-type"] == "audio/mpeg"


def test_schemathesis_finds_no_fault_of_the_server(live):
  """Generated requests for every operation of the description: no 500, and no answer that is not described."""
  import schemathesis
  from hypothesis import HealthCheck, Phase, settings
  from schemathesis.checks import not_a_server_error
  from schemathesis.specs.openapi.checks import status_code_conformance

  schema = schemathesis.openapi.from_url(live.url + "/openapi.json")
  checked, statuses = 0, set()
  for result in schema.get_all_operations():
    operation = result.ok()

    @settings(
      max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None,
      derandomize=True,
    )  # fmt: skip
    @__import__("hypothesis").given(case=operation.as_strategy())
    def run(case):
      nonlocal checked
      answer = case.call(headers={"Authorization": f"Bearer {KEY}"})
      checked, _ = checked + 1, statuses.add(answer.status_code)
      case.validate_response(answer, checks=[not_a_server_error, status_code_conformance])

    run()
  print(f"\n{checked} requests, statuses {sorted(statuses)}")
  assert checked > 300 and 200 in statuses and live.speech(TEXT).status_code == 200
