"""Runs a component's table backwards: our parameters to tensors under PyTorch's names."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from convert.engine import Rule, Table, Tensors, Transform, weight_norm
from cosyjax.errors import ConversionError

_PART = re.compile(r"\\(?P<escaped>.)|\((?P<group>[^()]*)\)|(?P<plain>[^\\()]+)")


def reverse(component: str, params: Any, table: Table) -> Tensors:
  """Tensors that `convert.engine.convert` would make these parameters of.

  Args:
    component: name used in messages.
    params: parameter tree, unboxed.
    table: the component's rules.

  Returns:
    PyTorch name -> float32 array. Names that the table ignores are not made.

  Raises:
    ConversionError: lists every parameter that no rule or several rules fill, or whose transform has no way back.
  """
  ways = [(*_backwards(rule), rule) for rule in table.rules]
  out: Tensors = {}
  problems = []
  for path, value in flax.traverse_util.flatten_dict(params, sep="/").items():
    hits = [(m, name, rule) for pattern, name, rule in ways if (m := pattern.fullmatch(path))]
    if len(hits) != 1:
      problems.append(f"parameter {path} is filled by {len(hits)} rules")
      continue
    match, name, rule = hits[0]
    if not isinstance(rule.transform, Transform):
      problems.append(f"parameter {path}: its transform has no way back")
      continue
    tensor = rule.transform.backward(np.asarray(value, np.float32))
    out["".join(match[part] if isinstance(part, int) else part for part in name)] = np.ascontiguousarray(tensor)
  if problems:
    raise ConversionError(f"{component}: {len(problems)} parameters do not fit:\n  " + "\n  ".join(problems))
  return out


def split_weight_norm(tensors: Mapping[str, np.ndarray], pattern: str) -> Tensors:
  """Tensors whose weights that match are a length and a direction, PyTorch's newer spelling.

  `X.weight` becomes `X.parametrizations.weight.original0`, its norms, and `.original1`, the weight itself.
  `convert.engine.fold_weight_norm` gives the weight back, bit for bit.

  Args:
    tensors: name -> array.
    pattern: of the whole names of weights with weight norm.
  """
  out: Tensors = {}
  for name, tensor in tensors.items():
    if re.fullmatch(pattern, name):
      stem = name.removesuffix("weight") + "parametrizations.weight.original"
      out |= {stem + "0": weight_norm(tensor).astype(np.float32), stem + "1": tensor}
    else:
      out[name] = tensor
  return out


def _backwards(rule: Rule) -> tuple[re.Pattern[str], list[str | int]]:
  """(pattern of our paths, parts of the PyTorch name: texts, and numbers of the pattern's groups)."""
  parts: list[str | int] = []
  groups: dict[int, str] = {}
  for m in _PART.finditer(rule.pattern):
    if m["group"] is None:
      parts.append(m["escaped"] or m["plain"])
    else:
      groups[len(groups) + 1] = m["group"]
      parts.append(len(groups))
  pattern, order = "", []
  for i, part in enumerate(re.split(r"\\(\d)", rule.path)):
    if i % 2 == 0:
      pattern += re.escape(part)
    elif int(part) in order:
      pattern += rf"\{order.index(int(part)) + 1}"
    else:
      order.append(int(part))
      pattern += f"({groups[int(part)]})"
  # A group that the path does not name stands for itself: a number.
  name = [groups[p] if isinstance(p, int) and p not in order else p for p in parts]
  return re.compile(pattern), [order.index(p) + 1 if isinstance(p, int) else p for p in name]
