"""Rematerialisation policies by name: what the backward pass keeps, and what it computes again."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cosyjax.errors import ConfigError

_POLICIES = {
  "none": jax.checkpoint_policies.everything_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "weights": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}

# From the most memory to the least: keep everything; the results of all matrix products; of those with weights only
# (attention scores are computed again); nothing but each block's input.
REMAT = tuple(_POLICIES)


def policy(name: str) -> Callable[..., Any]:
  """The policy of that name, as `jax.checkpoint` and `nn.remat` take it.

  Raises:
    ConfigError: no such policy.
  """
  if name not in _POLICIES:
    raise ConfigError(f"remat: expected one of {', '.join(REMAT)}, found {name!r}")
  return _POLICIES[name]


def remat(block: Any, name: str, **options: Any) -> Any:
  """A module class (or function of a module) under the policy; itself for "none".

  Args:
    block: what `nn.remat` takes.
    name: one of `REMAT`.
    options: of `nn.remat`; `prevent_cse=False` inside `nn.scan`.
  """
  keep = policy(name)
  return block if name == "none" else nn.remat(block, policy=keep, **options)
