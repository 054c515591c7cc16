"""A pod without a pod: compiles a trainer's real step for TPUs that are not there, and reports what it needs.

    python -m train.lm --config configs/lm.py --compile-only v5e:16x16

A topology is any that libtpu knows: v4:2x2x4, v5e:4x4, v5p:4x4x4, v6e:16x16, ... No TPU is touched:
the compiler comes with the package libtpu. What is printed is per device and per step:

  bytes        arguments (parameters, optimiser, batch), outputs, temporaries and code, against what
               the TPU compiler lets a program have of the memory
  FLOPs        of the model and as executed, see cosyjax.analysis.flops
  collectives  by kind: how many, bytes of their arrays, bytes that a device sends
  MFU bound    the utilisation that arithmetic, memory and links leave room for, if they overlap
               perfectly, and if nothing hides the collectives

The exit code is 0 if the step fits and 1 if it does not.
"""

import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosyjax.analysis import collectives, flops, hlo
from cosyjax.analysis.chips import GIB, Chip, chip_of
from cosyjax.errors import ConfigError
from cosyjax.sharding import make_mesh, mesh_shape

# build(mesh) -> (jitted update, its arguments, units per step, model FLOPs per step).
#   The arguments are `jax.ShapeDtypeStruct`s that carry shardings over the mesh; the batch is the global one.
#   Units are what the trainer's speed is counted in: tokens, or seconds of audio. The FLOPs are of the whole
#   batch (`flops.training_flops`); None takes those of the update as they are executed.
Build = Callable[[Mesh], tuple[Any, tuple[Any, ...], float, float | None]]

SOURCES = 12  # of memory traffic that the report keeps

_QUIET = {
  "TPU_SKIP_MDS_QUERY": "1",  # do not ask the machine which TPU it has
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two may compile at once: nobody holds a device
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
}


def report(
  name: str, topology: str, build: Build, *, mesh: Any, units: str = "tokens", dtype: str = "bfloat16",
  file: Path | None = None,
) -> int:  # fmt: skip
  """Compiles a step for a topology and prints what it needs.

  Call it before anything has run on a device: JAX is told to keep to the CPU.

  Args:
    name: of the trainer.
    topology: such as "v5e:16x16".
    build: see `Build`. The update is traced with the mesh set (`jax.set_mesh`).
    mesh: sizes of the axes, a `MeshConfig` (fields data, fsdp, tensor).
    units: word for the units of `build`.
    dtype: compute type.
    file: a line of JSON with all figures is appended there.

  Returns:
    0 if the step fits into memory, 1 if not.

  Raises:
    ConfigError: libtpu is not installed, does not know the topology, or the mesh does not fit it.
  """
  devices = topology_devices(topology)
  shape = mesh_shape(mesh.data, mesh.fsdp, mesh.tensor, len(devices))
  made = make_mesh(*shape, devices=devices)
  record = {"name": name, "topology": topology, "device": devices[0].device_kind, "devices": len(devices),
            "mesh": dict(made.shape), "dtype": dtype, "units": units}  # fmt: skip
  update, args, count, model_flops = build(made)  # not under the mesh: nothing can run on those devices
  with jax.set_mesh(made):
    traced = update.trace(*args)
    try:
      executed = sum(flops.jaxpr_breakdown(traced.jaxpr, kernels=True).values())
    except ConfigError:  # a kernel that cannot be read
      executed = model_flops or 0.0
    record |= {"units_per_step": count, "model_flops": model_flops or executed, "executed_flops": executed}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="compile-only-", ignore_cleanup_errors=True) as dump:
      try:
        with _silence():
          compiled = traced.lower().compile({"xla_dump_to": dump, "xla_dump_hlo_as_text": True})
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        record |= {"fits": False, "error": _first_line(error)}
      else:
        record["compile_seconds"] = time.perf_counter() - start
        record |= measure(compiled, record, list(made.devices.flat), Path(dump))
  print(describe(record), flush=True)
  if file is not None:
    with file.open("a") as out:
      out.write(json.dumps(record) + "\n")
  return 0 if record["fits"] else 1


def topology_devices(topology: str) -> list[jax.Device]:
  """Descriptions of the devices of a topology, to compile for.

  Raises:
    ConfigError: libtpu is missing, or has no such topology.
  """
  for key, value in _QUIET.items():
    os.environ.setdefault(key, value)
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies

  try:
    with _silence():
      import libtpu  # noqa: F401

      return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
  except ImportError:
    raise ConfigError(
      f"--compile-only {topology}: the TPU compiler is not installed: pip install libtpu (no TPU is needed)"
    ) from None
  except Exception as error:  # libtpu knows several ways to refuse a name
    raise ConfigError(
      f"--compile-only {topology}: libtpu has no such topology ({_first_line(error)}). Expected a generation and the "
      "chips along each axis: v5e:4x4, v5e:16x16, v6e:8x8 (planes), v4:2x2x4, v5p:4x4x4 (three axes; multiples of 2)"
    ) from None


