"""Which examples each batch of an epoch is made of: pure NumPy, from (seed, epoch, lengths) alone.

Every process computes the same plan and then reads only its own rows, so a batch does not depend on
how many processes there are. An epoch has the same number of batches every time, so batch n of a run
is batch n % batches of epoch n // batches, and nothing but n has to be remembered.

Two plans: `BucketPlan` puts one example into each row of a batch of like lengths, `PackedPlan` puts
several into each row of one length.
"""

import hashlib
import threading
from collections.abc import Sequence

import numpy as np

from cosyjax.errors import ConfigError, DataError

EMPTY = -1  # a row without an example
OPEN_ROWS = 24  # rows that packing keeps open: more pack no tighter and take longer
KEPT_EPOCHS = 4

Batch = tuple[int, list[np.ndarray]]  # which of the plan's shapes, and the examples of each row


class Plan:
  """What both plans share: epochs are computed when first asked for, and those used last are kept.

  Attributes:
    shapes: (rows, length) of each shape that a batch can have.
    batches: of an epoch.
    used: examples that can be used, ascending; the others are empty or longer than the longest row.
    dropped: how many cannot.
  """

  shapes: tuple[tuple[int, int], ...]
  batches: int

  def __init__(self, lengths_N: np.ndarray, longest: int, *, seed: int, shuffle: bool) -> None:
    self._lengths_N = np.asarray(lengths_N, np.int64)
    usable_N = (self._lengths_N > 0) & (self._lengths_N <= longest)
    self.used = np.flatnonzero(usable_N)
    self.dropped = len(usable_N) - len(self.used)
    if not len(self.used):
      raise DataError(
        f"no example can be used: of {len(usable_N)}, {int(np.sum(self._lengths_N <= 0))} are empty and"
        f" {int(np.sum(self._lengths_N > longest))} longer than the longest row, {longest}"
      )
    self._seed, self._shuffle = seed, shuffle
    self._epochs: dict[int, list] = {}
    self._lock = threading.Lock()

  def batch(self, n: int) -> Batch:
    """Batch n of the run, counted over all epochs."""
    epoch, k = divmod(n, self.batches)
    with self._lock:  # several readers come to a new epoch at once
      parts = self._epochs.pop(epoch) if epoch in self._epochs else self._epoch(epoch)
      self._epochs[epoch] = parts  # the last one now
      while len(self._epochs) > KEPT_EPOCHS:
        del self._epochs[next(iter(self._epochs))]
    return self._batch(parts, k)

  def fingerprint(self) -> str:
    """Equal for plans that give equal batches."""
    digest = hashlib.blake2b(self._lengths_N.tobytes(), digest_size=16)
    digest.update(repr((type(self).__name__, self.shapes, self.batches, self._seed, self._shuffle)).encode())
    return digest.hexdigest()

  def epoch_of(self, n: int) -> int:
    """The epoch that batch n belongs to."""
    return n // self.batches

  def _order(self, epoch: int) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng([self._seed, epoch])
    return rng.permutation(self.used) if self._shuffle else self.used, rng

  def _epoch(self, epoch: int) -> list:
    raise NotImplementedError

  def _batch(self, parts: list, k: int) -> Batch:
    raise NotImplementedError

  def __getstate__(self) -> dict:
    return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_epochs")}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state, _epochs={}, _lock=threading.Lock())


