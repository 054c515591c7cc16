"""Text that arrives in pieces, read phrase by phrase as early as a reading is certain.

A phrase ends where no rule looks ahead any further; what comes before it stays in sight. So a
reading depends on the text up to the end of its phrase alone, and how the text was cut into
pieces cannot show. `normalise` reads whole texts through the same reader. A phrase ends:

- At a line break. Marks of lists, headings and tables stand at the beginning of a line.
- Before or behind a Chinese or Japanese mark, and 8 characters before the end of 24 letters
  without one.
- At a blank between two words: the word before is only letters, no digit or sign stands in
  the two words before that one, and the word after begins with a letter. Or the word before
  ends in a mark that ends no abbreviation: "in 2020, when" can be cut at its blank.
- In a Chinese text, English words go one by one once their run reads as English.
- After 256 characters without any of these, at the last blank or right there.

Within the brackets of a link none of these but the line break ends a phrase. The language,
unless it is given, is that of the text so far.
"""

import copy
import re

from cosyjax.text import markup, read_en, read_zh
from cosyjax.text.en_words import WAITING, WAITING_BARE
from cosyjax.text.language import Counter, is_english
from cosyjax.text.rules import COMMA, STOP, any_of
from cosyjax.text.split import CLOSERS
from cosyjax.text.text_tokenizer import is_han
from cosyjax.text.tidy import Tidy, tidy_chinese
from cosyjax.text.unify import drop_symbols, unify

MOST_UNREAD = 256  # characters that wait for their reading, at most
_RUN, _REACH = 24, 8  # letters without a mark, and how far behind a number its reading rules look
_CONTEXT = 48  # characters before a phrase that rules can see
_LINK = 120  # characters within [ that keep a phrase whole
_WRAPPED = 50  # characters of a line that goes on in the next one, if that begins in small letters

_ENDS = re.compile("[。！？；，、：…]" + CLOSERS + "$")
_OPENERS = frozenset("“‘「『《〈（(")
_BEFORE_WORDS = frozenset("\"'(“‘’")

_WIDE = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_LETTER = r"[^\W\d_\x00-\x7f]|[\u0300-\u036f\u0e30-\u0e4e\u0900-\u0dff]"  # not of ASCII, with marks
_STEP = re.compile(
  r"(?P<gap>[ \n]+)(?=[^ \n])"
  rf"|(?<=[{_WIDE}])(?=[。！？；，、])"
  r"|(?<=[。！？；，、：…\"'”’」』》〉)）】〕\],!?;.])(?=[^ \n。！？；，、：…,!?;.\"'”’」』》〉)）】〕\]])"
  rf"|(?P<run>(?:{_LETTER}){{{_RUN}}})(?=[^ \n。！？；，、])"
)
_ODD_BLANKS = re.compile(r"[^\S \n]|[ \n]{2}|[\u2028\u2029\x85]")

_LETTERS = r"[^\W\d_²³¹½¼¾⁰-₟⅐-↏①-⓿❶-➓]+"
_WORD = re.compile(rf"[\"'(“‘*_~`]*{_LETTERS}(?:['’—-]+{_LETTERS})*['’]?[,;:!?.…，；：！？。]*[\"')”’*_~`]*[,;:!?.]*")
_MARKED = re.compile(r".*[\w%)][,;:!?.，；：！？。]+[\"')”’*_]*", re.S)
_WAITING = re.compile(
  rf"[\"'(“‘*_]*(?:(?:{any_of(WAITING)}|Mon|Tues?|Wed|Thu|Thurs|Fri|Sat|Sun)\.|(?:{any_of(WAITING_BARE)})$)"
)
_PLAIN = {  # no rule changes these: a short cut
  "en": re.compile(
    r"(?!(?:[IVXL]|St|Mr|Mrs|Ms|Dr|Prof|PhD|Jr|Sr|Esq|etc|Tues?|Wed|Thu|Thurs?|Fri|Mon|Sat|Sun|Ave|Blvd|Rd)\b)[A-Z]?["
    r"a-z']*[,;:!?]?"
  ),
  "zh": re.compile(r"[，。！？；、]?[\u4e00-\u9fff]*"),
  "other": re.compile(r"[A-Za-z]+[,;:!?]?"),
}
_PLAIN_WORDS = re.compile(r"(?:[a-z]{1,20}[,;]? )+(?=[A-Za-z])")
_PLAIN_CLAUSES = re.compile(r"(?:[\u4e00-\u9fff]{1,23}[，。！？；])+(?=[\u4e00-\u9fff])")
_NAME_BEFORE = re.compile(r"[A-Z][a-z]+ $|[A-Z][a-z]+$")  # of Elizabeth I
_ASCII_TAIL = re.compile(r"[ -~]*$")
_ASCII_RUN = re.compile(r"[ -~]{8,}")


