"""Long text cut into segments that the LM speaks one by one, at the best places there are.

A segment is filled with whole sentences while they fit. A sentence that is too long by itself
is cut after commas, then at blanks, then between characters. A tag is never cut, and a span
such as <strong>…</strong> stays in one segment; one that is longer than a segment is closed at
the cut and opened again behind it, so that every segment is well formed.
"""

import bisect
import itertools
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from cosyjax.errors import ConfigError
from cosyjax.text import tags


class _Encoder(Protocol):
  def encode(self, text: str) -> list[int]: ...


CLOSERS = r"[\"'”’」』》〉)）】〕\]]*"
SENTENCE_END = re.compile(r"[。！？!?；;…｡.]+" + CLOSERS)
LAST_OF_SENTENCE = frozenset("。！？!?；;…｡.\"'”’」』》〉)）】〕]")
_SENTENCE_TAIL = re.compile(SENTENCE_END.pattern + "$")
_CLAUSE_END = re.compile(r"(?:[，、：]+|[,:](?=\s|[^\x00-\x7f])|—+|\n+)" + CLOSERS)
CLINGING = frozenset("。！？；：，、…”’」』》〉）】〕.,!?;:)")  # begin no segment
ABBREVIATION = re.compile(
  r"(?:^|[^A-Za-z])(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Col|Lt|Capt|Rev|vs|No|Fig|Vol|Inc|Ltd|Co|Corp|Mt|approx|dept"
  r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|[A-Za-z](?:\.[A-Za-z]){0,5})$"
)


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


def split_text(
  text: str,
  count: _Encoder | Callable[[str], int],
  min_tokens: int = 60,
  max_tokens: int = 80,
  merge_tokens: int = 20,
) -> list[str]:
  """Cuts `text` into segments of about `min_tokens` to `max_tokens` tokens.

  The length of a segment is the sum of its sentences' lengths.

  Args:
    text: as it will be read; line breaks count as blanks.
    count: a tokenizer with `encode`, or a function that gives the tokens of a text.
    min_tokens: a segment below this takes in part of the next sentence, if that can be cut at a
      comma, rather than end short.
    max_tokens: no segment is longer, but for a last one that was merged and for what cannot be cut.
    merge_tokens: a last segment shorter than this joins the one before.

  Returns:
    Pieces without blanks at their ends. Put together they give the text again, but for blanks
    and for spans that were closed and opened again.

  Raises:
    ConfigError: limits that cannot be met.
  """
  if not 0 < min_tokens <= max_tokens or merge_tokens < 0:
    raise ConfigError(
      f"expected 0 < min_tokens <= max_tokens and merge_tokens >= 0, found {min_tokens}, {max_tokens}, {merge_tokens}"
    )
  size = count if callable(count) else lambda part: len(count.encode(part))
  return _Cutter(text, size, min_tokens, max_tokens, merge_tokens).segments()


_SENTENCE, _CLAUSE, _FRAGMENT = range(3)


class _Part(NamedTuple):
  """A stretch of the text that has not been cut yet, and what it is."""

  begin: int
  end: int
  size: int
  kind: int


