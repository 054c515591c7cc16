"""Dates, years and decades in English."""

import re

from cosyjax.text.en_numbers import TO, cardinal, ordinal, plural, short_year, year
from cosyjax.text.en_times import clock_words
from cosyjax.text.rules import DIGITS, FOUR, MONTH, Rule, any_of, before

MONTHS = (
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
)
_MONTH_OF = {name[:size].lower(): name for name in MONTHS for size in (3, len(name))} | {"sept": "September"}
_MONTH = r"((?i:Jan(?:uary)?|Feb(?:ruary)?|Apr(?:il)?|June?|July?|Aug(?:ust)?|Sept?(?:ember)?" \
  r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)|Mar(?:ch)?|May|MAR(?:CH)?|MAY)\b\.?"  # fmt: skip
_SHORT_MONTH = r"(Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
_DAYS = {
  "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
  "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_DAY = rf"({any_of(tuple(_DAYS))}|{'|'.join(_DAYS[d] for d in ('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'))})"
_YEAR = r"[12][0-9]{3}"
_LIKELY = r"(?:1[5-9]|20)[0-9]{2}"  # a year even where nothing but a preposition says so
_ZONES = r"(Z|UTC|GMT|[-+][0-9]{2}:?[0-9]{2})?(?![0-9A-Za-z:])"
_WHEN = (
  "[Ii]n|[Ss]ince|[Uu]ntil|[Tt]ill|[Bb]y|[Ff]rom|[Bb]efore|[Aa]fter|[Dd]uring|[Cc]irca|[Yy]ear|[Ee]arly|[Mm]id|[Ll]ate|"
  r"[Ss]pring|[Ss]ummer|[Aa]utumn|[Ff]all|[Ww]inter|[Cc]opyright|[Ff]ounded|[Ee]stablished|[Bb]orn|[Dd]ied|[Rr]eleased"
  r"|[Pp]ublished|[Ee]st\.|ca?\.|©|Q[1-4]|of|al\.|" + "|".join(MONTHS)
)


def _month(name: str) -> str:
  return _MONTH_OF[name.lower().rstrip(".")]


def named_date(month: int, day: int, of: str | None) -> str:
  """ "May first, twenty twenty-four", or nothing where there is no such day."""
  if not (1 <= month <= 12 and 1 <= day <= 31):
    return ""
  return f"{MONTHS[month - 1]} {ordinal(day)}" + (f", {year(of)}" if of else "")


def _stamp(m: re.Match) -> str:
  date = named_date(int(m[2]), int(m[3]), m[1])
  if not date or int(m[4]) > 24:
    return m.group()
  zone = {"Z": " U T C", "UTC": " U T C", "GMT": " G M T"}.get(m[7] or "", "")
  second = m[6] if m[6] and int(m[6]) else None
  return f"{date}, {clock_words(m[4], m[5], second, None)}{zone}"


def _iso_date(m: re.Match) -> str:
  return named_date(int(m[3]), int(m[4]), m[1]) or m.group()


def _marked_date(m: re.Match) -> str:
  """Slashes: month first, as in the USA; points and hyphens: day first; the other way where that cannot be."""
  first, second = int(m[1]), int(m[3])
  if m[2] != "/":
    first, second = second, first
  of = m[4] if len(m[4]) == 4 else ("20" if int(m[4]) < 50 else "19") + m[4]
  return named_date(first, second, of) or named_date(second, first, of) or m.group()


def _year_month(m: re.Match) -> str:
  month = int(m[2])
  return f"{MONTHS[month - 1]} {year(m[1])}" if 1 <= month <= 12 else m.group()


def _month_day(m: re.Match) -> str:
  month, day = MONTHS.index(_month(m[1])) + 1, int(m[2])
  spoken = named_date(month, day, None)
  if not spoken:
    return m.group()
  if m[3]:
    spoken += " to " + (f"{_month(m[3])} " if m[3][0].isalpha() else "") + ordinal(int(m[4]))
  elif m[4]:
    spoken += f" to {ordinal(int(m[4]))}"
  return spoken + (f", {year(m[5])}" if m[5] else "")


def _day_month(m: re.Match) -> str:
  first, last = int(m[1]), int(m[2] or 1)
  if not (1 <= first <= 31 and 1 <= last <= 31):
    return m.group()
  days = f"the {ordinal(first)}" + (f" to the {ordinal(last)}" if m[2] else "")
  return f"{days} of {_month(m[3])}" + (f", {year(m[4])}" if m[4] else "")


def _month_year(m: re.Match) -> str:
  return f"{_month(m[1])}{m[2] or ''} {year(m[3])}"


def _decade(m: re.Match) -> str:
  return plural(year(m[1]) if len(m[1]) == 4 else cardinal(int(m[1])))


def _season(m: re.Match) -> str:
  if int(m[2]) == (int(m[1]) + 1) % 100:
    return f"{year(m[1])} {short_year(m[2])}"
  return f"{year(m[1])} to {short_year(m[2])}" if int(m[2]) > int(m[1]) % 100 and int(m[2]) > 12 else m.group()


RULES = (
  Rule(
    "date with time",
    rf"(?<![0-9])({_YEAR})[-/.]([01]?[0-9])[-/.]([0-3]?[0-9])(?:T|,?\s)([0-2]?[0-9]):([0-5][0-9])"
    rf"(?::([0-5][0-9])(?:\.[0-9]{{1,9}})?)?\s?{_ZONES}",
    _stamp,
    (
      ("2023-01-15T10:30:00Z", "January fifteenth, twenty twenty-three, ten thirty U T C"),
      ("at 2024-05-01 08:05", "at May first, twenty twenty-four, eight oh five"),
    ),
    (DIGITS, FOUR, ":"),
  ),
  Rule(
    "year first",
    rf"(?<![0-9])({_YEAR})([-/.])([01]?[0-9])\2([0-3]?[0-9])(?![0-9])",
    _iso_date,
    (("2024-05-01", "May first, twenty twenty-four"), ("2024/5/1", "May first, twenty twenty-four")),
    (DIGITS, FOUR, "-/."),
  ),
  Rule(
    "day or month first",
    rf"(?<![0-9/.-])([0-3]?[0-9])([-/.])([0-3]?[0-9])\2({_YEAR}|(?<=/)[0-9]{{2}}(?=[\s,;)]|$))(?![0-9/-])",
    _marked_date,
    (
      ("25.12.1990", "December twenty-fifth, nineteen ninety"),
      ("5/1/2024", "May first, twenty twenty-four"),
      ("25/12/1990", "December twenty-fifth, nineteen ninety"),
      ("on 7/4/76", "on July fourth, nineteen seventy-six"),
    ),
    (DIGITS, "-/."),
  ),
  Rule(
    "year and month",
    r"(?<![0-9A-Za-z/.-])((?:19|20)[0-9]{2})[-/](0[1-9]|1[0-2])(?![0-9A-Za-z/-])",
    _year_month,
    (("2025-09", "September twenty twenty-five"), ("2025/11", "November twenty twenty-five")),
    (DIGITS, FOUR, "-/"),
  ),
  Rule(
    "month and year",
    r"(?<![0-9A-Za-z/.-])()(0[1-9]|1[0-2])/((?:19|20)[0-9]{2})(?![0-9A-Za-z/-])",
    lambda m: f"{MONTHS[int(m[2]) - 1]} {year(m[3])}",
    (("09/2025", "September twenty twenty-five"),),
    (DIGITS, FOUR, "/"),
  ),
  Rule(
    "month and day",
    rf"(?<![A-Za-z]){_MONTH}\s([0-3]?[0-9])(?:st|nd|rd|th)?(?:{TO}(?:({_MONTH})\s)?([0-3]?[0-9])"
    rf"(?:st|nd|rd|th)?)?(?![0-9A-Za-z:%.,]?[0-9A-Za-z])(?:,?\s({_YEAR})(?![0-9]))?",
    lambda m: _month_day(_Groups(m)),
    (
      ("on May 1, 2024", "on May first, twenty twenty-four"),
      ("May 5-10", "May fifth to tenth"),
      ("Jan. 5th - Feb. 3rd", "January fifth to February third"),
    ),
    (DIGITS, MONTH),
  ),
  Rule(
    "day and month",
    rf"(?<![0-9A-Za-z.,$])(?:the\s)?([0-3]?[0-9])(?:st|nd|rd|th)?(?:{TO}([0-3]?[0-9])(?:st|nd|rd|th)?)?"
    rf"\s(?:of\s)?{_MONTH}(?:,?\s({_YEAR})(?![0-9]))?",
    _day_month,
    (
      ("1 May 2024", "the first of May, twenty twenty-four"),
      ("the 5th of May", "the fifth of May"),
      ("5-10 June", "the fifth to the tenth of June"),
    ),
    (DIGITS, MONTH),
  ),
  Rule(
    "months of years from to",
    rf"(?<=[0-9]{{4}})\s?[-–—]\s?(?={_MONTH}\s[0-9]{{4}})",
    lambda m: " to ",
    (("June 2020 – May 2021", "June twenty twenty to May twenty twenty-one"),),
    (DIGITS, MONTH, "-–—"),
  ),
  Rule(
    "month of a year",
    rf"(?<![A-Za-z]){_MONTH}(,)?\s({_LIKELY})(?![0-9.,]?[0-9]|s|%)",
    _month_year,
    (("Sept. 2021", "September twenty twenty-one"), ("in May 1984", "in May nineteen eighty-four")),
    (DIGITS, MONTH),
  ),
  Rule(
    "months",
    rf"(?<![A-Za-z])(?:{_SHORT_MONTH}\.?{TO}{_SHORT_MONTH}\b\.?|({any_of(MONTHS)})[-–]({any_of(MONTHS)})\b)",
    lambda m: f"{_month(m[1] or m[3])} to {_month(m[2] or m[4])}",
    (("Jan-Mar", "January to March"), ("June–August", "June to August")),
    ("-–—~", "abceglnoprtuvy"),
  ),
  Rule(
    "weekdays",
    rf"(?<![A-Za-z]){_DAY}\.?{TO}{_DAY}\b\.?",
    lambda m: f"{_DAYS.get(m[1], m[1])} to {_DAYS.get(m[2], m[2])}",
    (("open Mon-Fri", "open Monday to Friday"), ("Monday – Friday", "Monday to Friday")),
    ("-–—~", "nedtiu"),
  ),
  Rule(
    "weekday before a date",
    rf"(?<![A-Za-z])(Tues?|Wed|Thu(?:rs?)?|Fri)(?:\.?(?=,)|\.(?=\s)|\.?(?=\s(?:to|through|[0-9])))|(?<![A-Za-z])(Mon"
    rf"|Sat|Sun)(?:\.(?=\s(?:to|through|and)\b)|\.?(?=,?\s(?:{'|'.join(MONTHS)}|the\s[a-z-]+\sof\s|[0-9])))",
    lambda m: _DAYS[m[1] or m[2]],
    (("Tue, May 7", "Tuesday, May seventh"), ("Mon. to Fri., 9am", "Monday to Friday, nine AM")),
    ("MTWFS",),
  ),
  Rule(
    "from year to year",
    rf"\b([Ff]rom|[Bb]etween)\s({_LIKELY})\s(to|and|until)\s({_LIKELY})\b(?![.,]?[0-9])",
    lambda m: f"{m[1]} {year(m[2])} {m[3]} {year(m[4])}",
    (("from 2000 to 2010", "from two thousand to twenty ten"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "decades from to",
    r"(?<=[0-9]0s)\s?[-–—]\s?(?=['’]?[0-9]{1,3}0s)|(?<=Q[1-4])\s?[-–—]\s?(?=Q[1-4])",
    lambda m: " to ",
    (("1990s-2000s", "nineteen nineties to two thousands"), ("Q1–Q3 2023", "Q one to Q three twenty twenty-three")),
    (DIGITS, "-–—"),
  ),
  Rule(
    "quarter",
    rf"(?<![0-9A-Za-z])(?:({_LIKELY})\s?(Q[1-4]|H[12])|(Q[1-4]|H[12]|FY)\s?({_LIKELY}|(?<=FY)[0-9]{{2}}))"
    rf"(?![0-9A-Za-z])",
    lambda m: (
      f"{m[2][0]} {cardinal(int(m[2][1]))} {year(m[1])}"
      if m[1]
      else f"{'F Y' if m[3] == 'FY' else m[3][0] + ' ' + cardinal(int(m[3][1]))} {year(m[4])}"
    ),
    (
      ("Q3 2024", "Q three twenty twenty-four"),
      ("2024 Q1", "Q one twenty twenty-four"),
      ("FY2024", "F Y twenty twenty-four"),
    ),
    (DIGITS, "QHF"),
  ),
  Rule(
    "season",
    rf"(?<![0-9A-Za-z-])({_LIKELY})[-/–]([0-9]{{2}})(?![0-9A-Za-z/-])",
    _season,
    (
      ("the 2024/25 season", "the twenty twenty-four twenty-five season"),
      ("2019-20", "twenty nineteen twenty"),
      ("1914–18", "nineteen fourteen to eighteen"),
    ),
    (DIGITS, FOUR, "-/–"),
  ),
  Rule(
    "years",
    rf"(?<![0-9A-Za-z.$€£-])({_YEAR}){TO}({_YEAR})(?![0-9-]|[.,][0-9])",
    lambda m: f"{year(m[1])} to {year(m[2])}",
    (("2020-2024", "twenty twenty to twenty twenty-four"),),
    (DIGITS, FOUR, "-–—~"),
  ),
  Rule(
    "decade",
    rf"(?<![0-9A-Za-z])({_YEAR})['’]?s(?![A-Za-z])",
    _decade,
    (("the 1990s", "the nineteen nineties"),),
    (DIGITS, FOUR, "s"),
  ),
  Rule(
    "short decade",
    r"(?:(?<![0-9A-Za-z.,$£€-])|(?<=mid-))['’]?([2-9]0)(?:s|['’]s)(?![A-Za-z])",
    _decade,
    (("80s music", "eighties music"), ("the '90s", "the nineties"), ("in his 30s", "in his thirties")),
    (DIGITS, "s"),
  ),
  Rule(
    "short year",
    r"(?<![0-9A-Za-z])['’]([0-9]{2})(?![0-9A-Za-z'\"])",
    lambda m: short_year(m[1]),
    (("class of '08", "class of oh eight"), ("summer of '69", "summer of sixty-nine")),
    (DIGITS, "'’"),
  ),
  Rule(
    "era",
    r"(?<![0-9A-Za-z,.])([0-9]{1,4})\s?(BCE?|CE|AD)(?![A-Za-z])|(?<![A-Za-z])AD\s([0-9]{1,4})(?![0-9])",
    lambda m: f"{year(m[1])} {' '.join(m[2])}" if m[1] else f"A D {year(m[3])}",
    (("in 44 BC", "in forty-four B C"), ("AD 1066", "A D ten sixty-six")),
    (DIGITS, "CD"),
  ),
  Rule(
    "year so called",
    rf"(?<=\s)({_YEAR})(?![0-9.,]?[0-9])",
    lambda m: year(m[1]) if re.search(r"[Yy]ear(?: was| is| of|:)?\s$", before(m)) else m.group(),
    (("the year 1066", "the year ten sixty-six"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "year after a word",
    rf"(?<![A-Za-z])((?:{_WHEN}),?\s)({_LIKELY})(?![0-9.,]?[0-9]|s|%|\s?[A-Z]?[a-z]*(?:people|dollars|users|units))",
    lambda m: m[1] + year(m[2]),
    (("in 1905", "in nineteen oh five"), ("by 2050", "by twenty fifty")),
    (DIGITS, FOUR),
  ),
  Rule(
    "year before a word",
    r"(?<![0-9A-Za-z.,$€£#-])((?:19|20)[0-9]{2})(?=\s(?:election|season|World|Olympic|report|edition|census"
    r"|version|model|film|movie|album|novel|study|paper|budget|championship|AD|CE)|[,)]\s(?:and|when|the|he|she|it|we"
    r"|they)\b)",
    lambda m: year(m[1]),
    (("the 2024 election", "the twenty twenty-four election"),),
    (DIGITS, FOUR),
  ),
)


class _Groups:
  """The groups of a month and day, without those of the second month's own pattern."""

  def __init__(self, m: re.Match) -> None:
    self._groups = (m.group(), m[1], m[2], m[4], m[5], m[6])
    self._last = m[5]

  def __getitem__(self, i: int) -> str | None:
    return self._groups[i]

  def group(self) -> str:
    return self._groups[0]
