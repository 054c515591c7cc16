"""The server under load, and what the wire costs: minutes each. `LOAD_SECONDS` and `LOAD_CLIENTS` change the size."""

import asyncio
import json
import os
import random
import statistics
import time

import httpx
import numpy as np
import pytest
import websockets

import cosyjax
from cosyjax.serving.settings import Limits, Settings
from cosyjax.serving.voice_store import VoiceStore
from tests.conftest import ASSETS
from tests.serving_fake import FakeEngine, serving

pytestmark = pytest.mark.long

SECONDS = float(os.environ.get("LOAD_SECONDS", "300"))
CLIENTS = int(os.environ.get("LOAD_CLIENTS", "64"))
SLOTS = 8
TEXTS = [
  "Hello from JAX.",
  "One two three four five six seven.",
  "你好。今天天气很好。",
  "A stream of words, and another one.",
]
SAYS = "希望你以后能够做的比我还好呦。"
WARM = {"prefix": 256, "cache": 512, "seconds": 8.0, "prompt": 4.0, "slowest": 0.5}


@pytest.fixture(scope="module")
def voice(shallow):
  return shallow.voice(ASSETS / "prompt.wav", SAYS)


@pytest.fixture(scope="module", params=["tones", "model"])
def live(request):
  """A server around an engine that costs nothing, and around a model."""
  settings = Settings(limits=Limits(body=2 << 20, stall=600.0))
  if request.param == "tones":
    engine, make, warm = (lambda: FakeEngine(slots=SLOTS, queue=16, pause=0.2)), None, None
  else:
    shallow, voice = request.getfixturevalue("shallow"), request.getfixturevalue("voice")
    make = lambda s: VoiceStore(s, shallow.config, built_in={"anna": voice})
    engine = lambda: cosyjax.Engine(shallow, slots=SLOTS, queue=16, seconds=8.0)
    warm = lambda e: e.warm_up(**WARM)
  with serving(engine, settings, make, warm, wait=1200.0) as live:
    live.client.timeout = 600
    for text in TEXTS:  # what the system and the encoders load when they are first met
      for form in ("mp3", "opus", "wav"):
        assert live.speech(text, response_format=form).status_code == 200
    live.settled(60.0)
    yield live


def resident() -> int:
  """Bytes of memory of this process, server and clients together."""
  with open("/proc/self/statm") as file:  # noqa: PTH123
    return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Crowd:
  """Clients of mixed kinds, a fifth of them leaving at random moments."""

  def __init__(self, live, seconds):
    self.live, self.end, self.random = live, time.monotonic() + seconds, random.Random(0)
    self.first, self.refused, self.answers = [], [], []

  async def client(self, number, http):
    while time.monotonic() < self.end:
      kind = self.random.choice(("audio", "sse", "socket", "audio"))
      leaves = self.random.random() < 0.2
      run = self.socket() if kind == "socket" else self.post(http, kind == "sse")
      try:
        if leaves:
          await asyncio.wait_for(run, self.random.random() * 4)
        else:
          await run
      except (TimeoutError, httpx.HTTPError, OSError, websockets.WebSocketException):
        pass
      await asyncio.sleep(self.random.random() * 0.2)

  async def post(self, http, sse):
    form = self.random.choice(("mp3", "opus", "pcm", "wav"))
    body = {"input": self.random.choice(TEXTS), "response_format": form, "seed": self.random.randrange(1000)}
    start = time.perf_counter()
    async with http.stream(
      "POST", "/v1/audio/speech", json=body | {"stream_format": "sse" if sse else "audio"}
    ) as answer:
      if answer.status_code == 429:
        await answer.aread()
        self.refused.append(time.perf_counter() - start)
        await asyncio.sleep(self.random.random())
        return
      assert answer.status_code == 200, answer.status_code
      async for _ in answer.aiter_bytes():
        if start:
          self.first.append(time.perf_counter() - start)
          start = None
      self.answers.append(form)

  async def socket(self):
    async with websockets.connect(self.live.socket_url) as line:
      await line.send(json.dumps({"type": "session.config"}))
      for word in self.random.choice(TEXTS).split(" "):
        await line.send(json.dumps({"type": "input.text", "text": word + " "}))
      await line.send(json.dumps({"type": "input.done"}))
      async for message in line:
        if isinstance(message, str) and json.loads(message)["type"] == "session.done":
          return

  async def slow(self):
    """Takes 1 kB a second."""
    body = json.dumps({"input": " ".join(TEXTS[:2] * 4), "response_format": "wav"}).encode()
    head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    while time.monotonic() < self.end:
      reader, writer = await asyncio.open_connection("127.0.0.1", self.live.port, limit=1024)
      writer.write(head + body)
      while time.monotonic() < self.end and await reader.read(1000):
        await asyncio.sleep(1.0)
      writer.close()

  async def large(self, http):
    while time.monotonic() < self.end:
      answer = await http.post("/v1/audio/speech", content=b"x" * 10_000_000)
      assert answer.status_code == 413
      await asyncio.sleep(2.0)

  async def run(self, clients):
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=self.live.url, timeout=600, trust_env=False, limits=limits) as http:
      others = [self.slow(), self.slow(), self.large(http)] if clients == CLIENTS else []
      await asyncio.gather(*(self.client(n, http) for n in range(clients)), *others)


