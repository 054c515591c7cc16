"""What a compiled step sends between devices and moves through memory, and the utilisation that this leaves room for.

All figures are of one device and one step, read from the text of the compiled program.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from cosyjax.analysis import hlo
from cosyjax.analysis.chips import Chip

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of the program.

  Attributes:
    kind: one of `KINDS`.
    bytes: of the whole array that is reduced, gathered or scattered; of the last two kinds, of what one device sends.
    group: how many devices take part together.
    times: how often it runs in a step.
    groups: numbers of the devices that take part together, in the order of the mesh; () if the text does not say.
  """

  kind: str
  bytes: float
  group: int
  times: float
  groups: tuple[tuple[int, ...], ...] = ()

  @property
  def wire(self) -> float:
    """Bytes that one device sends each time, and receives as many: of a ring for the first three kinds."""
    share = (self.group - 1) / self.group
    return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: str | hlo.Program, devices: int) -> list[Collective]:
  """All collectives of a compiled program.

  An asynchronous pair of start and done is one, as is one that the TPU compiler has cut up among several fusions; what
  is in a loop counts for every round.

  Args:
    program: `compiled.as_text()`, or that parsed.
    devices: that the program runs on.
  """
  program = hlo.parse(program) if isinstance(program, str) else program
  out, seen = [], set()
  for name, times in program.times.items():
    for instruction in program.computations[name]:
      kind = instruction.op.removesuffix("-start")
      if kind not in KINDS:
        continue
      # One that runs beside several fusions stands in each of them, under one channel and chain.
      chain = re.search(r'chain_id="?(\d+)', instruction.text), re.search(r"channel_id=(\d+)", instruction.text)
      if chain[0] and chain[1]:
        key = (kind, chain[0][1], chain[1][1])
        if key in seen:
          continue
        seen.add(key)
      sizes = [array.bytes for array in instruction.results]
      groups, group = _groups(instruction.text, devices)
      if instruction.op == "all-gather-start":  # operands, then results
        size = sum(sizes[len(sizes) // 2 :])
      elif instruction.op == "collective-permute-start":
        size = sizes[0]
      else:
        size = sum(sizes) * (group if kind == "reduce-scatter" else 1)
      if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # as the TPU compiler writes it: reduced, and each device keeps its slice
      if group > 1 and size:
        out.append(Collective(kind, size, group, times, groups))
  return out


def by_kind(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
  """kind -> {"count", "bytes", "wire"}, sums over a step; kinds that do not occur are left out."""
  out = {}
  for kind in KINDS:
    if some := [c for c in found if c.kind == kind]:
      total = lambda value, some=some: float(sum(c.times * value(c) for c in some))
      out[kind] = {"count": total(lambda c: 1), "bytes": total(lambda c: c.bytes), "wire": total(lambda c: c.wire)}
  return out


def network_seconds(
  found: Sequence[Collective], chip: Chip, torus: Sequence[int], places: Sequence[tuple[int, ...]] = ()
) -> float:
  """Least time that the collectives take, one after the other.

  A group uses the links of all axes of the torus along which it spreads, both ways. An axis that does not close to
  a ring, or of which a group has a part, has half the bandwidth; one whose chips belong to several groups
  by turns is shared by them. A group whose places are not known, or that has gaps, is taken to have as many whole
  axes as it needs to reach its size, the longest first; with gaps, at half their bandwidth.

  Args:
    found: of `collectives`.
    chip: gives the bandwidth of an axis. 0 where it has no such links: then no time.
    torus: chips along each axis, as in "v5e:16x16".
    places: each device's place in the torus, in the order of the mesh.
  """
  if not chip.link:
    return 0.0

  @functools.cache
  def rate(group: int, groups: tuple[tuple[int, ...], ...]) -> float:
    if not places or not groups:
      return _axes_rate(group, chip, torus)
    return min(_placed_rate([places[i] for i in members], chip, torus) for members in groups)

  return sum(c.times * c.wire / rate(c.group, c.groups) for c in found)


def _axes_rate(group: int, chip: Chip, torus: Sequence[int]) -> float:
  """Bytes a second that a device of a group of this size can send, on whole axes."""
  reached, total = 1, 0.0
  for size in sorted((size for size in torus if size > 1), reverse=True):
    if reached >= group:
      break
    reached *= size
    total += chip.link * (1.0 if size % chip.wraps == 0 else 0.5)
  return total or chip.link


def _placed_rate(members: Sequence[tuple[int, ...]], chip: Chip, torus: Sequence[int]) -> float:
  """The same of a group that lies at these places."""
  members = sorted(set(members))  # two devices may share a chip
  along = [sorted({place[axis] for place in members}) for axis in range(len(torus))]
  if math.prod(map(len, along)) != len(members):
    return _axes_rate(len(members), chip, torus) / 2
  total = 0.0
  for size, used in zip(torus, along, strict=True):
    if len(used) == 1:
      continue
    step = used[1] - used[0]  # where it is above 1, other groups lie between
    ring = size % chip.wraps == 0 and len(used) * step == size
    total += chip.link * (1.0 if ring else 0.5) / step
  return total or chip.link


# Operations that move nothing themselves.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional", "after-all",
         "optimization-barrier", "partition-id", "replica-id", "add-dependency", "iota"}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")


def memory_traffic(program: str | hlo.Program) -> float:
  """Bytes read from and written to a device's memory: operands and results of every instruction, loops by their rounds.

  An estimate: what lies in memory on the chip is free, of a sliced array the slice counts, of an array that
  is updated in place the update; what fills up the tiles of a layout is moved too.
  """
  return sum(traffic_by_source(program).values())


def loop_traffic(program: str | hlo.Program) -> float:
  """The part of `memory_traffic` that lies in loops of unknown length: bytes of one round of each."""
  program = hlo.parse(program) if isinstance(program, str) else program
  return sum(traffic_by_source(program, program.unknown).values())


def traffic_by_source(program: str | hlo.Program, within: Collection[str] | None = None) -> dict[str, float]:
  """`memory_traffic` by what in the model it is for, the most first.

  Instructions go by their name in the traced function without its numbers ("jit(update)/.../dot_general"), or by
  their kind where the compiler made them for itself (copies, and what it reads ahead).

  Args:
    program: compiled.
    within: computations to count; all of them if None.
  """
  program = hlo.parse(program) if isinstance(program, str) else program
  found: Counter[str] = Counter()
  for name, times in program.times.items():
    if name not in program.fused and (within is None or name in within):
      instructions = program.computations[name]
      arrays = {i.name: i.results for i in instructions}
      for i in instructions:
        if size := times * _traffic(i, arrays, program):
          source = re.search(r'op_name="([^"]*)"', i.text)
          found[re.sub(r"\d+", "#", source[1]) if source else i.op] += size
  return dict(found.most_common())


def mfu_bound(
  model_flops: float, executed_flops: float, memory: float, network: float, chip: Chip, peak: float
) -> dict[str, float]:
  """The best utilisation that a step can have on a chip, and what sets it.

  Args:
    model_flops: of one device's share of a step.
    executed_flops: the same with all that is computed again.
    memory: bytes of `memory_traffic`.
    network: seconds of `network_seconds`.
    chip, peak: the device, and its rate at the compute type.

  Returns:
    Seconds of a step for "compute", "memory" and "network", each alone; "overlapped", the MFU if they hide behind the
    longest of them; "exposed", the MFU if nothing hides the network.
  """
  seconds = {"compute": executed_flops / peak, "memory": memory / chip.bandwidth, "network": network}
  busy = max(seconds["compute"], seconds["memory"])
  ideal = model_flops / peak
  return seconds | {"overlapped": ideal / max(busy, network), "exposed": ideal / (busy + network)}


_GROUPS = re.compile(
  r"replica_groups=(\{\{.*?\}\}"  # listed
  r"|\[[\d,]*\]<=\[[\d,]*\](?:T\([\d,]*\))?"  # numbers in order, perhaps turned
  r"|(?:@\w+|mesh\[[^\]]*\])\s*\{[^}]*\})"  # axes of a mesh
)


def _groups(text: str, devices: int) -> tuple[tuple[tuple[int, ...], ...], int]:
  """Groups of a collective and the size of one, in any of the spellings of `replica_groups`."""
  if "source_target_pairs" in text:
    return (), 2
  found = _GROUPS.search(text)
  return _read_groups(found[1], devices) if found else ((tuple(range(devices)),), devices)


@functools.lru_cache(maxsize=256)
def _read_groups(text: str, devices: int) -> tuple[tuple[tuple[int, ...], ...], int]:
  numbers = lambda digits: [int(x) for x in digits.split(",") if x]
  if text.startswith("{{"):
    groups = [numbers(part) for part in re.findall(r"\{([\d,]+)\}", text)]
  elif iota := re.fullmatch(r"\[([\d,]*)\]<=\[([\d,]*)\](?:T\(([\d,]*)\))?", text):
    ids = np.arange(math.prod(numbers(iota[2]))).reshape(numbers(iota[2]))
    groups = ids.transpose(numbers(iota[3]) if iota[3] else None).reshape(numbers(iota[1])).tolist()
  else:
    declared, used = re.fullmatch(r"(?:@\w+|mesh\[([^\]]*)\])\s*\{([^}]*)\}", text).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'?(\w+)'?=(\d+)", declared or "")}
    together = [axis for axis in re.findall(r"'?(\w+)'?", used) if axis in sizes]
    size = math.prod(sizes[axis] for axis in together)
    if math.prod(sizes.values()) != devices:
      return (), size
    order = [axis for axis in sizes if axis not in together] + together
    ids = np.arange(devices).reshape(list(sizes.values())).transpose([list(sizes).index(axis) for axis in order])
    groups = ids.reshape(-1, size).tolist()
  return tuple(map(tuple, groups)), len(groups[0])


def _traffic(i: hlo.Instruction, arrays: dict[str, tuple[hlo.Array, ...]], program: hlo.Program) -> float:
  if i.op in _FREE or i.op.endswith(("-done", "-update")) or (i.op == "custom-call" and not i.operands):
    return 0.0
  out = sum(a.stored for a in i.results if not a.fast)
  read = lambda name: sum(a.stored for a in arrays.get(name, ()) if not a.fast)
  if i.op in _SLICES:
    return out + min(out or math.inf, sum(map(read, i.operands[:1])))
  if i.op == "dynamic-update-slice":
    return 0.0 if i.results[0].fast else 2 * sum(a.stored for a in arrays.get(i.operands[1], ()))
  if i.op.endswith("-start"):  # a copy between the two memories, described by (source, destination, ...)
    return min((a.stored for a in i.results[:2]), default=0.0) * sum(not a.fast for a in i.results[:2])
  if i.op != "fusion":
    return out + sum(map(read, i.operands))
  inside = _inside(i, program)
  reads = sum(_read(p.name, read(o), inside, program) for o, p in _pairs(i, inside))
  root = next((j for j in inside if j.root), None)
  roots = root.operands if root and root.op == "tuple" else (root.name,) if root else ()
  if len(roots) != len(i.results):
    return out + reads
  named = {j.name: j for j in inside}
  return reads + sum(
    min(a.stored, _written(named[name], named, program)) for a, name in zip(i.results, roots, strict=True) if not a.fast
  )


def _inside(i: hlo.Instruction, program: hlo.Program) -> list[hlo.Instruction]:
  return program.computations.get(next(iter(i.called("calls")), ""), [])


def _pairs(i: hlo.Instruction, inside: list[hlo.Instruction]) -> list[tuple[str, hlo.Instruction]]:
  """A fusion's operands with the parameters that they are inside; `parameter(n)` may stand in any order."""
  return [(i.operands[int(j.constant)], j) for j in inside if j.op == "parameter"]


def _read(name: str, size: float, inside: list[hlo.Instruction], program: hlo.Program) -> float:
  """Bytes that a fusion reads of one array: its slices, nothing of what is updated in place, else all of it."""
  total = 0.0
  for j in inside if size else ():
    if name not in j.operands:
      continue
    if j.op in _SLICES and j.operands[0] == name:
      total += sum(a.stored for a in j.results)
    elif j.op == "bitcast":
      total += _read(j.name, size, inside, program)
    elif j.op == "fusion":
      deeper = _inside(j, program)
      total += sum(_read(p.name, size, deeper, program) for o, p in _pairs(j, deeper) if o == name)
    elif j.op != "tuple" and not (j.op == "dynamic-update-slice" and j.operands[0] == name):
      return size
  return min(size, total)


def _written(j: hlo.Instruction, named: dict[str, hlo.Instruction], program: hlo.Program) -> float:
  """Bytes that a fusion writes for one of its results: the update, where an array is updated in place."""
  if j.op == "parameter":
    return 0.0  # handed through
  if j.op == "bitcast":
    return _written(named[j.operands[0]], named, program)
  if j.op == "dynamic-update-slice":
    return sum(a.stored for a in named[j.operands[1]].results)
  if j.op == "fusion" and len(j.results) == 1:
    deeper = {k.name: k for k in _inside(j, program)}
    root = next((k for k in deeper.values() if k.root), None)
    return _written(root, deeper, program) if root else sum(a.stored for a in j.results)
  return sum(a.stored for a in j.results)
