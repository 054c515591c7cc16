"""Audio files are written whole or not at all."""

import errno
import io
import os
import resource

import numpy as np
import pytest
import soundfile

from cosyjax.audio import read, write
from cosyjax.errors import AudioError, OutputError


def sine(rate, level=0.5):
  return (level * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)


def fails(code):
  def function(*_, **__):
    raise OSError(code, os.strerror(code))

  return function


def names(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
  ("name", "subtype", "atol"), [("a.wav", "PCM_16", 1e-4), ("a.FLAC", "PCM_24", 1e-6), ("a.wav", "FLOAT", 0)]
)
def test_write_then_read(tmp_path, name, subtype, atol):
  wave_A = 2.5 * sine(24_000)
  write(tmp_path / name, wave_A, subtype=subtype)
  back_A, rate = read(tmp_path / name)
  assert rate == 24_000 and names(tmp_path) == [name]
  np.testing.assert_allclose(back_A, wave_A if subtype == "FLOAT" else np.clip(wave_A, -1, 1), atol=atol)
  mask = os.umask(0)
  os.umask(mask)
  assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_write_replaces_and_follows_links(tmp_path):
  (tmp_path / "a.wav").write_bytes(b"before")
  (tmp_path / "link.wav").symlink_to("a.wav")
  write(tmp_path / "link.wav", sine(24_000), 24_000)
  assert (tmp_path / "link.wav").is_symlink() and len(read(tmp_path / "a.wav")[0]) == 24_000


def test_write_refuses_before_any_work(tmp_path, monkeypatch):
  monkeypatch.setattr(soundfile, "write", lambda *_, **__: pytest.fail("encoded"))
  (tmp_path / "folder.wav").mkdir()
  os.mkfifo(tmp_path / "pipe.wav")
  wave_A = sine(24_000)
  for name, subtype, message in [
    ("a.mp4", "PCM_16", r"ending in \.wav or \.flac, found '\.mp4'"),
    ("a", "PCM_16", "found 'none'"),
    ("a.flac", "FLOAT", "subtype of FLAC .*PCM_16.* found 'FLOAT'"),
    ("none/a.wav", "PCM_16", "folder does not exist"),
    ("folder.wav", "PCM_16", "something else"),
    ("pipe.wav", "PCM_16", "something else"),
  ]:
    with pytest.raises(OutputError, match=message):
      write(tmp_path / name, wave_A, subtype=subtype)
  for bad in (np.array([0.1, np.nan]), np.zeros((2, 5))):
    with pytest.raises(AudioError, match="finite samples"):
      write(tmp_path / "a.wav", bad)
  assert names(tmp_path) == ["folder.wav", "pipe.wav"]


def test_write_refuses_a_rate_that_the_format_lacks(tmp_path):
  with pytest.raises(OutputError, match="FLAC cannot hold"):
    write(tmp_path / "a.flac", sine(24_000), 10_000_000)
  assert not names(tmp_path)


@pytest.mark.parametrize(
  ("owner", "name", "code"),
  [(os, "fsync", errno.ENOSPC), (os, "replace", errno.EIO), (io, "open", errno.EROFS)],
)
@pytest.mark.parametrize("before", [None, b"before"])
def test_failure_leaves_target_as_it_was(tmp_path, monkeypatch, owner, name, code, before):
  path = tmp_path / "a.wav"
  if before is not None:
    path.write_bytes(before)
  with monkeypatch.context() as patch:
    patch.setattr(owner, name, fails(code))
    with pytest.raises(OutputError, match=os.strerror(code)):
      write(path, sine(24_000))
  assert names(tmp_path) == ([] if before is None else ["a.wav"])
  assert before is None or path.read_bytes() == before


def test_full_disk_leaves_nothing(tmp_path):
  path = tmp_path / "a.wav"
  path.write_bytes(b"before")
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a write past 10 kB fails, as on a full disk
  try:
    with pytest.raises(OutputError, match="not written"):
      write(path, sine(24_000))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert names(tmp_path) == ["a.wav"] and path.read_bytes() == b"before"


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
  def interrupt(_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "fsync", interrupt)
  with pytest.raises(KeyboardInterrupt):
    write(tmp_path / "a.wav", sine(24_000))
  assert not names(tmp_path)
