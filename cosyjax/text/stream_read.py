"""`normalise` of text that arrives in pieces: each character is read out as early as that is certain.

A reader takes one character at a time and its state is bounded. What it decides at a
character depends on the text up to it alone, so how the text was cut into pieces cannot show.
It reads one segment at a time, and a segment ends where no reading rule looks across:

- Before or behind a Chinese or Japanese mark, and 8 characters before the end of 24 letters
  without one.
- At a blank between two words: the word before is only letters, no digit or sign stands in
  the two words before that one, and the word after begins with a letter. Or the word before
  ends in a mark that ends no abbreviation: "in 2020, when" can be cut at its blank.
- In a Chinese text, English words go one by one once their run reads as English.
- After 256 characters without any of these, at the last blank or right there. This is the
  one place where a reading may differ from that of the whole text.

The language is that of the text so far: all of it, not only the segment.
"""

import re
import unicodedata
from collections.abc import Callable

from cosyjax.errors import TextError
from cosyjax.text import read_en
from cosyjax.text.normalise import normalise_part
from cosyjax.text.split import ABBREVIATION, CLOSERS, SENTENCE_END
from cosyjax.text.text_tokenizer import is_han

MOST_UNREAD = 256  # characters that wait for their reading, at most
MOST_SENTENCE = 1024  # the same where a normaliser of the caller's reads whole sentences
_RUN, _REACH = 24, 8  # letters without a mark, and how far behind a number its reading rules look

_CLAUSE_MARKS = frozenset("。！？；，、")
_ENDS = re.compile("[。！？；，、：…]" + CLOSERS + "$")
_ASCII_ENDS = frozenset(",!?;.")
_OPENERS = frozenset("“‘「『《〈（(")
_BEFORE_WORDS = frozenset("\"'(“‘’")
LAST_OF_SENTENCE = frozenset("。！？!?；;…｡.\"'”’」』》〉)）】〕]")
_SENTENCE_TAIL = re.compile(SENTENCE_END.pattern + "$")

_WORD = re.compile(r"[\"'(“‘]*[^\W\d_]+(?:['’—-]+[^\W\d_]+)*['’]?[,;:!?.…，；：！？。]*[\"')”’]*")
_MARKED = re.compile(r".*[\w%)][,;:!?.，；：！？。]+[\"')”’]*", re.S)
_WAITING = re.compile(
  r"[\"'(“‘]*(?:Chapter|Part|Volume|Book|Act|Scene|Section|Phase|Appendix|War"
  r"|(?:Mr|Mrs|Dr|Prof|vs|approx|No|no|e\.g|i\.e|[ap]\.m)\.)"
)
_PLAIN_WORD = re.compile(r"[A-Za-z]+[,;:!?]? ?")  # no rule changes these: a short cut
_PLAIN_CHINESE = re.compile(r"[，。！？；]?[\u4e00-\u9fff]*")
_RUN_WORD = re.compile(r"[A-Za-z']+(?![^,.;:!?])")


def ends_sentence(before: str, blank: bool, after: str, tag: bool = False) -> bool:
  """Whether a sentence ends between `before` and `after`, by the rules of `split_text`.

  Args:
    before: the text so far without blanks at its end; 32 characters are enough.
    blank: a blank stands between the two.
    after: the next character.
    tag: the next character begins a tag.
  """
  if before[-1:] not in LAST_OF_SENTENCE or not (m := _SENTENCE_TAIL.search(before)):
    return False
  marks = m.group()
  if marks[0] in ".!?…" and after.isascii() and after.islower() and not tag:
    return False
  if marks[0] == "." and marks.rstrip("\"')]") == ".":
    glued = after.isascii() and not blank and not tag
    return not (glued or ABBREVIATION.search(before[max(m.start() - 12, 0) : m.start()]))
  return True


TEXT, TAG, FENCE = range(3)  # what a reader gives; FENCE: the next character will be no letter


