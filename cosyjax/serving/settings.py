"""What an operator decides: addresses, keys, limits, and what a request may reach."""

import dataclasses
import hashlib
import hmac
import ipaddress
from pathlib import Path

from cosyjax.errors import ConfigError

OPENAI_VOICES = (
  "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse", "marin", "cedar"
)  # fmt: skip
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
MB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
  """Bounds of what one request, and all of them together, may take.

  Attributes:
    text: characters of `input`.
    arriving_text: characters of one utterance whose text arrives in pieces.
    instruction: characters of `instructions` and of `ref_text`.
    body: bytes of a request's body.
    recording: bytes of a reference recording, decoded from base64.
    prompt_seconds: longest reference recording.
    source_seconds: longest recording to convert.
    batch: items of a batch.
    connections: requests and sockets open at once.
    analyses: recordings that may wait for the device.
    voices: voices that may be kept.
    voice_bytes: size of a voice file.
    unread: bytes of one request's audio that its reader has not taken; making more then waits.
    unread_all: bytes of all unread audio; beyond it new requests are refused.
    stall: seconds after which a reader who takes nothing is cut off.
    body_seconds: time within which a request's body has to arrive.
    text_seconds: seconds without new text after which an utterance's text counts as ended.
    idle_seconds: seconds without an utterance after which a socket is closed.
    retry_after: seconds that a refused client is told to wait.
    drain: seconds that running requests get when the server is told to stop.
  """

  text: int = 4096
  arriving_text: int = 128 << 10
  instruction: int = 2048
  body: int = 16 * MB
  recording: int = 10 * MB
  prompt_seconds: float = 30.0
  source_seconds: float = 60.0
  batch: int = 32
  connections: int = 512
  analyses: int = 8
  voices: int = 256
  voice_bytes: int = 4 * MB
  unread: int = 32 * MB
  unread_all: int = 512 * MB
  stall: float = 120.0
  body_seconds: float = 30.0
  text_seconds: float = 30.0
  idle_seconds: float = 60.0
  retry_after: int = 2
  drain: float = 30.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """One server's settings.

  Attributes:
    model_name: what `GET /v1/models` lists.
    host, port: of HTTP and WebSocket.
    keys: of clients; None leaves the door open.
    hosts: names by which clients may call the server besides its own; on loopback, other names are refused.
    origins: pages of other origins that may call the server (CORS); "*" for all.
    files: directory whose recordings `ref_audio` may name as file://; None for none.
    url_hosts: hosts from which `ref_audio` may be fetched.
    default_voice: of requests that name none, and of OpenAI's names.
    aliases: further names of voices.
    log_texts: whether texts appear in the log.
    random_weights: whether the model only makes noise; the page and `GET /v1/models` say so.
    history: what the engine's flow keeps of every stream; a request may only name it.
    flow_steps: most Euler steps that a request may ask for, those that were compiled; None for no such bound.
    page: whether the page is served.
    limits: see `Limits`.
  """

  model_name: str = "cosyjax"
  host: str = "127.0.0.1"
  port: int = 8000
  keys: "Keys | None" = None
  hosts: tuple[str, ...] = ()
  origins: tuple[str, ...] = ()
  files: Path | None = None
  url_hosts: tuple[str, ...] = ()
  default_voice: str | None = None
  aliases: dict[str, str] = dataclasses.field(default_factory=dict)
  log_texts: bool = False
  random_weights: bool = False
  history: str = "full"
  flow_steps: int | None = None
  page: bool = True
  limits: Limits = dataclasses.field(default_factory=Limits)


class Keys:
  """API keys of clients, kept as digests."""

  def __init__(self, keys: list[str]) -> None:
    self._digests = [_digest(key) for key in keys]

  @classmethod
  def read(cls, path: str | Path) -> "Keys":
    """Reads a file with one key a line; empty lines and those that begin with # are passed over.

    Raises:
      ConfigError: it cannot be read, has no key, or a key is shorter than 16 characters.
    """
    try:
      lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise ConfigError(f"API key file {path} cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
      raise ConfigError(f"API key file {path} has no key in it: expected one a line")
    for number, key in enumerate(keys):
      if len(key) < 16:
        raise ConfigError(f"API key file {path}: key {number + 1} has {len(key)} characters, at least 16 are needed")
    return cls(keys)

  def admit(self, key: str) -> bool:
    """Whether `key` is one of them, in time that does not depend on how much of it is right."""
    given, found = _digest(key), False
    for digest in self._digests:
      found |= hmac.compare_digest(digest, given)
    return found


def _digest(key: str) -> bytes:
  return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_loopback(host: str) -> bool:
  """Whether an address can be reached from this machine alone."""
  if host.lower() == "localhost":
    return True
  try:
    return ipaddress.ip_address(host.strip("[]")).is_loopback
  except ValueError:
    return False


def check_open(host: str, keys: Keys | None, no_auth: bool) -> None:
  """Refuses to listen to other machines without keys, unless that is said plainly.

  Raises:
    ConfigError: neither loopback, nor keys, nor `no_auth`.
  """
  if not is_loopback(host) and keys is None and not no_auth:
    raise ConfigError(
      f"--host {host} can be reached from other machines: give --api-key-file, or --no-auth if anybody may use it"
    )
