"""Pieces of the vocoder against their definitions: Snake, upsampling, harmonic source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import AudioConfig, VocoderConfig
from cosyjax.errors import ConfigError
from cosyjax.vocoder.generator_layers import Snake, UpConv
from cosyjax.vocoder.layer_plan import UpConvShape
from cosyjax.vocoder.source import fixed_point, harmonic_source, request_phase_noise, sample_cycles

CONFIG = VocoderConfig()
HOP = AudioConfig().hop
SAMPLE_RATE = AudioConfig().sample_rate


def _normal(shape, seed=0, scale=1.0):
  return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def test_snake_is_its_definition():
  x, alpha = _normal((2, 500, 3), scale=8.0), np.array([0.3, 1.0, 2.5], np.float32)
  y = jax.jit(Snake().apply)({"params": {"alpha": alpha}}, x)
  wide, a = x.astype(np.float64), alpha.astype(np.float64)
  np.testing.assert_allclose(y, wide + np.sin(a * wide) ** 2 / a, rtol=0, atol=1e-5)


def test_snake_has_the_gradient_of_its_definition():
  x = np.linspace(-7, 7, 1001, dtype=np.float32)[:, None]
  slope = jax.grad(lambda v: Snake().apply({"params": {"alpha": np.array([1.5], np.float32)}}, v).sum())(x)
  np.testing.assert_allclose(slope, 1 + np.sin(3.0 * x.astype(np.float64)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kernel", "rate"), [(16, 8), (11, 5), (7, 3), (3, 1)])
def test_upsampling_puts_every_frame_where_a_transposed_convolution_does(kernel, rate):
  x, w, bias = _normal((2, 9, 4)), _normal((kernel, 4, 3), 1), _normal((3,), 2)
  full = np.zeros((2, 8 * rate + kernel, 3))
  for t in range(9):
    for j in range(kernel):
      full[:, t * rate + j] += x[:, t] @ w[kernel - 1 - j]  # the kernel is kept flipped
  pad = (kernel - rate) // 2
  y = UpConv(3, UpConvShape(kernel, rate)).apply({"params": {"kernel": w, "bias": bias}}, x)
  np.testing.assert_allclose(y, full[:, pad : pad + 9 * rate] + bias, rtol=0, atol=1e-5)


def test_upsampling_refuses_a_kernel_that_has_no_middle():
  with pytest.raises(ConfigError, match="found 10"):
    UpConv(3, UpConvShape(10, 5)).init(jax.random.key(0), jnp.zeros((1, 4, 2)))


def _float64_cycles(f0: np.ndarray, harmonics: int) -> np.ndarray:
  """Phase in cycles [A, H]: summed a frame at a time, then interpolated between the frames' centres."""
  step = f0.astype(np.float64)[:, None] / SAMPLE_RATE * np.arange(1, harmonics + 1)
  centres = np.cumsum(step, axis=0) * HOP
  at = (np.arange(len(f0) * HOP) + 0.5) / HOP - 0.5
  return np.stack([np.interp(at, np.arange(len(f0)), c) for c in centres.T], axis=1)


def test_phase_stays_exact_over_minutes():
  # Multiples of 24000 / 2^16 Hz are exact in every arithmetic, so any drift would be ours.
  f0 = (np.random.default_rng(0).integers(150, 1500, 6000) * (SAMPLE_RATE / 2**16)).astype(np.float32)
  cycles = np.asarray(jax.jit(lambda f: sample_cycles(f, jnp.zeros((1, 9)), CONFIG))(f0[None]))[0]
  ends = np.r_[:960, len(cycles) - 960 : len(cycles)]  # the first and the last half frame stand still
  error = cycles[ends] / 2.0**32 - _float64_cycles(f0, 9)[ends]
  assert np.abs(error - np.round(error)).max() < 1e-6  # cycles, after two minutes; float64 itself gives 1e-10


def test_initial_phase_shifts_every_sample_by_itself():
  f0, phase = np.full((1, 3), 140.0, np.float32), np.array([[0.0, 0.25, -0.375]], np.float32)
  shift = sample_cycles(f0, phase, CONFIG) - sample_cycles(f0, jnp.zeros((1, 3)), CONFIG)
  assert np.unique(np.asarray(shift)[0], axis=0).tolist() == [[0, 1 << 30, 5 << 29]]
  assert int(fixed_point(jnp.float32(-1e-12))) == 0  # a full cycle is none


def test_unvoiced_frames_are_noise_alone():
  f0, noise = np.array([[9.0, 10.0, 200.0, 0.0]], np.float32), _normal((1, 4 * HOP, 9))
  sines, voiced = harmonic_source(f0, jnp.zeros((1, 9)), noise, CONFIG)
  assert np.asarray(voiced).reshape(4, HOP).all(1).tolist() == [False, False, True, False]
  quiet = ~np.asarray(voiced)[0]
  np.testing.assert_allclose(sines[0, quiet], noise[0, quiet] * (0.1 / 3), rtol=1e-6)
  silent, _ = harmonic_source(f0, jnp.zeros((1, 9)), jnp.zeros_like(noise), CONFIG)
  assert not np.any(silent[0, quiet])
  assert 0.099 < np.abs(silent[0, ~quiet]).max() <= 0.1


def test_noise_depends_on_key_and_frame_alone():
  keys = jnp.stack([jax.random.key(5), jax.random.key(3)])
  phase, long = jax.jit(lambda k: request_phase_noise(k, 11, CONFIG))(jax.random.key(3))
  _, batch = jax.jit(jax.vmap(lambda k: request_phase_noise(k, 4, CONFIG)))(keys)
  long, batch = np.asarray(long), np.asarray(batch)
  np.testing.assert_array_equal(batch[1], long[: 4 * HOP])
  assert np.abs(np.mean(batch[0] * batch[1])) < 0.05  # another key, other noise
  assert np.abs(np.mean(long[:HOP] * long[HOP : 2 * HOP])) < 0.05  # nor do frames repeat
  assert abs(long.std() - 1) < 0.02
  assert not phase.any()


def test_no_key_gives_silence_and_phases_are_drawn_on_request():
  phase, noise = request_phase_noise(None, 2, CONFIG)
  assert phase.shape == (9,)
  assert noise.shape == (2 * HOP, 9)
  assert not phase.any()
  assert not noise.any()
  phase, _ = request_phase_noise(jax.random.key(0), 2, CONFIG, random_phase=True)
  assert float(phase[0]) == 0
  assert np.all((phase[1:] > 0) & (phase[1:] < 1))
