"""A voice: what a prompt recording says about its speaker, as a value that fits in one file."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from cosyjax.errors import CheckpointError, ConfigError
from cosyjax.files import write_whole
from cosyjax.version import __version__

FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Voice:
  """A speaker, ready for synthesis.

  Attributes:
    speaker_E: float32 speaker vector of CAM++, as it comes out (not normalised).
    tokens_U: int32 speech tokens of the prompt; empty if only the vector is known.
    mel_TM: float32 log-mel of the prompt, exactly two frames per token.
    transcript: what the prompt says; empty if unknown, which leaves the cross-lingual and
      instructed modes.
    versions: what made the voice: `format`, `cosyjax`, and free entries.
  """

  speaker_E: np.ndarray
  tokens_U: np.ndarray
  mel_TM: np.ndarray
  transcript: str = ""
  versions: dict[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    U, T = len(self.tokens_U), len(self.mel_TM)
    if self.speaker_E.ndim != 1 or self.tokens_U.ndim != 1 or self.mel_TM.ndim != 2:
      found = [a.shape for a in (self.speaker_E, self.tokens_U, self.mel_TM)]
      raise ConfigError(f"voice: expected shapes [E], [U], [2U, M], found {found}")
    if T != 2 * U:
      raise ConfigError(f"voice: {U} tokens need {2 * U} mel frames, found {T}")
    if not np.all(np.isfinite(self.speaker_E)) or not np.all(np.isfinite(self.mel_TM)):
      raise ConfigError("voice: speaker vector and mel must be finite")

  @classmethod
  def from_speaker(cls, speaker_E: np.ndarray, mel_bins: int = 80) -> "Voice":
    """A voice of which only the speaker vector [E] is known: no prompt for the LM or the flow."""
    speaker_E = np.asarray(speaker_E, np.float32)
    return cls(speaker_E, np.zeros(0, np.int32), np.zeros((0, mel_bins), np.float32), versions=voice_versions())

  @property
  def seconds(self) -> float:
    """Length of the prompt."""
    return len(self.tokens_U) / 25

  @functools.cached_property
  def fingerprint(self) -> bytes:
    """Equal for voices of equal content."""
    digest = hashlib.blake2b(self.transcript.encode())
    for array in (self.speaker_E, self.tokens_U, self.mel_TM):
      digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()

  def save(self, path: str | Path) -> None:
    """Writes the voice to one safetensors file, whole or not at all.

    Raises:
      OutputError: the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {"speaker": self.speaker_E, "tokens": self.tokens_U, "mel": self.mel_TM}
    info = {"transcript": self.transcript, "versions": json.dumps(self.versions)}
    data = save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=info)
    write_whole(path, data)

  @classmethod
  def load(cls, path: str | Path) -> "Voice":
    """Reads a voice file.

    Raises:
      CheckpointError: no such file, damaged, of another format version, or not a voice.
    """
    from safetensors import SafetensorError, safe_open

    try:
      with safe_open(str(path), framework="numpy") as file:
        info = file.metadata() or {}
        names = set(file.keys())
        if names != {"speaker", "tokens", "mel"} or "versions" not in info:
          raise CheckpointError(f"{path} is not a voice file: expected speaker, tokens, mel; found {sorted(names)}")
        versions = json.loads(info["versions"])
        if versions.get("format") != str(FORMAT):
          raise CheckpointError(f"{path}: expected voice format {FORMAT}, found {versions.get('format')}")
        tensors = {name: file.get_tensor(name) for name in names}
      kinds = {"speaker": np.float32, "tokens": np.int32, "mel": np.float32}
      wrong = {n: str(t.dtype) for n, t in tensors.items() if t.dtype != kinds[n]}
      if wrong:
        raise CheckpointError(f"{path}: arrays of unexpected types {wrong}")
      return cls(tensors["speaker"], tensors["tokens"], tensors["mel"], info.get("transcript", ""), versions)
    except (OSError, SafetensorError, ValueError) as error:
      if isinstance(error, CheckpointError):
        raise
      raise CheckpointError(f"{path} cannot be read as a voice file: {error}") from error


def voice_versions() -> dict[str, str]:
  """What a voice made now is marked with."""
  return {"format": str(FORMAT), "cosyjax": __version__}
