"""Quantities with units in English: simple, squared, per something, medical, imperial."""

import re

from cosyjax.text.en_numbers import TO, power_name, quantity, signed
from cosyjax.text.rules import APART, DIGITS, N, Rule, any_of, before

_LENGTHS = {
  "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "μm": "micrometer", "dm": "decimeter",
  "m": "meter", "ft": "foot", "in": "inch", "mi": "mile", "yd": "yard",
}  # fmt: skip
_TIMES = {
  "ms": "millisecond", "μs": "microsecond", "ns": "nanosecond", "s": "second", "sec": "second", "secs": "second",
  "min": "minute", "mins": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "d": "day", "wk": "week", "wks": "week",
  "mo": "month", "mos": "month", "yr": "year", "yrs": "year",
}  # fmt: skip
_OTHERS = {
  "kg": "kilogram", "mg": "milligram", "μg": "microgram", "mcg": "microgram", "ng": "nanogram", "g": "gram", "t": "ton",
  "lbs": "pound", "lb": "pound", "oz": "ounce", "fl oz": "fluid ounce", "gal": "gallon", "qt": "quart", "pt": "pint",
  "tsp": "teaspoon", "tbsp": "tablespoon", "ml": "milliliter", "mL": "milliliter", "μL": "microliter",
  "μl": "microliter", "dL": "deciliter", "dl": "deciliter", "cL": "centiliter", "cl": "centiliter", "L": "liter",
  "l": "liter", "mol": "mole", "mmol": "millimole", "μmol": "micromole", "IU": "international unit", "U": "unit",
  "cal": "calorie", "kcal": "kilocalorie", "kJ": "kilojoule", "J": "joule", "MJ": "megajoule", "N": "newton",
  "kN": "kilonewton", "Pa": "pascal", "kPa": "kilopascal", "MPa": "megapascal", "hPa": "hectopascal", "V": "volt",
  "kV": "kilovolt", "mV": "millivolt", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "A": "amp",
  "μF": "microfarad", "nF": "nanofarad", "pF": "picofarad", "Nm": "newton meter", "mA": "milliamp", "Ah": "amp hour",
  "mAh": "milliamp hour", "Wh": "watt hour", "kWh": "kilowatt hour",
  "MWh": "megawatt hour", "Ω": "ohm", "kΩ": "kilohm", "MΩ": "megohm", "TB": "terabyte", "GB": "gigabyte",
  "MB": "megabyte", "KB": "kilobyte", "kB": "kilobyte", "PB": "petabyte", "Gb": "gigabit", "Mb": "megabit",
  "kb": "kilobit", "bps": "bit per second", "kbps": "kilobit per second", "Kbps": "kilobit per second",
  "Mbps": "megabit per second", "Gbps": "gigabit per second", "MP": "megapixel", "px": "pixel", "dpi": "dot per inch",
  "ppi": "pixel per inch", "fps": "frame per second", "rpm": "revolution per minute", "RPM": "revolution per minute",
  "bpm": "beat per minute", "mph": "mile per hour", "kph": "kilometer per hour", "kmh": "kilometer per hour",
  "mpg": "mile per gallon", "psi": "pound per square inch", "ppm": "part per million", "ppb": "part per billion",
  "atm": "atmosphere", "dB": "decibel", "°C": "degree Celsius", "℃": "degree Celsius", "°F": "degree Fahrenheit",
  "℉": "degree Fahrenheit", "°": "degree", "lx": "lux", "ha": "hectare", "hp": "horsepower",
}  # fmt: skip
_SAME = {  # no plural
  "GHz": "gigahertz", "MHz": "megahertz", "kHz": "kilohertz", "KHz": "kilohertz", "Hz": "hertz", "%": "percent",
  "‰": "per mille", "pct": "percent", "mmHg": "millimeters of mercury", "lm": "lumens", "kelvin": "kelvin",
  "bps": "bits per second", "cc": "c c", "pH": "p H", "hp": "horsepower",
}  # fmt: skip
_NAMES = _LENGTHS | _TIMES | _OTHERS
_PLURALS = {"foot": "feet", "inch": "inches", "lux": "lux"}
_LOOSE = frozenset(_NAMES) - set("dtlAJUMP") - {"in", "ac", "mo", "MP", "pt", "cal"}
_PER = _NAMES | _SAME | {"%": "percent"}
_UNIT = any_of(tuple(_NAMES | _SAME))
_SPACED = any_of(tuple(_LOOSE | set(_SAME)))
_POWER = r"(?:\s?(thousand|million|billion|trillion|k|K|M|bn)(?=\s|$))?"
_BELOW = (
  r"(?:\s?(?:/|per\s)\s?("
  + any_of(tuple(_NAMES))
  + r"|[a-z]{3,12})([²³]|\^[23])?(?:\s?/\s?(day|d|h|hr|min|dose|week|wk))?(?![A-Za-z0-9²³/]))?"
)


