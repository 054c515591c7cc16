"""Reads, checks, resamples and writes audio files, on the host, with typed errors.

A file is decoded in blocks, never beyond a limit, so a hostile one (a header that lies, a bomb of
packed silence) costs bounded time and memory.
"""

import contextlib
import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cosyjax.audio.containers import blocks, container_of
from cosyjax.audio.mixing import Mixer, mix_down
from cosyjax.errors import AudioError, OutputError
from cosyjax.files import write_whole

MAX_SAMPLES = 3600 * 48_000  # most samples of one file: 660 MiB
MAX_BYTES = 1 << 30  # most bytes taken from a stream
RATES = (1_000, 768_000)  # Hz, lowest and highest sampling rate that is read
SILENCE = 1e-3  # -60 dBFS: audio that never leaves its mean by this much is silent
LOUDEST = 100.0  # +40 dBFS: beyond this, samples are integers in disguise

_BLOCK = 1 << 20  # values decoded at a time
_UNKNOWN = 1 << 62  # libsndfile gives a length above this where the header leaves it open
_FORMATS = {".wav": "WAV", ".flac": "FLAC"}


def read(
  source: str | Path | BinaryIO, rate: int | None = None, *, max_seconds: float = 3600.0
) -> tuple[np.ndarray, int]:
  """Reads a recording as mono.

  Args:
    source: path of a file, or a binary stream, in any format that libsndfile reads; with PyAV installed
      also m4a, webm, amr and mp4.
    rate: samples a second to resample to; the file's own if None.
    max_seconds: a longer file is refused, as is one of more than `MAX_SAMPLES` samples.

  Returns:
    float32 [A], the mean of the file's channels (full scale is 1), and its rate in Hz. Of two channels in
      opposite phase, which would cancel each other, the first alone is taken, with a warning.

  Raises:
    AudioError: not there, not a file, not audio, damaged, no samples, too long, a rate outside
      `RATES`, or a stream of more than `MAX_BYTES`.
  """
  import soundfile

  is_stream = hasattr(source, "read")
  where = str(getattr(source, "name", "audio stream")) if is_stream else _readable(source)
  try:
    with contextlib.ExitStack() as open_files:
      data = _whole(source, where) if is_stream else open_files.enter_context(Path(source).open("rb"))
      container = container_of(data.read(16))
      data.seek(0)
      if container is None:
        file = open_files.enter_context(soundfile.SoundFile(data if is_stream else source))
        wave_A, rate_in = _decode(file, where, max_seconds), file.samplerate
      else:
        wave_A, rate_in = _decode_container(data, container, where, max_seconds)
  except AudioError:
    raise
  except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
    reason = getattr(error, "error_string", error)
    raise AudioError(f"{where}: expected audio, found what cannot be decoded ({reason})") from error
  if rate is not None:
    wave_A, rate_in = resample(wave_A, rate_in, rate), rate
  if not wave_A.size:
    raise AudioError(f"{where}: expected audio, found no samples")
  return wave_A, rate_in


