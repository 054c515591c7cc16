"""Amounts of money in English."""

import re

from cosyjax.text.en_numbers import TO, cardinal, power_name, quantity
from cosyjax.text.rules import APART, DIGITS, Rule, after, any_of, before

_MONEY = {  # plural, singular, plural and singular of the hundredth part
  "$": ("dollars", "dollar", "cents", "cent"), "€": ("euros", "euro", "cents", "cent"),
  "£": ("pounds", "pound", "pence", "penny"), "¥": ("yen", "yen", "sen", "sen"),
  "₹": ("rupees", "rupee", "paise", "paisa"), "₩": ("won", "won", "jeon", "jeon"),
  "₽": ("rubles", "ruble", "kopecks", "kopeck"), "₿": ("bitcoins", "bitcoin", "", ""),
  "฿": ("baht", "baht", "satang", "satang"), "₫": ("dong", "dong", "", ""), "₺": ("lira", "lira", "kurus", "kurus"),
  "₱": ("pesos", "peso", "centavos", "centavo"), "₦": ("naira", "naira", "kobo", "kobo"),
  "₴": ("hryvnias", "hryvnia", "kopiykas", "kopiyka"), "₪": ("shekels", "shekel", "agorot", "agora"),
  "CHF": ("Swiss francs", "Swiss franc", "centimes", "centime"), "RMB": ("yuan", "yuan", "fen", "fen"),
  "INR": ("rupees", "rupee", "paise", "paisa"), "KRW": ("won", "won", "", ""), "BTC": ("bitcoins", "bitcoin", "", ""),
  "R$": ("reais", "real", "centavos", "centavo"), "kr": ("kroner", "krone", "", ""),
  "SEK": ("Swedish kronor", "Swedish krona", "", ""), "NOK": ("Norwegian kroner", "Norwegian krone", "", ""),
  "zł": ("zloty", "zloty", "", ""), "MXN": ("Mexican pesos", "Mexican peso", "centavos", "centavo"),
  "BRL": ("reais", "real", "centavos", "centavo"), "THB": ("baht", "baht", "satang", "satang"),
}  # fmt: skip
_LANDS = {
  "US": "", "C": "Canadian ", "CA": "Canadian ", "A": "Australian ", "AU": "Australian ", "HK": "Hong Kong ",
  "NZ": "New Zealand ", "S": "Singapore ", "SG": "Singapore ", "NT": "New Taiwan ",
}  # fmt: skip
for _short, _land in _LANDS.items():
  _MONEY[f"{_short}$"] = (f"{_land}dollars", f"{_land}dollar", "cents", "cent")
for _code, _land in {"USD": "", "CAD": "Canadian ", "AUD": "Australian ", "HKD": "Hong Kong ", "SGD": "Singapore ",
                     "NZD": "New Zealand ", "TWD": "New Taiwan "}.items():  # fmt: skip
  _MONEY[f"{_code}$"] = (f"{_land}dollars", f"{_land}dollar", "cents", "cent")
  _MONEY[_code] = (f"{_land}dollars", f"{_land}dollar", "cents", "cent")
_MONEY |= {"EUR": _MONEY["€"], "GBP": _MONEY["£"], "JPY": _MONEY["¥"], "CNY": _MONEY["RMB"], "RUB": _MONEY["₽"]}

_COIN = any_of(tuple(_MONEY))
_AMOUNT = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_POWER = r"(?:\s?(thousand|million|billion|trillion|[kKmMbBT]|bn|tn|mn)(?![A-Za-z0-9]))?"
_PERIODS = {
  "mo": "month", "mth": "month", "yr": "year", "hr": "hour", "h": "hour", "wk": "week", "d": "day", "min": "minute",
  "pp": "person", "ea": "each", "lb": "pound", "kg": "kilogram", "g": "gram", "oz": "ounce", "L": "liter",
  "gal": "gallon", "sqft": "square foot", "sq ft": "square foot", "m²": "square meter", "ft²": "square foot",
  "GB": "gigabyte", "kWh": "kilowatt hour", "MWh": "megawatt hour", "km": "kilometer", "mi": "mile", "t": "ton",
}  # fmt: skip
_PER = rf"(?:\s?/\s?({any_of(tuple(_PERIODS))}|[a-z]{{3,12}})(?![A-Za-z0-9/]|\.[A-Za-z0-9]))?"


