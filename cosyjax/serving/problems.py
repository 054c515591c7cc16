"""What went wrong, as a status and as the JSON that OpenAI's clients read."""

import dataclasses
import errno
from typing import Any

from cosyjax.errors import (
  AudioError,
  BusyError,
  CheckpointError,
  ConfigError,
  CosyError,
  EngineError,
  OutputError,
  TextError,
  TokenError,
)

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclasses.dataclass(eq=False)
class Problem(CosyError):
  """A request that is answered with an error.

  Attributes:
    status: of HTTP.
    message: what is wrong and what would be right.
    code: for programs.
    param: field of the request, if one is to blame.
    retry_after: seconds to wait, where trying again may help.
  """

  status: int
  message: str
  code: str
  param: str | None = None
  retry_after: int | None = None

  def __post_init__(self) -> None:
    super().__init__(self.message)

  def __str__(self) -> str:
    return self.message

  @property
  def type(self) -> str:
    """OpenAI's word for the kind of error."""
    return TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

  def body(self) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

  def headers(self) -> dict[str, str]:
    """Headers that go with the answer."""
    more = {"retry-after": str(self.retry_after)} if self.retry_after is not None else {}
    return more | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


# The first that fits. Input that cannot be used is the client's, a lost engine or a full disk is ours.
_RULES: tuple[tuple[type[BaseException], int, str], ...] = (
  (TextError, 400, "invalid_text"),
  (AudioError, 400, "invalid_audio"),
  (ConfigError, 400, "invalid_value"),
  (BusyError, 429, "busy"),
  (EngineError, 503, "engine_unavailable"),
  (CheckpointError, 500, "voice_damaged"),
  (OutputError, 500, "not_written"),
  (TokenError, 500, "generation_failed"),
)


def problem_of(error: BaseException, *, param: str | None = None, retry_after: int = 2) -> Problem:
  """The answer to an error; of one that nobody foresaw it tells nothing but that it happened."""
  if isinstance(error, Problem):
    return error
  if isinstance(error, OutputError) and _disk_full(error):
    return Problem(507, "the disk is full; nothing was kept", "disk_full")
  for kind, status, code in _RULES:
    if isinstance(error, kind):
      again = retry_after if status in (429, 503) else None
      return Problem(status, str(error), code, param, again)
  return Problem(500, "the request failed inside the server; its log has the reason", "internal_error")


def _disk_full(error: BaseException) -> bool:
  cause: BaseException | None = error
  while cause is not None:
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    cause = cause.__cause__
  return False


def unavailable(message: str, retry_after: int) -> Problem:
  """503: the server is starting, stopping, or without an engine."""
  return Problem(503, message, "not_ready", None, retry_after)
