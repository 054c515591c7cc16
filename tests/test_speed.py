"""Mel at another speed: in pieces what it is as a whole."""

import numpy as np
import pytest

from cosyjax.inference.speed import change_speed, frames_ready, neighbours


@pytest.mark.parametrize("speed", [0.5, 0.6180339, 0.83, 0.999, 1.0, 1.001, 1.37, 1.5, 1.99, 2.0])
def test_pieces_are_the_whole_however_it_is_cut(speed):
  """Every frame once, of frames that are there, and at most one of them from before the piece."""
  rng = np.random.default_rng(0)
  for _ in range(30):
    mel_TM = rng.normal(size=(int(rng.integers(1, 150)), 3)).astype(np.float32)
    whole_TM, parts, taken, made = change_speed(mel_TM, speed), [], 0, 0
    while taken < len(mel_TM):
      count = int(min(rng.integers(1, 60), len(mel_TM) - taken))
      end = taken + count
      ready = frames_ready(end, speed, last=end == len(mel_TM))
      low, high, share = neighbours(made, ready, speed, end)
      assert np.all(low >= taken - 1) and np.all(high < end)
      assert 0 <= ready - made <= (count if speed >= 1 else 2 * count + 1)
      parts.append(mel_TM[low] * (1 - share[:, None]) + mel_TM[high] * share[:, None])
      taken, made = end, ready
    assert made == len(whole_TM) == max(int(len(mel_TM) / speed), 1)
    np.testing.assert_array_equal(np.concatenate(parts), whole_TM)


def test_frames_lie_between_their_neighbours_in_time():
  mel_TM = np.arange(40, dtype=np.float32)[:, None]
  for speed in (0.5, 0.8, 1.25, 2.0):
    expected = np.clip((np.arange(int(40 / speed)) + 0.5) * speed - 0.5, 0, 39)
    np.testing.assert_allclose(change_speed(mel_TM, speed)[:, 0], expected, atol=1e-5)
  assert change_speed(mel_TM, 1.0) is mel_TM
  assert len(change_speed(mel_TM[:0], 2.0)) == 0
