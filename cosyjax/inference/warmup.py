"""Which programs requests within given limits can need, and compiling them all at once."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import numpy as np

from cosyjax.inference.compilation import Program
from cosyjax.inference.padding import Tracker
from cosyjax.inference.stages import Progress, Solve, Stages, flow_arrays, lm_arrays
from cosyjax.speech_tokenizer import windows


@dataclasses.dataclass(frozen=True)
class Limits:
  """What requests may come to; beyond it, they still run but compile first.

  Attributes:
    batch: pieces of text computed together.
    seconds: length of a prompt recording; 0 if voices come from files.
    text: ids of a piece of text.
    prefix: ids of an LM row before its first new token: the piece, the transcript or
      instruction, the prompt's tokens, and two.
    tokens: speech tokens of a piece, the prompt's included.
    slowest: lowest speed.
    sources: whether recordings (of up to 30 s) will be converted to another voice.
  """

  batch: int = 1
  seconds: int = 30
  text: int = 80
  prefix: int = 512
  tokens: int = 512
  slowest: float = 1.0
  sources: bool = False


def warm_up(stages: Stages, limits: Limits, progress: Progress | None = None) -> int:
  """Compiles every program that requests within `limits` can need, a few at a time.

  Args:
    stages: the model's programs.
    limits: see `Limits`.
    progress: called as ("warm-up", done, total).

  Returns:
    The number of programs, those that had been compiled before included.

  Raises:
    ConfigError: a limit is beyond the largest bucket.
  """
  plan = list(_plan(stages, limits))
  tracker = Tracker(progress, "warm-up", len(plan))
  with ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles without the interpreter's lock
    for future in as_completed([pool.submit(program.prepare, stages.params, *args) for program, args in plan]):
      future.result()
      tracker.add(1)
  return len(plan)


def _plan(stages: Stages, limits: Limits) -> Iterator[tuple[Program, list[Any]]]:
  """Programs with the shapes of their arguments."""
  b, config = stages.buckets, stages.config
  batches, mel_bins = b.up_to("batch", limits.batch), config.flow.mel_bins
  if limits.seconds:
    for s in b.up_to("seconds", limits.seconds):
      yield stages.analyse_program, [*_wave(s * config.audio.sample_rate), *_wave(s * 16_000)]
  if limits.sources:
    for s in b.up_to("source_seconds", windows.WINDOW // 100):
      yield stages.log_mel_program, _wave(s * 16_000)
    for T in windows.BUCKETS:
      yield stages.tokenise_program, [_shape((1, T, config.speech_tokenizer.mel_bins)), _shape((1,), np.int32)]
  for B, L in itertools.product(batches, b.up_to("prefix", limits.prefix)):
    args = _like(lm_arrays([], B, L))
    for S in b.up_to("cache", L + int(limits.text * config.lm.max_tokens_per_text)):
      if S > L:
        yield stages.prefill_programs[S], args
        yield stages.decode_program, [jax.eval_shape(stages.prefill_programs[S].function, stages.params, *args)]
  nothing = Solve(np.zeros(0, np.int32), np.zeros((0, mel_bins), np.float32), np.zeros(config.flow.speaker_dim))
  for B, U in itertools.product(batches, b.up_to("tokens", limits.tokens)):
    yield stages.solve_program, _like(flow_arrays([nothing], B, U, config.audio))
  for B, T in itertools.product(
    batches, b.up_to("frames", int(config.audio.frames_per_token * limits.tokens / limits.slowest))
  ):
    yield (
      stages.vocode_program,
      [_shape((B, T, mel_bins)), *(_shape((B,), t) for t in (np.int32, np.uint32, np.uint32))],
    )


def _shape(shape: tuple[int, ...], dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def _like(arrays: tuple[np.ndarray, ...]) -> list[jax.ShapeDtypeStruct]:
  return [_shape(a.shape, a.dtype) for a in arrays]


def _wave(size: int) -> list[jax.ShapeDtypeStruct]:
  return [_shape((1, size)), _shape((1,), np.int32)]
