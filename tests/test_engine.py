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
from cosyjax.inference import schedule as schedule_lib
from cosyjax.inference.schedule import Schedule
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
def in_one_pass(shallow):
  """Tokens to audio without a stream, under the blocks of a schedule: (voice, tokens, schedule, seed, piece) -> [A]."""
  model, params = shallow.stages.modules["flow"], shallow.stages.params["flow"]
  solve = jax.jit(lambda *args, blocks: generate(model, params, *args, chunk=blocks))

  def run(voice, tokens_U, schedule, seed, piece=0):
    P, U = len(voice.tokens_U), len(tokens_U)
    ids, prompt = np.zeros((1, 192), np.int32), np.zeros((1, 384, 80), np.float32)
    ids[0, : P + U] = np.concatenate([voice.tokens_U, tokens_U])
    prompt[0, : 2 * P] = voice.mel_TM
    blocks = np.full(192, 10**6, np.int32)
    blocks[: P + U] = schedule_lib.resolve(schedule, 25).blocks(P, U, 25)
    lengths = [np.asarray([n], np.int32) for n in (P + U, 2 * P)]
    mel = solve(ids, lengths[0], prompt, lengths[1], voice.speaker_E[None], noise_table(384), blocks=blocks)
    return shallow.stages.vocode([np.asarray(mel)[0, 2 * P : 2 * (P + U)]], [(seed, piece)])[0]

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
  tokens_U = shallow.synthesize(TEXT, short, seed=3).pieces[0].tokens_U
  streamed = wave(engine.stream(TEXT, short, seed=3, schedule=schedule))
  expected = in_one_pass(short, tokens_U, schedule, seed=3)
  assert streamed.shape == expected.shape == (960 * len(tokens_U),)
  np.testing.assert_allclose(streamed, expected, atol=1e-3)


@pytest.mark.long
def test_every_piece_of_a_long_text_is_streamed(engine, shallow, in_one_pass, voice):
  text = "This sentence is long enough to fill a piece by itself, with many words and commas, again and again. " * 2
  config = dataclasses.replace(
    shallow.config, text=dataclasses.replace(shallow.config.text, min_tokens=30, max_tokens=60)
  )
  short = cosyjax.Synthesizer(config, shallow.stages.params, shallow.text_tokenizer, buckets=shallow.stages.buckets)
  pieces = short.synthesize(text, voice, seed=1).pieces
  assert len(pieces) > 1
  voice = cut(voice, 20)
  pieces = short.synthesize(text, voice, seed=1).pieces
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
  before = engine.parts.memory()["voices"]
  np.testing.assert_allclose(wave(engine.stream(TEXT, fresh, seed=1)), expected, atol=1e-3)
  np.testing.assert_allclose(wave(engine.stream(TEXT, fresh, seed=1)), expected, atol=1e-3)  # in place by now
  engine.forget(fresh)
  assert engine.parts.memory()["voices"] < before


@pytest.mark.long
def test_histories(engine, shallow, voice):
  """No cache equals the cache; a narrow window is near."""
  voice = cut(voice, 40)
  full = wave(engine.stream(TEXT, voice, seed=1, schedule="lowest"))
  small = {"slots": 1, "schedule": "lowest", "seconds": 5.0}
  with cosyjax.Engine(shallow, **small, history="none") as other:
    np.testing.assert_allclose(wave(other.stream(TEXT, voice, seed=1)), full, atol=1e-3)
  with cosyjax.Engine(shallow, **small, history="window", window=1) as narrow:
    near = wave(narrow.stream(TEXT, voice, seed=1))
  assert near.shape == full.shape and np.all(np.isfinite(near)) and not np.allclose(near, full, atol=1e-3)


def test_released_schedule_solves_its_last_hop_with_full_attention(engine, shallow, in_one_pass, voice):
  tokens_U = shallow.synthesize(TEXT, voice, seed=3).pieces[0].tokens_U
  streamed = wave(engine.stream(TEXT, voice, seed=3, schedule="released"))
  assert streamed.shape == (960 * len(tokens_U),)
  chunked = in_one_pass(voice, tokens_U, "released", seed=3)
  first = 2 * 38 - engine.parts.vocoder.scheme.look_ahead
  np.testing.assert_allclose(streamed[: 480 * (first - 2)], chunked[: 480 * (first - 2)], atol=1e-3)


def test_streams_grow_without_end(engine, voice, monkeypatch):
  """Several times what the engine has room for at first; room already grown gives the same, and is given back."""
  text = ["Words and words, and more of them. "] * 6
  monkeypatch.setattr(engine.parts, "shrink", lambda: None)
  grown = wave(engine.stream(text, voice, seed=4))
  assert engine.parts.flow.frames > 256
  np.testing.assert_allclose(wave(engine.stream(text, voice, seed=4)), grown, atol=1e-3)
  monkeypatch.undo()
  assert len(wave(engine.stream("One.", voice)))
  end = time.monotonic() + 30
  while engine.parts.flow.frames > 256 and time.monotonic() < end:
    time.sleep(0.05)
  assert engine.parts.flow.frames <= 256
