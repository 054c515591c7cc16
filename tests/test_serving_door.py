"""Who may come in, with how much; health, metrics, logs and the drain."""

import asyncio
import http.client
import io
import json
import logging
import socket
import threading
import time

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from cosyjax.errors import ConfigError
from cosyjax.serving.server import JsonLines
from cosyjax.serving.settings import Keys, Limits, Settings, check_open
from tests.serving_fake import FakeEngine, serving

KEY = "a-key-of-enough-letters"
TEXT = "One two three four five six seven eight nine."


@pytest.fixture(scope="module")
def live():
  settings = Settings(
    keys=Keys([KEY, "another-key-of-letters"]),
    origins=("https://page.example",),
    limits=Limits(body=300_000, body_seconds=0.5, connections=6),
  )
  with serving(FakeEngine, settings) as live:
    live.client.headers["authorization"] = f"Bearer {KEY}"
    yield live


def raw(live, data: bytes, seconds: float = 5.0) -> bytes:
  """Sends bytes as they are, and reads until the server closes."""
  with socket.create_connection(("127.0.0.1", live.port), seconds) as line:
    line.sendall(data)
    parts = []
    while part := line.recv(65536):
      parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({}, 401),
    ({"authorization": "Bearer wrong"}, 401),
    ({"authorization": f"Basic {KEY}"}, 401),
    ({"authorization": f"Bearer {KEY}x"}, 401),
    ({"authorization": f"bearer {KEY}"}, 200),
    ({"authorization": "Bearer another-key-of-letters"}, 200),
    ({"x-api-key": KEY}, 200),
    ({"api-key": KEY}, 200),
  ],
)
def test_keys(live, headers, status):
  import httpx

  answer = httpx.post(f"{live.url}/v1/audio/speech", json={"input": TEXT}, headers=headers, trust_env=False)
  assert answer.status_code == status
  if status == 401:
    error = answer.json()["error"]
    assert error["code"] == "invalid_api_key" and error["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer" and KEY not in answer.text
  for path, expected in (("/health", 200), ("/ready", 200), ("/openapi.json", 200), ("/", 200), ("/metrics", status)):
    assert httpx.get(live.url + path, headers=headers, trust_env=False).status_code == expected, path


def test_keys_of_sockets(live):
  with pytest.raises(InvalidStatus) as refused:
    connect(live.socket_url)
  assert refused.value.response.status_code == 401
  assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
  connect(live.socket_url, additional_headers={"authorization": f"Bearer {KEY}"}).close()
  with connect(live.socket_url, subprotocols=["cosyjax", f"cosyjax.key.{KEY}"]) as line:
    assert line.subprotocol == "cosyjax"  # the key does not come back


def test_key_files(tmp_path):
  path = tmp_path / "keys"
  path.write_text(f"# ours\n\n{KEY}\n")
  keys = Keys.read(path)
  assert keys.admit(KEY) and not keys.admit("") and not keys.admit(KEY[:-1]) and not keys.admit("\ud800")
  for text in ("", "# none\n", "short\n"):
    path.write_text(text)
    with pytest.raises(ConfigError):
      Keys.read(path)
  with pytest.raises(ConfigError, match="cannot be read"):
    Keys.read(tmp_path / "none")


def test_other_machines_need_keys():
  for host in ("0.0.0.0", "::", "192.168.1.7", "example.com"):
    with pytest.raises(ConfigError, match="--api-key-file"):
      check_open(host, None, no_auth=False)
    check_open(host, None, no_auth=True)
    check_open(host, Keys([KEY]), no_auth=False)
  for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
    check_open(host, None, no_auth=False)


def test_other_names_and_other_pages_are_refused(live):
  for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
    answer = live.client.get("/health", headers={"host": host})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_refused", host
  for host in ("localhost:1", "[::1]:8000", "127.0.0.1"):
    assert live.client.get("/health", headers={"host": host}).status_code == 200
  for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "https://page.example.evil"):
    answer = live.client.post("/v1/audio/speech", json={"input": TEXT}, headers={"origin": origin})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    with pytest.raises(InvalidStatus):
      connect(live.socket_url, origin=origin, additional_headers={"authorization": f"Bearer {KEY}"})
  own = live.client.post("/v1/audio/speech", json={"input": TEXT}, headers={"origin": live.url})
  assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
  asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
  granted = live.client.options("/v1/audio/speech", headers={"origin": "https://page.example"} | asks)
  assert granted.status_code == 204 and granted.headers["access-control-allow-origin"] == "https://page.example"
  assert live.client.options("/v1/audio/speech", headers={"origin": "https://evil.example"} | asks).status_code == 403
  other = live.client.post("/v1/audio/speech", json={"input": TEXT}, headers={"origin": "https://page.example"})
  assert other.headers["access-control-allow-origin"] == "https://page.example"


