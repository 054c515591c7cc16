"""The iterator that trainers read: random access by number, read ahead by Grain, the same for any number of processes.

A run's state is the number of its next batch: what is in it follows from the seed and the lengths of
the examples (`cosyjax.data.plan`), and everything random that happens on the device is drawn from the
batch's `key`. A process reads nothing but its own rows.

An example that cannot be read is skipped: its row (or its part of a packed row) is empty, with length
0. Too many of them end the run.
"""

import logging
import time
from typing import Any

import jax
import numpy as np

from cosyjax.data import rows as rows_lib
from cosyjax.data.plan import Plan
from cosyjax.errors import ConfigError, DataError, TrainingError

log = logging.getLogger("cosyjax.data")

BAD_SHARE = 1e-3  # of the examples: more that cannot be read end the run
THREADS = 4  # batches read at once, without worker processes


class Batches:
  """Iterator over this process's rows of each batch.

  Attributes:
    plan: which examples make up each batch.
    rows: reads one example, or the rows of a batch.
    shapes: of each kind of batch, over all processes: field -> `jax.ShapeDtypeStruct`.
    stats: `padding` (share of positions so far), `wait_s` (seconds spent waiting so far), `bad`
      (examples that could not be read so far), `dropped` (examples too long or empty to be used).
    speakers: names by label, for `speaker_batches`.
  """

  def __init__(
    self,
    rows: rows_lib.Rows,
    plan: Plan,
    *,
    seed: int,
    epochs: int | None = None,
    process: tuple[int | tuple[int, ...], int] = (0, 1),
    workers: int = 0,
    bad_share: float = BAD_SHARE,
  ) -> None:
    """Puts a plan and a way of reading together; the factories below do it for each trainer.

    Args:
      rows: reads the rows.
      plan: of all processes.
      seed: of the keys.
      epochs: after so many it stops; never if None.
      process: (p, P): this process has the p-th of P equal parts of each batch's rows, or several of them.
      workers: processes that read ahead; threads of this process if 0.
      bad_share: share of the examples that may turn out unreadable (one always may).

    Raises:
      ConfigError: rows that cannot be split evenly.
    """
    index, count = process
    mine = index if isinstance(index, tuple) else (index,)
    uneven = [size for size, _ in plan.shapes if size % count]
    if uneven or not mine or not all(0 <= part < count for part in mine):
      raise ConfigError(f"process {index} of {count}: batches of {sorted(set(uneven))} rows cannot be split evenly")
    self.plan, self.speakers = plan, ()
    self.rows, self._seed, self._process, self._workers = rows, seed, (mine, count), workers
    self._bad_share = bad_share
    self._end = plan.batches * (epochs if epochs is not None else (1 << 40) // plan.batches)
    self._bad: dict[int, str] = {}
    self._valid = self._positions = self._next = 0
    self._wait_s = 0.0
    self._iterator: Any = None

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    """The next batch: this process's rows, and the `key` that all processes share.

    Raises:
      StopIteration: after the last epoch.
      TrainingError: too many examples cannot be read.
    """
    if self._iterator is None:
      self._iterator = self._start(self._next)
    before = time.perf_counter()
    batch, bad = next(self._iterator)
    self._wait_s += time.perf_counter() - before
    self._count_bad(bad)
    valid, positions = self.rows.valid(batch)
    self._valid, self._positions = self._valid + valid, self._positions + positions
    batch["key"] = np.random.SeedSequence([self._seed, self._next]).generate_state(2)
    self._next += 1
    return batch

  def read(self, n: int) -> dict[str, np.ndarray]:
    """Batch n of the run, with its `key`, read now by the caller: the n-th that iterating gives. Any thread may call.

    Unreadable examples leave their places empty and are not counted.
    """
    batch, _ = self._source()[n]
    return batch | {"key": np.random.SeedSequence([self._seed, n]).generate_state(2)}

  @property
  def shapes(self) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Global shapes of every kind of batch, by field."""
    return [global_shapes(self.rows, size, length) for size, length in self.plan.shapes]

  @property
  def stats(self) -> dict[str, float]:
    """Share of padding, seconds of waiting, and entries that were bad or dropped, so far."""
    padding = 1 - self._valid / self._positions if self._positions else 0.0
    return {"padding": padding, "wait_s": self._wait_s, "bad": len(self._bad), "dropped": self.plan.dropped}

  def state(self) -> dict[str, Any]:
    """What `restore` needs: equal on every process, and JSON."""
    return {"batch": self._next, "plan": self.plan.fingerprint()}

  def restore(self, state: dict[str, Any]) -> None:
    """Goes on behind the batch at which `state` was taken, with this or another number of processes.

    Raises:
      DataError: a state of other data, another seed or other shapes.
    """
    if not isinstance(state, dict) or set(state) != {"batch", "plan"} or not isinstance(state["batch"], int):
      raise DataError(f"expected the state of a data iterator, found {str(state)[:100]}")
    if state["plan"] != self.plan.fingerprint():
      raise DataError("the iterator's state belongs to other data, another seed, or other batch shapes than given now")
    self.close()
    self._next = state["batch"]

  def close(self) -> None:
    """Ends reading ahead; the next batch starts it again."""
    iterator, self._iterator = self._iterator, None
    if hasattr(iterator, "close"):
      iterator.close()

  def _source(self) -> "_Source":
    return _Source(self.rows, self.plan, self._process, self._end)

  def _start(self, first: int) -> Any:
    import grain

    source = grain.MapDataset.source(self._source())[first:]
    # Read ahead by whole batches, in the order of their numbers, whoever reads.
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    dataset = source.to_iter_dataset(options)
    if self._workers:
      from absl import flags

      if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, which only absl programs parse
        flags.FLAGS.mark_as_parsed()
      dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2))
    return iter(dataset)

  def _count_bad(self, bad: rows_lib.Bad) -> None:
    for example, why in bad:
      if example not in self._bad:
        log.warning("example %d is skipped: %s", example, why)
        self._bad[example] = why
    examples = len(self.plan.used)
    mine, count = self._process
    if len(self._bad) > max(1, self._bad_share * examples * len(mine) / count):
      found = f"{len(self._bad)} of {examples} examples cannot be read, more than {self._bad_share:.2%}"
      raise TrainingError(f"{found}; the last: example {example}: {why}" if bad else found)


class _Source:
  """Grain's random access to this process's part of each batch."""

  def __init__(self, rows: rows_lib.Rows, plan: Plan, process: tuple[tuple[int, ...], int], end: int) -> None:
    self._rows, self._plan, self._process, self._end = rows, plan, process, end

  def __len__(self) -> int:
    return self._end

  def __getitem__(self, n: int) -> tuple[rows_lib.Parts, rows_lib.Bad]:
    shape, examples = self._plan.batch(int(n))
    parts, count = self._process
    size = len(examples) // count
    mine = [row for part in parts for row in examples[part * size : (part + 1) * size]]
    return self._rows.load(self._plan.epoch_of(int(n)), mine, self._plan.shapes[shape][1])


def global_shapes(rows: rows_lib.Rows, size: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of `size` rows of `length`, over all processes: what a program is compiled for."""
  fields = rows.fields(length)
  shapes = {name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in fields.items()}
  return shapes | {"key": jax.ShapeDtypeStruct((2,), np.uint32)}
