"""Figures as Markdown tables."""

from collections.abc import Mapping, Sequence

from cosyjax.evaluation.intervals import Estimate

PERCENT = ("error", "character", "nearest", "seams", "runaway", "truncated", "refused", "late")
SECONDS = ("leading", "trailing", "longest pause", "first packet")
COUNTED = ("runaway", "truncated", "refused")
NOTHING = "-"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table; all cells of a column take the same width. Bars in cells are escaped."""
  cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [columns, *rows]]
  widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns))]
  line = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
  return "\n".join([line(cells[0]), line(["-" * width for width in widths]), *map(line, cells[1:])])


def cell(name: str, estimate: Estimate | None, signed: bool = False) -> str:
  """A figure with its interval, in the unit of its name; failures as a count."""
  if estimate is None or not estimate.count:
    return NOTHING
  if name in COUNTED:
    return f"{round(estimate.value * estimate.count)} of {estimate.count}"
  scale, digits = (100, 1) if _starts(name, PERCENT) else (1, 2)
  value, low, high = (f"{scale * x:{'+' if signed else ''}.{digits}f}" for x in _parts(estimate))
  return f"{value} [{low}, {high}]"


def figures(systems: Mapping[str, Mapping[str, Estimate]], names: Sequence[str], signed: bool = False) -> str:
  """A table of systems against figures; those that no system has are left out.

  Args:
    systems: figures by name, by system, in order.
    names: of figures, in order.
    signed: for differences.
  """
  names = [name for name in names if any(name in found for found in systems.values())]
  head = ["system", *(f"{name}{unit(name)}" for name in names)]
  rows = [[system, *(cell(n, found.get(n), signed) for n in names)] for system, found in systems.items()]
  return markdown(head, rows)


def unit(name: str) -> str:
  """The unit of a figure, for its column's head."""
  if name in COUNTED:
    return ""
  return ", %" if _starts(name, PERCENT) else ", s" if name in SECONDS else ", letters/s" if name == "pace" else ""


def _starts(name: str, words: Sequence[str]) -> bool:
  return any(name == word or name.startswith(f"{word} ") for word in words)


def _parts(estimate: Estimate) -> tuple[float, float, float]:
  return estimate.value, estimate.low, estimate.high
