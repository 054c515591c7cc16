"""Recordings that libsndfile does not read (m4a, webm, amr, mp3 in mp4), through PyAV where it is installed.

The demuxer is chosen by the file's first bytes and given the bytes alone, never a name: no playlist, no
reference to another file and no address can be followed.
"""

import io
from collections.abc import Iterator

import numpy as np

from cosyjax.errors import AudioError

HINT = "install PyAV to read it (pip install 'cosyjax[media]'), or convert it: ffmpeg -i IN OUT.wav"


def container_of(head: bytes) -> str | None:
  """FFmpeg's name of the container that a file's first 16 bytes announce; None for any other file."""
  if head[4:8] == b"ftyp":
    return "mov"
  if head[:4] == b"\x1a\x45\xdf\xa3":
    return "matroska"
  if head[:6] in (b"#!AMR\n", b"#!AMR-"):
    return "amr"
  return "aac" if head[:2] in (b"\xff\xf1", b"\xff\xf9") else None


def blocks(data: io.BufferedIOBase, container: str, where: str) -> tuple[int, Iterator[np.ndarray]]:
  """Opens the first audio track of a container.

  Args:
    data: the whole file, seekable.
    container: from `container_of`.
    where: file, for messages.

  Returns:
    Its rate in Hz, and an iterator of float32 [A, channels] blocks.

  Raises:
    AudioError: PyAV is not installed, the file has no audio track, or it is damaged.
  """
  try:
    import av
  except ImportError:
    raise AudioError(
      f"{where}: expected audio that libsndfile reads, found a container ({container}); {HINT}"
    ) from None
  try:
    file = av.open(data, mode="r", format=container)
  except (av.FFmpegError, OSError, ValueError) as error:
    raise AudioError(
      f"{where}: expected audio, found a container ({container}) that cannot be read ({error})"
    ) from error
  if not file.streams.audio:
    file.close()
    raise AudioError(f"{where}: expected an audio track, found a {container} file with none")
  track = file.streams.audio[0]
  rate = track.rate or track.codec_context.sample_rate
  if not rate:
    file.close()
    raise AudioError(f"{where}: expected a sampling rate, found none in the audio track")

  def decoded() -> Iterator[np.ndarray]:
    resampler = av.AudioResampler(format="fltp", rate=rate)
    try:
      with file:
        for frame in file.decode(track):
          for block in resampler.resample(frame):
            yield block.to_ndarray().T
    except (av.FFmpegError, ValueError) as error:
      raise AudioError(f"{where}: expected audio, found a damaged track ({error})") from error

  return rate, decoded()
