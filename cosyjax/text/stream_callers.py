"""Text that arrives in pieces and is not read by our rules: by a normaliser of the caller's, or not at all."""

from collections.abc import Callable

from cosyjax.errors import TextError
from cosyjax.text.split import LAST_OF_SENTENCE, ends_sentence
from cosyjax.text.stream_read import TAG, TEXT

MOST_SENTENCE = 1024  # characters without a sentence end that a normaliser of the caller's gets at once


class PlainReader:
  """Text as it is, for a lexicon without reading."""

  language = "other"
  held = 0

  def __init__(self) -> None:
    self.out: list[tuple[int, str]] = []

  def feed(self, text: str) -> None:
    """Put a piece of text out as it is."""
    self.out.append((TEXT, text))

  def tag(self, tag: str) -> None:
    """Put a tag out."""
    self.out.append((TAG, tag))

  def close(self) -> None:
    """Nothing is held."""


class SentenceReader:
  """Hands whole sentences to a normaliser of the caller's."""

  language = "other"

  def __init__(self, normalise: Callable[[str], str]) -> None:
    self.out: list[tuple[int, str]] = []
    self._normalise, self._held, self._blank = normalise, "", ""

  @property
  def held(self) -> int:
    """Characters of the sentence that is not complete yet."""
    return len(self._held) + len(self._blank)

  def feed(self, text: str) -> None:
    """Take a piece of text; sentences that it completes are put out."""
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
    """Take a tag into the sentence."""
    # A tag stays in its sentence, as it does in the whole text.
    self._held, self._blank = self._held + self._blank + tag, ""

  def close(self) -> None:
    """Put out what is held, as the end of the text."""
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
