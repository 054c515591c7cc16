"""Streams through the engine: equal to one pass, alone or among others, however the text arrives."""

import asyncio
import dataclasses
import itertools
import threading
import time

import jax
import numpy as np
import pytest

import cosyjax
from cosyjax.errors import ConfigError
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.inference import offline
from cosyjax.inference import schedule as schedule_lib
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import Schedule
from tests import upstream
from tests.conftest import ASSETS

TRANSCRIPT = "希望你以后能够做的比我还好呦。"
TEXT = "Hello from JAX, this is a stream of words."


@pytest.fixture(scope="module")
def voice(shallow):
  return shallow.voice(ASSETS / "prompt.wav", TRANSCRIPT)


def cut(voice, tokens):
  """The voice with a shorter prompt."""
  return dataclasses.replace(voice, tokens_U=voice.tokens_U[:tokens], mel_TM=voice.mel_TM[: 2 * tokens])


def listen(stream):
  """All packets, checked to be in order and without gaps."""
  packets = list(stream)
  position = 0
  for number, packet in enumerate(packets):
    assert packet.number == number and packet.start == position / packet.rate and len(packet.samples_A)
    position += len(packet.samples_A)
  return packets


def wave(stream):
  return np.concatenate([p.samples_A for p in listen(stream)])


@pytest.fixture(scope="module")
def solve(shallow):
  """The flow without a stream, under given mask blocks: (voice, tokens, blocks, ahead) -> mel [T, M], prompt first."""
  model, params = shallow.loaded.modules["flow"], shallow.loaded.params["flow"]
  jitted = jax.jit(lambda *args, blocks, ahead: generate(model, params, *args, chunk=blocks, ahead_B=ahead))

  def run(voice, tokens_U, blocks_U, ahead=0):
    P, U = len(voice.tokens_U), len(tokens_U)
    ids, prompt = np.zeros((1, 192), np.int32), np.zeros((1, 384, 80), np.float32)
    ids[0, : P + U] = np.concatenate([voice.tokens_U, tokens_U])
    prompt[0, : 2 * P] = voice.mel_TM
    blocks = np.full(192, 10**6, np.int32)
    blocks[: P + U] = blocks_U
    lengths = [np.asarray([n], np.int32) for n in (P + U, 2 * P)]
    args = ids, lengths[0], prompt, lengths[1], voice.speaker_E[None], noise_table(384)
    return np.asarray(jitted(*args, blocks=blocks, ahead=np.asarray([ahead], np.int32)))[0, : 2 * (P + U)]

  return run


@pytest.fixture(scope="module")
def vocode(shallow):
  """Mel to audio without a stream: (voice, mel, seed, speed) -> [A]."""

  def run(voice, mel_TM, seed, speed=1.0):
    request = Request("", voice, seed, speed=speed).resolved(shallow.config)
    return offline.vocode(shallow.loaded, [Chunk(request, np.zeros(0, np.int32), 0)], [mel_TM])[0]

  return run


@pytest.fixture(scope="module")
def in_one_pass(solve, vocode):
  """Tokens to audio without a stream, under the blocks of a schedule: (voice, tokens, schedule, seed, speed) -> [A]."""

  def run(voice, tokens_U, schedule, seed, speed=1.0):
    P, U = len(voice.tokens_U), len(tokens_U)
    mel_TM = solve(voice, tokens_U, schedule_lib.resolve(schedule, 25).blocks(P, U, 25))
    return vocode(voice, mel_TM[2 * P :], seed, speed)

  return run


def _prompts_and_schedules():
  """Every prompt and every schedule in the short suite, all pairs in the long one."""
  prompts = {"87": 87, "whole": 75, "whole and one": 76, "short": 20, "none": 0}
  schedules = {"balanced": "balanced", "lowest": "lowest", "own": Schedule(7, (9, 31, 40))}
  short = {("balanced", "87"), ("balanced", "none"), ("lowest", "whole and one"), ("own", "whole"), ("own", "short")}
  for pair in itertools.product(schedules, prompts):
    marks = () if pair in short else pytest.mark.long
    yield pytest.param(prompts[pair[1]], schedules[pair[0]], id="-".join(pair), marks=marks)


