"""What the recogniser writes: the bytes of UTF-8 text, shifted by one, and two marks.

0 is CTC's blank and padding, 1 to 256 are the bytes 0 to 255, then come `START` and `END`. Bytes
need no vocabulary file and leave no language out. This is host code, except for the constants.
"""

from collections.abc import Iterable

import numpy as np

BLANK = 0
START = 257  # what the attention decoder reads first
END = 258  # what it writes last
CTC_UNITS = 257  # blank and bytes: CTC needs no marks
UNITS = 259


def encode(text: str) -> np.ndarray:
  """Units of a text, without marks: int32 [L]."""
  return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + 1


def decode(ids: Iterable[int]) -> str:
  """Text of units. Blanks and marks are skipped; bytes that make no character become U+FFFD."""
  return bytes(int(i) - 1 for i in ids if 0 < int(i) < START).decode("utf-8", errors="replace")
