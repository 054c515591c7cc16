"""Batch norms of the speaker encoder: folded into its weights, or computed (Ioffe and Szegedy 2015).

Wherever CAM++ has a batch norm, it calls `norms`:

    x = norms.standardise(self, "name", x, valid)   # mean 0 and variance 1 of each channel
    x = norms.behind(self, "name", x, valid)        # the same, then a scale and a bias; for a norm behind layer "name"

`FOLDED` is for inference: layers have been trained, their norms are part of their weights, and
nothing is left to do. `BatchNorms` is for training, with the statistics of the batch, and for
evaluation in between, with their moving averages, which are an argument and a result. `fold` makes
weights for the former out of those of the latter.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import named

EPSILON = 1e-5
Statistics = dict[str, dict[str, jax.Array]]  # dotted path of the layer -> "mean", "variance" of each channel, float32
_BEHIND = "_batch"  # suffix of the scale and bias of a norm behind a layer


class Affine(nn.Module):
  """Scale and bias of each channel: a batch norm whose statistics are fixed."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., C] to the same shape and dtype."""
    scale = self.param("scale", named(nn.initializers.ones, "norm"), (x.shape[-1],), jnp.float32)
    bias = self.param("bias", named(nn.initializers.zeros, "norm"), (x.shape[-1],), jnp.float32)
    return (x * scale + bias).astype(x.dtype)


class Folded:
  """Norms that are part of the weights."""

  biased = True  # layers before a norm have a bias, which is the norm's

  def standardise(self, module: nn.Module, name: str, x: jax.Array, valid: jax.Array) -> jax.Array:
    """x as it is."""
    del module, name, valid
    return x

  behind = standardise


FOLDED = Folded()


class BatchNorms:
  """Norms that are computed. Lives as long as one `apply` is traced.

  Attributes:
    moving: averages to normalise with (evaluation); None: the statistics of the batch itself (training).
    found: the batch's statistics, by the path of the layer; empty in evaluation.
  """

  biased = False

  def __init__(self, moving: Statistics | None = None) -> None:
    self.moving, self.found = moving, {}

  def standardise(self, module: nn.Module, name: str, x: jax.Array, valid: jax.Array) -> jax.Array:
    """x with a mean of 0 and a variance of 1 in each channel, over everything valid.

    Args:
      module: where the norm is.
      name: of its layer.
      x: [..., C].
      valid: bool, of x's first axes. What is not valid counts for nothing; its own values are of no use.
    """
    path, x32 = ".".join((*module.path, name)), x.astype(jnp.float32)
    if self.moving is None:
      mask = valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
      axes = tuple(range(x.ndim - 1))
      count = jnp.maximum(jnp.sum(jnp.broadcast_to(mask, (*x.shape[:-1], 1)), dtype=jnp.float32), 1.0)
      mean = jnp.sum(x32, axes, where=mask) / count
      variance = jnp.sum(jnp.square(x32 - mean), axes, where=mask) / count
      self.found[path] = {"mean": mean, "variance": variance}
    else:
      mean, variance = self.moving[path]["mean"], self.moving[path]["variance"]
    return ((x32 - mean) * jax.lax.rsqrt(variance + EPSILON)).astype(x.dtype)

  def behind(self, module: nn.Module, name: str, x: jax.Array, valid: jax.Array) -> jax.Array:
    """`standardise`, then a learned scale and bias."""
    return Affine(name=name + _BEHIND)(self.standardise(module, name, x, valid))


def move(moving: Statistics, found: Statistics, batches: jax.Array, decay: float) -> Statistics:
  """Averages after one more batch: the plain mean of all batches so far, until `decay` weighs the past less.

  Args:
    moving: before; anything if there were no batches.
    found: of the batch.
    batches: how many there were before; may be traced.
    decay: weight of what was before, at most.
  """
  keep = jnp.minimum(decay, batches / (batches + 1.0))
  return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * jax.lax.stop_gradient(new), moving, found)


def fold(params: dict[str, Any], moving: Statistics) -> dict[str, Any]:
  """Weights without norms, which give `FOLDED` what `params` and `moving` give in evaluation.

  Args:
    params: of a module that was applied with `BatchNorms` (plain arrays).
    moving: averages of every norm in it.
  """
  params = jax.tree.map(jnp.asarray, params)  # new dicts; the caller's stay as they are
  for path, statistics in moving.items():
    *folders, name = path.split(".")
    place = params
    for folder in folders:
      place = place[folder]
    layer = place[name]
    behind = place.pop(name + _BEHIND, {"scale": 1.0, "bias": 0.0}) if "kernel" in layer else layer
    scale = behind["scale"] * jax.lax.rsqrt(statistics["variance"] + EPSILON)
    bias = behind["bias"] - statistics["mean"] * scale
    if "kernel" in layer:
      place[name] = {"kernel": layer["kernel"] * scale, "bias": bias}
    else:
      place[name] = {"scale": scale, "bias": bias}
  return params
