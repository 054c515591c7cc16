"""What accelerators can do at most: published figures, and a measurement for the CPU.

Sources: the specification pages of Cloud TPU and of NVIDIA (dense rates, no sparsity). `usable`
is what XLA lets one program have, from the message with which its TPU compiler refuses a larger one.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GB, GIB, T = 1e9, 2.0**30, 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator as JAX counts devices.

  Attributes:
    half: floating-point operations a second on bfloat16, accumulated in float32.
    single: the same on float32 arrays at JAX's default precision (bfloat16 passes on TPU, TF32 on NVIDIA).
    memory: bytes, as sold. usable: bytes that a program may have.
    bandwidth: bytes a second between that memory and the chip.
    link: bytes a second that a chip can send along one axis of the torus, to both neighbours together, while it
      receives as much; 0 where chips are not wired as a torus.
    wraps: an axis of the torus closes to a ring when its size is a multiple of this; otherwise it is a line.
  """

  half: float
  single: float
  memory: float
  usable: float
  bandwidth: float
  link: float = 0.0
  wraps: int = 4


def _tpu(tera: float, memory: float, usable: float, bandwidth: float, link: float, wraps: int) -> Chip:
  return Chip(tera * T, tera * T, memory * GB, usable * GIB, bandwidth * GB, link * GB, wraps)


def _gpu(half: float, single: float, memory: float, bandwidth: float) -> Chip:
  return Chip(half * T, single * T, memory * GB, 0.95 * memory * GB, bandwidth * GB)


# Link: the published figure is of all ports (four in a plane, six in three dimensions) and both directions; an axis
# has two ports, and half of the figure leaves the chip. For v5e: 400 GB/s / 4 ports x 2 ports / 2.
CHIPS = {
  "TPU v4": _tpu(275, 32, 30.5, 1228, 100, 4),
  "TPU v5 lite": _tpu(197, 16, 15.75, 819, 100, 16),
  "TPU v5": _tpu(459, 95, 95.73, 2765, 200, 4),
  "TPU v6 lite": _tpu(918, 32, 31.24, 1638, 200, 16),
  "NVIDIA A100-SXM4-40GB": _gpu(312, 156, 40, 1555),
  "NVIDIA A100-SXM4-80GB": _gpu(312, 156, 80, 2039),
  "NVIDIA A100 80GB PCIe": _gpu(312, 156, 80, 1935),
  "NVIDIA H100 80GB HBM3": _gpu(989.5, 494.7, 80, 3350),
  "NVIDIA H100 PCIe": _gpu(756, 378, 80, 2000),
  "NVIDIA H200": _gpu(989.5, 494.7, 141, 4800),
  "NVIDIA B200": _gpu(2250, 1125, 180, 7700),
  "NVIDIA L4": _gpu(121, 60, 24, 300),
  "NVIDIA L20": _gpu(119.5, 59.8, 48, 864),
  "NVIDIA L40S": _gpu(362, 183, 48, 864),
  "NVIDIA GeForce RTX 4090": _gpu(165.2, 82.6, 24, 1008),
}

# Other names of the same chips, as found in `device_kind`.
_ALIASES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}


def chip_of(kind: str) -> Chip | None:
  """The chip of a `device_kind`, or None if it is not in the table."""
  kind = _ALIASES.get(kind, kind)
  known = sorted((name for name in CHIPS if kind.startswith(name)), key=len)
  return CHIPS[known[-1]] if known and (kind == known[-1] or kind.startswith("NVIDIA")) else None


def peak_flops(kind: str, dtype: Any = "bfloat16") -> float | None:
  """Floating-point operations a second that one device can do, the denominator of utilisation.

  Args:
    kind: `jax.devices()[0].device_kind`, such as "TPU v5 lite" or "cpu".
    dtype: compute type: float32, or anything narrower.

  Returns:
    None for a device that is not in the table. For "cpu", what a float32 matrix product reaches
    here, shared between the CPU devices that XLA was told to make.
  """
  if kind.lower() == "cpu":
    return measured_rate() / jax.local_device_count("cpu")
  chip = chip_of(kind)
  if chip is None:
    return None
  return chip.single if np.dtype(dtype).itemsize > 2 else chip.half


@functools.cache
def measured_rate(size: int = 1024, repeats: int = 8) -> float:
  """Operations a second of a float32 product of two square matrices on the CPU, the best of several."""
  x = jax.device_put(np.ones((size, size), np.float32), jax.local_devices(backend="cpu")[0])
  product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
  times = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    times.append(time.perf_counter() - start)
  return 2.0 * size**3 / min(times[1:])
