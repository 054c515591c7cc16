"""What goes wrong with one request stays with it: errors in every stage, cancelling, a full queue."""

import gc
import random
import threading
import time

import numpy as np
import pytest

import cosyjax
from cosyjax.errors import BusyError, ConfigError, EngineError, TextError
from cosyjax.inference.compilation import count_compilations
from tests.conftest import ASSETS

TEXT = "Hello from JAX, this is a stream of words."


@pytest.fixture(scope="module")
def voice(shallow):
  return shallow.voice(ASSETS / "prompt.wav", "希望你以后能够做的比我还好呦。")


def wave(stream):
  return np.concatenate([p.samples_A for p in stream])


@pytest.fixture(scope="module")
def expected(engine, voice):
  return wave(engine.stream(TEXT, voice, seed=1))


def settled(engine, seconds=60.0):
  """The engine's counts once nothing runs or waits any more."""
  end = time.monotonic() + seconds
  while (stats := engine.stats()).running + stats.waiting and time.monotonic() < end:
    time.sleep(0.01)
  return stats


def slots_of(argument):
  """Slots that a call is about."""
  if isinstance(argument, int):
    return {argument}
  return {item if isinstance(item, int) else item.slot for item in argument}


def at_rest(engine):
  """Bytes on the device once the engine has given back what long requests had it grow to."""
  settled(engine)
  time.sleep(1.0)
  return engine.memory()


STAGES = {  # part, method, and which argument names the slots
  "open": ("slots", "open", 0),
  "begin": ("lm", "open", 0),
  "extend": ("lm", "extend", 0),
  "decode": ("lm", "step", 0),
  "flow": ("flow", "step", 0),
  "vocoder": ("vocoder", "step", 0),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_in_a_stage_ends_its_stream_and_no_other(engine, voice, expected, monkeypatch, stage):
  part, name, place = STAGES[stage]
  owner = engine.slots if part == "slots" else getattr(engine.slots, part)
  original, victim, raised = getattr(owner, name), [], []
  pieces = [TEXT[:10], TEXT[10:]]
  healthy = [engine.stream(TEXT, voice, seed=1) for _ in range(2)]
  reference = wave(engine.stream(iter(pieces), voice, seed=1))

  def broken(*args):
    slots = slots_of(args[place])
    if stage == "open" and not victim:
      victim.extend(slots)  # the next request that is admitted
    if victim and victim[0] in slots:
      raised.append(time.monotonic())
      raise RuntimeError(f"injected into {stage}")
    return original(*args)

  if stage != "open":
    admitted = engine.slots.open

    def note(slot, *rest):
      victim[:] = victim or [slot]
      return admitted(slot, *rest)

    monkeypatch.setattr(engine.slots, "open", note)
  monkeypatch.setattr(owner, name, broken)
  failing = engine.stream(iter(pieces), voice, seed=1)
  with pytest.raises(RuntimeError, match="injected"):
    wave(failing)
  print(f"{stage}: told {time.monotonic() - raised[0]:.3f} s after the fault")
  monkeypatch.undo()
  assert time.monotonic() - raised[-1] < 1
  for stream in healthy:
    np.testing.assert_allclose(wave(stream), expected, atol=1e-3)
  stats = settled(engine)
  assert stats.free_slots == 16 and stats.submitted == stats.done + stats.cancelled + stats.failed
  np.testing.assert_allclose(wave(engine.stream(iter(pieces), voice, seed=1)), reference, atol=1e-3)


def test_an_error_of_the_text_ends_the_stream(engine, voice):
  def broken():
    yield "Hello there, my friend. "
    raise OSError("the line was cut")

  for text, error, said in (
    (broken(), OSError, "cut"),
    (["。！"], TextError, "spoken"),
    ([], TextError, "spoken"),
    (["Hi <|endof", "prompt|> there."], TextError, "control tag"),
    ([b"Hello \xff"], TextError, "UTF-8"),
    ([3], TextError, "int"),
  ):
    with pytest.raises(error, match=said):
      wave(engine.stream(text, voice))
  for text, error in (("", TextError), ("…", TextError), (None, ConfigError), (7, ConfigError)):
    with pytest.raises(error):
      engine.stream(text, voice)
  with pytest.raises(TextError, match="too long"):
    wave(engine.stream("Hello.", voice, instruction="very " * 400))
  assert settled(engine).free_slots == 16


def test_lost_device_state_fails_what_runs_and_the_engine_goes_on(engine, voice, expected, monkeypatch):
  def dies(works):
    engine.slots.flow.state.frames_B.delete()
    raise RuntimeError("the device fell over")

  before = settled(engine)
  monkeypatch.setattr(engine.slots.flow, "step", dies)
  streams = [engine.stream(TEXT, voice, seed=1) for _ in range(2)]
  for stream in streams:
    with pytest.raises(RuntimeError, match="fell over"):
      wave(stream)
  monkeypatch.undo()
  assert settled(engine).failed == before.failed + 2
  np.testing.assert_allclose(wave(engine.stream(TEXT, voice, seed=1)), expected, atol=1e-3)


def test_cancelled_and_dropped_streams_free_their_slots(engine, voice):
  before = engine.stats()
  stream = engine.stream(TEXT, voice)
  next(stream)
  stream.cancel()
  assert list(stream) == []
  with engine.stream(TEXT, voice) as stream:
    next(stream)
  for packet in engine.stream(TEXT, voice):
    assert len(packet.samples_A)
    break
  del packet
  dropped = engine.stream(iter([TEXT]), voice)
  del dropped
  gc.collect()
  after = settled(engine)
  assert after.cancelled - before.cancelled == 4 and after.free_slots == 16


def test_waiting_for_text_blocks_nobody(engine, voice, expected):
  hold = threading.Event()

  def slow():
    yield "Hello "
    hold.wait(60)

  waiting = [engine.stream(slow(), voice) for _ in range(15)]
  np.testing.assert_allclose(wave(engine.stream(TEXT, voice, seed=1)), expected, atol=1e-3)
  for stream in waiting:
    stream.cancel()
  stats = settled(engine)
  hold.set()
  assert stats.free_slots == 16


def test_text_without_end_waits_for_its_listener(engine, voice):
  given = 0

  def endless():
    nonlocal given
    while True:
      given += 1
      yield "On and on it goes, word by word, and never stops. "

  stream = engine.stream(endless(), voice, mode="cross_lingual")
  next(stream)
  time.sleep(0.3)
  assert given < 2000
  stream.cancel()
  assert settled(engine).free_slots == 16
  time.sleep(0.1)
  before = given
  time.sleep(0.1)
  assert given == before  # nobody reads on


def test_full_queue_answers_at_once(shallow, voice):
  hold = threading.Event()

  def slow():
    hold.wait(60)
    yield TEXT

  engine = cosyjax.Engine(shallow, slots=1, queue=2, seconds=5.0)
  streams = [engine.stream(slow(), voice)]
  while not engine.stats().running:
    time.sleep(0.01)
  streams += [engine.stream(slow(), voice) for _ in range(2)]
  start = time.monotonic()
  with pytest.raises(BusyError, match="1 slots are taken and 2 requests wait"):
    engine.stream(TEXT, voice)
  assert time.monotonic() - start < 1
  assert engine.stats().waiting == 2
  streams.pop().cancel()
  while engine.stats().waiting > 1:
    time.sleep(0.01)
  assert engine.stream(TEXT, voice) is not None  # and is dropped at once
  engine.close()
  hold.set()
  with pytest.raises(EngineError):
    list(streams[0])
  with pytest.raises(EngineError, match="closed"):
    engine.stream(TEXT, voice)
  stats = engine.stats()
  assert stats.running == stats.waiting == 0 and stats.submitted == stats.done + stats.cancelled + stats.failed
  engine.close()


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"slots": 0}, "slots"),
    ({"history": "some"}, "history"),
    ({"schedule": "x"}, "x"),
  ],
)
def test_bad_settings_are_refused(shallow, options, said):
  with pytest.raises(ConfigError, match=said):
    cosyjax.Engine(shallow, **options)


