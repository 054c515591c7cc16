"""What is not a word, read out in English: the rules of the `en_` files, in order."""

from cosyjax.text import (
  en_addresses,
  en_dates,
  en_digits,
  en_money,
  en_numbers,
  en_symbols,
  en_times,
  en_units,
  en_words,
)
from cosyjax.text.rules import Reader

RULES = (
  *en_addresses.RULES[:7],
  *en_numbers.FIRST[:4],
  *en_words.RULES,
  *en_addresses.RULES[7:8],
  *en_symbols.POWERS[:3],
  *en_dates.RULES,
  *en_addresses.RULES[8:],
  *en_times.RULES,
  *en_numbers.PARTS[:2],
  *en_symbols.SUMS,
  *en_symbols.COMPARED,
  *en_digits.RULES,
  *en_numbers.FIRST[4:],
  *en_money.RULES,
  *en_numbers.SCALES,
  *en_symbols.SIZES,
  *en_units.RULES,
  *en_symbols.POWERS[3:],
  *en_numbers.PARTS[2:],
  *en_symbols.JOINED,
  *en_numbers.LAST,
  *en_symbols.LAST,
)
READER = Reader(RULES)
quantity = en_numbers.quantity


def read(text: str, begin: int = 0) -> str:
  """`text` from `begin` on with everything that is not a word read out in English."""
  return READER.read(text, begin)
