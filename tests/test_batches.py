"""Batches: the same for any number of processes, resumable anywhere, every example once; what is in them."""

import io

import numpy as np
import pytest
import soundfile

from cosyjax.config import AudioConfig, tiny
from cosyjax.data import batches as factories
from cosyjax.data import feature_store as features_lib
from cosyjax.data import rows as rows_lib
from cosyjax.data import text as text_lib
from cosyjax.errors import ConfigError, DataError, TrainingError
from cosyjax.lm import sequence
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir

HOP = AudioConfig().hop

EXAMPLES = 37
SHARDS = (20, 17)


class Corpus:
  """Examples in memory; remembers which were read."""

  def __init__(self, examples: list[dict]) -> None:
    self._examples, self.reads = examples, []
    self.names = [example["speaker"] for example in examples]
    self.shards = [(0, SHARDS[0]), (SHARDS[0], SHARDS[1])]

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, i: int) -> dict:
    self.reads.append(i)
    return self._examples[i]


class Features(features_lib.Features):
  """Remembers what was read."""

  reads: list[tuple[str, int]] = []

  def read(self, name: str, i: int) -> np.ndarray:
    self.reads.append((name, i))
    return super().read(name, i)


def _flac(wave_A: np.ndarray, rate: int) -> bytes:
  out = io.BytesIO()
  soundfile.write(out, wave_A, rate, format="FLAC")
  return out.getvalue()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
  return TextTokenizer.load(tiny_tokenizer_dir())


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer) -> tuple[Corpus, features_lib.Features]:
  """37 short examples whose features carry the example's number, with transcript ids stored."""
  rng, directory = np.random.default_rng(0), tmp_path_factory.mktemp("corpus")
  tokens = rng.integers(10, 70, EXAMPLES)
  examples = []
  for i, U in enumerate(tokens):
    wave_A = np.full(U * 2 * HOP, (i + 1) / 100, np.float32) + np.arange(U * 2 * HOP) / (1 << 22)
    text = ["Hello there.", "the train was late", "好。"][i % 3] + " yes" * (i % 2)
    extra = {"speaker": f"s{i % 4}", "language": "en", "seconds": U / 25, "rate": 24_000}
    examples.append(
      {"id": str(i), "text": text, "instruction": "softly" * (i % 6 == 0), "audio": _flac(wave_A, 24_000)}
    )
    examples[-1] |= extra
  maker = text_lib.fingerprint(tokenizer)
  first = 0
  for k, count in enumerate(SHARDS):
    stem = features_lib.shard_stem("train", k, len(SHARDS))
    for name in features_lib.KINDS:
      with features_lib.ShardWriter(directory, name, stem, maker if name == "text_ids" else name) as shard:
        for i in range(first, first + count):
          shard.add(_feature(name, i, int(tokens[i]), examples[i], tokenizer))
    first += count
  return Corpus(examples), Features(directory, "train", [name for name in features_lib.KINDS if name != "text_ids"])


def _feature(name: str, i: int, U: int, example: dict, tokenizer: TextTokenizer) -> np.ndarray:
  if name == "text_ids":
    return text_lib.transcript_ids(example, tokenizer)
  if name == "speaker":
    return np.full(24, i, np.float32)
  if name == "speech_tokens":
    return np.arange(U) + i
  kind = features_lib.KINDS[name]
  size = {50: 2 * U, 100: 4 * U}[kind.rate]
  ramp = np.arange(size).reshape(-1, *(1 for _ in kind.shape)) / 16
  return np.broadcast_to(ramp + i, (size, *kind.shape))


FACTORIES = {
  "lm": lambda c, f, t, **o: factories.lm_batches(c, f, t, tiny().lm, rows=4, length=160, **o),
  "flow": lambda c, f, t, **o: factories.flow_batches(c, f, seconds=5, buckets=(1, 2, 3), row_multiple=4, **o),
  "vocoder": lambda c, f, t, **o: factories.vocoder_batches(c, f, rows=4, frames=25, **o),
  "asr": lambda c, f, t, **o: factories.asr_batches(c, f, seconds=5, buckets=(1, 2, 3), row_multiple=4, f0=True, **o),
  "speaker": lambda c, f, t, **o: factories.speaker_batches(c, f, rows=4, frames=80, **o),
}


