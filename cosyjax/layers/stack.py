"""Two layouts of one parameter tree: a stack of layers as separate arrays, or stacked.

Separate (`layers_0`, `layers_1`, ...) is what decoding wants: every matrix is one array that
a step reads in place. Stacked (`layers`, with a leading axis) is what `nn.scan` trains:
one layer is compiled, whatever their number. Values are the same, bit for bit.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import CheckpointError
from cosyjax.layers.remat import remat as wrap

Tree = dict[str, Any]

_FEW_LAYERS = 6  # that `unrolled` writes out


def stack_layers(params: Tree, name: str = "layers") -> Tree:
  """Replaces `name_0` ... `name_{n-1}` of every level by one `name` with a leading layer axis.

  Args:
    params: nested dict of plain arrays (NumPy or JAX; under `jax.eval_shape` also abstract ones).
    name: stem of the layers' names.

  Raises:
    CheckpointError: an index is missing, or the layers differ in structure or shape.
  """
  pattern = re.compile(rf"{re.escape(name)}_(\d+)")
  layers = {int(m[1]): value for key, value in params.items() if (m := pattern.fullmatch(key))}
  out = {key: stack_layers(value, name) if isinstance(value, dict) else value
         for key, value in params.items() if not pattern.fullmatch(key)}  # fmt: skip
  if not layers:
    return out
  if sorted(layers) != list(range(len(layers))):
    raise CheckpointError(
      f"stack of layers {name}: expected {name}_0 to {name}_{len(layers) - 1}, found {list(layers)}"
    )
  try:
    out[name] = jax.tree.map(_stack, *(layers[i] for i in range(len(layers))))
  except ValueError as error:
    raise CheckpointError(f"stack of layers {name}: layers differ: {error}") from error
  return out


def unstack_layers(params: Tree, name: str = "layers") -> Tree:
  """Inverse of `stack_layers`: every `name` of the tree becomes `name_0`, `name_1`, ...

  Raises:
    CheckpointError: the arrays under one `name` disagree on the number of layers.
  """
  out = {}
  for key, value in params.items():
    if not isinstance(value, dict):
      out[key] = value
    elif key != name:
      out[key] = unstack_layers(value, name)
    else:
      counts = {leaf.shape[0] for leaf in jax.tree.leaves(value)}
      if len(counts) != 1:
        raise CheckpointError(f"stack of layers {name}: arrays of different leading sizes {sorted(counts)}")
      out |= {f"{name}_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], value) for i in range(counts.pop())}
  return out


def run_layers(
  kind: type[nn.Module],
  settings: tuple,
  count: int,
  name: str,
  x: Any,
  *shared: Any,
  stacked: bool,
  remat: str = "none",
) -> Any:
  """Runs `count` layers `kind(*settings)` one after the other, each `(x, *shared) -> x`, inside a compact method.

  Args:
    kind, settings: module class and what it is made of.
    count: number of layers.
    name: they are `name_0`, `name_1`, ..., or `name` if stacked.
    x, shared: what the first layer takes; `shared` goes to all.
    stacked: layout of the parameters.
    remat: what the backward pass computes again, a name of `cosyjax.layers.remat`.
  """
  kind = wrap(kind, remat, prevent_cse=not stacked)
  if stacked:
    body = lambda layer, x, *shared: (layer(x, *shared), None)
    # Stacks may lie in stacks, and a parameter cannot name one axis twice: these have no name.
    return scanned(body, count, None)(kind(*settings, name=name), x, *shared)[0]
  for i in range(count):
    x = kind(*settings, name=f"{name}_{i}")(x, *shared)
  return x


def scanned(layer: Any, count: int, axis: str | None = "layers", unroll: int = 1) -> Any:
  """`nn.scan` of a layer over stacked parameters. Takes a module class, or a function whose first argument is a module.

  Called with (carry, what all layers share ...) it runs the layers one after the other; each returns
  (carry, result or None). `axis` is the logical name of the parameters' new axis; `unroll` layers are written out
  in each round of the loop.
  """
  return nn.scan(
    layer,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,
    length=count,
    metadata_params={nn.PARTITION_NAME: axis},
    unroll=unroll,
  )


def unrolled(count: int) -> int:
  """How many of `count` stacked layers to write out in a round: all, if they are few and for a single CPU.

  A loop there copies each layer's weights out of the stack, and its gradients and all that the backward pass
  reads into stacks. Elsewhere these copies cost little, and a loop compiles once, whatever the number of layers.
  """
  mesh = jax.sharding.get_abstract_mesh()
  alone = jax.default_backend() == "cpu" and (mesh.empty or mesh.size == 1)
  return count if alone and count <= _FEW_LAYERS else 1


def _stack(*leaves: Any) -> Any:
  return np.stack(leaves) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp.stack(leaves)