def _amount(number: str, power: str | None, coin: str) -> str:
  plural, one, parts, part_name = _MONEY[coin]
  number = "0" + number if number.startswith(".") else number
  if power:
    return f"{quantity(number)} {power_name(power)} {plural}"
  whole, _, part = number.partition(".")
  if len(part) != 2 or not parts:
    return f"{quantity(number)} {one if number == '1' else plural}"
  spoken = [f"{quantity(whole)} {one if whole == '1' else plural}"] if int(whole) or not int(part) else []
  if int(part):
    spoken.append(f"{cardinal(int(part))} {part_name if int(part) == 1 else parts}")
  return " and ".join(spoken)


def _per(below: str | None) -> str:
  return f" per {_PERIODS.get(below, below)}" if below else ""


def _range(m: re.Match) -> str:
  coin, first, power, _, last, last_power, below = m.groups()
  power = power if power and power != last_power else None
  head = quantity(first) if not power else f"{quantity(first)} {power_name(power)}"
  return f"{head} to {_amount(last, last_power, coin)}{_per(below)}"


def _priced(m: re.Match) -> str:
  sign, coin, inner, number, power, more, below = m.groups()
  sign = (sign or inner or "").strip()
  spoken = {"-": "minus ", "+": "plus ", "±": "plus or minus "}.get(sign, "") + _amount(number, power, coin)
  if re.search(r"(?:^|[^A-Za-z])[Aa]n?\s$", before(m)) and re.match(r"\s[a-z]", after(m)) and not more and not below:
    spoken = re.sub(r"(dollar|euro|pound)s$", r"\1", spoken)  # a twenty dollar bill
  return spoken + (" plus" if more else "") + _per(below)


RULES = (
  Rule(
    "money from to",
    rf"(?<![A-Za-z0-9])({_COIN})\s?({_AMOUNT}){_POWER}{TO}({_COIN})?\s?({_AMOUNT}){_POWER}{_PER}(?!\.?[0-9%])",
    _range,
    (("$5-10 million", "five to ten million dollars"), ("$100-$200", "one hundred to two hundred dollars")),
    (DIGITS, "-–—~"),
  ),
  Rule(
    "money",
    rf"(?:(?<![0-9A-Za-z)])([-+±])\s?)?(?<![A-Za-z0-9])({_COIN})\s?([-+])?({_AMOUNT}){_POWER}(\+(?![0-9]))?{_PER}",
    _priced,
    (
      ("$45.60", "forty-five dollars and sixty cents"),
      ("-$5", "minus five dollars"),
      ("Revenue: -$5.2M", "Revenue: minus five point two million dollars"),
      ("C$20", "twenty Canadian dollars"),
      ("$20/mo", "twenty dollars per month"),
      ("$0.99", "ninety-nine cents"),
      ("USD 100", "one hundred dollars"),
      ("$1,299.99", "one thousand two hundred and ninety-nine dollars and ninety-nine cents"),
      ("$3bn", "three billion dollars"),
      ("a $20 bill", "a twenty dollar bill"),
    ),
    (DIGITS, "$€£¥₹₩₽₿฿₫₺₱₦₴₪CDRHFYPUSNTBKr"),
  ),
  Rule(
    "money behind",
    rf"{APART}({_AMOUNT}){_POWER}\s?({_COIN})(?![A-Za-z0-9]){_PER}",
    lambda m: _amount(m[1], m[2], m[3]) + _per(m[4]),
    (("5 USD", "five dollars"), ("20 €", "twenty euros"), ("100 RMB", "one hundred yuan")),
    (DIGITS, "$€£¥₹₩₽₿฿₫₺₱₦₴₪CDRHFYPUSNTBKrz"),
  ),
  Rule(
    "cents",
    rf"{APART}([0-9]+)\s?¢",
    lambda m: f"{quantity(m[1])} {'cent' if m[1] == '1' else 'cents'}",
    (("50¢", "fifty cents"),),
    (DIGITS, "¢"),
  ),
)