@pytest.mark.parametrize(("prompt", "schedule"), _prompts_and_schedules())
def test_stream_equals_one_pass_under_its_blocks(engine, shallow, in_one_pass, voice, prompt, schedule):
  short = cut(voice, prompt) if prompt else cosyjax.Voice.from_speaker(voice.speaker_E)
  tokens_U = shallow.synthesize(TEXT, short, seed=3).segments[0].tokens_U
  streamed = wave(engine.stream(TEXT, short, seed=3, schedule=schedule))
  expected = in_one_pass(short, tokens_U, schedule, seed=3)
  assert streamed.shape == expected.shape == (960 * len(tokens_U),)
  np.testing.assert_allclose(streamed, expected, atol=1e-3)


@pytest.mark.long
def test_every_segment_of_a_long_text_is_streamed(engine, shallow, in_one_pass, voice):
  text = "This sentence is long enough to fill a segment by itself, with many words and commas, again and again. " * 2
  config = dataclasses.replace(
    shallow.config, text=dataclasses.replace(shallow.config.text, min_tokens=30, max_tokens=60)
  )
  short = shallow.replace(config)
  pieces = short.synthesize(text, voice, seed=1).segments
  assert len(pieces) > 1
  voice = cut(voice, 20)
  pieces = short.synthesize(text, voice, seed=1).segments
  engine.model, before = short, engine.model
  try:
    streamed = wave(engine.stream(text, voice, seed=1))
  finally:
    engine.model = before
  first = in_one_pass(voice, pieces[0].tokens_U[:150], "balanced", seed=1)
  assert len(streamed) == 960 * sum(len(p.tokens_U) for p in pieces)
  np.testing.assert_allclose(streamed[: 960 * 90], first[: 960 * 90], atol=1e-3)


REQUESTS = [
  (TEXT, {}),
  (["Hello from", " JAX, this ", "is a stre", "am of words."], {}),
  ("你好，世界。", {"mode": "cross_lingual"}),
  (["你", "好，世", "界。"], {"mode": "cross_lingual"}),
  ("Happy words.", {"instruction": "say it happily"}),
  (["One two three four five six seven."], {"instruction": "say it happily"}),
  ("A short one.", {"schedule": "lowest"}),
  (["Now ", "the text is a good deal longer than the others, ", "so that rows differ."], {"schedule": "lowest"}),
]


def spoken(engine, voice, number, seed):
  text, options = REQUESTS[number]
  return wave(engine.stream(text if isinstance(text, str) else iter(text), voice, seed=seed, **options))


@pytest.mark.parametrize("streams", [6, pytest.param(16, marks=pytest.mark.long)])
def test_streams_at_once_equal_each_alone(engine, voice, streams):
  """Contract 2, with prompts, modes, layouts, schedules and lengths mixed."""
  cases = [(i % len(REQUESTS), voice if i % 3 else cut(voice, 30 + i), i) for i in range(streams)]
  alone = [spoken(engine, v, number, seed) for number, v, seed in cases]
  together = [None] * streams

  def run(i):
    number, v, seed = cases[i]
    together[i] = spoken(engine, v, number, seed)

  threads = [threading.Thread(target=run, args=(i,)) for i in range(streams)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for one, other in zip(alone, together, strict=True):
    assert one.shape == other.shape
    np.testing.assert_allclose(other, one, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"mode": "cross_lingual"}], ids=["ICL", "SFT"])
def test_text_in_any_pieces_gives_the_same_audio(engine, voice, options):
  """Contract 3, from text to samples: cuts within words, tags and characters, empty pieces."""
  text = "Grüße, [breath] dear world; 你好 and so on, <strong>and</strong> on."
  whole = wave(engine.stream([text], voice, seed=5, **options))
  rng = np.random.default_rng(0)
  data = text.encode()
  for _ in range(2):
    places = np.sort(rng.integers(0, len(data) + 1, 9))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    np.testing.assert_array_equal(wave(engine.stream(iter(pieces), voice, seed=5, **options)), whole)
  np.testing.assert_array_equal(wave(engine.stream(list(text), voice, seed=5, **options)), whole)


