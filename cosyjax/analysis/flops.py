"""How many floating-point operations a function needs, counted in its jaxpr, and utilisation.

Counted are matrix products and convolutions, a multiplication and an addition each: what the
peak rate of an accelerator speaks of. Everything else (norms, softmax, Fourier transforms) counts nothing.

Model FLOPs utilisation (Chowdhery et al. 2022, appendix B):

  MFU = model FLOPs of a step / (seconds of a step x devices x peak FLOPs a second of a device)
  model FLOPs = 3 x FLOPs of the forward pass, causal attention counted as the half that its mask leaves

Three, because the backward pass makes two products for each of the forward one (gradients of
inputs and of weights). What rematerialisation computes again, and scores that a mask hides,
are in the time and not in the model FLOPs: work, not progress.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from cosyjax.analysis.chips import peak_flops
from cosyjax.errors import ConfigError

__all__ = ["breakdown", "causal_attention", "count", "jaxpr_breakdown", "peak_flops", "training_flops", "utilisation"]

# Kernels with no jaxpr inside. Those of attention can be left to `attention` of `training_flops`.
_ATTENTION_KERNELS, _KERNELS = ("dot_product_attention",), ("pallas_call", "ragged_dot", "scaled_matmul")


def count(function: Callable, *args: Any, trips: int | None = None, **kwargs: Any) -> float:
  """FLOPs of `function(*args, **kwargs)`. Nothing is run or compiled.

  Args:
    function: anything that JAX can trace.
    args, kwargs: arrays or `jax.ShapeDtypeStruct`s, in any trees.
    trips: how often a `while` loop goes round whose length is not in the program. (`scan`, and
      `fori_loop` between numbers, say theirs.)

  Raises:
    ConfigError: there are products in such a loop and `trips` was not given, or in a kernel that cannot be read.
  """
  return float(sum(breakdown(function, *args, trips=trips, **kwargs).values()))


def breakdown(
  function: Callable, *args: Any, trips: int | None = None, kernels: bool = False, **kwargs: Any
) -> dict[str, float]:
  """FLOPs by kind. Arguments and errors as for `count`.

  Args:
    kernels: fused attention may stand in the program; it counts nothing.

  Returns:
    "weights" (matrix products without batch axes), "batched" (products with batch axes: attention) and
    "convolutions". Of the branches of a condition the costliest one counts.
  """
  return jaxpr_breakdown(jax.make_jaxpr(function)(*args, **kwargs), trips=trips, kernels=kernels)


def jaxpr_breakdown(jaxpr: core.ClosedJaxpr, *, trips: int | None = None, kernels: bool = False) -> dict[str, float]:
  """`breakdown` of what has been traced already."""
  found = _walk(jaxpr.jaxpr, trips, kernels)
  return {kind: float(found[kind]) for kind in ("weights", "batched", "convolutions")}


def training_flops(forward: Callable, *args: Any, attention: float | None = None, **kwargs: Any) -> float:
  """Model FLOPs of a training step: three times those of the forward pass.

  Args:
    forward: the loss, or all of it that costs something, of a whole batch. With rematerialisation
      or without: a forward pass is the same.
    args, kwargs: as for `count`.
    attention: forward FLOPs of all attention, from `causal_attention`. It takes the place of the
      products with batch axes, so that the figure does not depend on how attention is computed. None: they
      are counted as they are.
  """
  found = breakdown(forward, *args, kernels=attention is not None, **kwargs)
  return 3.0 * (found["weights"] + found["convolutions"] + (found["batched"] if attention is None else attention))


def causal_attention(rows: int, length: int, heads: int, head_dim: int, layers: int = 1) -> float:
  """Forward FLOPs that causal self-attention needs: scores, and their product with the values.

  A query sees itself and what is before it, length (length + 1) / 2 pairs in a row, for each of which a head makes two
  products over its width: 2 x 2 x rows x layers x heads x head_dim x pairs. Rows packed from several
  utterances need less still; they are counted like one.
  """
  return 4.0 * rows * layers * heads * head_dim * (length * (length + 1) / 2)


def utilisation(model_flops: float, seconds: float, devices: int, peak: float | None) -> float | None:
  """MFU of a step, 0 to 1; None where the peak is not known.

  Args:
    model_flops: of the whole step over all devices, from `training_flops`.
    seconds: time of the step.
    devices: how many work on it.
    peak: of one, from `peak_flops`.
  """
  return None if not peak or seconds <= 0 else model_flops / (seconds * devices * peak)


def _walk(jaxpr: core.Jaxpr, trips: int | None, kernels: bool) -> Counter:
  total = Counter()
  for eqn in jaxpr.eqns:
    total += _equation(eqn, trips, kernels)
  return total


def _equation(eqn: core.JaxprEqn, trips: int | None, kernels: bool) -> Counter:
  name, params = eqn.primitive.name, eqn.params
  inner = lambda jaxpr: _walk(jaxpr, trips, kernels)
  if name == "dot_general":
    return _dot(eqn)
  if name == "conv_general_dilated":
    return _convolution(eqn)
  if name == "scan":
    return _times(inner(params["jaxpr"].jaxpr), params["length"])
  if name == "cond":
    return max((inner(branch.jaxpr) for branch in params["branches"]), key=Counter.total)
  if name == "while":
    once = inner(params["body_jaxpr"].jaxpr) + inner(params["cond_jaxpr"].jaxpr)
    if once and trips is None:
      raise ConfigError(f"FLOPs: a while loop of unknown length has {once.total():.3g} a round: say how many (trips)")
    return _times(once, trips or 0)
  if name == "shard_map":  # its shapes are those of one device
    manual = params.get("manual_axes", params["mesh"].axis_names)
    return _times(inner(params["jaxpr"]), math.prod(params["mesh"].shape[axis] for axis in manual))
  if name.startswith(_KERNELS) or (name.startswith(_ATTENTION_KERNELS) and not kernels):
    raise ConfigError(f"FLOPs: {name} is a kernel that cannot be read: count the plain form of the same function")
  return sum(map(inner, _jaxprs(params)), Counter())  # jit, remat, custom_vjp, ...; elementwise operations have none


def _times(found: Counter, times: int) -> Counter:
  return Counter({kind: times * value for kind, value in found.items()})


def _jaxprs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value


def _dot(eqn: core.JaxprEqn) -> Counter:
  """Two for each output and each contracted pair."""
  (contracted, _), (batched, _) = eqn.params["dimension_numbers"]
  shape = eqn.invars[0].aval.shape
  flops = 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
  return Counter({"batched" if batched else "weights": flops})


def _convolution(eqn: core.JaxprEqn) -> Counter:
  """Two for each output, tap and input channel of its group; frames of padding count like frames.

  A transposed convolution is one over an input with zeros between its frames (`lhs_dilation`): those are
  not counted.
  """
  spec, kernel = eqn.params["dimension_numbers"].rhs_spec, eqn.invars[1].aval.shape
  taps = math.prod(kernel[axis] for axis in spec[2:]) / math.prod(eqn.params["lhs_dilation"])
  return Counter({"convolutions": 2.0 * math.prod(eqn.outvars[0].aval.shape) * taps * kernel[spec[1]]})
