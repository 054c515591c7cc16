"""Flags and configuration files that the trainers share.

A configuration file is Python: `config()` returns the trainer's frozen dataclass at full
size, `tiny()` the same at a size for a laptop. Any field of it can be set from the command
line by its dotted name: `--set optim.learning_rate=1e-4 run.steps=2000`.
"""

import argparse
import ast
import dataclasses
import difflib
import json
import runpy
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cosyjax import config as config_lib
from cosyjax.errors import ConfigError

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh; -1 is what the others leave."""

  data: int = -1  # copies of the model
  fsdp: int = 1  # rows are spread over these too, parameters over their "embed" axis
  tensor: int = 1  # heads, feed-forward and vocabulary are spread over these


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Length of a run, and what happens when. 0 for "never"."""

  steps: int
  seed: int = 0
  log_every: int = 10
  eval_every: int = 500
  eval_batches: int = 8
  save_every: int = 500
  keep_last: int = 3
  keep_best: int = 1
  dtype: str = "float32"  # compute type; parameters and moments are float32
  remat: str = "none"  # see cosyjax.layers.remat

  def __post_init__(self):
    from cosyjax.layers.remat import policy

    policy(self.remat)
    if self.dtype not in DTYPES:
      raise ConfigError(f"run.dtype: expected one of {', '.join(DTYPES)}, found {self.dtype!r}")
    if self.steps < 1:
      raise ConfigError(f"run.steps: expected 1 or more, found {self.steps}")


def parser(doc: str) -> argparse.ArgumentParser:
  """The flags of every trainer. A program may add its own and hand the parser to `parse`."""
  out = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
  out.add_argument("--config", required=True, type=Path, help="configuration file, such as configs/lm.py")
  out.add_argument("--tiny", action="store_true", help="the file's tiny() instead of its config()")
  out.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="override fields")
  out.add_argument("--steps", type=int, help="length of the run, same as --set run.steps=N")
  out.add_argument("--data", type=Path, help="corpus directory, from python -m train.build_corpus")
  out.add_argument("--eval-data", type=Path, help="corpus directory for evaluation")
  out.add_argument("--out", type=Path, help="run directory; a run that is there is resumed")
  out.add_argument("--init", type=Path, metavar="MODEL_DIR", help="start from the weights of a model directory")
  out.add_argument("--allow-config-change", nargs="+", action="extend", default=[], metavar="NAME",
                   help="resume although these fields differ")  # fmt: skip
  out.add_argument("--compile-only", metavar="TOPOLOGY", help="compile for a pod such as v5e:16x16, report, and stop")
  out.add_argument("--report", type=Path, metavar="FILE", help="append the report of --compile-only as a line of JSON")
  out.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, for a run on several machines")
  out.add_argument("--processes", metavar="I/N", help="this is process I (from 0) of N")
  out.add_argument("--no-cache", action="store_true", help="do not keep compiled programs on disk")
  out.add_argument("--print-config", action="store_true", help="print the configuration as JSON and stop")
  return out


def parse(
  doc: str,
  kind: type,
  argv: Sequence[str] | None,
  flags: argparse.ArgumentParser | None = None,
  needs_data: bool = True,
  runs: bool = True,
) -> tuple[argparse.Namespace, Any]:
  """Reads the flags and the configuration they name.

  Args:
    doc: the program's docstring.
    kind: the trainer's frozen dataclass; it has a field `run` of type `RunConfig`.
    argv: flags, those of the process if None.
    flags: from `parser`, if the program has flags of its own.
    needs_data: whether --data must be given.
    runs: False for a look at the step alone, which needs no folders.

  Returns:
    (args, config). `args.processes` is (i, n), (0, 1) if not given.

  Raises:
    ConfigError: the file, a field or a value is wrong. SystemExit for the flags themselves.
  """
  flags = flags or parser(doc)
  args = flags.parse_args(argv)
  config = load(args.config, kind, tiny=args.tiny)
  overrides = [*args.set, *([f"run.steps={args.steps}"] if args.steps is not None else [])]
  config = override(config, overrides)
  args.processes = parse_processes(args.processes)
  if args.print_config:
    print(json.dumps(config_lib.to_dict(config), indent=2))
    sys.exit(0)
  if args.processes[1] > 1 and not args.coordinator:
    flags.error("--processes needs --coordinator HOST:PORT")
  missing = [name for name in ("data",) * needs_data + ("out",) if getattr(args, name) is None]
  if missing and runs and not args.compile_only:
    flags.error("the following arguments are required: " + ", ".join(f"--{name}" for name in missing))
  return args, config


def load(path: Path, kind: type, *, tiny: bool = False) -> Any:
  """The configuration that a file defines.

  Raises:
    ConfigError: no such file, it does not run, or gives something else than a `kind`.
  """
  name = "tiny" if tiny else "config"
  try:
    module = runpy.run_path(str(path))
    made = module[name]()
  except FileNotFoundError:
    raise ConfigError(f"--config {path}: no such file") from None
  except KeyError as error:
    if error.args != (name,):
      raise ConfigError(f"--config {path}: {type(error).__name__}: {error}") from error
    raise ConfigError(f"--config {path}: expected it to define {name}()") from None
  except Exception as error:  # a configuration file is code: whatever it raises is a fault of that file
    raise ConfigError(f"--config {path}: {type(error).__name__}: {error}") from error
  found, expected = _full_name(type(made)), _full_name(kind)
  if found != expected:
    raise ConfigError(f"--config {path}: {name}() gives a {found}, expected {expected}; is it for another trainer?")
  return made


