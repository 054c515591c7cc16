"""A model's networks, parameters and compiled programs: what slots and front ends run on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cosyjax.config import ModelConfig
from cosyjax.errors import ConfigError
from cosyjax.inference.buckets import Buckets
from cosyjax.inference.compilation import Program
from cosyjax.lm.qwen2 import fuse_for_decoding
from cosyjax.networks import networks

SOURCE_STAGE = 1  # folded into a request's key for the vocoder's draws; the LM folds 0


class LoadedModel:
  """Modules, parameters and programs of one model; nothing about any request.

  Attributes:
    config: sizes and constants.
    buckets: shapes to compile for.
    dtype: compute type of LM and flow, "float32" or "bfloat16".
    modules: by component.
    params: by component, the LM's as `for_decoding` gives them. Who runs one component reads its part alone, so
      others may be missing, and parts of equal shapes may be put in their place without compiling anything.
  """

  def __init__(
    self, config: ModelConfig, params: dict[str, Any], *, dtype: str, buckets: Buckets | None = None
  ) -> None:
    if dtype not in ("auto", "float32", "bfloat16"):
      raise ConfigError(f"dtype: expected auto, float32 or bfloat16, found {dtype!r}")
    if dtype == "auto":
      dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    self.config, self.buckets, self.dtype = config, buckets or Buckets(), dtype
    self.params = params | ({"lm": for_decoding(params["lm"], dtype)} if "lm" in params else {})
    self.modules = networks(config, jnp.dtype(dtype))
    self.modules["lm"] = self.modules["lm"].clone(fused=True)
    self._programs: dict[str, Program] = {}

  def program(
    self, name: str, function: Callable, donate: tuple[int, ...] = (), options: dict[str, Any] | None = None
  ) -> Program:
    """The program of this name, made of `function` when it is first asked for.

    Args:
      name: says everything that the function does not read from its arguments.
      function: of parameters and arrays. It is kept: it must not hold a request's state.
      donate: see `jax.jit`.
      options: of the compiler; see `jax.jit`.
    """
    if name not in self._programs:
      self._programs.setdefault(name, Program(name, function, donate, options))
    return self._programs[name]

  @property
  def compile_seconds(self) -> float:
    """Time spent compiling so far."""
    return sum(sum(program.compile_seconds.values()) for program in list(self._programs.values()))

  def replace(
    self, config: ModelConfig | None = None, *, dtype: str | None = None, buckets: Buckets | None = None
  ) -> "LoadedModel":
    """The same parameters under other settings, with programs of its own."""
    return LoadedModel(config or self.config, self.params, dtype=dtype or self.dtype, buckets=buckets or self.buckets)


def for_decoding(lm: Any, dtype: Any) -> Any:
  """The LM's parameters as a decode step reads them: matrices joined, in the type they are multiplied in."""

  def cast(path: tuple, leaf: jax.Array) -> jax.Array:
    return leaf.astype(dtype) if path[-1].key in ("kernel", "bias") else leaf

  lm = fuse_for_decoding(lm)
  return lm | {"stack": jax.tree_util.tree_map_with_path(cast, lm["stack"])}


def segment_key(seed: jax.Array, number: jax.Array) -> jax.Array:
  """Key of a request's segment; each stage folds its own number in."""
  return jax.random.fold_in(jax.random.key(seed), number)


def source_key(seed: jax.Array, number: jax.Array) -> jax.Array:
  """Key of the vocoder's draws for a request's segment."""
  return jax.random.fold_in(segment_key(seed, number), SOURCE_STAGE)
