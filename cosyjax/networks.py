"""The five networks of a model: their modules, and the shapes of their parameters."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import COMPONENTS, HOP, ModelConfig
from cosyjax.flow.flow_model import Flow
from cosyjax.flow.flow_model import init_arguments as flow_arguments
from cosyjax.layers.basic import unbox
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.speaker.campplus import SpeakerEncoder
from cosyjax.speech_tokenizer.speech_encoder import SpeechTokenizer
from cosyjax.vocoder.hift import Vocoder


def networks(config: ModelConfig, dtype: Any = jnp.float32) -> dict[str, nn.Module]:
  """Component name -> module. `dtype` is the compute type of LM and flow; the rest is float32."""
  return {
    "lm": TextSpeechLM(config.lm, dtype=dtype),
    "flow": Flow(config.flow, dtype=dtype),
    "vocoder": Vocoder(config.vocoder),
    "speech_tokenizer": SpeechTokenizer(config.speech_tokenizer),
    "speaker": SpeakerEncoder(config.speaker),
  }


def init_params(config: ModelConfig, component: str, key: jax.Array) -> Any:
  """Random parameters of one component, boxed with their logical axes."""
  module = networks(config)[component]
  if component == "lm":
    args = (jnp.zeros((1, 8), jnp.int32), jnp.zeros((1, 8), jnp.int32), jnp.array([8]))
  elif component == "flow":
    args = flow_arguments(config.flow)
  elif component == "vocoder":
    c, frames = config.vocoder, 8
    phase_BH, noise_BAH = jnp.zeros((1, c.harmonics + 1)), jnp.zeros((1, frames * HOP, c.harmonics + 1))
    args = (jnp.zeros((1, frames, c.mel_bins)), jnp.array([frames]), phase_BH, noise_BAH)
  elif component == "speech_tokenizer":
    args = (jnp.zeros((1, 64, config.speech_tokenizer.mel_bins)), jnp.array([64]))
  else:
    args = (jnp.zeros((1, 200, config.speaker.mel_bins)), jnp.array([200]))
  return module.init(key, *args)["params"]


def abstract_params(config: ModelConfig) -> dict[str, Any]:
  """Shapes of all parameters, component by component, without making any (unboxed)."""
  return unbox(_boxed_shapes(config))


def random_params(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
  """Seeded random parameters of all components (unboxed), for demos and benchmarks.

  Drawn by NumPy with the initialisers' scales: `init_params` draws the same distributions on
  the device, but compiling a thousand draws takes minutes where this takes a moment.
  """
  rng = np.random.default_rng(seed)
  draw = lambda path, box: jnp.asarray(_draw(rng, [k.key for k in path if hasattr(k, "key")], box))
  is_box = lambda x: isinstance(x, nn.Partitioned)
  return jax.tree_util.tree_map_with_path(draw, _boxed_shapes(config), is_leaf=is_box)


@functools.lru_cache(maxsize=4)
def _boxed_shapes(config: ModelConfig) -> dict[str, Any]:
  return {n: jax.eval_shape(lambda k, n=n: init_params(config, n, k), jax.random.key(0)) for n in COMPONENTS}


def _draw(rng: np.random.Generator, path: list[str], box: nn.Partitioned) -> np.ndarray:
  """One parameter: weights of variance 1 / fan-in, small embeddings, scales of one, the rest zero."""
  shape, names = box.value.shape, box.names
  if path[-1] == "embedding":
    return 0.02 * rng.standard_normal(shape, np.float32)
  if path[-1] in ("scale", "alpha"):
    return np.ones(shape, np.float32)
  if path[-1] not in ("kernel", "memory"):
    return np.zeros(shape, np.float32)
  # Outputs are last, in the LM first; heads and their width are two axes of one side.
  outputs = shape[: 1 + (names[1] == "head_dim")] if path[0] == "lm" else shape[-1 - (names[-1] == "head_dim") :]
  return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(math.prod(outputs) / math.prod(shape)))