def _take(batches: factories.Batches, count: int) -> list[dict[str, np.ndarray]]:
  return [next(batches) for _ in range(count)]


def _equal(a: dict, b: dict) -> None:
  assert set(a) == set(b)
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("name", FACTORIES)
def test_processes_see_the_same_batches_and_read_their_own_rows(made, tokenizer, name):
  corpus, features = made
  count = FACTORIES[name](corpus, features, tokenizer, seed=3).plan.batches + 2  # into the second epoch
  whole = _take(FACTORIES[name](corpus, features, tokenizer, seed=3), count)
  for processes in (2, 4):
    readers = [FACTORIES[name](corpus, features, tokenizer, seed=3, process=(p, processes)) for p in range(processes)]
    parts = [_take(reader, count) for reader in readers]
    for n in range(count):
      joined = {k: np.concatenate([part[n][k] for part in parts]) for k in whole[n] if k != "key"}
      _equal(joined | {"key": parts[-1][n]["key"]}, whole[n])
  shapes = [{k: (v.shape, v.dtype) for k, v in s.items()} for s in FACTORIES[name](corpus, features, tokenizer).shapes]
  for batch in whole:
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} in shapes
  assert len({tuple(batch["key"]) for batch in whole}) == count


def test_a_process_opens_only_its_own_records(made, tokenizer):
  corpus, features = made
  seen = []
  for p in range(2):
    batches = FACTORIES["vocoder"](corpus, features, tokenizer, process=(p, 2))
    corpus.reads.clear(), features.reads.clear()
    for n in range(batches.plan.batches):
      batches._source()[n]
    rows = [batches.plan.batch(n)[1] for n in range(batches.plan.batches)]
    own = {int(i) for r in rows for examples in r[2 * p : 2 * p + 2] for i in examples}
    assert set(corpus.reads) == own and set(features.reads) == {(name, i) for name in ("mel", "f0") for i in own}
    seen.append(own)
  assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 4 * batches.plan.batches


