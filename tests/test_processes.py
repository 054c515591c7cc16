"""Where processes wait for each other. Real ones run in `tests/test_kill_resume.py`."""

import jax
import jax.numpy as jnp
import pytest

from cosyjax.training import processes


@pytest.fixture
def said(monkeypatch) -> list[str]:
  """What happens, in order, in a process that takes itself for one of two."""
  events: list[str] = []
  monkeypatch.setattr(jax, "process_count", lambda *a: 2)
  monkeypatch.setattr(processes, "meet", lambda name: events.append(f"met: {name}"))
  return events


class Told:
  """A jitted function that tells when it is compiled and run."""

  def __init__(self, events: list[str]) -> None:
    self.events, self.program = events, jax.jit(lambda state, batch: (state + batch["x"].sum(), batch["x"] * 2))

  def lower(self, *args):
    compiled = self.program.lower(*args).compile()

    def run(*args):
      self.events.append("run")
      return compiled(*args)

    self.events.append("compiled")
    return type("Lowered", (), {"compile": lambda self: run})()


def test_processes_meet_after_compiling_and_before_running_each_shape(said):
  program = processes.together(Told(said), "step")
  state = jnp.float32(1)
  for length in (4, 4, 6, 4):
    state, doubled = program(state, {"x": jnp.ones(length)})
    assert doubled.shape == (length,)
  assert float(state) == 19
  first = ["compiled", "met: step compiled", "run"]
  assert said == [*first, "run", *first, "run"]


def test_a_type_of_its_own_is_compiled_for_itself(said):
  program = processes.together(Told(said), "step")
  program(jnp.float32(1), {"x": jnp.ones(4)})
  assert program(jnp.float32(1), {"x": jnp.ones(4, jnp.bfloat16)})[1].dtype == jnp.bfloat16
  assert said.count("compiled") == 2


def test_one_process_runs_the_jitted_function_itself():
  program = jax.jit(lambda x: x)
  assert processes.together(program, "step") is program
  assert processes.agree(7) == 7 and processes.agree(None) is None
  processes.meet("alone")  # returns at once
