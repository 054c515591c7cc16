"""A lexicon of the user's own: words to be said in the place of words, after reading.

A file holds one word a line, what is written and what is said with a tab or => between them:

    SQL => sequel
    GIF<TAB>jif
    # a comment

An entry in small letters is found in any case, one with capitals only as it is written. Entries
that begin or end in a letter of an alphabet are found as whole words; Chinese ones anywhere.
Where entries overlap the longest counts, and what was put in is not looked at again.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from cosyjax.errors import ConfigError
from cosyjax.text import tags

LONGEST = 64  # characters of an entry
_PAIR = re.compile(r"\s*=>\s*|\t+")


class Lexicon:
  """Words to words.

  Args:
    words: what is written, to what is said.

  Raises:
    ConfigError: an entry is empty, too long, said in a control tag, or there twice.
  """

  def __init__(self, words: Mapping[str, str], where: str = "lexicon") -> None:
    self._said: dict[str, str] = {}
    for word, said in words.items():
      problem = _problem(word, said)
      if problem:
        raise ConfigError(f"{where}: {problem}")
      self._said[" ".join(word.split())] = " ".join(said.split())
    self._exact = {word: said for word, said in self._said.items() if word != word.lower()}
    self._any_case = {word: said for word, said in self._said.items() if word == word.lower()}
    self._beginnings = {word.lower()[:size] for word in self._said for size in range(1, len(word) + 1)}
    self._pattern = re.compile("|".join(map(_alternative, sorted(self._said, key=len, reverse=True))) or r"(?!)", re.I)

  @classmethod
  def load(cls, path: str | Path) -> "Lexicon":
    """Reads a file.

    Raises:
      ConfigError: the file cannot be read, or a line of it, whose number is named.
    """
    try:
      text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
      raise ConfigError(f"lexicon {path}: cannot be read: {error}; expected a text file in UTF-8") from error
    words: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
      if not line.strip() or line.lstrip().startswith("# ") or line.strip() == "#":
        continue
      parts = _PAIR.split(line.strip(), maxsplit=1)
      if len(parts) != 2:
        raise ConfigError(
          f"lexicon {path}, line {number}: expected 'word => words' or 'word<TAB>words', found {line.strip()[:60]!r}"
        )
      word, said = (" ".join(part.split()) for part in parts)
      if problem := _problem(word, said):
        raise ConfigError(f"lexicon {path}, line {number}: {problem}")
      if word in words:
        raise ConfigError(
          f"lexicon {path}, line {number}: {word!r} stands in line {lines[word]} already; expected it once"
        )
      words[word], lines[word] = said, number
    return cls(words, f"lexicon {path}")

  def __len__(self) -> int:
    return len(self._said)

  def replace(self, text: str) -> str:
    """`text` with every word of the lexicon said its way."""
    return self._pattern.sub(self._spoken, text) if self._said else text

  def stream(self) -> "LexiconStream":
    """The same for text that arrives in pieces."""
    return LexiconStream(self)

  def _spoken(self, m: re.Match) -> str:
    word = m.group()
    if word in self._exact:
      return self._exact[word]
    return self._any_case.get(word.lower(), word)


class LexiconStream:
  """`Lexicon.replace` of text that arrives in pieces; what may become a word of the lexicon waits."""

  def __init__(self, lexicon: Lexicon) -> None:
    self._lexicon, self._held, self._before = lexicon, "", ""

  @property
  def held(self) -> int:
    """Characters taken and not returned yet."""
    return len(self._held)

  def feed(self, text: str) -> str:
    """What is certain of the text so far and has not been returned before."""
    text = self._held + text
    # The first place from which the rest may be the beginning of an entry, or an entry whose end is not certain.
    lower, size = text.lower(), len(text)
    place = max(0, size - LONGEST)
    while place < size and not (lower[place:] in self._lexicon._beginnings and self._begins(text, place)):
      place += 1
    return self._out(text, place)

  def close(self) -> str:
    """The rest; what follows is a tag, or nothing."""
    rest = self._out(self._held, len(self._held))
    self._before = ""
    return rest

  def _begins(self, text: str, place: int) -> bool:
    before = text[place - 1] if place else self._before[-1:]
    return not (_is_letter(before) and _is_letter(text[place]))

  def _out(self, text: str, place: int) -> str:
    whole = self._before + text
    shift = len(self._before)
    out, done = [], shift
    for m in self._lexicon._pattern.finditer(whole, shift):
      if m.start() >= shift + place:
        break
      out += (whole[done : m.start()], self._lexicon._spoken(m))
      done = m.end()
    end = max(done, shift + place)
    out.append(whole[done:end])
    self._held = whole[end:]
    self._before = whole[max(end - 1, 0) : end]
    return "".join(out)


def _is_letter(c: str) -> bool:
  return c.isalnum() and c < "\u3040"


def _alternative(word: str) -> str:
  before = r"(?<![^\W_\u3040-\uffff])" if _is_letter(word[0]) else ""
  behind = r"(?![^\W_\u3040-\uffff])" if _is_letter(word[-1]) else ""
  return before + re.escape(word) + behind


def _problem(word: str, said: str) -> str:
  if not word.strip():
    return f"no word before {said[:40]!r}; expected 'word => words'"
  if len(word) > LONGEST:
    return f"{word[:40]!r}… has {len(word)} characters; expected at most {LONGEST}"
  if tags.PATTERN.search(word):
    return f"{word!r} holds a tag; expected words"
  for tag in tags.CONTROL:
    if tag in said:
      return f"{tag} is a control tag that the library places itself; expected words or {', '.join(tags.SPOKEN)}"
  if not said.strip():
    return f"nothing to say for {word!r}; expected words"
  return ""
