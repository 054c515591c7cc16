"""Error rates, equal error rate, use of a codebook."""

import numpy as np
import pytest

from cosyjax.evaluation import metrics


def _slow_distance(a, b):
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
  for i in range(len(a)):
    for j in range(len(b)):
      options = table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a[i] != b[j])
      table[i + 1, j + 1] = min(options)
  return table[-1, -1]


def test_edit_distance_is_levenshteins():
  assert metrics.edit_distance("kitten", "sitting") == 3
  assert metrics.edit_distance("", "abc") == metrics.edit_distance("abc", "") == 3
  rng = np.random.default_rng(0)
  for _ in range(50):
    a, b = ("".join(rng.choice(list("abcd"), rng.integers(0, 12))) for _ in range(2))
    assert metrics.edit_distance(a, b) == _slow_distance(a, b)


def test_error_rate_divides_by_the_references():
  assert metrics.error_rate(["abcd", "xy"], ["abd", "xyz"]) == pytest.approx(2 / 6)
  assert metrics.error_rate([["a", "word"]], [["another", "word"]]) == 0.5
  assert metrics.error_rate([""], [""]) == 0
  with pytest.raises(ValueError, match="argument 2"):
    metrics.error_rate(["a"], [])


def test_equal_error_rate_of_known_trials():
  assert metrics.equal_error_rate([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]) == 0
  assert metrics.equal_error_rate([0.9, 0.2, 0.8, 0.1], [1, 1, 0, 0]) == pytest.approx(0.5)
  assert metrics.equal_error_rate([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == pytest.approx(1)
  assert metrics.equal_error_rate([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0]) == pytest.approx(0.5)
  assert metrics.equal_error_rate([4, 3, 2, 1.5, 1, 0.5, 0.4, 0.3], [1, 1, 1, 0, 1, 0, 0, 0]) == pytest.approx(0.25)
  assert np.isnan(metrics.equal_error_rate([1.0, 2.0], [1, 1]))


def test_equal_error_rate_of_two_normal_distributions():
  rng = np.random.default_rng(0)
  same = np.arange(40_000) < 10_000
  # Means two deviations apart: the rates cross at one deviation from each, 15.87 %.
  assert metrics.equal_error_rate(rng.normal(2 * same), same) == pytest.approx(0.1587, abs=0.01)


def test_all_pairs_are_trials():
  vectors = np.array([[1, 0], [2, 0.0], [0, 3], [0, 0]])
  scores, same = metrics.verification_trials(vectors, ["a", "a", "b", "b"])
  np.testing.assert_allclose(scores, [1, 0, 0, 0, 0, 0])
  assert same.tolist() == [True, False, False, False, False, True]


def test_use_of_a_codebook():
  use = metrics.codebook_use([4, 4, 0, 0, 4, 0, 0, 4])
  assert (use.used, use.codes, use.tokens) == (4, 8, 16)
  assert use.perplexity == pytest.approx(4)
  assert use.utilisation == use.of_fillable == 0.5
  few = metrics.codebook_use([1, 0, 2, 0, 0, 0, 0, 0])
  assert few.of_fillable == pytest.approx(2 / 3)
  assert metrics.codebook_use([0, 0]).used == 0
  counts = np.bincount(np.random.default_rng(0).integers(0, 5000, 5000), minlength=5000)
  assert metrics.codebook_use(counts).of_expected == pytest.approx(1, abs=0.02)
