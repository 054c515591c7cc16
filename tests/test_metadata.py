"""Versions: one number for the package, and constraints that are the bounds of the metadata."""

import re
import tomllib
from pathlib import Path

import pytest

import cosyjax
from cosyjax.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _bounds(python: str) -> dict[str, tuple[str, str]]:
  """Package -> (lowest, first one too new) of the dependencies that a Python version gets."""
  project, out = PROJECT["project"], {}
  for text in project["dependencies"] + project["optional-dependencies"]["convert"]:
    requirement, _, marker = text.partition(";")
    if marker and not eval(marker, {}, {"python_version": python}):
      continue
    name, low, high = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,!=[\d.]+)?,<([\d.]+)", requirement.strip()).groups()
    assert name not in out, f"{name} twice for Python {python}"
    out[name] = low, high
  return out


def _pins(name: str) -> dict[str, str]:
  lines = (ROOT / "constraints" / name).read_text().splitlines()
  return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _number(version: str) -> list[int]:
  parts = [int(part) for part in version.split(".")]
  return parts + [0] * (4 - len(parts))


def test_version():
  assert cosyjax.__version__ == __version__
  assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cosyjax.version.__version__"}


def test_lowest_constraints_are_the_lowest_bounds():
  pins, bounds = _pins("lowest.txt"), _bounds("3.11")
  assert pins.keys() - {"jaxlib"} == bounds.keys() and pins["jaxlib"] == pins["jax"]
  assert {name: _number(pins[name]) for name in bounds} == {name: _number(low) for name, (low, _) in bounds.items()}


@pytest.mark.parametrize(("name", "python"), [("highest.txt", "3.12"), ("highest-3.11.txt", "3.11")])
def test_highest_constraints_are_admitted(name, python):
  pins, bounds = _pins(name), _bounds(python)
  assert pins["jaxlib"] == pins["jax"]
  for name in ("jax", "flax"):
    low, high = bounds[name]
    assert _number(low) <= _number(pins[name]) < _number(high)


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_no_broken_pair_is_admitted(python):
  """jax from 0.11.1 on and flax before 0.12.10."""
  bounds = _bounds(python)
  new_jax = _number(bounds["jax"][1]) > _number("0.11.1")
  old_flax = _number(bounds["flax"][0]) < _number("0.12.10")
  assert not (new_jax and old_flax)
