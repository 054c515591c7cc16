"""Training of the flow (paper 2.4): what is drawn for each row, and the objective.

A row is drawn one of four attention masks, how much of its beginning is kept as a reference,
whether it loses all conditions, a time and a noise. The draws are a value: training makes a
new one of each batch's key, evaluation the same one every time, so that its curves compare.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cosyjax.errors import ConfigError
from cosyjax.flow import matching
from cosyjax.flow.flow_model import Flow
from cosyjax.layers.masks import equal_blocks, padding_mask
from cosyjax.training.step import Loss

MASKS = ("full", "causal", "chunk", "two_chunks")  # blocks of all, 1, M and 2M tokens


@dataclasses.dataclass(frozen=True)
class FlowObjective:
  """What training draws and minimises.

  The upstream training code has masks (1, 0, 1, 0), bare 0.5 and kind "squared".
  """

  kind: str = "l1"  # or "squared"
  masks: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # weights of full, causal, chunk M, chunk 2M
  kept: tuple[float, ...] = (0.0, 0.3)  # share of a row's first frames that is kept: the last 70-100 % are masked
  bare: float = 0.0  # share of rows of which nothing is kept
  drop: float = 0.2  # share of rows that lose all conditions, for guidance

  def __post_init__(self):
    if self.kind not in matching.KINDS:
      raise ConfigError(f"objective.kind: expected one of {', '.join(matching.KINDS)}, found {self.kind!r}")
    if len(self.masks) != len(MASKS) or min(self.masks) < 0 or not sum(self.masks) > 0:
      raise ConfigError(f"objective.masks: expected a weight for each of {', '.join(MASKS)}, found {self.masks}")
    if len(self.kept) != 2 or not 0 <= self.kept[0] <= self.kept[1] <= 1:
      raise ConfigError(f"objective.kept: expected two rising shares from 0 to 1, found {self.kept}")
    if not (0 <= self.bare <= 1 and 0 <= self.drop <= 1):
      raise ConfigError(f"objective.bare, objective.drop: expected shares, found {self.bare} and {self.drop}")


@flax.struct.dataclass
class Draws:
  """What is random about a batch of rows.

  Attributes:
    mask_B: int32, index into `MASKS`.
    kept_B: int32, mel frames at the row's beginning that the network is shown.
    keep_B: bool, False where the row loses tokens, speaker and reference.
    t_B: float32 in [0, 1).
    noise_BTM: float32, normal.
  """

  mask_B: jax.Array
  kept_B: jax.Array
  keep_B: jax.Array
  t_B: jax.Array
  noise_BTM: jax.Array


def draw(key: jax.Array, lengths_B: jax.Array, frames: int, mel_bins: int, c: FlowObjective) -> Draws:
  """Draws of a batch: a function of the key, the shapes and the rows' own lengths.

  Args:
    key: of the step.
    lengths_B: mel frames in each row.
    frames: T, to which rows are padded.
    mel_bins: M.
    c: distributions.
  """
  keys = jax.random.split(key, 6)
  rows = lengths_B.shape
  weights = jnp.asarray(c.masks, jnp.float32)
  share_B = jax.random.uniform(keys[1], rows, minval=c.kept[0], maxval=c.kept[1])
  kept_B = jnp.where(jax.random.uniform(keys[2], rows) < c.bare, 0, (share_B * lengths_B).astype(jnp.int32))
  return Draws(
    mask_B=jax.random.categorical(keys[0], jnp.log(weights), shape=rows).astype(jnp.int32),
    kept_B=kept_B,
    keep_B=jax.random.uniform(keys[3], rows) >= c.drop,
    t_B=jax.random.uniform(keys[4], rows),
    noise_BTM=jax.random.normal(keys[5], (*rows, frames, mel_bins)),
  )


def fixed_draws(key: jax.Array, lengths_B: jax.Array, frames: int, mel_bins: int, mask: int | jax.Array) -> Draws:
  """Draws for evaluation under one mask: times evenly spread over the rows, no condition dropped.

  The same key gives the same noise, times and references whatever the mask (index into `MASKS`, may be
  traced), so that masks compare too.
  """
  draws = draw(key, lengths_B, frames, mel_bins, FlowObjective(drop=0.0))
  places_B = (jnp.arange(lengths_B.shape[0]) + jax.random.uniform(jax.random.fold_in(key, 1))) / lengths_B.shape[0]
  return draws.replace(mask_B=jnp.full_like(draws.mask_B, mask), t_B=places_B % 1.0)


def validation(model: Flow, params: Any, batch: dict[str, jax.Array], key: jax.Array, kind: str = "l1") -> Loss:
  """`objective` of a batch under each of the four masks in turn, with the same times and noise: see `fixed_draws`."""
  lengths_B, (_, frames, mel_bins) = model.config.frames_per_token * batch["token_lengths_B"], batch["mel_BTM"].shape

  def one(mask: jax.Array) -> Loss:
    return objective(model, params, batch, fixed_draws(key, lengths_B, frames, mel_bins, mask), kind)

  return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.lax.map(one, jnp.arange(len(MASKS))))


def blocks_of(mask_B: jax.Array, tokens: int, chunk: int) -> jax.Array:
  """Blocks of each row's tokens under its mask: int32 [B, U]."""
  sizes_B = jnp.asarray([0, 1, chunk, 2 * chunk], jnp.int32)[mask_B]
  return jax.vmap(lambda size: equal_blocks(tokens, size))(sizes_B)


