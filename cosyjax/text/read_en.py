"""Numbers, dates, money and symbols read out in English.

Built like `read_zh`: rules in order, time linear in the length of the text.
"""

import re
from collections.abc import Callable

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

_N = r"[0-9]+(?:\.[0-9]+)?"
_APART = r"(?<![0-9A-Za-z.])"
_TO = r"\s?[-–—~]\s?"

_MONTHS = (
  "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
  "December",
)  # fmt: skip
_MONTH_OF = {name[:size].lower(): name for name in _MONTHS for size in (3, len(name))} | {"sept": "September"}
_MONTH = r"(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?" \
  r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"  # fmt: skip
_YEAR = r"[12][0-9]{3}"
_LIKELY = r"(?:1[5-9]|20)[0-9]{2}"  # a year even where nothing but a preposition says so

_UNITS = {  # plural, singular
  "km/h": ("kilometers per hour", "kilometer per hour"), "mph": ("miles per hour", "mile per hour"),
  "m/s": ("meters per second", "meter per second"), "km²": ("square kilometers", "square kilometer"),
  "m²": ("square meters", "square meter"), "cm²": ("square centimeters", "square centimeter"),
  "m³": ("cubic meters", "cubic meter"), "km": ("kilometers", "kilometer"), "cm": ("centimeters", "centimeter"),
  "mm": ("millimeters", "millimeter"), "nm": ("nanometers", "nanometer"), "m": ("meters", "meter"),
  "ft": ("feet", "foot"), "kg": ("kilograms", "kilogram"), "mg": ("milligrams", "milligram"), "g": ("grams", "gram"),
  "lbs": ("pounds", "pound"), "lb": ("pounds", "pound"), "oz": ("ounces", "ounce"),
  "ml": ("milliliters", "milliliter"), "mL": ("milliliters", "milliliter"), "L": ("liters", "liter"),
  "GHz": ("gigahertz",) * 2, "MHz": ("megahertz",) * 2, "kHz": ("kilohertz",) * 2, "Hz": ("hertz",) * 2,
  "TB": ("terabytes", "terabyte"), "GB": ("gigabytes", "gigabyte"), "MB": ("megabytes", "megabyte"),
  "KB": ("kilobytes", "kilobyte"), "kWh": ("kilowatt hours", "kilowatt hour"), "kW": ("kilowatts", "kilowatt"),
  "dB": ("decibels", "decibel"), "ms": ("milliseconds", "millisecond"), "min": ("minutes", "minute"),
  "hrs": ("hours", "hour"), "°C": ("degrees Celsius", "degree Celsius"), "℃": ("degrees Celsius", "degree Celsius"),
  "°F": ("degrees Fahrenheit", "degree Fahrenheit"), "℉": ("degrees Fahrenheit", "degree Fahrenheit"),
  "°": ("degrees", "degree"), "%": ("percent", "percent"), "‰": ("per mille", "per mille"),
}  # fmt: skip
_MONEY = {  # plural, singular, plural and singular of the hundredth part
  "$": ("dollars", "dollar", "cents", "cent"), "€": ("euros", "euro", "cents", "cent"),
  "£": ("pounds", "pound", "pence", "penny"), "¥": ("yen", "yen", "sen", "sen"),
  "₹": ("rupees", "rupee", "paise", "paisa"), "₩": ("won", "won", "jeon", "jeon"),
}  # fmt: skip
_MONEY |= {"US$": _MONEY["$"], "USD": _MONEY["$"], "EUR": _MONEY["€"], "GBP": _MONEY["£"], "JPY": _MONEY["¥"]}
_MONEY |= {"RMB": ("yuan", "yuan", "fen", "fen"), "CNY": ("yuan", "yuan", "fen", "fen")}
_POWERS = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "t": "trillion", "tn": "trillion"}


def _any_of(names: dict) -> str:
  return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_UNIT, _COIN = _any_of(_UNITS), _any_of(_MONEY)
