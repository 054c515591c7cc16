"""The flow's networks as one module: token embedding, encoder, speaker projection, estimator.

The types of their configurations choose encoder and estimator: `ENCODERS` and `ESTIMATORS` have a line for each.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.flow.chunk_cache import NO_CACHE, ChunkCache, NoCache
from cosyjax.flow.token_encoder import TokenEncoder, spoken
from cosyjax.flow.unet import UNet
from cosyjax.layers.basic import dense, embed, normalise_l2
from cosyjax.layers.masks import repeat_blocks
from cosyjax.layers.stack import stack_layers, unstack_layers

ENCODERS = {FlowEncoderConfig: TokenEncoder}
ESTIMATORS = {UNetConfig: UNet}  # each is a subtree of the parameters under its configuration's `type`


class Flow(nn.Module):
  """Speech tokens to the velocity of a mel (paper 2.4).

  `encode` and `project_speaker` run once a request, `velocity` once a solver step; calling
  the module runs all three, which is one training step's prediction.

  Attributes:
    config: sizes.
    dtype: compute type; parameters are float32.
    training: stacked layout of the parameters, see `stack` and `unstack`; compiles each kind of
      layer once.
    remat: what of each layer the backward pass computes again, a name of `cosyjax.layers.remat`.
  """

  config: FlowConfig
  dtype: Any = jnp.float32
  training: bool = False
  remat: str = "none"

  def setup(self) -> None:
    """Make the parts."""
    c = self.config
    self.token_embedding = embed(c.codebook_size, c.token_width, ("vocab", "embed"), dtype=self.dtype)
    layout = (self.dtype, self.training, self.remat)
    self.encoder = ENCODERS[type(c.encoder)](c.encoder, c.frames_per_token, *layout)
    self.to_mel = dense(c.mel_bins, ("embed", None), dtype=self.dtype)
    self.speaker = dense(c.mel_bins, (None, None), precision=jax.lax.Precision.HIGHEST)
    self.estimator = ESTIMATORS[type(c.estimator)](c.estimator, *layout, name=c.estimator.type)

  def encode(
    self,
    tokens_BX: jax.Array,
    lengths_B: jax.Array,
    blocks: jax.Array,
    spoken_B: jax.Array | None = None,
    cache: NoCache | ChunkCache = NO_CACHE,
  ) -> jax.Array:
    """Tokens to the conditioning mu: [B, U] -> float32 [B, T, M]. See `TokenEncoder` for the arguments."""
    x_BXD = self.token_embedding(jnp.clip(tokens_BX, 0, self.config.codebook_size - 1))
    return self.to_mel(self.encoder(x_BXD, lengths_B, blocks, spoken_B, cache)).astype(jnp.float32)

  def project_speaker(self, speaker_BE: jax.Array) -> jax.Array:
    """Speaker vector of any length to float32 [B, M]."""
    return self.speaker(normalise_l2(speaker_BE))

  def velocity(
    self,
    x_BTM: jax.Array,
    mu_BTM: jax.Array,
    speaker_BM: jax.Array,
    cond_BTM: jax.Array,
    t_B: jax.Array,
    lengths_B: jax.Array,
    blocks: jax.Array,
    cache: NoCache | ChunkCache = NO_CACHE,
  ) -> jax.Array:
    """The estimator on its own; lengths and blocks are those of mel frames."""
    return self.estimator(x_BTM, mu_BTM, speaker_BM, cond_BTM, t_B, lengths_B, blocks, cache)

  def __call__(
    self,
    tokens_BU: jax.Array,
    token_lengths_B: jax.Array,
    speaker_BE: jax.Array,
    x_BTM: jax.Array,
    cond_BTM: jax.Array,
    t_B: jax.Array,
    blocks: jax.Array,
    keep_B: jax.Array | None = None,
  ) -> jax.Array:
    """Velocity from tokens: what training compares with the target of `matching.interpolate`.

    Args:
      tokens_BU: speech tokens.
      token_lengths_B: tokens in each row.
      speaker_BE: speaker vectors.
      x_BTM: point on the path, of `frames_per_token` frames for each token.
      cond_BTM: kept reference frames, zero elsewhere.
      t_B: time in [0, 1].
      blocks: int32 [U] or [B, U], block of each token.
      keep_B: bool; where False the row loses tokens, speaker and reference frames (guidance training).

    Returns:
      float32 [B, T, M].
    """
    mu_BTM, speaker_BM = self.encode(tokens_BU, token_lengths_B, blocks), self.project_speaker(speaker_BE)
    if keep_B is not None:
      mu_BTM, cond_BTM = (jnp.where(keep_B[:, None, None], a, 0.0) for a in (mu_BTM, cond_BTM))
      speaker_BM = jnp.where(keep_B[:, None], speaker_BM, 0.0)
    rate = self.config.frames_per_token
    return self.velocity(x_BTM, mu_BTM, speaker_BM, cond_BTM, t_B, rate * token_lengths_B, repeat_blocks(blocks, rate))


STACKS = ("block", "up_block", "mid")  # names of what is repeated; a layer of `mid` holds a `block` stack itself


def stack(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters for `training=True` from separate layers, as models are stored."""
  for name in STACKS:
    params = stack_layers(params, name)
  return params


def unstack(params: dict[str, Any]) -> dict[str, Any]:
  """Inverse of `stack`."""
  for name in reversed(STACKS):
    params = unstack_layers(params, name)
  return params


def mel_lengths(config: FlowConfig, token_lengths_B: jax.Array, final: bool | jax.Array = True) -> jax.Array:
  """Mel frames that tokens give: none for look-ahead tokens when more is to come."""
  return config.frames_per_token * spoken(token_lengths_B, final, config.encoder.lookahead)


def init_arguments(config: FlowConfig, tokens: int = 4) -> tuple[jax.Array, ...]:
  """Arguments of the smallest call that creates every parameter: `Flow(config).init(key, *init_arguments(config))`."""
  mel_1TM = jnp.zeros((1, config.frames_per_token * tokens, config.mel_bins))
  ids_1U, lengths_1 = jnp.zeros((1, tokens), jnp.int32), jnp.full((1,), tokens, jnp.int32)
  speaker_1E = jnp.ones((1, config.speaker_dim))
  return ids_1U, lengths_1, speaker_1E, mel_1TM, mel_1TM, jnp.zeros((1,)), jnp.zeros((tokens,), jnp.int32)
