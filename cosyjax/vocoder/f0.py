"""Fundamental frequency from mel: convolutions and a linear read-out."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import conv, dense
from cosyjax.layers.masks import padding_mask
from cosyjax.vocoder.layer_plan import F0_LAYERS


class F0Predictor(nn.Module):
  """Mel frames to f0 in Hz, one value a frame.

  Always float32 with the highest matmul precision: the phase of a harmonic is the sum of f0
  over all frames before it, so a rounding of f0 grows with time.

  Attributes:
    channels: width of the convolutions.
  """

  channels: int = 512

  @nn.compact
  def __call__(self, mel_BTM: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """f0 [B, T] in Hz, not negative, 0 past each row's length.

    Args:
      mel_BTM: log-mel frames [B, T, M].
      lengths_B: valid frames of each row, int32 [B].
    """
    options = dict(dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST)
    mask_BT = padding_mask(lengths_B, mel_BTM.shape[1])
    x_BTC = jnp.where(mask_BT[..., None], mel_BTM.astype(jnp.float32), 0)
    for i, layer in enumerate(F0_LAYERS):
      padding = [(layer.before, layer.after)]
      x_BTC = nn.elu(conv(self.channels, layer.kernel, padding=padding, name=f"conv_{i}", **options)(x_BTC))
      x_BTC = jnp.where(mask_BT[..., None], x_BTC, 0)
    f0_BT = jnp.abs(dense(1, ("conv_in", None), name="out", **options)(x_BTC)[..., 0])
    return jnp.where(mask_BT, f0_BT, 0)