_POWER = r"(?:\s?(thousand|million|billion|trillion|[kKmMbB]|bn|tn)(?![A-Za-z0-9]))?"

_ABBREVIATIONS = {
  "Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "Prof.": "Professor", "vs.": "versus", "approx.": "approximately",
  "e.g.": "for example", "i.e.": "that is",
}  # fmt: skip
_JOINED = {"=": "equals", ">": "is greater than", "<": "is less than", "≥": "is at least", "≤": "is at most",
           "≈": "is about", "≠": "is not", "+": "plus", "×": "times", "*": "times", "÷": "divided by",
           "±": "plus or minus"}  # fmt: skip
_SIGNS = {"-": "minus", "+": "plus", "±": "plus or minus", "~": "about", "≈": "about", ">": "more than",
          "<": "less than", "≥": "at least", "≤": "at most", "#": "number"}  # fmt: skip
_ROMAN = {"I": 1, "V": 5, "X": 10}


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
  spoken = digits(whole) if len(whole) > _MOST or (len(whole) > 1 and whole[0] == "0") else _whole(int(whole))
  return spoken + (" point " + digits(part) if part else "")


def ordinal(number: int) -> str:
  """21 -> twenty-first."""
  head, last = re.fullmatch(r"(.*?)([a-z]+)", _whole(number)).groups()
  if last in _ORDINALS:
    return head + _ORDINALS[last]
  return head + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def year(number: str) -> str:
  """1984 -> nineteen eighty-four, 1905 -> nineteen oh five, 2005 -> two thousand and five."""
  high, low = divmod(int(number), 100)
  if high % 10 == 0 and low < 10:
    return _whole(int(number))
  return f"{_whole(high)} " + (f"oh {_ONES[low]}" if 0 < low < 10 else _whole(low) if low else "hundred")


def _whole(number: int) -> str:
  for size, name in _SCALES:
    if number >= size:
      high, low = divmod(number, size)
      return f"{_whole(high)} {name}" + ((" and " if low < 100 else " ") + _whole(low) if low else "")
  if number >= 100:
    high, low = divmod(number, 100)
    return f"{_ONES[high]} hundred" + (f" and {_whole(low)}" if low else "")
  if number < 20:
    return _ONES[number]
  high, low = divmod(number, 10)
  return _TENS[high] + (f"-{_ONES[low]}" if low else "")


def _plural(word: str) -> str:
  return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("x") else "s")


def _iso_date(m: re.Match) -> str:
  return _named_date(int(m[3]), int(m[4]), m[1]) or m.group()


def _slash_date(m: re.Match) -> str:
  """Month first, as in the USA, unless that cannot be."""
  first, second = int(m[1]), int(m[2])
  return _named_date(first, second, m[3]) or _named_date(second, first, m[3]) or m.group()


def _named_date(month: int, day: int, of: str | None) -> str:
  if not (1 <= month <= 12 and 1 <= day <= 31):
    return ""
  return f"{_MONTHS[month - 1]} {ordinal(day)}" + (f", {year(of)}" if of else "")


def _month_day(m: re.Match) -> str:
  return _named_date(_MONTHS.index(_MONTH_OF[m[1].lower().rstrip(".")]) + 1, int(m[2]), m[3]) or m.group()


def _day_month(m: re.Match) -> str:
  month = _MONTH_OF[m[2].lower().rstrip(".")]
  if not 1 <= int(m[1]) <= 31:
    return m.group()
  return f"the {ordinal(int(m[1]))} of {month}" + (f", {year(m[3])}" if m[3] else "")


def _clock(m: re.Match) -> str:
  hour, minute, second, half = m.groups()
  if int(hour) > 24 or (minute is None and half is None):
    return m.group()
  spoken = _whole(int(hour))
  if minute and int(minute):
    spoken += " " + ("oh " if int(minute) < 10 else "") + _whole(int(minute))
  elif minute and not half:
    spoken += " hundred hours" if int(hour) > 12 or hour == "00" else " o'clock"
  if second and int(second):
    spoken += f" and {_whole(int(second))} second" + "s" * (int(second) != 1)
  return spoken + (f" {half.upper()}M" if half else "")


