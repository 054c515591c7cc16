"""What addresses look like in any language: mail, URLs, hosts, paths, versions, file names.

The language's own files give the words of the signs; a pattern here says where an address begins
and ends. Every repetition is bounded, so that time stays linear.
"""

import re
from collections.abc import Callable

_TLD = (
  "com|org|net|io|edu|gov|mil|int|info|biz|dev|app|ai|co|me|tv|uk|us|ca|au|de|fr|es|it|nl|eu|ru|jp|kr|cn|tw|hk|sg|in"
  "|br|ch|at|be"
  "|se|no|dk|fi|pl|pt|cz|gr|tr|mx|nz|ie|xyz|online|site|tech|store|shop|blog|cloud|top|vip|wiki|live|gg|ly|fm|be|to|cc"
)
_SURE = "com|org|net|io|edu|gov|info|biz|dev|app|ai|cn|uk|de|jp|kr|fr|ru|xyz|wiki|gg"  # hosts of two names with these
_FILES = (
  "txt|pdf|docx?|xlsx?|pptx?|csv|tsv|json|jsonl|ya?ml|toml|xml|html?|css|scss|jsx?|tsx?|mjs|py|ipynb|rb|rs|go|java|kt"
  "|swift|cpp|cc|hpp"
  "|c|h|cs|php|pl|lua|sh|bash|zsh|bat|ps1|sql|md|rst|tex|log|ini|cfg|conf|env|lock|zip|tar|gz|tgz|bz2|xz|7z|rar|exe"
  "|dll|so|dmg|apk|ipa"
  "|iso|bin|dat|db|sqlite|png|jpe?g|gif|svg|webp|bmp|ico|mp3|mp4|m4a|wav|flac|ogg|opus|avi|mkv|mov|webm|srt|vtt|ttf"
  "|woff2?|pt|pth|onnx"
  "|ckpt|safetensors|npz|npy|vue|proto|gradle|jar|war|class|whl|deb|rpm|key|pem|crt|epub|psd|ai|bak|tmp"
)
_PATH = r"[A-Za-z0-9._~%!$&'()*+,;=:@/?#-]"
_TAIL = rf"(?:[/?#](?:{_PATH}{{0,299}}[A-Za-z0-9_/=#%&~-])?)?"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_BEFORE = r"(?<![A-Za-z0-9._@/\\-])"

URL = rf"(?<![A-Za-z0-9])(?:https?|ftp|wss?|ssh|git|file|s3)://{_PATH}{{0,399}}[A-Za-z0-9_/=#%&~-]"
MAIL = (
  rf"{_BEFORE}[A-Za-z0-9][A-Za-z0-9._%+-]{{0,63}}@(?:(?:{_LABEL}\.){{1,5}}[A-Za-z]{{2,12}}(?![A-Za-z])"
  rf"(?::[A-Za-z0-9_/.-]{{1,99}}(?<![.]))?|(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}})"
)
HOST = (
  rf"{_BEFORE}(?:www\.(?:{_LABEL}\.){{1,5}}[a-z]{{2,12}}|(?:{_LABEL}\.){{1,5}}(?:{_SURE})|(?:{_LABEL}\.)"
  rf"{{2,5}}(?:{_TLD})"
  rf"|(?:{_LABEL}\.){{1,5}}(?:{_TLD})(?=/)|localhost(?=[:/])|(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}(?=[:/]))"
  rf"(?![A-Za-z0-9@-])(?::[0-9]{{2,5}})?{_TAIL}"
)
IP = r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:/[0-9]{1,2})?(?![0-9.]?[0-9])"
FILE = (
  rf"{_BEFORE}(?:[A-Za-z]:[\\/]|~[\\/]|\.{{0,2}}[\\/])?(?:[A-Za-z0-9_-]{{1,64}}[\\/])"
  rf"{{0,9}}[A-Za-z0-9_-]{{1,64}}(?:\.[A-Za-z0-9_-]{{1,32}}){{0,3}}\.(?:{_FILES})(?![A-Za-z0-9_])"
)
PATH = (
  r"(?<![A-Za-z0-9._@/\\<-])(?:(?:~|\.{1,2})/(?:[A-Za-z0-9_.-]{1,64}/?){0,12}|/(?:[A-Za-z0-9_.-]{1,64}/)"
  r"{1,12}[A-Za-z0-9_.-]{0,64}|/(?:etc|usr|tmp|var|home|opt|dev|bin|root)(?![A-Za-z])"
  r"|[A-Za-z]:\\(?:[A-Za-z0-9_. -]{1,64}\\){0,12}[A-Za-z0-9_.-]{0,64})(?<![.,])"
)
HANDLE = r"(?<![A-Za-z0-9._/@])@[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,38}[A-Za-z0-9_])?"
VERSION = (
  r"(?<![0-9A-Za-z.])([vV]\.?\s?)?([0-9]{1,9}(?:\.[0-9]{1,9}){2,9})(?:-?(alpha|beta|rc|dev|b|a)\.?([0-9]{0,3})"
  r")?(?![A-Za-z0-9.]?[A-Za-z0-9])"
)
IDENTIFIER = r"(?<![A-Za-z0-9_|])[A-Za-z][A-Za-z0-9]{0,63}(?:_[A-Za-z0-9]{1,64}){1,12}(?![A-Za-z0-9_])"


def spell(address: str, names: dict[str, str], number: Callable[[str], str], joint: str) -> str:
  """An address as it is said: signs by their names, numbers by `number`, letters as they are.

  Args:
    address: without its scheme.
    names: what a sign is called; those without a name fall away.
    number: words of a run of digits.
    joint: between the parts.
  """
  parts = []
  for part in re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]", address):
    if part.isdigit():
      parts.append(number(part))
    elif part.isalpha():
      parts.append(part)
    elif part in names:
      parts.append(names[part])
  return joint.join(parts)


def without_scheme(url: str) -> str:
  """A URL without https:// and a slash at the end."""
  return re.sub("^[a-z0-9]{2,5}://", "", url).rstrip("/")
