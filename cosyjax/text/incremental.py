"""Text that arrives in pieces, to text ids as early as they are certain.

The pieces may be cut anywhere: within words, tags, between a letter and its accent, and, as
bytes, within a character. Ids, their order and the segment borders depend on the text
alone: every decision is made at one character, from the text up to it.

**Which ids.** Those of the whole text: the ids of a segment are `tokenizer.encode` of its
text, and the texts of the segments put together are `normalise` of the whole, which reads
through the same phrases. What is different, because it cannot be known in time:

- With `language="auto"` the language is that of the text so far; English before the first
  Chinese character is read as English. A language that is given is that of the whole.
- More than 64 letters, signs or blanks in a row are cut into 64 at a time for the BPE. With
  `split_cjk`, Chinese characters go one by one.
- More than 64 signs before the first word of a segment are dropped.

**When.** A pre-token of the BPE is certain when the next one begins, unless what follows may
become a tag; and numbers and signs wait for their reading (`stream_read` has the rules). The
ids of a plain English word come with the second character of the next word, those of a plain
Chinese clause with its mark, and the mark's own with what follows it, since a mark may still
be replaced if the text ends there. No text makes it more than `MOST_HELD`.

**Segments.** The LM is not given an endless row. A segment ends at the first sentence end
at which it has `config.min_tokens` ids (`max_tokens` within <strong> or another span); failing
that, at a comma from `max_tokens` ids on, at a blank from 1.5 times and at any other end of a
word, or of 64 characters, from twice as many. Spans that are open there are closed, and opened
again in the next. Signs alone are no segment. A short rest is one: `merge_tokens` is not
looked at, since what was said before is gone.
"""

import codecs
from collections.abc import Callable

from cosyjax.config import TextConfig
from cosyjax.errors import ConfigError, TextError
from cosyjax.text import stream_callers, stream_ids, stream_read
from cosyjax.text.language import check
from cosyjax.text.lexicon import LONGEST, Lexicon
from cosyjax.text.normalise import close_text
from cosyjax.text.normalise import normalise as read_out
from cosyjax.text.stream_clean import Composer, TagScanner
from cosyjax.text.stream_ids import Fed, Speaker
from cosyjax.text.text_tokenizer import TextTokenizer

__all__ = ["Fed", "TextStream"]

MOST_HELD = stream_read.MOST_UNREAD + 2 * stream_ids.MOST_RUN + LONGEST  # characters; or a sentence, see `normalise`
_COMMAS = frozenset("，,、：:")  # replaced by a full stop at the very end


class TextStream:
  """One text in pieces. `push` each, then `close`; the module says what comes when.

  Args:
    tokenizer: of the model.
    config: whether to read out numbers, and the lengths of segments.
    normalise: takes the place of `cosyjax.text.normalise`. It gets whole sentences, or what there is after 1024
      characters without a sentence end.
    language: "zh", "en", "other", or "auto"; see `cosyjax.text.normalise`.
    prompt_language: what "auto" takes for digits and signs alone.
    lexicon: words to put in the place of words, after reading; what may become one of its words waits.

  Raises:
    ConfigError: limits that cannot be met, or no such language.
  """

  def __init__(
    self,
    tokenizer: TextTokenizer,
    config: TextConfig,
    *,
    normalise: Callable[[str], str] = read_out,
    language: str = "auto",
    prompt_language: str = "en",
    lexicon: Lexicon | None = None,
  ) -> None:
    check(language, prompt_language)
    if not 0 < config.min_tokens <= config.max_tokens:
      raise ConfigError(f"expected 0 < min_tokens <= max_tokens, found {config.min_tokens}, {config.max_tokens}")
    self._decoder = codecs.getincrementaldecoder("utf-8")()
    self._composer, self._scanner = Composer(), TagScanner(tokenizer)
    self._reader, self._reading = None, ()
    if config.normalise:
      is_ours = normalise is read_out
      self._reader = (
        stream_read.Reader(language, prompt_language) if is_ours else stream_callers.SentenceReader(normalise)
      )
    elif lexicon:
      self._reader = stream_callers.PlainReader()
    if self._reader:
      self._lexicon = lexicon.stream() if lexicon else None
      # Reading out may leave a letter and its accent side by side, or letters that make a tag.
      self._composer_after = Composer(strip=False)
      self._scanner_after = TagScanner(tokenizer)
      self._reading = (self._reader, self._composer_after, self._scanner_after)
    self._adds_mark = config.normalise and normalise is read_out
    self._speaker = Speaker(tokenizer, config, _COMMAS if self._adds_mark else frozenset())
    self._number = 0
    self._ended = ""

  @property
  def held(self) -> int:
    """Characters that wait for more, in whichever step; bounded, however long the text."""
    steps = [self._composer, self._scanner, self._speaker, *self._reading]
    if self._reader and self._lexicon:
      steps.append(self._lexicon)
    return sum(step.held for step in steps)

  def push(self, piece: str | bytes) -> list[Fed]:
    """Takes the next piece and returns what it made certain, at most one `Fed` per segment, possibly none.

    Raises:
      TextError: not a string or bytes, not valid Unicode, a control tag, or the stream has
        ended. After an error the stream takes no more; what the same piece held before the error is lost.
    """
    if self._ended:
      raise TextError(f"the text stream {self._ended}; open another for more text")
    self._number += 1
    try:
      self._feed(self._composer.feed(self._decoded(piece)))
      self._speaker.flush()
    except TextError as error:
      self._ended = "has failed"
      raise TextError(f"piece {self._number} of the text: {error}") from None
    except BaseException:  # of the caller's normaliser
      self._ended = "has failed"
      raise
    return self._speaker.taken()

  def close(self) -> list[Fed]:
    """Ends the text and returns what was held back; the last `Fed` of all ends its segment.

    Raises:
      TextError: the text had nothing in it that can be spoken, ends within a character, or the stream has ended.
    """
    if self._ended:
      raise TextError(f"the text stream {self._ended}; open another for more text")
    self._ended = "has failed"
    try:
      self._decoder.decode(b"", final=True)
    except UnicodeDecodeError:
      raise TextError(f"the text ends within a character, after {self._number} pieces; expected whole UTF-8") from None
    self._feed(self._composer.close())
    self._feed_plain(self._scanner.close())
    language = "other"
    if self._reader:
      self._reader.close()
      self._after_reading()
      self._end_stretch()
      self._speaker.text(self._scanner_after.close())
      language = self._reader.language
    self._speaker.close((lambda text: close_text(text, language)) if self._adds_mark else str.rstrip)
    self._ended = "has been closed"
    return self._speaker.taken()

  def _decoded(self, piece: str | bytes) -> str:
    if isinstance(piece, (bytes, bytearray)):
      before = len(self._decoder.getstate()[0])
      try:
        return self._decoder.decode(piece)
      except UnicodeDecodeError as error:
        raise TextError(f"byte {max(error.start - before, 0)} is not UTF-8 ({error.reason})") from None
    if not isinstance(piece, str):
      raise TextError(f"expected a string or bytes, found {type(piece).__name__}")
    if piece and self._decoder.getstate()[0]:
      raise TextError("a string after bytes that end within a character; expected the rest of its bytes")
    try:
      piece.encode("utf-8")
    except UnicodeEncodeError as error:
      raise TextError(
        f"character {error.start} is half of a surrogate pair ({piece[error.start]!r}), so this is not valid"
        " Unicode; decode the source as UTF-8 or UTF-16 first, and cut between characters"
      ) from None
    return piece

  def _feed(self, text: str) -> None:
    """Clean text, on to the reader or, if nothing is read out, to the tokenizer."""
    for part, is_tag in self._scanner.feed(text):
      if not is_tag:
        self._feed_plain(part)
      elif self._reader:
        self._reader.tag(part)
      else:
        self._speaker.tag(part)
    if self._reader:
      self._after_reading()

  def _feed_plain(self, text: str) -> None:
    (self._reader.feed if self._reader else self._speaker.text)(text)

  def _after_reading(self) -> None:
    out, self._reader.out = self._reader.out, []
    for kind, text in out:
      if kind == stream_read.TEXT:
        text = self._lexicon.feed(text) if self._lexicon else text
        self._speaker.text(self._joined(self._composer_after.feed(text)))
      elif kind == stream_read.TAG:
        self._end_stretch()
        self._speaker.text(self._joined(text))
      elif not (self._lexicon and self._lexicon.held):
        self._speaker.text(self._joined(self._composer_after.close()))
        self._speaker.fence()

  def _end_stretch(self) -> None:
    """All that the steps after reading hold."""
    if self._lexicon:
      self._speaker.text(self._joined(self._composer_after.feed(self._lexicon.close())))
    self._speaker.text(self._joined(self._composer_after.close()))

  def _joined(self, text: str) -> str:
    """Plain text of `text`, its tags handed on."""
    plain = ""
    for part, is_tag in self._scanner_after.feed(text):
      if is_tag:
        self._speaker.text(plain)
        self._speaker.tag(part)
      plain = "" if is_tag else plain + part
    return plain
