"""The training state: one value that holds all that a step reads and writes, made sharded."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from cosyjax.errors import CheckpointError
from cosyjax.layers.basic import unbox
from cosyjax.sharding import shardings_of
from cosyjax.training.optimiser import OptimConfig

Init = Callable[[jax.Array], Any]  # key -> boxed params, or (boxed params, extra)


@flax.struct.dataclass
class TrainState:
  """Everything that a run needs to go on, apart from its data iterator.

  Attributes:
    step: int32, steps taken, skipped ones included.
    params: float32 master parameters.
    opt_state: of optax.
    ema: moving average of the parameters (their tree), or None.
    extra: whatever else the loss carries from step to step (moving statistics), {} if nothing.
    key: uint32 [2], the run's own key, for what is not drawn from a batch's.
    bad: int32, steps in a row without finite loss and gradient.
    skipped: int32, all such steps.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any
  extra: Any
  key: jax.Array
  bad: jax.Array
  skipped: jax.Array


def abstract_state(init: Init, tx: optax.GradientTransformation, c: OptimConfig) -> TrainState:
  """Shapes, dtypes and logical axes of the state (boxed), without computing anything."""
  return jax.eval_shape(lambda key: _make(init, tx, c, key), jax.random.key(0))


def state_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
  """Shardings of the (unboxed) state: moments and averages lie where their parameters lie."""
  return shardings_of(abstract, mesh)


def with_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
  """The unboxed `jax.ShapeDtypeStruct` tree with shardings: what restoring and compiling ahead take."""
  place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return jax.tree.map(place, unbox(abstract), state_shardings(abstract, mesh))


def create_state(
  init: Init, tx: optax.GradientTransformation, c: OptimConfig, mesh: Mesh, key: jax.Array
) -> TrainState:
  """A fresh state, every array computed in its shards and never whole on one device.

  Args:
    init: key -> boxed parameters, as `module.init(key, ...)["params"]` gives them, or a pair
      of those and the initial `extra`.
    tx: from `make_optimiser`.
    c: says whether there is a moving average.
    mesh: from `cosyjax.sharding.make_mesh`.
    key: seeds parameters and the state's own key.
  """
  shardings = state_shardings(abstract_state(init, tx, c), mesh)
  make = jax.jit(lambda key: unbox(_make(init, tx, c, key)), out_shardings=shardings)
  return make(key)


def replace_params(state: TrainState, params: Any, extra: Any = None) -> TrainState:
  """The state of a run that starts from given weights: optimiser, counts and average afresh.

  Args:
    state: gives the shardings and everything that is not replaced.
    params: tree like `state.params`, of NumPy or JAX arrays.
    extra: tree like `state.extra`, or None to keep that.

  Raises:
    CheckpointError: the trees or shapes differ; both are listed.
  """
  shape_of = lambda tree: {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
  wanted, found = shape_of(state.params), shape_of(params)
  if wanted != found:
    names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    lines = "\n  ".join(f"{n}: expected {wanted.get(n)}, found {found.get(n)}" for n in names[:20])
    raise CheckpointError(f"weights that do not fit this model ({len(names)} differ):\n  {lines}")
  params = jax.tree.map(_place, params, state.params)
  zeros = lambda tree: jax.tree.map(lambda x: _place(np.zeros((), x.dtype), x), tree)
  ema = None if state.ema is None else jax.tree.map(jnp.copy, params)  # a buffer of its own, as the state is donated
  extra = state.extra if extra is None else jax.tree.map(_place, extra, state.extra)
  fresh = {name: zeros(getattr(state, name)) for name in ("step", "bad", "skipped", "opt_state")}
  return state.replace(params=params, ema=ema, extra=extra, **fresh)


def _place(new: Any, old: jax.Array) -> jax.Array:
  """`new`, broadcast, with the type and the layout of `old`; each process copies what its devices hold of it."""
  if isinstance(new, jax.Array):
    return jax.device_put(new.astype(old.dtype), old.sharding)
  whole = np.broadcast_to(np.asarray(new, old.dtype), old.shape)
  return jax.make_array_from_callback(old.shape, old.sharding, lambda index: whole[index])


def _make(init: Init, tx: optax.GradientTransformation, c: OptimConfig, key: jax.Array) -> TrainState:
  made = init(key)
  params, extra = made if isinstance(made, tuple) else (made, {})
  zero = lambda: jnp.zeros((), jnp.int32)
  ema = jax.tree.map(jnp.copy, params) if c.ema else None
  own = jax.random.key_data(jax.random.fold_in(key, 1))
  return TrainState(zero(), params, tx.init(params), ema, extra, own, zero(), zero())
