"""Several processes of one run: where they wait for each other, and what they agree on.

Programs that exchange data between processes have little patience: on CPU the exchange fails when
a process comes more than half a minute after another, and compiling alone may take longer than that
on one of them. So wherever one process may have had more to do, they first meet at the coordinator,
which waits as long as it takes. With a single process all of this does nothing.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

PATIENCE = 3600.0  # seconds
_count = itertools.count()  # every process meets the same number of times, and each meeting has a name of its own


def meet(name: str, patience: float = PATIENCE) -> None:
  """Returns once every process of the run has called it; nothing passes between their devices.

  Args:
    name: what they have done until then, for the error.
    patience: seconds to wait for the last one.

  Raises:
    jax.errors.JaxRuntimeError: a process did not come in time, or has died.
  """
  if jax.process_count() > 1:
    from orbax.checkpoint import multihost

    wait = multihost.get_barrier_sync_fn()
    wait(key=f"cosyjax {next(_count)} {name}", timeout_ms=round(1000 * patience))


def agree(value: int | None) -> int | None:
  """Process 0's value, on all processes.

  Args:
    value: a number from 0 to 2**31 - 1, or None.
  """
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  meet("agree")
  found = int(multihost_utils.broadcast_one_to_all(np.asarray(-1 if value is None else value, np.int32)))
  return None if found < 0 else found


def together(program: Any, what: str) -> Callable[..., Any]:
  """A jitted function, called by every process: they meet once it has been compiled for new shapes, then run it.

  Args:
    program: from `jax.jit`. Its first argument (a state, or parameters) has the same shapes in every call.
    what: its name, for the error of `meet`.

  Returns:
    A function of the same arguments; the jitted function itself if there is one process.
  """
  if jax.process_count() == 1:
    return program
  ready: dict[Any, Callable[..., Any]] = {}

  def call(*args: Any) -> Any:
    leaves, tree = jax.tree.flatten(args[1:])
    shapes = tree, *((np.shape(x), x.dtype) for x in leaves)
    if shapes not in ready:
      ready[shapes] = program.lower(*args).compile()
      meet(f"{what} compiled")
    return ready[shapes](*args)

  return call
