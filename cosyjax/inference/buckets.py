"""Shape buckets: the few sizes that programs are compiled for.

Every request is padded to the next size, so that after a warm-up nothing is compiled. The
default ladders grow by a half or a third: at most that share of a stage is spent on
padding, for a dozen programs per stage.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from cosyjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Buckets:
  """Sizes, each ladder ascending.

  Attributes:
    batch: rows computed together. The last is the largest batch.
    seconds: prompt recordings, given to the front ends and encoders.
    source_seconds: recordings to convert to another voice.
    prefix: LM rows before the first new token (text, prompt text and prompt tokens).
    cache: LM slots, prefix and new tokens together.
    tokens: speech tokens of a flow solve, prompt included; the mel has twice as many frames.
    frames: mel frames of a vocoder run.
    history: mel frames that a stream's flow caches have room for.
  """

  batch: tuple[int, ...] = (1, 2, 4, 8, 16)
  seconds: tuple[int, ...] = (4, 8, 16, 30)
  source_seconds: tuple[int, ...] = (4, 8, 16, 30, 60, 120, 300, 600)
  prefix: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
  cache: tuple[int, ...] = (512, 1024, 2048, 4096)
  tokens: tuple[int, ...] = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
  frames: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
  history: tuple[int, ...] = (256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 6144, 8192, 16384)

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      ladder = getattr(self, field.name)
      if not ladder or list(ladder) != sorted(set(ladder)) or ladder[0] < 1:
        raise ConfigError(f"buckets.{field.name}: expected ascending positive sizes, found {ladder}")

  def fit(self, ladder: str, size: int) -> int:
    """The smallest bucket of `ladder` that holds `size`.

    Raises:
      ConfigError: none does.
    """
    return fit(getattr(self, ladder), size, ladder)

  def up_to(self, ladder: str, size: int) -> tuple[int, ...]:
    """All buckets that a size of at most `size` can land in."""
    top = self.fit(ladder, size)
    return tuple(b for b in getattr(self, ladder) if b <= top)


def fit(ladder: Sequence[int], size: int, what: str) -> int:
  """The smallest of ascending sizes that holds `size`; `what` names it in the error.

  Raises:
    ConfigError: none does.
  """
  for bucket in ladder:
    if bucket >= size:
      return bucket
  raise ConfigError(f"{size} {what} are more than the largest bucket, {ladder[-1]}")


def groups(sizes: list[int], largest: int) -> Iterator[list[int]]:
  """Indices in batches of at most `largest`, rows of like size together (less padding)."""
  order = sorted(range(len(sizes)), key=lambda i: sizes[i])
  for start in range(0, len(order), largest):
    yield order[start : start + largest]
