"""Recordings that come with a request: data URLs, base64, uploads, and where allowed files and URLs.

Each way is bounded in bytes before anything is decoded, and in seconds while it is.
"""

import base64
import binascii
import io
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from cosyjax import audio
from cosyjax.audio.containers import blocks
from cosyjax.errors import AudioError
from cosyjax.serving.problems import Problem
from cosyjax.serving.settings import Settings

FETCH_SECONDS = 10.0


def from_reference(text: str, settings: Settings, param: str = "ref_audio") -> bytes:
  """The bytes that `ref_audio` stands for. Blocks while it fetches: not for the event loop.

  Args:
    text: `data:audio/...;base64,...`, base64 alone, or where the operator allows it file:// or http(s)://.
    settings: what is allowed, and how much.

  Raises:
    Problem: not allowed, too large, or not there.
  """
  most = settings.limits.recording
  scheme = text[:8].split(":", 1)[0].lower() if ":" in text[:8] else ""
  if scheme == "data":
    head, comma, data = text.partition(",")
    if not comma or not head.lower().endswith(";base64"):
      raise Problem(400, f"{param}: expected a data URL of the form data:audio/wav;base64,...", "invalid_audio", param)
    return _base64(data, most, param)
  if scheme == "file":
    return _from_file(text, settings.files, most, param)
  if scheme in ("http", "https"):
    return _from_url(text, settings.url_hosts, most, param)
  return _base64(text, most, param)


def _base64(data: str, most: int, param: str) -> bytes:
  if len(data) > 4 * (most // 3 + 4):
    raise Problem(413, f"{param}: expected at most {most} bytes of audio, found more", "too_large", param)
  try:
    return base64.b64decode(data.encode("ascii"), validate=True)
  except (ValueError, binascii.Error) as error:
    raise Problem(400, f"{param}: expected base64, or a data URL", "invalid_audio", param) from error


def _from_file(text: str, root: Path | None, most: int, param: str) -> bytes:
  if root is None:
    raise Problem(403, f"{param}: this server reads no files; send a data URL", "files_closed", param)
  missing = Problem(400, f"{param}: there is no such file below the directory that may be read", "invalid_audio", param)
  try:
    path = Path(unquote(urlsplit(text).path)).resolve(strict=True)
    if not path.is_relative_to(root.resolve()) or not path.is_file():
      raise missing
    with path.open("rb") as file:
      data = file.read(most + 1)
  except (OSError, ValueError, RuntimeError) as error:
    raise missing from error
  if len(data) > most:
    raise Problem(413, f"{param}: expected at most {most} bytes of audio, found more", "too_large", param)
  return data


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  def redirect_request(self, *_: object) -> None:
    return None


def _from_url(url: str, hosts: tuple[str, ...], most: int, param: str) -> bytes:
  try:
    host = urlsplit(url).hostname or ""
  except ValueError:
    host = ""
  if host not in hosts:
    raise Problem(403, f"{param}: this server fetches nothing from there; send a data URL", "urls_closed", param)
  try:
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=FETCH_SECONDS) as answer:
      data = answer.read(most + 1)
  except (OSError, ValueError, urllib.error.URLError) as error:
    raise Problem(400, f"{param}: the URL could not be fetched", "invalid_audio", param) from error
  if len(data) > most:
    raise Problem(413, f"{param}: expected at most {most} bytes of audio, found more", "too_large", param)
  return data


def decode(data: bytes, max_seconds: float, param: str = "ref_audio") -> tuple[np.ndarray, int]:
  """Decodes a recording as mono, in any format that `cosyjax.audio.read` knows, and FLAC of open length.

  Args:
    data: a file's bytes.
    max_seconds: longer ones are refused, however small they are packed.
    param: field named in errors.

  Returns:
    float32 [A] and the rate in Hz.

  Raises:
    AudioError: not audio, damaged, or too long.
  """
  try:
    if len(data) > 42 and data[:4] == b"fLaC" and not any(data[22:26]) and not data[21] & 15:
      return _open_flac(data, max_seconds, param)  # a stream's, whose head does not say how long it is
    return audio.read(io.BytesIO(data), max_seconds=max_seconds)
  except AudioError as error:
    raise AudioError(str(error).replace("audio stream", param)) from error


def _open_flac(data: bytes, max_seconds: float, param: str) -> tuple[np.ndarray, int]:
  rate, parts = blocks(io.BytesIO(data), "flac", param)
  found, taken = [], 0
  for values_AC in parts:
    found.append(values_AC)
    taken += len(values_AC)
    if taken > max_seconds * rate:
      raise AudioError(f"{param}: expected at most {max_seconds:g} s of audio, found more")
  if not found:
    raise AudioError(f"{param}: expected audio, found no samples")
  return audio.mix_down(np.concatenate(found), param), rate
