"""Fixtures shared by the tests, and the settings that every test runs under."""

import os
from pathlib import Path

# Compiled programs are kept between test processes and runs: compiling is most of the time.
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
_CACHE.mkdir(parents=True, exist_ok=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Machine code without LLVM's optimisations is ready in two thirds of the time, and most programs run once.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import numpy as np
import pytest

from tests import golden_files

jax.config.update("jax_default_matmul_precision", "float32")
jax.config.update("jax_num_cpu_devices", 8)  # for the tests of meshes; all others compute on the first of them

ASSETS = Path(__file__).parent.parent / "assets"

# Few and small ones.
BUCKETS = {
  "batch": (1, 4),
  "seconds": (4, 30),
  "source_seconds": (4, 30, 60),
  "prefix": (64, 256),
  "cache": (512, 2048),
  "tokens": (128, 256, 512),
  "frames": (128, 256, 1280),
}


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

  paths = [*sorted((golden_files.GOLDEN / "audio").glob("*.flac")), ASSETS / "prompt.wav"]
  names = ["aishell_0121", "aishell_0122", "prompt"]
  return {name: soundfile.read(path, dtype="float32") for name, path in zip(names, paths, strict=True)}


@pytest.fixture(scope="session")
def converted(release, tmp_path_factory) -> Path:
  """The small release as a model directory, converted by the program."""
  from convert import cosyvoice2

  target = tmp_path_factory.mktemp("models") / "small"
  assert cosyvoice2.main([str(release), str(target)]) == 0
  return target


@pytest.fixture(scope="session")
def model(converted):
  """The small release, loaded, with few and small buckets."""
  import cosyjax

  return cosyjax.load(converted, buckets=cosyjax.Buckets(**BUCKETS))


@pytest.fixture(scope="session")
def shallow_dir(tmp_path_factory) -> Path:
  """A model directory of random weights, with one layer where others have many: compiling them is most of the time.

  For tests of how requests are handled; what layers compute is compared on the small release.
  """
  import dataclasses

  from cosyjax import checkpoint, config, networks
  from cosyjax.text import TextTokenizer, tiny_tokenizer_dir

  c, replace = config.tiny(), dataclasses.replace
  encoder, unet = replace(c.flow.encoder, layers=1, up_layers=1), replace(c.flow.estimator, mid_layers=1)
  c = replace(
    c,
    speech_tokenizer=replace(c.speech_tokenizer, layers=1),
    speaker=replace(c.speaker, layers=(1, 1, 1)),
    lm=replace(c.lm, layers=1, max_tokens_per_text=3.0),  # random weights seldom end on their own
    flow=replace(c.flow, steps=3, encoder=encoder, estimator=unet),
    vocoder=replace(c.vocoder, resblock_kernels=(3,), resblock_dilations=((1, 3),), source_dilations=((1,),) * 3),
  )
  out = tmp_path_factory.mktemp("models") / "shallow"
  checkpoint.save_model(out, c, networks.random_params(c, 0), TextTokenizer.load(tiny_tokenizer_dir()).save)
  return out


@pytest.fixture(scope="session")
def shallow(shallow_dir):
  """The model of `shallow_dir`, loaded, with few and small buckets."""
  import cosyjax

  return cosyjax.load(shallow_dir, buckets=cosyjax.Buckets(**BUCKETS, history=(256, 512, 1024)))


@pytest.fixture(scope="session")
def engine(shallow):
  """Sixteen streams at once, with room for five seconds each to begin with."""
  import cosyjax

  with cosyjax.Engine(shallow, slots=16, seconds=5.0) as engine:
    yield engine
