"""Text and a voice in, speech out: the offline pipeline, batched.

model = cosyjax.load("models/cosyvoice2")
voice = model.voice("prompt.wav", "what the prompt says")
model.synthesize("Hello from JAX.", voice, seed=1).save("hello.wav")
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import AudioError, ConfigError, TextError
from cosyjax.inference import offline, recordings
from cosyjax.inference.buckets import Buckets
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.compilation import rehearse
from cosyjax.inference.limits import Limits
from cosyjax.inference.loaded_model import LoadedModel
from cosyjax.inference.padding import Progress
from cosyjax.inference.requests import Request, Segment, Speech, resolve_mode
from cosyjax.inference.text_source import whole_text
from cosyjax.inference.voice import Voice, voice_versions
from cosyjax.lm.interleave import KnownText
from cosyjax.text import TextTokenizer, prepare, tiny_tokenizer_dir

Wave = str | Path | BinaryIO | tuple[np.ndarray, int]

log = logging.getLogger("cosyjax.audio")

PROMPT_SECONDS = (0.5, 30.0)
SOURCE_SECONDS = (0.5, 600.0)


class Synthesizer:
  """Speaks with one model, offline and in batches. Holds nothing about any request.

  Attributes:
    config: sizes and constants.
    text_tokenizer: text to ids; None if the model has none (random full-size weights).
    loaded: networks, parameters and programs; `cosyjax.inference.offline` runs them stage by stage.
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
    self.loaded = LoadedModel(config, params, dtype=dtype, buckets=buckets)

  def replace(
    self, config: config_lib.ModelConfig | None = None, *, dtype: str | None = None, buckets: Buckets | None = None
  ) -> "Synthesizer":
    """The same parameters and tokenizer under other settings.

    Args:
      config: of equal sizes.
      dtype: compute type of LM and flow. Weights that were rounded stay rounded.
      buckets: shapes to compile for.
    """
    old = self.loaded
    config, dtype, buckets = config or self.config, dtype or old.dtype, buckets or old.buckets
    return Synthesizer(config, old.params, self.text_tokenizer, dtype=dtype, buckets=buckets)

  # Voices.

  def voice(self, wav: Wave, transcript: str = "", *, trim: bool = True) -> Voice:
    """Makes a voice from a recording of 0.5 to 30 s.

    What makes a recording doubtful (clipping, noise, a cut word, long silence) is logged as a warning.

    Args:
      wav: path or open file in any format that soundfile reads, or (samples [A] or [A, channels], rate).
      transcript: exactly what is said. Without it the voice serves the cross-lingual and
        instructed modes.
      trim: whether long silence around the speech is left out.

    Returns:
      The voice; tokens and mel are cut so that there are exactly two frames per token.

    Raises:
      AudioError: unreadable, silent, not finite, too short or too long.
      TextError: a transcript that nobody could say in that time.
    """
    wave_24k, wave_16k = self._recording(wav, PROMPT_SECONDS, transcript=transcript, trim=trim)
    tokens_U, mel_TM, speaker_E = recordings.analyse(self.loaded, wave_24k, wave_16k)
    per_token = self.config.audio.frames_per_token
    U = min(len(tokens_U), len(mel_TM) // per_token)
    return Voice(speaker_E, tokens_U[:U], mel_TM[: per_token * U], transcript.strip(), voice_versions())

  def _recording(
    self, wav: Wave, seconds: tuple[float, float], *, transcript: str | None = None, trim: bool = False
  ) -> tuple[np.ndarray, np.ndarray]:
    """The recording at the model's rate and at 16 kHz, checked; with a transcript, looked at as a prompt."""
    from cosyjax import audio

    if isinstance(wav, tuple):
      wave_A, rate = np.asarray(wav[0], np.float32), wav[1]
      where = "the recording"
      wave_A = audio.mix_down(wave_A, where) if wave_A.ndim == 2 else wave_A
      if wave_A.ndim != 1:
        raise AudioError(f"{where}: expected samples [A] or [A, channels], found shape {np.shape(wav[0])}")
    else:
      wave_A, rate = audio.read(wav, max_seconds=SOURCE_SECONDS[1])
      where = str(wav) if isinstance(wav, str | Path) else "the recording"
    audio.check_speech(wave_A, rate, where=where, min_seconds=seconds[0], max_seconds=seconds[1])
    if transcript is not None:
      found = audio.inspect_prompt(wave_A, rate, trim=trim)
      for note in (*found.notes, *found.warnings):
        log.warning(f"{where}: {note}")
      wave_A = wave_A[found.start : found.stop]
      audio.check_transcript(transcript, len(wave_A) / rate, where)
    return tuple(audio.resample(wave_A, rate, to) for to in (self.config.audio.sample_rate, audio.ENCODER_RATE))

  # Speech.

  def synthesize(self, text: str | bytes, voice: Voice, *, progress: Progress | None = None, **options: Any) -> Speech:
    """Speaks `text` (bytes are UTF-8) in `voice`. Options are the fields of `Request`: seed, mode, speed, ...

    Raises:
      TextError: empty, unspeakable or over-long text, or control tags in it.
      ConfigError: no text at all, the mode does not fit the voice, or an option is out of range.
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
    rows, owners, resolved = [], [], []
    for index, request in enumerate(requests):
      try:
        resolved.append(request.resolved(self.config))
        known = self.known_text(request)
      except (TextError, ConfigError) as error:
        raise type(error)(f"request {index}: {error}" if len(requests) > 1 else str(error)) from error
      rows += [(text, layout, number) for number, (text, layout) in enumerate(known)]
      owners += [index] * len(known)
    sequences = [(layout.prefill(), resolved[i], number) for i, (_, layout, number) in zip(owners, rows, strict=True)]
    decoded = offline.decode(self.loaded, sequences, progress)
    chunks = [
      Chunk(request, tokens_U, len(tokens_U), number)
      for (_, request, number), (tokens_U, _) in zip(sequences, decoded, strict=True)
    ]
    waves = self._speak(chunks, progress)
    speeches = []
    for index in range(len(requests)):
      mine = [i for i, owner in enumerate(owners) if owner == index]
      speeches.append(self._speech([(rows[i][0], *decoded[i], waves[i]) for i in mine]))
    return speeches

  def _speak(self, chunks: Sequence[Chunk], progress: Progress | None) -> list[np.ndarray]:
    """Audio [A] of whole segments."""
    return offline.vocode(self.loaded, chunks, offline.solve(self.loaded, chunks, progress), progress)

  def _speech(self, segments: Sequence[tuple[str, np.ndarray, str, np.ndarray]]) -> Speech:
    """One speech of segments' text, tokens, ending and audio."""
    rate = self.config.audio.sample_rate
    done = tuple(Segment(*segment, len(wave_A) / rate) for *segment, wave_A in segments)
    return Speech(np.concatenate([wave_A for *_, wave_A in segments]), done, rate)

  def known_text(self, request: Request) -> list[tuple[str, KnownText]]:
    """Each segment of a request's text: as it is read, and as the LM takes it.

    Raises:
      TextError: empty, unspeakable or over-long text, or control tags in it.
      ConfigError: the mode does not fit the voice, or the model cannot read text.
    """
    if self.text_tokenizer is None:
      raise ConfigError("this model has no text tokenizer, so it cannot read text")
    prompt_ids, prompt_U = self.lm_prompt(request)
    segments = prepare(whole_text(request.text), self.text_tokenizer, self.config.text, **request.reading)
    return [(s.text, KnownText.of(self.config.lm, prompt_ids, s.ids, prompt_U)) for s in segments]

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
    request = Request("", voice, seed).resolved(self.config)
    tokens_U = recordings.tokenise(self.loaded, wave_16k)
    longest = offline.longest_segment(self.loaded, len(voice.tokens_U))
    parts = _cut(tokens_U, wave_16k, longest, self.config.audio.token_rate)
    waves = self._speak([Chunk(request, part, len(part), i) for i, part in enumerate(parts)], progress)
    return self._speech([("", part, "given", wave_A) for part, wave_A in zip(parts, waves, strict=True)])

  def warm_up(self, *, progress: Progress | None = None, **limits: Any) -> int:
    """Compiles what requests within the limits can need, so that none of them compiles anything.

    Args:
      progress: called as ("warm-up", done, total).
      **limits: fields of `cosyjax.inference.limits.Limits`: batch, prompt, seconds, prefix, ...

    Returns:
      The number of programs.

    Raises:
      ConfigError: a limit is beyond the largest bucket.
    """
    return rehearse(lambda: offline.rehearse(self.loaded, Limits(**limits)), progress)


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
