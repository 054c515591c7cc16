"""The first step of a text stream, and the one before ids: clean text, and tags told from it.

Both machines have a bounded state, and what they give depends on the text alone, not on how
it was cut. `Composer` holds a character until it is known what marks it bears, `TagScanner`
what may be the beginning of a tag.
"""

import re
import unicodedata
from collections.abc import Iterator

from cosyjax.errors import TextError
from cosyjax.text import tags
from cosyjax.text.frontend import MOST_MARKS
from cosyjax.text.text_tokenizer import TextTokenizer, is_han


class Composer:
  """Unicode NFC of text that arrives in pieces; with `strip`, all of `clean`."""

  def __init__(self, strip: bool = True) -> None:
    self._strip, self._marks, self._held = strip, 0, ""

  @property
  def held(self) -> int:
    """Characters that wait for more."""
    return len(self._held)

  def feed(self, text: str) -> str:
    """What is certain of the text so far and has not been returned before."""
    held = self._held + (text if text.isascii() and text.isprintable() else self._stripped(text))
    if text.isascii():
      self._marks = 0 if text else self._marks
    base = len(held) - 1  # where the last character begins
    while base > 0 and _clings(held[base - 1], held[base]):
      base -= 1
    if held and base == len(held) - 1 and _bears_no_mark(held[-1]):
      base += 1
    self._held = held[max(base, 0) :]
    return unicodedata.normalize("NFC", held[: max(base, 0)])

  def close(self) -> str:
    """What is still held, as the end of the text."""
    held, self._held = self._held, ""
    return unicodedata.normalize("NFC", held)

  def _stripped(self, text: str) -> str:
    out = []
    for c in text:
      kind = unicodedata.category(c) if c > "\x7e" or c < " " else "L"
      if kind[0] == "M":
        self._marks += 1
        if self._marks > MOST_MARKS:
          continue
      elif self._strip and (kind == "Cf" or (kind == "Cc" and c not in "\t\n\r\v\f\x1c\x1d\x1e\x85")):
        continue
      else:
        self._marks = 0
      out.append(c)
    return "".join(out)


def _clings(before: str, c: str) -> bool:
  """Whether `c` may become one character with what comes before it."""
  if c < "\u0300":
    return False
  if "\u1160" <= c <= "\u11ff":  # Korean vowels and finals
    if c < "\u11a8":
      return "\u1100" <= before <= "\u115f"
    return "\u1160" <= before <= "\u11a7" or "\uac00" <= before <= "\ud7a3"
  return unicodedata.category(c)[0] == "M"


def _bears_no_mark(c: str) -> bool:
  return c.isspace() or c in ".,!?;:'\"()[]-…“”。！？；：，、0123456789" or is_han(c)


class TagScanner:
  """Tells tags from text.

  Raises:
    TextError: a control tag, as soon as its last character comes.
  """

  def __init__(self, tokenizer: TextTokenizer) -> None:
    self._control = frozenset(tokenizer.control_tags)
    known = sorted({*tags.SPOKEN, *self._control}, key=len, reverse=True)
    self._beginnings = {tag[:size] for tag in known for size in range(1, len(tag))}
    self._longest = len(known[0])
    self._first = re.compile("[" + re.escape("".join(sorted({tag[0] for tag in known}))) + "]")
    self._tag = re.compile("|".join(map(re.escape, known)))
    self._held = ""

  @property
  def held(self) -> int:
    """Characters taken and not returned yet."""
    return len(self._held)

  def feed(self, text: str) -> Iterator[tuple[str, bool]]:
    """(text, False) and (tag, True), in order."""
    text, place, self._held = self._held + text, 0, ""
    while place < len(text):
      first = self._first.search(text, place)
      begin = first.start() if first else len(text)
      if begin > place:
        yield text[place:begin], False
      place = begin
      if place == len(text):
        return
      if tag := self._tag.match(text, place):
        if tag.group() in self._control:
          raise TextError(
            f"{tag.group()} is a control tag that the library places itself. To say how to speak, give the"
            f" instruction apart from the text; tags for the text are {', '.join(tags.SPOKEN)}"
          )
        yield tag.group(), True
        place = tag.end()
      elif len(text) - place < self._longest and text[place:] in self._beginnings:
        self._held = text[place:]
        return
      else:
        yield text[place], False
        place += 1

  def close(self) -> str:
    """The beginning of a tag that did not become one."""
    held, self._held = self._held, ""
    return held
