"""Where the devices of a torus stand in the mesh, what each process then reads, and what that does to the network."""

import dataclasses

import jax
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.analysis import chips, collectives
from cosyjax.data.iterator import _Source
from cosyjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Device:
  """What a mesh asks of a TPU."""

  id: int
  coords: tuple[int, int, int]
  process_index: int
  slice_index: int = 0
  device_kind: str = "TPU v5 lite"
  platform: str = "tpu"
  core_on_chip: int = 0


def torus(x: int, y: int, z: int = 1, *, kind: str = "TPU v5 lite", part: int = 0) -> list[Device]:
  """Devices as they are listed: machine by machine, each a square of four chips."""
  out = []
  for k in range(z):
    for j in range(0, y, 2):
      for i in range(0, x, 2):
        machine = (part * z + k) * (x // 2) * (y // 2) + j // 2 * (x // 2) + i // 2
        for dj, di in ((0, 0), (0, 1), (1, 0), (1, 1)):
          out.append(Device(len(out), (i + di, j + dj, k), machine, part, kind))
  return out


def axes_of(mesh) -> dict[str, set[int]]:
  """Axes of the torus along which the groups of each mesh axis spread."""
  places = np.array([d.coords for d in mesh.devices.flat]).reshape(*mesh.devices.shape, 3)
  return {
    name: {c for c in range(3) if (np.ptp(places[..., c], axis=i) > 0).any()}
    for i, name in enumerate(sharding.MESH_AXES)
  }


def test_mesh_axes_follow_the_axes_of_the_torus():
  plane = sharding.make_mesh(data=16, fsdp=16, devices=torus(16, 16))
  along = axes_of(plane)
  assert len(along["data"]) == len(along["fsdp"]) == 1 and along["data"] != along["fsdp"]
  cube = sharding.make_mesh(data=4, fsdp=16, devices=torus(4, 4, 4, kind="TPU v5"))
  along = axes_of(cube)
  assert len(along["data"]) == 1 and len(along["fsdp"]) == 2 and not along["data"] & along["fsdp"]
  for mesh in (plane, cube):
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 3 and len(set(mesh.devices.flat)) == mesh.size
  assert sharding.make_mesh(data=8, fsdp=8, devices=torus(4, 4, 4, kind="TPU v5")).shape["fsdp"] == 8  # axes are split


def test_slices_are_joined_along_data():
  devices = [*torus(4, 4, part=0), *torus(4, 4, part=1)]
  mesh = sharding.make_mesh(data=8, fsdp=4, devices=devices)
  slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
  assert (slices[:4] == 0).all() and (slices[4:] == 1).all()
  assert len(axes_of(mesh)["fsdp"]) == 1
  listed = sharding.make_mesh(fsdp=32, devices=devices)  # data cannot be what joins them
  assert list(listed.devices.flat) == devices


def test_devices_without_places_keep_their_order():
  devices = [dataclasses.replace(d, coords=None, platform="cpu") for d in torus(4, 4)]
  assert list(sharding.make_mesh(data=2, fsdp=8, devices=devices).devices.flat) == devices


@pytest.mark.parametrize("shape", [(16, 16, 1), (256, 1, 1), (128, 1, 2), (64, 1, 4)])
def test_processes_read_the_rows_that_their_devices_hold(shape, monkeypatch):
  mesh = sharding.make_mesh(*shape, devices=torus(16, 16))
  rows, seen = 2 * sharding.row_count(mesh), np.zeros(2 * sharding.row_count(mesh), int)

  class Plan:
    shapes = ((rows, 1),)
    batch = staticmethod(lambda n: (0, [np.array([r]) for r in range(rows)]))
    epoch_of = staticmethod(lambda n: 0)

  class Rows:
    load = staticmethod(lambda epoch, mine, length: [int(r[0]) for r in mine])

  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.ROW_AXES))
  held = {}
  for device, (index,) in place.devices_indices_map((rows,)).items():
    held.setdefault(device.process_index, set()).update(range(*index.indices(rows)))
  for process in range(64):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    part, parts = sharding.process_share(mesh)
    mine = part if isinstance(part, tuple) else (part,)
    read = _Source(Rows, Plan, (mine, parts), 1)[0]
    assert set(read) == held[process] and read == sorted(read)
    assert len(read) * sharding.share_count(mesh) == rows
    seen[read] += 1
  assert (seen == seen[0]).all()


def test_an_aligned_run_of_rows_is_one_part(monkeypatch):
  devices = [dataclasses.replace(d, coords=None, platform="cpu") for d in torus(4, 4)]
  monkeypatch.setattr(jax, "process_index", lambda: 2)
  assert sharding.process_share(sharding.make_mesh(data=16, devices=devices)) == (2, 4)
  uneven = [dataclasses.replace(d, process_index=min(d.process_index, 2)) for d in devices]
  with pytest.raises(ConfigError, match="unequal or overlapping"):
    sharding.process_share(sharding.make_mesh(data=16, devices=uneven))


def test_groups_of_every_spelling():
  read = lambda text, devices: collectives._groups(f"channel_id=1, replica_groups={text}, dimensions={{0}}", devices)
  assert read("{{0,1},{2,3}}", 4) == (((0, 1), (2, 3)), 2)
  assert read("[2,2]<=[4]", 4) == (((0, 1), (2, 3)), 2)
  assert read("[2,2]<=[2,2]T(1,0)", 4) == (((0, 2), (1, 3)), 2)
  assert read("mesh['a'=2,'b'=2] {'b'}", 4) == (((0, 1), (2, 3)), 2)
  assert read("mesh['a'=2,'b'=2] {'a'}", 4) == (((0, 2), (1, 3)), 2)
  assert read("{}", 4) == (((0, 1, 2, 3),), 4)


def test_time_depends_on_where_a_group_lies():
  chip, line = chips.CHIPS["TPU v5 lite"], range(16)
  places = [(i, j, 0) for i in line for j in line]
  number = {place: n for n, place in enumerate(places)}

  def rate(members):
    group = tuple(number[i, j, 0] for i, j in members)
    one = collectives.Collective("all-gather", 1.6e9, len(group), 1.0, (group,))
    return one.wire / collectives.network_seconds([one], chip, (16, 16, 1), places) / 1e9

  assert rate([(3, j) for j in line]) == pytest.approx(100)  # a ring
  assert rate([(i, j) for i in line for j in line]) == pytest.approx(200)  # both axes
  assert rate([(3, j) for j in range(8)]) == pytest.approx(50)  # a part of an axis is a line
  assert rate([(i, j) for i in range(4) for j in range(4)]) == pytest.approx(100)  # lines both ways
  assert rate([(3, j) for j in line if j % 2 == 0]) == pytest.approx(50)  # a ring whose links another group uses too
  assert rate([(j, j) for j in line]) == pytest.approx(50)  # a diagonal: not along an axis
