"""FLOPs counted in jaxprs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from cosyjax import config, sharding
from cosyjax.analysis import chips, flops
from cosyjax.errors import ConfigError
from cosyjax.layers.basic import conv, unbox
from cosyjax.lm.text_speech_lm import TextSpeechLM


def shape(*dims, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(dims, dtype)


def dense(x, w):
  return jnp.tanh(x @ w)


def test_product():
  assert flops.count(dense, shape(5, 7), shape(7, 11)) == 2 * 5 * 7 * 11
  assert flops.breakdown(jnp.matmul, shape(3, 5, 7), shape(3, 7, 11)) == {
    "weights": 0.0,
    "batched": 2 * 3 * 5 * 7 * 11,
    "convolutions": 0.0,
  }


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(groups):
  layer = conv(8, 5, dilation=3, groups=groups)
  x = shape(2, 50, 16)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)
  assert flops.count(layer.apply, params, x) == 2 * (2 * (50 - 12) * 8) * 5 * (16 // groups)


def test_gradients_of_a_strided_grouped_convolution():
  def apply(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
    )

  x, w = shape(3, 402, 8), shape(4, 4, 6)
  forward = flops.count(apply, x, w)
  assert forward == 2 * 3 * 200 * 6 * 4 * 4
  step = flops.count(jax.grad(lambda x, w: apply(x, w).sum(), argnums=(0, 1)), x, w)
  assert step == pytest.approx(3 * forward, rel=0.01)  # but for the frames at the edges
  assert flops.training_flops(apply, x, w) == 3 * forward


def test_transposed_convolution_counts_no_inserted_zeros():
  def apply(x, w):
    return jax.lax.conv_transpose(x, w, (5,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))

  assert flops.count(apply, shape(1, 1000, 4), shape(10, 4, 3)) == pytest.approx(2 * 1000 * 10 * 4 * 3, rel=0.01)


def test_loops_and_branches():
  x, w = shape(4, 6), shape(6, 6)
  one = 2 * 4 * 6 * 6
  assert flops.count(lambda x, w: jax.lax.scan(lambda x, _: (x @ w, None), x, length=9)[0], x, w) == 9 * one
  assert flops.count(lambda x, w: jax.lax.fori_loop(0, 7, lambda i, x: x @ w, x), x, w) == 7 * one
  two = lambda x, w: jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x @ w, x)
  assert flops.count(two, x, w) == 2 * one

  def until(x, w):
    return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ w, x)

  with pytest.raises(ConfigError, match="while loop"):
    flops.count(until, x, w)
  assert flops.count(until, x, w, trips=3) == 3 * one
  assert flops.count(lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x - 1, x), x) == 0


def test_functions_within_functions():
  @jax.custom_vjp
  def special(x, w):
    return x @ w

  special.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, y: (y @ saved[1].T, saved[0].T @ y))
  x, w = shape(4, 6), shape(6, 6)
  one = 2 * 4 * 6 * 6
  for wrapped in (jax.jit(dense), jax.checkpoint(dense), special, jax.vmap(dense, in_axes=(0, None))):
    assert flops.count(wrapped, x, w) == one
  assert flops.count(jax.grad(lambda x, w: special(x, w).sum(), argnums=(0, 1)), x, w) == 3 * one


def test_mapped_over_devices():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  rows = jax.sharding.PartitionSpec("data")
  mapped = jax.shard_map(dense, mesh=mesh, in_specs=(rows, jax.sharding.PartitionSpec()), out_specs=rows)
  assert flops.count(mapped, shape(4, 6), shape(6, 6)) == 2 * 4 * 6 * 6


def test_rematerialisation_is_no_model_flops():
  def loss(x, w):
    return jnp.sum(dense(dense(x, w), w))

  x, w = shape(4, 6), shape(6, 6)
  again = jax.checkpoint(loss)
  assert flops.training_flops(again, x, w) == flops.training_flops(loss, x, w) == 3 * 2 * 2 * 4 * 6 * 6
  gradient = lambda f: flops.count(jax.grad(f, argnums=(0, 1)), x, w)
  assert gradient(again) > gradient(loss)  # what is executed does grow


def test_language_model_of_full_size():
  """Sizes of one Qwen2 layer, 14.912 M parameters, and 2.45 GFLOP for a trained token in rows of 2,048."""
  c = config.cosyvoice2().lm
  model = TextSpeechLM(c, jnp.bfloat16, scan=True)
  length = 2048
  row = shape(1, length, dtype=jnp.int32)
  args = (row, row, shape(1, dtype=jnp.int32))
  params = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
  layers = sum(leaf.size for leaf in jax.tree.leaves(unbox(params)["stack"]["layers"]))
  assert layers / c.layers / 1e6 == pytest.approx(14.912, abs=1e-3)

  forward = lambda params, *args: model.apply({"params": params}, *args)
  found = flops.breakdown(forward, params, *args)
  matrices = c.layers * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864) + 896 * c.speech_vocab.rows
  assert found["weights"] == 2 * length * matrices

  attention = flops.causal_attention(1, length, c.heads, c.head_dim, c.layers)
  assert attention == 4 * c.layers * 896 * (length * (length + 1) // 2)
  assert found["batched"] >= attention  # however it is computed, it is no less than the half that the mask leaves
  per_token = flops.training_flops(forward, params, *args, attention=attention) / length
  assert per_token / 1e9 == pytest.approx(2.45, abs=0.01)


def test_peak_rates():
  assert chips.peak_flops("TPU v5 lite") == 197e12
  assert chips.peak_flops("TPU v5e", jnp.float32) == 197e12
  assert chips.peak_flops("TPU v5p") == chips.peak_flops("TPU v5") == 459e12
  assert chips.peak_flops("NVIDIA H100 80GB HBM3") == 989.5e12
  assert chips.peak_flops("NVIDIA H200", "float32") < chips.peak_flops("NVIDIA H200")
  assert chips.peak_flops("abacus") is None
  assert chips.peak_flops("TPU v5 something") is None  # not taken for another chip with a like name
  assert chips.peak_flops("cpu") > 1e8


def test_utilisation():
  assert flops.utilisation(100e12, 2.0, 5, 20e12) == pytest.approx(0.5)
  assert flops.utilisation(1.0, 1.0, 1, None) is None
