"""Reads the text of a compiled program (`compiled.as_text()`): instructions, and how often each one runs."""

import dataclasses
import math
import re
from collections import defaultdict

_BYTES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TILED = re.compile(r"\{([\d,]*):[^{}]*?T\(([\d,]+)\)")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's result.

  Attributes:
    bytes: of its numbers.
    fast: it lives in memory on the chip (TPU).
    stored: bytes that it takes there, with what fills up the tiles of its layout: a TPU keeps 8 x 128 numbers
      together, and rows of 64 take twice their size.
  """

  bytes: float
  fast: bool
  stored: float


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation. `results` are its arrays, of a tuple in order; `text` is what follows the operands."""

  name: str
  op: str
  results: tuple[Array, ...]
  operands: tuple[str, ...]
  text: str
  constant: str
  root: bool

  def called(self, *roles: str) -> list[str]:
    """Computations that the instruction names in these roles ("calls", "body", ...)."""
    return [name for role, name in _CALLED.findall(self.text) if role in roles]


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled module.

  Attributes:
    computations: name -> instructions in order.
    times: name -> how often the computation runs in one execution.
    fused: computations inside a fusion (or a reduction): their instructions touch no memory.
    unknown_loops: loops whose length the text does not say; they count as one round.
    unknown: computations that run in such loops, bodies, conditions and what these call: `times` is then of one round.
  """

  computations: dict[str, list[Instruction]]
  times: dict[str, float]
  fused: set[str]
  unknown_loops: int
  unknown: set[str]


def parse(text: str) -> Program:
  """A program from its text."""
  computations: dict[str, list[Instruction]] = {}
  entry, current = "", []
  for line in text.splitlines():
    line = _COMMENT.sub("", line)
    if header := _COMPUTATION.match(line):
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif " = " in line and line.startswith(" "):
      current.append(_instruction(line.strip()))
  return _count(computations, entry)


def _instruction(line: str) -> Instruction:
  left, right = line.split(" = ", 1)
  shape, rest = _balanced(right) if right.startswith("(") else right.split(" ", 1)
  op, rest = rest.strip().split("(", 1)
  operands, attributes = _balanced("(" + rest)
  return Instruction(
    name=left.removeprefix("ROOT ").lstrip("%"),
    op=op,
    results=tuple(_array(*found) for found in _SHAPE.findall(shape)),
    operands=tuple(_NAME.findall(operands)),
    text=attributes,
    constant=operands[1:-1] if op in ("constant", "parameter") else "",
    root=left.startswith("ROOT "),
  )


def _array(dtype: str, dims: str, layout: str) -> Array:
  width = _BYTES.get(dtype)
  if width is None:
    bits = re.search(r"\d+", dtype)
    width = int(bits[0]) / 8 if bits else 4
  sizes = [int(d) for d in dims.split(",") if d]
  padded = list(sizes)
  if tiled := _TILED.match(layout):
    order, tile = ([int(x) for x in part.split(",") if x] for part in tiled.groups())
    for axis, unit in zip(order, reversed(tile), strict=False):  # the axes that lie closest first
      padded[axis] = -(-sizes[axis] // unit) * unit
  return Array(width * math.prod(sizes), "S(1)" in layout, width * math.prod(padded))


def _balanced(text: str) -> tuple[str, str]:
  """Splits behind the parenthesis that closes the first one."""
  depth = 0
  for i, char in enumerate(text):
    depth += (char == "(") - (char == ")")
    if depth == 0:
      return text[: i + 1], text[i + 1 :]
  return text, ""


def _count(computations: dict[str, list[Instruction]], entry: str) -> Program:
  times: dict[str, float] = defaultdict(float)
  fused: set[str] = set()
  unknown: set[str] = set()
  unknown_loops = 0

  def visit(name: str, scale: float, inside: bool, known: bool) -> None:
    nonlocal unknown_loops
    if name not in computations:
      return
    times[name] += scale
    if inside:
      fused.add(name)
    if not known:
      unknown.add(name)
    for instruction in computations[name]:
      if instruction.op == "while":
        rounds = _rounds(instruction, computations)
        unknown_loops += rounds is None
        for part in instruction.called("body", "condition"):
          visit(part, scale * (rounds or 1), inside, known and rounds is not None)
        continue
      branches = _BRANCHES.search(instruction.text)
      called = instruction.called("calls", "true_computation", "false_computation")
      called += _NAME.findall(branches[1]) if branches else []
      if instruction.op == "call":
        called += instruction.called("to_apply")
      if not instruction.op.endswith(("-update", "-done")):  # they name again what their start has named
        for part in called:
          visit(part, scale, inside or instruction.op == "fusion", known)

  visit(entry, 1.0, False, True)
  return Program(computations, dict(times), fused, unknown_loops, unknown)


def _rounds(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
  """How often a loop goes round: as XLA noted it, or from a condition `counter < constant`, which counts from 0."""
  if noted := re.search(r'"?known_trip_count"?:\{"?n"?:"?(\d+)', loop.text):
    return int(noted[1])
  condition = computations.get(next(iter(loop.called("condition")), ""), [])
  constants = {i.name: i.constant for i in condition if i.op == "constant"}
  for i in condition:
    if i.root and i.op == "compare" and "direction=LT" in i.text and constants.get(i.operands[-1], "").isdecimal():
      return int(constants[i.operands[-1]])
  return None
