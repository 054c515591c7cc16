"""Faster and slower speech: mel resampled along time, whole or as it comes.

Frame j of the result lies at (j + 1/2) speed - 1/2 of the original (frame centres), between two of
its frames. That depends on nothing but j, so a stream's frames are those of the whole utterance.
"""

import numpy as np


def frames_ready(frames: int, speed: float, last: bool) -> int:
  """Frames of the result that can be made of the first `frames` frames.

  Args:
    frames: of the original that there are.
    speed: 2 is twice as fast, half as many frames.
    last: nothing follows: the result ends, with at least one frame.
  """
  if last:
    return max(int(frames / speed), 1) if frames else 0
  # The last one whose two neighbours are there: ceil of its place is at most frames - 1.
  count = max(int((frames - 0.5) / speed + 0.5), 0)
  while count and np.ceil(_places(np.array([count - 1]), speed))[0] > frames - 1:
    count -= 1
  while np.ceil(_places(np.array([count]), speed))[0] <= frames - 1:
    count += 1
  return count


def neighbours(first: int, stop: int, speed: float, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The two frames of the original that each of frames `first` to `stop` of the result lies between.

  Returns:
    int32 frames before and after, at most `frames` - 1; and float32 share of the one after.
  """
  places = np.minimum(_places(np.arange(first, stop), speed), max(frames - 1, 0))
  low = np.floor(places).astype(np.int32)
  return low, np.ceil(places).astype(np.int32), (places - low).astype(np.float32)


def change_speed(mel_TM: np.ndarray, speed: float) -> np.ndarray:
  """A whole mel at another speed: about 1/speed times as many frames."""
  if speed == 1 or not len(mel_TM):
    return mel_TM
  low, high, share = neighbours(0, frames_ready(len(mel_TM), speed, last=True), speed, len(mel_TM))
  return mel_TM[low] * (1 - share[:, None]) + mel_TM[high] * share[:, None]


def _places(numbers: np.ndarray, speed: float) -> np.ndarray:
  return np.maximum((numbers + 0.5) * speed - 0.5, 0.0)
