"""Speech tokens to mel: the whole flow as one function to jit."""

from typing import Any

import jax
import jax.numpy as jnp

from cosyjax.errors import ConfigError
from cosyjax.flow import matching
from cosyjax.flow.flow_model import Flow
from cosyjax.layers import masks


def generate(
  model: Flow,
  params: Any,
  tokens_BU: jax.Array,
  token_lengths_B: jax.Array,
  prompt_mel_BTM: jax.Array,
  prompt_lengths_B: jax.Array,
  speaker_BE: jax.Array,
  noise_BTM: jax.Array,
  *,
  chunk: int | jax.Array = 0,
  final: bool | jax.Array = True,
  ahead_B: jax.Array | None = None,
  steps: int | None = None,
  guidance: float | jax.Array | None = None,
  unroll: int = 1,
) -> jax.Array:
  """Mel of speech tokens in a prompt's voice (paper 2.4), a batch of padded rows at a time.

  Rows are independent, and a row's result does not depend on how far it is padded. To jit,
  make `model`, `steps` and `unroll` static; everything else may be traced.

  Args:
    model: the flow's module.
    params: its parameters.
    tokens_BU: int32 speech tokens, each row the prompt's followed by the new ones, padded at the end.
    token_lengths_B: tokens in each row, prompt and look-ahead included.
    prompt_mel_BTM: mel of the prompts, of any number of frames, 0 included.
    prompt_lengths_B: frames of it that count; 0 for a row without prompt.
    speaker_BE: speaker vectors of any length (norm).
    noise_BTM: x at time 0, [B, T, M] or [T, M] for all rows, T >= 2U: from `cosyjax.flow.noise`.
    chunk: tokens in a block of the attention mask, counted from the first prompt token; 0 is
      full attention. An array [U] or [B, U] is taken as the tokens' blocks themselves.
    final: whether the rows end here. If not, the last `lookahead` tokens of a row are context
      only. A bool or bool [B].
    ahead_B: instead of `final`, how many tokens at each row's end are context only: int32 [B].
    steps: Euler steps; the config's if None.
    guidance: strength w; the config's if None. The number 0 skips the second evaluation.
    unroll: Euler steps compiled out in a row; see `matching.euler`.

  Returns:
    float32 [B, 2U, M], prompt frames included; zero from `mel_lengths(...)` on.

  Raises:
    ConfigError: noise is too short, or steps is below 1.
  """
  config = model.config
  batch, tokens = tokens_BU.shape
  frames = config.frames_per_token * tokens
  steps = config.steps if steps is None else steps
  guidance = config.guidance if guidance is None else guidance
  if noise_BTM.shape[-2] < frames:
    raise ConfigError(f"noise: expected at least {frames} frames for {tokens} tokens, found {noise_BTM.shape[-2]}")

  def run(*arguments: jax.Array, method: Any) -> jax.Array:
    return model.apply({"params": params}, *arguments, method=method)

  blocks = masks.equal_blocks(tokens, chunk) if jnp.ndim(chunk) == 0 else jnp.asarray(chunk, jnp.int32)
  ahead_B = jnp.where(final, 0, config.encoder.lookahead) if ahead_B is None else ahead_B
  spoken_B = jnp.maximum(token_lengths_B - ahead_B, 0)
  lengths_B = config.frames_per_token * spoken_B
  mu_BTM = run(tokens_BU, token_lengths_B, blocks, spoken_B, method=Flow.encode)
  speaker_BM = run(speaker_BE, method=Flow.project_speaker)
  cond_BTM = _conditions(prompt_mel_BTM, prompt_lengths_B, frames)
  noise_BTM = jnp.broadcast_to(noise_BTM[..., :frames, :], (batch, frames, config.mel_bins))

  blocks = masks.repeat_blocks(blocks, config.frames_per_token)
  if guide := not (isinstance(guidance, int | float) and guidance == 0):
    # Both branches in one batch: the second half of the rows has nothing to go by but x and t.
    mu_BTM, speaker_BM, cond_BTM = (jnp.concatenate([a, jnp.zeros_like(a)]) for a in (mu_BTM, speaker_BM, cond_BTM))
    lengths_B = jnp.concatenate([lengths_B, lengths_B])
    blocks = jnp.concatenate([blocks, blocks]) if blocks.ndim == 2 else blocks

  def velocity(x_BTM: jax.Array, t_B: jax.Array) -> jax.Array:
    if guide:
      x_BTM, t_B = jnp.concatenate([x_BTM, x_BTM]), jnp.concatenate([t_B, t_B])
    v = run(x_BTM, mu_BTM, speaker_BM, cond_BTM, t_B, lengths_B, blocks, method=Flow.velocity)
    return matching.guided(*jnp.split(v, 2), guidance) if guide else v

  mel_BTM = matching.euler(velocity, noise_BTM, matching.schedule(steps), unroll=unroll)
  return jnp.where(masks.padding_mask(lengths_B[:batch], frames)[..., None], mel_BTM, 0.0)


def _conditions(prompt_mel_BTM: jax.Array, lengths_B: jax.Array, frames: int) -> jax.Array:
  """Prompt frames at the start of `frames` frames, zero elsewhere."""
  mel_BTM = prompt_mel_BTM[:, :frames].astype(jnp.float32)
  mel_BTM = jnp.pad(mel_BTM, ((0, 0), (0, frames - mel_BTM.shape[1]), (0, 0)))
  return jnp.where(masks.padding_mask(lengths_B, frames)[..., None], mel_BTM, 0.0)