def resample(wave_A: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
  """Changes the sampling rate (soxr, very high quality): [A] to float32 [about A * rate_out / rate_in].

  Raises:
    AudioError: not one channel, or a rate that is not positive.
  """
  import soxr

  wave_A = np.asarray(wave_A, np.float32)
  if wave_A.ndim != 1:
    raise AudioError(f"resample: expected one channel [A], found shape {wave_A.shape}")
  if rate_in <= 0 or rate_out <= 0:
    raise AudioError(f"resample: expected positive rates, found {rate_in} and {rate_out} Hz")
  if rate_in == rate_out or not wave_A.size:
    return wave_A
  return soxr.resample(wave_A, rate_in, rate_out, quality="VHQ")


def check_speech(
  wave_A: np.ndarray,
  rate: int,
  *,
  where: str | Path,
  min_seconds: float = 0.5,
  max_seconds: float | None = 30.0,
) -> None:
  """Refuses a recording that cannot serve as speech. One that clips, or is over full scale, may pass.

  Args:
    wave_A: samples, full scale 1.
    rate: samples a second.
    where: file or field, for the message.
    min_seconds: shortest that is accepted.
    max_seconds: longest that is accepted; None for no limit.

  Raises:
    AudioError: empty, not one channel, NaN or infinite, peak above `LOUDEST`, too short, too long,
      or silent: no sample is `SILENCE` (-60 dBFS) or more away from the mean.
  """
  wave_A = np.asarray(wave_A)
  if wave_A.ndim != 1:
    raise AudioError(f"{where}: expected one channel [A], found shape {wave_A.shape}")
  if not wave_A.size:
    raise AudioError(f"{where}: expected speech, found no samples")
  if not np.isfinite(wave_A).all():
    index = int(np.argmin(np.isfinite(wave_A)))
    raise AudioError(f"{where}: expected finite samples, found {wave_A[index]} at sample {index}")
  seconds = wave_A.size / rate
  longest = np.inf if max_seconds is None else max_seconds
  if not min_seconds <= seconds <= longest:
    limits = f"at least {min_seconds:g} s" if max_seconds is None else f"{min_seconds:g} to {max_seconds:g} s"
    raise AudioError(f"{where}: expected {limits} of speech, found {seconds:.3f} s")
  peak = float(np.max(np.abs(wave_A)))
  if peak > LOUDEST:
    raise AudioError(f"{where}: expected samples with full scale 1, found a peak of {peak:g}")
  swing = float(np.max(np.abs(wave_A - np.mean(wave_A, dtype=np.float64))))
  if swing < SILENCE:
    raise AudioError(f"{where}: expected speech, found silence (peak {swing:.1e}, at least {SILENCE:g} is needed)")


def check_target(path: str | Path, subtype: str = "PCM_16") -> tuple[Path, str]:
  """Whether `write` could write there, without doing so, for checks before a long computation.

  Returns:
    The path with links followed, and libsndfile's name of the format.

  Raises:
    OutputError: as `write`, for all that can be checked beforehand.
  """
  import soundfile

  path = Path(path)
  kind = _FORMATS.get(path.suffix.lower())
  if kind is None:
    raise OutputError(f"{path}: expected a name ending in {' or '.join(_FORMATS)}, found {path.suffix or 'none'!r}")
  if not soundfile.check_format(kind, subtype):
    allowed = ", ".join(soundfile.available_subtypes(kind))
    raise OutputError(f"{path}: expected a subtype of {kind} ({allowed}), found {subtype!r}")
  path = Path(os.path.realpath(path))  # a link stays a link to what is written
  if not path.parent.is_dir():
    raise OutputError(f"{path}: its folder does not exist")
  if path.exists() and not path.is_file():
    raise OutputError(f"{path}: expected a plain file or nothing there, found something else")
  return path, kind


def write(path: str | Path, wave_A: np.ndarray, rate: int = 24_000, subtype: str = "PCM_16") -> None:
  """Writes mono audio whole or not at all: beside the target first, then renamed over it.

  Args:
    path: ends in .wav or .flac; its folder exists.
    wave_A: float [A], full scale 1. Clipped to [-1, 1] for PCM subtypes.
    rate: samples a second.
    subtype: sample format by libsndfile's name.

  Raises:
    AudioError: not one channel, NaN or infinite.
    OutputError: another ending or subtype, no such folder, target not a plain file, no permission,
      disk full. Whatever stood at `path` is as it was.
  """
  import soundfile

  path, kind = check_target(path, subtype)
  wave_A = np.asarray(wave_A, np.float32)
  if wave_A.ndim != 1 or not np.isfinite(wave_A).all():
    raise AudioError(f"{path}: expected finite samples [A] to write, found shape {wave_A.shape} or NaN")
  if subtype.startswith("PCM"):
    wave_A = np.clip(wave_A, -1.0, 1.0)

  # Encoded in memory: libsndfile's own writer does not always report a full disk.
  encoded = io.BytesIO()
  try:
    soundfile.write(encoded, wave_A, rate, subtype, format=kind)
  except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
    raise OutputError(f"{path}: {kind} cannot hold {subtype} at {rate} Hz ({error})") from error
  write_whole(path, encoded.getbuffer())


def _whole(stream: BinaryIO, where: str) -> io.BytesIO:
  """All of a stream. It is not read through libsndfile, which takes a stream's error for its end."""
  data = stream.read(MAX_BYTES + 1)
  if not isinstance(data, bytes | bytearray | memoryview):
    raise AudioError(f"{where}: expected a binary stream, found one of {type(data).__name__}")
  if len(data) > MAX_BYTES:
    raise AudioError(f"{where}: expected at most {MAX_BYTES} bytes of audio, found more")
  return io.BytesIO(data)


def _readable(source: str | Path) -> str:
  """Name of the file for messages, once it is known to be plain, not empty, and open to us."""
  if not isinstance(source, str | Path):
    raise AudioError(f"audio: expected a path or a binary stream, found {type(source).__name__}")
  path = Path(source)
  try:
    if not path.exists():
      raise AudioError(f"{path}: expected an audio file, found nothing there")
    if not path.is_file():  # a folder, or a pipe that would never answer
      raise AudioError(f"{path}: expected an audio file, found {'a folder' if path.is_dir() else 'no plain file'}")
    if not path.stat().st_size:
      raise AudioError(f"{path}: expected audio, found an empty file")
    with path.open("rb"):
      pass
  except OSError as error:
    raise AudioError(f"{path}: expected an audio file that can be read ({error.strerror or error})") from error
  return str(path)


def _decode(file, where: str, max_seconds: float) -> np.ndarray:
  """Mean of the channels of an open SoundFile, float32 [A], A possibly 0."""
  rate, channels, declared = file.samplerate, file.channels, file.frames
  if not RATES[0] <= rate <= RATES[1]:
    raise AudioError(f"{where}: expected a sampling rate from {RATES[0]} to {RATES[1]} Hz, found {rate}")
  limit = min(int(max_seconds * rate), MAX_SAMPLES)
  if declared >= _UNKNOWN:
    raise AudioError(f"{where}: expected a file whose header says how long it is, found one that does not")
  if declared > limit:
    raise AudioError(
      f"{where}: expected at most {limit / rate:g} s of audio at {rate} Hz, found {declared / rate:.3f} s"
    )
  block = max(_BLOCK // channels, 1)
  # Pages are only taken when they are written, so room for a length that is a lie costs nothing.
  mixer = Mixer(declared + block, channels)
  while mixer.filled < declared:
    values_AC = file.read(block, dtype="float32", always_2d=True)
    if not len(values_AC):  # cut short
      break
    mixer.add(values_AC)
  return mixer.result(where, declared)


def _decode_container(data: BinaryIO, container: str, where: str, max_seconds: float) -> tuple[np.ndarray, int]:
  """As `_decode`, through PyAV, whose containers may not say how long they are."""
  rate, parts = blocks(data, container, where)
  if not RATES[0] <= rate <= RATES[1]:
    raise AudioError(f"{where}: expected a sampling rate from {RATES[0]} to {RATES[1]} Hz, found {rate}")
  limit, found, samples = min(int(max_seconds * rate), MAX_SAMPLES), [], 0
  for values_AC in parts:
    found.append(values_AC)
    samples += len(values_AC)
    if samples > limit:
      raise AudioError(f"{where}: expected at most {limit / rate:g} s of audio at {rate} Hz, found more")
  if not found:
    return np.zeros(0, np.float32), rate
  return mix_down(np.concatenate(found), where), rate
