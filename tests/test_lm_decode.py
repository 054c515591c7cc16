"""Decoding: the reference's tokens, batches against single requests, lengths, stopping, appending."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import LMConfig, SpeechVocab, tiny
from cosyjax.errors import TokenError
from cosyjax.lm import decode, qwen2, sequence
from cosyjax.lm.sampling import NoisyArgmax
from tests.golden_files import GOLDEN
from tests.test_lm_model import load_lm, random_lm

# Few speech ids, so that random parameters draw the stopping ids often.
SMALL = dataclasses.replace(tiny().lm, width=32, ffn=64, layers=2, text_vocab=64, speech_vocab=SpeechVocab(40))

# What the public PyTorch modules decode from `lm_decode_*` when the attention mask of each
# step covers the whole cache.
SEEING_ALL = json.loads((GOLDEN / "lm_decode_whole_cache.json").read_bytes())


@pytest.fixture(scope="module")
def lm(release):
  return load_lm(release)


@pytest.fixture(scope="module")
def small():
  return random_lm(SMALL, seed=3)


def small_rows(count=5, seed=0):
  """Rows of different lengths: (ids, kinds)."""
  rng = np.random.default_rng(seed)
  pick = lambda size, top: rng.integers(0, top, size)
  return [
    sequence.known_text_sequence(pick(i, 64), pick(2 + i, 64), pick(3 * i % 7, 40), config=SMALL) for i in range(count)
  ]


def keys(*seeds):
  data = np.stack([np.zeros(len(seeds), np.uint32), np.array(seeds, np.uint32)], axis=1)
  return jax.random.wrap_key_data(data, impl="threefry2x32")


def golden_request(data):
  row = sequence.known_text_sequence(
    data["prompt_text"][0], data["text"][0], data["prompt_speech"][0], config=LMConfig()
  )
  size = data["text"].shape[1]
  return row, size * int(data["min_ratio"]), size * int(data["max_ratio"])


@pytest.mark.parametrize("name", SEEING_ALL)
def test_tokens_equal_the_public_modules_that_see_the_whole_cache(lm, golden, name):
  model, params = lm
  data = golden(name)
  row, least, most = golden_request(data)
  sampler = NoisyArgmax(jnp.asarray(data["noise"]))
  rule, shapes = decode.FORBID_END, {"length": 48, "capacity": 128}
  [out] = decode.generate(model, params, [row], keys(0), [least], [most], sampler=sampler, below_min=rule, **shapes)
  assert out.tokens_U.tolist() == SEEING_ALL[name]
  assert out.ended == "length"


@pytest.mark.parametrize("name", SEEING_ALL)
def test_tokens_equal_the_golden_file(lm, golden, name, monkeypatch):
  """The golden tokens, under the mask that made them.

  The released code hands each decode step a mask of one position. The Transformers version
  behind the golden files fills such a mask up with False, so every new token saw nothing
  but the first position (not even itself); that is rebuilt here. The library sees all.
  """
  model, params = lm
  data = golden(name)
  row, least, most = golden_request(data)
  sampler = NoisyArgmax(jnp.asarray(data["noise"]))
  ids, kinds = (np.asarray(x)[None] for x in row)
  state = jax.jit(
    lambda p: decode.prefill(
      model, p, ids, kinds, jnp.array([len(row[0])]), jnp.array([least]), jnp.array([most]), keys(0), capacity=128,
      sampler=sampler, below_min=decode.FORBID_END,
    )
  )(params)  # fmt: skip
  monkeypatch.setattr(qwen2, "causal_mask", lambda queries, slots: jnp.broadcast_to(slots == 0, (1, 1, 128)))
  run = lambda p, s: decode.decode_steps(model, p, s, most, sampler=sampler, below_min=decode.FORBID_END)
  state = jax.jit(run)(params, state)
  assert state.counts_B.tolist() == [most]
  np.testing.assert_array_equal(state.tokens_BU[0, :most], data["tokens"])


def test_a_row_of_a_batch_equals_the_request_alone(small):
  """Different prompts, seeds, lengths; then other mates, another order, other buckets and steps."""
  model, params = small
  rows, seeds = small_rows(), (5, 6, 7, 8, 9)
  least, most = (0, 10, 3, 20, 0), (40, 12, 30, 33, 1)
  alone = [
    decode.generate(model, params, [rows[i]], keys(seeds[i]), [least[i]], [most[i]], length=32, capacity=80)[0]
    for i in range(5)
  ]
  assert {r.ended for r in alone} == {"end", "length"} and len({len(r.tokens_U) for r in alone}) > 2
  for order, shapes in (
    ((0, 1, 2, 3, 4), {"batch": 8, "length": 24, "capacity": 96, "steps": 5}),
    ((3, 0, 4), {"batch": 8, "length": 24, "capacity": 96, "steps": 5}),
  ):
    take = lambda values, order=order: [values[i] for i in order]
    together = decode.generate(model, params, take(rows), keys(*take(seeds)), take(least), take(most), **shapes)
    for i, result in zip(order, together, strict=True):
      assert result.tokens_U.tolist() == alone[i].tokens_U.tolist()
      assert result.ended == alone[i].ended


def decode_all(small, rows, seeds, least, most, **rest):
  """Decodes rows of equal bounds, all in the same shapes."""
  count = len(rows)
  shapes = {"batch": 16, "length": 32, "capacity": 128}
  return decode.generate(*small, rows, keys(*seeds), [least] * count, [most] * count, **shapes, **rest)


def test_draws_come_from_the_requests_key(small):
  rows = small_rows(3)[2:] * 4
  first, again = (
    [r.tokens_U.tolist() for r in decode_all(small, rows, seeds, 30, 30)] for seeds in ((1, 2, 1, 3), (3, 4, 5, 1))
  )
  assert first[0] == first[2] == again[3] and first[3] == again[0]
  assert len({tuple(t) for t in first + again}) == 5


def test_lengths_and_stopping_ids(small):
  rows, seeds = small_rows(1) * 16, range(16)
  free = decode_all(small, rows, seeds, 0, 60)
  lengths = [len(r.tokens_U) for r in free]
  assert min(lengths) < 20
  assert all(r.ended == ("end" if n < 60 else "length") for r, n in zip(free, lengths, strict=True))
  assert all(np.all(r.tokens_U < SMALL.speech_vocab.end_id) for r in free)
  assert min(len(r.tokens_U) for r in decode_all(small, rows, seeds, 25, 60)) >= 25
  released = decode_all(small, rows, seeds, 25, 60, below_min=decode.FORBID_END)
  assert min(len(r.tokens_U) for r in released) < 25  # C+1 and C+2 still end a row early
  assert [len(r.tokens_U) for r in decode_all(small, rows, seeds, 4, 4)] == [4] * 16
  assert all(len(r.tokens_U) == 0 and r.ended == "length" for r in decode_all(small, rows, seeds, 0, 0))


class TestState:
  @pytest.fixture(scope="class")
  def start(self, small):
    """Programs of the small model and a state of three rows, one of them idle."""
    model, params = small
    rows = sequence.pad_sequences(small_rows(2), length=16, batch=3)
    begin = jax.jit(lambda *a: decode.prefill(model, params, *a, keys(1, 2, 3), capacity=64))
    args = (rows.ids_BL, rows.token_types_BL, rows.lengths_B, jnp.array([9, 9, 0]), jnp.array([12, 30, 0]))
    steps = {n: jax.jit(lambda s, n=n: decode.decode_steps(model, params, s, n)) for n in (1, 40)}
    return begin(*args), steps

  def test_steps_end_when_all_rows_are_done_and_idle_rows_stay_empty(self, start):
    state, steps = start
    end = steps[40](state)
    assert np.all(end.done_B) and end.ended_B[2] == decode.IDLE and end.counts_B[2] == 0
    assert end.filled_B[2] == 0 and not np.any(end.tokens_BU[2])
    assert np.all(np.asarray(end.tokens_BU)[np.arange(64) >= np.asarray(end.counts_B)[:, None]] == 0)
    more = steps[40](end)
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(more, keys_B=0), dataclasses.replace(end, keys_B=0))

  def test_many_steps_in_one_call_equal_one_step_at_a_time(self, start):
    state, steps = start
    end = steps[40](state)
    for _ in range(40):
      state = steps[1](state)
    for name in ("tokens_BU", "counts_B", "ended_B", "recent_BW", "filled_B", "last_B"):
      np.testing.assert_array_equal(getattr(state, name), getattr(end, name))

  def test_the_window_of_recent_ids_is_the_end_of_what_was_emitted(self, start):
    end = start[1][40](start[0])
    for b in range(2):
      emitted = np.asarray(end.tokens_BU)[b, : int(end.counts_B[b])]
      assert len(emitted) >= 9
      window = np.r_[np.full(SMALL.repeat_window, -1), emitted][-SMALL.repeat_window :]
      np.testing.assert_array_equal(end.recent_BW[b], window)

  def test_the_state_keeps_its_shapes(self, start):
    state, steps = start
    shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shape(jax.eval_shape(steps[40], state)) == shape(state)


def test_appending_pieces_equals_one_prompt(small):
  """A prompt in pieces of any lengths draws what the whole prompt draws; a row without a piece is not touched."""
  model, params = small
  (ids, kinds), other = small_rows(5)[4], small_rows(5)[1]
  assert len(ids) == 17
  bounds = jnp.array([0, 0]), jnp.array([20, 20])
  whole = sequence.pad_sequences([(ids, kinds), other], length=20)
  begin = jax.jit(lambda rows, lengths: decode.prefill(model, params, *rows, lengths, *bounds, keys(1, 2), capacity=48))
  expected = begin((whole.ids_BL, whole.token_types_BL), whole.lengths_B)

  first = sequence.pad_sequences([(ids[:5], kinds[:5]), other], length=20)
  state = begin((first.ids_BL, first.token_types_BL), first.lengths_B)
  untouched = int(state.last_B[1])
  extend = jax.jit(lambda state, *a: decode.extend(model, params, state, *a))
  for start, stop in ((5, 11), (11, 12), (12, 17)):
    # Forget what the unfinished prompt drew, as a driver does whose text has not all arrived.
    state = dataclasses.replace(
      state,
      counts_B=state.counts_B.at[0].set(0),
      draws_B=state.draws_B.at[0].set(0),
      recent_BW=jnp.full_like(state.recent_BW, -1).at[1].set(state.recent_BW[1]),
    )
    piece = sequence.pad_sequences([(ids[start:stop], kinds[start:stop]), (ids[:0], kinds[:0])], length=6)
    state = extend(state, piece.ids_BL, piece.token_types_BL, piece.lengths_B)
    assert int(state.last_B[1]) == untouched and int(state.counts_B[1]) <= 1
  assert state.filled_B.tolist() == whole.lengths_B.tolist()
  np.testing.assert_array_equal(state.last_B, expected.last_B)
  run = jax.jit(lambda s: decode.decode_steps(model, params, s, 30))
  a, b = run(state), run(expected)
  np.testing.assert_array_equal(a.tokens_BU, b.tokens_BU)


def test_appending_feeds_the_last_token_first_and_revives_a_stopped_row(small):
  model, params = small
  row = small_rows(3)[2]
  begin = lambda rows, most: jax.jit(
    lambda: decode.prefill(
      model,
      params,
      rows.ids_BL,
      rows.token_types_BL,
      rows.lengths_B,
      jnp.array([9]),
      jnp.array([most]),
      keys(4),
      capacity=48,
    )
  )()
  state = jax.jit(lambda s: decode.decode_steps(model, params, s, 9))(begin(sequence.pad_sequences([row]), 3))
  assert state.ended_B.tolist() == [decode.LENGTH]  # a driver pauses a row by its length
  spoken = np.asarray(state.tokens_BU[0, :3])
  text = sequence.text_tokens([1, 2, 3, 4, 5])
  extend = jax.jit(lambda s, *a: decode.extend(model, params, s, *a))
  piece = sequence.pad_sequences([text])
  state = extend(state.replace(max_tokens_B=jnp.array([20])), piece.ids_BL, piece.token_types_BL, piece.lengths_B)
  assert state.ended_B.tolist() == [decode.RUNNING] and int(state.counts_B[0]) == 4

  parts = [row, (spoken, np.full(3, sequence.SPEECH, np.int32)), text]
  joined = tuple(np.concatenate(x) for x in zip(*parts, strict=True))
  assert int(state.filled_B[0]) == len(joined[0])
  _, cache = jax.jit(lambda *a: model.apply({"params": params}, *a, method=model.prefill))(
    *(x[None] for x in joined), jnp.array([len(joined[0])])
  )
  filled = len(joined[0])
  np.testing.assert_allclose(state.cache[1].v_BKSH[:, :, :filled], cache[1].v_BKSH, atol=1e-5)
  np.testing.assert_allclose(state.cache[1].k_BKHS[..., :filled], cache[1].k_BKHS, atol=1e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"capacity": 20}, "found 2[0-9]"),
    ({"length": 4}, "do not fit"),
    ({"batch": 1}, "do not fit"),
    ({"min_tokens": [0]}, "1 min_tokens"),
    ({"max_tokens": [5, -1]}, "possible"),
  ],
)
def test_what_cannot_be_decoded_is_refused(small, change, message):
  model, params = small
  rows = small_rows(4)[2:]
  request = {"min_tokens": [0, 0], "max_tokens": [9, 9]} | change
  with pytest.raises(TokenError, match=message):
    decode.generate(model, params, rows, keys(0, 1), **request)
