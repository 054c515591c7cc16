"""Which part of the library may import which: read from the sources, nothing is imported."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cosyjax"
# From the bottom up. A room imports its own modules and rooms of lower steps.
LADDER = (
  ("errors", "version"),
  ("config_format", "config_dict"),
  ("config", "files"),
  ("layers",),
  ("audio", "text"),
  ("checkpoint", "sharding"),
  ("training",),
  ("lm", "flow", "vocoder", "speech_tokenizer", "speaker"),
  ("networks",),
  ("inference",),
  ("data",),
  ("evaluation",),
  ("posttraining",),
  ("serving",),
  ("analysis",),  # instruments: nothing else in the library imports them
)
STEP = {room: step for step, rooms in enumerate(LADDER) for room in rooms}
PROGRAMS = {"train", "infer", "convert", "configs", "tests", "notebooks"}
FOREIGN = {"torch", "torchaudio", "onnxruntime", "argparse", "tensorflow", "onnx"}


def _imports(source: str) -> set[str]:
  """Dotted names that a module imports anywhere: at its head, in functions, for type checkers."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def _faults(module: str, source: str) -> list[str]:
  """What a module imports and may not; `module` is its dotted name without the package's."""
  room, faults = module.split(".")[0], []
  for name in sorted(_imports(source)):
    top, *rest = name.split(".")
    if top in PROGRAMS or top in FOREIGN:
      faults.append(f"{module} imports {name}")
    elif top == "cosyjax":
      other = rest[0] if rest else ""
      if other not in STEP:
        faults.append(f"{module} imports {name}, which stands on no step")
      elif other != room and STEP[other] >= STEP[room]:
        faults.append(f"{module} imports {name}, which does not stand below it")
  return faults


FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent != ROOT)


def test_nothing_imports_upwards():
  faults = []
  for path in FILES:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert module.split(".")[0] in STEP, f"{path}: a room that has no step yet"
    faults += _faults(module, path.read_text())
  assert not faults, "\n".join(faults)


def test_the_package_itself_imports_its_version_alone():
  tree = ast.parse((ROOT / "__init__.py").read_text())
  at_import = ast.Module([node for node in tree.body if not isinstance(node, ast.If | ast.FunctionDef)], [])
  names = _imports(ast.unparse(at_import))
  assert {name for name in names if name.split(".")[0] not in sys.stdlib_module_names} == {
    "cosyjax.version.__version__"
  }


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("vocoder.gan_step", "from cosyjax.analysis.flops import count"),
    ("layers.basic", "def f():\n  from cosyjax.lm import qwen2"),
    ("flow.unet", "import cosyjax.vocoder.hift"),
    ("config", "from cosyjax import checkpoint"),
    ("inference.engine", "from train import cli"),
    ("audio.io", "import torch"),
    ("networks", "import cosyjax"),
  ],
)
def test_the_test_sees(module, source):
  assert _faults(module, source)
