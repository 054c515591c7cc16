"""Tags that the text vocabulary holds besides words, in the order of the released model.

The order gives the ids: a tag that the Qwen files do not know yet is appended to the
vocabulary in this order. Control tags belong to the library and are refused in what a user
writes; the others may stand anywhere in a text.
"""

import re

END_OF_TEXT = "<|endoftext|>"
END_OF_PROMPT = "<|endofprompt|>"

CONTROL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", END_OF_PROMPT)

# A way of saying what stands between the two: emphasis, laughing.
SPANS = {"<strong>": "</strong>", "<laughter>": "</laughter>"}

# Everything beyond <|endoftext|>, which is end-of-sequence and padding too.
SPECIAL = (
  "<|im_start|>",
  "<|im_end|>",
  END_OF_PROMPT,
  "[breath]",
  "<strong>",
  "</strong>",
  "[noise]",
  "[laughter]",
  "[cough]",
  "[clucking]",
  "[accent]",
  "[quick_breath]",
  "<laughter>",
  "</laughter>",
  "[hissing]",
  "[sigh]",
  "[vocalized-noise]",
  "[lipsmack]",
  "[mn]",
)

SPOKEN = tuple(tag for tag in SPECIAL if tag not in CONTROL)  # allowed in what a user writes
SOUNDS = tuple(tag for tag in SPOKEN if tag.startswith("["))  # a sound where the tag stands

PATTERN = re.compile("|".join(re.escape(tag) for tag in (END_OF_TEXT, *SPECIAL)))


def strip(text: str) -> str:
  """`text` with every tag replaced by a blank."""
  return PATTERN.sub(" ", text)


def spans(text: str) -> list[tuple[int, int, str]]:
  """(start, end, opening tag) of every stretch from an opening span tag to its closing one, both included.

  A tag without its partner makes no stretch; an opening tag inside a stretch of its own kind is no second one.
  """
  opened: dict[str, tuple[int, str]] = {}  # closing tag -> where and by what
  found = []
  for match in PATTERN.finditer(text):
    tag = match.group()
    if tag in SPANS:
      opened.setdefault(SPANS[tag], (match.start(), tag))
    elif tag in opened:
      start, opening = opened.pop(tag)
      found.append((start, match.end(), opening))
  return sorted(found)
