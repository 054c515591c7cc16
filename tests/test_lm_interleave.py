"""Streamed text: the reference's tokens, text in any pieces, layouts, cached prefixes."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import SpeechVocab, tiny
from cosyjax.errors import TextError, TokenError
from cosyjax.lm import decode, sequence
from cosyjax.lm.interleave import Interleaver, stream_tokens
from cosyjax.lm.sampling import NoisyArgmax
from tests.test_lm_model import load_lm, random_lm

# Few speech ids, so that random parameters draw the stopping ids often; groups of 2 and 6.
SMALL = dataclasses.replace(
  tiny().lm,
  width=32,
  ffn=64,
  layers=2,
  text_vocab=64,
  speech_vocab=SpeechVocab(20),
  mix_text=2,
  mix_speech=6,
  max_tokens_per_text=6.0,
)
PROMPTS = {  # transcript, speech
  "sft": ([], []),
  "icl": ([5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]),  # the second group takes new text
  "icl of whole groups": ([5, 6, 7, 8], [1, 2, 3, 4, 5, 6]),  # transcript left over, and a whole number of M
  "instruct": ([9, 10, 11], []),
}
TEXT = np.arange(20, 37) % 64


@pytest.fixture(scope="module")
def small():
  return random_lm(SMALL, seed=3)


def key(seed):
  return jax.random.wrap_key_data(np.array([0, seed], np.uint32), impl="threefry2x32")


def speak(small, prompt, pieces, seed=1, **rest):
  row = Interleaver(SMALL, *PROMPTS[prompt])
  return list(stream_tokens(*small, row, pieces, key(seed), **rest))


@pytest.mark.parametrize("name", ["lm_decode_bistream_sft", "lm_decode_bistream_zero_shot"])
def test_tokens_equal_the_golden_file(release, golden, name):
  """Text one id at a time. Noise row i belongs to the row's draw i: a fill that is due takes none."""
  model, params = load_lm(release)
  data = golden(name)
  config = dataclasses.replace(
    model.config, min_tokens_per_text=0.0
  )  # the released code has no least once the text has ended
  row = Interleaver(config, data["prompt_text"][0], data["prompt_speech"][0])
  pieces = data["text"][0][:, None]
  spoken = stream_tokens(
    model, params, row, pieces, key(0), sampler=NoisyArgmax(jnp.asarray(data["noise"])), below_min=decode.FORBID_END
  )
  tokens = list(itertools.islice(spoken, len(data["tokens"])))
  np.testing.assert_array_equal(tokens, data["tokens"])
  assert row.closed and row.new_text == data["text"].size


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_in_any_pieces_gives_the_same_tokens(small, prompt):
  one_by_one = speak(small, prompt, TEXT[:, None])
  assert len(one_by_one) > 30
  rng = np.random.default_rng(0)
  for cuts in ([], [8], *(np.sort(rng.integers(0, len(TEXT) + 1, 6)) for _ in range(4))):  # empty pieces among them
    assert speak(small, prompt, np.split(TEXT, cuts), steps=int(rng.integers(1, 9))) == one_by_one


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_short_texts_come_to_an_end(small, prompt, size):
  """Fewer ids than a group, exactly one, and whole numbers of groups; the end may come with the ids or after."""
  text = TEXT[:size]
  tokens = speak(small, prompt, [text])
  assert tokens == speak(small, prompt, [[], *text[:, None], []])
  before = len(PROMPTS[prompt][0])
  assert (
    int(SMALL.min_tokens_per_text * size) <= len(tokens) <= max(SMALL.max_tokens_per_text * size, 6 * (before + size))
  )
  assert all(0 <= t < SMALL.speech_vocab.codebook_size for t in tokens)


def drive(row, script, ended=decode.FILL):
  """Plays a row that waits (`ended`) after as many ids as the script says each time."""
  appends, append, emitted = [], row.prefill(), 0
  while append is not None:
    appends.append(append)
    if append.mode == decode.CLOSED:
      break
    emitted += min(next(script), append.max_tokens - emitted)
    assert not row.finished(ended)
    append = row.extend(emitted)
  return appends


def tokens_of(append):
  names = {(sequence.SPECIAL, 0): "START", (sequence.SPECIAL, 1): "TURN"}
  return [names.get((k, i), f"{'ts?'[k]}{i}") for i, k in zip(append.ids_L, append.token_types_L, strict=True)]