@pytest.mark.parametrize("name", FACTORIES)
def test_restoring_anywhere_goes_on_as_if_nothing_had_happened(made, tokenizer, name):
  corpus, features = made
  batches = FACTORIES[name](corpus, features, tokenizer, seed=1)
  count = batches.plan.batches + 3
  states, whole = [], []
  for _ in range(count):
    states.append(batches.state())
    whole.append(next(batches))
  for n in (0, 1, count // 2, count - 1):
    other = FACTORIES[name](corpus, features, tokenizer, seed=1)
    next(other)
    other.restore(states[n])
    assert other.state() == states[n]
    _equal(next(other), whole[n])
    half = FACTORIES[name](corpus, features, tokenizer, seed=1, process=(1, 2))
    half.restore(states[n])
    _equal(next(half), {k: v if k == "key" else v[len(v) // 2 :] for k, v in whole[n].items()})
  with pytest.raises(DataError, match="other data, another seed"):
    FACTORIES[name](corpus, features, tokenizer, seed=2).restore(states[1])
  with pytest.raises(DataError, match="state of a data iterator"):
    batches.restore({"batch": 1})


@pytest.mark.long
@pytest.mark.parametrize("name", ["lm", "flow"])
def test_worker_processes_give_the_same_batches(made, tokenizer, name):
  corpus, features = made
  count = FACTORIES[name](corpus, features, tokenizer).plan.batches + 3
  threads = _take(FACTORIES[name](corpus, features, tokenizer), count)
  workers = FACTORIES[name](corpus, features, tokenizer, workers=2)
  for batch, expected in zip(_take(workers, count), threads, strict=True):
    _equal(batch, expected)
  workers.restore({"batch": 3, "plan": workers.plan.fingerprint()})
  _equal(next(workers), threads[3])


def test_epochs_end(made, tokenizer):
  batches = FACTORIES["speaker"](*made, tokenizer, epochs=2)
  assert len(list(batches)) == 2 * batches.plan.batches


# What is in the batches.


@pytest.mark.parametrize("tag", ["", "speaker"])
def test_lm_rows_hold_each_utterance_in_its_own_segment(made, tokenizer, tag):
  corpus, features = made
  config = tiny().lm
  batches = FACTORIES["lm"](corpus, features, tokenizer, interleave=0.5, speaker_tag=tag, speaker=bool(tag))
  layouts = set()
  for n in range(batches.plan.batches):
    batch, (_, rows) = next(batches), batches.plan.batch(n)
    for r, examples in enumerate(rows):
      segments = batch["segments_BL"][r]
      used = int((segments > 0).sum())
      assert (np.diff(segments[:used]) >= 0).all() and not segments[used:].any()
      assert (batch["targets_BL"][r, used:] == sequence.IGNORE).all()
      for s, i in enumerate(examples.tolist()):
        here = segments == s + 1
        example = corpus[i]
        text = [*tokenizer.encode(f"Speaker {example['speaker']}"), tokenizer.end_of_prompt_id] if tag else []
        text += text_lib.transcript_ids(example, tokenizer).tolist()
        speech = features.read("speech_tokens", i)
        found = [batch[k][r][here].tolist() for k in ("ids_BL", "token_types_BL", "targets_BL")]
        both = [sequence.training_row(text, speech, config, interleaved=x, speaker=bool(tag)) for x in (False, True)]
        both = [[v.tolist() for v in (row.ids_L, row.token_types_L, row.targets_L)] for row in both]
        assert found in both
        if both[0] != both[1]:
          layouts.add(both.index(found))
        assert batch["positions_BL"][r][here].tolist() == list(range(here.sum()))
        assert not tag or (batch["speaker_BSE"][r, s] == i).all()
      assert not tag or not batch["speaker_BSE"][r, len(examples) :].any()
  assert tag or layouts == {0, 1}
  assert 0 < batches.stats["padding"] < 0.25


def test_lm_text_is_read_from_its_feature_only_if_this_tokenizer_made_it(made, tokenizer):
  corpus, features = made
  corpus.reads.clear()
  stored = FACTORIES["lm"](corpus, features, tokenizer)
  assert not corpus.reads
  split = TextTokenizer.load(tiny_tokenizer_dir(), split_cjk=True)
  FACTORIES["lm"](corpus, features, split)
  assert sorted(corpus.reads) == list(range(EXAMPLES))
  plain = factories._texts(corpus, features, tokenizer, False)[0]
  assert [plain[i].tolist() for i in range(6)] == [
    text_lib.transcript_ids(corpus[i], tokenizer).tolist() for i in range(6)
  ]
  instructed = plain[0].tolist()
  assert instructed[: instructed.index(tokenizer.end_of_prompt_id)] == tokenizer.encode("softly")
  assert stored.plan.dropped == 0


def test_flow_rows_are_tokens_and_twice_as_many_frames(made, tokenizer):
  corpus, features = made
  batches, seen = FACTORIES["flow"](corpus, features, tokenizer, keep_rest=True, shuffle=False), []
  for n in range(batches.plan.batches):
    batch = next(batches)
    for r, examples in enumerate(batches.plan.batch(n)[1]):
      U = batch["token_lengths_B"][r]
      if not len(examples):
        assert U == 0 and not batch["mel_BTM"][r].any() and not batch["tokens_BU"][r].any()
        continue
      [i] = examples.tolist()
      seen.append(i)
      np.testing.assert_array_equal(batch["tokens_BU"][r, :U], features.read("speech_tokens", i))
      np.testing.assert_array_equal(batch["mel_BTM"][r, : 2 * U], features.read("mel", i))
      assert not batch["mel_BTM"][r, 2 * U :].any() and (batch["speaker_BE"][r] == i).all()
  assert sorted(seen) == list(range(EXAMPLES))


def test_vocoder_crops_are_aligned_and_move(made, tokenizer):
  corpus, features = made
  batches, starts = FACTORIES["vocoder"](corpus, features, tokenizer), {}
  for n in range(2 * batches.plan.batches):
    batch = next(batches)
    for r, [i] in enumerate(batches.plan.batch(n)[1]):
      assert batch["lengths_B"][r] == min(25, features.lengths("mel")[i])
      start = round((batch["mel_BTM"][r, 0, 0] - i) * 16)
      starts.setdefault(int(i), []).append(start)
      end = start + batch["lengths_B"][r]
      np.testing.assert_array_equal(batch["f0_BT"][r, : end - start], features.read("f0", i)[start:end])
      wave_A = soundfile.read(io.BytesIO(corpus[i]["audio"]), dtype="float32")[0]
      np.testing.assert_array_equal(batch["audio_BA"][r, : (end - start) * HOP], wave_A[start * HOP : end * HOP])
      assert not batch["audio_BA"][r, (end - start) * HOP :].any()
  assert sum(len(set(s)) == 2 for s in starts.values()) > EXAMPLES / 2


def test_asr_rows_spell_the_text_and_speaker_rows_name_the_speaker(made, tokenizer):
  from cosyjax.speech_tokenizer import units

  corpus, features = made
  batches = FACTORIES["asr"](corpus, features, tokenizer)
  batch = next(batches)
  for r, [i] in enumerate(batches.plan.batch(0)[1]):
    assert units.decode(batch["units_BL"][r]) == corpus[i]["text"]
    assert batch["unit_lengths_B"][r] == len(corpus[i]["text"].encode())
    T = batch["lengths_B"][r]
    np.testing.assert_array_equal(batch["log_mel_BTM"][r, :T], features.read("log_mel_16k", i).astype(np.float32))
    np.testing.assert_array_equal(batch["f0_BT"][r, : T // 2], features.read("f0", i))
  batches = FACTORIES["speaker"](corpus, features, tokenizer, speakers=("s2", "s1"))
  assert len(batches.plan.used) == sum(name in ("s1", "s2") for name in corpus.names)
  batch = next(batches)
  for r, [i] in enumerate(batches.plan.batch(0)[1]):
    assert batches.speakers[batch["labels_B"][r]] == corpus[i]["speaker"]
    valid = batch["fbank_BTM"][r, : batch["lengths_B"][r]]
    assert batch["lengths_B"][r] == min(80, features.lengths("fbank")[i]) and abs(valid.mean()) < 1e-4
  with pytest.raises(DataError, match="no example can be used"):
    FACTORIES["speaker"](corpus, features, tokenizer, speakers=("nobody",))


# Damage and limits.


def test_unreadable_examples_are_skipped_counted_and_end_the_run_above_the_limit(made, tokenizer):
  corpus, features = made
  damaged = [dict(corpus[i]) for i in range(EXAMPLES)]
  damaged[5]["audio"] = damaged[5]["audio"][:200]
  batches = FACTORIES["vocoder"](Corpus(damaged), features, tokenizer, keep_rest=True, epochs=1)
  rows = [batch["lengths_B"] for batch in batches]
  assert batches.stats["bad"] == 1
  assert sum(int((r > 0).sum()) for r in rows) == EXAMPLES - 1
  for i in (7, 9, 11):
    damaged[i]["audio"] = b"no audio"
  with pytest.raises(TrainingError, match=r"examples cannot be read, more than 0\.10%.*AudioError"):
    list(FACTORIES["vocoder"](Corpus(damaged), features, tokenizer, epochs=1))
  batches = FACTORIES["vocoder"](Corpus(damaged), features, tokenizer, keep_rest=True, epochs=2, bad_share=0.2)
  assert len(list(batches)) == 2 * batches.plan.batches and batches.stats["bad"] == 4


def test_rows_must_split_evenly(made, tokenizer):
  with pytest.raises(ConfigError, match="cannot be split evenly"):
    FACTORIES["lm"](*made, tokenizer, process=(0, 3))


def test_a_value_that_is_not_finite_is_no_example(made):
  with pytest.raises(DataError, match="finite"):
    rows_lib._check({"x": np.array([np.nan], np.float32)}, {"x": ((3,), np.float32)})
