"""Signs that every language writes alike: raised and lowered digits, circled numbers."""

import re
import unicodedata
from collections.abc import Callable

from cosyjax.text.rules import COMMA

SUPERSCRIPT = "[⁺⁻]?[⁰¹²³⁴-⁹ⁿ]{1,9}"
SUBSCRIPT = "[₀-₉]{1,9}|[ₐ-ₜ]"
CIRCLES = "".join(
  map(
    chr,
    (
      *range(0x2460, 0x249C),
      *range(0x2776, 0x2794),
      *range(0x24F5, 0x24FF),
      *range(0x3220, 0x322A),
      *range(0x3280, 0x328A),
    ),
  )
)
CIRCLED = rf"\s?[{CIRCLES}]\s?"
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n0123456789+-n")


def plain_script(text: str) -> str:
  """Raised and lowered signs on the line."""
  return text.translate(_PLAIN)


def circled(match: re.Match, quantity: Callable[[str], str], joint: str) -> str:
  """A circled number is an item of a list: a pause before and behind it."""
  number = int(unicodedata.numeric(match.group().strip()))
  head = COMMA + joint if match.start() else ""
  return f"{head}{quantity(str(number))}{COMMA}{joint}"


__all__ = ["CIRCLED", "CIRCLES", "SUBSCRIPT", "SUPERSCRIPT", "circled", "plain_script"]
