"""Plans: every example once an epoch, the same number of batches each time, little padding."""

import numpy as np
import pytest

from cosyjax.data.plan import EMPTY, BucketPlan, PackedPlan, first_fit
from cosyjax.errors import DataError


def test_every_example_is_in_each_epoch_once_but_for_the_rest():
  lengths = np.random.default_rng(0).integers(-3, 130, 1000)
  kept = np.flatnonzero((lengths > 0) & (lengths <= 100))
  plans = [
    BucketPlan(lengths, buckets=(10, 30, 70, 100), rows=(16, 8, 4, 2), seed=1),
    PackedPlan(lengths, length=100, rows=4, most=5, seed=1),
  ]
  for plan in plans:
    orders = []
    for epoch in range(3):
      batches = [plan.batch(epoch * plan.batches + k) for k in range(plan.batches)]
      found = np.concatenate([np.concatenate(rows) for _, rows in batches])
      assert len(set(found.tolist())) == len(found) and set(found.tolist()) <= set(kept.tolist())
      assert len(found) >= len(kept) - (1 if isinstance(plan, BucketPlan) else 20)
      orders.append(found.tolist())
      for shape, rows in batches:
        size, length = plan.shapes[shape]
        assert len(rows) == size and all(lengths[r].sum() <= length and 0 < len(r) <= 5 for r in rows)
    assert orders[0] != orders[1] != orders[2]
    assert plan.dropped == 1000 - len(kept)
    again = type(plan).__new__(type(plan))
    again.__setstate__(plan.__getstate__())  # as a worker process gets it
    assert [r.tolist() for r in again.batch(5)[1]] == [r.tolist() for r in plan.batch(5)[1]]


def test_small_corpora_fill_a_batch_by_repetition_or_leave_rows_empty():
  repeated = BucketPlan([3, 4, 9], buckets=(5, 10, 20), rows=(8, 8, 8), seed=0)
  assert repeated.shapes == ((8, 5), (8, 10)) and repeated.batches == 1
  shape, rows = repeated.batch(4)
  assert shape == 1 and {int(r[0]) for r in rows} == {0, 1, 2} and EMPTY not in np.concatenate(rows)
  kept = BucketPlan([3, 4, 9], buckets=(5, 10, 20), rows=(8, 8, 8), seed=0, keep_rest=True, shuffle=False)
  assert [r.tolist() for r in kept.batch(0)[1]] == [[0], [1], [2], [], [], [], [], []]
  packed = PackedPlan([3, 4, 9], length=10, rows=4, most=9, seed=0, shuffle=False)
  assert [r.tolist() for r in packed.batch(0)[1]] == [[0, 1], [2], [0, 1], [2]]
  kept = PackedPlan([3, 4, 9], length=10, rows=4, most=9, seed=0, shuffle=False, keep_rest=True)
  assert [r.tolist() for r in kept.batch(0)[1]] == [[0, 1], [2], [], []]
  with pytest.raises(DataError, match="1 are empty and 1 longer"):
    BucketPlan([0, 50], buckets=(5,), rows=(1,), seed=0)


def test_rows_are_packed_tightly():
  lengths = np.clip(np.random.default_rng(0).lognormal(5, 0.6, 20_000), 20, 800).astype(int)
  row_of = first_fit(lengths, 2048, 64)
  assert lengths.sum() > 0.98 * 2048 * (row_of.max() + 1)
  assert np.bincount(row_of, lengths).max() <= 2048 and np.bincount(first_fit(lengths, 2048, 3)).max() == 3
