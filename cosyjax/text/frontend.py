"""From what a user wrote to the segments that the LM speaks."""

import dataclasses
import logging
import unicodedata
from collections.abc import Callable

from cosyjax.config import TextConfig
from cosyjax.errors import TextError
from cosyjax.text import tags
from cosyjax.text.language import check
from cosyjax.text.lexicon import Lexicon
from cosyjax.text.normalise import normalise as read_out
from cosyjax.text.normalise import reading
from cosyjax.text.split import split_text
from cosyjax.text.text_tokenizer import TextTokenizer

log = logging.getLogger("cosyjax.text")

MAX_CHARACTERS = 100_000
MOST_MARKS = 8  # combining marks kept on one character; NFC takes quadratic time over endless ones


@dataclasses.dataclass(frozen=True)
class TextSegment:
  """A stretch of text that is spoken in one go.

  Attributes:
    text: as it will be read.
    ids: of the text vocabulary.
  """

  text: str
  ids: tuple[int, ...]


def prepare(
  text: str,
  tokenizer: TextTokenizer,
  config: TextConfig,
  *,
  normalise: Callable[[str], str] = read_out,
  language: str = "auto",
  prompt_language: str = "en",
  lexicon: Lexicon | None = None,
  max_characters: int = MAX_CHARACTERS,
) -> list[TextSegment]:
  """Checks, reads out, splits and tokenises a text; logs each segment as it will be read (INFO).

  Args:
    text: what to say. Sound and span tags ("[laughter]", "<strong>…</strong>") may stand in it;
      control tags may not, since the library places those itself.
    tokenizer: of the model.
    config: whether to read out numbers, and the lengths of segments.
    normalise: takes the place of `cosyjax.text.normalise`; called if `config.normalise` says so.
    language: "zh", "en", "other", or "auto"; see `cosyjax.text.normalise`.
    prompt_language: what "auto" takes for digits and signs alone.
    lexicon: words to put in the place of words, after reading; also of a text that is not read out.
    max_characters: longest text accepted.

  Returns:
    At least one segment, in order.

  Raises:
    TextError: not a string, not valid Unicode, empty, nothing that can be spoken, over-long, or
      with a control tag in it.
    ConfigError: no such language.
  """
  check(language, prompt_language)
  _check_string(text, max_characters)
  text = clean(text)
  _check_tags(text, tokenizer)
  written = text
  if config.normalise and written.strip():
    is_ours = normalise is read_out
    text = reading(language, prompt_language, lexicon)(text) if is_ours else normalise(text)
    _check_string(text, 8 * max_characters, "the normalised text")
    lexicon = None if is_ours else lexicon
  if lexicon:
    text = lexicon.replace(text)
  _check_tags(text, tokenizer)  # what removing a sign has put together
  _check_speakable(text, written)
  found = split_text(text, tokenizer, config.min_tokens, config.max_tokens, config.merge_tokens)
  segments = [TextSegment(part, tuple(tokenizer.encode(part))) for part in found if _is_speakable(part)]
  for number, segment in enumerate(segments, 1):
    log.info("segment %d of %d, %d tokens: %s", number, len(segments), len(segment.ids), segment.text)
  return segments


def clean(text: str) -> str:
  """Unicode NFC, without control, format and direction characters; blanks and line breaks stay."""
  out, marks = [], 0
  for c in text:
    kind = unicodedata.category(c) if c > "\x7e" or c < " " else "L"
    if kind[0] == "M":
      marks += 1
      if marks > MOST_MARKS:
        continue
    elif kind == "Cf" or (kind == "Cc" and c not in "\t\n\r\v\f\x1c\x1d\x1e\x85"):
      continue
    else:
      marks = 0
    out.append(c)
  return unicodedata.normalize("NFC", "".join(out))


def _check_string(text: str, most: int, what: str = "text") -> None:
  if not isinstance(text, str):
    raise TextError(f"{what}: expected a string, found {type(text).__name__}")
  if len(text) > most:
    raise TextError(f"{what}: {len(text):,} characters, at most {most:,} are read at once; send it in parts")
  try:
    text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise TextError(
      f"{what}: character {error.start} is half of a surrogate pair ({text[error.start]!r}), so this is not valid"
      " Unicode; decode the source as UTF-8 or UTF-16 first"
    ) from None


def _check_tags(text: str, tokenizer: TextTokenizer) -> None:
  for tag in tokenizer.control_tags:
    if tag in text:
      raise TextError(
        f"text: {tag} at character {text.index(tag)} is a control tag that the library places itself. To say how to"
        f" speak, give the instruction apart from the text; tags for the text are {', '.join(tags.SPOKEN)}"
      )


def _check_speakable(text: str, written: str) -> None:
  """Refuses a text of which, once read, nothing can be said; `㎡` can be, though it is no letter."""
  if not written.strip():
    raise TextError("text: expected something to say, found nothing")
  if not _is_speakable(text):
    raise TextError(f"text: nothing in {written.strip()[:40]!r} can be spoken; expected letters, digits or a sound tag")


def _is_speakable(text: str) -> bool:
  """Whether a letter, a digit or a sound is in it; signs such as % and ☃ alone are nothing to say."""
  return any(c.isalnum() for c in tags.strip(text)) or any(tag in text for tag in tags.SOUNDS)
