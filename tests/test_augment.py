"""Masks, hiss, blur, warp and colour on the recogniser's input."""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.errors import ConfigError
from cosyjax.speech_tokenizer.augment import DECADES, AugmentConfig, augment, warp
from cosyjax.training.step import Loss
from train import cli

LENGTHS = np.array([60, 35, 0], np.int32)


def _mel():
  mel_BTM = np.random.default_rng(0).normal(size=(3, 64, 20)).astype(np.float32)
  return np.where(np.arange(64)[:, None] < LENGTHS[:, None, None], mel_BTM, 7.0).astype(np.float32)


def _augment(c, seed=0, mel=None):
  return np.asarray(augment(jax.random.key(seed), _mel() if mel is None else mel, LENGTHS, c))


@pytest.mark.parametrize(
  "c", [AugmentConfig(time_masks=2), AugmentConfig(bin_masks=1), AugmentConfig(hiss=1.0), AugmentConfig(blur=2.0)]
)
def test_each_changes_speech_and_leaves_padding(c):
  a, b = _augment(c), _augment(c, 1)
  inside = np.arange(64) < LENGTHS[:, None]
  assert (a[inside] != _mel()[inside]).any() and (a != b).any()
  np.testing.assert_array_equal(a[~inside], 7.0)
  assert np.isfinite(a).all()
  other = _mel()
  other[~inside] = 100.0  # no draw and no level looks at padding
  np.testing.assert_array_equal(_augment(c, mel=other)[inside], a[inside])


def test_nothing_by_default():
  np.testing.assert_array_equal(_augment(AugmentConfig()), _mel())


def test_masks_are_spans_of_bounded_width_with_the_mean():
  widths, mel_BTM = [], _mel()
  for seed in range(60):
    out_TM = _augment(AugmentConfig(time_masks=1, time_width=9, time_share=0.2), seed)[:2]
    for row, length in enumerate(LENGTHS[:2]):
      hit_T = (out_TM[row] != mel_BTM[row]).any(axis=-1)
      widths.append(hit_T.sum())
      if hit_T.any():
        first, last = np.flatnonzero(hit_T)[[0, -1]]
        assert last - first + 1 == hit_T.sum() <= min(9, 0.2 * length) + 1e-6
        np.testing.assert_allclose(out_TM[row, hit_T], mel_BTM[row, :length].mean(), rtol=1e-5)
  assert set(widths) == set(range(10))  # 9 frames in the longer row, at most 7 in the shorter


def test_hiss_adds_energy_at_its_level():
  mel_BTM = _mel()
  out_BTM = _augment(AugmentConfig(hiss=1.0, hiss_level=(20.0, 20.0)))
  level = mel_BTM[0, :60].max() - 20 / 40
  energy = lambda x: 10.0 ** (4 * x.astype(np.float64))
  np.testing.assert_allclose(energy(out_BTM[0, :60]), energy(mel_BTM[0, :60]) + energy(level), rtol=1e-4)


def test_blur_is_measured_in_decibels():
  mel_BTM = np.zeros((400, 50, 4), np.float32)
  out_BTM = np.asarray(augment(jax.random.key(0), mel_BTM, np.full(400, 50), AugmentConfig(blur=4.0)))
  deviations = 40 * out_BTM.std(axis=(1, 2))
  assert 3.5 < deviations.max() < 4.8 and deviations.min() < 0.2
  np.testing.assert_allclose(deviations.mean(), 2.0, atol=0.15)


@pytest.mark.parametrize("wrong", [{"hiss": 1.5}, {"time_masks": -1}, {"hiss_level": (9.0, 3.0)}, {"time_share": -0.1}])
def test_wrong_settings_are_named(wrong):
  with pytest.raises(ConfigError, match="augment"):
    AugmentConfig(**wrong)


def test_warp_moves_a_formant_by_the_stretch():
  mel_BTM = np.zeros((2, 3, 128), np.float32)
  mel_BTM[:, :, 50] = 1.0
  out_BTM = np.asarray(warp(mel_BTM, np.asarray([1.2, 0.9])[:, None, None]))
  assert out_BTM[:, 1].argmax(-1).tolist() == [60, 45]
  np.testing.assert_array_equal(np.asarray(warp(mel_BTM, np.ones((2, 1, 1)))), mel_BTM)


def test_colour_is_the_same_at_all_times_and_slow_over_bins():
  mel_BTM = np.zeros((64, 20, 128), np.float32)
  out_BTM = np.asarray(augment(jax.random.key(1), mel_BTM, np.full(64, 20), AugmentConfig(colour=3.0)))
  assert np.ptp(out_BTM, axis=1).max() == 0 and np.abs(np.diff(out_BTM, axis=2)).max() < 0.05
  deviation = np.std(out_BTM) * 10 * DECADES
  assert 3.0 < deviation < 5.5  # the root of four cosines' power, 3 sqrt(4 / 2) = 4.2


def test_strength_scales_everything_down_to_nothing():
  c = AugmentConfig(time_masks=2, bin_masks=1, bin_width=10, hiss=1.0, blur=4.0, warp=0.2, colour=3.0)
  none, half, whole = (
    np.asarray(augment(jax.random.key(0), _mel(), LENGTHS, c, strength)) for strength in (0.0, 0.5, 1.0)
  )
  np.testing.assert_allclose(none[:2], _mel()[:2], atol=1e-6)
  np.testing.assert_array_equal(whole, _augment(c))
  assert np.any(half != whole)
  blurred = [np.abs(_augment_by(strength) - _mel())[0, :60].mean() for strength in (0.5, 1.0)]
  assert 0 < blurred[0] == pytest.approx(0.5 * blurred[1], rel=1e-5)


def _augment_by(strength):
  return np.asarray(augment(jax.random.key(0), _mel(), LENGTHS, AugmentConfig(blur=4.0), strength))


def test_augmentation_rises_with_the_batches(monkeypatch):
  from train import speech_tokenizer as trainer

  strengths = []
  monkeypatch.setattr(trainer, "augment", lambda key, mel, lengths, c, strength: strengths.append(float(strength)))
  monkeypatch.setattr(trainer, "asr_loss", lambda module, params, batch: Loss(0.0, 1.0))
  config = cli.load(Path("configs/box/speech_tokenizer.py"), trainer.Config, tiny=True)
  args = argparse.Namespace(init=None)
  loss = lambda c: trainer.task(args, dataclasses.replace(config, augment=c)).loss
  loss_fn = loss(AugmentConfig(blur=1.0, rise=4))
  extra = {"batches": np.float32(0)}
  for _ in range(6):
    extra = loss_fn(None, {"log_mel_BTM": None, "lengths_B": None}, None, extra).extra
  assert strengths == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0] and extra["batches"] == 6
  assert loss(AugmentConfig())(None, {}, None, {}).extra is None and len(strengths) == 6
