"""Files and directories that appear whole or not at all."""

import os

import pytest

from cosyjax.errors import OutputError
from cosyjax.files import whole, write_whole


def test_a_file_replaces_what_stood_there(tmp_path):
  path = tmp_path / ("n" * 255)  # as long as names get
  write_whole(path, "前")
  write_whole(str(path), memoryview(b"after"))
  assert path.read_bytes() == b"after" and list(tmp_path.iterdir()) == [path]
  assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_link_stays_a_link(tmp_path):
  target, link = tmp_path / "target", tmp_path / "link"
  target.write_text("before")
  link.symlink_to(target)
  write_whole(link, "after")
  assert link.is_symlink() and target.read_text() == "after"


def test_a_directory_takes_the_place_of_nothing_or_an_empty_one(tmp_path):
  path = tmp_path / "a" / "b"
  for content in ("one", "two"):
    with whole(path, directory=True) as part:
      assert part.is_dir() and part.parent == path.parent
      (part / "file").write_text(content)
    assert (path / "file").read_text() == content
    (path / "file").unlink()
  (path / "kept").write_text("x")
  with pytest.raises(OutputError, match="not written"), whole(path, directory=True) as part:
    (part / "file").write_text("three")
  assert [p.name for p in path.iterdir()] == ["kept"] and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("other"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failure(tmp_path, directory, error):
  path = tmp_path / "x"
  kind = OutputError if isinstance(error, OSError) else type(error)
  with pytest.raises(kind) as caught, whole(path, directory=directory) as part:
    (part / "file" if directory else part).write_text("half")
    raise error
  assert list(tmp_path.iterdir()) == []
  assert kind is not OutputError or "x: not written (No space left on device)" in str(caught.value)


def test_errors_that_are_typed_already_stay_as_they_are(tmp_path):
  with pytest.raises(OutputError, match=r"^inner$"), whole(tmp_path / "x"):
    raise OutputError("inner")
  with pytest.raises(OutputError, match="not written"):
    write_whole(tmp_path / "absent" / "x", b"")
  with pytest.raises(OutputError, match="not written"), whole(tmp_path / "x"):
    pass  # the block wrote nothing


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask
