"""The flow's part of an engine without caches: every hop solves the whole sequence again."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.inference.buckets import fit
from cosyjax.inference.compilation import Program
from cosyjax.inference.padding import column, pad
from cosyjax.inference.stages import Stages
from cosyjax.inference.work import Mel, Work


class Recompute:
  """Solves the whole sequence again for every hop, as the released code does. Keeps nothing."""

  def __init__(self, stages: Stages, groups: tuple[int, ...]) -> None:
    self._stages, self.groups = stages, groups
    self._model, self.params, self._config = stages.modules["flow"], stages.params["flow"], stages.config.flow
    self._programs: dict[int, Program] = {}  # by frames of a hop

  def _solve_fn(
    self,
    frames,
    params,
    tokens_BU,
    lengths_B,
    ahead_B,
    prompt_BTM,
    prompt_lengths_B,
    speaker_BE,
    blocks_BU,
    noise_TM,
    first_B,
  ):
    mel_BTM = generate(
      self._model, params, tokens_BU, lengths_B, prompt_BTM, prompt_lengths_B, speaker_BE, noise_TM,
      chunk=blocks_BU, ahead_B=ahead_B,
    )  # fmt: skip
    mel_BTM = jnp.pad(mel_BTM, ((0, 0), (0, frames), (0, 0)))
    return jax.vmap(lambda mel, first: jax.lax.dynamic_slice_in_dim(mel, first, frames))(mel_BTM, first_B)

  def fits(self, work: Work) -> tuple[int, int]:
    """The padded sizes, in tokens, of the program that solves a hop: of the sequence, and of the hop."""
    size = len(work.voice.tokens_U) + work.hop.first + work.hop.count + work.hop.ahead
    hop = self._config.chunk
    while hop < work.hop.count:
      hop *= 2
    return self._stages.buckets.fit("tokens", size), hop

  def solve(self, works: Sequence[Work]) -> Mel:
    """Starts solving hops, with all that came before them."""
    b, c = fit(self.groups, len(works), "rows"), self._config
    size, hop = (max(sizes) for sizes in zip(*[self.fits(w) for w in works], strict=True))
    tokens, blocks = [], []
    for w in works:
      end = w.hop.first + w.hop.count + w.hop.ahead
      tokens.append(np.concatenate([w.voice.tokens_U, np.asarray(w.tokens[:end], np.int32)]))
      masked = w.schedule.blocks(len(w.voice.tokens_U), end, c.chunk)
      blocks.append(np.zeros_like(masked) if w.schedule.released and w.hop.last else masked)
    frames = c.frames_per_token * hop
    if frames not in self._programs:
      self._programs[frames] = Program(f"flow again/{frames}", functools.partial(self._solve_fn, frames))
    mel_bTM = self._programs[frames](
      self.params,
      pad(tokens, (b, size), np.int32),
      column([len(t) for t in tokens], b, fill=1),
      column([w.hop.ahead for w in works], b),
      pad([w.voice.mel_TM for w in works], (b, c.frames_per_token * size, c.mel_bins), np.float32),
      column([len(w.voice.mel_TM) for w in works], b),
      pad([w.voice.speaker_E for w in works], (b, c.speaker_dim), np.float32),
      pad(blocks, (b, size), np.int32),
      noise_table(c.frames_per_token * size, c.mel_bins),
      column([c.frames_per_token * (len(w.voice.tokens_U) + w.hop.first) for w in works], b),
    )
    return Mel(mel_bTM, list(range(len(works))), [0] * len(works))
