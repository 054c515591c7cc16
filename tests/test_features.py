"""Features of a corpus: what inference computes, shard by shard, never twice; the pitch tracker."""

import ast
import dataclasses
import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import cosyjax
from cosyjax import networks
from cosyjax.audio import kaldi_fbank, log_mel_16k, mel_spectrogram
from cosyjax.audio.pitch import f0_track
from cosyjax.config import AudioConfig, tiny
from cosyjax.data import builder
from cosyjax.data import corpus as corpus_lib
from cosyjax.data import feature_store as features_lib
from cosyjax.data.extract import CHUNK, Extractor, Model, compute, fingerprint
from cosyjax.data.feature_store import Features, ShardWriter, from_npy_bytes, npy_bytes, shard_stem
from cosyjax.errors import ConfigError, DataError
from cosyjax.inference.recordings import tokenise
from cosyjax.layers.basic import unbox
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from train import features as program

HOP = AudioConfig().hop

PARTS = ("speech_tokenizer", "speaker")
NAMES = ("speech_tokens", "mel", "speaker", "f0", "log_mel_16k", "fbank", "text_ids")


class Corpus:
  """Recordings in memory, in shards of two; remembers which were read."""

  def __init__(self, audio: list[bytes]) -> None:
    self._audio, self.reads = audio, []
    self.shards = [(i, min(2, len(audio) - i)) for i in range(0, len(audio), 2)]

  def __len__(self) -> int:
    return len(self._audio)

  def __getitem__(self, i: int) -> dict:
    self.reads.append(i)
    return {"id": str(i), "text": f"number {i}", "instruction": "", "audio": self._audio[i]}


def _wav(wave_A: np.ndarray, rate: int) -> bytes:
  out = io.BytesIO()
  soundfile.write(out, wave_A, rate, format="WAV", subtype="FLOAT")
  return out.getvalue()