def many(name: str) -> str:
  """Plural of a unit; of "x per y" the first word's."""
  head, per, tail = name.partition(" per ")
  words = head.split(" ")
  at = 0 if words[0] == "degree" else -1
  words[at] = _PLURALS.get(words[at], words[at] if words[at] == "horsepower" else words[at] + "s")
  return " ".join(words) + per + tail


def _powered(name: str, power: str | None, length: bool) -> str:
  if not power:
    return name
  square = power[-1] in "²2"
  return ("square " if square else "cubic ") + name if length else name + (" squared" if square else " cubed")


def unit_words(unit: str, power: str | None, below: str | None, below_power: str | None, one: bool) -> str:
  """kg, m², mg/dL: the words behind a number."""
  if unit in _SAME:
    spoken = _SAME[unit]
  else:
    spoken = _powered(_NAMES[unit], power, unit in _LENGTHS)
    spoken = spoken if one else many(spoken)
  if below:
    spoken += " per " + _powered(_NAMES.get(below, below), below_power, below in _LENGTHS)
  return spoken


_NUMBERED = re.compile(
  r"(?i:seat|room|gate|row|apt|apartment|unit|suite|flat|section|exhibit|bus|route|grade|class|level|platform|no\.)\s$"
)


def _measure(m: re.Match) -> str:
  first, first_unit, last, scale, gap, square, unit, power, below, below_power, second = m.groups()
  if unit is None or (len(unit) == 1 and unit.isupper() and _NUMBERED.search(before(m))):
    return m.group()
  one = (first.lstrip("-+") == "1" and not last and not scale) or gap == "-"
  spoken = signed(first)
  if last:
    between = f" {unit_words(first_unit, None, None, None, first == '1')}" if first_unit and first_unit != unit else ""
    spoken += f"{between} to {signed(last)}"
  spoken += f" {power_name(scale)}" if scale else ""
  if square:
    power = "²" if square.startswith(("sq", "Sq")) else "³"
  spoken = f"{spoken} {unit_words(unit, power, below, below_power, one)}"
  return spoken + (f" per {_NAMES.get(second, second)}" if second else "")


def _height(m: re.Match) -> str:
  feet, inches = m[1], m[2]
  spoken = f"{quantity(feet)} {'foot' if feet == '1' else 'feet'}"
  return spoken + (f" {quantity(inches)} {'inch' if inches == '1' else 'inches'}" if inches else "")


def _pressure(m: re.Match) -> str:
  return f"{quantity(m[1])} over {quantity(m[2])}" + (" millimeters of mercury" if m[3] else "")


_DIRECTIONS = {"N": " north", "S": " south", "E": " east", "W": " west"}


def _angle(m: re.Match) -> str:
  parts = zip(m.groups()[:3], ("degree", "minute", "second"), strict=True)
  spoken = " ".join(f"{quantity(n)} {name}{'s' * (n != '1')}" for n, name in parts if n)
  return spoken + _DIRECTIONS.get(m[4] or "", "")