def test_audio_comes_before_the_text_has_ended(engine, voice):
  more = threading.Event()

  def pieces():
    yield "Hello from JAX, this is a stream of words that arrive one by one, and the first audio is there "
    yield "before all of it has been said, which is the reason for all this work, is it not, my dear friend "
    assert more.wait(120)
    yield "of words."

  stream = engine.stream(pieces(), voice, seed=2, mode="cross_lingual")
  first = next(stream)
  more.set()
  rest = list(stream)
  assert first.number == 0 and first.text.startswith("Hello from JAX") and rest
  text = "".join([first.text, *(p.text for p in rest)])
  assert text.endswith("of words.") and "before all of it" in text


def test_async_streams(engine, voice):
  expected = wave(engine.stream([TEXT], voice, seed=1))

  async def typed():
    for word in TEXT.split(" "):
      await asyncio.sleep(0.001)
      yield word if word.endswith(".") else word + " "

  async def one():
    return np.concatenate([packet.samples_A async for packet in engine.stream(typed(), voice, seed=1)])

  async def main():
    return await asyncio.gather(one(), one())

  for found in asyncio.run(main()):
    np.testing.assert_allclose(found, expected, atol=1e-3)
  with pytest.raises(ConfigError, match="event loop"):
    engine.stream(typed(), voice)


def test_prepared_voice_gives_the_same_audio(engine, voice):
  fresh = cut(voice, 80)
  expected = wave(engine.stream(TEXT, cut(voice, 80), seed=1))
  engine.prepare(fresh)
  before = engine.memory()["voices"]
  np.testing.assert_allclose(wave(engine.stream(TEXT, fresh, seed=1)), expected, atol=1e-3)
  np.testing.assert_allclose(wave(engine.stream(TEXT, fresh, seed=1)), expected, atol=1e-3)  # in place by now
  engine.forget(fresh)
  assert engine.memory()["voices"] < before


@pytest.mark.long
def test_histories(engine, shallow, solve, vocode, voice):
  """Solving everything again for each chunk equals the cache; a narrow window is near."""
  voice = cut(voice, 40)
  full = wave(engine.stream(TEXT, voice, seed=1, schedule="lowest"))
  tokens_U = shallow.synthesize(TEXT, voice, seed=1).segments[0].tokens_U
  schedule, lookahead = schedule_lib.resolve("lowest", 25), shallow.config.flow.encoder.lookahead
  blocks = schedule.blocks(40, len(tokens_U), 25)

  def prefix(length, ahead):
    return solve(voice, tokens_U[: length - 40], blocks[:length], ahead)

  mels = upstream.solve_again(prefix, schedule.chunks(40, 25), 40, 40 + len(tokens_U), lookahead, rest=False)
  np.testing.assert_allclose(vocode(voice, np.concatenate(mels), seed=1), full, atol=1e-3)
  small = {"slots": 1, "schedule": "lowest", "seconds": 5.0}
  with cosyjax.Engine(shallow, **small, history="window", window=1) as narrow:
    near = wave(narrow.stream(TEXT, voice, seed=1))
  assert near.shape == full.shape and np.all(np.isfinite(near)) and not np.allclose(near, full, atol=1e-3)


