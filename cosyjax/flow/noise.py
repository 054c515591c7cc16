"""Where a request's mel starts: the upstream table of noise, or noise of its own.

The upstream code draws one table from PyTorch's CPU generator with seed 0 and starts
every request from its first frames. `noise_table` computes that table without PyTorch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

TABLE_FRAMES = 15_000  # frames drawn at a time: five minutes
TABLE_BINS = 80  # of the upstream table


def noise_table(frames: int = TABLE_FRAMES, mel_bins: int = TABLE_BINS) -> np.ndarray:
  """The first `frames` frames of the upstream table of noise: float32 [frames, mel_bins], read-only.

  Frames past 15,000 are drawn from the same generator as it goes on, 15,000 at a time.
  """
  parts = [_table_part(i, mel_bins) for i in range(max(-(-frames // TABLE_FRAMES), 1))]
  table = parts[0] if len(parts) == 1 else np.concatenate(parts)
  table.flags.writeable = False
  return table[:frames]


def request_noise(key: jax.Array, frames: int, mel_bins: int = TABLE_BINS) -> jax.Array:
  """Normal noise of one request: float32 [frames, mel_bins].

  Frame t depends on the key and on t alone, so more frames only add to it. For a batch,
  `jax.vmap` over keys.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(frames, dtype=jnp.uint32))
  return jax.vmap(lambda k: jax.random.normal(k, (mel_bins,), jnp.float32))(keys)


@functools.lru_cache(maxsize=4)
def _table_part(index: int, mel_bins: int) -> np.ndarray:
  """Frames index * 15,000 onwards, [15000, mel_bins]."""
  size = mel_bins * TABLE_FRAMES
  return _normals(_generator(index * size), size).reshape(mel_bins, TABLE_FRAMES).T.copy()


def _generator(drawn: int) -> np.random.MT19937:
  """Mersenne twister with seed 0, after so many 32-bit draws."""
  generator = np.random.MT19937()
  # RandomState is the public way to the generator's classic integer seeding, which PyTorch shares.
  generator.state = np.random.RandomState(0).get_state(legacy=False)
  generator.random_raw(drawn, output=False)
  return generator


def _normals(generator: np.random.MT19937, count: int) -> np.ndarray:
  """PyTorch's normal draw of `count` numbers (a multiple of 16): Box-Muller within blocks of 16.

  The first eight uniforms of a block give radii, the last eight angles; the block's result
  is the eight cosines, then the eight sines.
  """
  bits = generator.random_raw(count) & 0xFFFFFF
  uniform = (bits.astype(np.float32) / np.float32(1 << 24)).reshape(-1, 2, 8)  # exact: 24 bits
  # In float32 as PyTorch does: a rounded angle moves the result by more than its last digit.
  radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - uniform[:, 0]))
  angle = np.float32(2.0 * np.pi) * uniform[:, 1]
  return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