def p95(values):
  return sorted(values)[int(0.95 * (len(values) - 1))] if values else float("nan")


def test_many_clients_for_minutes(live):
  from cosyjax.inference.compilation import count_compilations

  half = Crowd(live, SECONDS / 10)
  asyncio.run(half.run(SLOTS // 2))
  live.settled(60.0)
  memory = []
  crowd = Crowd(live, SECONDS)

  async def watched():
    running = asyncio.create_task(crowd.run(CLIENTS))
    while not running.done():
      memory.append((time.monotonic(), resident()))
      await asyncio.sleep(1.0)
    await running

  with count_compilations() as compiled:
    asyncio.run(watched())
    start = time.monotonic()
    totals = live.settled(60.0)
    freed = time.monotonic() - start
  # The crowd has gone: whatever its last requests were, their slots come back.
  middle = memory[0][0] + (memory[-1][0] - memory[0][0]) / 2
  second = [size for at, size in memory if at >= middle]
  quarter = len(second) // 4
  growth = statistics.median(second[-quarter:]) / statistics.median(second[:quarter]) - 1
  print(f"\n{totals}, answers {len(crowd.answers)}, compiled {compiled.count}, freed after {freed:.2f} s")
  print(f"first packet p50/p95: half load {statistics.median(half.first):.3f}/{p95(half.first):.3f} s, "
        f"full load {statistics.median(crowd.first):.3f}/{p95(crowd.first):.3f} s")  # fmt: skip
  print(f"refusals {len(crowd.refused)}: p50 {1000 * statistics.median(crowd.refused or [0]):.1f} ms, "
        f"p95 {1000 * p95(crowd.refused):.1f} ms; memory {second[0] / 1e6:.0f} to {second[-1] / 1e6:.0f} MB, "
        f"second half {100 * growth:+.2f} %")  # fmt: skip
  assert totals["submitted"] == totals["done"] + totals["cancelled"] + totals["failed"] + totals["refused"]
  assert totals["failed"] == 0 and totals["cancelled"] > 0 and totals["done"] > 0
  assert compiled.count == 0
  stats = live.engine.stats()
  assert stats.free_slots == SLOTS and stats.running == stats.waiting == 0 and freed < 1.0
  assert live.service._budget.taken == 0
  assert growth < 0.02


@pytest.mark.parametrize("live", ["model"], indirect=True)
def test_the_wire_costs_little(live, voice):
  """The same requests from Python and over the wire, in turns."""
  text, rounds = " ".join(TEXTS), 12

  def direct(seed):
    start, first, samples = time.perf_counter(), 0.0, 0
    for packet in live.engine.stream(text, voice, seed=seed):
      first = first or time.perf_counter() - start
      samples += len(packet.samples_A)
    return first, samples / (time.perf_counter() - start)

  def wired(seed):
    start, first, size = time.perf_counter(), 0.0, 0
    with live.client.stream(
      "POST", "/v1/audio/speech", json={"input": text, "response_format": "pcm", "seed": seed}
    ) as a:
      for part in a.iter_raw():
        first = first or time.perf_counter() - start
        size += len(part)
    return first, size / 2 / (time.perf_counter() - start)

  direct(0), wired(0)
  found = {direct: [], wired: []}
  for seed in range(rounds):
    for run in (direct, wired) if seed % 2 else (wired, direct):
      found[run].append(run(seed))
  first = {run: np.median([f for f, _ in values]) for run, values in found.items()}
  rate = {run: np.median([r for _, r in values]) for run, values in found.items()}
  later, share = first[wired] - first[direct], rate[wired] / rate[direct]
  print(f"\nfirst packet {1000 * first[direct]:.1f} ms from Python, {1000 * later:+.1f} ms over the wire")
  print(f"throughput over the wire {share:.3f} of Python's")
  assert later <= 0.005 and share >= 0.97
