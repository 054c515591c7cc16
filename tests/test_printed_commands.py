"""Every command that README and docs print: its program is there, and knows each of its flags."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from train.weights import SETTINGS

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TRAINERS = {f"train.{name}" for name in SETTINGS}  # test_cli.py reads their commands as far as the configuration


def commands(page: str) -> list[list[str]]:
  """Words after `python -m` of each command in a page's blocks of shell."""
  blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.S)
  lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
  found = [re.search(r"(?:^|\s)(?:\S*/)?python -m (\S+.*)", line) for line in lines]
  return [shlex.split(match.group(1), comments=True) for match in found if match]


def help_of(main: Callable, words: list[str], capsys) -> str:
  """What a program prints for `--help`."""
  try:
    status = main([*words, "--help"])
  except SystemExit as end:
    status = end.code
  assert status in (0, None), words
  return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_programs_know_the_flags_that_are_printed(page, capsys):
  for program, *words in commands(page):
    if program in TRAINERS or not program.startswith(("train.", "infer.", "convert.")) or "$" in program:
      continue
    main = importlib.import_module(program).main
    parts = [[], ["--stream"]] if "--stream" in words else [[]]
    if program == "infer.evaluate":  # several commands; `run` hands on the flags of `synthesise`
      parts = [words[:1], ["synthesise"]] if words[0] == "run" else [words[:1]]
    known = "".join(help_of(main, part, capsys) for part in parts)
    for word in words[: words.index("|")] if "|" in words else words:
      if word.startswith("--"):
        assert re.search(rf"{re.escape(word.split('=')[0])}\b", known), f"{page}: {program} has no {word}"


def test_pages_that_are_linked_are_there():
  for page in PAGES:
    for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / page).read_text()):
      if "://" not in target:
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
