"""Where streamed audio goes: files that grow beside their target, or whoever reads a pipe."""

import contextlib
import os
import stat
import struct
import sys
import wave
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cosyjax.audio import check_target
from cosyjax.config import AudioConfig
from cosyjax.errors import OutputError
from infer import options


def pcm(samples_A: np.ndarray) -> bytes:
  """Samples of full scale 1 as 16-bit little-endian numbers."""
  return np.rint(np.clip(samples_A, -1, 1) * 32767).astype("<i2").tobytes()


class Recording:
  """An audio file that grows beside its target.

  Attributes:
    target: its name when it is whole.
    part: its name until then.
    frames: samples so far.
    rate: samples a second; may be set until the first are written.
  """

  def __init__(self, target: Path, raw: bool) -> None:
    self.target = Path(os.path.realpath(target))
    self.part = self.target.with_name(f"{self.target.stem}.part{self.target.suffix}")
    self.frames, self.rate = 0, AudioConfig.sample_rate
    self._kind = "raw" if raw else self.target.suffix.lower()
    self._file: BinaryIO | None = None
    self._encoder: Any = None

  def write(self, samples_A: np.ndarray) -> None:
    """Appends; what has been written is on its way to the disk when this returns.

    Raises:
      OutputError: it cannot be written.
    """
    try:
      if self._file is None:
        self._open()
      if self._kind == ".flac":
        self._encoder.write(np.frombuffer(pcm(samples_A), "<i2"))
        self._encoder.flush()
      else:
        # `writeframes` brings the header up to date.
        (self._file.write if self._kind == "raw" else self._encoder.writeframes)(pcm(samples_A))
        self._file.flush()
      self.frames += len(samples_A)
    except (OSError, RuntimeError, struct.error) as error:  # libsndfile's errors are RuntimeErrors
      raise OutputError(f"{self.target}: not written ({getattr(error, 'strerror', None) or error})") from error

  def _open(self) -> None:
    self._file = self.part.open("wb")
    if self._kind == ".wav":
      self._encoder = wave.open(self._file, "wb")  # noqa: SIM115
      self._encoder.setparams((1, 2, self.rate, 0, "NONE", ""))
    elif self._kind == ".flac":
      import soundfile

      self._encoder = soundfile.SoundFile(str(self.part), "w", self.rate, 1, "PCM_16", format="FLAC")

  def finish(self) -> Path:
    """The file takes its target's name, which is returned.

    Raises:
      OutputError: it could not be written whole; the target is as it was.
    """
    if self._file is None:
      raise OutputError(f"{self.target}: no audio to write")
    self._close()
    try:
      self.part.replace(self.target)
    except OSError as error:
      raise OutputError(f"{self.target}: not written ({error.strerror or error})") from error
    return self.target

  def keep(self) -> Path | None:
    """After an interruption: closes the file under the name it has, or None if there is none."""
    if self._file is None or not self.frames:
      self.discard()
      return None
    self._close()
    return self.part

  def discard(self) -> None:
    """Removes the file. What stood at the target stays."""
    for file in (self._encoder, self._file):
      if file is not None:
        with contextlib.suppress(OSError, RuntimeError, struct.error):  # it may be what failed
          file.close()
    if self._file is not None:
      self.part.unlink(missing_ok=True)

  def _close(self) -> None:
    import soundfile

    try:
      if self._encoder is not None:
        self._encoder.close()
      self._file.flush()
      os.fsync(self._file.fileno())
      self._file.close()
      # libsndfile does not always report a full disk.
      if self._kind == ".flac" and soundfile.info(str(self.part)).frames != self.frames:
        raise OSError("the file is shorter than what was written to it")
    except (OSError, RuntimeError, struct.error) as error:
      raise OutputError(f"{self.target}: not written ({getattr(error, 'strerror', None) or error})") from error


class Pipe:
  """Samples to standard output, or to a named pipe or device: nothing to rename, nothing to take back."""

  def __init__(self, target: Path | None) -> None:
    self._target, self._file, self.rate = target, None, AudioConfig.sample_rate

  def write(self, samples_A: np.ndarray) -> None:
    """Raises BrokenPipeError when nobody reads any more, OutputError for the rest."""
    try:
      if self._file is None:
        self._file = self._target.open("wb", buffering=0) if self._target else sys.stdout.buffer
      self._file.write(pcm(samples_A))
      self._file.flush()
    except BrokenPipeError:
      if self._target is None:  # or the interpreter complains when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      raise
    except OSError as error:
      raise OutputError(f"{self._target or 'standard output'}: not written ({error.strerror or error})") from error

  def finish(self) -> Path | str:
    return self._target or "standard output"

  def keep(self) -> None:
    return None

  def discard(self) -> None:
    pass


def open_sink(out: str, raw: bool) -> Recording | Pipe:
  """Where the audio goes; checked, nothing written yet.

  Args:
    out: name of a file, or "-".
    raw: samples without a header, whatever the name.

  Raises:
    OutputError: it cannot go there.
  """
  if out == "-":
    if sys.stdout.isatty():
      raise OutputError("standard output is a terminal, which cannot play samples; pipe them, or name a file")
    return Pipe(None)
  path = Path(out)
  if not raw:
    check_target(path)
  elif path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
    return Pipe(path)
  options.check_folder(path)
  return Recording(path, raw)