class BucketPlan(Plan):
  """One example a row, rows of like length together.

  What is left over of a bucket goes along with the next longer one, where it fits too, so that only
  fewer examples than the last bucket has rows are left out of an epoch, other ones each time. A corpus
  smaller than one batch is repeated until it fills it.
  """

  def __init__(
    self,
    lengths_N: np.ndarray,
    *,
    buckets: Sequence[int],
    rows: Sequence[int],
    seed: int,
    shuffle: bool = True,
    keep_rest: bool = False,
  ) -> None:
    """Plans for examples of these lengths.

    Args:
      lengths_N: of each example, in the unit of `buckets`; 0 for one that cannot be used.
      buckets: ascending row lengths.
      rows: rows of a batch of each bucket.
      seed: of the shuffle.
      shuffle: a new order each epoch; else examples and buckets stay in order (validation).
      keep_rest: the last batch is filled up with empty rows, so that every example is in the epoch.

    Raises:
      ConfigError: buckets that do not ascend, or no row in one.
      DataError: no example fits.
    """
    if not buckets or list(buckets) != sorted(set(buckets)) or len(buckets) != len(rows) or min(rows) < 1:
      raise ConfigError(f"expected ascending buckets with rows for each, found {tuple(buckets)} and {tuple(rows)}")
    super().__init__(lengths_N, buckets[-1], seed=seed, shuffle=shuffle)
    self._keep_rest = keep_rest
    self._bucket_N = np.searchsorted(buckets, self._lengths_N)
    counts = np.bincount(self._bucket_N[self.used])  # no bucket beyond the longest example's
    self._rows = tuple(rows[: len(counts)])
    self.shapes = tuple(zip(self._rows, buckets, strict=False))
    left, self.batches = 0, 0
    for count, size in zip(counts.tolist(), self._rows, strict=True):
      full, left = divmod(count + left, size)
      self.batches += full
    self.batches += (left > 0 and keep_rest) or not self.batches

  def _epoch(self, epoch: int) -> list:
    order, rng = self._order(epoch)
    bucket_of = self._bucket_N[order]
    left, tables = order[:0], []
    for b, size in enumerate(self._rows):
      mine = np.concatenate([left, order[bucket_of == b]])
      full = len(mine) // size
      tables += [(b, batch) for batch in mine[: full * size].reshape(full, size)]
      left = mine[full * size :]
    last, size = len(self._rows) - 1, self._rows[-1]
    if len(left) and self._keep_rest:
      tables.append((last, np.concatenate([left, np.full(size - len(left), EMPTY)])))
    elif not tables:
      tables.append((last, np.resize(left, size)))
    if self._shuffle:
      tables = [tables[i] for i in rng.permutation(len(tables))]
    return tables

  def _batch(self, parts: list, k: int) -> Batch:
    shape, examples = parts[k]
    return shape, [examples[r : r + 1][examples[r : r + 1] != EMPTY] for r in range(len(examples))]


class PackedPlan(Plan):
  """Several examples in each row of one length, first fit over the shuffled order.

  An epoch has as many batches as the first one can fill: how well an order packs differs by a row or
  two, so some rows may be left out, and rarely the epoch's first rows come a second time.
  """

  def __init__(
    self,
    lengths_N: np.ndarray,
    *,
    length: int,
    rows: int,
    most: int,
    seed: int,
    shuffle: bool = True,
    keep_rest: bool = False,
  ) -> None:
    """Plans for examples of these lengths.

    Args:
      lengths_N: of each example; 0 for one that cannot be used.
      length: of a row; longer examples are left out (`dropped`).
      rows: of a batch.
      most: examples in a row.
      seed: of the shuffle.
      shuffle, keep_rest: as for `BucketPlan`.

    Raises:
      ConfigError: sizes that are not positive.
      DataError: no example fits.
    """
    if min(length, rows, most) < 1:
      raise ConfigError(f"expected positive length, rows and most, found {length}, {rows}, {most}")
    super().__init__(lengths_N, length, seed=seed, shuffle=shuffle)
    self._length, self._rows, self._most, self._keep_rest = length, rows, most, keep_rest
    self.shapes = ((rows, length),)
    first = self._pack(0)
    full, left = divmod(len(first[1]) - 1, rows)
    self.batches = max(full + (left > 0 and keep_rest), 1)
    self._epochs[0] = first

  def _pack(self, epoch: int) -> list:
    order, _ = self._order(epoch)
    row_of = first_fit(self._lengths_N[order], self._length, self._most)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
    return [order[np.argsort(row_of, kind="stable")], starts]

  _epoch = _pack

  def _batch(self, parts: list, k: int) -> Batch:
    examples, starts = parts
    have, rows = len(starts) - 1, []
    for r in range(k * self._rows, (k + 1) * self._rows):
      if r >= have and self._keep_rest:
        rows.append(examples[:0])
      else:
        rows.append(examples[starts[r % have] : starts[r % have + 1]])
    return 0, rows


def first_fit(lengths_N: np.ndarray, capacity: int, most: int) -> np.ndarray:
  """The row of each item: the first open one with room; when none has, the fullest is closed for a new one.

  Args:
    lengths_N: of the items, in order; none is longer than `capacity`.
    capacity: of a row.
    most: items in a row.

  Returns:
    int64 [N], rows numbered in the order in which they were opened.
  """
  room, count, name = [], [], []  # of the rows that are open
  row_of, rows = [], 0
  for size in lengths_N.tolist():
    for k, free in enumerate(room):  # noqa: B007
      if free >= size:
        break
    else:
      if len(room) < OPEN_ROWS:
        k = len(room)
        room.append(0), count.append(0), name.append(0)
      else:
        k = room.index(min(room))
      room[k], count[k], name[k] = capacity, 0, rows
      rows += 1
    room[k] -= size
    count[k] += 1
    if count[k] == most:
      room[k] = -1  # nothing fits any more; the next new row takes its place
    row_of.append(name[k])
  return np.asarray(row_of, np.int64)
