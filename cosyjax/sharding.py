"""The mesh, and the one table from logical axes to mesh axes.

Parameters name logical axes in their initialisers (`cosyjax.layers.basic`). A mesh has the
axes data, fsdp and tensor; any may have size 1. Nothing else in the library knows about
devices.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from cosyjax.errors import ConfigError
from cosyjax.layers.basic import unbox

MESH_AXES = ("data", "fsdp", "tensor")

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

  Axis types are Auto: Linen's logical constraints do not run under Explicit axes.

  Raises:
    ConfigError: the product is not the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = (data, fsdp, tensor)
  if int(np.prod(shape)) != len(devices):
    raise ConfigError(
      f"mesh {dict(zip(MESH_AXES, shape, strict=True))} needs {np.prod(shape)} devices, {len(devices)} given"
    )
  return Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


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
    return NamedSharding(mesh, jax.sharding.PartitionSpec(*kept))

  return jax.tree.map(fit, unbox(abstract), specs)
