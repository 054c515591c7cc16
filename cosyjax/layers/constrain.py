"""Where activations lie on the mesh: their rows over the axes data and fsdp.

Shardings of parameters alone leave the compiler a choice for activations, and it follows the
parameters: vectors looked up in a table that is split by width are split by width, and so is
everything after them, with all rows on every device and a reduction after every product. One
constraint where hidden vectors are made decides it for the whole network behind them.

Constraints hold for the mesh that is set while a function is traced (`jax.set_mesh`, or
`jax.sharding.use_abstract_mesh` inside the function); without one they do nothing.
"""

import math

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

ROWS = ("data", "fsdp")  # mesh axes that the rows of a batch lie over


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
  """x with its first axes placed over mesh axes; the others are left to the compiler.

  Args:
    x: any array.
    axes: mesh axes (one, or several, or None: left to the compiler) of each leading axis of x. One whose
      size the mesh axes do not divide, or that the mesh lacks, is left to the compiler too.

  Returns:
    x itself where no mesh is set, or one of a single device, or inside a `shard_map`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if _nothing_to_do(mesh):
    return x
  free = PartitionSpec.UNCONSTRAINED
  spec = [free] * x.ndim
  for i, axis in enumerate(axes):
    names = (axis,) if isinstance(axis, str) else axis or ()
    if names and all(name in mesh.shape for name in names):
      parts = math.prod(mesh.shape[name] for name in names)
      spec[i] = names if x.shape[i] % parts == 0 else free
  return x if all(part is free for part in spec) else jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def shard_rows(x: jax.Array) -> jax.Array:
  """Activations [B, ...] with their rows over data and fsdp."""
  return constrain(x, ROWS)


def shard_looked_up(x_BLD: jax.Array) -> jax.Array:
  """Vectors fresh from embedding tables (logical axes "vocab", "embed"), moved from the tables' layout to rows.

  The table is split by width over fsdp. Saying so before the rows are asked for makes the gradient take the same way
  back: it is moved to widths first and summed over data alone, where a whole table of zeros would
  otherwise be filled and summed on every device.
  """
  return shard_rows(constrain(x_BLD, "data", None, "fsdp"))


def shard_none(x: jax.Array) -> jax.Array:
  """x whole on every device: for a weight that every round of a loop reads, gathered once before the loop."""
  mesh = jax.sharding.get_abstract_mesh()
  return x if _nothing_to_do(mesh) else jax.lax.with_sharding_constraint(x, PartitionSpec())


def _nothing_to_do(mesh: AbstractMesh) -> bool:
  return mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types)
