"""Quantities with units and amounts of money in Chinese."""

import re

from cosyjax.text.rules import APART, DIGITS, N, Rule, any_of
from cosyjax.text.zh_numbers import HAN, TO, quantity, signed, two

_LENGTHS = {
  "km": "公里", "dm": "分米", "cm": "厘米", "mm": "毫米", "nm": "纳米", "μm": "微米", "m": "米",
  "ft": "英尺", "mi": "英里", "yd": "码",
}  # fmt: skip
_UNITS = _LENGTHS | {
  "kg": "公斤", "mg": "毫克", "μg": "微克", "ng": "纳克", "g": "克", "t": "吨", "lb": "磅", "lbs": "磅", "oz": "盎司",
  "mL": "毫升",
  "ml": "毫升", "ML": "毫升", "μL": "微升", "μl": "微升", "dL": "分升", "dl": "分升", "L": "升", "l": "升",
  "cc": "毫升", "gal": "加仑",
  "mmol": "毫摩尔", "μmol": "微摩尔", "mol": "摩尔", "IU": "国际单位", "U": "单位", "mmHg": "毫米汞柱", "kPa": "千帕",
  "MPa": "兆帕",
  "hPa": "百帕", "Pa": "帕", "bar": "巴", "psi": "磅每平方英寸", "atm": "标准大气压", "GHz": "吉赫", "MHz": "兆赫",
  "kHz": "千赫", "KHz": "千赫",
  "Hz": "赫兹", "kWh": "千瓦时", "kW·h": "千瓦时", "MWh": "兆瓦时", "Wh": "瓦时", "kW": "千瓦", "KW": "千瓦",
  "MW": "兆瓦", "GW": "吉瓦",
  "W": "瓦", "mAh": "毫安时", "Ah": "安时", "mA": "毫安", "A": "安", "kV": "千伏", "KV": "千伏", "mV": "毫伏",
  "V": "伏", "kΩ": "千欧", "MΩ": "兆欧",
  "Ω": "欧姆", "dB": "分贝", "db": "分贝", "ms": "毫秒", "μs": "微秒", "ns": "纳秒", "min": "分钟", "h": "小时",
  "s": "秒", "°C": "摄氏度",
  "℃": "摄氏度", "°F": "华氏度", "℉": "华氏度", "°": "度", "kcal": "千卡", "cal": "卡", "kJ": "千焦", "KJ": "千焦",
  "J": "焦耳", "N": "牛", "kN": "千牛",
  "N·m": "牛米", "rpm": "转每分", "r": "转", "bpm": "次每分", "fps": "帧每秒", "dpi": "点每英寸", "px": "像素",
  "lm": "流明", "lx": "勒克斯",
  "ha": "公顷", "mph": "英里每小时", "ppm": "百万分之一", "Mbps": "兆比特每秒", "Gbps": "吉比特每秒",
  "kbps": "千比特每秒", "Kbps": "千比特每秒",
  "hp": "马力", "tsp": "茶匙", "tbsp": "汤匙", "cd": "坎德拉", "Bq": "贝克勒尔", "Sv": "希沃特", "mSv": "毫希沃特",
  }  # fmt: skip
_LETTERS = {"GB", "MB", "KB", "TB", "PB", "kB", "Kb", "Mb", "Gb", "K", "B"}  # said as letters
_GLUED = frozenset("tslrhAJNTU") | {"cal", "mi", "ft", "cd", "bar"}
_PER = {
  "h": "小时",
  "s": "秒",
  "min": "分钟",
  "d": "天",
  "day": "天",
  "mo": "月",
  "month": "月",
  "yr": "年",
  "year": "年",
  "a": "年",
}
_MONEY = {
  "US$": "美元", "HK$": "港元", "C$": "加元", "CA$": "加元", "A$": "澳元", "AU$": "澳元", "NZ$": "新西兰元",
  "S$": "新加坡元", "NT$": "新台币",
  "R$": "雷亚尔", "$": "美元", "€": "欧元", "£": "英镑", "¥": "元", "₩": "韩元", "₽": "卢布", "₹": "卢比",
  "฿": "泰铢", "₫": "越南盾", "₿": "比特币",
  "RMB": "元", "CNY": "元", "USD": "美元", "EUR": "欧元", "GBP": "英镑", "JPY": "日元", "HKD": "港元", "KRW": "韩元",
  "CAD": "加元", "AUD": "澳元",
  "SGD": "新加坡元", "TWD": "新台币", "CHF": "瑞士法郎", "RUB": "卢布", "THB": "泰铢", "INR": "卢比", "BTC": "比特币",
}  # fmt: skip

