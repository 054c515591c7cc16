"""Blanks and pauses between what has been read: one mark or one blank, or nothing.

The last step of reading, for phrases one after the other. Rules put in pauses freely; here
they become marks, unless a mark stands beside them already.
"""

import re

from cosyjax.text.rules import COMMA, STOP

_HAN = "\u4e00-\u9fff\u3400-\u4dbf"
_WIDE = re.compile(
  f"[\u3000-\u303f\uff00-\uff65\u2018-\u201d…—{_HAN}\u3040-\u30ff]"
)  # a blank beside one separates nothing
_GAP = re.compile(f"([\\s{COMMA}{STOP}]+)")
_SMOOTH = re.compile(r" ?[!-~]+(?: (?![,.;:!?])[!-~]+)* ?")
_MARKED = re.compile(r"[,.;:!?，。！？；：、…—\0][\"'”’」』》〉)）】〕\]]*$")
_MARKS = frozenset(",.;:!?，。！？；：、…")
_CLOSERS = frozenset("”’」』》〉)）】〕]")
_LATIN_MARKS = {COMMA: ", ", STOP: ". "}
_WIDE_MARKS = {COMMA: "，", STOP: "。"}
_EAGER = frozenset("\"'(“‘’")


def tidy_chinese(text: str) -> str:
  """Points and brackets of a Chinese phrase."""
  if "." in text:
    text = re.sub(r"\.{2,}", "……", text)
    text = re.sub(r"(?<![A-Za-z0-9])\.|\.(?=\s*(?:[^\x00-\x7f]|$))", "。", text)
  return text


class Tidy:
  """Joins what comes phrase by phrase."""

  def __init__(self) -> None:
    self._tail = ""  # the end of what was given; "\0" is a tag
    self._blank, self._pause = False, ""

  @property
  def held(self) -> int:
    """Characters of the gap that waits for what follows."""
    return int(self._blank) + len(self._pause)

  def feed(self, text: str, language: str, ahead: str = "") -> str:
    """Words and gaps; a gap at the end waits for what follows.

    Args:
      text: read by the rules, pauses in it.
      language: of the text.
      ahead: the next character if it is known; a gap before a letter need not wait.
    """
    if not self._pause and _SMOOTH.fullmatch(text):  # one blank between words: a short cut
      begins, ends = text[0] == " ", text[-1] == " "
      body = text[begins : len(text) - ends]
      if begins:
        self._blank = True
      spoken = (self._joint(body[0], language) if self._blank else "") + body
      self._tail = (self._tail + spoken)[-8:]
      self._blank = ends
      if ends and ahead and (ahead.isalpha() or ahead in _EAGER):
        spoken += self._joint(ahead, language)
      return spoken
    parts, out = _GAP.split(text), []
    for i, part in enumerate(parts):
      if i % 2:
        self.gap(part)
      elif part:
        part = self._closed(part, out)
        if part:
          out += (self._joint(part[0], language), part)
          self._tail = (self._tail + part)[-8:]
    if (
      ahead
      and (self._blank or self._pause)
      and (ahead.isalpha() or (ahead.isascii() and ahead.isdigit()) or ahead in _EAGER)
    ):
      out.append(self._joint(ahead, language))
    return "".join(out)

  def gap(self, gap: str) -> None:
    """Blanks and pauses; the stronger pause counts."""
    self._blank = self._blank or " " in gap or "\n" in gap
    if STOP in gap:
      self._pause = STOP
    elif COMMA in gap and not self._pause:
      self._pause = COMMA

  def tag(self, language: str) -> str:
    """What stands before a tag."""
    out = self._joint("a" if language != "zh" or self._tail[-1:].isascii() else "我", language)
    self._tail = "\0"
    return out

  def _closed(self, part: str, out: list[str]) -> str:
    """Closing brackets and quotes go before the pause."""
    if not (self._pause and part[0] in _CLOSERS and self._tail):
      return part
    size = 1
    while size < len(part) and part[size] in _CLOSERS:
      size += 1
    out.append(part[:size])
    self._tail = (self._tail + part[:size])[-8:]
    self._blank = False
    return part[size:]

  def _joint(self, c: str, language: str) -> str:
    """What the gap becomes before `c`."""
    blank, pause = self._blank, self._pause
    if not (blank or pause):
      return ""
    self._blank, self._pause = False, ""
    if not self._tail:
      return ""
    last = self._tail[-1]
    is_wide = _WIDE.match(last) is not None
    if pause and c not in _MARKS and not _MARKED.search(self._tail):
      mark = (_WIDE_MARKS if language == "zh" or is_wide else _LATIN_MARKS)[pause]
      self._tail = (self._tail + mark)[-8:]
      return mark
    if c in _MARKS and last != "\0":
      return ""
    if language == "zh" and (is_wide or _WIDE.match(c)):
      return ""
    if last == " " or (pause and not blank and (language != "en" or last == "\0")):
      return ""
    self._tail = (self._tail + " ")[-8:]
    return " "
