"""Work on the rows of a batch one after the other, as far as they lie on one device."""

import math
from collections.abc import Callable
from typing import Any

import jax

from cosyjax.layers.constrain import ROWS, constrain


def device_parts(size: int, *axes: str) -> int:
  """Over how many devices an array's axis of that size lies, if it lies over these mesh axes; 1 if it does not divide.

  Counts for the mesh that is set while a function is traced, as `constrain` does.
  """
  mesh = jax.sharding.get_abstract_mesh()
  parts = math.prod(mesh.shape.get(axis, 1) for axis in axes)
  return parts if size % parts == 0 else 1


def one_row_at_a_time(function: Callable, *arrays: Any) -> jax.Array:
  """`function(*arrays)` in a loop: each round has one row of every device.

  What a round makes on its way is as small as it can be: on TPUs it may then stay in the memory on the chip.

  Args:
    function: arrays [B, ...] to an array [B, ...], each row for itself.
    arrays: [B, ...] each, or None.
  """
  rows = next(x.shape[0] for x in arrays if x is not None)
  parts = device_parts(rows, *ROWS)
  if parts == rows:
    return function(*arrays)
  split = lambda x: constrain(x.reshape(parts, rows // parts, *x.shape[1:]).swapaxes(0, 1), None, ROWS)
  y = jax.lax.map(lambda some: function(*some), jax.tree.map(split, arrays))
  return y.swapaxes(0, 1).reshape(rows, *y.shape[2:])