HEAD = f"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"


def test_bodies_that_are_too_large_late_or_broken(live):
  big = live.client.post("/v1/audio/speech", content=b"x" * 10_000_000)
  assert big.status_code == 413 and big.json()["error"]["code"] == "too_large"

  def endless():
    for _ in range(100):
      yield b"x" * 100_000

  assert live.client.post("/v1/audio/speech", content=endless()).status_code == 413
  start = time.perf_counter()
  late = raw(live, HEAD.encode() + b"Content-Length: 100\r\n\r\n{")
  assert b" 408 " in late.split(b"\r\n")[0] and time.perf_counter() - start < 7
  for body in (
    b'{"input": "cut',
    b'{"input": "\xff\xfe"}',
    b"",
    b"[" * 100_000,
    b'{"input": NaN}',
    b"nul",
    b"1" * 9_000,
  ):
    answer = live.client.post("/v1/audio/speech", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"], body[:20]
  lone = live.client.post("/v1/audio/speech", content=b'{"input": "a", "voice": "\\ud800"}')
  assert lone.status_code == 404
  packed = live.client.post("/v1/audio/speech", content=b"x", headers={"content-encoding": "gzip"})
  assert packed.status_code == 415
  assert b" 400 " in raw(live, HEAD.encode() + b"X-Long: " + b"a" * 70_000 + b"\r\n\r\n").split(b"\r\n")[0]
  assert live.speech(TEXT).status_code == 200


def test_what_is_not_there(live):
  for method, path, status in (
    ("GET", "/nothing", 404), ("GET", "/v1/audio/speech", 405), ("GET", "/page/none.js", 404),
    ("GET", "/page/..%2fapp.py", 404), ("GET", "/page/%2e%2e/app.py", 404), ("DELETE", "/v1/models", 405),
  ):  # fmt: skip
    answer = live.client.request(method, path)
    assert answer.status_code == status and answer.json()["error"]["message"], path


def test_too_many_connections_are_told_so(live):
  lines = []
  try:
    for _ in range(6):
      lines.append(connect(live.socket_url, additional_headers={"authorization": f"Bearer {KEY}"}))
    answer = live.speech(TEXT)
    assert answer.status_code == 429 and answer.headers["retry-after"]
    assert live.client.get("/health").status_code == 200
  finally:
    for line in lines:
      line.close()
  time.sleep(0.1)
  assert live.speech(TEXT).status_code == 200


def test_metrics(live):
  before = live.settled()
  assert live.speech(TEXT, response_format="pcm").status_code == 200
  live.settled()
  text = live.client.get("/metrics").text
  for line in ('cosyjax_requests_total{outcome="done",route="speech"}', "cosyjax_first_packet_seconds_count",
               "cosyjax_packet_gap_seconds_bucket", 'cosyjax_slots{state="free"} 4.0', "cosyjax_queue 0.0",
               "cosyjax_audio_seconds_total", "cosyjax_compilations_total 0.0", "cosyjax_ready 1.0",
               "cosyjax_unread_bytes 0.0"):  # fmt: skip
    assert line in text, line
  after = live.settled()
  assert after["submitted"] == before["submitted"] + 1 and after["done"] == before["done"] + 1


def lines_of(run, **settings):
  """Log lines of a server."""
  stream, logger = io.StringIO(), logging.getLogger("cosyjax.serving")
  handler = logging.StreamHandler(stream)
  handler.setFormatter(JsonLines())
  logger.addHandler(handler)
  level = logger.level
  logger.setLevel(logging.INFO)
  try:
    with serving(FakeEngine, Settings(**settings)) as live:
      run(live)
      live.settled()
      time.sleep(0.05)
  finally:
    logger.removeHandler(handler)
    logger.setLevel(level)
  return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_logs_have_request_ids_and_no_texts():
  def run(live):
    answer = live.client.post("/v1/audio/speech", json={"input": "A secret word."}, headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    live.client.post("/v1/audio/speech", json={"input": "secret", "voice": "secret"}, headers={"x-request-id": "a b"})
    with connect(live.socket_url) as line:
      line.send(json.dumps({"type": "session.config"}))
      line.send(json.dumps({"type": "input.text", "text": "secret words"}))
      line.send(json.dumps({"type": "session.close"}))
      for _ in line:
        pass

  lines = lines_of(run)
  first = next(line for line in lines if line.get("id") == "abc-1")
  assert (
    first["status"] == 200 and first["outcome"] == "done" and first["chars"] == 14 and first["audio_seconds"] == 0.2
  )
  assert "secret" not in json.dumps(lines) and not any(line.get("id") == "a b" for line in lines)
  assert "secret" in json.dumps(lines_of(run, log_texts=True))


def test_a_drain_finishes_what_runs_and_refuses_what_is_new():
  with serving(lambda: FakeEngine(pause=0.1)) as live:
    body = {"input": TEXT * 4, "response_format": "pcm"}
    with live.client.stream("POST", "/v1/audio/speech", json=body) as answer:
      parts = answer.iter_bytes()
      data = next(parts)
      drained = asyncio.run_coroutine_threadsafe(live.service.drain(), live.loop)
      time.sleep(0.05)
      line = http.client.HTTPConnection("127.0.0.1", live.port, timeout=5)
      line.request("GET", "/ready")
      ready = line.getresponse()
      assert ready.status == 503 and json.load(ready) == {"ready": False, "engine": "draining"}
      line.request("POST", "/v1/audio/speech", json.dumps({"input": TEXT}))
      refused = line.getresponse()
      assert refused.status == 503 and refused.getheader("retry-after")
      data += b"".join(parts)
    assert drained.result(5) is True
    assert len(data) == 2 * 4_800 * 11


def test_a_drain_has_an_end():
  with serving(lambda: FakeEngine(pause=0.2), Settings(limits=Limits(drain=0.3))) as live:
    with live.client.stream("POST", "/v1/audio/speech", json={"input": TEXT * 40, "response_format": "pcm"}) as answer:
      parts = answer.iter_bytes()
      next(parts)
      start = time.monotonic()
      drained = asyncio.run_coroutine_threadsafe(live.service.drain(), live.loop)
      assert drained.result(5) is False and time.monotonic() - start < 2
    assert live.settled()["cancelled"] == 1


def test_a_dead_engine_is_seen_within_two_seconds_and_made_anew():
  made = []

  def make():
    made.append(FakeEngine(pause=0.02))
    return made[-1]

  held = threading.Event()
  with serving(make, warm_up=lambda engine: len(made) < 2 or held.wait(10)) as live:
    body = {"input": TEXT * 80, "response_format": "pcm"}
    with live.client.stream("POST", "/v1/audio/speech", json=body) as answer:
      parts = answer.iter_bytes()
      next(parts)
      start = time.monotonic()
      made[0].alive = False
      while live.client.get("/ready").status_code == 200:
        assert time.monotonic() - start < 2
      with pytest.raises(Exception, match="peer closed"):
        list(parts)
      assert time.monotonic() - start < 2
    assert live.speech(TEXT).status_code == 503
    held.set()
    while live.client.get("/ready").status_code == 503:
      assert time.monotonic() - start < 10
      time.sleep(0.02)
    assert live.speech(TEXT).status_code == 200
    totals = live.service.meters.totals()
    assert (totals["failed"], totals["refused"], totals["done"]) == (1, 1, 1)


def test_a_server_that_starts_says_so():
  held = threading.Event()
  with serving(FakeEngine, warm_up=lambda engine: held.wait(10), wait=0) as live:
    end = time.monotonic() + 5
    while True:
      try:
        assert live.client.get("/ready").json() == {"ready": False, "engine": "starting"}
        break
      except OSError:
        assert time.monotonic() < end
    assert live.client.get("/health").status_code == 200
    assert live.speech(TEXT).status_code == 503
    held.set()
    while live.client.get("/ready").status_code != 200:
      assert time.monotonic() < end + 5
    assert live.speech(TEXT).status_code == 200
