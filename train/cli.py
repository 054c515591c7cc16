"""Flags and configuration files that the trainers share.

A configuration file is Python: `config()` returns the trainer's frozen dataclass at full
size, `tiny()` the same at a size for a laptop. Any field of it can be set from the command
line by its dotted name: `--optim.learning_rate 1e-4`, or `--set optim.learning_rate=1e-4 run.steps=2000`;
`--help-config` lists them with their meaning. tyro reads the values by the dataclasses' types.
"""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import io
import json
import runpy
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

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
  epochs: float = 0.0  # length in passes over the data; it takes the place of `steps`
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
    if not self.epochs >= 0:
      raise ConfigError(f"run.epochs: expected 0 or more, found {self.epochs}")


def parser(doc: str) -> argparse.ArgumentParser:
  """The flags of every trainer. A program may add its own and hand the parser to `parse`."""
  out = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
  out.add_argument("--config", required=True, type=Path, help="configuration file, such as configs/lm.py")
  out.add_argument("--tiny", action="store_true", help="the file's tiny() instead of its config()")
  out.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                   help="override fields of the configuration, as --NAME VALUE does")  # fmt: skip
  out.add_argument("--help-config", action="store_true", help="list the fields of the configuration and stop")
  out.add_argument("--steps", type=int, help="length of the run, same as --run.steps N")
  out.add_argument("--data", type=Path, help="corpus directory, from python -m train.build_corpus")
  out.add_argument("--eval-data", type=Path, help="corpus directory for evaluation")
  out.add_argument("--out", type=Path, help="run directory; a run that is there is resumed")
  out.add_argument("--init", type=Path, metavar="DIR", help="start from the weights of a model directory or of a run")
  out.add_argument("--init-step", type=int, metavar="N", help="of a run: the checkpoint of this step, not the best")
  out.add_argument("--init-last", action="store_true", help="of a run: the last checkpoint, not the best")
  out.add_argument("--allow-config-change", nargs="+", action="extend", default=[], metavar="NAME",
                   help="resume although these fields differ")  # fmt: skip
  out.add_argument("--compile-only", metavar="TOPOLOGY", help="compile for a pod such as v5e:16x16, report, and stop")
  out.add_argument("--report", type=Path, metavar="FILE", help="append the report of --compile-only as a line of JSON")
  out.add_argument("--devices", type=int, metavar="N", help="use the first N devices of this machine; all if not given")
  out.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, for a run on several machines")
  out.add_argument("--processes", metavar="I/N", help="this is process I (from 0) of N")
  out.add_argument("--no-cache", action="store_true", help="do not keep compiled programs on disk")
  out.add_argument("--print-config", action="store_true", help="print the configuration as JSON and stop")
  return out


def parse(
  doc: str,
  kind: type,
  argv: Sequence[str] | None,
  add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
  runs: bool = True,
) -> tuple[argparse.Namespace, Any]:
  """Reads the flags and the configuration they name.

  Args:
    doc: the program's docstring.
    kind: the trainer's frozen dataclass; it has a field `run` of type `RunConfig`.
    argv: flags, those of the process if None.
    add_flags: adds flags of the program's own.
    runs: False for a look at the step alone, which needs no folders.

  Returns:
    (args, config). `args.processes` is (i, n), (0, 1) if not given.

  Raises:
    ConfigError: the file, a field or a value is wrong. SystemExit for the flags themselves.
  """
  flags = parser(doc)
  if add_flags:
    add_flags(flags)
  args, fields = flags.parse_known_args(argv)
  config = load(args.config, kind, tiny=args.tiny)
  if args.help_config:
    _read_fields(config, ["--help"])
  if wrong := [word for word in fields if word.startswith("--") and "." not in word.partition("=")[0]]:
    flags.error("unrecognized arguments: " + " ".join(wrong))
  overrides = [*args.set, *([f"run.steps={args.steps}"] if args.steps is not None else [])]
  named = {word.removeprefix("--").partition("=")[0] for word in [*overrides, *fields]}
  if "run.steps" in named and "run.epochs" not in named and config.run.epochs:
    overrides.append("run.epochs=0")
  config = override(config, overrides, fields)
  args.processes = parse_processes(args.processes)
  if args.print_config:
    print(json.dumps(config_lib.to_dict(config), indent=2))
    sys.exit(0)
  if args.processes[1] > 1 and not args.coordinator:
    flags.error("--processes needs --coordinator HOST:PORT")
  if args.processes[1] > 1 and args.devices:
    flags.error("--devices is for a run of one process")
  if (args.init_step is not None or args.init_last) and not args.init:
    flags.error("--init-step and --init-last need --init RUN")
  missing = [name for name in ("data", "out") if getattr(args, name) is None]
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


