"""Checkpoints of a run: whole or not there, verified, refused when they do not fit, bit-equal on any mesh."""

import json
import logging
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cosyjax.errors import CheckpointError, OutputError
from cosyjax.sharding import make_mesh
from cosyjax.training.checkpoint_files import find_damage, part_file, write_digests
from cosyjax.training.checkpoint_read import best_step, read_arrays
from cosyjax.training.checkpoints import UNFINISHED, Checkpoints
from tests.golden_files import GOLDEN

CONFIG = {"run": {"steps": 10, "seed": 0}, "rates": (1.0, 2.0)}


def tree(value=0.0):
  params = {"layer": {"kernel": jnp.full((3, 4), float(value)), "bias": jnp.arange(4.0) + value}}
  return {"step": jnp.int32(value), "params": params, "opt": optax.adam(1e-3).init(params), "ema": None}


def abstract(state=None):
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state or tree())


def opened(path, **options):
  return Checkpoints(path, config=options.pop("config", CONFIG), **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A directory with steps 1 and 2."""
  path = tmp_path_factory.mktemp("run") / "checkpoints"
  checkpoints = opened(path)
  checkpoints.save(1, tree(1), {"n": 1})
  checkpoints.save(2, tree(2), {"n": 2}, wait=True)
  checkpoints.close()
  return path


def test_restores_bit_for_bit_with_iterator(saved):
  checkpoints = opened(saved)
  assert checkpoints.latest() == 2
  step, state, iterator = checkpoints.restore(abstract())
  assert (step, iterator) == (2, {"n": 2})
  assert jax.tree.structure(state) == jax.tree.structure(tree())
  jax.tree.map(np.testing.assert_array_equal, state, tree(2))
  assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, tree())
  step, state, iterator = checkpoints.restore(abstract(), step=1)
  assert (step, iterator, float(state["params"]["layer"]["bias"][0])) == (1, {"n": 1}, 1.0)
  step, params = read_arrays(saved)
  np.testing.assert_array_equal(params["layer"]["kernel"], np.full((3, 4), 2.0))
  assert read_arrays(saved, 1, "params/layer")[1]["bias"][0] == 1.0


def test_keeps_the_last_and_the_best(tmp_path):
  checkpoints = opened(tmp_path, keep_last=2, keep_best=1, metric="loss")
  for step, loss in enumerate([3.0, 1.0, float("nan"), None, 2.0], start=1):
    checkpoints.save(step, {"x": jnp.full(2, step)}, {}, metric=loss)
  checkpoints.close()
  assert not logging.getLogger("absl").filters
  assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000004", "00000005"]
  assert checkpoints.best() == best_step(tmp_path)[::2] == (2, 1.0)
  assert best_step(tmp_path)[1] == "loss"


def test_a_donated_state_is_saved_as_it_was(tmp_path):
  bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state = {"x": jnp.zeros((512, 512)), "n": jnp.int32(0)}
  checkpoints = opened(tmp_path, keep_last=9)
  for step in range(4):
    checkpoints.save(step, state, {})
    state = bump(state)
  checkpoints.close()
  for step in range(4):
    assert set(np.unique(read_arrays(tmp_path, step, "")[1]["x"])) == {step}


@pytest.mark.parametrize("suffix", UNFINISHED[:2])
def test_removes_what_interrupted_saves_left(suffix, tmp_path, capsys):
  (tmp_path / f"00000003{suffix}" / "state").mkdir(parents=True)
  (tmp_path / f"00000003{suffix}" / "state" / "half").write_text("x")
  (tmp_path / "00000001.removed").mkdir()
  checkpoints = opened(tmp_path)
  assert not list(tmp_path.iterdir()) and checkpoints.latest() is None
  assert f"00000003{suffix}: an interrupted save, removed" in capsys.readouterr().err
  with pytest.raises(CheckpointError, match="there is no finished checkpoint"):
    checkpoints.restore(abstract())


def test_another_configuration_is_refused_with_a_diff(saved):
  changed = {"run": {"steps": 20, "seed": 1}, "rates": (1.0, 2.0)}
  with pytest.raises(CheckpointError) as caught:
    opened(saved, config=changed).restore(abstract())
  assert "-run.steps = 10\n" in str(caught.value) and "+run.steps = 20\n" in str(caught.value)
  with pytest.raises(CheckpointError, match=r"configuration \(run.seed\)"):
    opened(saved, config=changed, allow_config_change=["run.steps"]).restore(abstract())
  assert opened(saved, config=changed, allow_config_change=["run"]).restore(abstract())[0] == 2
  with pytest.raises(CheckpointError, match="extra"):
    opened(saved, config=CONFIG | {"extra": 1}).restore(abstract())


def test_another_tree_is_refused_with_the_list(saved):
  other = tree()
  other["params"]["layer"]["kernel"] = jnp.zeros((3, 5))
  other["params"]["layer"]["slope"] = jnp.zeros(2)
  other["step"] = jnp.float32(0)
  with pytest.raises(CheckpointError) as caught:
    opened(saved).restore(abstract(other))
  for line in (
    "params/layer/kernel: expected float32 (3, 5), found float32 (3, 4)",
    "params/layer/slope: expected float32 (2,), found nothing",
    "step: expected float32 (), found int32 ()",
  ):
    assert line in str(caught.value)


def test_no_iterator_no_checkpoint(tmp_path):
  checkpoints = opened(tmp_path)
  with pytest.raises(CheckpointError, match="iterator"):
    checkpoints.save(1, tree(), None)
  with pytest.raises(TypeError):  # not JSON: a fault of the program, not of the disk
    checkpoints.save(1, tree(), {"n": object()})
  checkpoints.save(1, tree(), {"n": 1}, wait=True)
  folder = tmp_path / "00000001"
  part_file(folder, "iterator").write_text(json.dumps(None))
  write_digests(folder)
  with pytest.raises(CheckpointError, match="no state of the data iterator"):
    checkpoints.restore(abstract())


def test_a_full_disk_leaves_older_steps_and_goes_on(tmp_path, capsys, monkeypatch):
  checkpoints = opened(tmp_path)
  checkpoints.save(1, tree(1), {}, wait=True)

  def full(*_, **__):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr("cosyjax.training.checkpoints.write_digests", full)  # in the background thread
    checkpoints.save(2, tree(2), {})
    assert checkpoints.latest() == 1
    assert "step 2 could not be saved" in capsys.readouterr().err
    with pytest.raises(OutputError, match="No space left"):
      checkpoints.save(3, tree(3), {}, wait=True)
    checkpoints.save(3, tree(3), {})
    with pytest.raises(OutputError, match="00000003"):
      checkpoints.close()
  checkpoints = opened(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr("orbax.checkpoint.AsyncCheckpointer.save", full)  # in the caller's
    checkpoints.save(4, tree(4), {})
  assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
  checkpoints.save(5, tree(5), {}, wait=True)
  assert checkpoints.restore(abstract())[0] == 5


def test_a_directory_of_the_first_layout_is_read_and_gone_on_with(tmp_path):
  """Written by the version that had its JSON in files: steps 1 (metric 1.0), 2 (2.0) and 3 (3.0)."""
  with zipfile.ZipFile(GOLDEN / "checkpoints_layout_1.zip") as archive:
    archive.extractall(tmp_path)
  assert (tmp_path / "00000003" / "info.json").exists() and find_damage(tmp_path / "00000003") is None
  checkpoints = opened(tmp_path, keep_last=2, keep_best=1)
  assert checkpoints.latest() == 3 and checkpoints.best() == (1, 1.0)
  step, state, iterator = checkpoints.restore(abstract())
  assert (step, iterator) == (3, {"n": 3})
  jax.tree.map(np.testing.assert_array_equal, state, tree(3))
  np.testing.assert_array_equal(read_arrays(tmp_path, 2)[1]["layer"]["kernel"], np.full((3, 4), 2.0))
  checkpoints.save(4, tree(4), {"n": 4}, metric=4.0, wait=True)
  checkpoints.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["00000001", "00000003", "00000004"]
  assert opened(tmp_path).restore(abstract())[2] == {"n": 4}
  file = next(p for p in (tmp_path / "00000003" / "state").rglob("d/*") if p.is_file())
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(CheckpointError, match=str(file)):
    opened(tmp_path).restore(abstract(), step=3)


def test_a_setting_that_a_checkpoint_has_no_record_of_counts_as_its_default(saved):
  new = CONFIG | {"data": {"split": "train"}}
  assert opened(saved, config=new, defaults={"data": {"split": "train"}}).restore(abstract())[0] == 2
  with pytest.raises(CheckpointError, match=r"configuration \(data.split\)"):
    opened(saved, config=new, defaults={"data": {"split": "all"}}).restore(abstract())


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OutputError, match="file"):
    opened(tmp_path / "file" / "checkpoints")


def test_eight_devices_to_four_to_one_to_eight(tmp_path):
  rng = np.random.default_rng(0)
  host = {"a": rng.normal(size=(16, 8)).astype(np.float32), "b": np.arange(4, dtype=np.int32), "c": np.float32(3)}
  specs = {"a": P("fsdp", "tensor"), "b": P(), "c": P()}

  def place(fsdp, tensor):
    mesh = make_mesh(1, fsdp, tensor, devices=jax.devices()[: fsdp * tensor])
    return {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

  checkpoints = opened(tmp_path, config={})
  checkpoints.save(0, jax.tree.map(jax.device_put, host, place(4, 2)), {}, wait=True)
  for step, shape in enumerate([(2, 2), (1, 1), (8, 1)]):
    shardings = place(*shape)
    wanted = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), host, shardings)
    found, state, _ = checkpoints.restore(wanted)
    assert found == step
    for name, array in state.items():
      assert array.sharding == shardings[name], (name, array.sharding)
      np.testing.assert_array_equal(array, host[name])
    assert state["a"].addressable_shards[0].data.shape == (16 // shape[0], 8 // shape[1])
    checkpoints.save(step + 1, state, {}, wait=True)
  checkpoints.close()
