"""Reads and writes the compressed golden files; see tests/golden/README.md."""

import io
import lzma
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def pack(data: bytes) -> bytes:
  """Four byte planes, one after the other, then xz."""
  whole = len(data) // 4 * 4
  planes = np.frombuffer(data[:whole], np.uint8).reshape(-1, 4).T.tobytes()
  return lzma.compress(planes + data[whole:], preset=9 | lzma.PRESET_EXTREME)


def unpack(data: bytes) -> bytes:
  """Inverse of `pack`."""
  data = lzma.decompress(data)
  whole = len(data) // 4 * 4
  return np.frombuffer(data[:whole], np.uint8).reshape(4, -1).T.tobytes() + data[whole:]


def arrays(name: str) -> dict[str, np.ndarray]:
  """Arrays of one golden `.npz`, by its name without ending."""
  with np.load(io.BytesIO(unpack((GOLDEN / f"{name}.npz.xz").read_bytes())), allow_pickle=False) as file:
    return dict(file)


def release(target: Path) -> Path:
  """Unpacks the small release directory into `target` and returns it."""
  root = GOLDEN / "release"
  for source in root.rglob("*"):
    if source.is_file():
      out = target / source.relative_to(root).with_suffix("" if source.suffix == ".xz" else source.suffix)
      out.parent.mkdir(parents=True, exist_ok=True)
      data = source.read_bytes()
      out.write_bytes(unpack(data) if source.suffix == ".xz" else data)
  return target
