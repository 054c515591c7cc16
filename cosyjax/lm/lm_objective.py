"""Training of the text-speech model (paper 2.3): the loss of packed rows and what is reported beside it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.lm import loss
from cosyjax.lm.sequence import IGNORE
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.training.step import Loss

LAYOUTS = ("known", "interleaved")


def objective(
  model: TextSpeechLM, params: Any, batch: dict[str, jax.Array], *, chunk: int = loss.CHUNK, layouts: bool = False
) -> Loss:
  """Negative log-probability of all targets: speech, fill and end.

  Args:
    model: usually with `scan=True`.
    params: of `model`.
    batch: `ids_BL`, `token_types_BL`, `targets_BL`, `segments_BL`, `positions_BL`, and `speaker_BSE` for a model
      with a place for it.
    chunk: see `loss.scores`.
    layouts: report loss and accuracy of each layout as well.

  Returns:
    Sums over the targets, with the metric "accuracy"; with `layouts` also "loss_known",
    "accuracy_interleaved" and so on.
  """
  segments_BL, targets_BL = batch["segments_BL"], batch["targets_BL"]
  hidden_BLD = model.apply(
    {"params": params},
    batch["ids_BL"],
    batch["token_types_BL"],
    segments_BL=segments_BL,
    positions_BL=batch["positions_BL"],
    speaker_BSE=batch["speaker_BSE"] if model.speaker_dim else None,
    method=model.hidden,
  )
  scores = loss.scores(hidden_BLD, params["head"], targets_BL, chunk=chunk)
  there_BL = targets_BL != IGNORE

  def sums(where_BL: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    add = lambda x_BL: jnp.sum(jnp.where(where_BL, x_BL, 0.0), dtype=jnp.float32)
    return add(-scores.log_probs_BL), add(scores.right_BL), add(1.0)

  total, right, weight = sums(there_BL)
  metrics = {"accuracy": (right, weight)}
  if layouts:
    mixed_BL = interleaved(segments_BL, targets_BL, model.config.speech_vocab.fill_id)
    for name, where_BL in zip(LAYOUTS, (~mixed_BL, mixed_BL), strict=True):
      value, hits, count = sums(there_BL & where_BL)
      metrics |= {f"loss_{name}": (value, count), f"accuracy_{name}": (hits, count)}
  return Loss(total, weight, metrics)


def interleaved(segments_BL: jax.Array, targets_BL: jax.Array, fill_id: int) -> jax.Array:
  """bool [B, L]: the position's utterance has the interleaved layout, as only those have fill tokens."""
  count = segments_BL.shape[1] + 1

  def row(segments_L: jax.Array, fills_L: jax.Array) -> jax.Array:
    return jax.ops.segment_max(fills_L, segments_L, num_segments=count)[segments_L] > 0

  return jax.vmap(row)(segments_BL, (targets_BL == fill_id).astype(jnp.int32))


def unigram_accuracy(counts_V: np.ndarray) -> float:
  """Accuracy of always guessing the commonest target: what any model must beat.

  Args:
    counts_V: how often each id is a target.
  """
  return float(np.max(counts_V) / max(np.sum(counts_V), 1))