_UNIT, _COIN = any_of(tuple(_UNITS)), any_of(tuple(_MONEY))
_SPACED = any_of(tuple(set(_UNITS) - _GLUED))
_BELOW = rf"(?:\s?/\s?({any_of(tuple(_UNITS | _PER))})([²³])?(?![A-Za-z])|/([{HAN}]{{1,3}}))?"
_SCALE = r"(?:\s?([百千万亿]{1,2}|[kKMw](?![A-Za-z0-9])|bn(?![A-Za-z0-9])))?"


def _powered(name: str, power: str | None, length: bool) -> str:
  if not power:
    return name
  if length:
    return ("平方" if power == "²" else "立方") + name
  return name + ("平方" if power == "²" else "立方")


def _unit(unit: str, power: str | None) -> str:
  return unit if unit in _LETTERS else _powered(_UNITS[unit], power, unit in _LENGTHS)


def _below(below: str | None, power: str | None, han: str | None) -> str:
  """每秒; m/s² is 每二次方秒."""
  if han:
    return "每" + han
  if not below:
    return ""
  name = _PER.get(below) or _UNITS[below]
  if power and below not in _LENGTHS:
    return "每" + ("二次方" if power == "²" else "三次方") + name
  return "每" + _powered(name, power, True)


def _measure(m: re.Match) -> str:
  first, first_unit, last, scale, spaced, glued, power, below, below_power, han = m.groups()
  unit = spaced or glued
  plain = "°" in unit or unit in "℃℉" or scale or first[0] in "+-"
  spoken = signed(first) if plain else two(first)
  if last:
    spoken += (_unit(first_unit, None) if first_unit and first_unit != unit else "") + "到" + signed(last)
  return spoken + (scale or "") + _unit(unit, power) + _below(below, below_power, han)


def _scaled(number: str, scale: str | None) -> str:
  if scale in ("k", "K", "M", "bn"):
    from_size = {"k": 3, "K": 3, "M": 6, "bn": 9}[scale]
    whole, _, part = number.partition(".")
    return (
      quantity(str(int((whole + part.ljust(from_size, "0"))[: len(whole) + from_size])))
      if len(part) <= from_size
      else quantity(number)
    )
  return two(number) + (scale or "").replace("w", "万")


def _amount(number: str, scale: str | None, coin: str) -> str:
  number = number[:-3] if number.endswith(".00") else number
  return _scaled(number, scale) + _MONEY[coin]


def _priced(m: re.Match) -> str:
  sign, coin, inner, first, first_scale, last, scale, more = m.groups()
  spoken = {"-": "负", "+": "正", "±": "正负"}.get((sign or inner or "").strip(), "")
  if last:
    return f"{spoken}{_scaled(first, first_scale if first_scale != scale else None)}到{_amount(last, scale, coin)}"
  if more:
    return (
      f"{spoken}{_scaled(first, first_scale)}多{_MONEY[coin]}"
      if first_scale or first.endswith("0")
      else f"{spoken}{_amount(first, first_scale, coin)}以上"
    )
  return spoken + _amount(first, first_scale, coin)


def _pressure(m: re.Match) -> str:
  return f"{quantity(m[1])}，{quantity(m[2])}毫米汞柱"


def _angle(m: re.Match) -> str:
  spoken = f"{quantity(m[1])}度{quantity(m[2])}分" + (f"{quantity(m[3])}秒" if m[3] else "")
  return {"N": "北纬", "S": "南纬", "E": "东经", "W": "西经"}.get(m[4] or "", "") + spoken


MONEY = (
  Rule(
    "money",
    rf"(?:(?<![0-9A-Za-z)])([-+±])\s?)?(?<![A-Za-z])({_COIN})\s?([-+])?({N}){_SCALE}(?:{TO}(?:(?:{_COIN})\s?)?({N})"
    rf"{_SCALE}|(\+)(?![0-9]))?(?:元|块|美元|(?=/))?",
    _priced,
    (
      ("￥45.60", "四十五点六零元"),
      ("$1.5亿", "一点五亿美元"),
      ("C$20", "二十加元"),
      ("-¥50", "负五十元"),
      ("¥100-200", "一百到二百元"),
      ("$3.5M", "三百五十万美元"),
    ),
    (DIGITS, "$€£¥₩₽₹฿₫₿RCUEGJHKATSTIB"),
  ),
  Rule(
    "money behind",
    rf"{APART}({N}){_SCALE}\s?({_COIN})(?![A-Za-z0-9])",
    lambda m: _amount(m[1], m[2], m[3]),
    (("50USD", "五十美元"), ("20€", "二十欧元")),
    (DIGITS, "$€£¥₩₽₹฿₫₿RCUEGJHKATSTIB"),
  ),
  Rule("cents", rf"{APART}({N})\s?¢", lambda m: f"{two(m[1])}美分", (("50¢", "五十美分"),), (DIGITS, "¢")),
)

