"""What the upstream code does in a stream, where the library does better: a reference to compare with.

- Chunks grow (25, 50, 100 tokens), mask blocks stay at 25, every chunk solves the whole prefix again, and the
  last one under full attention.
- Packets of audio are cross-faded: see `CrossFade`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import VocoderConfig
from cosyjax.inference.schedule import Schedule
from cosyjax.layers.masks import padding_mask
from cosyjax.vocoder import chunk_vocoder
from cosyjax.vocoder.generator_layers import take
from cosyjax.vocoder.hift import Vocoder

SCHEDULE = Schedule(first=25, then=(50, 100), border=True)
_FADE = 8  # frames that are carried over and faded


def blocks(prompt: int, new: int, chunk: int) -> np.ndarray:
  """Mask block of each token, whatever the chunks: int32 [prompt + new]."""
  return np.arange(prompt + new, dtype=np.int32) // chunk


def solve_again(
  solve: Callable[[int, int], Any], sizes: Iterator[int], prompt: int, total: int, lookahead: int, rest: bool
) -> list[np.ndarray]:
  """Mel of each chunk, each made by solving everything up to its end again.

  Args:
    solve: (n, ahead) -> mel of the first n tokens, of which the last `ahead` are only looked at; none at the end.
    sizes: tokens of the chunks.
    prompt, total: tokens of the prompt, and of prompt and speech together.
    lookahead: tokens that the flow looks ahead.
    rest: whether all that is left is taken at once when a whole chunk and its look-ahead are not there, as upstream.
  """
  mels, done = [], prompt
  while done < total:
    end = done + next(sizes)
    if end + lookahead > total:
      end = total if rest else min(end, total)
    length = min(end + lookahead, total)
    mels.append(np.asarray(solve(length, length - end))[2 * done : 2 * end])
    done = end
  return mels


@flax.struct.dataclass
class CrossFadeState:
  """What `CrossFade` keeps of each row: 8 frames, or fewer before the first packet.

  Attributes:
    mel_BTM: the frames.
    source_BA: the source under them.
    wave_BA: the audio made of them, which the next packet is faded in over.
    held_B: how many frames count. Only with all 8 is there source and audio.
    first_B: which frame of the utterance the first of them is.
  """

  mel_BTM: jax.Array
  source_BA: jax.Array
  wave_BA: jax.Array
  held_B: jax.Array
  first_B: jax.Array


@dataclasses.dataclass(frozen=True)
class CrossFade:
  """Streaming as the released code does it, to the sample.

  Every packet is made of its own frames after the last 8 of the packet before; the first 8
  frames are driven by the source of the packet before and faded in over its audio, the last 8
  are held back. As there: the phase of a packet's own source starts at zero, the frames
  before the 8 are forgotten, and the two halves of the Hamming window add up to 1.08, so a
  fade is 8 % louder and may pass `audio_limit`. In a clean voice both ends of a fade can click.

  Attributes:
    config: of the vocoder.
  """

  config: VocoderConfig

  @property
  def lookahead(self) -> int:
    """Frames held back until the last step."""
    return _FADE

  def empty(self, batch: int) -> CrossFadeState:
    """State of `batch` rows that have seen nothing."""
    return CrossFadeState(
      mel_BTM=jnp.zeros((batch, _FADE, self.config.mel_bins)),
      source_BA=jnp.zeros((batch, _FADE * self.config.samples_per_frame)),
      wave_BA=jnp.zeros((batch, _FADE * self.config.samples_per_frame)),
      held_B=jnp.zeros((batch,), jnp.int32),
      first_B=jnp.zeros((batch,), jnp.int32),
    )

  def open_slots(self, state: CrossFadeState, slots_B: jax.Array) -> CrossFadeState:
    """The same state with the rows `slots_B` (int32; one past the end is nobody) empty."""
    return chunk_vocoder._open(state, slots_B)

  def step(
    self,
    model: Vocoder,
    params: Any,
    state: CrossFadeState,
    slots_B: jax.Array | None,
    mel_BTM: jax.Array,
    lengths_B: jax.Array,
    last_B: jax.Array | None,
    keys_B: jax.Array | None,
    *,
    zero_noise: bool = False,
  ) -> tuple[CrossFadeState, jax.Array, jax.Array]:
    """Takes a packet's frames and gives its audio: as `Exact.step` of the library, with 8 frames of look-ahead.

    Each step with new frames is a packet, and the audio depends on where packets end. Fewer
    than 8 frames in a first packet wait for the next step.
    """
    row = chunk_vocoder._gather(state, slots_B)
    frames, hop = mel_BTM.shape[1], self.config.samples_per_frame
    fade = _FADE * hop
    width = _FADE + frames
    apply = lambda method, *args: model.apply({"params": params}, *args, method=method)
    window_BTM, sizes_B = chunk_vocoder._append(row.mel_BTM, row.held_B, mel_BTM, lengths_B)
    later_B1 = (row.held_B == _FADE)[:, None]

    f0_BT = apply(Vocoder.f0, window_BTM, sizes_B)
    phase_BH, noise_BAH = chunk_vocoder._noise(self.config, keys_B, row.first_B, width, zero_noise)
    source_BA = apply(Vocoder.source, f0_BT, phase_BH, noise_BAH)
    source_BA = source_BA.at[:, :fade].set(jnp.where(later_B1, row.source_BA, source_BA[:, :fade]))
    source_BA = jnp.where(padding_mask(sizes_B * hop, width * hop), source_BA, 0)
    wave_BA = apply(Vocoder.generate, window_BTM, source_BA, sizes_B)
    rise_A, fall_A = np.split(np.hamming(2 * fade).astype(np.float32), 2)
    faded_BA = wave_BA[:, :fade] * rise_A + row.wave_BA * fall_A
    wave_BA = wave_BA.at[:, :fade].set(jnp.where(later_B1, faded_BA, wave_BA[:, :fade]))

    gone_B = jnp.maximum(sizes_B - _FADE, 0)
    idle_B = lengths_B == 0
    new = CrossFadeState(
      mel_BTM=take(window_BTM, gone_B, _FADE),
      source_BA=take(source_BA, gone_B * hop, fade),
      wave_BA=take(wave_BA, gone_B * hop, fade),
      held_B=sizes_B - gone_B,
      first_B=row.first_B + gone_B,
    )
    row = chunk_vocoder._where(idle_B, row, new)
    samples_B = gone_B * hop
    if last_B is not None:
      samples_B = jnp.where(last_B, sizes_B * hop, samples_B)
    else:
      wave_BA = wave_BA[:, : frames * hop]
    return chunk_vocoder._scatter(state, slots_B, row, last_B), chunk_vocoder._cut(wave_BA, samples_B), samples_B
