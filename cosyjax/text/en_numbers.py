"""English numbers as words, and the rules that read what is left of numbers after all other rules."""

import re

from cosyjax.text.rules import APART, DIGITS, FOUR, THREE, N, Rule, after, before

_ONES = (
  "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
  "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
_MOST = 15  # digits of a number that is read as a quantity; longer ones are read digit by digit
_ORDINALS = {
  "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
  "twelve": "twelfth",
}  # fmt: skip
_POWERS = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "tn": "trillion", "t": "trillion"}
TO = r"\s?[-–—~]\s?"  # joins the ends of a range


def digits(number: str, joint: str = " ") -> str:
  """Digit by digit: "2024" -> two zero two four."""
  return joint.join(_ONES[int(d)] for d in number if d.isdigit())


def dialled(number: str) -> str:
  """Digit by digit, a short pause between the groups of a telephone number."""
  plus = "plus " if number.lstrip("(").startswith("+") else ""
  return plus + ", ".join(digits(group) for group in re.findall("[0-9]+", number))


def quantity(number: str) -> str:
  """A whole or decimal number: "1005" -> one thousand and five, "3.14" -> three point one four."""
  whole, _, part = number.partition(".")
  spoken = digits(whole) if len(whole) > _MOST or (len(whole) > 1 and whole[0] == "0") else cardinal(int(whole))
  return spoken + (" point " + digits(part) if part else "")


def signed(number: str) -> str:
  """A quantity with a minus or plus sign before it, or none."""
  if number[:1] in ("-", "+"):
    return ("minus " if number[0] == "-" else "plus ") + quantity(number[1:])
  return quantity(number)


def ordinal(number: int) -> str:
  """21 -> twenty-first."""
  head, last = re.fullmatch(r"(.*?)([a-z]+)", cardinal(number)).groups()
  if last in _ORDINALS:
    return head + _ORDINALS[last]
  return head + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def year(number: str) -> str:
  """1984 -> nineteen eighty-four, 1905 -> nineteen oh five, 2005 -> two thousand and five."""
  if len(number) != 4:
    return quantity(number)
  high, low = divmod(int(number), 100)
  if high % 10 == 0 and low < 10:
    return cardinal(int(number))
  return f"{cardinal(high)} " + (f"oh {_ONES[low]}" if 0 < low < 10 else cardinal(low) if low else "hundred")


def short_year(number: str) -> str:
  """Two digits of a year: 08 -> oh eight, 99 -> ninety-nine."""
  return f"oh {_ONES[int(number)]}" if number[0] == "0" else cardinal(int(number))


def cardinal(number: int) -> str:
  """A whole number."""
  for size, name in _SCALES:
    if number >= size:
      high, low = divmod(number, size)
      return f"{cardinal(high)} {name}" + ((" and " if low < 100 else " ") + cardinal(low) if low else "")
  if number >= 100:
    high, low = divmod(number, 100)
    return f"{_ONES[high]} hundred" + (f" and {cardinal(low)}" if low else "")
  if number < 20:
    return _ONES[number]
  high, low = divmod(number, 10)
  return _TENS[high] + (f"-{_ONES[low]}" if low else "")


def plural(word: str) -> str:
  """The word with an s, or what English puts in its place."""
  return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("x") else "s")


def power_name(short: str) -> str:
  """k, M, bn and so on as words; words stay."""
  return _POWERS.get(short.lower(), short)


def _fraction(m: re.Match) -> str:
  whole, top, bottom = m[1], int(m[2]), int(m[3])
  if (top, bottom) in ((24, 7), (9, 11), (50, 50), (60, 40), (80, 20), (20, 20), (70, 30)) and not whole:
    return f"{cardinal(top)} {cardinal(bottom)}"
  if re.search(
    r"(?:[Rr]at(?:ed|ing)|[Ss]cor(?:ed?|ing)|[Gg]ot|[Gg]rade|g[ia]ves? it|giving it|given it)(?: (?:it|of|was|is|a))"
    r"?:? $",
    before(m),
  ) or re.match(r"\s(?:rating|score|stars|grade)", after(m)):
    return f"{cardinal(top)} out of {cardinal(bottom)}"
  if bottom == 2:
    spoken = ("a" if whole else "one") + " half" if top == 1 else f"{cardinal(top)} halves"
  elif 2 < bottom <= 100 and top < bottom:
    name = "quarter" if bottom == 4 else ordinal(bottom)
    spoken = f"{cardinal(top)} {name if top == 1 else plural(name)}"
  else:
    spoken = f"{quantity(m[2])} over {quantity(m[3])}"
  return f"{quantity(whole)} and {spoken}" if whole else spoken


def _score(m: re.Match) -> str:
  return f"{quantity(m[1])} out of {quantity(m[2])}"


_SCREEN = re.compile(
  r"\s?(?:[A-Z]?[a-z]*(?:video|TV|res|mon|disp|UHD|HDR|run|race|screen|content|stream|cam|foot|qual))"
)


def _scaled(m: re.Match) -> str:
  """5k, 2.5M; 4K of a screen is its name."""
  if (m[1] in ("4", "8", "2", "5", "10") and m[2] in "Kk" and _SCREEN.match(after(m))) or (
    m.group() in ("4K", "8K") and not re.match(r"\+|\s?[a-z×x]", after(m))
  ):
    return f"{quantity(m[1])} K"
  return f"{quantity(m[1])} {power_name(m[2])}"


_PEOPLE = "views|users|followers|subscribers|people|likes|downloads|fans|plays|streams|installs|visitors|members|copies"

