"""Reading rules: a list of them in order reads one phrase of a text.

A rule is a regular expression, the words for what it matches, and examples that are its tests.
Rules are tried in order, each over the whole phrase, so a rule sees what the rules before it
have written. What stands before the phrase is in sight of the patterns (look-behind and
`before`), but is never read again: a phrase ends where no rule looks ahead any further.

To cost plain text nothing, a rule names the characters without which it cannot match (`needs`);
it is tried only where one of each group is in the phrase.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

DIGITS = "0123456789"
THREE, FOUR, MONTH = "\x01", "\x02", "\x03"  # needs that are no characters: digits in a row, the name of a month
_DIGIT, _WORDS = re.compile("[0-9]"), re.compile("[A-Za-z -]*|[\u4e00-\u9fff]*")
_FEATURES = {
  THREE: re.compile("[0-9]{3}").search,
  FOUR: re.compile("[0-9]{4}").search,
  MONTH: re.compile("(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)").search,
}
COMMA, STOP = "\ue000", "\ue001"  # pauses that rules put in; `tidy` turns them into marks, or drops them beside one

N = r"[0-9]+(?:\.[0-9]+)?"  # a number
APART = r"(?<![0-9A-Za-z.])"  # not the end of another number or of a name


@dataclasses.dataclass(frozen=True)
class Rule:
  """One kind of thing that is not a word.

  Attributes:
    name: for messages and tests.
    pattern: regular expression; its time must be linear in the phrase.
    words: what is read for a match; the match unchanged where the rule declines.
    examples: (text, as it is read by all rules together, without the mark at the end).
    needs: groups of characters, one of each of which must be in the phrase, or a need that is no character.
  """

  name: str
  pattern: str
  words: Callable[[re.Match], str]
  examples: tuple[tuple[str, str], ...]
  needs: tuple[str, ...] = (DIGITS,)


class Reader:
  """Rules compiled once; `read` applies them."""

  def __init__(self, rules: Sequence[Rule]) -> None:
    self.rules = tuple(rules)
    groups = {group: 1 << i for i, group in enumerate(dict.fromkeys(g for rule in rules for g in rule.needs))}
    self._compiled = [
      (sum(groups[g] for g in set(rule.needs)), re.compile(rule.pattern), rule.words) for rule in self.rules
    ]
    self._bits: dict[str, int] = {}  # of a character: the groups that it is in
    for group, bit in groups.items():
      for c in group:
        self._bits[c] = self._bits.get(c, 0) | bit
    self._digits = sum({bit for group, bit in groups.items() if group == DIGITS})
    self._features = [(groups[feature], search) for feature, search in _FEATURES.items() if feature in groups]
    self._chosen: dict[int, list[tuple]] = {}  # rules that can match, by the groups that a phrase has

  def read(self, text: str, begin: int = 0) -> str:
    """`text` from `begin` on as it is read; what stands before is only looked at."""
    bits = self._groups_of(text, begin)
    if not bits:
      return text[begin:]
    done, changed = 0, True
    while changed:
      changed = False
      for number, pattern, words in self._rules_for(bits):
        if number < done or pattern.search(text, begin) is None:
          continue
        out, place, plain = [], begin, True
        for match in pattern.finditer(text, begin):
          said = words(match)
          out += (text[place : match.start()], said)
          place, plain = match.end(), plain and _WORDS.fullmatch(said) is not None
        text = text[:begin] + "".join(out) + text[place:]
        if plain and _DIGIT.search(text, begin):
          continue  # words bring nothing that a rule further down has to see
        has = self._groups_of(text, begin)
        if has != bits:
          bits, done, changed = has, number + 1, True
          break
    return text[begin:]

  def _groups_of(self, text: str, begin: int) -> int:
    bits, of = 0, self._bits.get
    for c in set(text[begin:]):
      bits |= of(c, 0)
    if bits & self._digits:
      for bit, search in self._features:
        if search(text, begin):
          bits |= bit
    return bits

  def _rules_for(self, bits: int) -> list[tuple]:
    chosen = self._chosen.get(bits)
    if chosen is None:
      if len(self._chosen) > 4096:
        self._chosen.clear()
      chosen = [(i, pattern, words) for i, (need, pattern, words) in enumerate(self._compiled) if need & bits == need]
      self._chosen[bits] = chosen
    return chosen


def any_of(names: Sequence[str]) -> str:
  """Alternatives of a pattern, the longest that is there first: a tree of letters, so that few are tried."""
  tree: dict = {}
  for name in names:
    node = tree
    for c in name:
      node = node.setdefault(c, {})
    node[""] = {}
  return _branches(tree)


def _branches(node: dict) -> str:
  ways = [re.escape(c) + _branches(below) for c, below in node.items() if c]
  if not ways:
    return ""
  together = ways[0] if len(ways) == 1 and "" not in node else f"(?:{'|'.join(ways)})"
  return together + "?" * ("" in node)


def before(match: re.Match, size: int = 24) -> str:
  """The characters before a match, those of the phrase before included."""
  return match.string[max(match.start() - size, 0) : match.start()]


def after(match: re.Match, size: int = 16) -> str:
  """The characters after a match."""
  return match.string[match.end() : match.end() + size]