class Reader:
  """`normalise` of text that arrives in pieces, without the mark that it puts at the end."""

  def __init__(self) -> None:
    self.out: list[tuple[int, str]] = []
    self._han = self._kana = self._latin = self._foreign = 0
    self._restart()

  def _restart(self) -> None:
    """State of a stretch without tags."""
    self._held, self._blank = "", ""
    self._within = False  # part of the stretch has been read
    self._token = 0  # where the last word begins in what is held
    self._plain = 3  # words since the last with a digit or a sign
    self._letters = 0  # Chinese, Japanese, ... letters since the last mark
    self._run = self._words = self._lower = 0  # of the ASCII run that the text so far ends with
    self._run_start = 0
    self._english = False  # what is held begins within a run that reads as English

  @property
  def held(self) -> int:
    return len(self._held) + len(self._blank)

  @property
  def language(self) -> str:
    """`detect_language` of the text so far."""
    if self._kana * 4 > self._han:
      return "other"
    return "zh" if self._han else "other" if self._foreign > self._latin else "en"

  def feed(self, text: str) -> None:
    for c in text:
      if c.isspace():
        if len(self._blank) < 8 or c in "\n\r\x85\u2028\u2029":
          self._blank = self._blank[-8:] + c
        continue
      self._count(c)
      if self._blank:
        self._after_blank(c)
      elif self._held:
        self._inside(c)
      self._append(c)

  def tag(self, tag: str) -> None:
    self.close()
    self.out.append((TAG, tag))

  def close(self) -> None:
    """Ends the stretch."""
    self._commit(self._held + (" " if self._blank else ""), whole=True)
    self._restart()

  def _count(self, c: str) -> None:
    if c < "\u0250":
      self._latin += c.isalpha()
    elif is_han(c):
      self._han += 1
    elif "\u3040" <= c <= "\u30ff":
      self._kana += 1
    elif c.isalpha() and not "\uff00" <= c <= "\uffef":
      self._foreign += 1

  def _append(self, c: str) -> None:
    self._held += c
    if " " <= c <= "~":
      self._run += 1
      self._letters = 0
    else:
      self._run = self._words = self._lower = 0
      self._run_start = len(self._held)
      self._letters = self._letters + 1 if c.isalpha() or unicodedata.category(c)[0] == "M" else 0  # Thai has marks
    if len(self._held) >= MOST_UNREAD:
      self._cut(self._held.rfind(" ", 1) + 1 or len(self._held))

  def _cut(self, place: int, joint: str = "") -> None:
    """What is held up to `place` is a segment; `joint` is a blank behind it."""
    english = self._reads_english()
    rest = self._held[place:]
    self._commit(self._held[:place] + joint)
    self._held = rest
    self._token, self._run_start = max(self._token - place, 0), max(self._run_start - place, 0)
    self._english = english and self._run_start == 0

  def _commit(self, text: str, whole: bool = False) -> None:
    language = self.language
    if self._english and language == "zh":
      head = re.match("[ -~]*", text).group()
      text = read_en.read(head) + text[len(head) :]
    if text:
      is_plain = _PLAIN_WORD.fullmatch(text) or (language == "zh" and _PLAIN_CHINESE.fullmatch(text))
      spoken = text if is_plain else normalise_part(text, language)
      # Where nothing is left of a whole stretch there is a blank, but not within Chinese text.
      if spoken != " " or language != "zh" or (whole and not self._within):
        self.out.append((TEXT, spoken))
    self._held, self._within = "", True

  def _reads_english(self) -> bool:
    """Whether the run of ASCII that the text ends with is English whatever follows, as `normalise` judges it."""
    return self._run >= 8 and self._words >= 3 and self._lower >= 2

  def _inside(self, c: str) -> None:
    """Segments that end without a blank."""
    before = self._held[-1]
    if c in _CLAUSE_MARKS and _is_wide(before):
      self._cut(len(self._held))
      self.out.append((FENCE, ""))
    elif self._is_mark_before(c):
      self._cut(len(self._held))
    elif self._letters >= _RUN:
      self._cut(len(self._held) - _REACH)
      self._letters = _REACH

  def _is_mark_before(self, c: str) -> bool:
    if not (c.isalpha() or c in _OPENERS) or self.language == "en":
      return False
    before = self._held[-1]
    if before in _ASCII_ENDS and _is_wide(c):
      return self._held[-2:-1] != " "  # a lone mark loses its blank only where something else follows
    return not before.isalnum() and bool(_ENDS.search(self._held[-8:]))

  def _after_blank(self, c: str) -> None:
    """Turns blanks into one sign, and ends a segment there if that can be."""
    lines = sum(map(self._blank.count, "\n\r\x85\u2028\u2029"))
    blank, self._blank = self._blank, ""
    if not self._held:
      self._held = " "
      self._token = 1
      return
    chinese, is_word = self.language == "zh", self._held[-1].isalnum() or self._held[-1] == "_"
    if lines:
      joint = ("。" if chinese else ".") if lines > 1 else "，" * chinese
      self._held += joint * is_word
      blank = " " * (not chinese)
      if chinese:
        self._run = self._words = self._lower = 0
        self._run_start = len(self._held)
    vanishes = is_han(c) or not self._held[-1].isascii()  # a blank there, in Chinese
    if chinese and (not blank or (vanishes and self._is_mark_before(c))):
      self._inside(c)
      self._token = len(self._held)
      return
    if self._is_border(c, chinese):
      self._cut(len(self._held), " ")
    elif self._is_mark_before(c):
      self._cut(len(self._held), blank[0])
    else:
      self._held += blank
    self._run += 1
    self._letters = 0
    self._token = len(self._held)

  def _is_border(self, c: str, chinese: bool) -> bool:
    """Whether the blank behind the word that is held last ends a segment."""
    token = self._held[self._token :]
    if word := _RUN_WORD.match(self._held, max(self._token, self._run_start)):
      self._words += 1
      self._lower += len(word.group()) > 1 and word.group().islower()
    waits = _WAITING.match(token)
    waits = waits is not None and len(token) - waits.end() <= 1
    is_plain = _WORD.fullmatch(token) is not None and not any(c.isnumeric() or _is_wide(c) for c in token)
    is_marked = not waits and _MARKED.fullmatch(token) is not None and not _is_wide(token[0])
    if not waits or not is_plain:
      self._plain = 3 if is_marked else self._plain + 1 if is_plain else 0
    if not (c.isalpha() and not _is_wide(c)) and c not in _BEFORE_WORDS:
      return False
    if chinese and not (self._reads_english() and token.isascii() and c.isascii() and token[-1] != "."):
      return False
    return not waits and (is_marked or (is_plain and self._plain >= 3))