def override(config: Any, settings: Sequence[str]) -> Any:
  """`config` with fields replaced, each setting "dotted.name=value", the value read by the field's type.

  All are applied before any dataclass checks itself, so that fields which must agree can change together.

  Raises:
    ConfigError: no such field (near ones are named), or a value of another type.
  """
  changes: dict[str, Any] = {}
  for setting in settings:
    name, sign, text = setting.partition("=")
    if not sign or not name:
      raise ConfigError(f"--set {setting}: expected NAME=VALUE")
    node, place = changes, config
    *folders, last = name.split(".")
    for depth, part in enumerate(folders):
      _known(place, part, name, config)
      place = getattr(place, part)
      if not dataclasses.is_dataclass(place):
        raise ConfigError(f"--set {setting}: {'.'.join(folders[: depth + 1])} is a value and has no fields")
      node = node.setdefault(part, {})
    _known(place, last, name, config)
    hint = typing.get_type_hints(type(place))[last]
    if dataclasses.is_dataclass(getattr(place, last)):
      inside = ", ".join(_leaves(getattr(place, last), name))
      raise ConfigError(f"--set {setting}: {name} has fields of its own; set one of {inside}")
    node[last] = _Value(read_value(text, hint, f"--set {setting}"))
  return _apply(config, changes)


def read_value(text: str, hint: Any, where: str) -> Any:
  """The value that `text` spells for a field of type `hint`.

  Raises:
    ConfigError: it spells none.
  """
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    if type(None) in inner and text.lower() in ("none", "null"):
      return None
    for choice in inner:
      if choice is not type(None):
        try:
          return read_value(text, choice, where)
        except ConfigError:
          continue
  elif origin is typing.Literal:
    for choice in inner:
      if text == str(choice):
        return choice
  elif hint is bool:
    if text.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
      return text.lower() in ("true", "yes", "on", "1")
  elif hint is str:
    return text
  elif hint in (int, float):
    try:
      return hint(text)
    except ValueError:
      pass
  elif origin is tuple or hint is tuple:
    try:
      inside = text.strip().rstrip(",")
      literal = text if inside[:1] in ("(", "[") else f"({inside},)" if inside else "()"
      value = ast.literal_eval(literal)
      return _checked(value, hint)
    except (ValueError, SyntaxError, TypeError):
      pass
  raise ConfigError(f"{where}: expected {_spell(hint)}, found {text!r}")


def parse_processes(text: str | None) -> tuple[int, int]:
  """ "I/N" as (i, n); (0, 1) for None.

  Raises:
    ConfigError: not that form.
  """
  if text is None:
    return 0, 1
  index, sign, count = text.partition("/")
  if not (sign and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise ConfigError(f"--processes {text}: expected I/N with I from 0 to N - 1")
  return int(index), int(count)


def at_exit(main: Callable[[], int]) -> int:
  """Runs a program; an error that cosyjax raises on purpose is one line and exit code 1."""
  from cosyjax.errors import CosyError

  try:
    return main()
  except CosyError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1


@dataclasses.dataclass(frozen=True)
class _Value:
  value: Any


def _full_name(kind: type) -> str:
  """Module and name. `python -m train.lm` runs as `__main__`, and a file that imports train.lm gets it anew."""
  module = kind.__module__
  if module == "__main__" and (spec := getattr(sys.modules["__main__"], "__spec__", None)):
    module = spec.name
  return f"{module}.{kind.__qualname__}"


def _apply(config: Any, changes: dict[str, Any]) -> Any:
  new = {
    name: change.value if isinstance(change, _Value) else _apply(getattr(config, name), change)
    for name, change in changes.items()
  }
  return dataclasses.replace(config, **new) if new else config


def _known(place: Any, part: str, name: str, config: Any) -> None:
  fields = [f.name for f in dataclasses.fields(place)]
  if part in fields:
    return
  everything = _leaves(config)
  near = difflib.get_close_matches(name, everything, n=3, cutoff=0.6)
  near += [leaf for leaf in everything if leaf.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1] and leaf not in near][:3]
  hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(fields)}"
  raise ConfigError(f"--set {name}: {type(place).__name__} has no field {part!r}; {hint}")


def _leaves(config: Any, prefix: str = "") -> list[str]:
  out = []
  for field in dataclasses.fields(config):
    name, value = f"{prefix}.{field.name}".lstrip("."), getattr(config, field.name)
    out += _leaves(value, name) if dataclasses.is_dataclass(value) else [name]
  return out


def _checked(value: Any, hint: Any) -> Any:
  """A literal as the type asks for: tuples all the way down, floats from integers."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if hint is tuple or origin is tuple:
    if not isinstance(value, tuple | list):
      raise TypeError
    if not inner:
      return tuple(value)
    kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(value):
      raise TypeError
    return tuple(_checked(item, kind) for item, kind in zip(value, kinds, strict=True))
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if hint is not Any and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
    raise TypeError
  return value


def _spell(hint: Any) -> str:
  if typing.get_origin(hint) is typing.Literal:
    return "one of " + ", ".join(map(str, typing.get_args(hint)))
  return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