def _tone(hz: float, seconds: float, rate: int = 24_000) -> np.ndarray:
  """Harmonics of falling strength, with phases of their own."""
  t, rng = np.arange(int(seconds * rate)) / rate, np.random.default_rng(int(hz))
  parts = [np.cos(2 * np.pi * hz * k * t + rng.uniform(0, 6)) / k**1.2 for k in range(1, int(4000 / hz) + 1)]
  return (0.1 * np.sum(parts, axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Model:  # of the long tests, and of what compiles nothing
  params = networks.random_params(tiny())
  params = {part: params[part] for part in PARTS}
  return Model(tiny(), params, TextTokenizer.load(tiny_tokenizer_dir()))


@pytest.fixture(scope="module")
def tones() -> Corpus:
  return Corpus([_wav(_tone(100 + 40 * i, 0.7 + 0.2 * i, r := (24_000, 16_000)[i % 2]), r) for i in range(5)])


# Pitch.


def test_pitch_of_tones_noise_and_silence():
  hz = (80, 113, 160, 226, 320, 400)
  size = 36_000
  glide_A = 100 + 60 * np.arange(size) / size
  phase_A = 2 * np.pi * np.cumsum(glide_A) / 24_000
  waves = [_tone(h, 1.5) for h in hz] + [
    0.1 * np.random.default_rng(0).standard_normal(size),
    np.zeros(size),
    0.1 * sum(np.cos(k * phase_A) / k for k in range(1, 15)),
    np.concatenate([_tone(200, 0.5), np.full(size - 12_000, np.nan)]),  # what lies in padding is never read
  ]
  lengths = [size] * 9 + [12_000]
  f0_BT, frames_B = jax.device_get(
    jax.jit(functools.partial(f0_track, audio=AudioConfig()))(np.stack(waves).astype(np.float32), np.asarray(lengths))
  )
  assert frames_B.tolist() == [75] * 9 + [25] and f0_BT.shape == (10, 75)
  for h, f0_T in zip(hz, f0_BT, strict=False):
    np.testing.assert_allclose(f0_T, h, rtol=0.01)
  assert not f0_BT[6:8].any()
  np.testing.assert_allclose(f0_BT[8], glide_A[np.arange(75) * HOP + HOP // 2], rtol=0.01)  # at the mel frame's centre
  np.testing.assert_allclose(f0_BT[9, :25], 200, rtol=0.01)
  assert not f0_BT[9, 25:].any()


# The job.


def test_features_are_those_of_the_recording_alone(recordings):
  """Small networks, so that this compiles in seconds; the next test has the tiny model's."""
  speaker = dataclasses.replace(tiny().speaker, layers=(1, 1, 1))
  config = dataclasses.replace(
    tiny(), speaker=speaker, speech_tokenizer=dataclasses.replace(tiny().speech_tokenizer, layers=1)
  )
  modules, rng = networks.networks(config), np.random.default_rng(0)
  shapes = {p: jax.eval_shape(lambda p=p: networks.init_params(config, p, jax.random.key(0))) for p in PARTS}
  draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32) * 0.1
  params = jax.tree.map(draw, unbox(shapes))
  wave_A, rate = recordings["prompt"]
  extractor = Extractor(NAMES, Model(config, params, TextTokenizer.load(tiny_tokenizer_dir())), batch_seconds=9)
  items = [extractor.decode({"text": "你好", "audio": _wav(wave, rate)}) for wave in (wave_A[:75_000], wave_A)]
  shorter, found = extractor(items)  # two rows of four seconds

  @jax.jit
  def alone(params, wave_24k_BA, wave_16k_BA):
    size_24k_B, size_16k_B = (jnp.asarray([wave.shape[1]]) for wave in (wave_24k_BA, wave_16k_BA))
    log_mel_BTM, fbank_BTM = log_mel_16k(wave_16k_BA, size_16k_B), kaldi_fbank(wave_16k_BA, size_16k_B)
    ids_BU, _, _ = modules["speech_tokenizer"].apply({"params": params["speech_tokenizer"]}, *log_mel_BTM)
    speaker_BE = modules["speaker"].apply({"params": params["speaker"]}, *fbank_BTM)
    return (
      ids_BU[0],
      mel_spectrogram(wave_24k_BA, size_24k_B, AudioConfig())[0][0],
      speaker_BE[0],
      log_mel_BTM[0][0],
      fbank_BTM[0][0],
    )

  ids_U, mel_TM, speaker_E, log_mel_TM, fbank_TM = alone(params, items[1].wave_24k[None], items[1].wave_16k[None])
  U = min(len(ids_U), len(mel_TM) // 2)
  np.testing.assert_array_equal(found["speech_tokens"], ids_U[:U])
  assert len(set(found["speech_tokens"].tolist())) > 5
  np.testing.assert_allclose(found["mel"], mel_TM[: 2 * U], atol=1e-4)
  np.testing.assert_allclose(found["speaker"], speaker_E, atol=1e-4, rtol=1e-4)
  np.testing.assert_allclose(found["log_mel_16k"], log_mel_TM, atol=1e-3)  # stored as float16
  np.testing.assert_allclose(found["fbank"], fbank_TM, atol=8e-3)
  assert found["text_ids"].tolist() == extractor._tokenizer.encode("你好")
  for one in (shorter, found):
    assert len(one["mel"]) == len(one["f0"]) == 2 * len(one["speech_tokens"]) and (one["f0"] > 0).any()
    assert all(one[name].dtype == features_lib.KINDS[name].dtype for name in NAMES)
  np.testing.assert_allclose(shorter["mel"][:100], found["mel"][:100], atol=1e-4)


@pytest.mark.long
def test_features_are_what_inference_makes_of_a_prompt(model, recordings):
  wave_A, rate = recordings["prompt"]
  params = networks.random_params(tiny())
  synthesizer = cosyjax.Synthesizer(tiny(), params, None, dtype="float32", buckets=cosyjax.Buckets(seconds=(4,)))
  voice = synthesizer.voice((wave_A, rate))
  extractor = Extractor(NAMES, model, batch_seconds=9)
  short = {"text": "hm", "audio": _wav(wave_A[24_000:50_000], rate)}
  items = [extractor.decode(e) for e in ({"text": "你好", "audio": _wav(wave_A, rate)}, short)]
  found, other = extractor(items)
  np.testing.assert_array_equal(found["speech_tokens"], voice.tokens_U)
  np.testing.assert_allclose(found["mel"], voice.mel_TM, atol=1e-4)
  np.testing.assert_allclose(found["speaker"], voice.speaker_E, atol=1e-4)
  for one in (found, other):
    U = len(one["speech_tokens"])
    assert U and len(one["mel"]) == len(one["f0"]) == 2 * U


@pytest.mark.long
def test_tokens_of_a_long_recording_are_those_of_its_windows(model, recordings):
  wave_A = np.tile(recordings["prompt"][0], 10)  # 34.8 s
  extractor = Extractor(("speech_tokens",), model)
  item = extractor.decode({"audio": _wav(wave_A, 24_000)})
  [found] = extractor([item])
  params = networks.random_params(tiny())
  loaded = cosyjax.Synthesizer(tiny(), params, None, dtype="float32").loaded
  expected_U = tokenise(loaded, item.wave_16k)
  assert len(expected_U) - len(found["speech_tokens"]) in (0, 1)
  np.testing.assert_array_equal(found["speech_tokens"], expected_U[: len(found["speech_tokens"])])


def test_a_job_goes_on_where_it_stopped_and_computes_nothing_twice(tones, tmp_path):
  corpus = Corpus(tones._audio)
  original = corpus.__getitem__

  class Killed(Corpus):
    def __getitem__(self, i):
      if i == 3:
        raise KeyboardInterrupt
      return original(i)

  names = ("mel", "f0")
  with pytest.raises(KeyboardInterrupt):
    compute(Killed(tones._audio), tmp_path, "train", names, batch_seconds=8)
  folder = tmp_path / "features" / "mel"
  assert {path.name for path in folder.iterdir()} == {
    "meta.json", "train-00000-of-00003.array_record", "train-00000-of-00003.json"
  }  # fmt: skip
  with pytest.raises(
    DataError, match=r"2 of 3 shards are not computed.*train-00001-of-00003.*python -m train.features"
  ):
    Features(tmp_path, "train", names)
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".array_record"}
  corpus.reads.clear()
  done = [compute(corpus, tmp_path, "train", names, process=(p, 2), batch_seconds=8) for p in (0, 1)]
  assert [(d.shards, d.skipped) for d in done] == [(1, 1), (1, 0)]
  assert sorted(corpus.reads) == [2, 3, 4]
  assert all(path.stat().st_mtime_ns == when for path, when in before.items())
  corpus.reads.clear()
  again = compute(corpus, tmp_path, "train", names)
  assert (again.shards, again.skipped) == (0, 3) and not corpus.reads

  features = Features(tmp_path, "train", names)
  assert len(features) == 5 and features.lengths("mel").tolist() == [34, 44, 54, 64, 74]
  for i in range(5):
    arrays = features[i]
    assert arrays["mel"].shape == (features.lengths("mel")[i], 80) and len(arrays["f0"]) == len(arrays["mel"])
    np.testing.assert_allclose(arrays["f0"][3:-3], 100 + 40 * i, rtol=0.01)


def test_shards_of_another_model_are_refused_or_made_again(tmp_path):
  texts = Corpus([b""] * 4)
  plain, split = (Model(tiny(), {}, TextTokenizer.load(tiny_tokenizer_dir(), split_cjk=s)) for s in (False, True))
  compute(texts, tmp_path, "train", ("text_ids",), plain)
  first = Features(tmp_path, "train", ("text_ids",)).fingerprints
  with pytest.raises(DataError, match=r"text_ids of shard train-00000-of-00002 were made by another.*--force"):
    compute(texts, tmp_path, "train", ("text_ids",), split)
  compute(texts, tmp_path, "train", ("text_ids",), split, process=(0, 2), force=True)
  with pytest.raises(DataError, match="shards of different models"):
    Features(tmp_path, "train", ("text_ids",))
  compute(texts, tmp_path, "train", ("text_ids",), split, process=(1, 2), force=True)
  assert Features(tmp_path, "train", ("text_ids",)).fingerprints != first


def test_the_weights_make_the_fingerprint():
  model = Model(tiny(), {"speaker": {"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)}})
  prints = {fingerprint("speaker", model), fingerprint("speaker", model)}
  changed = jax.tree.map(np.array, model.params)
  leaf = jax.tree.leaves(changed["speaker"])[-1]
  leaf.flat[0] += 1e-3
  prints.add(fingerprint("speaker", Model(tiny(), changed)))
  assert len(prints) == 2
  with pytest.raises(ConfigError, match="made by the speaker network: give a model"):
    fingerprint("speaker")
  with pytest.raises(ConfigError, match="text tokenizer"):
    fingerprint("text_ids", Model(tiny()))
  with pytest.raises(ConfigError, match="unknown feature 'pitch'"):
    fingerprint("pitch")


def test_unusable_recordings_have_no_features_and_are_counted(tones, tmp_path):
  damaged = Corpus([*tones._audio[:3], b"RIFF no audio", tones._audio[4]])
  done = compute(damaged, tmp_path, "train", ("mel",), batch_seconds=8)
  assert [i for i, _ in done.bad] == [3] and "AudioError" in done.bad[0][1]
  features = Features(tmp_path, "train", ("mel",))
  assert features.lengths("mel")[3] == 0 and features[3]["mel"].shape == (0, 80) and features.lengths("mel")[4] > 0
  damaged = Corpus([*tones._audio[:2], b"", _wav(np.zeros(24_000), 24_000), _wav(np.zeros(9), 24_000)])
  with pytest.raises(DataError, match=r"2 of 5 recordings cannot be used.*silence"):
    compute(damaged, tmp_path / "other", "train", ("mel",), batch_seconds=8)


class Item:
  """One recording for the corpus builder."""

  def __init__(self, i: int, audio: bytes) -> None:
    self.id, self._audio = f"item{i}", audio

  def example(self) -> dict:
    strings = {"id": self.id, "text": f"number {self.id}", "speaker": "a", "language": "en", "instruction": ""}
    return strings | {"audio": self._audio, "seconds": 0.5, "rate": 24_000}


def test_the_program_computes_every_split_and_says_what_it_did(tones, tmp_path, capsys):
  items = [Item(i, audio) for i, audio in enumerate(tones._audio)]
  builder.build({"train": items[:4], "validation": items[4:]}, tmp_path / "corpus", shards=2)
  command = [str(tmp_path / "corpus"), "--names", "mel", "text_ids", "--preset", "tiny", "--no-cache"]
  assert program.main([*command, "--process", "0/2", "--batch-seconds", "8"]) == 0
  assert program.main([*command, "--process", "1/2", "--batch-seconds", "8"]) == 0
  assert program.main(command) == 0
  said = [line.split(";")[0] for line in capsys.readouterr().out.splitlines()]
  assert said == [
    "2 shards computed, 0 were there",
    "1 shards computed, 0 were there",
    "0 shards computed, 3 were there",
  ]
  corpus, tokenizer = corpus_lib.Corpus(tmp_path / "corpus"), TextTokenizer.load(tiny_tokenizer_dir())
  features = Features(tmp_path / "corpus", "train", ("mel", "text_ids"))
  for i in range(4):
    assert features[i]["text_ids"].tolist() == tokenizer.encode(corpus[i]["text"])
    assert len(features[i]["mel"]) > 30
  assert len(Features(tmp_path / "corpus", "validation", ("mel",))) == 1
  with pytest.raises(ConfigError, match="made by the speaker network"):
    program.main([str(tmp_path / "corpus"), "--names", "speaker", "--no-cache"])


def test_use_of_the_codebook_is_counted_over_all_shards_of_a_split(tmp_path, capsys):
  for k, tokens in enumerate(([0, 0, 5], [7])):
    with ShardWriter(tmp_path, "speech_tokens", shard_stem("train", k, 2), "maker") as shard:
      shard.add(np.array(tokens, np.int32))
  program.report_use(tmp_path, ["train", "validation"], 9)
  said = capsys.readouterr().out
  # Three of four codes that four tokens could use; exp of the entropy of (1/2, 1/4, 1/4) is 2 sqrt 2.
  assert said == "train: 4 tokens use 3 of 9 codes (75.0% of what they could), perplexity 3\n"


# Files.


def _written(directory, count: int = 2, name: str = "f0") -> Features:
  for k in range(count):
    with ShardWriter(directory, name, shard_stem("train", k, count), "maker") as shard:
      for i in range(3):
        shard.add(np.arange(10.0 + k + i))
  return Features(directory, "train", (name,))


def test_random_access_over_shards(tmp_path):
  features = _written(tmp_path)
  assert len(features) == 6 and [len(features[i]["f0"]) for i in range(6)] == [10, 11, 12, 11, 12, 13]
  with pytest.raises(IndexError):
    features[6]
  assert features.maybe("mel") is None and features.maybe("f0").lengths("f0").tolist() == [10, 11, 12, 11, 12, 13]
  with pytest.raises(DataError, match="feature 'mel' of split 'train' is not there; make it with: python -m train"):
    Features(tmp_path, "train", ("f0", "mel"))
  with ShardWriter(tmp_path, "speaker", shard_stem("train", 0, 1), "maker") as shard:
    shard.add(np.zeros(4))
  with pytest.raises(DataError, match="different examples"):
    Features(tmp_path, "train", ("f0", "speaker"))


@pytest.mark.parametrize("dtype", ["int32", "float32", "float16", "uint8", "bool", ">i2"])
@pytest.mark.parametrize("shape", [(), (0,), (12,), (3, 80), (0, 80), (2, 1, 3)])
def test_arrays_come_back_from_their_bytes(dtype, shape):
  array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
  data = npy_bytes(array)
  np.testing.assert_array_equal(np.load(io.BytesIO(data)), array)  # anyone can read them
  again = from_npy_bytes(data)
  assert again.dtype == array.dtype and again.shape == np.ascontiguousarray(array).shape and again.flags.writeable
  np.testing.assert_array_equal(again, array)
  for broken in (data[:-1], data + b"1", data[:40], b"", data.replace(b"NUMPY", b"NUMPI")):
    if broken != data and array.size:
      with pytest.raises(ValueError, match=r"expected|cannot reshape|buffer size"):
        from_npy_bytes(broken)


def test_reading_does_not_use_the_parser_of_python(tmp_path, monkeypatch):
  """It is not safe in threads: SystemError, AST constructor recursion depth mismatch."""
  features = _written(tmp_path)
  monkeypatch.setattr(ast, "parse", lambda *a, **k: pytest.fail("parsed as Python"))
  assert len(features.read("f0", 0)) == features.lengths("f0")[0]


def test_damage_is_named(tmp_path):
  features = _written(tmp_path)
  records = tmp_path / "features" / "f0" / "train-00001-of-00002.array_record"
  whole, index = records.read_bytes(), records.with_suffix(".json")
  at = whole.index(np.arange(12.0, dtype=np.float32).tobytes()[8:])
  records.write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 4]) + whole[at + 4 :])
  with pytest.raises(DataError, match=r"train-00001-of-00002.array_record: record 1 cannot be read"):
    Features(tmp_path, "train", ("f0",))[4]
  records.write_bytes(whole[:-5])
  with pytest.raises(DataError, match="expected a file of"):
    Features(tmp_path, "train", ("f0",))
  records.write_bytes(whole)
  info = json.loads(index.read_text())
  index.write_text(json.dumps(info | {"lengths": [11, 11, 13]}))
  with pytest.raises(DataError, match="record 1 has length 12, its index says 11"):
    Features(tmp_path, "train", ("f0",))[4]
  index.write_text("{")
  with pytest.raises(DataError, match="cannot be read as a feature index"):
    Features(tmp_path, "train", ("f0",))
  assert len(features[0]["f0"]) == 10


def test_a_shard_that_fails_leaves_nothing(tmp_path):
  with pytest.raises(DataError, match=r"expected 24 kHz log-mel.*found an array of shape \(3, 79\)"):  # noqa: SIM117
    with ShardWriter(tmp_path, "mel", shard_stem("train", 0, 1), "maker") as shard:
      shard.add(np.zeros((3, 79)))
  assert not list((tmp_path / "features" / "mel").iterdir())
  assert CHUNK > 1
