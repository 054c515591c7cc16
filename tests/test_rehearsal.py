"""Rehearsals: what real calls would compile is compiled, and nothing is computed."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.inference.compilation import Program, count_compilations, rehearse


def test_a_rehearsed_call_compiles_nothing():
  double = Program("double", lambda params, x: {"y": params * x}, donate=(1,))
  total = Program("sum", lambda x: jnp.sum(x["y"]))
  run = lambda x: total(None, double(np.float32(2), x))
  seen, steps = [], []
  count = rehearse(
    lambda: seen.extend(run(np.ones(size, np.float32)) for size in (3, 5, 3)), lambda *step: steps.append(step)
  )
  assert count == 4 and steps[-1] == ("warm-up", 4, 4)
  assert [(s.shape, s.dtype) for s in seen] == [((), np.float32)] * 3
  with count_compilations() as compiled:
    assert [float(run(np.ones(size, np.float32))) for size in (3, 5)] == [6, 10]
  assert compiled.count == 0
  assert rehearse(lambda: run(np.ones(3, np.float32))) == 2  # compiled before: counted all the same
  with count_compilations() as compiled:
    run(np.ones(7, np.float32))
  assert compiled.count == 2


def test_other_threads_really_call_while_one_rehearses():
  program, found = Program("double", lambda x: 2 * x), []

  def run():
    other = threading.Thread(target=lambda: found.append(program(None, np.ones(2, np.float32))))
    other.start()
    other.join()
    assert isinstance(program(None, np.ones(2, np.float32)), jax.ShapeDtypeStruct)

  assert rehearse(run) == 1
  np.testing.assert_array_equal(found[0], [2, 2])


def test_what_fails_in_a_rehearsal_is_raised_and_ends_it():
  program = Program("bad", lambda x: x @ x)
  with pytest.raises(TypeError):
    rehearse(lambda: program(None, np.ones((2, 3), np.float32)))
  assert np.asarray(program(None, np.eye(2, dtype=np.float32))).tolist() == [[1, 0], [0, 1]]
