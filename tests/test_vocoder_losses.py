"""Losses of the vocoder: reference values, weighing of rows, what each is zero for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.audio.spectra import mel_spectrogram
from cosyjax.config import AudioConfig, VocoderConfig
from cosyjax.vocoder import losses

HOP = AudioConfig().hop
CONFIG = VocoderConfig()

mel_loss = jax.jit(losses.mel_loss, static_argnames=("config", "scales"))


@pytest.fixture(scope="module")
def reference(golden):
  g = golden("gan_losses")
  scores = lambda kind: {str(i): jnp.asarray(g[f"{kind}{i}"]) for i in range(8)}
  return g, scores("real"), scores("fake")


def _tones(rows, frames, seed=0):
  rng = np.random.default_rng(seed)
  time_A = np.arange(frames * HOP) / 24_000
  wave_BA = np.sin(2 * np.pi * rng.uniform(100, 3000, (rows, 1)) * time_A) * 0.3
  return jnp.asarray(wave_BA + 0.01 * rng.standard_normal(wave_BA.shape), jnp.float32)


def test_adversarial_losses_are_the_reference(reference):
  g, real, fake = reference
  np.testing.assert_allclose(losses.discriminator_loss(real, fake), [g["discriminator"]], atol=1e-5)
  np.testing.assert_allclose(losses.generator_loss(fake), [g["generator"]], atol=1e-5)


def test_relativistic_losses_are_the_reference(reference):
  g, real, fake = reference
  # Both are about 1e-4: the bound is on what float32 leaves of them.
  np.testing.assert_allclose(losses.relativistic_loss(fake, real), [g["tpr_generator"]], rtol=1e-3, atol=0)
  np.testing.assert_allclose(losses.relativistic_loss(real, fake), [g["tpr_discriminator"]], rtol=1e-3, atol=0)


def test_losses_vanish_where_their_side_has_won():
  one, zero = {"a": jnp.ones((2, 7))}, {"a": jnp.zeros((2, 7))}
  np.testing.assert_array_equal(losses.discriminator_loss(one, zero), [0, 0])
  np.testing.assert_array_equal(losses.generator_loss(one), [0, 0])
  np.testing.assert_array_equal(losses.relativistic_loss(one, zero), [0, 0])
  np.testing.assert_array_equal(losses.feature_loss({"a": (one["a"],)}, {"a": (one["a"],)}), [0, 0])


def test_relativistic_loss_counts_pairs_below_the_median_up_to_tau():
  gap = jnp.array([[0.1, 0.2, -0.1, 0.3, 0.0]])  # median 0.1; below it -0.1 and 0.0
  scores, zero = {"a": gap}, {"a": jnp.zeros_like(gap)}
  np.testing.assert_allclose(losses.relativistic_loss(scores, zero, tau=1.0), [(0.2**2 + 0.1**2) / 2], rtol=1e-5)
  np.testing.assert_allclose(losses.relativistic_loss(scores, zero, tau=0.01), [0.01], rtol=1e-5)
  even, zero = {"a": gap[:, :4]}, {"a": zero["a"][:, :4]}  # of 0.1 and 0.2, the lower one is the median
  np.testing.assert_allclose(losses.relativistic_loss(even, zero, tau=1.0), [0.2**2], rtol=1e-5)


def test_feature_loss_sums_the_means_of_layers():
  real = {"a": (jnp.ones((2, 3, 4)), jnp.zeros((2, 5))), "b": (jnp.ones((2, 1)),)}
  fake = {"a": (jnp.zeros((2, 3, 4)), jnp.full((2, 5), 2.0)), "b": (jnp.array([[1.0], [0.5]]),)}
  np.testing.assert_allclose(losses.feature_loss(real, fake), [3.0, 3.5])


def test_rows_do_not_depend_on_their_mates(reference):
  real, fake = ({name: scores[name] for name in ("0", "5")} for scores in reference[1:])
  shift = {name: x + 0.3 * jnp.cos(jnp.arange(x.shape[1])) for name, x in fake.items()}
  both = {name: jnp.concatenate([fake[name], shift[name]]) for name in fake}
  twice = {name: jnp.concatenate([x, x]) for name, x in real.items()}
  got = losses.relativistic_loss(twice, both)
  np.testing.assert_allclose(got[0], losses.relativistic_loss(real, fake)[0], rtol=1e-6)
  np.testing.assert_allclose(got[1], losses.relativistic_loss(real, shift)[0], rtol=1e-6)
  assert got[1] > 100 * got[0]


def test_mel_loss_is_that_of_the_mel_up_to_12_khz():
  real, fake, lengths = _tones(2, 6), _tones(2, 6, seed=1), jnp.array([6, 6])
  mel = jax.jit(lambda x: mel_spectrogram(x, lengths * HOP, AudioConfig(fmax=None))[0])
  expected = jnp.mean(jnp.abs(mel(real) - mel(fake)))
  got = mel_loss(real, fake, lengths, CONFIG)
  np.testing.assert_allclose(jnp.mean(got), expected, rtol=1e-5)
  assert got.shape == (2,) and expected > 0.5
  np.testing.assert_array_equal(mel_loss(real, real, lengths, CONFIG), [0, 0])


def test_mel_loss_takes_valid_frames_and_any_scales():
  real, fake, lengths = _tones(2, 6), _tones(2, 6, seed=1), jnp.array([4, 0])
  other = fake.at[0, 6 * HOP - 200 :].set(0)  # reaches no frame that counts
  scales = ((1920, 80), (480, 40))
  got = mel_loss(real, fake, lengths, CONFIG, scales=scales)
  assert got[1] == 0
  np.testing.assert_allclose(mel_loss(real, other, lengths, CONFIG, scales=scales), got, rtol=1e-6)
  assert got[0] > mel_loss(real, fake, lengths, CONFIG)[0]


def test_f0_loss_is_hertz_over_valid_frames():
  target, found = jnp.array([[100.0, 0, 200, 0]]), jnp.array([[110.0, 5, 50, 999]])
  np.testing.assert_allclose(losses.f0_loss(target, found, jnp.array([3])), [(10 + 5 + 150) / 3], rtol=1e-6)
  np.testing.assert_array_equal(losses.f0_loss(target, found, jnp.array([0])), [0])


def test_gradient_at_silence_is_finite():
  loss = lambda x: jnp.sum(mel_loss(_tones(1, 4), x, jnp.array([4]), CONFIG))
  gradient = jax.jit(jax.grad(loss))(jnp.zeros((1, 4 * HOP)))
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("size", [1, 4, 51])
def test_median_without_sorting(size):
  rng = np.random.default_rng(0)
  rows = [rng.standard_normal(size) * scale for scale in (1e-30, 1.0, 1e20)]
  rows += [np.zeros(size), np.full(size, -3.0), rng.integers(-1, 2, size) * 0.5, -np.arange(float(size))]
  x_BN = np.stack(rows).astype(np.float32) + 0.0  # no -0
  value_B, pull = jax.vjp(jax.jit(losses._lower_median), jnp.asarray(x_BN))
  middle_B = np.sort(x_BN, axis=1)[:, (size - 1) // 2]
  np.testing.assert_array_equal(value_B, middle_B)
  here_BN = x_BN == middle_B[:, None]
  np.testing.assert_allclose(pull(jnp.ones(len(rows)))[0], here_BN / here_BN.sum(axis=1, keepdims=True), atol=1e-6)
