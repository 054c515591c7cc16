"""Slots: rows that come, wait, run and go among mates equal rows alone; steps for some rows only."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import ConfigError
from cosyjax.lm import decode, sequence
from cosyjax.lm.interleave import Interleaver
from tests.test_lm_interleave import PROMPTS, SMALL, TEXT, key, speak
from tests.test_lm_model import random_lm

CAPACITY = 128


@pytest.fixture(scope="module")
def small():
  return random_lm(SMALL, seed=3)


class Programs:
  """A batch of slots and the host's loop over it, as an engine runs it."""

  def __init__(self, small, batch=3):
    model, params = small
    self.prefill = jax.jit(functools.partial(decode.prefill, model, params, capacity=64))
    self.insert = jax.jit(decode.insert, donate_argnums=0)
    self.release = jax.jit(decode.release, donate_argnums=0)
    steps = lambda state, n, active: decode.decode_steps(model, params, state, n, active_B=active)
    extend = lambda state, *rows, **new: decode.extend(model, params, state, *rows, **new)
    self.steps, self.extend = jax.jit(steps, donate_argnums=0), jax.jit(extend, donate_argnums=0)
    self.batch = batch

  def empty(self):
    return decode.empty_state(SMALL, self.batch, CAPACITY)

  def begin(self, state, slot, append, seed):
    bounds = (np.array([value], np.int32) for value in (append.min_tokens, append.max_tokens))
    rows = sequence.pad_sequences([(append.ids_L, append.token_types_L)], length=32)
    one = self.prefill(
      rows.ids_BL, rows.token_types_BL, rows.lengths_B, *bounds, key(seed)[None], mode_B=np.array([append.mode])
    )
    return self.insert(state, one, slot)

  def append(self, state, appends):
    """Appends to some slots: slot -> GivenTokens."""
    none = np.zeros(0, np.int32), np.zeros(0, np.int32)
    rows = [(a.ids_L, a.token_types_L) if (a := appends.get(b)) else none for b in range(self.batch)]
    rows = sequence.pad_sequences(rows, length=16)
    new = {
      f"{name}_B": np.array([getattr(appends.get(b), name, 0) for b in range(self.batch)], np.int32)
      for name in ("min_tokens", "max_tokens", "mode")
    }
    return self.extend(state, rows.ids_BL, rows.token_types_BL, rows.lengths_B, **new)


@pytest.fixture(scope="module")
def programs(small):
  return Programs(small)


def test_rows_among_mates_and_in_any_slot_equal_rows_alone(small, programs):
  """Text arrives at different times, rows come and go, slots are used again, the state grows."""
  requests = [("sft", TEXT, 4), ("icl", TEXT[:6], 5), ("instruct", TEXT[:9], 6), ("sft", TEXT[:7], 7), ("icl", TEXT, 8)]
  expected = [speak(small, prompt, [text], seed) for prompt, text, seed in requests]
  rng = np.random.default_rng(1)
  waiting, state = list(enumerate(requests)), programs.empty()
  slots, texts, results, swaps = {}, {}, {}, 0
  for turn in itertools.count():
    assert turn < 400
    for slot in rng.permutation(programs.batch).tolist():
      if slot not in slots and waiting and rng.random() < 0.4:
        number, (prompt, text, seed) = waiting.pop(0)
        slots[slot], texts[slot] = (number, seed, Interleaver(SMALL, *PROMPTS[prompt]), [False]), list(text)
    appends = {}
    ended, counts = jax.device_get((state.ended_B, state.counts_B))
    for slot, (number, seed, row, begun) in list(slots.items()):
      if not row.closed and rng.random() < 0.5:
        size = int(rng.integers(0, 4))
        row.push(texts[slot][:size])
        texts[slot] = texts[slot][size:]
        if not texts[slot]:
          row.close()
      if not begun[0]:
        if append := row.prefill():
          state, begun[0] = programs.begin(state, slot, append, seed), True
      elif ended[slot] != decode.RUNNING:
        if row.finished(int(ended[slot])):
          results[number] = np.asarray(state.tokens_BU)[slot, : counts[slot]].tolist()
          state, swaps = programs.release(state, slot), swaps + 1
          del slots[slot]
        elif append := row.extend(int(counts[slot])):
          appends[slot] = append
    if appends:
      state = programs.append(state, appends)
    if len(results) == len(requests):
      break
    before = jax.device_get((state.counts_B, state.filled_B, state.draws_B, state.last_B))
    active = rng.random(programs.batch) < 0.7
    state = programs.steps(state, np.int32(rng.integers(0, 5)), active)
    for old, new in zip(before, (state.counts_B, state.filled_B, state.draws_B, state.last_B), strict=True):
      np.testing.assert_array_equal(old[~active], np.asarray(new)[~active])
  assert [results[i] for i in range(len(requests))] == expected
  assert np.all(np.asarray(state.ended_B) == decode.IDLE) and not np.any(state.tokens_BU)
  assert programs.steps._cache_size() == 1  # the number of steps is traced


def test_steps_do_not_run_for_rows_that_are_not_active(small):
  """The loop ends at once when no active row runs, however many steps it may take."""
  model, params = small
  row = Interleaver(SMALL)
  row.push(TEXT)
  opening = row.prefill()
  rows = sequence.pad_sequences([(opening.ids_L, opening.token_types_L)] * 2, length=8)
  start = lambda: decode.prefill(
    model, params, rows.ids_BL, rows.token_types_BL, rows.lengths_B, jnp.array([9, 9]), jnp.array([30, 30]),
    jnp.stack([key(1), key(2)]), capacity=64, mode_B=jnp.array([decode.KNOWN] * 2),
  )  # fmt: skip
  run = lambda s, n, active: decode.decode_steps(model, params, s, n, active_B=active)
  state = jax.jit(start)()
  run = jax.jit(run)
  none = run(state, 50, np.array([False, False]))
  # A step writes to free slots even where nothing runs: not one was taken.
  jax.tree.map(np.testing.assert_array_equal, none.cache, state.cache)
  one = run(none, 5, np.array([False, True]))
  assert none.counts_B.tolist() == [1, 1] and one.counts_B.tolist() == [1, 6]
  both = run(state, 5, np.array([True, True]))
  np.testing.assert_array_equal(one.tokens_BU[1], both.tokens_BU[1])
  late = run(one, 5, np.array([True, False]))
  np.testing.assert_array_equal(late.tokens_BU, both.tokens_BU)


def test_a_row_that_grows_or_moves_keeps_its_tokens(small, programs):
  row = Interleaver(SMALL)
  row.push(TEXT[:1])
  row.close()
  state = programs.begin(jax.jit(programs.empty)(), 1, row.prefill(), 3)
  grown = jax.jit(decode.grow, static_argnums=1)(state, 160)
  assert grown.capacity == 160 and grown.cache[0].k_BKHS.shape[-1] == 160
  programs = Programs(small)
  a, b = (programs.steps(s, 8, np.array([True] * 3)) for s in (state, grown))
  np.testing.assert_array_equal(a.tokens_BU[1], b.tokens_BU[1, :CAPACITY])
  assert int(a.counts_B[1]) > 1
  with pytest.raises(ConfigError, match="does not fit"):
    decode.grow(a, 100)
