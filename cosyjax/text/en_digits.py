"""Numbers that English reads digit by digit: telephones, cards, codes, rooms, cued by the words around them."""

import re

from cosyjax.text.en_numbers import cardinal, dialled, digits, quantity
from cosyjax.text.rules import DIGITS, FOUR, THREE, Rule, before

_SERVICE = "911|999|112|988|411|311|211|511|611|711|811|101|111"
_CODES = (
  r"(?:[Zz][Ii][Pp](?:\s[Cc]ode)?|[Pp]ostal [Cc]ode|[Pp]ostcode|PIN(?:\s[Cc]ode)?|[Pp]in|[Pp]asscode|[Pp]assword"
  r"|[Cc]ode|OTP"
  r"|[Oo]rder(?:\s(?:[Nn]umber|[Nn]o\.?|ID))?|[Tt]racking(?:\s(?:[Nn]umber|[Nn]o\.?|ID))?|[Ii]nvoice(?:\s(?:[Nn]umber"
  r"|[Nn]o\.?))?"
  r"|[Aa]ccount(?:\s(?:[Nn]umber|[Nn]o\.?))?|[Rr]outing(?:\s[Nn]umber)?|[Ss]erial(?:\s(?:[Nn]umber|[Nn]o\.?))?"
  r"|[Cc]ase\s[Nn]umber"
  r"|[Tt]icket(?:\s(?:[Nn]umber|[Nn]o\.?|ID))?|[Rr]eference(?:\s[Nn]umber)?|[Cc]onfirmation(?:\s(?:[Nn]umber|[Cc]ode))?"
  r"|[Ee]xt(?:ension|\.)?|[Rr]oom|[Ff]light|[Bb]us|[Cc]ard(?:\s[Nn]umber)?|[Ee]nding(?: in| with)?|[Ee]nds (?:in|with)"
  r"|[Rr]ef\.?|[Tt]ext [A-Za-z]{1,12} to|P\.?O\.? Box|[Bb]ox|ID(?:\s[Nn]umber)?|[Pp]assport"
  r"(?:\s[Nn]umber)?|[Ll]icense(?:\s[Pp]late)?|[Pp]late(?:\s[Nn]umber)?|SSN|[Cc]hannel|[Aa]pt\.?|[Aa]partment|[Ss]uite"
  r"|[Mm]odel|[Ee]rror|HTTP"
  r"|[Hh]ighway|[Rr]oute|[Ii]nterstate|[Pp]hone(?:\s[Nn]umber)?|[Mm]obile|[Cc]ell|[Cc]all|[Dd]ial|[Tt]ext|[Ff]ax"
  r"|[Tt]el(?:ephone)?)"
)  # fmt: skip
_CUE = re.compile(rf"(?:^|[^A-Za-z]){_CODES}(?:\s(?:is|was|number|no\.|at|to))?\s?[:#]?\s?$")
_SHORT = re.compile(r"(?:[Rr]oom|[Ff]light|[Bb]us|[Aa]pt\.?|[Aa]partment|[Ss]uite|[Mm]odel|[Hh]ighway|[Rr]oute"
                    r"|[Ii]nterstate|[Ee]rror|HTTP"
                    r"|[Cc]hannel|Box)\W*$")  # fmt: skip
_STATES = (
  "AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA"
  "|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY|DC"
)


def _cued(m: re.Match) -> str:
  """Rooms and flights of up to three digits as people say them: one oh one, two twenty."""
  cue, letters, number = before(m, 48), m[2], m[3]
  if letters and not _CUE.search(cue) and _CUE.search(cue + letters):  # "PIN 4821", "ID 123"
    return letters + dialled(number)
  if not _CUE.search(cue):
    return m.group()
  lead = ("number " if m[1] else "") + (" ".join(letters.strip("- ")) + " " if letters else "")
  if _SHORT.search(cue) and len(number) <= 4 and number.isdigit():
    return lead + number_name(number)
  return lead + dialled(number)


def number_name(number: str) -> str:
  """A number that is a name: 101 -> one oh one, 747 -> seven forty-seven, 1234 -> twelve thirty-four."""
  if len(number) <= 2:
    return quantity(number)
  high, low = number[:-2], number[-2:]
  if low == "00":
    return cardinal(int(number)) if len(number) == 3 or number[1] == "0" else f"{cardinal(int(high))} hundred"
  return f"{quantity(high)} " + (f"oh {digits(low[1])}" if low[0] == "0" else cardinal(int(low)))


