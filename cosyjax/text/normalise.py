"""Text as it will be read aloud: numbers, dates, money, units, addresses, mark-up and symbols turned into words.

Chinese and English have reading rules (`read_zh`, `read_en`); text in other languages keeps its
digits and is only freed of mark-up and tidied. A whole text goes the way of a text that arrives
in pieces (`stream_read`), so the two are read alike.
"""

import unicodedata
from collections.abc import Callable

from cosyjax.text import tags
from cosyjax.text.language import check, detect_language
from cosyjax.text.lexicon import Lexicon
from cosyjax.text.stream_read import Reader
from cosyjax.text.text_tokenizer import is_han

_FULL_STOP = {"zh": "。", "en": ".", "other": "."}

__all__ = ["close_text", "detect_language", "normalise", "reading"]


def normalise(text: str, language: str = "auto", *, prompt_language: str = "en", lexicon: Lexicon | None = None) -> str:
  """Reads out what is not a word, and tidies marks and blanks. Tags are never altered.

  Args:
    text: any text; tags of `cosyjax.text.tags` are kept as they are.
    language: "zh", "en", "other", or "auto" to look at the text. In a Chinese text, a run of
      three English words or more is read in English.
    prompt_language: "zh", "en" or "other": what "auto" takes for digits and signs alone.
    lexicon: words to put in the place of words, after reading.

  Returns:
    The text as it will be read, ending in a sentence mark; "" if there is nothing to read.

  Raises:
    ConfigError: no such language.
  """
  check(language, prompt_language)
  if language == "auto":
    language = detect_language(text, prompt_language)
  reader, start = Reader(language), 0
  for tag in tags.PATTERN.finditer(text):
    reader.feed(text[start : tag.start()])
    reader.tag(tag.group())
    start = tag.end()
  reader.feed(text[start:])
  reader.close()
  spoken = "".join(part for _, part in reader.out)
  if lexicon:
    spoken = lexicon.replace(spoken)
  return close_text(spoken.strip(), language)


def reading(
  language: str = "auto", prompt_language: str = "en", lexicon: Lexicon | None = None
) -> Callable[[str], str]:
  """`normalise` with its options settled."""
  check(language, prompt_language)
  return lambda text: normalise(text, language, prompt_language=prompt_language, lexicon=lexicon)


def close_text(text: str, language: str) -> str:
  """Ends the text in a sentence mark."""
  spoken = tags.strip(text).rstrip()
  if not spoken:
    return text
  east = not spoken.isascii() and any(is_han(c) or "\u3040" <= c <= "\u30ff" for c in spoken[-8:])
  stop = "。" if east else _FULL_STOP[language]
  trimmed = text.rstrip()
  if trimmed.endswith(("，", ",", "、", "：", ":")):
    return trimmed.rstrip("，,、：: ") + stop
  return trimmed if unicodedata.category(spoken[-1]).startswith("P") else trimmed + stop
