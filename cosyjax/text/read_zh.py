"""Numbers, dates, money and symbols read out in Chinese.

Rules are applied in order, each a regular expression and what it becomes. Runs of digits are
cut to a bounded length first and every repetition is bounded or has one possible start, so
time grows with the length of the text alone.
"""

import re
from collections.abc import Callable

_DIGITS = "零一二三四五六七八九"
_CALLED = str.maketrans("0123456789", _DIGITS)
_DIALLED = str.maketrans("0123456789", "零幺二三四五六七八九", "+-() ")
_MOST = 16  # digits of a number that is read as a quantity; longer ones are read digit by digit

_N = r"[0-9]+(?:\.[0-9]+)?"  # a number
_HAN = r"\u4e00-\u9fff"
_APART = r"(?<![0-9A-Za-z.])"  # not the end of another number or of a name
_TO = r"\s?[-~–—至到]\s?"  # joins the ends of a range

_UNITS = {
  "km/h": "公里每小时", "m/s": "米每秒", "km²": "平方公里", "m²": "平方米", "cm²": "平方厘米", "mm²": "平方毫米",
  "m³": "立方米", "cm³": "立方厘米", "km": "公里", "cm": "厘米", "mm": "毫米", "nm": "纳米", "μm": "微米", "m": "米",
  "kg": "公斤", "mg": "毫克", "g": "克", "mL": "毫升", "ml": "毫升", "L": "升", "GHz": "吉赫", "MHz": "兆赫",
  "kHz": "千赫", "Hz": "赫兹", "kWh": "千瓦时", "kW": "千瓦", "MW": "兆瓦", "W": "瓦", "mAh": "毫安时", "kV": "千伏",
  "V": "伏", "dB": "分贝", "ms": "毫秒", "min": "分钟", "h": "小时", "°C": "摄氏度", "℃": "摄氏度", "°F": "华氏度",
  "℉": "华氏度", "°": "度",
}  # fmt: skip
_MONEY = {
  "US$": "美元", "HK$": "港元", "$": "美元", "€": "欧元", "£": "英镑", "¥": "元", "￥": "元", "₩": "韩元", "₽": "卢布",
  "₹": "卢比", "RMB": "元", "CNY": "元", "USD": "美元", "EUR": "欧元", "GBP": "英镑", "JPY": "日元", "HKD": "港元",
}  # fmt: skip


def _any_of(names: dict[str, str]) -> str:
  return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_UNIT, _COIN = _any_of(_UNITS), _any_of(_MONEY)

# Before these, "2" is 两. 年级, 月, 号 and 日 number things rather than count them.
_COUNTED = (
  r"\s?(?:[个個只条本张位种次天杯瓶件家辆台部岁周米倍块元人座场遍句项斤吨碗双对把支枝颗粒间栋万亿千]"
  r"|年(?!级|月|代)|小时|分钟|秒钟|公里|公斤|厘米|毫米|平方|立方|美元|欧元|英镑|点钟|多)"
)
_IS_COUNTED = re.compile(_COUNTED)

_OPERATORS = {"+": "加", "-": "减", "×": "乘以", "*": "乘以", "÷": "除以", "/": "除以", "=": "等于"}
_COMPARED = {"=": "等于", ">": "大于", "<": "小于", "≥": "大于等于", "≤": "小于等于", "≠": "不等于", "≈": "约等于"}
_SIGNS = {"-": "负", "+": "正", "±": "正负", ">": "大于", "<": "小于", "≥": "大于等于", "≤": "小于等于", "≈": "约"}


def digits(number: str) -> str:
  """Digit by digit: "2024" -> 二零二四."""
  return number.translate(_CALLED)


def dialled(number: str) -> str:
  """Digit by digit as on the telephone, where 1 is 幺; signs between the groups fall away."""
  return number.translate(_DIALLED)


def quantity(number: str) -> str:
  """A whole or decimal number: "1005" -> 一千零五, "3.14" -> 三点一四. With leading zeros, digit by digit."""
  whole, _, part = number.partition(".")
  if len(whole) > _MOST or (len(whole) > 1 and whole[0] == "0"):
    spoken = digits(whole)
  else:
    spoken = _whole(int(whole))
    spoken = spoken[1:] if spoken.startswith("一十") else spoken
  return spoken + ("点" + digits(part) if part else "")


