"""The offline pipeline from the public API: parity, modes, batching, bad input, no compilation after warm-up."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import cosyjax
from cosyjax.errors import AudioError, ConfigError, CosyError, TextError
from cosyjax.flow.noise import noise_table
from cosyjax.inference import offline
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.compilation import count_compilations
from cosyjax.inference.requests import Request, resolve_mode
from tests.conftest import ASSETS

TRANSCRIPT = "希望你以后能够做的比我还好呦。"


@pytest.fixture(scope="module")
def voice(shallow):
  return shallow.voice(ASSETS / "prompt.wav", TRANSCRIPT)


def whole(model, voice, tokens_U):
  """A segment in one chunk."""
  return Chunk(Request("", voice).resolved(model.config), tokens_U.astype(np.int32), len(tokens_U))


def test_tokens_to_waveform_is_the_reference(model, golden):
  g = golden("token2wav")
  voice = cosyjax.Voice(g["speaker"][0], g["prompt_token"][0].astype(np.int32), g["prompt_mel"][0])
  [mel_TM] = offline.solve(model.loaded, [whole(model, voice, g["token"][0])])
  vocoder, H = model.loaded.modules["vocoder"], model.config.vocoder.harmonics + 1
  wave_BA, _ = vocoder.apply(
    {"params": model.loaded.params["vocoder"]},
    mel_TM[None],
    jnp.array([len(mel_TM)]),
    jnp.zeros((1, H)),
    jnp.zeros((1, 480 * len(mel_TM), H)),
  )
  assert wave_BA.shape == (1, 2 * g["wav_offline"].shape[1])
  np.testing.assert_allclose(wave_BA[:, ::2], g["wav_offline"], atol=1e-3)


def test_prior_noise_is_the_reference(golden):
  g = golden("flow_noise")
  table_TM = noise_table(int(g["shape"][2]))
  np.testing.assert_allclose(table_TM[:64].T, g["first"], atol=1e-6)
  np.testing.assert_allclose(table_TM[-8:].T, g["last"], atol=1e-6)


def test_voice_has_two_frames_per_token(voice):
  assert voice.mel_TM.shape == (2 * len(voice.tokens_U), 80)
  assert voice.speaker_E.shape == (24,)
  assert voice.seconds == pytest.approx(3.48, abs=0.05)


def test_voice_takes_any_rate_and_channels(shallow, voice, recordings):
  wave_A, rate = recordings["prompt"]
  again = shallow.voice((np.stack([wave_A, wave_A], 1), rate), TRANSCRIPT)
  np.testing.assert_array_equal(again.tokens_U, voice.tokens_U)
  np.testing.assert_allclose(again.mel_TM, voice.mel_TM, atol=1e-5)


def test_equal_requests_give_equal_audio_and_seeds_differ(shallow, voice):
  a, b, c = (shallow.synthesize("Hello there, world.", voice, seed=s) for s in (3, 3, 4))
  np.testing.assert_array_equal(a.samples_A, b.samples_A)
  assert not np.array_equal(a.segments[0].tokens_U, c.segments[0].tokens_U)
  assert a.samples_A.dtype == np.float32 and np.all(np.isfinite(a.samples_A)) and np.abs(a.samples_A).max() <= 0.99
  assert len(a.samples_A) == 960 * sum(len(p.tokens_U) for p in a.segments)


def test_batch_equals_alone(shallow, voice):
  other = cosyjax.Voice.from_speaker(np.linspace(-1, 1, 24))
  requests = [
    Request("One two three.", voice, seed=1),
    Request("你好，世界。", voice, seed=2, mode="cross_lingual"),
    Request("A good deal longer than the others, so that rows differ.", other, seed=1),
    Request("Happy words.", voice, seed=9, instruction="say it happily"),
    Request("One two three.", voice, seed=5, speed=1.3),
  ]
  together = shallow.batch(requests)
  for request, speech in zip(requests, together, strict=True):
    alone = shallow.batch([request])[0]
    assert len(alone.segments) == len(speech.segments)
    for p, q in zip(alone.segments, speech.segments, strict=True):
      np.testing.assert_array_equal(p.tokens_U, q.tokens_U)
    np.testing.assert_allclose(speech.samples_A, alone.samples_A, atol=1e-3)


def test_bfloat16_speaks_too(shallow, voice):
  half = shallow.replace(dtype="bfloat16")
  stack = half.loaded.params["lm"]["stack"]
  assert stack["layers_0"]["mlp"]["gate_up"]["kernel"].dtype == jnp.bfloat16
  assert stack["norm"]["scale"].dtype == half.loaded.params["flow"]["to_mel"]["kernel"].dtype == jnp.float32
  prompt = dataclasses.replace(voice, tokens_U=voice.tokens_U[:20], mel_TM=voice.mel_TM[:40])
  chunk = whole(shallow, prompt, voice.tokens_U[20:40])
  [mel_TM], [exact_TM] = (offline.solve(some.loaded, [chunk]) for some in (half, shallow))
  assert np.sqrt(np.mean((mel_TM - exact_TM) ** 2)) < 0.05 * np.std(exact_TM)
  assert half.synthesize("One two.", voice).seconds > 0


def test_speed_changes_the_length(shallow, voice):
  normal, fast, slow = (shallow.synthesize("One two three.", voice, speed=s) for s in (1.0, 2.0, 0.5))
  np.testing.assert_array_equal(normal.segments[0].tokens_U, fast.segments[0].tokens_U)
  assert len(fast.samples_A) == len(normal.samples_A) // 2
  assert len(slow.samples_A) == 2 * len(normal.samples_A)


def test_long_text_is_spoken_segment_by_segment(shallow, voice):
  text = "This is a sentence of some length, and it goes on for a while. " * 6
  steps = []
  speech = shallow.synthesize(text, voice, progress=lambda *step: steps.append(step))
  assert len(speech.segments) > 1
  assert "".join(p.text for p in speech.segments).replace(" ", "") == text.replace(" ", "")
  assert {stage for stage, _, _ in steps} == {"tokens", "mel", "audio"}
  assert all(done <= total for _, done, total in steps) and steps[-1][1] == steps[-1][2]


def test_voice_conversion_keeps_length(shallow, voice, recordings):
  wave_A, rate = recordings["aishell_0121"]
  speech = shallow.convert_voice((wave_A, rate), voice)
  assert speech.seconds == pytest.approx(len(wave_A) / rate, abs=0.05)
  assert speech.segments[0].ended == "given"


def test_voice_conversion_of_a_long_recording(shallow, voice, recordings):
  wave_A, rate = recordings["aishell_0121"]
  long_A = np.tile(wave_A, 9)
  speech = shallow.convert_voice((long_A, rate), voice)
  assert len(speech.segments) > 1  # longer than the largest bucket here
  assert speech.seconds == pytest.approx(len(long_A) / rate, abs=0.05)


def test_modes(voice):
  speaker = cosyjax.Voice.from_speaker(voice.speaker_E)
  mute = dataclasses.replace(voice, transcript="")
  assert resolve_mode(Request("x", voice)) == "zero_shot"
  assert resolve_mode(Request("x", mute)) == "cross_lingual"
  assert resolve_mode(Request("x", voice, instruction="sing")) == "instruct"
  assert resolve_mode(Request("x", speaker)) == "speaker"


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"mode": "karaoke"}, "mode: expected one of"),
    ({"mode": "instruct"}, "needs an instruction"),
    ({"mode": "zero_shot", "instruction": "sing"}, "takes no instruction"),
    ({"speed": 3.0}, "speed: expected 0.5 .. 2.0, found 3.0"),
    ({"speed": float("nan")}, "speed"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"sampler": "beam"}, "sampler: expected one of"),
    ({"language": "xx"}, "language: expected one of"),
    ({"temperature": 0.0}, "temperature: expected 0.01 .. 10.0, found 0.0"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": 0}, "top_k: expected 1 .. 100"),
    ({"repeat_window": 65}, "repeat_window"),
    ({"repeat_rate": -0.1}, "repeat_rate"),
    ({"flow_steps": 0}, "flow_steps"),
    ({"guidance": -1.0}, "guidance"),
  ],
)
def test_requests_that_contradict_themselves(shallow, voice, change, said):
  with pytest.raises(ConfigError, match=said):
    shallow.synthesize("Hello.", voice, **change)


def test_modes_that_a_voice_cannot_do(shallow, voice):
  with pytest.raises(ConfigError, match="needs the prompt's transcript"):
    shallow.synthesize("Hello.", dataclasses.replace(voice, transcript=" "), mode="zero_shot")
  with pytest.raises(ConfigError, match="speaker vector alone"):
    shallow.synthesize("Hello.", cosyjax.Voice.from_speaker(voice.speaker_E), mode="cross_lingual")


@pytest.mark.parametrize("text", ["", "   \n", "。。。！？", "\ud800", "hi <|endofprompt|> there", "x" * 200_001])
def test_text_that_cannot_be_spoken(shallow, voice, text):
  with pytest.raises(TextError):
    shallow.synthesize(text, voice)


def test_a_bad_request_in_a_batch_is_named(shallow, voice):
  with pytest.raises(TextError, match="request 1"):
    shallow.batch([Request("Good.", voice), Request("", voice)])


def test_text_and_prompt_too_long_together(shallow, voice):
  with pytest.raises(CosyError, match="too long"):
    shallow.synthesize("word " * 50, dataclasses.replace(voice, transcript="long " * 400))


@pytest.mark.parametrize(
  ("wave", "said"),
  [
    (np.zeros(24_000), "silen"),
    (np.full(24_000, np.nan), "NaN|finite"),
    (np.ones(2_400), "0.5"),
    (np.sin(np.arange(24_000 * 31)), "30"),
    (np.zeros(0), "empty|no samples"),
    (np.ones((3, 2, 2)), "shape"),
  ],
)
def test_prompts_that_are_refused(shallow, wave, said):
  with pytest.raises(AudioError, match=said):
    shallow.voice((wave, 24_000), "words")


def test_no_request_compiles_after_warm_up(shallow, voice, recordings):
  buckets = dataclasses.replace(shallow.loaded.buckets, batch=(1,))  # segments of long text one by one
  fresh = shallow.replace(buckets=buckets)
  fresh.warm_up(batch=1, prompt=4, prefix=256, cache=556, seconds=20, slowest=0.8)
  rng = np.random.default_rng(0)
  words = ["one", "two", "three", "four", "longer", "words", "你好", "世界", "and", "so", "on"]
  fresh.synthesize("Hello.", voice)  # what the host itself needs
  with count_compilations() as compiled:
    for i in range(15):
      text = " ".join(rng.choice(words, rng.integers(1, 40))) + "."
      mode = [None, "cross_lingual", "speaker"][i % 3]
      instruction = "say it happily" if i % 7 == 0 and mode is None else None
      speed = 0.9 if i % 5 == 0 else 1.0
      speech = fresh.synthesize(text, voice, seed=i, mode=mode, instruction=instruction, speed=speed)
      assert speech.seconds > 0
    fresh.voice(ASSETS / "prompt.wav", TRANSCRIPT)
  assert compiled.count == 0