FIRST = (
  Rule(
    "endless decimals",
    r"(?<![0-9])([0-9]{1,15})\.([0-9]{16,})",
    lambda m: f"{quantity(m[1])} point {digits(m[2])}",
    (
      (
        "1.12345678901234567",
        "one point one two three four five six seven eight nine zero one two three four five six seven",
      ),
    ),
    (DIGITS, FOUR),
  ),
  Rule(
    "endless digits",
    r"[0-9]{16,}",
    lambda m: " " * m.string[: m.start()][-1:].isdigit() + digits(m.group()),
    (
      (
        "1234567890123456789",
        "one two three four five six seven eight nine zero one two three four five six seven eight nine",
      ),
    ),
    (DIGITS, FOUR),
  ),
  Rule(
    "digits after a cut",
    r"(?<=[0-9]{12})[0-9]{1,15}",
    lambda m: " " + digits(m.group()),
    (("1" * 258, " ".join(["one"] * 258)),),
  ),
  Rule(
    "thousands with commas",
    r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])",
    lambda m: m.group().replace(",", ""),
    (("1,234 apples", "one thousand two hundred and thirty-four apples"),),
    (DIGITS, THREE, ","),
  ),
  Rule(
    "thousands with blanks",
    r"(?<![0-9A-Za-z.,+(:#-])(?<![0-9] )[1-9][0-9]{0,2}(?:(?: [0-9]{3}){2,4}| [0-9]?00)(?![ -]?[0-9])",
    lambda m: m.group().replace(" ", ""),
    (("1 000 000", "one million"), ("25 500 people", "twenty-five thousand five hundred people")),
    (DIGITS, " "),
  ),
)

PARTS = (
  Rule(
    "out of",
    r"(?<![0-9./])([0-9]{1,2}\.[0-9]{1,2})/([0-9]{1,3})(?!\.?[0-9]|/)",
    _score,
    (("4.5/5", "four point five out of five"), ("rated 8.7/10", "rated eight point seven out of ten")),
    (DIGITS, "/"),
  ),
  Rule(
    "divided",
    r"(?<![0-9./])([0-9]{1,6})\s?[/÷]\s?([0-9]{1,6})(?=\s?=)",
    lambda m: (
      f"{quantity(m[1])} divided by {quantity(m[2])}" if m.string.count("/") + m.string.count("÷") < 2 else m.group()
    ),
    (("6/2=3", "six divided by two equals three"),),
    (DIGITS, "/÷", "="),
  ),
  Rule(
    "fraction",
    r"(?<![0-9./A-Za-z])(?:([0-9]{1,6})\s)?([0-9]{1,6})/([0-9]{1,6})(?!\.?[0-9]|/)",
    _fraction,
    (
      ("3 1/2 cups", "three and a half cups"),
      ("a 50/50 split", "a fifty fifty split"),
      ("a 3/5 rating", "a three out of five rating"),
      ("open 24/7", "open twenty-four seven"),
    ),
    (DIGITS, "/"),
  ),
)

SCALES = (
  Rule(
    "thousands and millions in short",
    rf"{APART}({N})\s?(?:(?<!\s)(k|K|M|bn|tn|mn)(?![A-Za-z0-9²³/Ω])"
    rf"|(?<!\s)([mB])(?=\s(?:{_PEOPLE})\b))",
    lambda m: _scaled(m) if m[2] else f"{quantity(m[1])} {power_name(m[3])}",
    (
      ("5k followers", "five thousand followers"),
      ("10K likes", "ten thousand likes"),
      ("2.5M views", "two point five million views"),
      ("a 4K video", "a four K video"),
      ("1.2B users", "one point two billion users"),
    ),
    (DIGITS, "kKMbmtB"),
  ),
)

LAST = (
  Rule(
    "ordinal",
    r"(?<![0-9.])([0-9]{1,15})(?:st|nd|rd|th)(?![A-Za-z])",
    lambda m: ordinal(int(m[1])),
    (("the 21st century", "the twenty-first century"), ("2nd", "second")),
    (DIGITS, "snrt"),
  ),
  Rule(
    "range",
    rf"(?<![0-9A-Za-z.-])({N}){TO}([-+]?{N})(?![0-9A-Za-z]|-[0-9A-Za-z])",
    lambda m: f"{quantity(m[1])} to {signed(m[2])}",
    (("pages 5-10", "pages five to ten"), ("5~10", "five to ten"), ("a 4-0 win", "a four to zero win")),
  ),
  Rule(
    "sign before a number",
    r"(?<![0-9A-Za-z)\]-])([-+±#]|[~≈]\s?)(?=\.?[0-9])",
    lambda m: {"-": "minus ", "+": "plus ", "±": "plus or minus ", "#": "number "}.get(m[1][0], "about "),
    (("it was -5 outside", "it was minus five outside"), ("±2", "plus or minus two"), ("~5", "about five")),
    (DIGITS, "-+±#~≈"),
  ),
  Rule(
    "point alone", r"(?<![0-9])\.(?=[0-9])", lambda m: " point ", ((".5 of it", "point five of it"),), (DIGITS, ".")
  ),
  Rule(
    "plus behind",
    r"(?<=[0-9A-Za-z])(?<!A)\+(?![0-9A-Za-z+])",
    lambda m: " plus ",
    (("score 100+", "score one hundred plus"), ("5+ years", "five plus years")),
    ("+",),
  ),
  Rule(
    "numbers",
    rf"((?<=[A-Za-z]))?{N}((?=[A-Za-z]))?",
    lambda m: " " * (m[1] == "") + quantity(m[0]) + " " * (m[2] == ""),
    (("iPhone15", "iPhone fifteen"), ("B2B", "B two B"), ("007", "zero zero seven")),
  ),
)
