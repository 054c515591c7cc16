"""The mesh, and the one table from logical axes to mesh axes.

Parameters name logical axes in their initialisers (`cosyjax.layers.basic`). A mesh has the
axes data, fsdp and tensor; any may have size 1. Nothing else in the library knows about
devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cosyjax.errors import ConfigError
from cosyjax.layers.basic import unbox

MESH_AXES = ("data", "fsdp", "tensor")
ROW_AXES = ("data", "fsdp")  # the rows of a batch are spread over both

RULES: tuple[tuple[str, str | None], ...] = (
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("kv_heads", None),  # two of them: fewer than a tensor axis is wide
  ("head_dim", None),
  ("mlp", "tensor"),
  ("vocab", "tensor"),
  ("conv_in", "fsdp"),
  ("conv_out", "tensor"),
  ("norm", None),
  ("layers", None),
)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of `data * fsdp * tensor` devices. The only place where a mesh is made.

  Axis types are Auto: Linen's logical constraints do not run under Explicit axes. Where devices have places on
  a torus (TPU), the mesh axes follow its axes; elsewhere they follow the order in which devices are listed.

  Raises:
    ConfigError: the product is not the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = (data, fsdp, tensor)
  if int(np.prod(shape)) != len(devices):
    raise ConfigError(
      f"mesh {dict(zip(MESH_AXES, shape, strict=True))} needs {np.prod(shape)} devices, {len(devices)} given"
    )
  return Mesh(_placed(devices, shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def _placed(devices: list[jax.Device], shape: tuple[int, int, int]) -> np.ndarray:
  """The devices in the mesh's shape.

  TPUs are listed machine by machine, each a square of four chips: neighbours in that list make zigzags of the torus,
  and its links are shared by several groups. JAX's assignment gives tensor and fsdp, which talk most, whole axes of
  the torus first, so that their groups are rings or planes. Slices are joined by the slower network of the
  data centre: only data goes across them, if it divides.
  """
  listed = np.empty(len(devices), dtype=object)
  listed[:] = devices
  listed = listed.reshape(shape)
  if any(getattr(device, "coords", None) is None for device in devices):
    return listed
  slices = len({getattr(device, "slice_index", None) for device in devices})
  try:
    if slices == 1:
      return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices == 0:
      inside = (shape[0] // slices, *shape[1:])
      return mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, allow_split_physical_axes=True)
  except (AssertionError, NotImplementedError, ValueError):  # a part of a torus, or a shape that JAX cannot place
    pass
  return listed


def mesh_shape(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
  """Sizes of the mesh axes with -1, which at most one of them may be, replaced by what is left.

  Raises:
    ConfigError: two are -1, one is below 1, or the devices do not divide.
  """
  sizes = [data, fsdp, tensor]
  text = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
    raise ConfigError(f"mesh {text}: expected sizes of 1 or more, at most one of them -1 (what is left)")
  known = int(np.prod([size for size in sizes if size != -1]))
  if devices % known or (-1 not in sizes and known != devices):
    raise ConfigError(f"mesh {text} does not fit {devices} devices")
  return tuple(devices // known if size == -1 else size for size in sizes)


def shardings_of(abstract: Any, mesh: Mesh) -> Any:
  """Tree of `NamedSharding` for an abstract (boxed) parameter tree.

  Args:
    abstract: what `jax.eval_shape(module.init, ...)["params"]` returns, logical axes included.
    mesh: from `make_mesh`.

  Returns:
    The unboxed tree's structure. An axis whose size its mesh axis does not divide is
    replicated: small models must run on any mesh.
  """
  specs = nn.logical_to_mesh_sharding(nn.get_partition_spec(abstract), mesh, RULES)

  def fit(leaf: Any, sharding: NamedSharding) -> NamedSharding:
    spec = tuple(sharding.spec) + (None,) * (len(leaf.shape) - len(sharding.spec))
    kept = [a if a is None or size % mesh.shape[a] == 0 else None for size, a in zip(leaf.shape, spec, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*kept))

  return jax.tree.map(fit, unbox(abstract), specs)


def traced_under(mesh: Mesh, function: Callable) -> Callable:
  """`function`, to be jitted: while it is traced, `cosyjax.layers.constrain` knows the mesh."""

  @functools.wraps(function)
  def wrapped(*args: Any, **kwargs: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return wrapped


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows (the first axis) over data and fsdp; the same on every device along tensor."""
  return NamedSharding(mesh, PartitionSpec(ROW_AXES))


def row_count(mesh: Mesh) -> int:
  """How many parts the rows of a batch are spread over: a batch's rows are a multiple of it."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def process_share(mesh: Mesh) -> tuple[int | tuple[int, ...], int]:
  """(p, P): this process reads the p-th of P equal parts of each batch's rows.

  Where the rows of a process are no aligned run, p is a tuple: on a torus a machine's chips lie in several of
  the mesh's lines. Which row lies on which chip has no influence on what a row is. Processes that hold the same
  rows (a tensor axis wider than one machine) read the same parts.

  Raises:
    ConfigError: processes hold unequal shares of the rows, or shares that overlap in part.
  """
  held, rows = _held(mesh), row_count(mesh)
  shares = set(held.values())
  if len({len(share) for share in shares}) > 1 or sum(map(len, shares)) != rows:
    raise ConfigError(f"mesh {dict(mesh.shape)}: processes hold unequal or overlapping parts of {rows}: {held}")
  mine = held[jax.process_index()]
  size = len(mine)
  if mine[0] % size == 0 and mine[-1] - mine[0] + 1 == size:
    return mine[0] // size, rows // size
  return mine, rows


@functools.lru_cache(maxsize=16)  # read at every step
def _held(mesh: Mesh) -> dict[int, tuple[int, ...]]:
  """Process -> parts of the rows that its devices hold, in order."""
  process = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
  process = process.reshape(row_count(mesh), -1)
  return {i: tuple(np.flatnonzero((process == i).any(axis=1)).tolist()) for i in np.unique(process).tolist()}


def share_count(mesh: Mesh) -> int:
  """How many shares like that of this process a batch has, see `process_share`."""
  part, parts = process_share(mesh)
  return parts // len(part) if isinstance(part, tuple) else parts


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Global arrays of this process's rows. The leaf "key" and scalars go to every device.

  Args:
    batch: NumPy arrays; the first axis is this process's rows in order, see `process_share`.
    mesh: from `make_mesh`.

  Raises:
    ConfigError: the mesh does not divide the rows.
  """
  shares, rows, everywhere = share_count(mesh), batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  out = {}
  for name, x in batch.items():
    x = np.asarray(x)
    if name == "key" or x.ndim == 0:
      out[name] = jax.make_array_from_process_local_data(everywhere, x, x.shape)
      continue
    shape = (x.shape[0] * shares, *x.shape[1:])
    if shape[0] % row_count(mesh):
      raise ConfigError(f"batch {name!r}: {shape[0]} rows do not divide over {row_count(mesh)} parts of the mesh")
    out[name] = jax.make_array_from_process_local_data(rows, x, shape)
  return out