class SentenceReader:
  """Hands whole sentences to a normaliser of the caller's."""

  language = "other"

  def __init__(self, normalise: Callable[[str], str]) -> None:
    self.out: list[tuple[int, str]] = []
    self._normalise, self._held, self._blank = normalise, "", ""

  @property
  def held(self) -> int:
    return len(self._held) + len(self._blank)

  def feed(self, text: str) -> None:
    for c in text:
      if c.isspace():
        self._blank = (self._blank + c)[:8]
        continue
      if (self._held and ends_sentence(self._held[-32:], bool(self._blank), c) and c not in LAST_OF_SENTENCE) or len(
        self._held
      ) >= MOST_SENTENCE:
        self.close()
      self._held += self._blank + c
      self._blank = ""

  def tag(self, tag: str) -> None:
    # A tag stays in its sentence, as it does in the whole text.
    self._held, self._blank = self._held + self._blank + tag, ""

  def close(self) -> None:
    text, self._held = self._held, ""
    if not text:
      return
    spoken = self._normalise(text)
    if not isinstance(spoken, str):
      raise TextError(f"the normalised text: expected a string, found {type(spoken).__name__}")
    if any("\ud800" <= c <= "\udfff" for c in spoken):
      raise TextError(f"the normalised text: half of a surrogate pair in {spoken[:40]!r}; expected valid Unicode")
    space = " " if text[0].isspace() and spoken and not spoken[0].isspace() else ""
    self.out.append((TEXT, space + spoken))


def _is_wide(c: str) -> bool:
  """A letter of Chinese or Japanese."""
  return c > "\u303f" and (is_han(c) or "\u3040" <= c <= "\u30ff")