RANGES = (
  Rule(
    "Chinese units from to",
    rf"({N}[{HAN}]{{1,2}})\s?(?:[-~–]|—{{1,2}})\s?(?=({N})([{HAN}]{{1,2}}))",
    lambda m: m[1] + "到" if re.sub(N, "", m[1])[:1] == m[3][:1] else m.group(),
    (("100元-200元", "一百元到二百元"), ("3岁-6岁", "三岁到六岁")),
    (DIGITS, "-~–—"),
  ),
)

RULES = (
  Rule(
    "degrees and minutes",
    rf"(?<![0-9.])([0-9]{{1,3}})[°度]\s?([0-9]{{1,2}})\s?['’]\s?(?:({N})(?:\"|”|''))?([NSEW](?![A-Za-z]))?",
    _angle,
    (("北纬30°15'", "北纬三十度十五分"), ("30°15'N", "北纬三十度十五分")),
    (DIGITS, "'’"),
  ),
  Rule(
    "blood pressure",
    r"(?<![0-9./])([0-9]{2,3})/([0-9]{2,3})\s?mm\s?Hg(?![A-Za-z])|(?<=血压)([0-9]{2,3})/([0-9]{2,3})(?![0-9/])",
    lambda m: _pressure(m) if m[1] else f"{quantity(m[3])}，{quantity(m[4])}",
    (("120/80mmHg", "一百二十，八十毫米汞柱"), ("血压130/85", "血压一百三十，八十五")),
    (DIGITS, "/"),
  ),
  Rule(
    "feet and inches",
    rf"{APART}([0-9]{{1,2}})['’]\s?({N})(?:\"|”|'')",
    lambda m: f"{quantity(m[1])}英尺{quantity(m[2])}英寸",
    (("身高6'2\"", "身高六英尺二英寸"),),
    (DIGITS, "'’"),
  ),
  Rule(
    "inches",
    rf"{APART}({N})\"(?=[{HAN}])",
    lambda m: f"{quantity(m[1])}英寸" if m.string.count('"', 0, m.start()) % 2 == 0 else m.group(),
    (('15.6"屏', "十五点六英寸屏"),),
    (DIGITS, '"'),
  ),
  Rule(
    "data per second",
    rf"({N})\s?(TB|GB|MB|KB|GT)/(s|h|秒|天|月)",
    lambda m: f"{quantity(m[1])}{m[2]}每{_PER.get(m[3], m[3])}",
    (("带宽1.5TB/s", "带宽一点五TB每秒"),),
    (DIGITS, "/"),
  ),
  Rule(
    "measure",
    rf"(?:{APART})((?:(?<![0-9A-Za-z)%°{HAN}-])[-+])?{N})(?:({_UNIT})?{TO}([-+]?{N}))?([百千万亿]{{1,2}})"
    rf"?(?:\s?({_SPACED})|({_UNIT}))([²³])?{_BELOW}(?![A-Za-z0-9²³]|/[A-Za-z])",
    _measure,
    (
      ("60km/h", "六十公里每小时"),
      ("25m²", "二十五平方米"),
      ("-5~10℃", "负五到十摄氏度"),
      ("5.6mmol/L", "五点六毫摩尔每升"),
      ("9.8m/s²", "九点八米每二次方秒"),
      ("100ml/次", "一百毫升每次"),
      ("2kg", "两公斤"),
      ("5kg-10kg", "五到十公斤"),
    ),
  ),
  Rule(
    "per",
    rf"(?<=[元块角分米里克斤吨升次人个卡瓦台件份位张只])/\s?(?=[{HAN}])",
    lambda m: "每",
    (("10元/斤", "十元每斤"),),
    ("/",),
  ),
  Rule(
    "per a unit",
    rf"(?<=[元块角分次人个度])/\s?({any_of(tuple(_UNITS | _PER))})([²³])?(?![A-Za-z0-9])",
    lambda m: _below(m[1], m[2], None),
    (("5元/kg", "五元每公斤"), ("3000元/m²", "三千元每平方米")),
    ("/",),
  ),
)

BEHIND = (
  Rule(
    "unit behind a power",
    rf"(?<=次方)\s?({_UNIT})([²³])?{_BELOW}(?![A-Za-z0-9²³])",
    lambda m: _unit(m[1], m[2]) + _below(m[3], m[4], m[5]),
    (("3×10⁸m/s", "三乘以十的八次方米每秒"),),
    ("mgsWVJNPHhLlt",),
  ),
)