class TestInterleaver:
  def make(self, prompt, text=(), closed=True):
    row = Interleaver(SMALL, *PROMPTS[prompt])
    row.push(text)
    if closed:
      row.close()
    return row

  def test_without_a_prompt(self):
    row = self.make("sft", [1, 2, 3, 4, 5])
    first, second, last = drive(row, itertools.repeat(6), decode.LENGTH)
    assert tokens_of(first) == ["START", "t1", "t2"] and (first.min_tokens, first.max_tokens, first.mode) == (
      0,
      6,
      decode.OPEN,
    )
    assert tokens_of(second) == ["t3", "t4"] and (second.min_tokens, second.max_tokens, second.mode) == (
      0,
      12,
      decode.OPEN,
    )
    assert tokens_of(last) == ["t5", "TURN"] and (last.min_tokens, last.max_tokens, last.mode) == (
      10,
      30,
      decode.CLOSED,
    )
    assert row.placed == 7

  def test_a_fill_that_is_drawn_early_starts_the_count_again(self):
    first, second, third, _ = drive(self.make("sft", [1, 2, 3, 4, 5, 6]), iter([2, 0, 6]))
    assert [a.max_tokens for a in (first, second, third)] == [6, 8, 8]

  def test_text_that_ends_on_a_group_leaves_the_turn_alone(self):
    _, last = drive(self.make("sft", [1, 2]), itertools.repeat(6))
    assert tokens_of(last) == ["TURN"] and (last.min_tokens, last.max_tokens) == (4, 12)

  def test_with_a_prompt(self):
    row = self.make("icl", [1], closed=False)
    first = row.prefill()
    assert tokens_of(first) == ["START", "t5", "t6", *(f"s{i}" for i in range(1, 7)), "t7", "t1", "s7", "s8"]
    assert first.max_tokens == 4 and row.extend(4) is None
    row.push([2])
    assert row.extend(4) is None
    row.push([3])
    assert tokens_of(row.extend(4)) == ["t2", "t3"]

  def test_a_prompts_speech_goes_behind_the_turn_where_the_text_is_too_short(self):
    row = Interleaver(SMALL, [5], [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert row.prefill() is None
    row.push([1, 2])
    assert row.prefill() is None
    row.close()
    only = row.prefill()
    assert tokens_of(only) == ["START", "t5", "t1", *(f"s{i}" for i in range(1, 7)), "t2", "TURN", "s7", "s8", "s9"]
    assert (only.min_tokens, only.max_tokens, only.mode, only.prefix) == (4, 12, decode.CLOSED, 1)
    assert row.finished(decode.END) and row.finished(decode.LENGTH)

  def test_less_than_a_group_is_a_row_of_known_text(self):
    row = self.make("sft", [3])
    ids, kinds = sequence.known_text_sequence([], [3], config=SMALL)
    opening = row.prefill()
    np.testing.assert_array_equal(opening.ids_L, ids)
    np.testing.assert_array_equal(opening.token_types_L, kinds)

  @pytest.mark.parametrize("prompt", PROMPTS)
  def test_every_opening_begins_with_the_prefix(self, prompt):
    for size in range(1, 6):
      row = self.make(prompt, TEXT[:size])
      opening, (ids, kinds) = row.prefill(), row.prefix
      assert opening.prefix == min(len(ids), len(opening.ids_L) - 1)
      np.testing.assert_array_equal(opening.ids_L[: len(ids)], ids)
      np.testing.assert_array_equal(opening.token_types_L[: len(ids)], kinds)

  def test_rows_of_known_text_begin_with_their_prefix(self):
    row, prefix = (
      sequence.known_text_sequence([1, 2], [3, 4], [5], config=SMALL),
      sequence.known_text_prefix([1, 2], config=SMALL),
    )
    for whole, part in zip(row, prefix, strict=True):
      assert len(part) == 3
      np.testing.assert_array_equal(whole[:3], part)

  def test_rows_are_training_rows(self):
    """What a row holds at its end, fed with the speech of a training row, is that row."""
    for size, prompt in itertools.product(range(1, 9), (0, 2, 6, 8, 12)):
      text, speech = np.arange(size), np.arange(4 * size) % 20
      if prompt >= len(speech) or (prompt and prompt % 6 == 0):
        continue  # after whole groups of speech the training row has a fill, which only the model can draw
      row = Interleaver(SMALL, text[:1] if prompt else [], speech[:prompt])
      row.push(text[1:] if prompt else text)
      row.close()
      if not row.new_text:
        continue
      parts, emitted = [], prompt
      for append in drive(row, itertools.repeat(6), decode.LENGTH):
        parts.append((append.ids_L, append.token_types_L))
        count = append.max_tokens - (emitted - prompt) if append.mode == decode.OPEN else len(speech) - emitted
        parts.append((speech[emitted : emitted + count], np.full(count, sequence.SPEECH)))
        emitted += count
      ids, kinds = (np.concatenate(x) for x in zip(*parts, strict=True))
      whole = sequence.training_row(text, speech, SMALL, interleaved=True)
      np.testing.assert_array_equal(ids, whole.ids_L)
      np.testing.assert_array_equal(kinds, whole.token_types_L)

  def test_nothing_opens_without_new_text(self):
    row = self.make("icl of whole groups", closed=True)
    assert row.prefill() is None and row.new_text == 0
    with pytest.raises(TextError, match="without any"):
      list(stream_tokens(None, None, Interleaver(SMALL), [[], []], key(0)))

  @pytest.mark.parametrize(
    ("closed", "ended", "message"),
    [(False, decode.END, "open: drew the end"), (False, decode.STOP, "stop"), (True, decode.STOP, "stop"),
     (True, decode.FILL, "ended: drew a fill"), (True, decode.IDLE, "ending 5")],
  )  # fmt: skip
  def test_impossible_endings(self, closed, ended, message):
    row = self.make("sft", [1] if closed else [1, 2], closed)
    row.prefill()
    with pytest.raises(TokenError, match=message):
      row.finished(ended)

  def test_misuse(self):
    row = self.make("sft", [1])
    with pytest.raises(TokenError, match="after the end"):
      row.push([1])
    with pytest.raises(TokenError, match="takes no more text"):
      row.extend(0)
    row.prefill()
    with pytest.raises(TokenError, match="is prefilled once"):
      row.prefill()
    with pytest.raises(TokenError, match="takes no more text"):
      row.extend(0)
    with pytest.raises(TokenError, match="transcript"):
      Interleaver(SMALL, [], [1])
    with pytest.raises(TokenError, match="0 to 63"):
      self.make("sft", [64])
    with pytest.raises(TokenError, match="0 to 19"):
      Interleaver(SMALL, [1], [20])


def always(which):
  """Noise under which one id is drawn whenever it may be."""
  return NoisyArgmax(jnp.zeros((64, SMALL.speech_vocab.rows)).at[:, which].set(1e4))


def test_ids_that_cannot_come_are_errors_only_where_the_released_rule_lets_them_be_drawn(small):
  for which in (SMALL.speech_vocab.codebook_size + 1, SMALL.speech_vocab.fill_id):
    with pytest.raises(TokenError, match="stop" if which == SMALL.speech_vocab.codebook_size + 1 else "fill"):
      speak(small, "sft", [TEXT[:5]], sampler=always(which), below_min=decode.FORBID_END)
    tokens = speak(small, "sft", [TEXT[:5]], sampler=always(which))
    assert len(tokens) >= 10 and max(tokens) < SMALL.speech_vocab.codebook_size
  # C is forbidden as long as text may come, whatever the rule, and below the least.
  for rule in (decode.FORBID_ALL, decode.FORBID_END):
    assert len(speak(small, "sft", [TEXT[:5]], sampler=always(SMALL.speech_vocab.end_id), below_min=rule)) == 12


def test_every_draw_is_a_fresh_one(small):
  """Draw i takes noise row i: one after a fill that was drawn is not the same again; a fill that is due takes none."""
  ids = np.r_[SMALL.speech_vocab.fill_id, np.arange(1, 40) % 20]
  sampler = NoisyArgmax(jnp.zeros((40, SMALL.speech_vocab.rows)).at[np.arange(40), ids].set(1e4))
  assert speak(small, "sft", [TEXT[:5]], sampler=sampler) == ids[1:31].tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_cached_prefix_changes_nothing(small, prompt):
  model, params = small
  row = Interleaver(SMALL, *PROMPTS[prompt])
  rows = sequence.pad_sequences([row.prefix], length=24)
  prefix = jax.jit(functools.partial(decode.prefix_cache, model, params))(
    rows.ids_BL, rows.token_types_BL, rows.lengths_B
  )
  row.push(TEXT[:5])
  opening = row.prefill()
  start = opening.prefix
  whole, rest = (
    sequence.pad_sequences([(opening.ids_L[s:], opening.token_types_L[s:])], length=24) for s in (0, start)
  )
  run = jax.jit(lambda *a: model.apply({"params": params}, *a, method=model.prefill)[0])
  follow = jax.jit(lambda *a: model.apply({"params": params}, *a, method=model.step)[0])
  starts = np.array([start], np.int32)
  padded = decode.pad_cache(prefix, 48)
  np.testing.assert_allclose(
    follow(rest.ids_BL, rest.token_types_BL, rest.lengths_B, starts, padded),
    run(whole.ids_BL, whole.token_types_BL, whole.lengths_B),
    atol=1e-5,
  )
  assert speak(small, prompt, [TEXT], prefix=prefix) == speak(small, prompt, [TEXT])
