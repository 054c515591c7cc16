"""PyTorch checkpoints written by hand: opcodes as bytes, so that what a test does to them is plain to see."""

import struct
import zipfile
from pathlib import Path

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
  raw = value.encode()
  return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
  raw = value.to_bytes(8, "little", signed=True) if abs(value) < 2**63 else value.to_bytes(20, "little", signed=True)
  return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values) -> bytes:
  return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, count: int, kind: str = "Float") -> bytes:
  return (
    b"("
    + text("storage")
    + b"ctorch\n"
    + kind.encode()
    + b"Storage\n"
    + text(key)
    + text("cpu")
    + number(count)
    + b"tQ"
  )


def tensor(key: str, count: int, shape, strides, offset: int = 0, kind: str = "Float") -> bytes:
  hooks = b"ccollections\nOrderedDict\n)R"
  view = number(offset) + numbers(shape) + numbers(strides)
  return TENSOR + b"(" + storage(key, count, kind) + view + b"\x89" + hooks + b"tR"


def program(**entries: bytes) -> bytes:
  items = b"".join(text(name) + value for name, value in entries.items())
  return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def checkpoint(path: Path, pickled: bytes, data: dict[str, bytes], **extra: bytes) -> Path:
  """Writes the zip that `torch.save` would."""
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickled)
    for key, raw in data.items():
      archive.writestr(f"archive/data/{key}", raw)
    for name, raw in extra.items():
      archive.writestr(f"archive/{name}", raw)
  return path