Predict = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def differences(
  predict: Predict,
  mel_BTM: jax.Array,
  lengths_B: jax.Array,
  draws: Draws,
  kind: str,
  *,
  chunk: int,
  frames_per_token: int,
  sigma_min: float,
) -> tuple[jax.Array, jax.Array]:
  """How far the predicted velocities are from the path's, row by row (paper eq. 7 to 9).

  Args:
    predict: (x_BTM, cond_BTM, t_B, token blocks [B, U], keep_B) -> velocity [B, T, M].
    mel_BTM: the data.
    lengths_B: mel frames in each row.
    draws: of `draw` or `fixed_draws`.
    kind: of `matching.row_sums`.
    chunk: M, in tokens.
    frames_per_token: mel frames in a token.
    sigma_min: of the path.

  Returns:
    (sums, counts) as `matching.row_sums`.
  """
  kept_BT1 = padding_mask(draws.kept_B, mel_BTM.shape[1])[..., None]
  x_BTM, target_BTM = matching.interpolate(mel_BTM, draws.noise_BTM, draws.t_B, sigma_min)
  blocks_BU = blocks_of(draws.mask_B, mel_BTM.shape[1] // frames_per_token, chunk)
  velocity_BTM = predict(x_BTM, jnp.where(kept_BT1, mel_BTM, 0.0), draws.t_B, blocks_BU, draws.keep_B)
  return matching.row_sums(velocity_BTM, target_BTM, lengths_B, kind)


def objective(model: Flow, params: Any, batch: dict[str, jax.Array], draws: Draws, kind: str = "l1") -> Loss:
  """Loss of a batch: the mean difference over all valid numbers, and that of each mask's rows.

  Args:
    model: with `training=True` and stacked parameters, or without.
    params: of `model`.
    batch: `tokens_BU`, `token_lengths_B`, `mel_BTM` (T = 2U) and `speaker_BE`. Rows of length 0 count nothing.
    draws: of `draw` or `fixed_draws`.
    kind: "l1" or "squared".
  """
  c, lengths_B = model.config, batch["token_lengths_B"]

  def predict(x_BTM, cond_BTM, t_B, blocks_BU, keep_B):
    row = (batch["tokens_BU"], lengths_B, batch["speaker_BE"])
    return model.apply({"params": params}, *row, x_BTM, cond_BTM, t_B, blocks_BU, keep_B)

  frames_B, settings = c.frames_per_token * lengths_B, {"chunk": c.chunk, "sigma_min": c.sigma_min}
  sums_B, counts_B = differences(
    predict, batch["mel_BTM"], frames_B, draws, kind, frames_per_token=c.frames_per_token, **settings
  )
  of = lambda x_B, i: jnp.sum(jnp.where(draws.mask_B == i, x_B, 0.0))
  metrics = {name: (of(sums_B, i), of(counts_B, i)) for i, name in enumerate(MASKS)}
  return Loss(jnp.sum(sums_B), jnp.sum(counts_B), metrics)
