"""Text as it will be read, while it arrives, to ids and segments: the last step of a text stream."""

import dataclasses
import functools
import unicodedata
from collections.abc import Callable

from cosyjax.config import TextConfig
from cosyjax.errors import TextError
from cosyjax.text import tags
from cosyjax.text.split import CLINGING, LAST_OF_SENTENCE, ends_sentence
from cosyjax.text.text_tokenizer import TextTokenizer, is_han

MOST_RUN = 64  # characters of one kind that make one word, at most
_CJK_RUN = 4  # with split_cjk: from here on, every Chinese character is by itself
_TAIL = 256  # characters that are looked back at for the mark that ends the text
_CLAUSE_ENDS = frozenset("，、：—")


@dataclasses.dataclass(frozen=True)
class Fed:
  """Text that has become certain. It never spans two segments.

  Attributes:
    text: as it will be read; the texts of one segment, put together, encode to its ids.
    ids: of the text vocabulary; none if only the end of the segment is news.
    last: the segment ends behind these.
  """

  text: str
  ids: tuple[int, ...]
  last: bool = False


class Speaker:
  """Text as it will be read to ids and segments."""

  def __init__(self, tokenizer: TextTokenizer, config: TextConfig, held_back: frozenset[str]) -> None:
    self._tokenizer, self._held_back = tokenizer, held_back
    self._least, self._most = config.min_tokens, config.max_tokens
    self._out: list[tuple[str, list[int], bool]] = []
    self._said, self._tail = False, ""  # of the stream: whether a segment was spoken; its end
    self._spans: list[str] = []  # open ones
    self._begin()

  def _begin(self) -> None:
    """A new segment."""
    self._buffer = ""  # of this segment, without ids yet
    self._count = self._size = 0  # its ids and characters so far
    self._recent = ""  # the end of what has ids, closing tags left out
    self._previous = self._kind = ""  # the last character and its kind
    self._run = 0  # how many of its kind came in a row
    self._speakable = False
    self._lead: list[tuple[str, list[int]]] = []  # held until something speakable comes

  @property
  def held(self) -> int:
    """Characters taken whose ids are not certain yet."""
    return len(self._buffer) + sum(len(text) for text, _ in self._lead)

  def taken(self) -> list[Fed]:
    """All `Fed` since the last call."""
    out, self._out = self._out, []
    return [Fed(text, tuple(ids), last) for text, ids, last in out]

  def text(self, text: str) -> None:
    """Take a piece of words that are read already."""
    for c in text:
      self._take(c)

  def tag(self, tag: str) -> None:
    """Take a tag, which borders on the words around it."""
    if not (tag in tags.SPANS.values() and any(tags.SPANS[span] == tag for span in self._spans)):
      self._maybe_border(tag[0], "", tag=True)
    self._release()
    self._size += len(tag)
    if tag in tags.SOUNDS:
      self._now_speakable()
    if tag in tags.SPANS and tag not in self._spans:
      self._spans.append(tag)
    self._spans = [span for span in self._spans if tags.SPANS[span] != tag]
    self._emit(tag, self._tokenizer.encode(tag), "" if tag in tags.SPANS.values() else tag)
    self._kind, self._run, self._previous = "", 0, ""
    self._limit_lead()

  def fence(self) -> None:
    """No letter follows, so a word that was last is whole."""
    if self._kind == "L":
      self._release()

  def flush(self) -> None:
    """Gives ids to every pre-token that is certain."""
    text = self._buffer
    end = len(text)
    while end and (text[end - 1].isspace() or text[end - 1] in self._held_back):
      end -= 1
    certain = 0
    for _, (_, stop) in self._tokenizer._bpe.pre_tokenizer.pre_tokenize_str(text) if end else ():
      if stop > end or stop == len(text):
        break
      certain = stop
    if certain:
      self._buffer = text[certain:]
      self._emit(text[:certain], self._tokenizer.encode(text[:certain]))

  def close(self, finish: Callable[[str], str]) -> None:
    """Ends the segment, its text with what was held finished by `finish`."""
    if self._speakable:
      finished = finish(self._tail + self._buffer).rstrip()
      self._buffer = finished[len(self._tail) :] if finished.startswith(self._tail) else self._buffer.rstrip()
      self._release()
      self._end()
    elif not self._said:
      raise TextError(
        "the text: nothing that came before it was closed can be spoken; expected letters, digits or a sound tag"
      )

  def _take(self, c: str) -> None:
    kind = _kind(c)
    if kind == "Z":
      if not self._size:
        return  # a segment begins with no blank
    else:
      self._maybe_border(c, kind)
    self._run = self._run + 1 if kind == self._kind else 1
    alone = self._tokenizer.split_cjk and self._run > _CJK_RUN and is_han(c) and is_han(self._previous)
    if self._run > MOST_RUN or alone:
      self._release()
      self._run = _CJK_RUN if alone else 1
    self._kind, self._previous = kind, c
    if c.isalnum():
      self._now_speakable()
    self._buffer += c
    self._size += 1
    self._limit_lead()

  def _limit_lead(self) -> None:
    """Drops what a segment begins with if nothing speakable comes for too long."""
    if not self._speakable and self._size > MOST_RUN:
      self._begin()
      self._open_spans()

  def _open_spans(self) -> None:
    for span in self._spans:
      self._emit(span, self._tokenizer.encode(span))

  def _maybe_border(self, c: str, kind: str, tag: bool = False) -> None:
    """Ends the segment before `c` if it is long enough for what ends here."""
    inside = kind == self._kind and kind in "LN" and self._run < MOST_RUN and not tag
    if inside or not self._speakable:
      return
    blank = self._kind == "Z"
    before = self._buffer[-1:] or self._recent[-1:]
    if before.isspace():
      before = self._buffer.rstrip()[-1:] or self._recent[-1:]
    if (c in CLINGING and not tag) or unicodedata.category(c)[0] == "M":
      return
    closes_quote = not blank and c in "\"'”’」』》〉)）】〕]" and not tag
    if before in LAST_OF_SENTENCE and not closes_quote:
      text = self._recent + self._buffer
      if ends_sentence(text[-64:].rstrip()[-32:], blank, c, tag):
        return self._end_from(self._most if self._spans else self._least)
    if (before in _CLAUSE_ENDS or (before in ",:" and (blank or not c.isascii()))) and not closes_quote:
      return self._end_from(self._most)
    if blank:
      return self._end_from(self._most * 3 // 2)
    if tag or (kind in "LN" and (kind != self._kind or self._run >= MOST_RUN)):
      return self._end_from(2 * self._most)
    return None

  def _end_from(self, least: int) -> None:
    """Ends the segment if it has `least` ids."""
    if self._count + 4 * len(self._buffer) < least:  # a character has at most four bytes, each an id at most
      return
    self.flush()
    if self._count + 4 * len(self._buffer) < least:
      return
    rest = self._buffer.rstrip()
    if self._count + len(self._tokenizer.encode(rest)) < least:
      return
    self._buffer = rest
    self._release()
    for span in reversed(self._spans):
      closing = tags.SPANS[span]
      self._emit(closing, self._tokenizer.encode(closing), "")
    self._end()
    self._open_spans()

  def _end(self) -> None:
    if self._out and not self._out[-1][2]:
      text, ids, _ = self._out.pop()
      self._out.append((text, ids, True))
    else:
      self._out.append(("", [], True))
    self._said = True
    self._begin()

  def _release(self) -> None:
    """Gives ids to all that is held."""
    text, self._buffer = self._buffer, ""
    if text:
      self._emit(text, self._tokenizer.encode(text))

  def _now_speakable(self) -> None:
    if not self._speakable:
      self._speakable, lead = True, self._lead
      self._lead = []
      for text, ids in lead:
        self._give(text, ids)

  def _emit(self, text: str, ids: list[int], recent: str | None = None) -> None:
    self._count += len(ids)
    self._tail = (self._tail + text)[-_TAIL:]
    self._recent = (self._recent + (text if recent is None else recent))[-64:]
    if self._speakable:
      self._give(text, ids)
    else:
      self._lead.append((text, ids))

  def _give(self, text: str, ids: list[int]) -> None:
    if self._out and not self._out[-1][2]:
      self._out[-1][1].extend(ids)
      self._out[-1] = (self._out[-1][0] + text, *self._out[-1][1:])
    else:
      self._out.append((text, ids, False))


@functools.lru_cache(4096)
def _kind(c: str) -> str:
  """L letters, N numbers, Z blanks, O the rest: a pre-token has at most two kinds."""
  if c.isspace():
    return "Z"
  kind = unicodedata.category(c)
  return kind[0] if kind[0] in "LN" else "L" if kind == "Cn" else "O"