def override(config: Any, settings: Sequence[str], flags: Sequence[str] = ()) -> Any:
  """`config` with fields replaced, each value read by its field's type.

  All are applied before any dataclass checks itself, so that fields which must agree can change together.

  Args:
    config: frozen dataclass.
    settings: each "dotted.name=value".
    flags: the same as words of a command line: "--dotted.name", "value".

  Raises:
    ConfigError: no such field (near ones are named), or a value of another type.
  """
  words = []
  for setting in settings:
    name, sign, text = setting.partition("=")
    if not sign or not name:
      raise ConfigError(f"--set {setting}: expected NAME=VALUE")
    _known(config, name, f"--set {setting}")
    words.append(f"--{name}={'None' if text.lower() in ('none', 'null') else text}")
  for word in flags:
    if word.startswith("--"):
      _known(config, word[2:].partition("=")[0].replace("-", "_"), word)
  return _read_fields(config, [*words, *flags]) if words or flags else config


def defaults(config: Any) -> dict[str, Any]:
  """Nested dict of what the fields of a configuration are by default; those without a default are left out."""
  out: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      out[field.name] = defaults(value)
    elif field.default is not dataclasses.MISSING:
      out[field.name] = field.default
  return out


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


def _full_name(kind: type) -> str:
  """Module and name. `python -m train.lm` runs as `__main__`, and a file that imports train.lm gets it anew."""
  module = kind.__module__
  if module == "__main__" and (spec := getattr(sys.modules["__main__"], "__spec__", None)):
    module = spec.name
  return f"{module}.{kind.__qualname__}"


_FIELDS = tyro.constructors.ConstructorRegistry()


@_FIELDS.primitive_rule
def _literal(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
  """How numbers, truth values and tuples are spelt: one word each, "1,2" and "((1, 2), (3,))" among them."""
  hint = info.type
  if hint not in (int, float, bool, tuple) and typing.get_origin(hint) is not tuple:
    return None
  return tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar=_spell(hint).upper(),
    instance_from_str=lambda words: _read(words[0], hint),
    is_instance=lambda value: isinstance(value, typing.get_origin(hint) or hint),
    str_from_instance=lambda value: [str(value)],
  )


def _read(text: str, hint: Any) -> Any:
  """The value that a text spells.

  Raises:
    ValueError: it spells none of that type.
  """
  if hint is bool and text.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
    return text.lower() in ("true", "yes", "on", "1")
  with contextlib.suppress(ValueError, SyntaxError, TypeError):
    if hint in (int, float):
      return hint(text)
    if hint is not bool:
      inside = text.strip().rstrip(",")
      return _checked(ast.literal_eval(text if inside[:1] in ("(", "[") else f"({inside},)" if inside else "()"), hint)
  raise ValueError(f"expected {_spell(hint)}, found {text!r}")


def _read_fields(config: Any, words: Sequence[str]) -> Any:
  """A configuration with fields from the words of a command line.

  Raises:
    ConfigError: a word that is no field, or a value of another type.
  """
  said = io.StringIO()
  read = lambda: tyro.cli(
    type(config), args=words, default=config, use_underscores=True, registry=_FIELDS, prog="--set",
    config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
  )  # fmt: skip
  if "--help" in words:
    return read()
  try:
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
      return read()
  except SystemExit:
    lines = [line.strip("│╭╰╮╯ ") for line in said.getvalue().splitlines()]
    lines = [line for line in lines if line.strip("─- ") and not line.startswith("For full helptext")]
    text = " ".join(lines[1:] or lines).removeprefix("Error parsing ").replace(" Argument helptext:", "; see")
    raise ConfigError(text) from None


def _known(config: Any, name: str, where: str) -> None:
  """Raises ConfigError, with names that are near, if the configuration has no such field to set."""
  node, parts = config, name.split(".")
  for depth, part in enumerate(parts):
    if not dataclasses.is_dataclass(node):
      raise ConfigError(f"{where}: {'.'.join(parts[:depth])} is a value and has no fields")
    fields = [f.name for f in dataclasses.fields(node)]
    if part not in fields:
      everything = _leaves(config)
      near = difflib.get_close_matches(name, everything, n=3, cutoff=0.6)
      near += [leaf for leaf in everything if leaf.rsplit(".", 1)[-1] == parts[-1] and leaf not in near][:3]
      hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(fields)}"
      raise ConfigError(f"{where}: {type(node).__name__} has no field {part!r}; {hint}")
    node = getattr(node, part)
  if dataclasses.is_dataclass(node):
    raise ConfigError(f"{where}: {name} has fields of its own; set one of {', '.join(_leaves(node, name))}")


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
  return str(hint).replace("typing.Tuple", "tuple") if typing.get_args(hint) else getattr(hint, "__name__", str(hint))
