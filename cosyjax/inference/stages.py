"""The stages of a request as batched programs of fixed shapes, with padding on the host.

Each stage takes a list of requests' values (numpy, of any lengths), groups them by length,
pads them to a bucket, runs one compiled program per group, and gives the values back cut
to length. Nothing here depends on which requests share a group.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.audio import kaldi_fbank, log_mel_16k, mel_spectrogram
from cosyjax.config import AudioConfig, ModelConfig
from cosyjax.errors import ConfigError, TextError
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.inference.buckets import Buckets, groups
from cosyjax.inference.compilation import Program
from cosyjax.inference.padding import Tracker, column, pad, wave
from cosyjax.inference.voice import Voice
from cosyjax.lm import decode
from cosyjax.lm.qwen2 import fuse_for_decoding
from cosyjax.networks import networks
from cosyjax.speech_tokenizer import windows
from cosyjax.vocoder.source import request_phase_noise

Progress = Callable[[str, int, int], None]

DECODE_STEPS = 16  # LM tokens between two looks of the host: 0.64 s of speech
SOURCE_STAGE = 1  # folded into a request's key for the vocoder's draws; the LM folds 0


@dataclasses.dataclass(frozen=True, eq=False)
class LMRow:
  """One piece of text, laid out for the LM.

  Attributes:
    text: as it is read.
    ids_L, token_types_L: the row up to the first new token; see `cosyjax.lm.sequence`.
    least, most: speech tokens.
    seed, piece: of the request, and the piece's number in it.
  """

  text: str
  ids_L: np.ndarray
  token_types_L: np.ndarray
  min_tokens: int
  max_tokens: int
  seed: int
  piece: int


@dataclasses.dataclass(frozen=True, eq=False)
class Solve:
  """Tokens to turn into mel: those of the prompt, then the new ones.

  Attributes:
    tokens_U: int32, prompt first.
    prompt_mel_TM: two frames per prompt token; empty without a prompt.
    speaker_E: speaker vector.
  """

  tokens_U: np.ndarray
  prompt_mel_TM: np.ndarray
  speaker_E: np.ndarray


class Stages:
  """Modules, parameters and programs of one model.

  Attributes:
    params: by component, the LM's as `for_decoding` gives them. A stage reads its own part alone, so others may be
      missing, and parts of equal shapes may be put in their place without compiling anything.
  """

  def __init__(self, config: ModelConfig, params: dict[str, Any], *, dtype: str, buckets: Buckets) -> None:
    if dtype not in ("auto", "float32", "bfloat16"):
      raise ConfigError(f"dtype: expected auto, float32 or bfloat16, found {dtype!r}")
    if dtype == "auto":
      dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    self.config, self.buckets, self.dtype = config, buckets, dtype
    self.params = params | ({"lm": for_decoding(params["lm"], dtype)} if "lm" in params else {})
    self.modules = networks(config, jnp.dtype(dtype))
    self.modules["lm"] = self.modules["lm"].clone(fused=True)
    self.analyse_program = Program("voice", self._analyse_fn)
    self.log_mel_program = Program("log-mel", self._log_mel_fn)
    self.tokenise_program = Program("tokenizer", self._tokenise_fn)
    self.prefill_programs = {s: Program(f"prefill/{s}", functools.partial(self._prefill_fn, s)) for s in buckets.cache}
    self.decode_program = Program("decode", self._decode_fn, donate=(1,))
    self.solve_program = Program("flow", self._solve_fn)
    self.vocode_program = Program("vocoder", self._vocode_fn)

  @property
  def programs(self) -> list[Program]:
    prompts = [self.analyse_program, self.log_mel_program, self.tokenise_program]
    return [*prompts, *self.prefill_programs.values(), self.decode_program, self.solve_program, self.vocode_program]

  # What is compiled. Arguments are padded; the first is the parameters.

  def _analyse_fn(self, params, wave_24k_BA, lengths_24k_B, wave_16k_BA, lengths_16k_B):
    mel_BTM, mel_lengths_B = mel_spectrogram(wave_24k_BA, lengths_24k_B, self.config.audio)
    ids_BU, ids_lengths_B = self._tokenise_fn(params, *self._log_mel_fn(params, wave_16k_BA, lengths_16k_B))
    fbank_BTM, fbank_lengths_B = kaldi_fbank(wave_16k_BA, lengths_16k_B, self.config.speaker.mel_bins)
    speaker_BE = self.modules["speaker"].apply({"params": params["speaker"]}, fbank_BTM, fbank_lengths_B)
    return ids_BU, ids_lengths_B, mel_BTM, mel_lengths_B, speaker_BE

  def _log_mel_fn(self, params, wave_16k_BA, lengths_B):
    del params
    return log_mel_16k(wave_16k_BA, lengths_B, self.config.speech_tokenizer.mel_bins)

  def _tokenise_fn(self, params, log_mel_BTM, lengths_B):
    tokenizer = self.modules["speech_tokenizer"]
    ids_BU, ids_lengths_B, _ = tokenizer.apply({"params": params["speech_tokenizer"]}, log_mel_BTM, lengths_B)
    return ids_BU, ids_lengths_B

  def _prefill_fn(
    self, capacity, params, ids_BL, token_types_BL, lengths_B, min_tokens_B, max_tokens_B, seeds_B, pieces_B
  ):
    keys_B = jax.vmap(piece_key)(seeds_B, pieces_B)
    return decode.prefill(
      self.modules["lm"],
      params["lm"],
      ids_BL,
      token_types_BL,
      lengths_B,
      min_tokens_B,
      max_tokens_B,
      keys_B,
      capacity=capacity,
    )

  def _decode_fn(self, params, state):
    return decode.decode_steps(self.modules["lm"], params["lm"], state, DECODE_STEPS)

  def _solve_fn(self, params, tokens_BU, lengths_B, prompt_BTM, prompt_lengths_B, speaker_BE, noise_TM):
    noise_BTM = jnp.broadcast_to(noise_TM, (tokens_BU.shape[0], *noise_TM.shape))
    args = (tokens_BU, lengths_B, prompt_BTM, prompt_lengths_B, speaker_BE, noise_BTM)
    return generate(self.modules["flow"], params["flow"], *args)

  def _vocode_fn(self, params, mel_BTM, lengths_B, seeds_B, pieces_B):
    frames, c = mel_BTM.shape[1], self.config.vocoder
    draw = lambda s, p: request_phase_noise(jax.random.fold_in(piece_key(s, p), SOURCE_STAGE), frames, c)
    phase_BH, noise_BAH = jax.vmap(draw)(seeds_B, pieces_B)
    wave_BA, _ = self.modules["vocoder"].apply({"params": params["vocoder"]}, mel_BTM, lengths_B, phase_BH, noise_BAH)
    return wave_BA

  # What the host calls.

  def analyse(self, wave_24k: np.ndarray, wave_16k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [U], mel [T, M] and speaker vector [E] of a recording of at most 30 s."""
    seconds = self.buckets.fit("seconds", -(-len(wave_16k) // 16_000))
    args = [*wave(wave_24k, seconds * self.config.audio.sample_rate), *wave(wave_16k, seconds * 16_000)]
    ids_BU, ids_lengths, mel_BTM, mel_lengths, speaker_BE = jax.device_get(self.analyse_program(self.params, *args))
    return ids_BU[0, : ids_lengths[0]], mel_BTM[0, : mel_lengths[0]], speaker_BE[0]

  def tokenise(self, wave_16k: np.ndarray) -> np.ndarray:
    """Tokens [U] of a recording of any length, in windows of 30 s where it is longer."""
    seconds = self.buckets.fit("source_seconds", -(-len(wave_16k) // 16_000))
    mel_BTM, frames_B = jax.device_get(self.log_mel_program(self.params, *wave(wave_16k, seconds * 16_000)))
    ids_BU, _ = windows.tokenize(lambda mel, n: self.tokenise_program(self.params, mel, n)[0], mel_BTM, frames_B)
    return ids_BU[0]

  def speak(self, rows: list[LMRow], progress: Progress | None = None) -> list[tuple[np.ndarray, str]]:
    """Speech tokens [U] of each row, and why it ended: "end" or "length"."""
    b = self.buckets
    most = [len(r.ids_L) + r.max_tokens for r in rows]
    results: list[Any] = [None] * len(rows)
    tracker = Tracker(progress, "tokens", sum(r.max_tokens for r in rows))
    for group in groups(most, b.batch[-1]):
      L = self._fit_text("prefix", max(len(rows[i].ids_L) for i in group))
      capacity = self._fit_text("cache", L + max(rows[i].max_tokens for i in group))
      B = b.fit("batch", len(group))
      state = self.prefill_programs[capacity](self.params, *lm_arrays([rows[i] for i in group], B, L))
      done = False
      while not done:
        state = self.decode_program(self.params, state)
        counts, dones = jax.device_get((state.counts_B, state.done_B))
        done = bool(np.all(dones[: len(group)]))
        tracker.show(int(counts[: len(group)].sum()))
      tokens, counts, ended = jax.device_get((state.tokens_BU, state.counts_B, state.ended_B))
      for row, i in enumerate(group):
        results[i] = (tokens[row, : counts[row]].astype(np.int32), decode.ENDINGS[int(ended[row])])
      tracker.add(sum(rows[i].max_tokens for i in group))
    return results

  def _fit_text(self, ladder: str, size: int) -> int:
    try:
      return self.buckets.fit(ladder, size)
    except ConfigError as error:
      raise TextError(f"text, transcript and prompt are too long together: {error}") from error

  def solve(self, solves: list[Solve], progress: Progress | None = None) -> list[np.ndarray]:
    """Mel [T, M] of the new tokens of each item."""
    b = self.buckets
    results: list[Any] = [None] * len(solves)
    tracker = Tracker(progress, "mel", len(solves))
    for group in groups([len(s.tokens_U) for s in solves], b.batch[-1]):
      items = [solves[i] for i in group]
      U = b.fit("tokens", max(len(s.tokens_U) for s in items))
      args = flow_arrays(items, b.fit("batch", len(group)), U, self.config.audio)
      mel_BTM = np.asarray(self.solve_program(self.params, *args))
      for row, i in enumerate(group):
        first = len(solves[i].prompt_mel_TM)
        results[i] = mel_BTM[row, first : self.config.audio.frames_per_token * len(solves[i].tokens_U)]
      tracker.add(len(group))
    return results

  def vocode(
    self, mels: list[np.ndarray], keys: list[tuple[int, int]], progress: Progress | None = None
  ) -> list[np.ndarray]:
    """Audio [A] of each mel [T, M]; `keys` are (seed, piece) of each."""
    b = self.buckets
    results: list[Any] = [None] * len(mels)
    tracker = Tracker(progress, "audio", len(mels))
    for group in groups([len(m) for m in mels], b.batch[-1]):
      B, T = b.fit("batch", len(group)), b.fit("frames", max(len(mels[i]) for i in group))
      mel_BTM = pad([mels[i] for i in group], (B, T, self.config.vocoder.mel_bins), np.float32)
      lengths_B = column([len(mels[i]) for i in group], B, fill=1)
      seeds, pieces = (column([keys[i][k] for i in group], B, dtype=np.uint32) for k in (0, 1))
      wave_BA = np.asarray(self.vocode_program(self.params, mel_BTM, lengths_B, seeds, pieces))
      for row, i in enumerate(group):
        results[i] = wave_BA[row, : len(mels[i]) * self.config.audio.hop]
      tracker.add(len(group))
    return results

  def longest_solve(self, voice: Voice) -> int:
    """How many new tokens fit beside a voice's prompt in the largest flow and vocoder buckets."""
    return min(
      self.buckets.tokens[-1] - len(voice.tokens_U), self.buckets.frames[-1] // self.config.audio.frames_per_token
    )


def for_decoding(lm: Any, dtype: Any) -> Any:
  """The LM's parameters as a decode step reads them: matrices joined, in the type they are multiplied in."""

  def cast(path: tuple, leaf: jax.Array) -> jax.Array:
    return leaf.astype(dtype) if path[-1].key in ("kernel", "bias") else leaf

  lm = fuse_for_decoding(lm)
  return lm | {"stack": jax.tree_util.tree_map_with_path(cast, lm["stack"])}


def piece_key(seed: jax.Array, piece: jax.Array) -> jax.Array:
  """A piece's key; each stage folds its own number in."""
  return jax.random.fold_in(jax.random.key(seed), piece)


def lm_arrays(rows: list[LMRow], B: int, L: int) -> tuple[np.ndarray, ...]:
  """Padded prefill arguments. Rows past the batch are idle."""
  ids_BL, token_types_BL = (
    pad([getattr(r, name) for r in rows], (B, L), np.int32) for name in ("ids_L", "token_types_L")
  )
  lengths_B = column([len(r.ids_L) for r in rows], B)
  min_tokens_B, max_tokens_B = (column([getattr(r, name) for r in rows], B) for name in ("min_tokens", "max_tokens"))
  seeds_B, pieces_B = (column([getattr(r, name) for r in rows], B, dtype=np.uint32) for name in ("seed", "piece"))
  return ids_BL, token_types_BL, lengths_B, min_tokens_B, max_tokens_B, seeds_B, pieces_B


def flow_arrays(items: list[Solve], B: int, U: int, audio: AudioConfig) -> tuple[np.ndarray, ...]:
  """Padded flow arguments. Rows past the batch have one token."""
  tokens_BU, T = pad([s.tokens_U for s in items], (B, U), np.int32), audio.frames_per_token * U
  prompt_BTM = pad([s.prompt_mel_TM for s in items], (B, T, audio.mel_bins), np.float32)
  speaker_BE = pad([s.speaker_E for s in items], (B, len(items[0].speaker_E)), np.float32)
  lengths_B = column([len(s.tokens_U) for s in items], B, fill=1)
  prompt_lengths_B = column([len(s.prompt_mel_TM) for s in items], B)
  return tokens_BU, lengths_B, prompt_BTM, prompt_lengths_B, speaker_BE, noise_table(T, audio.mel_bins)
