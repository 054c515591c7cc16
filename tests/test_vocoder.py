"""The vocoder: reference outputs, padding, shapes, conversion."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import engine, table_vocoder
from convert.read_pt import read_pt
from convert.read_yaml import read_yaml
from cosyjax.config import AudioConfig, cosyvoice2, tiny
from cosyjax.errors import ConversionError
from cosyjax.layers.basic import unbox
from cosyjax.vocoder.hift import Vocoder
from cosyjax.vocoder.source import request_phase_noise

HOP = AudioConfig().hop
CONFIG = cosyvoice2().vocoder


def _init(config, key, frames=2):
  H = config.harmonics + 1
  args = (jnp.zeros((1, frames, config.mel_bins)), jnp.array([frames]), jnp.zeros((1, H)))
  return unbox(Vocoder(config).init(key, *args, jnp.zeros((1, frames * HOP, H)))["params"])


def _abstract(config):
  return jax.eval_shape(lambda k: _init(config, k), jax.random.key(0))


@pytest.fixture(scope="module")
def tensors(release):
  return read_pt(release / "hift.pt")


@pytest.fixture(scope="module")
def settings(release):
  return read_yaml(release / "cosyvoice2.yaml")


@pytest.fixture(scope="module")
def vocoder(tensors, settings):
  """(module, parameters) of the small release."""
  folded = engine.fold_weight_norm(tensors)
  config = table_vocoder.config_of(settings, folded)
  converted = engine.convert("vocoder", folded, table_vocoder.table(config), _abstract(config))
  return Vocoder(config), converted.params


@pytest.fixture(scope="module")
def call(vocoder):
  module, params = vocoder
  return jax.jit(lambda *args: module.apply({"params": params}, *args))


@pytest.fixture(scope="module")
def reference(golden):
  g = golden("hift")
  return g | {"mel": g["mel"].transpose(0, 2, 1)}


def test_mel_to_wave_equals_the_reference(call, reference):
  # The reference adds its initial phase to the first sample of the track of phase steps, then reads that track
  # at the middle of each frame only: whatever it draws, its output is that of zeros.
  lengths = jnp.array([reference["mel"].shape[1]])
  wave, out = call(reference["mel"], lengths, jnp.zeros((1, 9)), reference["noise"])
  assert wave.shape == reference["wav"].shape
  np.testing.assert_allclose(out["f0"], reference["f0"], rtol=0, atol=1e-3)
  np.testing.assert_allclose(out["source"], reference["source"], rtol=0, atol=1e-4)
  np.testing.assert_allclose(wave, reference["wav"], rtol=0, atol=1e-3)


def test_methods_equal_the_reference_stage_by_stage(vocoder, reference):
  module, params = vocoder
  apply = lambda method: jax.jit(lambda *a: module.apply({"params": params}, *a, method=method))
  source = apply("source")(reference["f0"], jnp.zeros((1, 9)), reference["noise"])
  np.testing.assert_allclose(source, reference["source"], rtol=0, atol=1e-4)
  lengths = jnp.array([reference["mel"].shape[1]])
  wave = apply("generate")(reference["mel"], reference["source"], lengths)
  np.testing.assert_allclose(wave, reference["wav"], rtol=0, atol=1e-5)


def test_voicing_is_that_of_the_reference(reference):
  np.testing.assert_array_equal(np.repeat(reference["f0"] > 10, HOP, axis=1), reference["uv"].reshape(1, -1) > 0)


def test_padding_changes_no_row(call, vocoder, reference):
  config, lengths, frames = vocoder[0].config, [7, 12, 1, 0], 12
  mel = reference["mel"].reshape(4, 10, -1)[:, :, : config.mel_bins].repeat(2, axis=1)[:, :frames]  # four utterances
  draw = jax.jit(jax.vmap(lambda k: request_phase_noise(k, frames, CONFIG)))
  phase, noise = draw(jax.random.split(jax.random.key(0), 4))
  dirty = mel.copy()
  for row, length in enumerate(lengths):
    dirty[row, length:] = np.nan  # nothing past the end may be read
  wave, out = call(dirty, jnp.array(lengths), phase, noise)
  for row, length in list(enumerate(lengths))[:3]:
    alone = (mel[row : row + 1, :length], jnp.array([length]), phase[row : row + 1])
    wave_alone, out_alone = call(*alone, noise[row : row + 1, : length * HOP])
    np.testing.assert_allclose(out["f0"][row, :length], out_alone["f0"][0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(out["source"][row, : length * HOP], out_alone["source"][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(wave[row, : length * HOP], wave_alone[0], rtol=0, atol=1e-4)
  for row, length in enumerate(lengths):
    assert not np.any(wave[row, length * HOP :])
    assert not np.any(out["source"][row, length * HOP :])
    assert not np.any(out["f0"][row, length:])


def test_jit_changes_nothing(vocoder, reference):
  module, params = vocoder
  mel, lengths, noise = reference["mel"][:, :5], jnp.array([4]), reference["noise"][:, : 5 * HOP]

  def source(mel, lengths, noise):
    model = module.bind({"params": params})
    return model.source(model.f0(mel, lengths), jnp.zeros((1, 9)), noise)

  np.testing.assert_allclose(source(mel, lengths, noise), jax.jit(source)(mel, lengths, noise), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 50, 333])
def test_a_frame_is_480_samples(frames):
  config = cosyvoice2().vocoder
  shapes = jax.eval_shape(
    lambda p: Vocoder(config).apply(
      {"params": p},
      jnp.zeros((3, frames, 80)),
      jnp.array([frames, 1, 0]),
      jnp.zeros((3, 9)),
      jnp.zeros((3, frames * HOP, 9)),
    ),
    _abstract(config),
  )
  wave, out = shapes
  assert wave.shape == out["source"].shape == (3, 480 * frames)
  assert out["f0"].shape == (3, frames)


def test_full_size_has_the_parameters_of_the_release():
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_abstract(cosyvoice2().vocoder)))
  assert count == 20_806_557  # PyTorch's module, weight norm removed


def test_random_weights_give_sound():
  config = dataclasses.replace(
    tiny().vocoder,
    resblock_kernels=(3,),
    resblock_dilations=((1,),),
    source_kernels=(3,) * 3,
    source_dilations=((1,),) * 3,
  )
  params = jax.jit(functools.partial(_init, config))(jax.random.key(0))
  mel = jax.random.normal(jax.random.key(1), (1, 50, config.mel_bins)) * 2 - 4
  phase, noise = request_phase_noise(jax.random.key(2), 50, CONFIG)
  args = (mel, jnp.array([50]), phase[None], noise[None])
  wave, _ = jax.jit(lambda *a: Vocoder(config).apply({"params": params}, *a))(*args)
  assert np.all(np.isfinite(wave))
  assert 1e-3 < float(jnp.std(wave)) < 0.3
  assert float(jnp.abs(wave).max()) < config.audio_limit


def test_gradients_are_finite_and_reach_every_parameter(vocoder, reference):
  module, params = vocoder
  f0 = jnp.array([[120.0, 5.0, 210.0], [90.0, 0.0, 0.0]])
  mel, noise = reference["mel"][0, :6].reshape(2, 3, -1), reference["noise"][:, : 6 * HOP].reshape(2, 3 * HOP, -1)

  @jax.jit
  @jax.grad
  def gradient(p):
    model = module.bind({"params": p})
    wave = model.generate(mel, model.source(f0, jnp.zeros((2, 9)), noise), jnp.array([3, 1]))
    return jnp.sum(jnp.square(wave)) + jnp.sum(model.f0(mel, jnp.array([3, 1])))

  grads = jax.tree_util.tree_leaves_with_path(gradient(params))
  bad = [jax.tree_util.keystr(path) for path, g in grads if not bool(np.all(np.isfinite(g)) and np.any(g))]
  assert bad == []


# Conversion.


def _old_spelling(tensors):
  ends = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
  out = {}
  for name, value in tensors.items():
    for new, old in ends.items():
      name = name.replace(new, old)
    out[name] = value
  return out


def test_both_spellings_of_weight_norm_give_the_same_parameters(tensors, settings, vocoder):
  old = _old_spelling(tensors)
  assert sum(name.endswith("weight_g") for name in old) == sum("original0" in name for name in tensors) > 0
  folded = engine.fold_weight_norm(old)
  config = table_vocoder.config_of(settings, folded)
  assert config == vocoder[0].config
  again = engine.convert("vocoder", folded, table_vocoder.table(config), _abstract(config)).params
  jax.tree.map(np.testing.assert_array_equal, again, vocoder[1])


def test_sizes_come_from_the_tensors_and_constants_from_the_yaml(tensors, settings):
  folded = engine.fold_weight_norm(tensors)
  config = table_vocoder.config_of(settings, folded)
  assert (config.channels, config.f0_channels, config.harmonics, config.n_fft) == (64, 32, 8, 16)
  assert config.upsample_kernels == (16, 11, 7)
  assert config.source_kernels == (7, 7, 11)
  assert table_vocoder.config_of(None, folded) == config  # the constants of the release are the default
  changed = {"hift": settings["hift"] | {"nsf_sigma": 0.01, "audio_limit": 0.5}}
  assert table_vocoder.config_of(changed, folded).source_noise == 0.01
  assert table_vocoder.config_of(changed, folded).audio_limit == 0.5


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("sampling_rate", 22050, r"hift\.sampling_rate: expected 24000, found 22050"),
    ("base_channels", 512, r"hift\.base_channels: expected 64, found 512"),
    ("upsample_rates", [8, 8], r"hift\.upsample_rates: expected 3 entries"),
    ("istft_params", {"n_fft": 32, "hop_len": 4}, r"n_fft: expected 16, found 32"),
  ],
)
def test_settings_of_another_vocoder_are_refused(tensors, settings, key, value, message):
  with pytest.raises(ConversionError, match=message):
    table_vocoder.config_of({"hift": settings["hift"] | {key: value}}, engine.fold_weight_norm(tensors))


def test_tensors_of_another_network_are_refused(tensors, settings):
  folded = engine.fold_weight_norm(tensors)
  with pytest.raises(ConversionError, match=r"conv_pre\.weight is missing"):
    table_vocoder.config_of(settings, {k: v for k, v in folded.items() if not k.startswith("conv_pre")})
  with pytest.raises(ConversionError, match="0 upsampling layers"):
    table_vocoder.config_of(settings, {})
