"""Wyoming, with its own client library: describe, whole texts, texts in pieces, and hostile events."""

import asyncio
import contextlib
import socket
import time

import pytest
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

from cosyjax.serving.encoders import pcm16
from cosyjax.serving.settings import Limits, Settings
from tests.serving_fake import FakeEngine, serving, tone


@pytest.fixture(scope="module")
def live():
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  settings = Settings(limits=Limits(text_seconds=1.0, idle_seconds=2.0))
  with serving(FakeEngine, settings, wyoming=("127.0.0.1", port)) as live:
    live.wyoming = port
    yield live


def talk(live, *events, until=AudioStop, pause=0.0):
  """Sends events, and returns those that come back up to one of a kind."""

  async def run():
    async with AsyncTcpClient("127.0.0.1", live.wyoming) as client:
      for event in events:
        await client.write_event(event.event())
        await asyncio.sleep(pause)
      found = []
      while True:
        found.append(await asyncio.wait_for(client.read_event(), 5))
        if found[-1] is None or until.is_type(found[-1].type):
          return found

  return asyncio.run(run())


def sound(events):
  return b"".join(AudioChunk.from_event(e).audio for e in events if AudioChunk.is_type(e.type))


def test_it_describes_itself(live):
  [event] = talk(live, Describe(), until=Info)
  [program] = Info.from_event(event).tts
  assert program.supports_synthesize_streaming and [v.name for v in program.voices] == ["anna"] and program.installed
  assert Pong.from_event(talk(live, Ping(text="x"), until=Pong)[0]).text == "x"


def test_a_whole_text(live):
  events = talk(live, Synthesize("One two three four.", voice=SynthesizeVoice(name="anna")))
  start = AudioStart.from_event(events[0])
  assert (start.rate, start.width, start.channels) == (24_000, 2, 1)
  assert sound(events) == pcm16(tone(0, 4_800)).tobytes() + pcm16(tone(1, 4_800)).tobytes()
  assert sound(talk(live, Synthesize("<speak>One &amp; <b>two</b></speak>", text_format="ssml")))


def test_a_text_in_pieces_that_are_no_words(live):
  pieces = [
    SynthesizeStart(),
    *map(SynthesizeChunk, ["Hel", "lo wo", "rld"]),
    Synthesize("Hello world"),
    SynthesizeStop(),
  ]
  events = talk(live, *pieces, until=SynthesizeStopped, pause=0.02)
  kinds = [e.type for e in events]
  assert kinds[0] == "audio-start" and kinds[-2:] == ["audio-stop", "synthesize-stopped"]
  assert kinds.count("audio-start") == 1 and len(sound(events)) == 3 * 9_600
  assert [e.type for e in talk(live, SynthesizeStart(), SynthesizeStop(), until=SynthesizeStopped)] == [
    "synthesize-stopped"
  ]


def test_errors_are_events(live):
  [event] = talk(live, Synthesize("Hi.", voice=SynthesizeVoice(name="nobody")), until=Error)
  assert Error.from_event(event).code == "voice_not_found"
  [event] = talk(live, Synthesize("。"), until=Error)
  assert Error.from_event(event).code == "invalid_text"
  events = talk(live, SynthesizeStart(), SynthesizeChunk("x" * (129 << 10)), until=Error)
  assert Error.from_event(events[-1]).code == "text_too_long"


@pytest.mark.parametrize(
  "data",
  [
    b"nonsense\n",
    b"[]\n",
    b'{"type": 7}\n',
    b'{"type": "synthesize", "data_length": 1000000000000}\n',
    b'{"type": "synthesize", "data_length": -1}\n',
    b'{"type": "synthesize", "payload_length": "many"}\n',
    b'{"type": "synthesize", "data_length": 3}\n[1]',
    b'{"type": "synthesize"' + b" " * 100_000 + b"}\n",
    b"[" * 60_000 + b"\n",
  ],
)
def test_what_is_no_event_ends_the_connection(live, data):
  with socket.create_connection(("127.0.0.1", live.wyoming), 5) as line:
    line.sendall(data)
    with contextlib.suppress(ConnectionResetError):
      assert line.recv(1) == b""
  assert sound(talk(live, Synthesize("Hi.")))


def test_a_client_who_goes_or_is_silent(live):
  live.engine.pause = 0.1
  try:
    before = live.settled()

    async def leave():
      async with AsyncTcpClient("127.0.0.1", live.wyoming) as client:
        await client.write_event(Synthesize("word " * 60).event())
        await client.read_event()

    asyncio.run(leave())
    assert live.settled(2.0)["cancelled"] == before["cancelled"] + 1
  finally:
    live.engine.pause = 0.0
  with socket.create_connection(("127.0.0.1", live.wyoming), 5) as line:
    start = time.monotonic()
    assert line.recv(1) == b"" and time.monotonic() - start < 4
