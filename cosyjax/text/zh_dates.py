"""Dates, years and times of day in Chinese."""

import re

from cosyjax.text.rules import DIGITS, FOUR, Rule, after, before
from cosyjax.text.zh_numbers import HAN, TO, digits, quantity, two

_YEAR = r"[12][0-9]{3}"
_ZONES = r"(?:Z|UTC|GMT|[-+][0-9]{2}:?[0-9]{2})?(?![0-9A-Za-z:])"
_OF_YEAR = (
  "年|届|级|财年|赛季|学年|年度|款|版|春晚|奥运|世界杯|欧洲杯|高考|考研|秋招|春招|毕业|新年|元旦|春节|国庆"
  "|中秋|财报|巴黎|东京|北京|世博|两会|新版|新款|中国|全国|双十一|双11|上半年|下半年|Q[1-4]|H[12]"
)
_HALVES = {"a": "上午", "p": "下午"}
_NAMED_HALF = (
  r"(?:上午|下午|早上|早晨|凌晨|中午|晚上|傍晚|清晨|夜里|次日|翌日|第二天|当晚|当天|今天|明天|昨天"
  r"|周[一二三四五六日天]|今晚|明早|明晚)"
)
_DAYS = r"(?:周|星期|礼拜)[一二三四五六日天]"


def _date_words(year: str, month: str, day: str | None) -> str:
  """Words of a date, or nothing where there is no such day."""
  if not (1 <= int(month) <= 12 and (day is None or 1 <= int(day) <= 31)):
    return ""
  return f"{digits(year)}年{quantity(str(int(month)))}月" + (f"{quantity(str(int(day)))}日" if day else "")


def _date(m: re.Match) -> str:
  return _date_words(m[1], m[3], m[4]) or m.group()


def _stamp(m: re.Match) -> str:
  date = _date_words(m[1], m[2], m[3])
  return (
    date + _clock_words(m[4], m[5], m[6] if m[6] and int(m[6]) else None, None)
    if date and int(m[4]) < 25
    else m.group()
  )


def _day_first(m: re.Match) -> str:
  return _date_words(m[4], m[3], m[1]) or _date_words(m[4], m[1], m[3]) or m.group()


def _clock_words(hour: str, minute: str | None, second: str | None, half: str | None) -> str:
  spoken = _HALVES.get((half or "").lower(), "") + two(str(int(hour))) + "点"
  if minute and (int(minute) or second):
    spoken += "零" * (0 < int(minute) < 10) + quantity(str(int(minute))) + "分"
  return spoken + ("零" * (int(second) < 10) + quantity(str(int(second))) + "秒" if second else "")


def _clock(m: re.Match) -> str:
  hour, minute, second, half = m.groups()
  if int(hour) > 24 or (
    re.search(r"(?:比分|比例|比率|配比|比值|总分|以|画面比|宽高比|长宽比|屏幕)(?:为|是|约为)?\s?$", before(m))
    and not half
  ):
    return m.group()
  return _clock_words(hour, minute, second, half)


def _hours(m: re.Match) -> str:
  first, first_half, last, half = m.groups()
  if int(first) > 12 or int(last) > 12:
    return m.group()
  head = _HALVES[(first_half or half).lower()]
  tail = _HALVES[half.lower()]
  return f"{head}{two(first)}点到{tail if tail != head else ''}{two(last)}点"


def _season(m: re.Match) -> str:
  return f"{digits(m[1])}{'到' if m[2] in '-–~' else ''}{digits(m[3])}"


def _short_year(m: re.Match) -> str:
  """86年8月 and 08年 are years; 20年 without a month is a time."""
  return (
    digits(m[1])
    if m[1][0] in "05678 9"
    or after(m).startswith(("出生", "生", "毕业"))
    or re.match(r"年\s?[0-9]{1,2}\s?月", after(m))
    else m.group()
  )


