"""The text-speech language model: one Qwen2 stack over text and speech tokens (paper 2.3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import LMConfig
from cosyjax.errors import ConfigError
from cosyjax.layers.basic import Dtype, dense, embed, normalise_l2
from cosyjax.layers.constrain import shard_looked_up, shard_rows
from cosyjax.layers.masks import padding_mask
from cosyjax.lm.qwen2 import Cache, Linear, Qwen2
from cosyjax.lm.sequence import SPEAKER, SPECIAL, SPEECH, TEXT


class TextSpeechLM(nn.Module):
  """Text and speech tokens to the distribution of the next speech token.

  A sequence is two integer arrays, an id and a token type (`TEXT`, `SPEECH`, `SPECIAL`) for each
  position; `cosyjax.lm.sequence` builds them.

  Attributes:
    config: sizes.
    dtype: compute type of the stack; logits are float32.
    scan, remat, fused: layout and rematerialisation of the stack, see `Qwen2`.
    speaker_dim: for the ablation of paper Table 7, length E of the speaker vectors that training rows
      carry at a position of their own; 0, as the model is meant to be: none, and no parameters for it.
  """

  config: LMConfig
  dtype: Dtype = jnp.float32
  scan: bool = False
  remat: str = "none"
  fused: bool = False
  speaker_dim: int = 0

  def setup(self):
    """Make the parts."""
    c, vocab = self.config, self.config.speech_vocab
    self.text_embedding = embed(c.text_vocab, c.width, ("vocab", "embed"))
    if vocab.own_rows:
      self.special_embedding = embed(vocab.own_rows, c.width, (None, "embed"))
    self.speech_embedding = embed(vocab.rows, c.width, ("vocab", "embed"))
    self.stack = Qwen2(c, self.dtype, self.scan, self.remat, self.fused)
    self.head = Linear((vocab.rows,), ("vocab", "embed"), bias=vocab.head_bias)
    if self.speaker_dim:
      self.speaker_projection = dense(c.width, (None, "embed"))

  def embed(self, ids_BL: jax.Array, token_types_BL: jax.Array) -> jax.Array:
    """Input vectors [B, L, D] of tokens given by id and token type."""
    pick = lambda token_type: jnp.where(token_types_BL == token_type, ids_BL, 0)
    x_BLD = jnp.where((token_types_BL == SPEECH)[..., None], self.speech_embedding(pick(SPEECH)), 0.0)
    x_BLD = jnp.where((token_types_BL == TEXT)[..., None], self.text_embedding(pick(TEXT)), x_BLD)
    if not self.config.speech_vocab.own_rows:
      return x_BLD
    return jnp.where((token_types_BL == SPECIAL)[..., None], self.special_embedding(pick(SPECIAL)), x_BLD)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Scores of all rows of the speech vocabulary, float32 [..., V]."""
    return self.head(hidden.astype(jnp.float32))

  def __call__(
    self,
    ids_BL: jax.Array,
    token_types_BL: jax.Array,
    lengths_B: jax.Array | None = None,
    *,
    segments_BL: jax.Array | None = None,
    positions_BL: jax.Array | None = None,
    speaker_BSE: jax.Array | None = None,
  ) -> jax.Array:
    """Logits at every position, for training.

    Rows hold one utterance each (then give `lengths_B`) or several, packed (then give
    `segments_BL` and `positions_BL`). No token attends across utterances.

    Args:
      ids_BL, token_types_BL: int32; padding follows a row's tokens and changes no valid position.
      lengths_B: valid positions. What the stack gives for the others is set to zero, so that
        no gradient comes from them.
      segments_BL: int32, utterance of each position, counted from 1 in its row; 0 is padding.
      positions_BL: int32, position in its utterance, from 0.
      speaker_BSE: speaker vector of each utterance of a row, if the model has a place for it.

    Returns:
      float32 [B, L, V]: position i scores the token at i + 1.

    Raises:
      ConfigError: both or neither of lengths and segments, or speakers where there is no place, or the reverse.
    """
    return self.logits(
      self.hidden(ids_BL, token_types_BL, lengths_B, segments_BL=segments_BL, positions_BL=positions_BL,
                  speaker_BSE=speaker_BSE)
    )  # fmt: skip

  def hidden(
    self,
    ids_BL: jax.Array,
    token_types_BL: jax.Array,
    lengths_B: jax.Array | None = None,
    *,
    segments_BL: jax.Array | None = None,
    positions_BL: jax.Array | None = None,
    speaker_BSE: jax.Array | None = None,
  ) -> jax.Array:
    """What `__call__` makes logits of, [B, L, D], zero in padding: for `cosyjax.lm.loss.scores`, which saves memory."""
    if (lengths_B is None) == (segments_BL is None):
      raise ConfigError("training rows: expected either lengths_B, or segments_BL and positions_BL")
    if segments_BL is None:
      segments_BL = padding_mask(lengths_B, ids_BL.shape[1]).astype(jnp.int32)
    positions_BL = _positions(ids_BL) if positions_BL is None else positions_BL
    x_BLD = self.embed(ids_BL, token_types_BL)
    if (speaker_BSE is None) != (self.speaker_dim == 0):
      found = "none" if speaker_BSE is None else f"some of shape {speaker_BSE.shape}"
      raise ConfigError(f"speaker vectors: the model is built for a length of {self.speaker_dim}, {found} given")
    if self.speaker_dim:
      x_BLD = jnp.where((token_types_BL == SPEAKER)[..., None], self._speakers(segments_BL, speaker_BSE), x_BLD)
    hidden_BLD, _ = self.stack(shard_looked_up(x_BLD), positions_BL, segments_BL=segments_BL)
    return shard_rows(jnp.where((segments_BL > 0)[..., None], hidden_BLD, 0.0))

  def _speakers(self, segments_BL: jax.Array, speaker_BSE: jax.Array) -> jax.Array:
    """Projected speaker vector of every position's utterance: [B, L, D]."""
    vectors_BSD = self.speaker_projection(normalise_l2(speaker_BSE))
    return jnp.take_along_axis(vectors_BSD, jnp.maximum(segments_BL - 1, 0)[..., None], axis=1)

  def prefill(self, ids_BL: jax.Array, token_types_BL: jax.Array, lengths_B: jax.Array) -> tuple[jax.Array, Cache]:
    """Runs whole prompts from an empty cache.

    Returns:
      (logits [B, V] after each row's last token, cache of L positions).
    """
    hidden_BLD, cache = self.stack(self.embed(ids_BL, token_types_BL), _positions(ids_BL))
    return self.logits(_last(hidden_BLD, lengths_B)), cache

  def step(
    self, ids_BL: jax.Array, token_types_BL: jax.Array, lengths_B: jax.Array, starts_B: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Appends up to L tokens to each row.

    Args:
      ids_BL, token_types_BL: int32 tokens, padded at the end.
      lengths_B: how many of them each row has; a row of 0 stays as it is.
      starts_B: number of tokens that each row's cache holds already.
      cache: as returned by an earlier call, with free places.

    Returns:
      (logits [B, V] after each row's last new token, cache).
    """
    positions_BL = starts_B[:, None] + _positions(ids_BL)
    hidden_BLD, cache = self.stack(self.embed(ids_BL, token_types_BL), positions_BL, cache)
    return self.logits(_last(hidden_BLD, lengths_B)), cache


def init_arguments(config: LMConfig) -> tuple[jax.Array, ...]:
  """Arguments of a small call that creates every parameter: `model.init(key, *init_arguments(config))`."""
  del config
  ids_1L = jnp.zeros((1, 8), jnp.int32)
  return ids_1L, ids_1L, jnp.array([8])


def _positions(ids_BL: jax.Array) -> jax.Array:
  return jnp.broadcast_to(jnp.arange(ids_BL.shape[1], dtype=jnp.int32), ids_BL.shape)


def _last(hidden_BLD: jax.Array, lengths_B: jax.Array) -> jax.Array:
  if hidden_BLD.shape[1] == 1:
    return hidden_BLD[:, 0]
  index = jnp.maximum(lengths_B - 1, 0)[:, None, None]
  return jnp.take_along_axis(hidden_BLD, index, axis=1)[:, 0]