TEXT, TAG, FENCE = range(3)  # what a reader gives; FENCE: the next character will be no letter


class Reader:
  """Reads out text that arrives in pieces, without the mark that a text ends with.

  Args:
    language: "zh", "en", "other", or "auto".
    prompt_language: what "auto" takes for digits and signs alone.
  """

  def __init__(self, language: str = "auto", prompt_language: str = "en") -> None:
    self.out: list[tuple[int, str]] = []
    self._given, self._prompt_language = language, prompt_language
    self._counter = Counter()
    self._tidy = Tidy()
    self._return = False  # the last character was a carriage return
    self._new_line()
    self._context = ""
    self._restart()

  def _restart(self) -> None:
    """State of a stretch without tags."""
    self._held, self._place = "", 0  # not read yet, and up to where it was looked through
    self._plain = 3  # words since the last with a digit or a sign
    self._english = False  # what is held goes on with a run that reads as English

  def _new_line(self) -> None:
    self._begins_line, self._is_item, self._length = True, False, 0

  @property
  def held(self) -> int:
    """Characters taken whose reading is not certain yet."""
    return len(self._held) + self._tidy.held

  @property
  def language(self) -> str:
    """The language given, or that of the text so far."""
    return self._given if self._given != "auto" else self._counter.language(self._prompt_language)

  def feed(self, text: str) -> None:
    """Take a piece of text; words whose reading is certain are put out."""
    self._held += self._blanks(text)
    while True:
      if not self._place and self._plain >= 3 and self._run_of_plain():
        continue
      step = _STEP.search(self._held, self._place, MOST_UNREAD)
      if step is None:
        if len(self._held) < MOST_UNREAD:
          return
        self._cut(self._held.rfind(" ", 1, MOST_UNREAD) + 1 or MOST_UNREAD)
      elif step["gap"]:
        self._after_blank(step.start(), step.end())
      else:
        self._inside(step)

  def tag(self, tag: str) -> None:
    """Take a tag: what is held before it is read as if the text ended."""
    self.close()
    before = self._tidy.tag(self.language)
    if before:
      self.out.append((TEXT, before))
    self.out.append((TAG, tag))
    self._begins_line = False
    self._context = (self._context + " ")[-_CONTEXT:]

  def close(self) -> None:
    """Ends the stretch."""
    held = self._held.rstrip(" \n")
    if held:
      self._read(held)
    if self._held.endswith("\n"):
      self._tidy.gap(STOP)
      self._new_line()
    elif self._held.endswith(" "):
      self._tidy.gap(" ")
    self._restart()

  def _blanks(self, text: str) -> str:
    """One blank, one line break, or two, for any blanks in a row."""
    if (
      not _ODD_BLANKS.search(text)
      and not (text[:1] in " \n" and self._held[-1:] in ("", " ", "\n"))
      and not self._return
    ):
      return text
    out, last = [], self._held[-2:]
    for c in text:
      if c == "\n" and self._return:
        self._return = False
        continue
      self._return = c == "\r"
      if not c.isspace():
        last = c
      elif c in "\n\r\u2028\u2029\x85\x0b\x0c":
        if last[-2:] == "\n\n":
          continue
        if last[-1:] == " ":
          if out:
            out.pop()
          else:
            self._held = self._held[:-1]
        last, c = ("\n\n" if last[-1:] == "\n" else "\n"), "\n"
      else:
        if last[-1:] in (" ", "\n"):
          continue
        last, c = " ", " "
      out.append(c)
    return "".join(out)

  def _run_of_plain(self) -> bool:
    """Many plain words or clauses at once, each of which would be a phrase; a short cut."""
    if self._begins_line and not self._held[:1].isalpha():
      return False
    language = self.language
    pattern = _PLAIN_WORDS if language == "en" else _PLAIN_CLAUSES if language == "zh" and not self._english else None
    m = pattern.match(self._held) if pattern else None
    if not m or m.end() >= MOST_UNREAD:
      return False
    self._emit(m.group(), language, self._held[m.end()], m.group())
    self._held = self._held[m.end() :]
    return True

  def _cut(self, place: int, gap: int = 0, english: bool = False) -> None:
    """What is held up to `place` is a phrase, with a gap of so many characters behind it."""
    phrase, rest = self._held[:place], self._held[place + gap :]
    self._read(phrase, " " if gap else "", rest[:1])
    self._held, self._place, self._english = rest, 0, english

  def _read(self, phrase: str, gap: str = "", ahead: str = "") -> None:
    """Reads a phrase and gives it on."""
    if self._given == "auto":
      self._counter.feed(phrase)
    language = self.language
    if (not self._begins_line or phrase[0].isalpha()) and _PLAIN[language].fullmatch(phrase):
      return self._emit(phrase + gap, language, ahead, phrase + gap)
    source = unify(phrase, language)
    text = source
    if self._begins_line:
      text, is_item = markup.begin_line(text)
      self._is_item = self._is_item or is_item
    if self._is_item and "|" in text:
      text = text.replace("|", COMMA + " ")
    begin = len(self._context)
    if markup.SIGNS.search(text):
      text = markup.READERS[language].read(self._context + text, begin)
    text = self._spoken(text, language)
    return self._emit(drop_symbols(text) + gap, language, ahead, source + gap)

  def _spoken(self, text: str, language: str) -> str:
    if language == "other":
      return text
    whole, begin = self._context + text, len(self._context)
    if language == "en":
      return read_en.read(whole, begin)
    head = ""
    if self._english:
      size = re.match("[ -~]*", text).end()
      head = read_en.read(whole[: begin + size], begin)
      whole = whole[:begin] + text[size:]
    text = _ASCII_RUN.sub(lambda m: read_en.read(m.group()) if is_english(m.group()) else m.group(), whole[begin:])
    return tidy_chinese(head + read_zh.read(whole[:begin] + text, begin))

  def _emit(self, text: str, language: str, ahead: str, source: str) -> None:
    spoken = self._tidy.feed(text, language, ahead)
    if spoken:
      self.out.append((TEXT, spoken))
    self._context = (self._context + source)[-_CONTEXT:]
    self._length += len(source)
    self._begins_line = self._begins_line and not source.strip()

  def _inside(self, step: re.Match) -> None:
    """Phrases that end without a blank."""
    place = step.end()
    c = self._held[place]
    if step["run"]:
      self._cut(place - _REACH)
    elif self._within_link(place) or not place:
      self._place = place + 1
    elif c in "。！？；，、":
      self._cut(place)
      self.out.append((FENCE, ""))
    elif self._is_mark_before(place, c):
      self._cut(place)
    else:
      self._place = place + 1

  def _is_mark_before(self, place: int, c: str) -> bool:
    if not (c.isalpha() or c in _OPENERS) or self.language_with(place) == "en":
      return False
    before = self._held[place - 1]
    if before in ",!?;." and is_wide(c):
      return self._held[place - 2 : place - 1] != " " and not self._held[max(place - 2, 0) : place - 1].isdigit()
    if before == "、" and self._held[max(place - 2, 0) : place - 1].isdigit():
      return False
    return not before.isalnum() and bool(_ENDS.search(self._held[max(place - 8, 0) : place]))

  def language_with(self, place: int) -> str:
    """The language of the text so far and of what is held up to `place` and one character beyond."""
    if self._given != "auto":
      return self._given
    language, held = self._counter.language(self._prompt_language), self._held[: place + 1]
    if language == "zh" or held.isascii():
      return language
    counter = copy.copy(self._counter)
    counter.feed(held)
    return counter.language(self._prompt_language)

  def _after_blank(self, start: int, end: int) -> None:
    """Ends a phrase at a blank if that can be, and always at a line break."""
    c = self._held[end]
    if "\n" in self._held[start:end]:
      return self._end_line(start, end, c)
    if not start:
      self._tidy.gap(" ")
      self._held, self._place = self._held[end:], 0
      return None
    border, english = self._is_border(start, c)
    if border and not self._within_link(end):
      self._cut(start, end - start, english)
    else:
      self._place = end
    return None

  def _end_line(self, start: int, end: int, c: str) -> None:
    double = self._held[start:end].count("\n") > 1
    self._length += start
    if start:
      self._cut(start)
    language = self.language
    if double or self._is_item:
      pause = STOP
    elif language == "zh":
      pause = COMMA
    elif c.islower():
      pause = " " if self._length >= _WRAPPED else COMMA
    else:
      pause = STOP
    spoken = self._tidy.feed(pause + " ", language, c)
    if spoken:
      self.out.append((TEXT, spoken))
    self._held, self._place = self._held[end - start if start else end :], 0
    self._context = (self._context + "\n")[-_CONTEXT:]
    self._new_line()
    self._plain, self._english = 3, False

  def _within_link(self, place: int) -> bool:
    opening = self._held.rfind("[", max(place - _LINK, 0), place)
    return opening >= 0 and "]" not in self._held[opening:place]

  def _is_border(self, start: int, c: str) -> tuple[bool, bool]:
    """Whether the blank behind the word that ends at `start` ends a phrase; and whether that lies in English."""
    token = self._held[self._held.rfind(" ", 0, start) + 1 : start]
    waits = _WAITING.match(token)
    waits = (waits is not None and len(token) - waits.end() <= 1) or (
      token == "I" and _NAME_BEFORE.search((self._context + self._held[: start - 1])[-24:]) is not None
    )
    is_plain = _WORD.fullmatch(token) is not None and (token.isascii() or not any(map(is_wide, token)))
    is_marked = not waits and _MARKED.fullmatch(token) is not None and not is_wide(token[0]) and token[0] != "&"
    if not waits or not is_plain:
      self._plain = 3 if is_marked else self._plain + 1 if is_plain else 0
    if not (c.isalpha() and not is_wide(c)) and c not in _BEFORE_WORDS:
      return False, False
    english = False
    if self.language_with(start) == "zh":
      english = self._reads_english(start)
      if not (english and token.isascii() and c.isascii() and token[-1] != "."):
        return False, False
    if token[-2:-1].isdigit() and token[-1] == "." and self._given == "auto" and self._counter.words < 4:
      return False, False  # "Am 3. Oktober": too early to tell the language
    return not waits and (is_marked or (is_plain and self._plain >= 3)), english

  def _reads_english(self, start: int) -> bool:
    """Whether the run of ASCII that ends here is English whatever follows."""
    before = self._held[:start]
    return (self._english and before.isascii()) or is_english(_ASCII_TAIL.search(before).group())


def is_wide(c: str) -> bool:
  """A letter of Chinese or Japanese."""
  return c > "\u303f" and (is_han(c) or "\u3040" <= c <= "\u30ff")