def test_a_schedule_beyond_the_engines_hops_is_refused(engine, voice):
  with pytest.raises(ConfigError, match="at most 50 tokens"):
    engine.stream(TEXT, voice, schedule=cosyjax.Schedule(60, (60,)))


def test_more_flow_steps_than_the_engine_has_caches_for_are_refused(engine, voice):
  with pytest.raises(ConfigError, match="flow_steps: this engine has caches for 3, found 4"):
    engine.stream(TEXT, voice, flow_steps=4)


@pytest.fixture(scope="module")
def warm(shallow):
  """Four streams at once, everything compiled."""
  with cosyjax.Engine(shallow, slots=4, queue=200, seconds=10.0) as engine:
    engine.warm_up(prefix=256, cache=512, seconds=8.0, prompt=4.0)
    yield engine


@pytest.mark.long
def test_two_hundred_mixed_requests_half_of_them_cancelled(warm, voice):
  """Slots all free, every request accounted for, nothing compiled, memory as before."""
  texts = [TEXT, [TEXT], "One.", "One two three.", ["One ", "two ", "three."], "你好。", ["你", "好。"]]
  options = [{}, {"mode": "cross_lingual"}, {"instruction": "fast"}, {"schedule": "lowest"}]
  short = cosyjax.Voice(voice.speaker_E, voice.tokens_U[:30], voice.mel_TM[:60], voice.transcript)
  rng = random.Random(0)
  cases = [(rng.choice(texts), rng.choice(options), rng.choice([voice, short])) for _ in range(200)]

  waits = [rng.random() for _ in range(200)]

  def request(number):
    text, choice, v = cases[number]
    return warm.stream(text if isinstance(text, str) else iter(text), v, seed=number, **choice)

  for v in (voice, short):
    warm.prepare(v)
  wave(warm.stream("One.", short))
  before, memory = settled(warm), at_rest(warm)
  started = threading.Semaphore(12)

  def serve(number):
    with started, request(number) as stream:
      if number % 2:
        threading.Timer(waits[number], stream.cancel).start()
      for packet in stream:
        assert np.all(np.isfinite(packet.samples_A))

  with count_compilations() as counter:
    threads = [threading.Thread(target=serve, args=(number,)) for number in range(200)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    after = settled(warm)
  assert counter.count == 0
  assert after.free_slots == 4 and after.failed == before.failed
  assert after.submitted - before.submitted == 200
  assert after.done + after.cancelled - before.done - before.cancelled == 200
  assert after.cancelled - before.cancelled > 50
  assert sum(at_rest(warm).values()) <= sum(memory.values())
