"""Text to the ids that the LM reads: checked, read out, split, tokenised. Host side only."""

from cosyjax.text.frontend import TextSegment, prepare
from cosyjax.text.incremental import Fed, TextStream
from cosyjax.text.language import detect_language
from cosyjax.text.lexicon import Lexicon
from cosyjax.text.normalise import normalise
from cosyjax.text.split import split_text
from cosyjax.text.text_tokenizer import TextTokenizer, tiny_tokenizer_dir

__all__ = [
  "Fed",
  "Lexicon",
  "TextSegment",
  "TextStream",
  "TextTokenizer",
  "detect_language",
  "normalise",
  "prepare",
  "split_text",
  "tiny_tokenizer_dir",
]
