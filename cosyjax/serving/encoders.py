"""Audio of a stream as bytes: PCM, WAV, FLAC, MP3, AAC and Opus, written packet by packet.

What is handed over comes out as early as its format allows, and the end is not cut: a format that can
tell its length to the sample does so (WAV by its end, FLAC, Opus); MP3 and AAC end with the padding of
their last frame.
"""

import dataclasses
import struct
from typing import Any

import numpy as np

from cosyjax.errors import ConfigError

RATE = 24_000  # Hz, on every wire: clients of OpenAI's API take PCM to be so
OPEN_SIZE = 0xFFFFFFFF  # a WAV header's sizes where the length is not known yet
BIT_RATE = 128_000  # of MP3 and AAC
OPUS_BIT_RATE = 64_000
OPUS_PAGE_US = 60_000  # Ogg holds back at most so much


@dataclasses.dataclass(frozen=True)
class Format:
  """What a response format is.

  Attributes:
    media_type: of the answer.
    container, codec: FFmpeg's names; None if no encoder is needed.
    options: of the container.
    bit_rate: bits a second; 0 where it is not chosen.
  """

  media_type: str
  container: str | None = None
  codec: str | None = None
  options: dict[str, str] = dataclasses.field(default_factory=dict)
  bit_rate: int = 0


FORMATS = {
  "mp3": Format("audio/mpeg", "mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}, BIT_RATE),
  "opus": Format("audio/ogg", "ogg", "libopus", {"page_duration": str(OPUS_PAGE_US)}, OPUS_BIT_RATE),
  "aac": Format("audio/aac", "adts", "aac", {}, BIT_RATE),
  "flac": Format("audio/flac", "flac", "flac", {}),
  "wav": Format("audio/wav"),
  "pcm": Format("audio/pcm"),
}


def pcm16(samples_A: np.ndarray) -> np.ndarray:
  """Samples of full scale 1, float32 [A], as 16-bit little-endian numbers [A]."""
  return np.rint(np.clip(samples_A, -1, 1) * 32767).astype("<i2")


def wav_header(samples: int | None = None, rate: int = RATE) -> bytes:
  """The 44 bytes before 16-bit mono samples; sizes are left open if their number is None."""
  size = OPEN_SIZE if samples is None else 2 * samples
  whole = OPEN_SIZE if samples is None else 36 + size
  head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
  return head + struct.pack("<4sI", b"data", size)


class Raw:
  """PCM, and WAV with open sizes."""

  encodes = False

  def __init__(self, name: str, rate: int) -> None:
    self._head = wav_header(rate=rate) if name == "wav" else b""

  def push(self, samples_A: np.ndarray) -> bytes:
    """Takes float32 [A]; returns it as bytes, after the header if it is the first."""
    head, self._head = self._head, b""
    return head + pcm16(samples_A).tobytes()

  def finish(self) -> bytes:
    """The header, if there was no audio at all."""
    head, self._head = self._head, b""
    return head


class _Tail:
  """A file that cannot seek, whose bytes are taken away as they come."""

  def __init__(self) -> None:
    self._parts: list[bytes] = []

  def write(self, data: bytes) -> int:
    self._parts.append(bytes(data))
    return len(data)

  def take(self) -> bytes:
    parts, self._parts = self._parts, []
    return b"".join(parts)


class Encoder:
  """One of FFmpeg's encoders in its container, for one stream."""

  encodes = True

  def __init__(self, name: str, rate: int) -> None:
    import av

    form = FORMATS[name]
    self._rate, self._at, self._tail = rate, 0, _Tail()
    self._container: Any = av.open(self._tail, "w", format=form.container, container_options=form.options)
    self._stream: Any = self._container.add_stream(form.codec, rate=rate, layout="mono")
    if form.bit_rate:
      self._stream.bit_rate = form.bit_rate
    context = self._stream.codec_context
    context.format = next(f.name for f in context.codec.audio_formats if f.name in ("s16", "s16p", "fltp"))
    self._sample = context.format.name

  def push(self, samples_A: np.ndarray) -> bytes:
    """Encodes float32 [A]; returns what the container has let go so far."""
    import av

    if len(samples_A):
      values_A = np.clip(samples_A, -1, 1).astype(np.float32) if self._sample == "fltp" else pcm16(samples_A)
      frame = av.AudioFrame.from_ndarray(values_A[None], format=self._sample, layout="mono")
      frame.sample_rate, frame.pts = self._rate, self._at
      self._at += len(samples_A)
      self._container.mux(self._stream.encode(frame))
    return self._tail.take()

  def finish(self) -> bytes:
    """The rest: the encoder's last frames and the container's end."""
    self._container.mux(self._stream.encode(None))
    self._container.close()  # before the bytes are taken: Ogg writes its last page here
    return self._tail.take()


def encoder(name: str, rate: int = RATE) -> Raw | Encoder:
  """An encoder for one stream of mono float32 samples.

  Args:
    name: one of `FORMATS`.
    rate: samples a second.

  Raises:
    ConfigError: no such format.
  """
  if name not in FORMATS:
    raise ConfigError(f"response_format: expected one of {', '.join(FORMATS)}, found {name!r}")
  return Encoder(name, rate) if FORMATS[name].codec else Raw(name, rate)


def encode(name: str, samples_A: np.ndarray, rate: int = RATE) -> bytes:
  """Encodes audio that is there as a whole; a WAV header then says how long it is."""
  if name == "wav":
    return wav_header(len(samples_A), rate) + pcm16(samples_A).tobytes()
  one = encoder(name, rate)
  return one.push(samples_A) + one.finish()
