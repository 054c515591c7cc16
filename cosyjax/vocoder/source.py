"""Harmonic source: sines at multiples of f0, with the phase kept exactly over any length.

The upstream model uses the second of its repository's two sine generators ("SineGen2",
chosen because its rate is not 22,050 Hz). That one adds up the phase once a frame, at the
frame's centre, and interpolates between centres: within half a frame before and after a
border the frequency is that of the later frame, and the first and the last half frame stand
still.

Its phase is a float32 sum of thousands of radians, which rounds ever more coarsely (0.03 rad
after half a minute). Here the phase is a 32-bit unsigned fraction of a cycle, as in a digital
oscillator: integer addition wraps around at one full cycle, so the sum modulo 1 is exact,
whatever the length and whatever the order in which it is added.
"""

import jax
import jax.numpy as jnp

from cosyjax.config import VocoderConfig


def harmonic_source(
  f0_BT: jax.Array,
  phase_BH: jax.Array,
  noise_BAH: jax.Array,
  config: VocoderConfig,
  *,
  before_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Sines of f0 and its overtones where voiced, noise everywhere (Wang et al. 2019, NSF, section II-B).

  Args:
    f0_BT: fundamental in Hz, not negative, [B, T]; 0 past a row's end.
    phase_BH: phase of each harmonic before the first sample, in cycles. The upstream code
      draws one, but adds it to a sample that its own downsampling skips: zeros are its output.
    noise_BAH: standard normal noise [B, A, H], A = `config.samples_per_frame` T.
    config: gives the rates; `source_amplitude` of the sines, a third of which is the noise's scale where unvoiced;
      `source_noise`, the noise's scale where voiced; `voiced_threshold`, Hz above which a frame is voiced.
    before_B: sum of `phase_steps` over the frames before the first one here; see `sample_cycles`.

  Returns:
    harmonics [B, A, H] and voiced, bool [B, A].
  """
  c, harmonics = config, phase_BH.shape[1]
  samples = f0_BT.shape[1] * c.samples_per_frame
  sines_BAH = c.source_amplitude * sine_of_cycles(sample_cycles(f0_BT, phase_BH, c, before_B))
  voiced_BA = jnp.repeat(f0_BT > c.voiced_threshold, c.samples_per_frame, axis=1, total_repeat_length=samples)
  voiced_BA1 = voiced_BA[..., None]
  scale_BA1 = jnp.where(voiced_BA1, c.source_noise, c.source_amplitude / 3)
  noise_BAH = noise_BAH[:, :samples, :harmonics] * scale_BA1
  return jnp.where(voiced_BA1, sines_BAH, 0) + noise_BAH, voiced_BA


def phase_steps(f0_BT: jax.Array, sample_rate: int) -> jax.Array:
  """Cycles in a sample at f0 Hz, modulo 1, in units of 2^-32: uint32 [B, T]."""
  cycles_BT = f0_BT.astype(jnp.float32) / sample_rate
  # The fraction of a float32 is exact, and its bits down to 2^-32 are all that f0 > 47 Hz has.
  return jnp.round((cycles_BT - jnp.floor(cycles_BT)) * 2.0**32).astype(jnp.uint32)


def sample_cycles(
  f0_BT: jax.Array, phase_BH: jax.Array, config: VocoderConfig, before_B: jax.Array | None = None
) -> jax.Array:
  """Phase of every harmonic at every sample in units of 2^-32 cycle: uint32 [B, A, H].

  Args:
    f0_BT: fundamental in Hz, [B, T].
    phase_BH: phase before the first sample of all, in cycles, [B, H]. Harmonic h runs at h + 1 times f0.
    config: gives sample rate and samples of a frame.
    before_B: uint32 [B], sum of `phase_steps` over the frames before these, where these continue
      a longer track. Integers wrap around, so one sum serves all harmonics, and the phases are
      those of the whole track, bit for bit, but for the first half frame, which stands still.
  """
  batch, frames = f0_BT.shape
  harmonics = phase_BH.shape[1]
  hop = config.samples_per_frame
  half = hop // 2
  step_BT = phase_steps(f0_BT, config.sample_rate)
  multiples_H = jnp.arange(1, harmonics + 1, dtype=jnp.uint32)
  step_BTH = step_BT[..., None] * multiples_H
  sum_BT = jnp.cumsum(step_BT, axis=1, dtype=jnp.uint32)
  if before_B is not None:
    sum_BT += before_B[:, None]
  centre_BTH = (sum_BT * jnp.uint32(hop))[..., None] * multiples_H + fixed_point(phase_BH)[:, None]
  # Half a frame up to a centre runs at the frame's own step, the half after it at the next one's.
  still_B1H = jnp.zeros_like(step_BTH[:, :1])
  before_BTH = jnp.concatenate([still_B1H, step_BTH[:, 1:]], axis=1)
  after_BTH = jnp.concatenate([step_BTH[:, 1:], still_B1H], axis=1)
  step_BTPH = jnp.stack([before_BTH, after_BTH], axis=2)
  # A centre lies between two samples: sample s of the frame is s - half + 0.5 steps away from it.
  start_BTPH = centre_BTH[:, :, None] + (step_BTPH >> 1)
  offset_PS = (jnp.arange(hop, dtype=jnp.int32) - half).astype(jnp.uint32).reshape(2, half)
  cycles_BTPSH = start_BTPH[:, :, :, None] + step_BTPH[:, :, :, None] * offset_PS[..., None]
  return cycles_BTPSH.reshape(batch, frames * hop, harmonics)


def fixed_point(cycles: jax.Array) -> jax.Array:
  """Cycles (float, any sign) modulo 1, in units of 2^-32 and to 24 bits: uint32."""
  fraction = cycles - jnp.round(cycles)
  return jnp.round(fraction * 2.0**24).astype(jnp.int32).astype(jnp.uint32) << 8


def sine_of_cycles(cycles: jax.Array) -> jax.Array:
  """sin(2 pi x) of phases in units of 2^-32 cycle, float32."""
  signed = jax.lax.bitcast_convert_type(cycles, jnp.int32)  # -1/2 to 1/2 of a cycle
  return jnp.sin(signed.astype(jnp.float32) * (2 * jnp.pi * 2.0**-32))


def request_phase_noise(
  key: jax.Array | None,
  frames: int,
  config: VocoderConfig,
  *,
  random_phase: bool = False,
  first: int | jax.Array = 0,
) -> tuple[jax.Array, jax.Array]:
  """Initial phases and noise of one request, for one row of `phase_BH` and `noise_BAH`.

  Frame t's noise depends on the key and on t alone, so a longer bucket extends it and
  changes nothing. For a batch, `jax.vmap` over its keys.

  Args:
    key: the request's key for the vocoder; None for zeros throughout.
    frames: mel frames to make noise for.
    config: gives H, the fundamental and its overtones, and samples of a frame.
    random_phase: draw the overtones' initial phases. The upstream model has zeros in effect.
    first: the utterance's frame that the noise begins at.

  Returns:
    phase [H] in cycles and noise [A, H].
  """
  harmonics, hop = config.harmonics + 1, config.samples_per_frame
  if key is None:
    return jnp.zeros((harmonics,)), jnp.zeros((frames * hop, harmonics))
  phase_key, noise_key = jax.random.split(key)
  phase_H = jnp.zeros((harmonics,))
  if random_phase:
    phase_H = jax.random.uniform(phase_key, (harmonics,)).at[0].set(0.0)
  keys_T = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, first + jnp.arange(frames))
  noise_TSH = jax.vmap(lambda k: jax.random.normal(k, (hop, harmonics)))(keys_T)
  return phase_H, noise_TSH.reshape(frames * hop, harmonics)