def _whole(number: int) -> str:
  for size, name in ((10**8, "亿"), (10**4, "万")):
    if number >= size:
      high, low = divmod(number, size)
      spoken = _two(str(high)) + name if high == 2 else _whole(high) + name
      return spoken + (("零" if low < size // 10 else "") + _whole(low) if low else "")
  if number == 0:
    return _DIGITS[0]
  spoken, skipped = "", False
  for power, name in ((3, "千"), (2, "百"), (1, "十"), (0, "")):
    d = number // 10**power % 10
    if d:
      spoken += "零" * (skipped and bool(spoken)) + ("两" if d == 2 and power == 3 else _DIGITS[d]) + name
    skipped = d == 0
  return spoken


def _two(number: str) -> str:
  """A quantity of something that is counted: 两 for 2."""
  return "两" if number == "2" else quantity(number)


def _signed(number: str) -> str:
  return "负" + quantity(number[1:]) if number.startswith("-") else quantity(number)


def _date(m: re.Match) -> str:
  year, _, month, day = m.groups()
  if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
    return m.group()
  return f"{digits(year)}年{quantity(str(int(month)))}月{quantity(str(int(day)))}日"


def _clock(m: re.Match) -> str:
  hour, minute, second, half = m.groups()
  if int(hour) > 24:
    return m.group()
  spoken = {"a": "上午", "p": "下午"}.get((half or "").lower(), "") + _two(str(int(hour))) + "点"
  if int(minute) or second:
    spoken += "零" * (0 < int(minute) < 10) + quantity(str(int(minute))) + "分"
  return spoken + (quantity(str(int(second))) + "秒" if second else "")


def _percent(m: re.Match) -> str:
  first, last, sign = m.groups()
  of = "百分之" if sign == "%" else "千分之"
  ends = ["负" * n.startswith("-") + of + quantity(n.lstrip("-")) for n in (first, last) if n]
  return "到".join("百分之百" if end == "百分之一百" else end for end in ends)


def _sum(m: re.Match) -> str:
  spoken = re.sub(r"\s?([-+×*÷/=])\s?", lambda o: _OPERATORS[o[1]], m.group())
  return re.sub(_N, lambda n: quantity(n.group()), spoken)


def _fraction(m: re.Match) -> str:
  return (quantity(m[1]) + "又" if m[1] else "") + f"{quantity(m[3])}分之{quantity(m[2])}"


def _measure(m: re.Match) -> str:
  minus, first, first_unit, last, unit = m.groups()
  spoken = "负" + quantity(first) if minus else quantity(first) if "°" in unit or unit in "℃℉" else _two(first)
  spoken += _UNITS[first_unit] if first_unit else ""
  return spoken + ("到" + _signed(last) if last else "") + _UNITS[unit]


def _range(m: re.Match) -> str:
  counted = _IS_COUNTED.match(m.string, m.end())
  return (_two if counted else quantity)(m[1]) + "到" + m[2]


_TOLD = (
  "(?:电话|手机号?|热线|拨打|致电|客服|号码|尾号|邮编|验证码|密码|编号|学号|工号|账号|卡号|群号|航班)"
  r"(?:号码)?[:：是为]?\s?"
)

_RULES: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
  # endless digits
  (r"(?<![0-9])([0-9]{1,16})\.([0-9]{17,})", lambda m: quantity(m[1]) + "点" + digits(m[2])),
  (r"[0-9]{17,}", lambda m: digits(m.group())),
  ("(?<=零下)-", lambda m: ""),
  # 1,234,567
  (r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])", lambda m: m.group().replace(",", "")),
  # 2024-05-01
  (r"(?<![0-9])([12][0-9]{3})([-/.])([01]?[0-9])\2([0-3]?[0-9])日?(?![0-9])", _date),
  # 2012-2013年, 2024年, 1990年代
  (rf"(?<![0-9])([12][0-9]{{3}})年?{_TO}([12][0-9]{{3}})(?=年)", lambda m: f"{digits(m[1])}到{digits(m[2])}"),
  (r"(?<![0-9.])([12][0-9]{3})(?=年)", lambda m: digits(m[1])),
  # 12:30, 12:30:45, 10:00AM, 10:00-12:00
  (
    r"(?<![0-9:.])([0-2]?[0-9]):([0-5][0-9])(?::([0-5][0-9]))?(?![0-9:])(?:\s?([aApP])\.?[mM](?![A-Za-z])\.?)?",
    _clock,
  ),
  (r"(?<=[点分秒])\s?[-~–]\s?(?=(?:上午|下午)?[零一二三四五六七八九十两]{1,3}点)", lambda m: "到"),
  # 3:2
  (r"(?<![0-9:.])([0-9]{1,9}):([0-9]{1,9})(?![0-9:])", lambda m: f"{quantity(m[1])}比{quantity(m[2])}"),
  # numbers that are called out digit by digit
  (rf"({_TOLD})(\+?[0-9][-0-9]*)", lambda m: m[1] + dialled(m[2])),
  (rf"{_APART}(?:\+?86[- ]?)?1[3-9][0-9][- ]?[0-9]{{4}}[- ]?[0-9]{{4}}(?![0-9.])", lambda m: dialled(m.group())),
  (rf"{_APART}0[0-9]{{2,3}}-[0-9]{{7,8}}(?![0-9])", lambda m: dialled(m.group())),
  (r"(?<![0-9])\+?[0-9]+(?:-[0-9]+){2,9}(?![0-9=])", lambda m: dialled(m.group())),
  (r"(?<![0-9])1(?:10|14|19|20|22)(?=报警|急救|火警|电话|热线)", lambda m: dialled(m.group())),
  # versions and addresses: 1.2.3
  (r"(?<![0-9.])[0-9]+(?:\.[0-9]+){2,9}", lambda m: digits(m.group()).replace(".", "点")),
  # ¥45.60, $1.5亿, 50USD
  (rf"({_COIN})\s?({_N})([百千万亿]{{0,2}})元?", lambda m: _two(m[2]) + m[3] + _MONEY[m[1]]),
  (rf"({_N})([百千万亿]{{0,2}})\s?({_COIN})(?![A-Za-z0-9])", lambda m: _two(m[1]) + m[2] + _MONEY[m[3]]),
  # 80%, -5%, 5‰, 10-20%, 10%~20%
  (rf"((?<![0-9A-Za-z%‰.])-?{_N}|{_N})(?:[%‰]?{_TO}({_N}))?\s?([%‰])", _percent),
  # 1+2=3
  (rf"{_APART}{_N}(?:\s?[-+×*÷/]\s?{_N}){{1,9}}\s?=(?:\s?{_N})?", _sum),
  # 3 1/2, 1/3
  (r"(?<![0-9./])(?:([0-9]{1,6})\s)?([0-9]{1,6})/([0-9]{1,6})(?![0-9./])", _fraction),
  # -5~10℃, 60km/h, 25m²
  (rf"{_APART}(-)?({_N})(?:({_UNIT})?{_TO}(-?{_N}))?\s?({_UNIT})(?![A-Za-z0-9²³/])", _measure),
  # 3-5天
  (rf"(?<![0-9A-Za-z.-])({_N}){_TO}(?={_N})({_N})(?![0-9.]{{0,9}}[-~])", _range),
  # 100+人, x=5, 5×3, -6, >5
  (rf"(?<=[0-9])\+(?=[{_HAN}，。,]|$)", lambda m: "多"),
  (r"(?<=[0-9A-Za-z²³])\s?([=≠≈≥≤<>])\s?(?=[-0-9A-Za-z])", lambda m: _COMPARED[m[1]]),
  (r"(?<=[0-9])\s?([×*÷])\s?(?=[0-9])", lambda m: _OPERATORS[m[1]]),
  (r"(?<=[0-9A-Za-z²³])\s?\+\s?(?=[0-9A-Za-z])", lambda m: "加"),
  (r"(?<![0-9A-Za-z)）-])([-+±]|[><≥≤≈]\s?)(?=[0-9])", lambda m: _SIGNS[m[1].strip()]),
  (r"(?<=[0-9A-Za-z])\^([0-9]{1,9}|[A-Za-z])", lambda m: f"的{m[1]}次方"),
  # 10元/斤, 公里/小时
  (rf"(?<=[元块角分米里克斤吨升次人个])/(?=[{_HAN}])", lambda m: "每"),
  (r"(?:№|(?<![A-Za-z])[Nn]o\.)\s?(?=[0-9])", lambda m: "第"),
  # GB18030 and ISO9001, but iPhone十五
  (r"(?<=[A-Za-z])[0-9]{3,}(?![0-9.])", lambda m: digits(m.group())),
  (rf"(?<![0-9A-Za-z.第])2(?={_COUNTED})", lambda m: "两"),
  (_N, lambda m: quantity(m.group())),
  # what is left of symbols
  ("²", lambda m: "平方"),
  ("³", lambda m: "立方"),
  (r"\s?&\s?", lambda m: "和"),
  (r"(?<=[A-Za-z0-9])@(?=[A-Za-z0-9])", lambda m: "艾特"),
  (
    r"(?<![A-Za-z0-9.-])(?:[A-Za-z0-9-]{1,63}\.){1,9}(?:com|cn|org|net|io|edu|gov|ai|html?|pdf|txt|py)(?![A-Za-z])",
    lambda m: m.group().replace(".", "点"),
  ),
)
_COMPILED = tuple((re.compile(pattern), spoken) for pattern, spoken in _RULES)


def read(text: str) -> str:
  """`text` with everything that is not a word read out in Chinese."""
  for pattern, spoken in _COMPILED:
    text = pattern.sub(spoken, text)
  return text
