"""Text over a WebSocket: words as they come, cancelling, several utterances, and what is wrong."""

import base64
import contextlib
import json
import time

import pytest
from websockets.sync.client import connect

from cosyjax.serving.encoders import pcm16
from cosyjax.serving.settings import Limits, Settings
from tests.serving_fake import RATE, FakeEngine, serving, tone

LIMITS = Limits(arriving_text=2_000, text_seconds=0.5, idle_seconds=0.6)


@pytest.fixture(scope="module")
def live():
  with serving(lambda: FakeEngine(slots=8), Settings(limits=LIMITS)) as live:
    yield live


class Session:
  """A client."""

  def __init__(self, line):
    self._line = line

  def say(self, kind, **fields):
    self._line.send(json.dumps({"type": kind} | fields))

  def next(self, timeout=5.0):
    message = self._line.recv(timeout)
    return json.loads(message) if isinstance(message, str) else message

  def until(self, kind):
    """Messages up to one of a type."""
    found = []
    while True:
      found.append(self.next())
      if isinstance(found[-1], dict) and found[-1]["type"] == kind:
        return found


@contextlib.contextmanager
def session(live, **config):
  with connect(live.socket_url) as line:
    one = Session(line)
    one.say("session.config", **config)
    configured = one.next()
    assert configured["type"] == "session.configured" and configured["sample_rate"] == RATE
    yield one


def audio(messages):
  return b"".join(m for m in messages if isinstance(m, bytes))


def test_words_are_spoken_while_they_are_typed(live):
  """Each word's audio is there before the next word is sent: nothing waits for a sentence."""
  with session(live, voice="anna", response_format="pcm") as one:
    for number, word in enumerate(["Hel", "lo ", "from ", "JAX"]):
      one.say("input.text", text=word)
      if not number:
        start = one.next()
        assert start["type"] == "audio.start" and start["sentence_text"] == "Hel" and start["format"] == "pcm"
        assert (start["utterance_index"], start["sentence_index"], start["channels"]) == (0, 0, 1)
      assert one.next() == pcm16(tone(number, 4_800)).tobytes()
    one.say("input.done")
    *_, done, ended = one.until("session.done")
    assert done == {
      "type": "audio.done", "utterance_index": 0, "sentence_index": 0, "total_bytes": 4 * 9_600, "error": False
    }  # fmt: skip
    assert ended == {"type": "session.done", "utterance_index": 0, "total_sentences": 1}


def test_several_utterances_with_another_config_between_them(live):
  with session(live, seed=1) as one:
    for text in ("One.", "Two."):  # the second is sent while the first is spoken
      one.say("input.text", text=text)
      one.say("input.done")
    first, second = one.until("session.done"), one.until("session.done")
    assert [m[-1]["utterance_index"] for m in (first, second)] == [0, 1] and audio(first) == audio(second)
    one.say("session.config", seed=2, response_format="mp3", instructions="fast")
    assert one.next()["response_format"] == "mp3"
    one.say("input.text", text="Three.")
    one.say("input.done")
    third = one.until("session.done")
    assert third[0]["format"] == "mp3" and audio(third)[:1] == b"\xff"
    assert live.engine.given[-1]["seed"] == 2 and live.engine.given[-1]["instruction"] == "fast"
    one.say("input.done")
    assert one.next() == {"type": "session.done", "utterance_index": 3, "total_sentences": 0}
    one.say("session.close")


@pytest.mark.parametrize(("granularity", "count"), [("sentence", 2), ("clause", 3)])
def test_sentences_and_clauses_as_requests_of_their_own(live, granularity, count):
  with session(live, split_granularity=granularity, stream_audio=False) as one:
    for piece in ("Hello, wor", "ld. And again", "!"):
      one.say("input.text", text=piece)
    one.say("input.done")
    messages = one.until("session.done")
    starts = [m for m in messages if isinstance(m, dict) and m["type"] == "audio.start"]
    assert [m["sentence_index"] for m in starts] == list(range(count)) and messages[-1]["total_sentences"] == count
    assert sum(isinstance(m, bytes) for m in messages) == count  # one message each
    assert starts[-1]["sentence_text"] == "And again!"


def test_word_times(live):
  with session(live, timestamps=True) as one:
    one.say("input.text", text="Hello there ")
    one.say("input.done")
    chunks = [m for m in one.until("session.done") if m["type"] == "audio.chunk"]
    assert chunks[0]["approximate"] is True and chunks[0]["text"] == "Hello there "
    words = chunks[0]["timestamps"]
    assert [w["word"] for w in words] == ["Hello", "there"] and words[0]["end"] == words[1]["start"] == 0.1
    assert base64.b64decode(chunks[0]["audio_b64"]) == pcm16(tone(0, 4_800)).tobytes()


