"""The mesh and the table of axes, on eight host devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import checkpoint, config, sharding
from cosyjax.errors import ConfigError
from cosyjax.layers.basic import dense, unbox


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = dense(16, ("embed", "mlp"), name="up")(x)
    return dense(6, ("mlp", None), name="down")(x)


def test_mesh_rules_and_restoring_into_shards(tmp_path):
  assert len(jax.devices()) == 8
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  abstract = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 8)))["params"]
  table = sharding.shardings_of(abstract, mesh)
  assert tuple(table["up"]["kernel"].spec) == ("fsdp", "tensor"), table
  assert table["down"]["kernel"].spec[0] == "tensor"
  odd = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 7)))["params"]
  assert tuple(sharding.shardings_of(odd, mesh)["up"]["kernel"].spec) == (None, "tensor")  # 7 is odd: replicated

  params = unbox(Net().init(jax.random.key(0), jnp.zeros((1, 8)))["params"])
  everything = {name: params for name in config.COMPONENTS}
  checkpoint.save_model(tmp_path / "m", config.tiny(), everything, lambda d: None)
  loaded = checkpoint.load_params(tmp_path / "m", "lm", unbox(abstract), table)
  kernel = loaded["up"]["kernel"]
  assert kernel.sharding == table["up"]["kernel"] and kernel.addressable_shards[0].data.shape == (4, 8)
  np.testing.assert_array_equal(kernel, params["up"]["kernel"])
  x = jnp.arange(16.0).reshape(2, 8)
  np.testing.assert_allclose(Net().apply({"params": loaded}, x), Net().apply({"params": params}, x), atol=1e-5)
  with pytest.raises(ConfigError, match="needs 4 devices, 8 given"):
    sharding.make_mesh(data=4)