def measure(compiled: Any, record: dict[str, Any], devices: list[jax.Device], dump: Path) -> dict[str, Any]:
  """Figures of a compiled step, per device: bytes, collectives, time, MFU bound.

  Args:
    compiled: the step.
    record: of `report`, so far.
    devices: in the order of the mesh.
    dump: where the compiler wrote.
  """
  stats = compiled.memory_analysis()
  sizes = {
    "arguments": stats.argument_size_in_bytes,
    "outputs": stats.output_size_in_bytes,
    "in_place": stats.alias_size_in_bytes,
    "temporaries": stats.temp_size_in_bytes,
    "code": stats.generated_code_size_in_bytes,
  }
  total = sum(sizes.values()) - 2 * sizes["in_place"]
  chip, cores, torus = _hardware(devices)
  out: dict[str, Any] = {"bytes": sizes | {"total": total}, "fits": chip is None or total <= chip.usable / cores}
  if chip is not None:
    out |= {"usable": chip.usable / cores, "memory": chip.memory / cores}
  try:
    with _silence():
      text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:  # programs for chips with SparseCores do not always come back whole
    dumps = list(dump.glob("*.after_optimizations.txt"))  # of the step, and of small parts of it
    if not dumps:
      return out | {"unreadable": _first_line(error)}
    text = max(dumps, key=lambda path: path.stat().st_size).read_text()
  program = hlo.parse(text)
  found = collectives.collectives(program, len(devices))
  sources = collectives.traffic_by_source(program)
  traffic = sum(sources.values())
  out |= {"largest_traffic": dict(list(sources.items())[:SOURCES])}
  out |= {"collectives": collectives.by_kind(found), "memory_traffic": traffic, "unknown_loops": program.unknown_loops}
  out["unknown_loop_traffic"] = collectives.loop_traffic(program)
  if chip is not None:
    peak = (chip.half if record["dtype"] != "float32" else chip.single) / cores
    model, executed = (record[key] / len(devices) for key in ("model_flops", "executed_flops"))
    network = collectives.network_seconds(found, chip, torus, [tuple(device.coords) for device in devices])
    bound = collectives.mfu_bound(model, executed, traffic * cores, network, chip, peak)
    out["bound"] = bound
  return out


def describe(record: dict[str, Any]) -> str:
  """The record of `report` for people."""
  mesh = ", ".join(f"{axis} {size}" for axis, size in record["mesh"].items())
  lines = [f"{record['name']} on {record['topology']}: {record['devices']} x {record['device']}, mesh {mesh}"]
  add = lambda label, text: lines.append(f"  {label:<20}{text}")
  share = 1 / record["devices"]
  add("batch", f"{record['units_per_step']:,.0f} {record['units']} a step, "
      f"{record['units_per_step'] * share:,.0f} a device")  # fmt: skip
  add("FLOPs", f"{record['model_flops'] * share:.3g} of the model, {record['executed_flops'] * share:.3g} executed "
      "(per device)")  # fmt: skip
  if "error" in record:
    add("memory", f"DOES NOT FIT: {record['error']}")
    return "\n".join(lines)
  sizes = {name: _bytes(size) for name, size in record["bytes"].items()}
  add("bytes", f"arguments {sizes['arguments']}, outputs {sizes['outputs']} ({sizes['in_place']} in the arguments' "
      f"place), temporaries {sizes['temporaries']}, code {sizes['code']}")  # fmt: skip
  if "usable" in record:
    used, limit = record["bytes"]["total"] / GIB, record["usable"] / GIB
    verdict = "fits" if record["fits"] else "DOES NOT FIT"
    sold = record["memory"] / 1e9
    add(
      "memory", f"{verdict}: {used:.2f} of the {limit:.2f} GiB that XLA may use (its own limit; {sold:.0f} GB as sold)"
    )
  if "unreadable" in record:
    add("collectives", f"not known: XLA cannot write this program out ({record['unreadable']})")
    add("compiled in", f"{record['compile_seconds']:.0f} s")
    return "\n".join(lines)
  for kind, row in record["collectives"].items():
    add(kind, f"{row['count']:,.0f} of {_bytes(row['bytes'])} in all, {_bytes(row['wire'])} sent")
  if not record["collectives"]:
    add("collectives", "none")
  add("memory traffic", f"about {_bytes(record['memory_traffic'])}")
  if record["unknown_loops"]:
    add("note", f"{record['unknown_loops']} loops of unknown length are counted as one round, "
        f"{_bytes(record['unknown_loop_traffic'])} of the traffic")  # fmt: skip
  if bound := record.get("bound"):
    add("least time", ", ".join(f"{key} {1e3 * bound[key]:.1f} ms" for key in ("compute", "memory", "network")))
    add("MFU bound", f"{bound['overlapped']:.0%} if all overlaps, {bound['exposed']:.0%} if nothing hides the network")
  add("compiled in", f"{record['compile_seconds']:.0f} s")
  return "\n".join(lines)


def _hardware(devices: list[jax.Device]) -> tuple[Chip | None, int, tuple[int, ...]]:
  """(chip, devices that share one, chips along each axis of the torus)."""
  places = {tuple(device.coords) for device in devices}
  torus = tuple(1 + max(place[i] for place in places) for i in range(len(next(iter(places)))))
  return chip_of(devices[0].device_kind), len(devices) // len(places), torus


def _bytes(size: float) -> str:
  for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if size >= scale:
      return f"{size / scale:.3g} {unit}"
  return f"{size:.0f} B"


def _first_line(error: BaseException) -> str:
  return re.sub(r"\s+", " ", str(error).strip().splitlines()[0])[:300] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """libtpu writes warnings about the TPU that is not there straight to standard error: kept, and shown on an error."""
  sys.stderr.flush()
  keep = os.dup(2)
  with tempfile.TemporaryFile() as hidden:
    os.dup2(hidden.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(keep, 2)
      os.close(keep)
