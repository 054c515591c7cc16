"""Frozen dataclasses as plain nested dicts and back, every field checked."""

import dataclasses
import types
import typing
from typing import Any

from cosyjax.errors import ConfigError


def to_dict(config: Any) -> dict[str, Any]:
  """Plain nested dict of a configuration, ready for JSON. Networks of several kinds carry their `type`."""
  kind = {"type": config.type} if hasattr(config, "type") else {}
  plain = lambda value: to_dict(value) if dataclasses.is_dataclass(value) else value
  return kind | {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(data: dict[str, Any], kind: Any, where: str = "config") -> Any:
  """Rebuilds a configuration from `to_dict`'s output.

  Args:
    data: nested dict, as read from JSON (lists stand for tuples).
    kind: the dataclass to build, or a union of dataclasses that `type` decides between.
    where: name used in error messages.

  Raises:
    ConfigError: a field is unknown, missing, or of the wrong type.
  """
  if not isinstance(data, dict):
    raise ConfigError(f"{where}: expected an object, found {type(data).__name__}")
  kinds = typing.get_args(kind) or (kind,)
  by_type = {k.type: k for k in kinds if hasattr(k, "type")}
  if by_type:
    data = dict(data)
    found = data.pop("type", None)
    if found not in by_type:
      raise ConfigError(f"{where}.type: expected one of {sorted(by_type)}, found {found!r}")
    kind = by_type[found]
  hints = typing.get_type_hints(kind)
  fields = [f.name for f in dataclasses.fields(kind)]
  unknown, missing = sorted(set(data) - set(fields)), sorted(set(fields) - set(data))
  if unknown or missing:
    raise ConfigError(f"{where}: unknown fields {unknown}, missing fields {missing} of {kind.__name__}")
  return kind(**{name: _value(data[name], hints[name], f"{where}.{name}") for name in fields})


def _value(value: Any, hint: Any, where: str) -> Any:
  hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  if value is None and types.NoneType in hints:
    return None
  hints = tuple(h for h in hints if h is not types.NoneType)
  if all(map(dataclasses.is_dataclass, hints)):
    return from_dict(value, hint, where)
  [hint] = hints
  if isinstance(hint, types.GenericAlias):  # tuple[X, ...]
    if not isinstance(value, list | tuple):
      raise ConfigError(f"{where}: expected a list, found {value!r}")
    return tuple(_value(item, hint.__args__[0], where) for item in value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
  return value
