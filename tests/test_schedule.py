"""Schedules: sizes of chunks, the blocks that they imply, presets."""

import itertools

import numpy as np
import pytest

from cosyjax.errors import ConfigError
from cosyjax.inference import schedule as schedule_lib
from cosyjax.inference.schedule import Schedule
from cosyjax.layers.masks import equal_blocks
from tests import upstream

M = 25


def chunks(schedule, prompt, count):
  return list(itertools.islice(schedule.chunks(prompt, M), count))


def test_upstream_chunks_are_those_of_the_upstream_code():
  assert chunks(upstream.SCHEDULE, 23, 4) == [27, 50, 100, 100]  # the first one ends prompt and output on a border
  assert chunks(upstream.SCHEDULE, 50, 3) == [25, 50, 100]
  np.testing.assert_array_equal(upstream.blocks(23, 60, M), equal_blocks(83, M))


@pytest.mark.parametrize("prompt", [0, 1, 12, 24, 25, 26, 87])
def test_first_chunk_ends_on_a_chunk_border_where_asked(prompt):
  for first in (1, 10, 15, 25):
    [size] = chunks(Schedule(first, (M,), border=True), prompt, 1)
    assert (prompt + size) % M == 0 and first <= size < first + M
    assert chunks(Schedule(first, (M,)), prompt, 1) == [first]


@pytest.mark.parametrize("schedule", [Schedule(7, (3, 11)), Schedule(7, (3, 11), border=True)])
@pytest.mark.parametrize("prompt", [0, 24, 25, 60])
def test_blocks_are_whole_prompt_chunks_then_new_ones(schedule, prompt):
  new = 100
  blocks = schedule.blocks(prompt, new, M)
  whole = prompt // M * M
  np.testing.assert_array_equal(blocks[:whole], equal_blocks(whole, M))
  sizes = np.bincount(blocks)[whole // M :]
  expected = chunks(schedule, prompt, len(sizes))
  expected[0] += prompt - whole
  np.testing.assert_array_equal(sizes[:-1], expected[:-1])
  assert sizes[-1] <= expected[-1] and np.all(np.diff(blocks) >= 0)
  assert max(np.bincount(schedule.blocks(prompt, 1000, M))) <= max(schedule.largest(M), M)


@pytest.mark.parametrize("name", [*sorted(schedule_lib.PRESETS), upstream.SCHEDULE])
def test_largest_bounds_every_block(name):
  schedule = schedule_lib.resolve(name, M)
  for prompt in range(0, 60):
    first, *rest = chunks(schedule, prompt, 6)
    assert max(first + prompt % M, *rest) <= schedule.largest(M)
  assert schedule_lib.resolve(schedule, M) is schedule


@pytest.mark.parametrize("make", [lambda: Schedule(0, (5,)), lambda: Schedule(5, ()), lambda: Schedule(5, (5, 0))])
def test_chunks_without_tokens_are_refused(make):
  with pytest.raises(ConfigError, match="at least one token"):
    make()
  with pytest.raises(ConfigError, match="balanced"):
    schedule_lib.resolve("fastest", M)
