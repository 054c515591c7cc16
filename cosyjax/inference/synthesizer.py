"""Text and a voice in, speech out: the offline pipeline, batched.

model = cosyjax.load("models/cosyvoice2")
voice = model.voice("prompt.wav", "what the prompt says")
model.synthesize("Hello from JAX.", voice, seed=1).save("hello.wav")
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import AudioError, ConfigError, TextError
from cosyjax.inference.buckets import Buckets
from cosyjax.inference.requests import Piece, Request, Speech, resolve_mode
from cosyjax.inference.stages import LMRow, Solve, Stages
from cosyjax.inference.voice import Voice, voice_versions
from cosyjax.inference.warmup import Limits, warm_up
from cosyjax.lm import sequence
from cosyjax.text import TextTokenizer, prepare, tiny_tokenizer_dir

Progress = Callable[[str, int, int], None]  # stage, done, of
Wave = str | Path | BinaryIO | tuple[np.ndarray, int]

PROMPT_SECONDS = (0.5, 30.0)
SOURCE_SECONDS = (0.5, 600.0)


class Synthesizer:
  """A loaded model. Holds parameters and compiled programs, and nothing about any request.

  Attributes:
    config: sizes and constants.
    text_tokenizer: text to ids; None if the model has none (random full-size weights).
    stages: the jitted programs, one per network, for whoever wants to run them apart.
  """

  def __init__(
    self,
    config: config_lib.ModelConfig,
    params: dict[str, Any],
    text_tokenizer: TextTokenizer | None,
    *,
    dtype: str = "auto",
    buckets: Buckets | None = None,
  ) -> None:
    self.config = config
    self.text_tokenizer = text_tokenizer
    self.stages = Stages(config, params, dtype=dtype, buckets=buckets or Buckets())

  # Voices.

  def voice(self, wav: Wave, transcript: str = "") -> Voice:
    """Makes a voice from a recording of 0.5 to 30 s.

    Args:
      wav: path or open file in any format that soundfile reads, or (samples [A] or [A, channels], rate).
      transcript: exactly what is said. Without it the voice serves the cross-lingual and
        instructed modes.

    Returns:
      The voice; tokens and mel are cut so that there are exactly two frames per token.

    Raises:
      AudioError: unreadable, silent, not finite, too short or too long.
    """
    wave_24k, wave_16k = self._recording(wav, PROMPT_SECONDS)
    tokens_U, mel_TM, speaker_E = self.stages.analyse(wave_24k, wave_16k)
    per_token = self.config.audio.frames_per_token
    U = min(len(tokens_U), len(mel_TM) // per_token)
    return Voice(speaker_E, tokens_U[:U], mel_TM[: per_token * U], transcript.strip(), voice_versions())

  def _recording(self, wav: Wave, seconds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The recording at 24 kHz and at 16 kHz, checked."""
    from cosyjax import audio

    if isinstance(wav, tuple):
      wave_A, rate = np.asarray(wav[0], np.float32), wav[1]
      wave_A = wave_A.mean(axis=1) if wave_A.ndim == 2 else wave_A
      where = "the recording"
      if wave_A.ndim != 1:
        raise AudioError(f"{where}: expected samples [A] or [A, channels], found shape {np.shape(wav[0])}")
    else:
      wave_A, rate = audio.read(wav, max_seconds=SOURCE_SECONDS[1])
      where = str(wav) if isinstance(wav, str | Path) else "the recording"
    audio.check_speech(wave_A, rate, where=where, min_seconds=seconds[0], max_seconds=seconds[1])
    return tuple(audio.resample(wave_A, rate, to) for to in (self.config.audio.sample_rate, audio.ENCODER_RATE))

  # Speech.

  def synthesize(self, text: str, voice: Voice, *, progress: Progress | None = None, **options: Any) -> Speech:
    """Speaks `text` in `voice`. Options are the fields of `Request`: seed, instruction, mode, speed.

    Raises:
      TextError: empty, unspeakable or over-long text, or control tags in it.
      ConfigError: the mode does not fit the voice, or an option is out of range.
    """
    return self.batch([Request(text, voice, **options)], progress=progress)[0]

  def batch(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[Speech]:
    """Speaks many requests together; each comes out as it would alone.

    Args:
      requests: any mix of voices, modes, lengths and seeds.
      progress: called as (stage, done, total) while the work goes on.

    Returns:
      One `Speech` per request, in order.

    Raises:
      TextError, ConfigError: naming the request by its index; nothing has been computed then.
    """
    rows, owners = [], []
    for index, request in enumerate(requests):
      try:
        request_rows = self._rows(request)
      except (TextError, ConfigError) as error:
        raise type(error)(f"request {index}: {error}" if len(requests) > 1 else str(error)) from error
      rows += request_rows
      owners += [index] * len(request_rows)
    decoded = self.stages.speak(rows, progress)
    solves = [
      _solve(requests[owner].voice, tokens_U, use_prompt=resolve_mode(requests[owner]) != "speaker")
      for owner, (tokens_U, _) in zip(owners, decoded, strict=True)
    ]
    mels = self.stages.solve(solves, progress)
    mels = [_change_speed(mel, requests[owner].speed) for owner, mel in zip(owners, mels, strict=True)]
    waves = self.stages.vocode(mels, [(row.seed, row.piece) for row in rows], progress)
    speeches = []
    for index in range(len(requests)):
      mine = [i for i, owner in enumerate(owners) if owner == index]
      rate = self.config.audio.sample_rate
      pieces = [Piece(rows[i].text, decoded[i][0], decoded[i][1], len(waves[i]) / rate) for i in mine]
      speeches.append(Speech(np.concatenate([waves[i] for i in mine]), tuple(pieces), rate))
    return speeches

  def _rows(self, request: Request) -> list[LMRow]:
    """One LM row per piece of the request's text."""
    if self.text_tokenizer is None:
      raise ConfigError("this model has no text tokenizer, so it cannot read text")
    prompt_ids, prompt_tokens_U = self.lm_prompt(request)
    tokenizer, text_config = self.text_tokenizer, self.config.text
    rows = []
    for number, piece in enumerate(prepare(request.text, tokenizer, text_config)):
      ids_L, token_types_L = sequence.known_text_row(prompt_ids, piece.ids, prompt_tokens_U, config=self.config.lm)
      lm = self.config.lm
      bounds = (int(len(piece.ids) * r) for r in (lm.min_tokens_per_text, lm.max_tokens_per_text))
      rows.append(LMRow(piece.text, ids_L, token_types_L, *bounds, request.seed, number))
    return rows

  def lm_prompt(self, request: Request) -> tuple[list[int], np.ndarray]:
    """What the LM reads before the new text, by the request's mode: text ids, and speech tokens [U].

    Raises:
      TextError: an empty instruction, or a transcript that cannot be read.
      ConfigError: the mode does not fit the voice.
    """
    mode, tokenizer, whole = resolve_mode(request), self.text_tokenizer, _whole(self.config.text)
    if mode == "zero_shot":
      transcript = " ".join(p.text for p in prepare(request.voice.transcript, tokenizer, whole))
      return tokenizer.encode(transcript), request.voice.tokens_U
    if request.instruction is None:
      return [], np.zeros(0, np.int32)
    if not request.instruction.strip():
      raise TextError("the instruction is empty; leave it out instead")
    [instruction] = prepare(request.instruction, tokenizer, whole)
    return [*instruction.ids, tokenizer.end_of_prompt_id], np.zeros(0, np.int32)

  def convert_voice(self, wav: Wave, voice: Voice, *, seed: int = 0, progress: Progress | None = None) -> Speech:
    """Says what a recording says, in another voice (speech in, no LM).

    Args:
      wav: as in `voice`, from 0.5 s to 10 minutes.
      voice: whose voice to take.
      seed: of the vocoder's noise.

    Raises:
      AudioError: as in `voice`.
    """
    _, wave_16k = self._recording(wav, SOURCE_SECONDS)
    tokens_U = self.stages.tokenise(wave_16k)
    parts = _cut(tokens_U, wave_16k, longest=self.stages.longest_solve(voice), rate=self.config.audio.token_rate)
    mels = self.stages.solve([_solve(voice, part, use_prompt=True) for part in parts], progress)
    waves = self.stages.vocode(mels, [(seed, i) for i in range(len(parts))], progress)
    rate = self.config.audio.sample_rate
    pieces = [Piece("", p, "given", len(w) / rate) for p, w in zip(parts, waves, strict=True)]
    return Speech(np.concatenate(waves), tuple(pieces), rate)

  def warm_up(self, *, progress: Progress | None = None, **limits: Any) -> int:
    """Compiles what requests within the limits can need, so that none of them compiles anything.

    Args:
      progress: called as ("warm-up", done, total).
      **limits: fields of `cosyjax.inference.warmup.Limits`: batch, seconds, text, prefix, tokens, ...

    Returns:
      The number of programs.
    """
    return warm_up(self.stages, Limits(**limits), progress)


def load(path: str | Path, *, dtype: str = "auto", buckets: Buckets | None = None) -> Synthesizer:
  """Loads a model directory.

  Args:
    path: made by `python -m convert.cosyvoice2 SRC DST`.
    dtype: compute type of LM and flow: "float32", "bfloat16", or "auto" (bfloat16 on GPU
      and TPU, float32 on CPU). Parameters and the delicate parts stay float32.
    buckets: shapes to compile for.

  Raises:
    CheckpointError: not a model directory, damaged, or of another model.
  """
  config = checkpoint.load_config(path)
  abstract = networks.abstract_params(config)
  params = {name: checkpoint.load_params(path, name, abstract[name]) for name in config_lib.COMPONENTS}
  tokenizer = TextTokenizer.load(Path(path) / "text_tokenizer", split_cjk=config.text.split_cjk)
  return Synthesizer(config, params, tokenizer, dtype=dtype, buckets=buckets)


def random_model(
  preset: str = "tiny", *, seed: int = 0, dtype: str = "auto", buckets: Buckets | None = None
) -> Synthesizer:
  """A model on seeded random weights: it makes noise, at the speed and through the code of a real one.

  Args:
    preset: "tiny" or "cosyvoice2". The tiny model comes with a tiny text tokenizer; the
      full-size one reads text with it too, for want of the released vocabulary.
    seed: of the weights.

  Raises:
    ConfigError: no such preset.
  """
  if preset not in config_lib.PRESETS:
    raise ConfigError(f"preset: expected one of {sorted(config_lib.PRESETS)}, found {preset!r}")
  config = config_lib.PRESETS[preset]()
  tokenizer = TextTokenizer.load(tiny_tokenizer_dir())
  return Synthesizer(config, networks.random_params(config, seed), tokenizer, dtype=dtype, buckets=buckets)


def _whole(config: config_lib.TextConfig) -> config_lib.TextConfig:
  """The same text settings without splitting, for transcripts and instructions."""
  huge = 1 << 30
  return dataclasses.replace(config, min_tokens=huge, max_tokens=huge, merge_tokens=0)


def _solve(voice: Voice, tokens_U: np.ndarray, use_prompt: bool) -> Solve:
  U = len(voice.tokens_U) if use_prompt else 0
  return Solve(np.concatenate([voice.tokens_U[:U], tokens_U]), voice.mel_TM[: 2 * U], voice.speaker_E)


def _change_speed(mel_TM: np.ndarray, speed: float) -> np.ndarray:
  """Linear interpolation along time to 1/speed of the length, sample positions at frame centres."""
  T = len(mel_TM)
  size = max(int(T / speed), 1)
  if size == T:
    return mel_TM
  at = np.clip((np.arange(size) + 0.5) * (T / size) - 0.5, 0, T - 1)
  low = np.floor(at).astype(int)
  high = np.minimum(low + 1, T - 1)
  share = (at - low).astype(np.float32)[:, None]
  return mel_TM[low] * (1 - share) + mel_TM[high] * share


def _cut(tokens_U: np.ndarray, wave_16k: np.ndarray, longest: int, rate: int) -> list[np.ndarray]:
  """Tokens in parts of at most `longest`, cut where the recording is quietest near a part's end."""
  step = 16_000 // rate
  energy = np.square(np.resize(wave_16k, (len(tokens_U), step))).sum(axis=1)
  parts, start = [], 0
  while len(tokens_U) - start > longest:
    first = start + longest * 3 // 4
    cut = first + int(np.argmin(energy[first : start + longest]))
    parts.append(tokens_U[start:cut])
    start = cut
  return [*parts, tokens_U[start:]]
