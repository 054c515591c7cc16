"""Every file of a checkpoint cut short, with one bit flipped, or gone: the previous step, or an error that names it."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import CheckpointError
from cosyjax.training.checkpoint_read import read_arrays
from cosyjax.training.checkpoints import Checkpoints, find_damage


def state(value):
  return {"w": jnp.full((8, 8), value, jnp.float32), "n": jnp.int32(value)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  path = tmp_path_factory.mktemp("damage")
  checkpoints = Checkpoints(path, config={"a": 1})
  checkpoints.save(1, state(1), {"n": 1})
  checkpoints.save(2, state(2), {"n": 2})
  checkpoints.close()
  return path


def damages(folder):
  """(what was done, file, undo) with each file damaged in turn."""
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  assert len(files) > 8
  for file in files:
    data = file.read_bytes()
    ways = {"gone": None, "longer": data + b"\0"}
    if data:
      ways["cut short"] = data[: len(data) // 2]
      for where in {0, len(data) // 2, len(data) - 1}:
        flipped = bytearray(data)
        flipped[where] ^= 4
        ways[f"bit flipped in byte {where}"] = bytes(flipped)
    for how, content in ways.items():
      if content is None:
        file.unlink()
      else:
        file.write_bytes(content)
      yield how, file
      file.write_bytes(data)


def test_every_damage_is_found_and_named(saved):
  folder = saved / "00000002"
  assert find_damage(folder) is None
  count = 0
  for how, file in damages(folder):
    fault = find_damage(folder)
    assert fault is not None and fault.startswith(str(file)), (how, file, fault)
    with pytest.raises(CheckpointError):
      read_arrays(saved, 2)
    count += 1
  assert count > 40 and find_damage(folder) is None
  (folder / "state" / "more").write_text("")
  assert "not part of this checkpoint" in find_damage(folder)
  (folder / "state" / "more").unlink()


def test_a_damaged_step_gives_way_to_the_one_before(saved, tmp_path, capsys):
  root = tmp_path / "run"
  shutil.copytree(saved, root)
  file = next(p for p in (root / "00000002" / "state").rglob("d/*") if p.is_file())
  file.write_bytes(file.read_bytes()[:-1])
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state(0))
  with pytest.raises(CheckpointError, match=str(file)):
    Checkpoints(root, config={"a": 1}).restore(abstract, step=2)
  checkpoints = Checkpoints(root, config={"a": 1})
  step, restored, iterator = checkpoints.restore(abstract)
  assert (step, iterator) == (1, {"n": 1})
  jax.tree.map(np.testing.assert_array_equal, restored, state(1))
  assert str(file) in (warning := capsys.readouterr().err) and "going back to step 1" in warning
  assert (root / "00000002.damaged").is_dir() and checkpoints.latest() == 1
  checkpoints.save(2, state(2), {"n": 2}, wait=True)  # the step comes round again
  assert checkpoints.restore(abstract)[0] == 2
  for step in (1, 2):
    (root / f"0000000{step}" / "info" / "metadata").unlink()
  with pytest.raises(CheckpointError) as caught:
    checkpoints.restore(abstract)
  assert "00000001/info/metadata: missing" in str(caught.value) and "00000002/info/metadata: missing" in str(
    caught.value
  )
