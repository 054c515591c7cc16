"""What is not a word, read out in Chinese: the rules of the `zh_` files, in order."""

from cosyjax.text import zh_addresses, zh_dates, zh_digits, zh_numbers, zh_symbols, zh_units
from cosyjax.text.rules import Reader

RULES = (
  *zh_addresses.RULES[:5],
  *zh_symbols.ITEMS,
  *zh_numbers.FIRST,
  *zh_symbols.WORDS,
  *zh_symbols.POWERS[:1],
  *zh_numbers.NAMED,
  *zh_digits.RULES[:1],
  *zh_dates.RULES,
  *zh_addresses.RULES[5:],
  *zh_symbols.SUMS,
  *zh_symbols.COMPARED,
  *zh_digits.RULES[1:],
  *zh_numbers.GROUPED,
  *zh_units.MONEY,
  *zh_units.RANGES,
  *zh_numbers.HYPHENS,
  *zh_numbers.SCALES,
  *zh_numbers.PARTS,
  *zh_units.RULES[:4],
  *zh_numbers.FRACTIONS,
  *zh_units.RULES[4:],
  *zh_symbols.POWERS[1:],
  *zh_units.BEHIND,
  *zh_numbers.LAST[:1],
  *zh_symbols.JOINED,
  *zh_numbers.LAST[1:],
  *zh_symbols.LAST,
)
READER = Reader(RULES)
quantity = zh_numbers.quantity


def read(text: str, begin: int = 0) -> str:
  """`text` from `begin` on with everything that is not a word read out in Chinese."""
  return READER.read(text, begin)
