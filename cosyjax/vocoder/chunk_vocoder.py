"""Mel frames to audio in pieces, equal to one pass over the whole utterance.

As many frames are held back as the network looks ahead (20 in the released configuration, 0.4 s), and
every window begins far enough back (15 frames).

The state has fixed shapes and a place for every slot of an engine. `Exact.step` is pure and
works on some of the slots, in any order; a stream's audio depends neither on its slot nor on
its mates, nor on how the frames were cut into steps. In a step

  state, wave_BA, samples_B = scheme.step(model, params, state, slots_B, mel_BTM, lengths_B, last_B, keys_B)

a stream takes `lengths_B` new frames and gives `samples_B` samples; a last step gives all that was
held back and leaves the slot as empty as `open_slots` does.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp

from cosyjax.config import VocoderConfig
from cosyjax.errors import ConfigError
from cosyjax.layers.masks import padding_mask
from cosyjax.vocoder.generator_layers import take
from cosyjax.vocoder.hift import Vocoder
from cosyjax.vocoder.receptive_field import receptive_field
from cosyjax.vocoder.source import phase_steps, request_phase_noise


@flax.struct.dataclass
class ExactState:
  """What `Exact` keeps for each slot.

  Attributes:
    mel_BTM: the last frames, oldest first: held-back ones and the context before them.
    f0_BT: f0 of those of them for which it is final, in Hz.
    held_B: how many of `mel_BTM` count.
    first_B: which frame of the utterance the first of them is.
    steps_B: sum of `phase_steps` over all frames before that one, uint32.
  """

  mel_BTM: jax.Array
  f0_BT: jax.Array
  held_B: jax.Array
  first_B: jax.Array
  steps_B: jax.Array


@dataclasses.dataclass(frozen=True)
class Exact:
  """Streaming that equals `Vocoder.__call__` on the whole utterance, sample for sample.

  A window [context | held back | new] goes through the network; audio is given of the frames
  whose look-ahead is complete. What cannot be had from a window is carried: the phase at
  its start, and f0, which needs frames before it.

  Attributes:
    config: of the vocoder.
    early: frames by which audio is given before its look-ahead is complete. 0 is exact; the far
      end of the look-ahead weighs little, so that a few frames buy latency at a small error.
  """

  config: VocoderConfig
  early: int = 0

  def __post_init__(self):
    if not 0 <= self.early <= receptive_field(self.config).lookahead:
      raise ConfigError(f"early: expected 0 to {receptive_field(self.config).lookahead} frames, found {self.early}")

  @property
  def lookahead(self) -> int:
    """Frames held back until the last step."""
    return receptive_field(self.config).lookahead - self.early

  @property
  def context(self) -> int:
    """Frames kept before those held back."""
    return receptive_field(self.config).context

  def empty(self, batch: int) -> ExactState:
    """State of `batch` slots without a frame."""
    frames = self.context + self.lookahead
    return ExactState(
      mel_BTM=jnp.zeros((batch, frames, self.config.mel_bins)),
      f0_BT=jnp.zeros((batch, frames)),
      held_B=jnp.zeros((batch,), jnp.int32),
      first_B=jnp.zeros((batch,), jnp.int32),
      steps_B=jnp.zeros((batch,), jnp.uint32),
    )

  def open_slots(self, state: ExactState, slots_B: jax.Array) -> ExactState:
    """The same state with the slots `slots_B` (int32; one past the end is none) empty."""
    return _open(state, slots_B)

  def step(
    self,
    model: Vocoder,
    params: Any,
    state: ExactState,
    slots_B: jax.Array | None,
    mel_BTM: jax.Array,
    lengths_B: jax.Array,
    last_B: jax.Array | None,
    keys_B: jax.Array | None,
    *,
    zero_noise: bool = False,
  ) -> tuple[ExactState, jax.Array, jax.Array]:
    """Takes new frames and gives the audio that they complete.

    To jit, make `model` and `zero_noise` static; the state may be donated.

    Args:
      model: the vocoder's module.
      params: its parameters.
      state: of all slots.
      slots_B: int32, the slot of each row of this step; one past the last slot for a row that is
        padding. None for all slots in order.
      mel_BTM: new frames [B, T, M], padded at the end.
      lengths_B: how many of them count. A row with none that is not last changes nothing.
      last_B: bool, the rows whose utterance ends with these frames (or before them, with none).
        None if there is none: such a step computes less.
      keys_B: key of each utterance's noise, as `request_phase_noise` takes it.
      zero_noise: no noise at all; `keys_B` is not read.

    Returns:
      the new state, audio [B, A] with A = hop (T + lookahead), or hop T if `last_B` is None,
      0 past each row's end, and samples given in each row, int32 [B].
    """
    look, hop, own = self.lookahead, self.config.samples_per_frame, _gather(state, slots_B)
    held, frames = own.mel_BTM.shape[1], mel_BTM.shape[1]
    width = held + frames
    apply = lambda method, *args: model.apply({"params": params}, *args, method=method)
    window_BTM, sizes_B = _append(own.mel_BTM, own.held_B, mel_BTM, lengths_B)

    # f0 near the window's left edge lacks the frames before it; there it is known from earlier steps.
    final = lambda counts_B: padding_mask(counts_B - receptive_field(self.config).f0, width)
    f0_BT = jnp.pad(own.f0_BT, ((0, 0), (0, frames)))
    f0_BT = jnp.where(final(own.held_B), f0_BT, apply(Vocoder.f0, window_BTM, sizes_B))
    phase_BH, noise_BAH = _noise(self.config, keys_B, own.first_B, width, zero_noise)
    source_BA = apply(Vocoder.source, f0_BT, phase_BH, noise_BAH, own.steps_B)
    source_BA = jnp.where(padding_mask(sizes_B * hop, width * hop), source_BA, 0)

    start_B = jnp.maximum(own.held_B - look, 0)
    end_B = jnp.maximum(sizes_B - look, 0)
    count = frames
    if last_B is not None:
      end_B, count = jnp.where(last_B, sizes_B, end_B), frames + look
    wave_BA = apply(Vocoder.generate, window_BTM, source_BA, sizes_B, (start_B, count))
    samples_B = (end_B - start_B) * hop

    gone_B = jnp.maximum(sizes_B - held, 0)
    passed_BT = jnp.where(padding_mask(gone_B, width), phase_steps(f0_BT, self.config.sample_rate), 0)
    own = ExactState(
      mel_BTM=take(window_BTM, gone_B, held),
      f0_BT=take(jnp.where(final(sizes_B), f0_BT, 0), gone_B, held),
      held_B=sizes_B - gone_B,
      first_B=own.first_B + gone_B,
      steps_B=own.steps_B + jnp.sum(passed_BT, axis=1, dtype=jnp.uint32),
    )
    return _scatter(state, slots_B, own, last_B), _cut(wave_BA, samples_B), samples_B


def _open(state: Any, slots_B: jax.Array) -> Any:
  return jax.tree.map(lambda a: a.at[slots_B].set(0, mode="drop"), state)


def _gather(state: Any, slots_B: jax.Array | None) -> Any:
  return state if slots_B is None else jax.tree.map(lambda a: a.at[slots_B].get(mode="clip"), state)


def _scatter(state: Any, slots_B: jax.Array | None, new: Any, last_B: jax.Array | None) -> Any:
  """Writes slots back, empty where their utterance has ended."""
  if last_B is not None:
    new = _where(last_B, jax.tree.map(jnp.zeros_like, new), new)
  return new if slots_B is None else jax.tree.map(lambda a, n: a.at[slots_B].set(n, mode="drop"), state, new)


def _where(choose_B: jax.Array, a: Any, b: Any) -> Any:
  pick = lambda x, y: jnp.where(choose_B.reshape(-1, *(1,) * (x.ndim - 1)), x, y)
  return jax.tree.map(pick, a, b)


def _append(
  held_BTM: jax.Array, counts_B: jax.Array, new_BTM: jax.Array, lengths_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """New frames right after those that each slot holds, and how many there are in all; zeros after them."""
  window_BTM = jnp.pad(held_BTM, ((0, 0), (0, new_BTM.shape[1]), (0, 0)))
  put = lambda window, new, at: jax.lax.dynamic_update_slice_in_dim(window, new, at, axis=0)
  window_BTM = jax.vmap(put)(window_BTM, new_BTM.astype(window_BTM.dtype), counts_B)
  sizes_B = counts_B + lengths_B
  return jnp.where(padding_mask(sizes_B, window_BTM.shape[1])[..., None], window_BTM, 0), sizes_B


def _noise(
  config: VocoderConfig, keys_B: jax.Array | None, first_B: jax.Array, frames: int, zero: bool
) -> tuple[jax.Array, jax.Array]:
  harmonics, batch = config.harmonics + 1, first_B.shape[0]
  if zero:
    return jnp.zeros((batch, harmonics)), jnp.zeros((batch, frames * config.samples_per_frame, harmonics))
  return jax.vmap(lambda key, first: request_phase_noise(key, frames, config, first=first))(keys_B, first_B)


def _cut(wave_BA: jax.Array, samples_B: jax.Array) -> jax.Array:
  return jnp.where(padding_mask(samples_B, wave_BA.shape[1]), wave_BA, 0)
