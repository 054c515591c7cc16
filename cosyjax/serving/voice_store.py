"""Voices by name: profile files in directories, read when they are asked for, without running anything."""

import contextlib
import dataclasses
import logging
import re
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from cosyjax.config import ModelConfig
from cosyjax.errors import CheckpointError, ConfigError
from cosyjax.inference.voice import Voice
from cosyjax.serving.problems import Problem
from cosyjax.serving.settings import OPENAI_VOICES, Settings

log = logging.getLogger("cosyjax.serving")

SUFFIX = ".voice"
NAME = re.compile(r"[^\W_][\w .\-]{0,63}")
LONGEST_FILE = 200  # bytes of a file's name
CACHED = 64  # voices kept in memory
_PART = re.compile(r"([^()+]+)(?:\(([0-9.]{1,8})\))?")


def check_name(name: str) -> str:
  """A voice's name in normal form.

  Raises:
    Problem: it cannot serve as a name.
  """
  name = unicodedata.normalize("NFC", name).strip()
  if not NAME.fullmatch(name) or name.endswith(".") or len(quote(name, safe="")) > LONGEST_FILE:
    rule = "1 to 64 letters, digits, blanks, '.', '-' or '_', beginning with a letter or digit, and no '.' at its end"
    raise Problem(400, f"name: expected {rule}", "invalid_name", "name")
  return name


def check_voice(voice: Voice, config: ModelConfig) -> None:
  """Refuses a voice that another kind of model has made.

  Raises:
    CheckpointError: its sizes or tokens do not fit.
  """
  speaker, mel_bins, size = len(voice.speaker_E), voice.mel_TM.shape[1], config.flow.codebook_size
  expected = (config.flow.speaker_dim, config.flow.mel_bins)
  if (speaker, mel_bins) != expected:
    raise CheckpointError(f"the voice is of another model: expected sizes {expected}, found {(speaker, mel_bins)}")
  if len(voice.tokens_U) and not 0 <= int(voice.tokens_U.min()) <= int(voice.tokens_U.max()) < size:
    raise CheckpointError(f"the voice is of another model: expected speech tokens below {size}")


@dataclasses.dataclass(frozen=True)
class Entry:
  """A voice that can be asked for.

  Attributes:
    name: of the voice.
    path: its file; None for one that is built in.
    uploaded: whether it may be deleted.
  """

  name: str
  path: Path | None
  uploaded: bool


