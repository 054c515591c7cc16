"""The networks of a model: a table from the type of a configuration to its module, and parameters' shapes.

Another kind of network is a module, a dataclass in `cosyjax.config` and a line in `NETWORKS`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.config import (
  COMPONENTS,
  FlowConfig,
  LMConfig,
  ModelConfig,
  SpeakerConfig,
  SpeechTokenizerConfig,
  VocoderConfig,
)
from cosyjax.flow import flow_model
from cosyjax.layers.basic import unbox
from cosyjax.lm import text_speech_lm
from cosyjax.speaker import campplus
from cosyjax.speech_tokenizer import speech_encoder
from cosyjax.vocoder import hift


class Network(NamedTuple):
  """How a network is made.

  Attributes:
    build: (configuration, compute dtype) to the module.
    init_arguments: configuration to the arguments of a small call that creates every parameter.
  """

  build: Callable[[Any, Any], nn.Module]
  init_arguments: Callable[[Any], tuple[Any, ...]]


NETWORKS = {
  LMConfig: Network(lambda c, dtype: text_speech_lm.TextSpeechLM(c, dtype), text_speech_lm.init_arguments),
  FlowConfig: Network(lambda c, dtype: flow_model.Flow(c, dtype), flow_model.init_arguments),
  VocoderConfig: Network(lambda c, dtype: hift.Vocoder(c), hift.init_arguments),
  SpeechTokenizerConfig: Network(lambda c, dtype: speech_encoder.SpeechTokenizer(c), speech_encoder.init_arguments),
  SpeakerConfig: Network(lambda c, dtype: campplus.SpeakerEncoder(c), campplus.init_arguments),
}


def networks(config: ModelConfig, dtype: Any = jnp.float32) -> dict[str, nn.Module]:
  """Component name -> module. `dtype` is the compute type of LM and flow; the rest is float32."""
  parts = {name: getattr(config, name) for name in COMPONENTS}
  return {name: NETWORKS[type(part)].build(part, dtype) for name, part in parts.items()}


def init_params(config: ModelConfig, component: str, key: jax.Array) -> Any:
  """Random parameters of one component, boxed with their logical axes."""
  part = getattr(config, component)
  network = NETWORKS[type(part)]
  return network.build(part, jnp.float32).init(key, *network.init_arguments(part))["params"]


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