class _Cutter:
  """One text on its way into segments; all positions are places between characters."""

  def __init__(self, text: str, size: Callable[[str], int], least: int, most: int, merge: int) -> None:
    self.text, self.size, self.least, self.most, self.merge = text, size, least, most, merge
    spans = tags.spans(text)
    self.long_spans = [s for s in spans if size(text[s[0] : s[1]]) > most]
    if self.long_spans:  # leave room for the tags that a cut adds
      added = max(size(s[2]) + size(tags.SPANS[s[2]]) for s in self.long_spans) * len({s[2] for s in self.long_spans})
      self.most = max(most - added, most // 2, 1)
    # Stretches without a place to cut, merged where they overlap. In a long span a tag clings to its text.
    opens, closes = {s[0] for s in self.long_spans}, {s[1] for s in self.long_spans}
    solid = [s[:2] for s in spans if s not in self.long_spans]
    solid += [(m.start() - (m.end() in closes), m.end() + (m.start() in opens)) for m in tags.PATTERN.finditer(text)]
    self.solid: list[tuple[int, int]] = []
    for begin, end in sorted(solid):
      if self.solid and begin < self.solid[-1][1]:
        self.solid[-1] = (self.solid[-1][0], max(end, self.solid[-1][1]))
      else:
        self.solid.append((begin, end))
    self.solid_begins = [begin for begin, _ in self.solid]

  def segments(self) -> list[str]:
    """Fills segments with sentences, or with what sentences had to be cut into."""
    borders, used = [0], 0  # `used`: tokens of the segment that is being filled
    queue = deque(self._cut(_Part(0, len(self.text), 0, _SENTENCE), _SENTENCE))
    while queue:
      part = queue.popleft()
      if used + part.size <= self.most:
        used += part.size
      elif used < self.least and (finer := self._finer(part, used)):
        queue.extendleft(reversed(finer))
      elif used:
        borders.append(part.begin)
        used = 0
        queue.appendleft(part)
      else:
        used = part.size  # nothing smaller is possible
    if len(borders) > 1 and used < self.merge:
      borders.pop()
    borders.append(len(self.text))
    found = [self._wrap(begin, end) for begin, end in itertools.pairwise(borders)]
    return [segment for segment in found if segment]

  def _finer(self, part: _Part, used: int) -> list[_Part]:
    """`part` cut one step finer to go on filling a segment, or nothing if it is better left whole."""
    if part.kind == _SENTENCE:
      clauses = self._cut(part, _CLAUSE)
      if part.size > self.most:
        return clauses
      filled = used
      for clause in clauses[:-1]:
        if filled + clause.size > self.most:
          break
        filled += clause.size
      return clauses if filled >= self.least else []
    return self._fragments(part, self.most - used) if part.kind == _CLAUSE and part.size > self.most else []

  def _cut(self, part: _Part, kind: int) -> list[_Part]:
    """`part` cut behind sentence or clause marks."""
    ends = self._sentence_ends(part) if kind == _SENTENCE else self._clause_ends(part)
    places = [part.begin, *(end for end in ends if part.begin < end < part.end and self._may_cut(end)), part.end]
    return [_Part(a, b, self.size(self.text[a:b]), kind) for a, b in itertools.pairwise(places) if a < b]

  def _clause_ends(self, part: _Part) -> Iterator[int]:
    return (m.end() for m in _CLAUSE_END.finditer(self.text, part.begin, part.end))

  def _sentence_ends(self, part: _Part) -> Iterator[int]:
    for m in SENTENCE_END.finditer(self.text, part.begin, part.end):
      marks, after = m.group(), self.text[m.end() : m.end() + 8]
      follows = after.lstrip()[:1]
      if marks[0] in ".!?…" and follows.isascii() and follows.islower():
        continue  # "approx. five", '"Really?" he said'
      if marks[0] == "." and marks.rstrip("\"')]") == ".":
        glued = after[:1].isascii() and not after[:1].isspace() and tags.PATTERN.match(self.text, m.end()) is None
        if glued or ABBREVIATION.search(self.text[max(m.start() - 12, 0) : m.start()]):
          continue  # 3.14, Mr.
      yield m.end()

  def _fragments(self, part: _Part, room: int) -> list[_Part]:
    """`part` cut at blanks, or between characters where there are none; the first fits `room`."""
    fragments, begin, stride = [], part.begin, 2 * self.most
    while begin < part.end:
      end = self._furthest(begin, part.end, room, stride)
      if end is None and not fragments and room < self.most:
        room = self.most  # no beginning is short enough: it gets a segment of its own
        continue
      if end is None:  # what cannot be cut is longer than a segment
        end = next((p for p in self._places_from(begin + 1) if p >= part.end or self._may_cut(p)), part.end)
      fragments.append(_Part(begin, end, self.size(self.text[begin:end]), _FRAGMENT))
      stride, begin, room = max(end - begin, 1), end, self.most
    return fragments

  def _places_from(self, place: int) -> Iterator[int]:
    """Places to try, each solid stretch skipped at once."""
    while place < len(self.text):
      yield place
      i = bisect.bisect_right(self.solid_begins, place) - 1
      inside = i >= 0 and place < self.solid[i][1]
      place = max(self.solid[i][1], place + 1) if inside else place + 1

  def _furthest(self, begin: int, end: int, room: int, stride: int) -> int | None:
    """The last good place to cut so that what lies before fits `room` tokens."""

    def fits(place: int) -> bool:
      return self.size(self.text[begin:place]) <= room

    low, high = begin, min(begin + stride, end)  # low fits, high is to be tried
    while fits(high):
      if high == end:
        return end
      low, high = high, min(2 * high - begin, end)
    while high - low > 1:
      middle = (low + high) // 2
      low, high = (middle, high) if fits(middle) else (low, middle)
    blank = next((p for p in range(low, begin + (low - begin) // 2, -1) if self.text[p].isspace()), low)
    for place in range(blank, max(begin, blank - 4096), -1):
      if self._may_cut(place):
        return place
    return None

  def _may_cut(self, place: int) -> bool:
    i = bisect.bisect_left(self.solid_begins, place) - 1
    if i >= 0 and place < self.solid[i][1]:
      return False
    c = self.text[place] if place < len(self.text) else " "
    if c in CLINGING and self.text[place - 1] not in CLINGING:
      return False
    if unicodedata.category(c)[0] != "M" and c != "\u200d" and self.text[place - 1] != "\u200d":
      return True
    # A letter keeps its accents, unless they never end.
    return all(unicodedata.category(x)[0] == "M" for x in self.text[max(place - 16, 0) : place + 1])

  def _wrap(self, begin: int, end: int) -> str:
    """One segment, its cut spans closed and opened again."""
    segment = self.text[begin:end].strip()
    before = [opening for a, b, opening in self.long_spans if a < begin < b]
    after = [tags.SPANS[opening] for a, b, opening in self.long_spans if a < end < b]
    return "".join([*before, segment, *reversed(after)]) if segment else ""
