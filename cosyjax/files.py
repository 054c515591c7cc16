"""Files and directories that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cosyjax.errors import OutputError


@contextlib.contextmanager
def whole(path: str | Path, *, directory: bool = False) -> Iterator[Path]:
  """Yield a name beside `path` to write to; it becomes `path` when the block ends well.

  A file replaces what stood there, and a link stays a link to what is written. A directory is made with its parents
  and takes the place of nothing, or of an empty one. If the block or the disk fails, what stood there is as it was,
  and nothing is left beside it.

  Args:
    path: what is written.
    directory: whether it is one, which the block then finds empty; else the block writes one file.

  Raises:
    OutputError: it cannot be written: an `OSError` in the block, or in what follows it.
  """
  path = Path(os.path.realpath(path))
  part = path.parent / f".{secrets.token_hex(8)}.part"  # not by its name, which may be as long as names get
  try:
    if directory:
      path.parent.mkdir(parents=True, exist_ok=True)
      part.mkdir()
    yield part
    if directory:
      if path.exists():
        path.rmdir()
    else:
      with part.open("rb") as file:  # on the disk before its name is: a crash leaves the old file or the new one
        os.fsync(file.fileno())
    part.replace(path)
  except OutputError:
    raise
  except OSError as error:
    raise OutputError(f"{path}: not written ({error.strerror or error})") from error
  finally:
    if directory:
      shutil.rmtree(part, ignore_errors=True)
    else:
      part.unlink(missing_ok=True)


def write_whole(path: str | Path, data: bytes | memoryview | str) -> None:
  """Write a file whole or not at all.

  Args:
    path: of the file; its folder exists.
    data: all of it; a text becomes UTF-8.

  Raises:
    OutputError: the file cannot be written. What stood there is as it was.
  """
  with whole(path) as part:
    part.write_bytes(data.encode() if isinstance(data, str) else data)
