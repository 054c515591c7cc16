"""Discriminators: sizes of the public ones, their parts against plain formulas, independence of rows."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.audio.stft import stft
from cosyjax.audio.tables import hann_window
from cosyjax.layers import convolutions
from cosyjax.layers.basic import unbox
from cosyjax.vocoder import discriminators
from cosyjax.vocoder.discriminators import DiscriminatorConfig, Discriminators, NormConv, tiny_discriminators

SMALL = dataclasses.replace(
  tiny_discriminators(), periods=(3,), period_channels=(4, 8), spectra=((128, 32, 64),), spectrum_channels=4
)


@pytest.fixture(scope="module")
def small():
  """(jitted application, parameters, audio) of small discriminators."""
  module = Discriminators(SMALL)
  wave_BA = 0.1 * jax.random.normal(jax.random.key(1), (3, 1000))
  params = unbox(jax.jit(module.init)(jax.random.key(0), wave_BA)["params"])
  return jax.jit(lambda p, x: module.apply({"params": p}, x)), params, wave_BA


def test_full_size_is_that_of_the_public_discriminators():
  module, wave = Discriminators(DiscriminatorConfig()), jax.ShapeDtypeStruct((1, 6000), jnp.float32)
  boxed = jax.eval_shape(module.init, jax.random.key(0), wave)["params"]
  is_box = lambda x: isinstance(x, nn.Partitioned)
  assert all(is_box(leaf) for leaf in jax.tree.leaves(boxed, is_leaf=is_box))
  assert sum(x.size for x in jax.tree.leaves(unbox(boxed))) == 41_386_672
  scores, features = jax.eval_shape(lambda p, x: module.apply({"params": p}, x), unbox(boxed), wave)
  sizes = {f"period_{p}": n for p, n in zip((2, 3, 5, 7, 11), (76, 75, 75, 77, 77), strict=True)}
  sizes |= {"spectrum_1024": 3315, "spectrum_2048": 3354, "spectrum_512": 3993}
  assert {name: x.shape[1] for name, x in scores.items()} == sizes
  assert {name: len(x) for name, x in features.items()} == dict.fromkeys(sizes, 6)


def test_scores_and_feature_maps_are_the_formula(small):
  apply, params, wave_BA = small
  scores, features = apply(params, wave_BA)
  kernel = lambda p: p["scale"] * p["direction"] / np.sqrt(np.sum(np.square(p["direction"]), axis=(0, 1)))
  # The comb of every third sample from the second on, of the first row: 1000 samples and two mirrored ones.
  x = np.concatenate([wave_BA[0], wave_BA[0, -2:-4:-1]])[1::3, None]
  for i, stride in enumerate((3, 1)):
    p = params["period_3"][f"conv_{i}"]
    x = np.pad(x, ((2, 2), (0, 0)))
    x = np.stack([np.einsum("kc,kcd->d", x[t : t + 5], kernel(p)) for t in range(0, len(x) - 4, stride)]) + p["bias"]
    x = np.where(x > 0, x, 0.1 * x)
    np.testing.assert_allclose(features["period_3"][i][0, 1], x, atol=1e-5)
  p = params["period_3"]["out"]
  x = np.pad(x, ((1, 1), (0, 0)))
  x = np.stack([np.einsum("kc,kcd->d", x[t : t + 3], kernel(p)) for t in range(len(x) - 2)]) + p["bias"]
  np.testing.assert_allclose(scores["period_3"][0].reshape(3, -1)[1], x[:, 0], atol=1e-5)


@pytest.mark.parametrize(("taps", "stride"), [(5, 3), (9, 2), (5, 1)])
def test_strided_convolution_is_the_plain_one(taps, stride):
  @jax.jit
  def both(x, w):
    names = "W" if x.ndim == 3 else "HW"
    strides, pads = (1,) * (x.ndim - 3) + (stride,), [(k // 2, k // 2) for k in w.shape[:-2]]
    layout = (f"N{names}C", f"{names}IO", f"N{names}C")
    plain = jax.lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=layout)
    return convolutions.neighbours_as_channels(x, w, stride), plain

  rng = np.random.default_rng(0)
  for shape, kernel in [((2, 12, 3), (taps,)), ((2, 13, 3), (taps,)), ((2, 4, 14, 3), (3, taps))]:
    got, plain = both(rng.standard_normal(shape, np.float32), rng.standard_normal((*kernel, 3, 5), np.float32))
    np.testing.assert_allclose(got, plain, atol=1e-5)


def test_magnitudes_are_those_of_the_whole_frame():
  wave_BA = 0.1 * jax.random.normal(jax.random.key(0), (2, 2400))
  real, imag = jax.jit(lambda x: stft(x, hann_window(600), 1024, 120))(wave_BA)
  got = jax.jit(lambda x: discriminators.magnitudes(x, 1024, 120, 600))(wave_BA)
  np.testing.assert_allclose(got, np.sqrt(real**2 + imag**2), atol=1e-5)


def test_kernel_is_a_length_times_a_direction():
  x = jax.random.normal(jax.random.key(0), (1, 9, 2))
  module = NormConv(3, (5,))
  params = unbox(jax.jit(module.init)(jax.random.key(1), x)["params"])
  y = module.apply({"params": params}, x)
  # Outputs near 0 are sums that cancel: those have no relative precision.
  longer = params | {"direction": 7 * params["direction"]}
  np.testing.assert_allclose(module.apply({"params": longer}, x), y, rtol=1e-5, atol=1e-6)
  doubled = params | {"scale": 2 * params["scale"]}
  np.testing.assert_allclose(module.apply({"params": doubled}, x), 2 * y, rtol=1e-5, atol=1e-6)
  plain = {"kernel": params["direction"], "bias": params["bias"]}  # to begin with, the length is the direction's own
  np.testing.assert_allclose(NormConv(3, (5,), weight_norm=False).apply({"params": plain}, x), y, rtol=1e-5, atol=1e-6)


def test_rows_do_not_depend_on_their_mates(small):
  apply, params, wave_BA = small
  scores, features = apply(params, wave_BA)
  others = wave_BA.at[0].set(0.5).at[2].set(-0.5)
  again, maps = apply(params, others)
  for a, b in zip(jax.tree.leaves((scores, features)), jax.tree.leaves((again, maps)), strict=True):
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)
    assert np.max(np.abs(a[0] - b[0])) > 1e-3


def test_gradient_at_silence_is_finite(small):
  apply, params, wave_BA = small
  total = lambda p, x: sum(jnp.sum(y) for y in jax.tree.leaves(apply(p, x)))
  gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(params, jnp.zeros_like(wave_BA))
  assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
  ("shape", "kernel", "stride"),
  [((2, 5, 21, 1), (3, 9, 1, 4), 1), ((2, 3, 16, 6), (3, 3, 6, 1), 1), ((1, 4, 17, 5), (3, 9, 5, 7), 2)],
)
def test_convolution_by_rows_is_the_convolution(shape, kernel, stride):
  x, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate((shape, kernel)))
  run = lambda f: jax.value_and_grad(lambda x, w: jnp.mean(jnp.sin(f(x, w, stride))), (0, 1))(x, w)
  found, wanted = run(convolutions.conv_by_rows), run(convolutions.neighbours_as_channels)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