RULES = (
  Rule(
    "inches written",
    rf"{APART}({N})\s?in\.?(?=\s(?:long|wide|tall|high|deep|thick|by|x)\b)",
    lambda m: f"{quantity(m[1])} {'inch' if m[1] == '1' else 'inches'}",
    (("5 in. long", "five inches long"),),
    (DIGITS, "i"),
  ),
  Rule(
    "degrees and minutes",
    rf"(?<![0-9.])([0-9]{{1,3}})°\s?([0-9]{{1,2}})['’]\s?(?:({N})(?:\"|”|'')\s?)?([NSEW](?![A-Za-z]))?",
    _angle,
    (
      ("30°15'N", "thirty degrees fifteen minutes north"),
      ("40°26'46\"", "forty degrees twenty-six minutes forty-six seconds"),
    ),
    (DIGITS, "°"),
  ),
  Rule(
    "degrees with a direction",
    rf"{APART}({N})°\s?([NSEW])(?![A-Za-z])",
    lambda m: f"{quantity(m[1])} degrees{_DIRECTIONS[m[2]]}",
    (("at 45°N", "at forty-five degrees north"),),
    (DIGITS, "°"),
  ),
  Rule(
    "blood pressure",
    r"(?<![0-9./])([0-9]{2,3})/([0-9]{2,3})\s?(mm\s?Hg)(?![A-Za-z])|(?<=BP )([0-9]{2,3})/([0-9]{2,3})",
    lambda m: _pressure(m) if m[1] else f"{quantity(m[4])} over {quantity(m[5])}",
    (
      ("120/80 mmHg", "one hundred and twenty over eighty millimeters of mercury"),
      ("BP 130/85", "BP one hundred and thirty over eighty-five"),
    ),
    (DIGITS, "/"),
  ),
  Rule(
    "feet and inches",
    rf"{APART}([0-9]{{1,2}})\s?(?:'|’|ft\.?)\s?({N})\s?(?:\"|”|''|in(?:ches|\.)?(?![A-Za-z]))",
    _height,
    (("6'2\"", "six feet two inches"), ("5 ft 10 in", "five feet ten inches")),
    (DIGITS, "'’f"),
  ),
  Rule(
    "inches",
    rf"{APART}({N})(?:\"|”)(?=\s?(?:[a-z×x.,;)]|$))(?<![\"“][0-9]\")(?<![\"“][0-9][0-9]\")(?<![\"“][0-9][0-9][0-9]\")",
    lambda m: (
      f"{quantity(m[1])} {'inch' if re.match(r's?[a-z ]', m.string[m.end() :].lstrip()) else 'inches'}"
      if m.string.count('"') % 2
      else m.group()
    ),
    (('a 12" pizza', "a twelve inch pizza"),),
    (DIGITS, '"”'),
  ),
  Rule(
    "hours and minutes",
    r"(?<![0-9A-Za-z.])([0-9]{1,2})\s?h(?:rs?)?\s?([0-9]{1,2})\s?m(?:ins?)?(?![A-Za-z0-9²³/])(?:\s?([0-9]{1,2})"
    r"\s?s(?:ecs?)?(?![A-Za-z]))?",
    lambda m: ", ".join(
      f"{quantity(n)} {name}{'s' * (n != '1')}"
      for n, name in zip(m.groups(), ("hour", "minute", "second"), strict=True)
      if n
    ).replace(", ", " "),
    (("2h 30m", "two hours thirty minutes"),),
    (DIGITS, "h", "m"),
  ),
  Rule(
    "measure",
    rf"(?:{APART}|(?<=[.][^0-9]))((?:(?<![0-9A-Za-z)%°-])[-+]\s?)?{N})(?:({_UNIT})?{TO}([-+]?{N}))?{_POWER}"
    rf"(?:([ -]?)([Ss]q\.?\s|cu\.?\s|square\s|cubic\s)?({_SPACED})|()()({_UNIT}))([²³]|\^[23](?![0-9]))"
    rf"?{_BELOW}(?![A-Za-z0-9²³]|/[A-Za-z]|'[a-z])(?:\.(?=\s[a-z0-9]))?",
    lambda m: _measure(_Measure(m)),
    (
      ("5kg", "five kilograms"),
      ("1 km", "one kilometer"),
      ("-3.5°C", "minus three point five degrees Celsius"),
      ("10 mg/mL", "ten milligrams per milliliter"),
      ("5 μg", "five micrograms"),
      ("3 sq ft", "three square feet"),
      ("2 tsp", "two teaspoons"),
      ("9.8 m/s²", "nine point eight meters per second squared"),
      ("25 m²", "twenty-five square meters"),
      ("10-20%", "ten to twenty percent"),
      ("+5%", "plus five percent"),
      ("5.6 mmol/L", "five point six millimoles per liter"),
      ("a 5-km run", "a five kilometer run"),
      ("5kg-10kg", "five to ten kilograms"),
      ("60 km/h", "sixty kilometers per hour"),
      ("10 ft. tall", "ten feet tall"),
      ("seat 14A", "seat fourteen A"),
    ),
  ),
  Rule(
    "so many per",
    rf"({APART}{N}\s[a-z]{{2,12}})\s?/\s?({any_of(tuple(_NAMES))}|[a-z]{{3,10}})([²³])?(?![A-Za-z0-9/])",
    lambda m: (
      m[1] + " per " + _powered(_NAMES.get(m[2], m[2]), m[3], m[2] in _LENGTHS)
      if not m[1].endswith((" and", " or", " he", " she"))
      else m.group()
    ),
    (("60 words/min", "sixty words per minute"), ("10 people/km²", "ten people per square kilometer")),
    (DIGITS, "/"),
  ),
  Rule(
    "sign before a measure",
    r"(?<![0-9A-Za-z)\]])([±~≈]\s?)(?=[a-z])",
    lambda m: "plus or minus " if m[1][0] == "±" else "about ",
    (("±5 kg", "plus or minus five kilograms"), ("~5%", "about five percent")),
    ("±~≈",),
  ),
  Rule(
    "units without a number",
    r"(?<![0-9A-Za-z])(km|mi|m)/(h|s)(?![A-Za-z0-9])|(?<![0-9A-Za-z])(km|cm|mm|ft|m)([²³])",
    lambda m: (
      f"{many(_NAMES[m[1]])} per {_NAMES[m[2]]}"
      if m[1]
      else (many(_powered(_NAMES[m[3]], m[4], True)) if m[3] != "m" else f"m {'squared' if m[4] == '²' else 'cubed'}")
    ),
    (("in km/h", "in kilometers per hour"), ("in km²", "in square kilometers")),
    ("/²³",),
  ),
)


class _Measure:
  """The groups of a measure, whichever of the two spellings of its unit matched."""

  def __init__(self, m: re.Match) -> None:
    g = m.groups()
    self._text, self._start, self.string = m.group(), m.start(), m.string
    self._groups = (*g[:4], g[4] or "", g[5], g[6] or g[9], g[10], g[11], g[12], g[13])

  def groups(self) -> tuple:
    return self._groups

  def group(self) -> str:
    return self._text

  def start(self) -> int:
    return self._start
