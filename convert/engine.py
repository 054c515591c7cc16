"""Runs a component's table of PyTorch names over its tensors, strictly.

A table is a list of `Rule`s: a regular expression that must match the whole PyTorch name,
the path of the parameter in our tree, and a named transform. Every tensor must be matched
by exactly one rule or named as ignored; every parameter must be filled by exactly one
tensor of the right shape. Whatever does not fit is collected and raised as one list.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from cosyjax.errors import ConversionError
from cosyjax.layers.basic import unbox

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
  """A rearrangement of a tensor's numbers, and its inverse: PyTorch's order to Flax's, and back."""

  forward: Callable[[np.ndarray], np.ndarray]
  backward: Callable[[np.ndarray], np.ndarray]

  def __call__(self, w: np.ndarray) -> np.ndarray:
    return self.forward(w)


# PyTorch keeps outputs first and channels before time; Flax the reverse.
copy = Transform(lambda w: w, lambda w: w)
linear = Transform(lambda w: w.T, lambda w: w.T)  # [out, in] -> [in, out]
conv1d = Transform(lambda w: w.transpose(2, 1, 0), lambda w: w.transpose(2, 1, 0))  # [out, in, time] -> [time, in, out]
# [in, out, time] of a transposed convolution -> [time, in, out], flipped in time.
conv1d_transposed = Transform(lambda w: w.transpose(2, 0, 1)[::-1], lambda w: w[::-1].transpose(1, 2, 0))
# [out, in, 1] of a convolution of one frame -> [in, out] of a dense layer.
pointwise = Transform(lambda w: w[:, :, 0].T, lambda w: w.T[:, :, None])


def heads_out(count: int) -> Transform:
  """[heads*dim, in] -> [in, heads, dim]; a bias [heads*dim] -> [heads, dim]."""

  def forward(w: np.ndarray) -> np.ndarray:
    if w.ndim == 1:
      return w.reshape(count, -1)
    return w.T.reshape(w.shape[1], count, -1)

  def backward(w: np.ndarray) -> np.ndarray:
    return w.reshape(-1) if w.ndim == 2 else w.reshape(w.shape[0], -1).T

  return Transform(forward, backward)


def heads_in(count: int) -> Transform:
  """[out, heads*dim] -> [heads, dim, out]."""
  return Transform(lambda w: w.T.reshape(count, -1, w.shape[0]), lambda w: w.reshape(-1, w.shape[-1]).T)


@dataclasses.dataclass(frozen=True)
class Rule:
  """`pattern` (whole name) -> `path` ("a/b/kernel", may use \\1, \\2), through `transform`."""

  pattern: str
  path: str
  transform: Callable[[np.ndarray], np.ndarray] = copy  # a `Transform` where the way back is needed


@dataclasses.dataclass(frozen=True)
class Table:
  """How one component's tensors become its parameters."""

  rules: tuple[Rule, ...]
  ignored: tuple[str, ...] = ()  # patterns of official tensors that nothing reads


@dataclasses.dataclass(frozen=True)
class Converted:
  """Parameters of one component and what the printed table says of them."""

  params: dict[str, Any]
  tensors_read: int
  parameters: int
  ignored: tuple[str, ...]


def fold_weight_norm(tensors: Mapping[str, np.ndarray]) -> Tensors:
  """Replaces both PyTorch spellings of weight norm by the plain weight g v / |v|.

  Old: `X.weight_g`, `X.weight_v`. New: `X.parametrizations.weight.original0`, `.original1`.
  The norm runs over every axis but the first (PyTorch's `dim=0`).

  Raises:
    ConversionError: one half of a pair is missing, or the plain weight is there as well.
  """
  spellings = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
  )
  out, problems = dict(tensors), []
  for g_end, v_end in spellings:
    stems = {n.removesuffix(end) for n in tensors for end in (g_end, v_end) if n.endswith(end)}
    for stem in sorted(stems):
      g, v = out.pop(stem + g_end, None), out.pop(stem + v_end, None)
      if g is None or v is None:
        problems.append(f"missing: {stem + (g_end if g is None else v_end)} of a weight-normed pair")
      elif stem + ".weight" in out:
        problems.append(f"duplicate: {stem}.weight beside {stem + v_end}")
      else:
        v64, norm = v.astype(np.float64), weight_norm(v)
        # A length that is the direction's own, rounded, changes nothing: what `split_weight_norm` wrote comes back.
        with np.errstate(divide="ignore", invalid="ignore"):
          scale = np.where(norm.astype(np.float32) == g, 1.0, g.astype(np.float64) / norm)
        out[stem + ".weight"] = (v64 * scale).astype(np.float32)
  if problems:
    raise ConversionError("weight norm:\n  " + "\n  ".join(problems))
  return out


