"""The stages of offline synthesis: lists of values in and out, batched by size.

Each stage groups what it is given by length, pads a group to a bucket and runs it on the spot: the LM in
slots, flow and vocoder on whole segments, which need no caches. What comes out depends on no mate of a group.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cosyjax.flow import matching
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.inference import recordings
from cosyjax.inference.buckets import groups
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.limits import Limits
from cosyjax.inference.lm_slots import LMSlots, Sequences
from cosyjax.inference.loaded_model import LoadedModel, source_key
from cosyjax.inference.padding import Progress, Tracker, column, pad
from cosyjax.inference.requests import Request
from cosyjax.inference.speed import change_speed
from cosyjax.inference.voice import Voice
from cosyjax.lm import decode as lm_decode
from cosyjax.vocoder.source import request_phase_noise


def decode(model: LoadedModel, sequences: Sequences, progress: Progress | None = None) -> list[tuple[np.ndarray, str]]:
  """Speech tokens [U] of each sequence, and why it ended: "end" or "length".

  Args:
    model: with the LM's parameters.
    sequences: (what the LM reads, the resolved request, number of the segment) each.
    progress: called as ("tokens", done, total).

  Raises:
    TextError: text and prompt are too long together.
  """
  results: list[Any] = [None] * len(sequences)
  tracker = Tracker(progress, "tokens", sum(append.max_tokens for append, _, _ in sequences))
  for group, batch in _batches(model, [len(append.ids_L) + append.max_tokens for append, _, _ in sequences]):
    slots = LMSlots(model, batch)
    slots.open_all([sequences[i] for i in group])
    tokens, endings, running = [[] for _ in group], [lm_decode.RUNNING] * len(group), list(range(len(group)))
    while running:
      for slot, (new_U, ended) in slots.collect(slots.step(running)).items():
        tokens[slot].append(new_U)
        endings[slot] = ended
      running = [slot for slot in running if endings[slot] == lm_decode.RUNNING]
      tracker.show(sum(len(new_U) for parts in tokens for new_U in parts))
    for slot, i in enumerate(group):
      results[i] = np.concatenate(tokens[slot]).astype(np.int32), lm_decode.ENDINGS[endings[slot]]
    tracker.add(sum(sequences[i][0].max_tokens for i in group))
  return results


def solve(model: LoadedModel, chunks: Sequence[Chunk], progress: Progress | None = None) -> list[np.ndarray]:
  """Mel [T, M] of each chunk, a whole segment, without its prompt."""
  results: list[Any] = [None] * len(chunks)
  tracker = Tracker(progress, "mel", len(chunks))
  for steps in sorted({c.request.flow_steps for c in chunks}):
    alike = [i for i, c in enumerate(chunks) if c.request.flow_steps == steps]
    sizes = [len(chunks[i].request.voice.tokens_U) + chunks[i].count for i in alike]
    for group, batch in _batches(model, sizes):
      some = [chunks[alike[i]] for i in group]
      mel_BTM = np.asarray(_solve(model, some, batch))
      for line, i in enumerate(group):
        first = len(some[line].request.voice.mel_TM)
        results[alike[i]] = mel_BTM[line, first : first + model.config.audio.frames_per_token * some[line].count]
      tracker.add(len(group))
  return results


def vocode(
  model: LoadedModel, chunks: Sequence[Chunk], mels: Sequence[np.ndarray], progress: Progress | None = None
) -> list[np.ndarray]:
  """Audio [A] of the mel [T, M] of each chunk, at its request's speed."""
  mels = [change_speed(mel_TM, c.request.speed) for c, mel_TM in zip(chunks, mels, strict=True)]
  results: list[Any] = [None] * len(mels)
  tracker = Tracker(progress, "audio", len(mels))
  for group, batch in _batches(model, [len(mel_TM) for mel_TM in mels]):
    wave_BA = np.asarray(_vocode(model, [chunks[i] for i in group], [mels[i] for i in group], batch))
    for line, i in enumerate(group):
      results[i] = wave_BA[line, : model.config.audio.hop * len(mels[i])]
    tracker.add(len(group))
  return results


