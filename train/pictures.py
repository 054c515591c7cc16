"""Pictures and sounds for a log, as arrays and file contents, with no plotting library."""

import io
import struct
import wave
import zlib

import numpy as np

# From dark to light, evenly spaced: near black, violet, red, orange, pale yellow.
_COLOURS = np.array([[4, 4, 20], [70, 20, 110], [160, 40, 110], [225, 85, 70], [250, 160, 60], [252, 250, 200]], float)
_GAP = 4  # white pixels between two pictures


def colours(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
  """Values [H, W] as colours, dark to light: uint8 [H, W, 3].

  Args:
    values: any reals; what is not finite is shown as the lowest.
    low, high: ends of the scale; the 1st and 99th percentile if None.
  """
  values = np.asarray(values, np.float64)
  finite = values[np.isfinite(values)]
  low = (np.percentile(finite, 1) if finite.size else 0.0) if low is None else low
  high = (np.percentile(finite, 99) if finite.size else 1.0) if high is None else high
  place = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
  place = np.clip(place, 0.0, 1.0) * (len(_COLOURS) - 1)
  grid = np.arange(len(_COLOURS))
  return np.stack([np.interp(place, grid, _COLOURS[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def mel_picture(*mels_TM: np.ndarray, scale: int = 3) -> np.ndarray:
  """Mels [T, M] one above the other on one colour scale, low bins at the bottom: uint8 [height, width, 3].

  Args:
    mels_TM: for example the recording's and the model's; they may differ in length.
    scale: pixels for each bin and frame.
  """
  mels = [np.asarray(mel, np.float32) for mel in mels_TM]
  finite = np.concatenate([mel[np.isfinite(mel)] for mel in mels])
  low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
  return _stacked([_enlarge(colours(mel.T[::-1], low, high), scale) for mel in mels])


def alignment_picture(*weights_QS: np.ndarray, scale: int = 3) -> np.ndarray:
  """Attention weights or alignments [queries, keys], the first query at the bottom, keys along: uint8 [.., .., 3]."""
  return _stacked([_enlarge(colours(np.asarray(a)[::-1], 0.0, float(np.nanmax(a))), scale) for a in weights_QS])


def png(picture: np.ndarray) -> bytes:
  """A PNG file of a picture, uint8 [height, width, 3]."""
  height, width, _ = picture.shape
  rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, 3 * width)], axis=1)

  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, red green blue
  body = zlib.compress(rows.tobytes(), 6)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def wav(audio_A: np.ndarray, rate: int) -> bytes:
  """A WAV file of 16 bits, one channel; what is beyond -1 and 1 is clipped."""
  audio_A = np.clip(np.nan_to_num(np.asarray(audio_A, np.float32).reshape(-1)), -1.0, 1.0)
  out = io.BytesIO()
  with wave.open(out, "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes((audio_A * 32767).round().astype("<i2").tobytes())
  return out.getvalue()


def _enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
  return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _stacked(pictures: list[np.ndarray]) -> np.ndarray:
  width = max(p.shape[1] for p in pictures)
  wide = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
  gap = np.full((_GAP, width, 3), 255, np.uint8)
  return np.concatenate([part for p in wide for part in (gap, p)][1:])
