"""Fixtures shared by the tests, and the settings that every test runs under."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import jax
import numpy as np
import pytest

from tests import golden_files

jax.config.update("jax_default_matmul_precision", "float32")

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
  """A small release directory in the official layout (.pt, .onnx, .yaml), with random weights."""
  return golden_files.release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def golden():
  """Loads the arrays of one golden file by name."""
  return golden_files.arrays


@pytest.fixture(scope="session")
def recordings() -> dict[str, tuple[np.ndarray, int]]:
  """Real speech: name -> (float32 samples, rate). `prompt` is 24 kHz, the two others 16 kHz."""
  import soundfile

  paths = sorted((golden_files.GOLDEN / "audio").glob("*.flac")) + [ASSETS / "prompt.wav"]
  names = ["aishell_0121", "aishell_0122", "prompt"]
  return {name: soundfile.read(path, dtype="float32") for name, path in zip(names, paths, strict=True)}
