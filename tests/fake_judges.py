"""Judges that need no model, for the tests of `infer.evaluate`: plug-ins by python:tests.fake_judges:FUNCTION."""

import os
import signal
import sys

import numpy as np


class _Judge:
  digest, settings = "made up", {"version": 1}

  def __init__(self, name, kind="text", fatal=0):
    self.name, self.kind, self._fatal, self.calls = name, kind, fatal, 0

  def _count(self):
    assert sys.modules.get("jax") is None or "pytest" in sys.modules  # a program of its own needs none
    self.calls += 1
    if self.calls == self._fatal:
      os.kill(os.getpid(), signal.SIGKILL)

  def read(self, wave_A, language):
    """A word for each tenth of a second of sound; the loudest sample says which."""
    self._count()
    assert wave_A.dtype == np.float32 and wave_A.ndim == 1
    word = {"en": "cat ", "zh": "貓"}[language]
    return word * round(len(wave_A) / 1600)

  def listen(self, wave_A):
    self._count()
    if np.abs(wave_A).max() < 1e-3:
      raise ValueError("silence")
    if self.kind == "quality":
      return float(np.abs(wave_A).max())
    spectrum = np.abs(np.fft.rfft(wave_A, 4096))
    return spectrum[:512].reshape(16, 32).sum(axis=1).tolist()


def words():
  return _Judge("words")


def words_killed():
  """As `words`, killed at the third utterance."""
  return _Judge("words", fatal=3)


def loudness():
  return _Judge("loudness", "quality")


def spectrum():
  return _Judge("spectrum", "speaker")