def _money(number: str, power: str | None, coin: str) -> str:
  many, one, many_parts, one_part = _MONEY[coin]
  if power:
    return f"{quantity(number)} {_POWERS.get(power.lower(), power)} {many}"
  whole, _, part = number.partition(".")
  if len(part) != 2:
    return f"{quantity(number)} {one if number == '1' else many}"
  spoken = [f"{quantity(whole)} {one if whole == '1' else many}"] if int(whole) or not int(part) else []
  if int(part):
    spoken.append(f"{_whole(int(part))} {one_part if int(part) == 1 else many_parts}")
  return " and ".join(spoken)


def _measure(m: re.Match) -> str:
  minus, first, first_unit, last, unit = m.groups()
  many, one = _UNITS[unit]
  spoken = ("minus " if minus else "") + quantity(first)
  if last:
    between = f" {_UNITS[first_unit][0]}" if first_unit and first_unit != unit else ""
    spoken += between + " to " + ("minus " + quantity(last[1:]) if last.startswith("-") else quantity(last))
  return f"{spoken} {one if first == '1' and not last else many}"


def _fraction(m: re.Match) -> str:
  whole, top, bottom = m[1], int(m[2]), int(m[3])
  if bottom == 2:
    spoken = ("a" if whole else "one") + " half" if top == 1 else f"{_whole(top)} halves"
  elif 2 < bottom <= 100 and top < bottom:
    name = "quarter" if bottom == 4 else ordinal(bottom)
    spoken = f"{_whole(top)} {name if top == 1 else _plural(name)}"
  else:
    spoken = f"{quantity(m[2])} over {quantity(m[3])}"
  return f"{quantity(whole)} and {spoken}" if whole else spoken


def _decade(m: re.Match) -> str:
  spoken = year(m[1]) if len(m[1]) == 4 else _whole(int(m[1]))
  return _plural(spoken)


def _chapter(m: re.Match) -> str:
  values = [_ROMAN[c] for c in m[2]]
  return f"{m[1]} " + _whole(sum(-v if values[i + 1 : i + 2] > [v] else v for i, v in enumerate(values)))


def _address(m: re.Match) -> str:
  names = {".": " dot ", "/": " slash ", "@": " at ", ":": " ", "_": " underscore ", "-": " dash "}
  spoken = re.sub("[./@:_-]", lambda c: names[c.group()], re.sub("^https?://", "", m.group()))
  return " ".join(re.sub("[0-9]+", lambda n: f" {quantity(n.group()[:_MOST])} ", spoken).split())


_WHEN = (
  "[Ii]n|[Ss]ince|[Uu]ntil|[Tt]ill|[Bb]y|[Ff]rom|[Bb]efore|[Aa]fter|[Dd]uring|circa|year|early|mid|late|spring|summer"
  "|autumn|fall|winter|" + "|".join(_MONTHS)
)

