"""Every notebook's code runs from top to bottom."""

import json
from pathlib import Path

import pytest

import cosyjax

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.parametrize("kind", ["shallow", pytest.param("as it is", marks=pytest.mark.long)])
def test_notebook_runs(path, kind, capsys, monkeypatch, request):
  """With the preset that it names, or a model that compiles sooner in its place."""
  if kind == "shallow":
    shallow = request.getfixturevalue("shallow")
    monkeypatch.setattr(cosyjax, "random_model", lambda preset: shallow)
    capsys.readouterr()
  cells = json.loads(path.read_text())["cells"]
  scope: dict = {}
  for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
      exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), scope)
  assert capsys.readouterr().out.strip()


def test_there_are_notebooks():
  assert NOTEBOOKS