def test_cancelling_stops_at_once_and_the_session_goes_on():
  with serving(lambda: FakeEngine(pause=0.05)) as live, session(live) as one:
    one.say("input.text", text="word " * 20)
    assert one.next()["type"] == "audio.start"
    one.say("input.text", text="more ")
    start = time.monotonic()
    one.say("input.cancel")
    *rest, cancelled, done = one.until("session.done")
    assert time.monotonic() - start < 0.5 and len(rest) <= 2
    assert cancelled["type"] == "audio.cancelled" and done["cancelled"] is True
    totals = live.settled(1.0)
    assert totals["cancelled"] == 1
    one.say("input.cancel")  # nothing to cancel
    one.say("input.text", text="Again.")
    one.say("input.done")
    assert one.until("session.done")[-1] == {"type": "session.done", "utterance_index": 1, "total_sentences": 1}


def test_a_client_who_goes_frees_its_slot():
  with serving(lambda: FakeEngine(pause=0.05)) as live:
    with session(live) as one:
      one.say("input.text", text="never ended ")
      assert one.next()["type"] == "audio.start"
      one._line.socket.close()  # without a word
    assert live.settled(2.0)["cancelled"] == 1


def test_nobody_keeps_a_slot_by_not_typing(live):
  with session(live) as one:
    one.say("input.text", text="Hello ")
    assert one.until("session.done")[-1]["total_sentences"] == 1
    time.sleep(0.1)
    one.say("input.text", text="Again ")
    one.say("input.done")
    assert one.until("session.done")[-1]["utterance_index"] == 1
    last = one.until("error")[-1]
    assert last["code"] == "idle"
    with pytest.raises(Exception, match="1000"):
      one.next()


@pytest.mark.parametrize(
  ("messages", "code"),
  [
    (["not json"], "invalid_json"),
    (['{"type": "input.text", "text": "Hi."}'], "no_config"),
    (['{"type": "input.done"}'], "no_config"),
    (["[]"], "invalid_message"),
    ([b"\x00"], "invalid_json"),
    (['{"type": "input.dance"}'], "unknown_message"),
    (['{"type": "session.config", "speed": 9}'], "invalid_value"),
    (['{"type": "session.config", "split_granularity": "word"}'], "invalid_value"),
    (['{"type": "session.config", "model": "gpt-9"}'], "model_not_found"),
    (['{"type": "session.config"}', '{"type": "input.text", "text": 7}'], "invalid_value"),
    (['{"type": "session.config"}', json.dumps({"type": "input.text", "text": "x" * 2_001})], "text_too_long"),
    (['{"type": "session.config", "voice": "nobody"}', '{"type": "input.text", "text": "Hi."}'], "voice_not_found"),
    (
      ['{"type": "session.config"}', '{"type": "input.text", "text": "a"}', '{"type": "session.config"}'],
      "config_while_speaking",
    ),
  ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_the_session_goes_on(live, messages, code):
  with connect(live.socket_url) as line:
    one = Session(line)
    for message in messages:
      line.send(message)
    error = one.until("error")[-1]
    assert error["code"] == code and error["message"] and error["error"]["code"] == code
    one.say("input.cancel")
    one.say("session.config")
    one.until("session.configured")
    one.say("input.text", text="Hi.")
    one.say("input.done")
    messages = one.until("session.done")
    while not audio(messages):
      messages = one.until("session.done")


def test_a_failure_in_the_middle_is_told(live):
  with session(live) as one:
    one.say("input.text", text="Hello ")
    assert one.next()["type"] == "audio.start" and one.next()
    live.engine.error = RuntimeError("secret")
    one.say("input.text", text="there ")
    done, error, ended = one.until("session.done")
    assert done["error"] is True and error["code"] == "internal_error" and "secret" not in json.dumps(error)
    assert ended["type"] == "session.done"
    one.say("input.text", text="Hi.")
    one.say("input.done")
    assert audio(one.until("session.done"))


def test_a_flood_of_messages_ends_the_session(live):
  with session(live) as one:
    one.say("input.text", text="Hello ")
    one.say("input.done")
    live.engine.pause = 0.3
    try:
      for _ in range(3_000):
        one.say("input.text", text="")
      assert one.until("error")[-1]["code"] in ("too_many_messages",)
    except Exception as error:
      assert "1008" in str(error) or "1000" in str(error)
    finally:
      live.engine.pause = 0.0
  assert live.speech().status_code == 200


def test_a_slow_reader_holds_nobody_up():
  """Its audio waits, text that it sends waits too, and others are served meanwhile."""
  limits = Limits(unread=4 << 20, arriving_text=1 << 20)
  with serving(lambda: FakeEngine(slots=2, samples=24_000), Settings(limits=limits)) as live:
    with session(live) as slow:
      for _ in range(40):  # half an hour of speech
        slow.say("input.text", text="word " * 500)
      end = time.monotonic() + 20
      while not live.service._budget.taken:
        assert time.monotonic() < end
        time.sleep(0.01)
      time.sleep(0.5)
      assert live.speech("One two three.", response_format="pcm").status_code == 200
      assert live.service._budget.taken < 8 << 20
      slow._line.socket.close()
    assert live.settled(5.0)["cancelled"] == 1
    assert live.service._budget.taken == 0
