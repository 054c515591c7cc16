"""Training of the speaker encoder: classify the speakers of a corpus, then keep only the vectors.

The classes are separated by their angles with a margin between them (`margin`), so that vectors of
speakers who were not in the corpus lie apart as well.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.config import SpeakerConfig
from cosyjax.errors import ConfigError
from cosyjax.speaker.campplus import SpeakerEncoder, init_arguments
from cosyjax.speaker.margin import MARGIN, SCALE, SpeakerDirections, margin_loss, warm_margin
from cosyjax.speaker.norms import BatchNorms, fold, move
from cosyjax.training.step import Loss


@dataclasses.dataclass(frozen=True)
class MarginConfig:
  """Additive angular margin, and how the norms' statistics follow the batches."""

  scale: float = SCALE
  margin: float = MARGIN  # radians
  warmup: int = 0  # steps over which the margin grows
  decay: float = 0.99  # of the norms' moving averages

  def __post_init__(self) -> None:
    if not 0 <= self.margin < math.pi / 2 or self.scale <= 0:
      raise ConfigError(f"margin: expected a margin from 0 to pi / 2 and a positive scale, found {self}")


class SpeakerClassifier(nn.Module):
  """The encoder, and a direction for each speaker of the corpus."""

  config: SpeakerConfig
  speakers: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, fbank_BTM: jax.Array, lengths_B: jax.Array, norms: BatchNorms) -> tuple[jax.Array, jax.Array]:
    """Vectors [B, E] and their cosines with each speaker's direction [B, S], float32. See `SpeakerEncoder`."""
    vectors_BE = SpeakerEncoder(self.config, self.dtype, name="encoder")(fbank_BTM, lengths_B, norms)
    return vectors_BE, SpeakerDirections(self.speakers, name="directions")(vectors_BE)


def init(module: SpeakerClassifier, key: jax.Array) -> tuple[Any, dict[str, Any]]:
  """Boxed parameters, and the state that training carries along: {"batches", "norms"}.

  All weights are cut from one draw: to compile a draw for each of some hundred layers takes minutes.
  """
  boxed, norms = jax.eval_shape(lambda key: _first(module, key), key)
  is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
  paths, tree = jax.tree_util.tree_flatten_with_path(boxed, is_leaf=is_box)
  drawn = [path[-1].key in ("kernel", "directions") for path, _ in paths]
  numbers = jax.random.normal(key, (sum(box.value.size for (_, box), cut in zip(paths, drawn, strict=True) if cut),))
  start, leaves = 0, []
  for (path, box), cut in zip(paths, drawn, strict=True):
    shape, size = box.value.shape, box.value.size
    if cut:
      value = numbers[start : start + size].reshape(shape) * math.sqrt(shape[-1] / size)  # variance 1 / fan-in
      start += size
    else:
      value = jnp.full(shape, float(path[-1].key == "scale"))
    leaves.append(box.replace_boxed(value))
  still = {path: {"mean": jnp.zeros(s["mean"].shape), "variance": jnp.ones(s["mean"].shape)}
           for path, s in norms.items()}  # fmt: skip
  return jax.tree.unflatten(tree, leaves), {"batches": jnp.zeros((), jnp.float32), "norms": still}


def _first(module: SpeakerClassifier, key: jax.Array) -> tuple[Any, Any]:
  norms = BatchNorms()
  args = init_arguments(module.config)
  return module.init(key, *args, norms)["params"], norms.found


def speaker_loss(
  module: SpeakerClassifier, c: MarginConfig, params: Any, batch: dict[str, jax.Array], extra: dict[str, Any]
) -> Loss:
  """Cross-entropy with margin, summed over rows.

  Norms take the statistics of the rows that are passed together: of a microbatch, where gradients are
  accumulated, and of the whole batch over all devices otherwise.

  Args:
    module, params: the classifier.
    c: the margin.
    batch: "fbank_BTM", "lengths_B" (a row of length 0 counts for nothing), "labels_B".
    extra: as from `init`; the loss returns the next.

  Returns:
    Metrics: "speaker_accuracy", without margin.
  """
  norms = BatchNorms()
  valid_B = batch["lengths_B"] > 0
  _, cosines_BS = module.apply({"params": params}, batch["fbank_BTM"], batch["lengths_B"], norms)
  margin = warm_margin(extra["batches"], c.warmup, c.margin) if c.warmup else c.margin
  total, right, rows = margin_loss(cosines_BS, batch["labels_B"], valid_B, margin, c.scale)
  after = {
    "batches": extra["batches"] + 1.0,
    "norms": move(extra["norms"], norms.found, extra["batches"], c.decay),
  }
  return Loss(total, rows, {"speaker_accuracy": (right, rows)}, after)


def speaker_vectors(
  module: SpeakerClassifier, params: Any, extra: dict[str, Any], fbank_BTM: jax.Array, lengths_B: jax.Array
) -> jax.Array:
  """Vectors under the moving statistics, float32 [B, E]."""
  encoder = SpeakerEncoder(module.config, module.dtype)
  return encoder.apply({"params": params["encoder"]}, fbank_BTM, lengths_B, BatchNorms(_of_encoder(extra)))


def subset(params: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
  """Parameters of the `SpeakerEncoder` for inference, norms folded in."""
  return fold(params["encoder"], _of_encoder(extra))


def _of_encoder(extra: dict[str, Any]) -> dict[str, Any]:
  return {path.removeprefix("encoder."): value for path, value in extra["norms"].items()}