RULES = (
  Rule(
    "date with time",
    rf"(?<![0-9])({_YEAR})[-/.]([01]?[0-9])[-/.]([0-3]?[0-9])(?:T|\s)([0-2]?[0-9]):([0-5][0-9])(?::([0-5][0-9])"
    rf"(?:\.[0-9]{{1,9}})?)?\s?{_ZONES}",
    _stamp,
    (
      ("2023-01-15T10:30:00Z", "二零二三年一月十五日十点三十分"),
      ("于2024/5/1 08:05更新", "于二零二四年五月一日八点零五分更新"),
    ),
    (DIGITS, FOUR, ":"),
  ),
  Rule(
    "year first",
    rf"(?<![0-9])({_YEAR})([-/.])([01]?[0-9])\2([0-3]?[0-9])日?(?![0-9])",
    _date,
    (("2024-05-01", "二零二四年五月一日"), ("2024/5/1", "二零二四年五月一日")),
    (DIGITS, FOUR, "-/."),
  ),
  Rule(
    "day first",
    r"(?<![0-9/.-])([0-3]?[0-9])([-/.])([0-3]?[0-9])\2((?:19|20)[0-9]{2})(?![0-9/.-])",
    _day_first,
    (("25/12/1990", "一九九零年十二月二十五日"),),
    (DIGITS, FOUR, "-/."),
  ),
  Rule(
    "year and month",
    r"(?<![0-9A-Za-z/.-])((?:19|20)[0-9]{2})([-/.])(0[1-9]|1[0-2])(?:月份?)?(?![0-9A-Za-z/.-]|[%个元万])",
    lambda m: (
      _date_words(m[1], m[3], None)
      if m[2] != "." or re.search(r"(?:于|在|自|从|至|到|截至|截止)$|^$", before(m))
      else m.group()
    ),
    (("2025-09", "二零二五年九月"), ("2025/09", "二零二五年九月"), ("自2019.10起", "自二零一九年十月起")),
    (DIGITS, FOUR),
  ),
  Rule(
    "months of years from to",
    rf"(?<![0-9.])((?:19|20)[0-9]{{2}})[./](1[0-2]|0?[1-9]){TO}((?:19|20)[0-9]{{2}})[./](1[0-2]|0?[1-9])(?![0-9./])",
    lambda m: f"{_date_words(m[1], m[2], None)}到{_date_words(m[3], m[4], None)}",
    (("2024.1-2024.6", "二零二四年一月到二零二四年六月"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "season",
    r"(?<![0-9A-Za-z])((?:19|20)?[0-9]{2})([-/–~])((?:19|20)?[0-9]{2})(?=赛季|财年|学年|年度|雪季|榨季)",
    _season,
    (("2024/25赛季", "二零二四二五赛季"), ("2023-2024学年", "二零二三到二零二四学年"), ("24/25赛季", "二四二五赛季")),
    (DIGITS, "-/–~"),
  ),
  Rule(
    "years from to",
    rf"(?<![0-9])({_YEAR})年?{TO}({_YEAR})(?=年|届|级|款|$|[，。）)])",
    lambda m: f"{digits(m[1])}到{digits(m[2])}",
    (("2012-2013年", "二零一二到二零一三年"), ("（1881-1936）", "一八八一到一九三六")),
    (DIGITS, FOUR),
  ),
  Rule(
    "year",
    rf"(?<![0-9.])({_YEAR})(?=\s?(?:{_OF_YEAR}))",
    lambda m: digits(m[1]),
    (
      ("2024年", "二零二四年"),
      ("2024届毕业生", "二零二四届毕业生"),
      ("2024财年", "二零二四财年"),
      ("2024款", "二零二四款"),
    ),
    (DIGITS, FOUR),
  ),
  Rule(
    "short year",
    r"(?<![0-9.A-Za-z-])([0-9]{2})(?=年\s?[0-9]{1,2}\s?月|年(?:出生|生人|毕业|[春夏秋冬]|底|初|末|世界杯|奥运)|届)"
    r"|(?<![0-9.A-Za-z-])(0[0-9])(?=年|级|款)",
    lambda m: digits(m[1] or m[2]),
    (("86年8月18日", "八六年八月十八日"), ("08年", "零八年"), ("98年世界杯", "九八年世界杯")),
  ),
  Rule(
    "generation",
    r"(?<![0-9.])([0-9]{2})(?=后(?!面|来|天|期|台|排|卫|座|勤|端)|[、和与/](?:[0-9]{2}[、和与/])*[0-9]{2}后(?!面|来|天"
    r"|期|台|排))",
    lambda m: digits(m[1]),
    (("90后", "九零后"), ("00后", "零零后"), ("80、90后", "八零、九零后")),
  ),
  Rule(
    "date range",
    r"(?<=[年月日号])\s?(?:[-~–]|—{1,2})\s?(?=(?:次年|翌年|当年|同年)?(?:[0-9]{1,4}|[零一二三四五六七八九十]{1,4})"
    r"[年月日号])",
    lambda m: "到",
    (("5月1日-5月3日放假", "五月一日到五月三日放假"), ("1月-3月", "一月到三月"), ("5月1日-3日", "五月一日到三日")),
    ("-~–—",),
  ),
  Rule(
    "month and day with a slash",
    r"(?<![0-9/.])(1[0-2]|0?[1-9])/(3[01]|[12][0-9]|0?[1-9])(?=日|号)",
    lambda m: f"{quantity(str(int(m[1])))}月{quantity(str(int(m[2])))}",
    (("5/12日", "五月十二日"),),
    (DIGITS, "/"),
  ),
  Rule(
    "month and day",
    r"(?<![0-9])0([1-9])(?=月)|(?<=月)0([1-9])(?=[日号])|(?<=[点时])0([0-9])(?=分)|(?<=[分])0([0-9])(?=秒)",
    lambda m: (quantity(m[1] or m[2])) if m[1] or m[2] else "零" + quantity(m[3] or m[4]),
    (("05月01日", "五月一日"), ("8点05分", "八点零五分")),
    ("0",),
  ),
  Rule(
    "weekdays",
    rf"({_DAYS})\s?(?:[-~–]|—{{1,2}})\s?(?={_DAYS}|[一二三四五六日天](?![{HAN}]))",
    lambda m: f"{m[1]}到",
    (("周一-周五", "周一到周五"), ("星期一~星期三", "星期一到星期三")),
    ("-~–—",),
  ),
  Rule(
    "hours from to",
    r"(?<![0-9:.A-Za-z])([0-1]?[0-9])\s?([aApP])?(?:(?<=[aApP])\.?[mM]\.?)?\s?[-~–—至到]\s?([0-1]?[0-9])\s?([aApP])"
    r"\.?[mM](?![A-Za-z])\.?",
    _hours,
    (("9am-5pm", "上午九点到下午五点"), ("3-4pm", "下午三点到四点")),
    (DIGITS, "mM"),
  ),
  Rule(
    "time",
    r"(?<![0-9:.])([0-2]?[0-9]):([0-5][0-9])(?::([0-5][0-9]))?(?![0-9:])(?:\s?([aApP])\.?[mM](?![A-Za-z])\.?)?(?:分"
    r"|(?=点))?",
    _clock,
    (("12:30", "十二点三十分"), ("8:05", "八点零五分"), ("10:00AM", "上午十点"), ("0:05分", "零点零五分")),
    (DIGITS, ":"),
  ),
  Rule(
    "hour",
    r"(?<![0-9:.A-Za-z])([0-1]?[0-9])\s?([aApP])\.?[mM](?![A-Za-z])\.?",
    lambda m: _HALVES[m[2].lower()] + two(str(int(m[1]))) + "点",
    (("3pm", "下午三点"),),
    (DIGITS, "mM"),
  ),
  Rule(
    "times from to",
    rf"(?<=[点分秒半])\s?(?:[-~–]|—{{1,2}})\s?(?=(?:{_NAMED_HALF})?(?:[零一二三四五六七八九十两]{{1,3}}|[0-9]{{1,2}})"
    rf"[点:时分])",
    lambda m: "到",
    (("10:00-12:00", "十点到十二点"), ("9:00-次日6:00", "九点到次日六点"), ("9:00—18:00营业", "九点到十八点营业")),
    ("-~–—",),
  ),
  Rule(
    "two o'clock",
    r"(?<![0-9.第])2(?=点(?![0-9](?![0-9]?分)|[一二三四五六七八九零]{2})|时(?:许|整|[0-9]))",
    lambda m: "两",
    (("2点", "两点"), ("下午2点30分", "下午两点三十分")),
    ("2",),
  ),
  Rule(
    "ratio",
    r"(?<![0-9:.])([0-9]{1,9}):([0-9]{1,9})(?::([0-9]{1,9}))?(?![0-9:])",
    lambda m: "比".join(quantity(n) for n in m.groups() if n),
    (("3:2", "三比二"), ("比例1∶3", "比例一比三"), ("比分12:10", "比分十二比十")),
    (DIGITS, ":"),
  ),
)
