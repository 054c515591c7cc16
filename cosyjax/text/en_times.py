"""Times of day in English."""

import re

from cosyjax.text.en_numbers import TO, cardinal
from cosyjax.text.rules import DIGITS, Rule

_HALF = r"(?:\s?([aApP])(?:m(?![A-Za-z])|M(?![A-Za-z])|\.m\.(?=\s[a-z]|[,;:!?]|\s?[-–—~]|\sto)|\.m(?=\.)))"
_HOUR = r"([0-2]?[0-9])"


def clock_words(hour: str, minute: str | None, second: str | None, half: str | None, ranged: bool = False) -> str:
  """A time as it is said: ten thirty, five o'clock, one oh five PM, fourteen hundred hours."""
  spoken = cardinal(int(hour))
  if minute and int(minute):
    spoken += " " + ("oh " if int(minute) < 10 else "") + cardinal(int(minute))
  elif minute and not half and not second:
    spoken += "" if ranged else " hundred hours" if int(hour) > 12 or hour == "00" else " o'clock"
  if second and int(second):
    spoken += f" and {cardinal(int(second))} second" + "s" * (int(second) != 1)
  return spoken + (f" {half.upper()}M" if half else "")


def _clock(m: re.Match) -> str:
  hour, minute, second, half = m.groups()
  if int(hour) > 24 or (minute is None and half is None):
    return m.group()
  return clock_words(hour, minute, second, half)


def _range(m: re.Match) -> str:
  first, first_minute, first_half, last, last_minute, half = m.groups()
  if int(first) > 24 or int(last) > 24 or not (half or first_minute):
    return m.group()
  return (
    f"{clock_words(first, first_minute, None, first_half, True)} to {clock_words(last, last_minute, None, half, True)}"
  )


_APART = r"(?<![0-9:.A-Za-z,$€£+-])"

RULES = (
  Rule(
    "times from to",
    rf"{_APART}{_HOUR}(?::([0-5][0-9]))?{_HALF}?(?:{TO}|\sto\s){_HOUR}(?::([0-5][0-9]))?(?![0-9:]|[.,][0-9])"
    rf"{_HALF}?(?![0-9])",
    _range,
    (
      ("12:30~13:30", "twelve thirty to thirteen thirty"),
      ("9:00 - 17:30", "nine to seventeen thirty"),
      ("8:00am-5:30pm", "eight AM to five thirty PM"),
      ("9:30-11", "nine thirty to eleven"),
    ),
    (DIGITS, ":"),
  ),
  Rule(
    "hours from to",
    rf"{_APART}{_HOUR}(?::([0-5][0-9]))?{_HALF}?(?:{TO}|\sto\s){_HOUR}(?::([0-5][0-9]))?{_HALF}",
    _range,
    (
      ("9am-5pm", "nine AM to five PM"),
      ("3-4pm", "three to four PM"),
      ("9 a.m. to 5 p.m. daily", "nine AM to five PM daily"),
    ),
    (DIGITS, "aApP", "mM"),
  ),
  Rule(
    "time",
    rf"(?<![0-9:.A-Za-z]){_HOUR}(?::([0-5][0-9])(?::([0-5][0-9]))?)?(?![0-9:]|\.[0-9]){_HALF}?",
    _clock,
    (
      ("at 12:30 pm", "at twelve thirty PM"),
      ("at 1:05", "at one oh five"),
      ("10:00", "ten o'clock"),
      ("8 a.m. sharp", "eight AM sharp"),
    ),
    (DIGITS, ":mM"),
  ),
)
