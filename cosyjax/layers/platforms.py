"""What one kind of device likes better: every special form of a computation, with its reason and its measure.

A module writes its equation plainly. Where a device needs another program for the same numbers, it takes from `form`
the one or the other. The table is all there is of this in the library; an entry stays as long as the named benchmark
loses more than a tenth without it (`docs/performance.md` has the figures).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Form:
  """One special form.

  Attributes:
    platform: "cpu", "cuda" or "tpu".
    why: what the device likes about it.
    benchmark: command, and the figure of it that counts.
    lowered: chosen when a program is lowered, so that one compiled ahead for another device gets that device's form.
      False for forms that cannot be traced elsewhere: these follow the default device.
  """

  platform: str
  why: str
  benchmark: str
  lowered: bool = True


FORMS = {
  "attention by head": Form(
    "tpu",
    "scores of one head of one row stay in the memory on the chip, with all that softmax and its gradient make of them",
    "train.flow --compile-only v5e:16x16: memory traffic",
  ),
  "attention by row": Form(
    "tpu",
    "scores of one row stay in the memory on the chip",
    "train.lm --compile-only v5e:16x16: memory traffic",
  ),
  "fused attention": Form(
    "cuda",
    "cuDNN's kernel writes no scores to memory; it takes 16-bit numbers",
    "train.benchmark --trainer lm: step_p50",
    lowered=False,
  ),
  "Fourier by product": Form(
    "tpu",
    "its matrix unit is fast, its FFT is not",
    "infer.benchmark: voice_ms",
  ),
  "convolution by rows": Form(
    "tpu",
    "gradients of a convolution over one axis compile in less time than of one over two, and move less memory",
    "train.vocoder --compile-only v5e:16x16: memory traffic",
  ),
}

_off: set[str] = set()


def form(name: str, special: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
  """The special form where it is wanted, else the plain one: a function of arrays.

  Args:
    name: of `FORMS`.
    special, plain: functions of the same arrays with the same results.
  """
  entry = FORMS[name]
  if name in _off:
    return plain
  if entry.lowered:
    return lambda *args: jax.lax.platform_dependent(*args, **{entry.platform: special}, default=plain)
  on = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
  return special if on == entry.platform else plain


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
  """Programs traced in the block have the plain form instead: for benchmarks."""
  added = set(names) - _off
  _off.update(added)
  try:
    yield
  finally:
    _off.difference_update(added)