def rehearse(model: LoadedModel, limits: Limits) -> None:
  """Makes all calls that requests within the limits can make."""
  recordings.rehearse(model, limits)
  b, c, audio = model.buckets, model.config.flow, model.config.audio
  nobody = Request("", Voice.from_speaker(np.zeros(c.speaker_dim), c.mel_bins), flow_steps=limits.flow_steps)
  for batch in b.up_to("batch", limits.batch):
    LMSlots(model, batch).rehearse_all(limits)
    for U in b.up_to("tokens", int(limits.seconds * audio.token_rate)):
      _solve(model, [Chunk(nobody.resolved(model.config), np.zeros(U, np.int32), U)], batch)
    for T in b.up_to("frames", int(limits.seconds * audio.frame_rate / min(limits.slowest, 1.0))):
      _vocode(model, [Chunk(nobody, np.zeros(0, np.int32), 0)], [np.zeros((T, c.mel_bins), np.float32)], batch)


def longest_segment(model: LoadedModel, prompt: int) -> int:
  """How many new tokens fit beside a prompt in the largest buckets of flow and vocoder."""
  return min(model.buckets.tokens[-1] - prompt, model.buckets.frames[-1] // model.config.audio.frames_per_token)


def _batches(model: LoadedModel, sizes: list[int]) -> Iterator[tuple[list[int], int]]:
  """Indices of things of like size, and the bucket of each batch of them."""
  for group in groups(sizes, model.buckets.batch[-1]):
    yield group, model.buckets.fit("batch", len(group))


def _solve(model: LoadedModel, chunks: Sequence[Chunk], batch: int) -> jax.Array:
  """Starts solving whole segments in equally many Euler steps, under full attention: mel [B, T, M], prompts first."""

  def run(params, tokens_BU, lengths_B, prompt_BTM, prompt_lengths_B, speaker_BE, noise_TM, times, guidance_B):
    args = tokens_BU, lengths_B, prompt_BTM, prompt_lengths_B, speaker_BE, noise_TM
    options = {"steps": times.shape[0] - 1, "guidance": guidance_B[:, None, None]}
    return generate(model.modules["flow"], params, *args, **options)

  c, prompts = model.config.flow, [chunk.request.voice for chunk in chunks]
  tokens = [np.concatenate([voice.tokens_U, chunk.tokens_U]) for voice, chunk in zip(prompts, chunks, strict=True)]
  U = model.buckets.fit("tokens", max(map(len, tokens)))
  return model.program("flow", run)(
    model.params["flow"],
    pad(tokens, (batch, U), np.int32),
    column([len(tokens_U) for tokens_U in tokens], batch, fill=1),
    pad([voice.mel_TM for voice in prompts], (batch, c.frames_per_token * U, c.mel_bins), np.float32),
    column([len(voice.mel_TM) for voice in prompts], batch),
    pad([voice.speaker_E for voice in prompts], (batch, c.speaker_dim), np.float32),
    noise_table(c.frames_per_token * U, c.mel_bins),
    matching.schedule(chunks[0].request.flow_steps),
    column([chunk.request.guidance for chunk in chunks], batch, dtype=np.float32),
  )


def _vocode(model: LoadedModel, chunks: Sequence[Chunk], mels: Sequence[np.ndarray], batch: int) -> jax.Array:
  """Starts on whole mels: audio [B, A]."""

  def run(params, mel_BTM, lengths_B, seeds_B, numbers_B):
    frames, config = mel_BTM.shape[1], model.config.vocoder
    keys_B = jax.vmap(source_key)(seeds_B, numbers_B)
    noise = jax.vmap(lambda key: request_phase_noise(key, frames, config))(keys_B)
    return model.modules["vocoder"].apply({"params": params}, mel_BTM, lengths_B, *noise)[0]

  T = model.buckets.fit("frames", max(len(mel_TM) for mel_TM in mels))
  keys = [chunk.request.seed for chunk in chunks], [chunk.segment for chunk in chunks]
  return model.program("vocoder", run)(
    model.params["vocoder"],
    pad(mels, (batch, T, model.config.vocoder.mel_bins), np.float32),
    column([len(mel_TM) for mel_TM in mels], batch, fill=1),
    *(column(values, batch, dtype=np.uint32) for values in keys),
  )
