"""Recordings longer than 30 s: tokens of overlapping windows, joined in the middle of each overlap.

A window spans 30 s and starts 26 s after the one before, so that neighbours share 4 s. Each
gives up the 2 s at a joint that lie closer to its own border. A recording of up to 30 s is one window.
The number of tokens is that of the whole recording, ceil(frames / 4): a new window starts only
where at least 4 s are left, since what is left otherwise lies in the window before.

This is host code over NumPy arrays. Letters: W window, T 100 Hz frame, U 25 Hz token.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cosyjax.errors import AudioError
from cosyjax.speech_tokenizer.speech_encoder import token_lengths

WINDOW = 3000  # frames
OVERLAP = 400
STRIDE = WINDOW - OVERLAP
BUCKETS = (250, 500, 1000, 1500, 2000, 3000)  # window sizes that get compiled


@dataclasses.dataclass(frozen=True)
class Windows:
  """Where each window comes from. Windows of a row are neighbours, in order.

  Attributes:
    row_W: row of the batch.
    start_W: its first frame in that row.
    length_W: its valid frames, at most `WINDOW`.
    rows: number of rows of the batch.
  """

  row_W: np.ndarray
  start_W: np.ndarray
  length_W: np.ndarray
  rows: int


def window_count(frames: int) -> int:
  """Windows of a recording of so many frames."""
  return 1 if frames <= WINDOW else (frames - OVERLAP) // STRIDE + 1


def plan_windows(lengths_B: Sequence[int] | np.ndarray) -> Windows:
  """Windows of recordings of these lengths, in 100 Hz frames."""
  spans = [
    (row, STRIDE * i, min(length - STRIDE * i, WINDOW))
    for row, length in enumerate(np.asarray(lengths_B).tolist())
    for i in range(window_count(length))
  ]
  row_W, start_W, length_W = np.array(spans, np.int32).reshape(-1, 3).T
  return Windows(row_W, start_W, length_W, len(lengths_B))


def split_windows(mel_BTM: np.ndarray, windows: Windows, size: int = WINDOW) -> np.ndarray:
  """Cuts the windows out of a padded batch: [W, size, M], zero past each window's length.

  Args:
    mel_BTM: padded batch.
    windows: as from `plan_windows` of its lengths.
    size: frames of the result, at least the longest window.
  """
  out_WTM = np.zeros((len(windows.row_W), size, mel_BTM.shape[2]), mel_BTM.dtype)
  for w, (row, start, length) in enumerate(zip(windows.row_W, windows.start_W, windows.length_W, strict=True)):
    out_WTM[w, :length] = mel_BTM[row, start : start + length]
  return out_WTM


def merge_windows(ids_WU: np.ndarray, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
  """Joins the windows' tokens, each kept from the middle of its first overlap to the middle of its last.

  Args:
    ids_WU: tokens of each window; what lies past `token_lengths(length)` is not read.
    windows: as from `plan_windows`.

  Returns:
    ids_BU: int32, zero past each row's length; lengths_B: int32, `token_lengths` of each recording.
  """
  half = token_lengths(OVERLAP) // 2
  rows: list[list[np.ndarray]] = [[] for _ in range(windows.rows)]
  for w, (row, start, length) in enumerate(zip(windows.row_W, windows.start_W, windows.length_W, strict=True)):
    last = w + 1 == len(windows.row_W) or windows.row_W[w + 1] != row
    first_kept = 0 if start == 0 else half
    end_kept = token_lengths(int(length)) - (0 if last else half)
    rows[row].append(ids_WU[w, first_kept:end_kept])
  merged = [np.concatenate(parts) for parts in rows]
  lengths_B = np.array([len(ids) for ids in merged], np.int32)
  ids_BU = np.zeros((windows.rows, max(lengths_B, default=0)), np.int32)
  for row, ids in enumerate(merged):
    ids_BU[row, : len(ids)] = ids
  return ids_BU, lengths_B


def tokenize(
  apply: Callable[[np.ndarray, np.ndarray], np.ndarray],
  mel_BTM: np.ndarray,
  lengths_B: Sequence[int] | np.ndarray,
  *,
  buckets: Sequence[int] = BUCKETS,
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens of recordings of any length, in one batched call over all their windows.

  Args:
    apply: (mel_WTM, lengths_W) -> ids_WU, such as `lambda mel, n: step(params, mel, n)[0]` around a jitted
      `SpeechTokenizer`. It meets only few shapes: W is a power of two, T one of `buckets`.
    mel_BTM: padded 16 kHz log-mel at 100 Hz.
    lengths_B: valid frames of each row.
    buckets: ascending window sizes; the last must be at least 30 s (3000 frames) for recordings that long.

  Returns:
    ids_BU and lengths_B, int32: 25 tokens a second, zero in padding.

  Raises:
    AudioError: there is no recording, one has no frame, or a length is beyond the array.
  """
  lengths_B = np.asarray(lengths_B)
  mel_BTM = np.asarray(mel_BTM)
  if lengths_B.size == 0 or lengths_B.min() < 1 or lengths_B.max() > mel_BTM.shape[1]:
    raise AudioError(f"tokenize: expected lengths of 1 to {mel_BTM.shape[1]} frames, found {lengths_B.tolist()}")
  windows = plan_windows(lengths_B)
  longest = int(windows.length_W.max())
  size = next((bucket for bucket in buckets if bucket >= longest), None)
  if size is None:
    raise AudioError(f"tokenize: a window of {longest} frames fits none of the buckets {tuple(buckets)}")
  mel_WTM = split_windows(mel_BTM, windows, size)
  count = len(mel_WTM)
  fill = (1 << (count - 1).bit_length()) - count
  mel_WTM = np.pad(mel_WTM, ((0, fill), (0, 0), (0, 0)))
  length_W = np.pad(windows.length_W, (0, fill), constant_values=1)
  return merge_windows(np.asarray(apply(mel_WTM, length_W)), windows)