def weight_norm(v: np.ndarray) -> np.ndarray:
  """Norm over every axis but the first (PyTorch's `dim=0`), axes kept, float64."""
  return np.sqrt(np.sum(np.square(v.astype(np.float64)), axis=tuple(range(1, v.ndim)), keepdims=True))


def convert(component: str, tensors: Mapping[str, np.ndarray], table: Table, abstract: Any) -> Converted:
  """Applies `table` to `tensors` and checks the result against `abstract`.

  Args:
    component: name used in messages.
    tensors: PyTorch name -> array, weight norm already folded.
    table: the component's rules.
    abstract: tree of `jax.ShapeDtypeStruct`, as from `jax.eval_shape` of the module's init.

  Returns:
    `Converted`, with float32 parameters.

  Raises:
    ConversionError: lists every unknown, ambiguous, duplicate, missing, misshapen or
      non-finite tensor at once.
  """
  wanted = {k: tuple(v.shape) for k, v in flax.traverse_util.flatten_dict(unbox(abstract), sep="/").items()}
  filled: dict[str, np.ndarray] = {}
  source: dict[str, str] = {}
  ignored, problems = [], []
  for name in sorted(tensors):
    hits = [(rule, m) for rule in table.rules if (m := re.fullmatch(rule.pattern, name))]
    if not hits:
      if any(re.fullmatch(p, name) for p in table.ignored):
        ignored.append(name)
      else:
        problems.append(f"unknown tensor {name} {tensors[name].shape}")
      continue
    if len(hits) > 1:
      problems.append(f"tensor {name} matches {len(hits)} rules: {[r.pattern for r, _ in hits]}")
      continue
    rule, match = hits[0]
    path = match.expand(rule.path)
    if path not in wanted:
      problems.append(f"tensor {name}: the model has no parameter {path}")
    elif path in filled:
      problems.append(f"duplicate: {name} and {source[path]} both fill {path}")
    else:
      problems += _fill(filled, path, name, rule, tensors[name], wanted[path])
      source[path] = name
  missing = sorted(set(wanted) - set(source))
  problems += [f"missing: nothing fills parameter {path} {wanted[path]}" for path in missing]
  if problems:
    raise ConversionError(f"{component}: {len(problems)} tensors do not fit:\n  " + "\n  ".join(problems))
  params = flax.traverse_util.unflatten_dict(filled, sep="/")
  count = sum(int(a.size) for a in jax.tree.leaves(params))
  return Converted(params, len(filled), count, tuple(ignored))


def _fill(
  filled: Tensors, path: str, name: str, rule: Rule, tensor: np.ndarray, shape: tuple[int, ...]
) -> Iterable[str]:
  """Stores one transformed tensor; returns what is wrong with it."""
  try:
    value = np.ascontiguousarray(rule.transform(tensor), dtype=np.float32)
  except (ValueError, IndexError) as error:
    return [f"tensor {name} {tensor.shape}: cannot be brought to {path} {shape} ({error})"]
  if value.shape != shape:
    return [f"tensor {name} {tensor.shape}: gives {value.shape}, parameter {path} has {shape}"]
  if not np.all(np.isfinite(value)):
    return [f"tensor {name}: holds values that are not finite"]
  filled[path] = value
  return []
