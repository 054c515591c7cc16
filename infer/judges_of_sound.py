"""Judges of quality and of voices that `infer.evaluate listen` asks. Those of PyTorch need the extra `judges`.

Nothing here imports JAX, except the project's own speaker encoder when it is asked.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.evaluation.records import digest_of
from infer.judges_of_text import package, plug_in


class SoundJudge(Protocol):
  """What a judge of sound offers.

  Attributes:
    name: of its file and its column.
    kind: "quality" (a number, higher is better) or "speaker" (a vector).
    digest: SHA-256 of its weights, or a version.
    settings: what else its results depend on.
  """

  name: str
  kind: str
  digest: str
  settings: dict[str, Any]

  def listen(self, wave_A: np.ndarray) -> float | list[float]:
    """The quality or the speaker vector of a recording at 16 kHz."""
    ...


class DistillMos:
  """DistillMOS (Stahl and Gamper 2025): predicted mean opinion, 1 to 5. Audio at its own peak."""

  name, kind = "distillmos", "quality"

  def __init__(self) -> None:
    self._torch = torch = package("torch", "judges")
    # torchaudio of another build than torch's (CPU, CUDA) cannot load its binaries; DistillMOS needs none of them.
    package("torchaudio", "judges")
    module = package("distillmos", "judges")
    self.digest = digest_of(Path(module.__file__).parent / "weights")
    self.settings = _versions("distillmos", "torch")
    torch.set_num_threads(1)
    self._model = module.ConvTransformerSQAModel().eval()

  def listen(self, wave_A: np.ndarray) -> float:
    wave_A = wave_A / max(float(np.abs(wave_A).max()), 1e-9)
    with self._torch.no_grad():
      return float(self._model(self._torch.from_numpy(np.ascontiguousarray(wave_A, np.float32))[None]))


class Resemblyzer:
  """Resemblyzer (GE2E speaker encoder, Wan et al. 2018): 256 numbers, silence cut and loudness set."""

  name, kind = "resemblyzer", "speaker"

  def __init__(self) -> None:
    module = package("resemblyzer", "judges")
    package("torch", "judges").set_num_threads(1)
    self.digest = digest_of(Path(module.__file__).parent / "pretrained.pt")
    self.settings = _versions("Resemblyzer", "torch")
    self._module, self._encoder = module, module.VoiceEncoder("cpu", verbose=False)

  def listen(self, wave_A: np.ndarray) -> list[float]:
    speech_A = self._module.preprocess_wav(wave_A, source_sr=16_000)
    if not len(speech_A):
      raise ValueError("no speech found")
    return [round(float(x), 6) for x in self._encoder.embed_utterance(speech_A)]


class DnsMos:
  """DNSMOS P.808 (Reddy et al. 2021) by the package speechmos: predicted mean opinion, 1 to 5."""

  name, kind = "dnsmos-p808", "quality"

  def __init__(self) -> None:
    self._dnsmos = package("speechmos.dnsmos", "judges")
    self.digest, self.settings = f"version {importlib.metadata.version('speechmos')}", _versions("speechmos")

  def listen(self, wave_A: np.ndarray) -> float:
    return float(self._dnsmos.run(np.clip(wave_A, -1, 1), sr=16_000)["p808_mos"])


class OwnEncoder:
  """The speaker encoder of a model directory: no independent judge, for it is what the voice was made with."""

  name, kind = "own-encoder", "speaker"

  def __init__(self, folder: Path) -> None:
    import cosyjax

    self._model = cosyjax.load(folder)
    self.digest, self.settings = digest_of(folder), {}

  def listen(self, wave_A: np.ndarray) -> list[float]:
    return [round(float(x), 6) for x in self._model.voice((wave_A, 16_000)).speaker_E]


JUDGES: dict[str, Callable[[], SoundJudge]] = {"distillmos": DistillMos, "resemblyzer": Resemblyzer, "dnsmos": DnsMos}


def open_judge(spec: str) -> SoundJudge:
  """A judge by its name on the command line.

  Raises:
    ConfigError: no such judge, or its package is missing.
  """
  kind, _, what = spec.partition(":")
  if spec in JUDGES:
    return JUDGES[spec]()
  if kind == "encoder" and what:
    return OwnEncoder(Path(what))
  if kind == "python" and what.count(":") == 1:
    return plug_in(what)
  expected = f"{', '.join(JUDGES)}, encoder:MODEL or python:MODULE:FUNCTION"
  raise ConfigError(f"--judge: expected one of {expected}, found {spec!r}")


def _versions(*packages: str) -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in packages}
