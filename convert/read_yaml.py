"""Reads `cosyvoice2.yaml` as plain data: its tags name Python objects to build, and none is built."""

import re
from pathlib import Path
from typing import Any

from cosyjax.errors import ConversionError

MAX_BYTES = 1 << 20
_REFERENCE = re.compile(r"<([A-Za-z_]\w*)>")


def read_yaml(path: str | Path) -> dict[str, Any]:
  """Nested dicts, lists and scalars of a release's YAML file.

  Tags (`!new:`, `!name:`, `!apply:`, ...) are dropped and what they stand on is kept.
  `!ref <name>` becomes the value of the top-level key; `!ref <a> * <b>` the product. Any
  other expression stays a string.

  Raises:
    ConversionError: not readable, not YAML, too large, or not a mapping.
  """
  import yaml

  path = Path(path)

  class Loader(yaml.SafeLoader):
    """Safe loader that knows no tag."""

  def plain(loader: Any, _tag: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
      return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
      return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)

  Loader.add_multi_constructor("!", plain)
  Loader.add_multi_constructor("tag:yaml.org,2002:python", plain)
  try:
    if path.stat().st_size > MAX_BYTES:
      raise ConversionError(f"{path}: a configuration of more than {MAX_BYTES} bytes is not one")
    text = path.read_text(encoding="utf-8")
    if "&" in text and re.search(r"[:\-\[,]\s*&\w", text):  # an alias bomb needs an anchor; releases have none
      raise ConversionError(f"{path}: YAML anchors are not supported")
    data = yaml.load(text, Loader)
  except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
    raise ConversionError(f"{path} cannot be read as YAML: {error}") from error
  if not isinstance(data, dict):
    raise ConversionError(f"{path}: expected a mapping, found {type(data).__name__}")
  return {key: _resolve(value, data) for key, value in data.items()}


def _resolve(value: Any, top: dict[str, Any]) -> Any:
  if isinstance(value, dict):
    return {k: _resolve(v, top) for k, v in value.items()}
  if isinstance(value, list):
    return [_resolve(v, top) for v in value]
  if not isinstance(value, str) or not _REFERENCE.search(value):
    return value
  factors = [part.strip() for part in value.split("*")]
  product: Any = None
  for factor in factors:
    match = _REFERENCE.fullmatch(factor)
    number = top.get(match.group(1), value) if match else factor
    if len(factors) == 1:
      return number if not isinstance(number, str) or not _REFERENCE.search(number) else value
    try:
      number = int(number)
    except (TypeError, ValueError):
      return value
    product = number if product is None else product * number
  return product