RULES = (
  Rule(
    "service number before its word",
    rf"(?<![0-9A-Za-z.,$-])({_SERVICE})(?=\s(?:call|operator|emergency|dispatch|hotline|caller)s?\b)",
    lambda m: digits(m[1]),
    (("a 911 operator", "a nine one one operator"),),
    (DIGITS, THREE),
  ),
  Rule(
    "letters for digits",
    r"(?<![0-9A-Za-z-])1-(8[0-9]{2})-(?=[A-Z])",
    lambda m: f"one {'eight hundred' if m[1] == '800' else digits(m[1])} ",
    (("dial 1-800-FLOWERS", "dial one eight hundred FLOWERS"),),
    (DIGITS, THREE, "-"),
  ),
  Rule(
    "extension",
    r"(?<=[0-9]{4})(?:\s(?=x)|,?\s?(?=e))(?:x|ext\.?|extension)\s?([0-9]{2,5})(?![0-9])",
    lambda m: f", extension {digits(m[1])}",
    (("555-2671 x123", "five five five, two six seven one, extension one two three"),),
    (DIGITS, FOUR, "x"),
  ),
  Rule(
    "abroad",
    r"(?<![0-9A-Za-z])\+\s?[0-9]{1,3}(?:[ -]?\(?[0-9]{1,5}\)?){1,6}(?![0-9A-Za-z%.,]?[0-9])",
    lambda m: dialled(m.group().replace("+ ", "+")) if sum(c.isdigit() for c in m.group()) >= 7 else m.group(),
    (
      ("+44 20 7946 0018", "plus four four, two zero, seven nine four six, zero zero one eight"),
      ("+1 (800) 555-0199", "plus one, eight zero zero, five five five, zero one nine nine"),
    ),
    (DIGITS, "+"),
  ),
  Rule(
    "card",
    r"(?<![0-9A-Za-z.-])(?:[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[0-9]{3} [0-9]{6} [0-9]{5})(?![0-9])",
    lambda m: dialled(m.group()),
    (("use 4111 1111 1111 1111 here", "use four one one one, one one one one, one one one one, one one one one here"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "telephone",
    r"(?<![0-9A-Za-z.-])(?:\+?[0-9]{1,3}[-. ])?\(?[0-9]{3}\)?[-. ][0-9]{3}[-. ][0-9]{4}(?![0-9])|"
    r"(?<![0-9A-Za-z.-])\([0-9]{3}\)\s?[0-9]{3}-[0-9]{4}(?![0-9])",
    lambda m: dialled(m.group()),
    (
      ("555-123-4567", "five five five, one two three, four five six seven"),
      ("(555) 123-4567", "five five five, one two three, four five six seven"),
    ),
    (DIGITS, FOUR),
  ),
  Rule(
    "telephone with a zero",
    r"(?<![0-9A-Za-z.,$-])(?<![0-9] )(?:\(0[0-9]{2,4}\) ?|0[0-9]{2,5}[ -])[0-9]{2,4}(?:[ -]?[0-9]{2,4})?(?![0-9:])",
    lambda m: dialled(m.group()),
    (("or 0800 123 456", "or zero eight zero zero, one two three, four five six"),),
    (DIGITS, THREE),
  ),
  Rule(
    "short telephone",
    r"(?<![0-9A-Za-z.$-])[0-9]{3}-[0-9]{4}(?![0-9-])",
    lambda m: dialled(m.group()),
    (("555-0199", "five five five, zero one nine nine"),),
    (DIGITS, FOUR, "-"),
  ),
  Rule(
    "groups with hyphens",
    r"(?<![0-9])\+?[0-9]+(?:-[0-9]+){2,9}(?![0-9=])",
    lambda m: dialled(m.group()),
    (("SSN 123-45-6789", "SSN one two three, four five, six seven eight nine"),),
    (DIGITS, "-"),
  ),
  Rule(
    "code after a cue",
    r"(?<![0-9A-Za-z.,$#-])(#\s?)?([A-Z]{1,3}[- ]?)?([0-9]{3,15}(?:[ -][0-9]{3,4}){0,3})"
    r"(?![0-9]|[.,:/-][0-9]|[A-Za-z%]|\s?(?:people|users|times|dollars|items|words|pieces|copies|units|minutes|seconds"
    r"|hours|days|votes"
    r"|percent|million|thousand|billion|kg|km|lines|calories|points)\b)",
    _cued,
    (
      ("zip 90210", "zip nine zero two one zero"),
      ("order #12345", "order number one two three four five"),
      ("Room 101", "Room one oh one"),
      ("ending in 4242", "ending in four two four two"),
      ("flight UA1234", "flight U A twelve thirty-four"),
    ),
    (DIGITS, THREE),
  ),
  Rule(
    "state and zip",
    rf"(?<![A-Za-z])({_STATES}),?\s([0-9]{{5}}(?:-[0-9]{{4}})?)(?![0-9])",
    lambda m: f"{' '.join(m[1])} {dialled(m[2])}",
    (("CA 90210", "C A nine zero two one zero"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "code before its word",
    r"(?<![0-9A-Za-z.,$-])([0-9]{5})(?=\s(?:zip|ZIP|area code|postcode))",
    lambda m: digits(m[1]),
    (("the 90210 zip code", "the nine zero two one zero zip code"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "letter and three digits",
    r"(?<![A-Za-z0-9-])([A-Z])-([1-9][0-9]{2})(?![0-9.%A-Za-z-])",
    lambda m: f"{m[1]} {number_name(m[2])}",
    (("an F-150 truck", "an F one fifty truck"),),
    (DIGITS, THREE, "-"),
  ),
  Rule(
    "lines of a screen",
    r"(?<![0-9A-Za-z.])(360|480|720|1080|1440|2160|4320)([pi])(?![A-Za-z0-9])",
    lambda m: f"{number_name(m[1])} {m[2]}",
    (("1080p", "ten eighty p"),),
    (DIGITS, "pi"),
  ),
  Rule(
    "roads",
    r"(?<![0-9A-Za-z.])([1-9][0-9]{1,2})(?=\s(?:[Ff]reeway|[Hh]ighway|[Ee]xpressway|[Ii]nterstate)\b)",
    lambda m: number_name(m[1]),
    (("the 101 freeway", "the one oh one freeway"),),
  ),
  Rule(
    "planes",
    r"(?<![A-Za-z])(Boeing|Airbus A?|A|Porsche|Peugeot|Nokia|RTX|GTX|RX|Intel|Ryzen)\s?-?([1-9][0-9]{2,3})(?![0-9.,%]"
    r"|\s?(?:million|people))",
    lambda m: f"{m[1].strip()} {number_name(m[2])}" if not (m[1] == "A" and len(m[2]) > 3) else m.group(),
    (
      ("a Boeing 747", "a Boeing seven forty-seven"),
      ("an A380", "an A three eighty"),
      ("RTX 4090", "RTX forty ninety"),
    ),
    (DIGITS, THREE, "BAPNRGI"),
  ),
)
