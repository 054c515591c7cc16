"""Checkpoints of a run: whole or not there, verified, refused when they do not fit, bit-equal on any mesh."""

import json
import logging
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cosyjax.errors import CheckpointError, OutputError
from cosyjax.training import checkpoint_files
from cosyjax.training.checkpoints import Checkpoints, read_arrays

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
  checkpoints = opened(tmp_path, keep_last=2, keep_best=1, metric="loss", every=5)
  for step, loss in enumerate([3.0, 1.0, float("nan"), None, 2.0], start=1):
    checkpoints.save(step, {"x": jnp.full(2, step)}, {}, metric=loss)
  checkpoints.close()
  assert not logging.getLogger("absl").filters
  assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000004", "00000005"]
  assert checkpoints.due(10) and not checkpoints.due(9)


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


def test_removes_what_interrupted_saves_left(saved, tmp_path, capsys):
  (tmp_path / "00000003.saving" / "state").mkdir(parents=True)
  (tmp_path / "00000003.saving" / "state" / "half").write_text("x")
  (tmp_path / "00000001.removed").mkdir()
  checkpoints = opened(tmp_path)
  assert not list(tmp_path.iterdir()) and checkpoints.latest() is None
  assert "00000003.saving: an interrupted save, removed" in capsys.readouterr().err
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
  texts = {name: (folder / name).read_text() for name in ("config.json", "info.json")}
  (folder / "digests").unlink()
  checkpoint_files.commit(folder, folder, texts | {"iterator.json": json.dumps(None)})
  with pytest.raises(CheckpointError, match="no state of the data iterator"):
    checkpoints.restore(abstract())


def test_a_full_disk_leaves_older_steps_and_goes_on(tmp_path, capsys, monkeypatch):
  checkpoints = opened(tmp_path)
  checkpoints.save(1, tree(1), {}, wait=True)

  def full(*_, **__):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr("cosyjax.training.checkpoints.commit", full)  # in the background thread
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


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OutputError, match="file"):
    opened(tmp_path / "file" / "checkpoints")


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, sys
from jax.sharding import NamedSharding, PartitionSpec as P
from cosyjax.sharding import make_mesh
from cosyjax.training.checkpoints import Checkpoints

root = sys.argv[1]
rng = np.random.default_rng(0)
host = {"a": rng.normal(size=(16, 8)).astype(np.float32), "b": np.arange(4, dtype=np.int32), "c": np.float32(3)}
specs = {"a": P("fsdp", "tensor"), "b": P(), "c": P()}

def place(fsdp, tensor):
  mesh = make_mesh(1, fsdp, tensor, devices=jax.devices()[:fsdp * tensor])
  return {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

checkpoints = Checkpoints(root, config={})
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
print("fine")
"""


def test_eight_devices_to_four_to_one_to_eight(tmp_path):
  env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
  result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
  assert result.stdout.strip().endswith("fine"), result.stderr[-3000:]
