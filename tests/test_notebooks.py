"""Every notebook's code runs from top to bottom."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, capsys):
  cells = json.loads(path.read_text())["cells"]
  scope: dict = {}
  for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
      exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), scope)
  assert capsys.readouterr().out.strip()


def test_there_are_notebooks():
  assert NOTEBOOKS