def test_upstream_solves_its_last_chunk_with_full_attention(shallow, solve, vocode, voice):
  """Its frames before the last chunk are those under blocks of the mask, those of the last are not."""
  tokens_U = shallow.synthesize(TEXT, voice, seed=3).segments[0].tokens_U
  P, U, lookahead = len(voice.tokens_U), len(tokens_U), shallow.config.flow.encoder.lookahead
  blocks = upstream.blocks(P, U, 25)
  run = lambda n, ahead: solve(voice, tokens_U[: n - P], blocks[:n] if ahead else 0 * blocks[:n], ahead)
  mels = upstream.solve_again(run, upstream.SCHEDULE.chunks(P, 25), P, P + U, lookahead, rest=True)
  chunked, first = solve(voice, tokens_U, blocks)[2 * P :], len(mels[0])
  assert sum(map(len, mels)) == 2 * U and first == 2 * 38
  np.testing.assert_allclose(mels[0], chunked[:first], atol=1e-4)
  assert not np.allclose(mels[-1], chunked[-len(mels[-1]) :], atol=1e-3)
  wave_A, end = vocode(voice, np.concatenate(mels), seed=3), 480 * (first - 20 - 2)  # what the vocoder looks ahead
  assert wave_A.shape == (960 * U,)
  np.testing.assert_allclose(wave_A[:end], vocode(voice, chunked, seed=3)[:end], atol=1e-3)


@pytest.mark.parametrize("speed", [0.5, 0.83, 1.37, 2.0])
def test_streams_at_any_speed_equal_one_pass_at_that_speed(engine, shallow, in_one_pass, voice, speed):
  """No frame is lost or doubled where packets meet, whatever the schedule."""
  tokens_U = shallow.synthesize(TEXT, voice, seed=3).segments[0].tokens_U
  for schedule in ("balanced", Schedule(7, (9, 31, 40))):
    streamed = wave(engine.stream(TEXT, voice, seed=3, schedule=schedule, speed=speed))
    expected = in_one_pass(voice, tokens_U, schedule, seed=3, speed=speed)
    assert streamed.shape == expected.shape == (480 * int(2 * len(tokens_U) / speed),)
    np.testing.assert_allclose(streamed, expected, atol=1e-3)


def test_requests_of_different_settings_share_a_batch(engine, shallow, voice):
  """Each comes out as alone; tokens are those of offline synthesis with the same settings."""
  cases = [
    {}, {"temperature": 2.0, "top_k": 3, "top_p": 1.0}, {"sampler": "greedy"}, {"repeat_window": 0},
    {"flow_steps": 2, "guidance": 2.0}, {"speed": 0.8},
  ]  # fmt: skip
  alone = [wave(engine.stream(TEXT, voice, seed=3, **options)) for options in cases]
  assert not any(np.array_equal(a, alone[0]) for a in alone[1:])
  together = [None] * len(cases)

  def run(i):
    together[i] = wave(engine.stream(TEXT, voice, seed=3, **cases[i]))

  threads = [threading.Thread(target=run, args=(i,)) for i in range(len(cases))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for options, one, other in zip(cases, alone, together, strict=True):
    assert one.shape == other.shape
    np.testing.assert_allclose(other, one, atol=1e-3, err_msg=f"{options}")
  cases = cases[:4]
  for options, one, speech in zip(
    cases, alone, shallow.batch([Request(TEXT, voice, 3, **c) for c in cases]), strict=False
  ):
    again = shallow.synthesize(TEXT, voice, seed=3, **options)
    np.testing.assert_array_equal(again.segments[0].tokens_U, speech.segments[0].tokens_U)
    assert one.shape == again.samples_A.shape


def test_streams_grow_without_end(engine, voice, monkeypatch):
  """Several times what the engine has room for at first; room already grown gives the same, and is given back."""
  text = ["Words and words, and more of them. "] * 6
  monkeypatch.setattr(engine.slots, "shrink", lambda: None)
  grown = wave(engine.stream(text, voice, seed=4))
  assert engine.slots.flow.frames > 256
  np.testing.assert_allclose(wave(engine.stream(text, voice, seed=4)), grown, atol=1e-3)
  monkeypatch.undo()
  assert len(wave(engine.stream("One.", voice)))
  end = time.monotonic() + 30
  while engine.slots.flow.frames > 256 and time.monotonic() < end:
    time.sleep(0.05)
  assert engine.slots.flow.frames <= 256
