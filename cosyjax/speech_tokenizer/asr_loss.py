"""Objective of tokenizer training (paper 2.2): attention decoder and CTC jointly, pitch and codebook if there are any.

Everything is a sum over units, to be divided by their number: it does not depend on how a batch is
split over devices or in time.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cosyjax.layers.masks import padding_mask
from cosyjax.speech_tokenizer import ctc, units
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, Recognised
from cosyjax.training.step import Loss

REFERENCE_F0 = 150.0  # Hz; log-f0 is predicted relative to it


def asr_loss(module: AsrTokenizer, params: Any, batch: dict[str, jax.Array]) -> Loss:
  """Joint loss of one batch: `outputs`, then `compare`."""
  return compare(module.asr, outputs(module, params, batch), batch)


def outputs(module: AsrTokenizer, params: Any, batch: dict[str, jax.Array]) -> Recognised:
  """All outputs for a batch, the attention decoder given its text. See `compare`."""
  given_BL = jnp.pad(batch["units_BL"], ((0, 0), (1, 0)), constant_values=units.START)
  return module.apply({"params": params}, batch["log_mel_BTM"], batch["lengths_B"], given_BL)


def compare(a: AsrConfig, out: Recognised, batch: dict[str, jax.Array]) -> Loss:
  """Joint loss of a batch.

  Args:
    a: the weights.
    out: from `outputs`.
    batch: "log_mel_BTM" float, "lengths_B", "units_BL" int (0 in padding), "unit_lengths_B", and with a pitch head
      "f0_BT" in Hz at 50 Hz, two frames to a token, 0 where unvoiced. A row of length 0 counts for nothing.

  Returns:
    The sum over rows of (1 - w) attention + w CTC + pitch weight * pitch + codebook, and the number of units, each
    row's end included. Metrics: "attention", "ctc", "unit_accuracy" (of the decoder, given the right units so far),
    "ctc_impossible" (share of rows whose text does not fit into their frames; they have no CTC loss), "codebook" (what
    keeps codes in use), and with a pitch head "pitch", "voicing_accuracy", "f0_error" (mean |log ratio|
    over voiced frames).
  """
  lengths_B = batch["lengths_B"]
  unit_lengths_B = jnp.where(lengths_B > 0, batch["unit_lengths_B"], 0)
  targets_BL, counted_BL = answers(batch["units_BL"], unit_lengths_B, lengths_B > 0)

  attention_BL = -jax.nn.log_softmax(out.scores_BLV)
  picked_BL = jnp.take_along_axis(attention_BL, targets_BL[..., None], axis=-1)[..., 0]
  smooth_BL = (1 - a.label_smoothing) * picked_BL + a.label_smoothing * jnp.mean(attention_BL, axis=-1)
  attention = jnp.sum(smooth_BL, where=counted_BL)
  right = jnp.sum(jnp.argmax(out.scores_BLV, axis=-1) == targets_BL, where=counted_BL, dtype=jnp.float32)
  weight = jnp.sum(counted_BL, dtype=jnp.float32)

  frames_B = a.ctc_rate * out.quantised.lengths_B
  rows_B = ctc.loss(out.ctc_BRV, frames_B, batch["units_BL"], unit_lengths_B)
  ctc_sum = jnp.sum(rows_B, where=unit_lengths_B > 0)
  fits_B = ctc.feasible(frames_B, batch["units_BL"], unit_lengths_B)
  bytes_ = jnp.sum(unit_lengths_B, where=fits_B, dtype=jnp.float32)
  rows = jnp.sum(lengths_B > 0, dtype=jnp.float32)

  total = (1 - a.ctc_weight) * attention + a.ctc_weight * ctc_sum
  metrics = {
    "attention": (attention, weight),
    "ctc": (ctc_sum, bytes_),
    "unit_accuracy": (right, weight),
    "ctc_impossible": (jnp.sum(~fits_B & (lengths_B > 0), dtype=jnp.float32), rows),
  }
  valid_BU = padding_mask(out.quantised.lengths_B, out.quantised.ids_BU.shape[1])
  codebook = jnp.sum(out.quantised.loss_BU, where=valid_BU)
  total += codebook
  metrics["codebook"] = (codebook, jnp.sum(valid_BU, dtype=jnp.float32))
  if a.pitch_weight:
    pitch, pitch_metrics = pitch_loss(out.pitch_BU22, batch["f0_BT"], valid_BU)
    total += a.pitch_weight * pitch
    metrics |= pitch_metrics
  return Loss(total, weight, metrics)


def answers(units_BL: jax.Array, lengths_B: jax.Array, rows_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What the attention decoder has to write, and which of it counts.

  Args:
    units_BL: int, right-padded.
    lengths_B: units of each row.
    rows_B: rows that count at all; a text without units still has an end.

  Returns:
    The units and `END`, and bool: [B, L + 1] each.
  """
  at_L = jnp.arange(units_BL.shape[1] + 1)
  targets_BL = jnp.where(at_L == lengths_B[:, None], units.END, jnp.pad(units_BL, ((0, 0), (0, 1))))
  return targets_BL, padding_mask(lengths_B + 1, len(at_L)) & rows_B[:, None]


def pitch_loss(
  pitch_BU22: jax.Array, f0_BT: jax.Array, valid_BU: jax.Array
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
  """Voicing (cross-entropy) of all frames plus |log f0 error| of voiced ones, summed over frames; and its metrics.

  Args:
    pitch_BU22: see `Recognised`.
    f0_BT: Hz, 0 where unvoiced; T = 2U, or shorter: then the rest is unvoiced.
    valid_BU: tokens that count.
  """
  batch, tokens = valid_BU.shape
  f0_BT = jnp.pad(f0_BT[:, : 2 * tokens], ((0, 0), (0, max(2 * tokens - f0_BT.shape[1], 0))))
  f0_BU2 = f0_BT.reshape(batch, tokens, 2)
  voiced_BU2 = (f0_BU2 > 0) & valid_BU[..., None]
  logit_BU2, log_BU2 = pitch_BU22[..., 0], pitch_BU22[..., 1]
  frames_BU2 = jnp.broadcast_to(valid_BU[..., None], f0_BU2.shape)
  # log(1 + e^x) - x y: cross-entropy of a logit.
  voicing = jnp.sum(jax.nn.softplus(logit_BU2) - logit_BU2 * voiced_BU2, where=frames_BU2)
  error = jnp.sum(jnp.abs(log_BU2 - jnp.log(jnp.maximum(f0_BU2, 1.0) / REFERENCE_F0)), where=voiced_BU2)
  frames, voiced = (jnp.sum(mask, dtype=jnp.float32) for mask in (frames_BU2, voiced_BU2))
  right = jnp.sum((logit_BU2 > 0) == voiced_BU2, where=frames_BU2, dtype=jnp.float32)
  metrics = {
    "pitch": (voicing + error, frames),
    "voicing_accuracy": (right, frames),
    "f0_error": (error, voiced),
  }
  return voicing + error, metrics