_RULES: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
  # endless digits
  (r"(?<![0-9])([0-9]{1,15})\.([0-9]{16,})", lambda m: f"{quantity(m[1])} point {digits(m[2])}"),
  (r"[0-9]{16,}", lambda m: digits(m.group())),
  (r"(?<![A-Za-z.])(?:Mr|Mrs|Dr|Prof|vs|approx|e\.g|i\.e)\.(?=[\s,])", lambda m: _ABBREVIATIONS[m.group()]),
  # addresses
  (
    r"(?<![A-Za-z0-9._@/-])(?:https?://[A-Za-z0-9][A-Za-z0-9./_-]{1,99}[A-Za-z0-9]|[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,64}"
    r"\.[a-z]{2,8}|(?:[A-Za-z][A-Za-z0-9-]{0,63}\.){1,5}(?:com|org|net|io|edu|gov|ai)(?![A-Za-z])(?:/[A-Za-z0-9/_-]{1,99})?)",
    _address,
  ),
  (r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])", lambda m: m.group().replace(",", "")),
  # dates
  (rf"(?<![0-9])({_YEAR})([-/.])([01]?[0-9])\2([0-3]?[0-9])(?![0-9])", _iso_date),
  (rf"(?<![0-9/])([0-3]?[0-9])/([0-3]?[0-9])/({_YEAR})(?![0-9/])", _slash_date),
  (
    rf"(?<![A-Za-z]){_MONTH}\s([0-3]?[0-9])(?:st|nd|rd|th)?(?![0-9A-Za-z:%.,]?[0-9A-Za-z])(?:,?\s({_YEAR})(?![0-9]))?",
    _month_day,
  ),
  (
    rf"(?<![0-9A-Za-z.,$])(?:the\s)?([0-3]?[0-9])(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}(?:,?\s({_YEAR})(?![0-9]))?",
    _day_month,
  ),
  (
    rf"\b([Ff]rom|[Bb]etween)\s({_LIKELY})\s(to|and|until)\s({_LIKELY})\b(?![.,]?[0-9])",
    lambda m: f"{m[1]} {year(m[2])} {m[3]} {year(m[4])}",
  ),
  (rf"(?<![A-Za-z])((?:{_WHEN}),?\s)({_LIKELY})(?![0-9.,]?[0-9]|s|%)", lambda m: m[1] + year(m[2])),
  (rf"(?<![0-9A-Za-z])({_YEAR})[-–—]({_YEAR})(?![0-9-])", lambda m: f"{year(m[1])} to {year(m[2])}"),
  (rf"(?<![0-9A-Za-z])({_YEAR})s(?![A-Za-z])", _decade),
  (r"(?:(?<=the\s)|(?<=late\s)|(?<=early\s)|(?<=mid-)|['’])([2-9]0)s(?![A-Za-z])", _decade),
  # 10:00-12:00, 12:30 pm, 8 a.m., 10:30:15
  (
    r"(?<![0-9:])([0-2]?[0-9]:[0-5][0-9](?:\s?[aApP][mM])?)\s?[-–]\s?(?=[0-2]?[0-9]:[0-5][0-9])",
    lambda m: f"{m[1]} to ",
  ),
  (
    r"(?<![0-9:.A-Za-z])([0-2]?[0-9])(?::([0-5][0-9])(?::([0-5][0-9]))?)?(?![0-9:])(?:\s?([aApP])(?:m(?![A-Za-z])|M(?![A-Za-z])"
    r"|\.m\.(?=\s[a-z]|,)|\.m(?=\.)))?",
    _clock,
  ),
  (r"(?<![0-9:.])([0-9]{1,9}):([0-9]{1,9})(?![0-9:])", lambda m: f"{quantity(m[1])} to {quantity(m[2])}"),
  (r"(?<![0-9/])(24/7|9/11)(?![0-9/])", lambda m: {"24/7": "twenty-four seven", "9/11": "nine eleven"}[m[1]]),
  # telephones
  (
    r"(?<![0-9A-Za-z.])(?:\+[0-9]{1,3}[- ]?|1-)?\(?[0-9]{3}\)?[- ][0-9]{3}[- ][0-9]{4}(?![0-9])",
    lambda m: dialled(m.group()),
  ),
  (r"(?<![0-9A-Za-z.-])[0-9]{3}-[0-9]{4}(?![0-9-])", lambda m: dialled(m.group())),
  (r"(?<![0-9])\+?[0-9]+(?:-[0-9]+){2,9}(?![0-9=])", lambda m: dialled(m.group())),
  (r"(?<![0-9A-Za-z])\+[0-9]{7,15}(?![0-9])", lambda m: dialled(m.group())),
  # versions: 1.2.3
  (
    r"(?<![0-9.])([A-Za-z]?)([0-9]+(?:\.[0-9]+){2,9})",
    lambda m: f"{m[1]} ".lstrip() + " point ".join(map(quantity, m[2].split("."))),
  ),
  # money
  (
    rf"(?<![A-Za-z])({_COIN})({_N}){_TO}\1?({_N}){_POWER}",
    lambda m: f"{quantity(m[2])} to {_money(m[3], m[4], m[1])}",
  ),
  (rf"(?<![A-Za-z])({_COIN})\s?({_N}){_POWER}", lambda m: _money(m[2], m[3], m[1])),
  (rf"{_APART}({_N}){_POWER}\s?({_COIN})(?![A-Za-z0-9])", lambda m: _money(m[1], m[2], m[3])),
  (r"(?<=[0-9])\s?-\s?(?=[0-9.]{1,15}\s?=)", lambda m: " minus "),
  # 3 1/2, 2/3
  (r"(?<![0-9./])(?:([0-9]{1,6})\s)?([0-9]{1,6})/([0-9]{1,6})(?![0-9./])", _fraction),
  # 5kg, -3.5°C, 10-20%
  (rf"{_APART}(-)?({_N})(?:({_UNIT})?{_TO}(-?{_N}))?[ -]?({_UNIT})(?![A-Za-z0-9²³/])", _measure),
  # 21st
  (r"(?<![0-9.])([0-9]{1,15})(?:st|nd|rd|th)(?![A-Za-z])", lambda m: ordinal(int(m[1]))),
  # 5-10
  (rf"(?<![0-9A-Za-z.-])({_N}){_TO}({_N})(?![0-9A-Za-z-])", lambda m: f"{quantity(m[1])} to {quantity(m[2])}"),
  (r"(?<=[0-9])x(?=[0-9])", lambda m: " by "),
  (r"(?<=[0-9])[x×](?![A-Za-z0-9])(?!\s[0-9])", lambda m: " times"),
  (r"(?<=[0-9])\s[xX]\s(?=[0-9])", lambda m: " times "),
  (r"(?<=[0-9A-Za-z²³])\s?([=≠≈≥≤<>×*÷±])\s?(?=[-0-9A-Za-z])", lambda m: f" {_JOINED[m[1]]} "),
  (r"(?<=[0-9A-Za-z²³])\s?\+\s?(?=[0-9A-Za-z])", lambda m: " plus "),
  (r"(?<=[0-9A-Za-z])\^(?=[0-9A-Za-z])", lambda m: " to the power of "),
  (r"(?<=[0-9])\s-\s(?=[0-9])", lambda m: " minus "),
  (r"(?<![0-9A-Za-z)-])([-+±#]|[~≈><≥≤]\s?)(?=\.?[0-9])", lambda m: f"{_SIGNS[m[1].strip()]} "),
  (r"(?:№|(?<![A-Za-z])No\.|(?<![A-Za-z])no\.(?=[0-9]))\s?(?=[0-9])", lambda m: "number "),
  (r"\b(Chapter|Part|Volume|Book|Act|Scene|Section|Phase|Appendix|War)\s([IVX]{1,6})\b", _chapter),
  (r"(?<![0-9])\.(?=[0-9])", lambda m: " point "),
  # 100+, A4, 5G, iPhone15
  (r"(?<=[0-9])\+(?![0-9A-Za-z])", lambda m: " plus"),
  (rf"((?<=[A-Za-z]))?{_N}((?=[A-Za-z]))?", lambda m: " " * (m[1] == "") + quantity(m[0]) + " " * (m[2] == "")),
  ("²", lambda m: " squared"),
  ("³", lambda m: " cubed"),
  (r"(?<=[A-Za-z])\s?&\s?(?=[A-Za-z])", lambda m: " and "),
)
_COMPILED = tuple((re.compile(pattern), spoken) for pattern, spoken in _RULES)


def read(text: str) -> str:
  """`text` with everything that is not a word read out in English."""
  for pattern, spoken in _COMPILED:
    text = pattern.sub(spoken, text)
  return text
