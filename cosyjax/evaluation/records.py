"""Results of an evaluation: JSON lines under a header, added one by one.

A stopped run goes on where it was. The first line says what made the others (settings, names, digests); a file is
only continued under an equal header. Lines are added in place, not beside the target: what is there already is the
point of the file. A last line that a kill cut short is dropped when the file is opened again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosyjax.errors import ConfigError, DataError, OutputError

FORMAT = 1


class Records:
  """An open file of results. One writer at a time.

  Attributes:
    path: of the file.
    header: what made the results.
    rows: results by id, in the order in which they were added.
  """

  def __init__(self, path: str | Path, header: dict[str, Any]) -> None:
    """Open a file to go on with, or start one.

    Args:
      path: of the file; its folder is made.
      header: compared with that of a file that is there.

    Raises:
      ConfigError: the file was made under another header; the message names what differs.
      DataError: it is damaged before its last line.
      OutputError: it cannot be written.
    """
    self.path = Path(path)
    self.header = json.loads(json.dumps({"format": FORMAT, **header}))
    self.rows: dict[str, Any] = {}
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      _drop_torn_line(self.path)
      fresh = not self.path.exists() or not self.path.stat().st_size
      if not fresh:
        found, self.rows = read_records(self.path)
        _check_equal(self.path, self.header, found)
      self._file = self.path.open("ab")
      if fresh:
        self._write(self.header)
    except OSError as error:
      raise OutputError(f"{self.path}: cannot be written ({error.strerror or error})") from error

  def __contains__(self, name: str) -> bool:
    return name in self.rows

  def add(self, row: dict[str, Any]) -> None:
    """Append a result with an "id" of its own; it is then on disk.

    Raises:
      DataError: a result of this id is there.
      OutputError: it cannot be written.
    """
    if row["id"] in self.rows:
      raise DataError(f"{self.path}: expected one result of {row['id']!r}, got a second one")
    try:
      self._write(row)
    except OSError as error:
      raise OutputError(f"{self.path}: cannot be written ({error.strerror or error})") from error
    self.rows[row["id"]] = row

  def _write(self, row: dict[str, Any]) -> None:
    self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file; nothing can be added afterwards."""
    self._file.close()

  def __enter__(self) -> "Records":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def read_records(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Read a file of results: (header, rows by id).

  A last line that was cut short is passed over.

  Raises:
    DataError: no such file, no header, of another format, or damaged before its last line.
  """
  path = Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise DataError(f"{path}: expected results of an evaluation ({error.strerror or error})") from error
  rows = list(_parse(path, data[: data.rfind(b"\n") + 1]))
  if not rows or "format" not in rows[0]:
    raise DataError(f"{path}: expected a header in the first line, found none")
  if rows[0]["format"] != FORMAT:
    raise DataError(f"{path}: expected results of format {FORMAT}, found {rows[0]['format']!r}")
  return rows[0], {row["id"]: row for row in rows[1:]}


def _parse(path: Path, data: bytes) -> Iterator[dict[str, Any]]:
  for number, line in enumerate(data.splitlines(), 1):
    try:
      row = json.loads(line)
    except ValueError as error:
      raise DataError(f"{path}:{number}: expected a JSON object, found what is not JSON ({error})") from error
    if not isinstance(row, dict) or (number > 1 and "id" not in row):
      raise DataError(f"{path}:{number}: expected an object with an id, found {line[:60]!r}")
    yield row


def _drop_torn_line(path: Path) -> None:
  if path.exists():
    data = path.read_bytes()
    if not data.endswith(b"\n"):
      os.truncate(path, data.rfind(b"\n") + 1)


def _check_equal(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
  differs = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
  if differs:
    parts = [f"{name}: {found.get(name)!r}, now {wanted.get(name)!r}" for name in differs]
    raise ConfigError(f"{path} was made with other settings ({'; '.join(parts)}): name another folder, or delete it")


def digest_of(path: str | Path) -> str:
  """SHA-256 of a file, or of a folder's files and their names: 64 hexadecimal digits.

  Raises:
    DataError: nothing is there, or it cannot be read.
  """
  path = Path(path)
  try:
    if path.is_file():
      with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
      raise DataError(f"{path}: expected a file or a folder with files, found none")
    whole = hashlib.sha256()
    for file in files:
      whole.update(f"{digest_of(file)}  {file.relative_to(path).as_posix()}\n".encode())
    return whole.hexdigest()
  except OSError as error:
    raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