class VoiceStore:
  """All voices of one server.

  Files are looked up when they are asked for, so servers that share a directory share its voices.
  """

  def __init__(
    self,
    settings: Settings,
    config: ModelConfig,
    *,
    directory: Path | None = None,
    shipped: Path | None = None,
    built_in: dict[str, Voice] | None = None,
  ) -> None:
    """
    Args:
      settings: default voice, aliases and limits.
      config: of the model that will speak.
      directory: where voices of clients are kept; made if it is not there. None keeps none.
      shipped: the model directory's voices; they cannot be deleted.
      built_in: voices without a file.

    Raises:
      ConfigError: the directory cannot be used.
    """
    self._settings, self._config = settings, config
    self.directory, self._shipped, self._built_in = directory, shipped, built_in or {}
    self._cache: dict[tuple[Any, ...], Voice] = {}
    self._lock = threading.Lock()
    if directory is not None:
      try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
      except OSError as error:
        raise ConfigError(f"voice directory {directory} cannot be made: {error}") from error

  # What is there.

  def entries(self) -> list[Entry]:
    """All voices: those of clients first where names collide."""
    found = {name: Entry(name, None, False) for name in self._built_in}
    for directory, uploaded in ((self._shipped, False), (self.directory, True)):
      for path in _files(directory):
        name = unquote(path.name.removesuffix(SUFFIX))
        if NAME.fullmatch(name):
          found[name] = Entry(name, path, uploaded)
    return sorted(found.values(), key=lambda e: e.name)

  def find(self, name: str) -> Entry | None:
    """The entry of exactly this name."""
    name = unicodedata.normalize("NFC", name).strip()
    if not NAME.fullmatch(name):
      return None
    for directory, uploaded in ((self.directory, True), (self._shipped, False)):
      if directory is not None and (path := directory / f"{quote(name, safe='')}{SUFFIX}").is_file():
        return Entry(name, path, uploaded)
    return Entry(name, None, False) if name in self._built_in else None

  def load(self, entry: Entry) -> Voice:
    """Reads a voice.

    Raises:
      CheckpointError: its file is damaged, too large, or of another model.
    """
    if entry.path is None:
      return self._built_in[entry.name]
    try:
      info = entry.path.stat()
    except OSError as error:
      raise CheckpointError(f"voice {entry.name!r} cannot be read: {error.strerror}") from error
    if info.st_size > self._settings.limits.voice_bytes:
      raise CheckpointError(f"voice {entry.name!r}: its file has {info.st_size} bytes, more than a voice may have")
    key = (str(entry.path), info.st_ino, info.st_mtime_ns, info.st_size)
    with self._lock:
      if key in self._cache:
        return self._cache[key]
    try:
      voice = Voice.load(entry.path)
      check_voice(voice, self._config)
    except (CheckpointError, ConfigError) as error:
      log.error("voice file damaged", extra={"fields": {"voice": entry.name, "error": str(error)}})
      raise CheckpointError(
        f"the file of voice {entry.name!r} is damaged: delete the voice and post it again"
      ) from error
    with self._lock:
      self._cache[key] = voice
      while len(self._cache) > CACHED:
        self._cache.pop(next(iter(self._cache)))
    return voice

  # Names in requests.

  def resolve(self, name: str | None) -> Voice:
    """The voice that a request means.

    Args:
      name: of a voice, an alias, one of OpenAI's names, "default", or a mix `a(2)+b(1)`; None for the default.

    Raises:
      Problem: no such voice, or a mix that makes no sense.
      CheckpointError: its file is damaged.
    """
    if name is not None:
      name = name.strip()
      for candidate in (name, self._settings.aliases.get(name)):
        if candidate is not None and (entry := self.find(candidate)) is not None:
          return self.load(entry)
      if "+" in name or "(" in name:
        return self._mix(name)
      if name.lower() not in (*OPENAI_VOICES, "default", ""):
        known = ", ".join(e.name for e in self.entries()[:20]) or "none yet"
        raise Problem(404, f"voice: there is no voice of that name; there are: {known}", "voice_not_found", "voice")
    return self._default()

  def _default(self) -> Voice:
    chosen = self._settings.default_voice
    entries = self.entries()
    entry = self.find(chosen) if chosen else next((e for e in entries if not e.uploaded), next(iter(entries), None))
    if entry is None:
      hint = "post a recording to /v1/audio/voices, or send ref_audio"
      raise Problem(400, f"voice: this server has no voice yet; {hint}", "no_voice", "voice")
    return self.load(entry)

  def _mix(self, text: str) -> Voice:
    """Weighted mean of speaker vectors, of voices that are nothing else."""
    parts = [_PART.fullmatch(part.strip()) for part in text.split("+")]
    if not 2 <= len(parts) <= 8 or not all(parts):
      raise Problem(400, "voice: expected a name, or a mix such as a(2)+b(1)", "invalid_mix", "voice")
    vectors, weights = [], []
    for part in parts:
      voice = self.resolve(part[1])
      try:
        weight = float(part[2] or 1)
      except ValueError:
        weight = 0.0
      if not weight > 0:
        raise Problem(400, "voice: a mix's weights are numbers above 0", "invalid_mix", "voice")
      if len(voice.tokens_U):
        why = (
          f"voice: {part[1].strip()!r} is made from a recording, which the model continues; a mean of two recordings "
          "is no recording. Only voices that are speaker vectors alone can be mixed"
        )
        raise Problem(400, why, "invalid_mix", "voice")
      vectors.append(voice.speaker_E / max(float(np.linalg.norm(voice.speaker_E)), 1e-6))
      weights.append(weight)
    return Voice.from_speaker(np.average(vectors, axis=0, weights=weights), self._config.flow.mel_bins)

  # Voices of clients.

  def add(self, name: str, voice: Voice, details: dict[str, str]) -> tuple[Entry, bool]:
    """Keeps a voice.

    Args:
      name: its name.
      voice: made from a recording.
      details: kept in its file: consent, when, what the recording was.

    Returns:
      The entry, and whether one of the same name was there before.

    Raises:
      Problem: a name that will not do, voices cannot be kept, or there are as many as may be.
      OutputError: the file could not be written; nothing is left of it.
    """
    name = check_name(name)
    if self.directory is None:
      raise Problem(403, "this server keeps no voices; send ref_audio with each request", "voices_closed")
    with self._lock:
      path = self.directory / f"{quote(name, safe='')}{SUFFIX}"
      there = path.is_file()
      most = self._settings.limits.voices
      if not there and len(_files(self.directory)) >= most:
        raise Problem(400, f"there are {most} voices, as many as may be kept; delete one first", "too_many_voices")
      facts = (
        voice.versions | {k: v for k, v in details.items() if v} | {"name": name, "created": str(int(time.time()))}
      )
      dataclasses.replace(voice, versions=facts).save(path)
      path.chmod(0o600)  # a voice is its speaker's
    return Entry(name, path, True), there

  def delete(self, name: str) -> Voice | None:
    """Deletes a client's voice for good. Returns it, if it could still be read.

    Raises:
      Problem: no such voice, or one that does not belong to clients.
    """
    entry = self.find(name)
    if entry is None:
      raise Problem(404, "there is no voice of that name", "voice_not_found", "name")
    if not entry.uploaded:
      raise Problem(403, f"voice {entry.name!r} belongs to the model and cannot be deleted", "voice_protected", "name")
    voice = None
    with contextlib.suppress(CheckpointError):
      voice = self.load(entry)
    with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
      entry.path.unlink()
    with self._lock:
      for key in [key for key in self._cache if key[0] == str(entry.path)]:
        del self._cache[key]
    return voice

  def describe(self, entry: Entry) -> dict[str, Any]:
    """What clients are told of a voice; of a damaged one, that it is."""
    about: dict[str, Any] = {"id": entry.name, "name": entry.name, "uploaded": entry.uploaded}
    try:
      voice = self.load(entry)
    except CheckpointError as error:
      return about | {"damaged": True, "error": str(error)}
    facts = voice.versions
    about |= {"seconds": round(voice.seconds, 2), "ref_text": voice.transcript}
    if entry.uploaded:
      about |= {
        "consent": facts.get("consent", ""),
        "created_at": int(facts.get("created", "0") or 0),
        "file_size": int(facts.get("recording_bytes", "0") or 0),
        "mime_type": facts.get("mime_type", "audio/wav"),
        "speaker_description": facts.get("description", ""),
      }
    return about


def _files(directory: Path | None) -> list[Path]:
  try:
    return (
      sorted(p for p in directory.iterdir() if p.name.endswith(SUFFIX) and not p.name.startswith("."))
      if directory
      else []
    )
  except OSError:
    return []
