"""Chinese numbers as words, and the rules that read what is left of numbers after all other rules."""

import re

from cosyjax.text.rules import APART, DIGITS, FOUR, THREE, N, Rule, after, before

_DIGITS = "零一二三四五六七八九"
_CALLED = str.maketrans("0123456789", _DIGITS)
_DIALLED = str.maketrans("0123456789", "零幺二三四五六七八九", "+-() ")
_MOST = 16  # digits of a number that is read as a quantity; longer ones are read digit by digit

HAN = r"\u4e00-\u9fff"
TO = r"\s?(?:[-~–]|—{1,2}|[至到])\s?"  # joins the ends of a range

# Before these, "2" is 两. 年级, 月, 号 and 日 number things rather than count them.
COUNTED = (
  r"\s?(?:[个個只條条本张位种次天杯瓶件家辆台部岁周米倍块元人座场遍句项斤吨碗双对把支枝颗粒间栋万亿千股届架艘头匹朵口"
  r"秒度层片套份名组排根门扇盏所幅首]"
  r"|年(?!级|月|代|\s?[0-9一二三四五六七八九十]{1,2}月)|小时|分钟|秒钟|公里|公斤|厘米|毫米|平方|立方|美元|欧元|英镑"
  r"|点钟|点半|多|分(?!之))"
)
_IS_COUNTED = re.compile(COUNTED)


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
      spoken = two(str(high)) + name if high == 2 else _whole(high) + name
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


def two(number: str) -> str:
  """A quantity of something that is counted: 两 for 2."""
  return "两" if number == "2" else quantity(number)


def signed(number: str) -> str:
  """A quantity with a minus or plus sign before it, or none."""
  if number[:1] in ("-", "+"):
    return ("负" if number[0] == "-" else "正") + quantity(number[1:])
  return quantity(number)


def times(number: str, size: int) -> str:
  """ "3.5" of a thousand -> 三千五百: 15k is 一万五千."""
  whole, _, part = number.partition(".")
  power = len(str(size)) - 1
  if len(part) > power or len(whole) > 9:
    return quantity(number) + {10**3: "千", 10**6: "百万"}[size]
  return quantity(str(int(whole + part.ljust(power, "0"))))


def _range(m: re.Match) -> str:
  counted = _IS_COUNTED.match(m.string, m.end())
  first = m[1].replace("-", "负") if m[1][0] == "-" else (two if counted else quantity)(m[1])
  return first + "到" + (signed if m[2][0] in "+-" else quantity)(m[2])


def _fraction(m: re.Match) -> str:
  if (m[2], m[3]) in (("24", "7"), ("50", "50")) and not m[1]:
    return quantity(m[2]) + ("" if m[2] == "24" else "比") + quantity(m[3])
  return (quantity(m[1]) + "又" if m[1] else "") + f"{quantity(m[3])}分之{quantity(m[2])}"


def _percent(m: re.Match) -> str:
  first, last, sign = m.groups()
  of = "百分之" if sign == "%" else "千分之"
  ends = [{"-": "负", "+": "正"}.get(n[0], "") + of + quantity(n.lstrip("+-")) for n in (first, last) if n]
  return "到".join(re.sub("百分之一百$", "百分之百", end) for end in ends)


def _scaled(m: re.Match) -> str:
  number, scale = m[1], m[2]
  if scale in "wW":
    if scale == "W" and not re.match(
      r"\+|\s?(?:粉|阅读|播放|人|元|块|点赞|次|关注|赞|条|字|年薪|用户|收藏|以上|左右|多|的)", after(m)
    ):
      return m.group()
    return two(number) + "万"
  if scale == "K" and number in ("4", "8", "2") and not re.match(r"\+|元|块|粉|人|/月", after(m)):
    return m.group()
  if scale in "kK":
    return times(number, 10**3)
  if re.match(r"\s?(?:宽带|内存|流量|带宽|网速|文件|大小|的?空间)", after(m)):
    return quantity(number) + "兆"
  return times(number, 10**6) if re.match(r"\+|\s?(?:粉|阅读|播放|人|美元|用户|下载|元|参数)", after(m)) else m.group()


def _named(m: re.Match) -> str:
  """Names with a hyphen: fighters and missiles digit by digit, ships and probes as a number."""
  return m[1] + (
    quantity(m[2])
    if re.search("神舟|长征|嫦娥|天宫|天舟|天问|北斗|玉兔|问天|快舟|捷龙", m[1]) and len(m[2]) < 3
    else digits(m[2])
  )


_NEGATIVE = re.compile(
  r"(?:气温|温度|体温|水温|室温|最低|最高|低至|低到|跌至|降至|降到|达到?|海拔|高程|深度|水深|增长率?|增速|增幅|涨幅"
  r"|跌幅|涨跌幅|涨|跌|同比|环比|下降|下滑|上升|回落"
  r"|收益率?|收益为|利润|净利润?|毛利率?|盈亏|余额|差额|差值|误差|得分|积分|净胜球|数值|坐标|指数|利率|通胀率|变化|约"
  r"|为|是|在|从|到|至|等于|减|加|乘|和|与|或|于|近|超|仅|只有|有)$"
)


def _negative(m: re.Match) -> str:
  """A hyphen between a Chinese word and a number: a minus where a quantity can be negative, else a pause."""
  if _NEGATIVE.search(before(m)) or re.match(rf"{N}\s?(?:%|‰|°|℃|度|摄氏|百分)", m.string[m.end() :]):
    return "负"
  return "\ue000"


FIRST = (
  Rule(
    "endless decimals",
    r"(?<![0-9])([0-9]{1,16})\.([0-9]{17,})",
    lambda m: quantity(m[1]) + "点" + digits(m[2]),
    (("1.12345678901234567", "一点一二三四五六七八九零一二三四五六七"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "endless digits",
    r"[0-9]{17,}",
    lambda m: digits(m.group()),
    (("12345678901234567", "一二三四五六七八九零一二三四五六七"),),
    (DIGITS, FOUR),
  ),
  Rule("below zero", "(?<=零下)-", lambda m: "", (("零下-5度", "零下五度"),)),
  Rule("digits after a cut", r"(?<=[0-9]{12})[0-9]{1,15}", lambda m: digits(m.group()), (("1" * 258, "一" * 258),)),
  Rule(
    "thousands with commas",
    r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])",
    lambda m: m.group().replace(",", ""),
    (("1,234,567人", "一百二十三万四千五百六十七人"),),
    (DIGITS, THREE, ","),
  ),
)

GROUPED = (
  Rule(
    "thousands with blanks",
    r"(?<![0-9A-Za-z.,+(:#-])(?<![0-9] )[1-9][0-9]{0,2}(?:(?: [0-9]{3}){2,4}| [0-9]?00)(?![ -]?[0-9])",
    lambda m: m.group().replace(" ", ""),
    (("共1 000元", "共一千元"),),
    (DIGITS, " "),
  ),
)

NAMED = (
  Rule(
    "named with a hyphen",
    r"((?:歼|运|轰|直|武直|教|强|苏|米格|图|歼轰|空警|东风|巨浪|红旗|鹰击|长剑|霹雳|翼龙|彩虹|无侦|攻击|神舟|长征|嫦娥"
    r"|天宫|天舟|天问|北斗|玉兔|问天|快舟|捷龙|波音|空客|卡|安|伊尔|萨姆|阿帕奇|黑鹰|鹞|鱼|辽宁|山东))-([0-9]{1,3})"
    r"(?![0-9.%]|\s?[-~度℃])",
    _named,
    (("歼-20首飞", "歼二零首飞"), ("东风-41导弹", "东风四一导弹"), ("神舟-18发射", "神舟十八发射")),
    (DIGITS, "-"),
  ),
)

SCALES = (
  Rule(
    "ten thousands in short",
    rf"{APART}({N})\s?(w|W|k|K|M)(?![A-Za-z0-9/²³])",
    _scaled,
    (("3.5w粉丝", "三点五万粉丝"), ("月薪15k", "月薪一万五千"), ("4K视频", "四K视频"), ("100M宽带", "一百兆宽带")),
    (DIGITS, "wWkKM"),
  ),
)

HYPHENS = (
  Rule(
    "hyphen before a number",
    rf"(?<=[{HAN}])\s?-(?=[0-9])",
    _negative,
    (("气温-5度", "气温负五度"), ("小明-25岁", "小明，二十五岁"), ("海拔-154米", "海拔负一百五十四米")),
    (DIGITS, "-"),
  ),
)

PARTS = (
  Rule(
    "percent",
    rf"(?:(?<![0-9A-Za-z%‰.)])([-+]?{N})|({N}))(?:[%‰]?{TO}([-+]?{N}))?\s?([%‰])",
    lambda m: _percent(_Percent(m)),
    (
      ("80%", "百分之八十"),
      ("-5%~-3%", "负百分之五到负百分之三"),
      ("10-20%", "百分之十到百分之二十"),
      ("涨幅为+2.5%", "涨幅为正百分之二点五"),
      ("5‰", "千分之五"),
    ),
    (DIGITS, "%‰"),
  ),
  Rule(
    "points of percent",
    rf"({N})\s?(?:个)?pp(?![A-Za-z])",
    lambda m: f"{quantity(m[1])}个百分点",
    (("上升2.5pp", "上升二点五个百分点"),),
    (DIGITS, "p"),
  ),
)

FRACTIONS = (
  Rule(
    "out of ten",
    r"(?<![0-9./])([0-9]{1,2}\.[0-9]{1,2})/([0-9]{1,3})(?!\.?[0-9]|/)",
    lambda m: f"{quantity(m[1])}比{quantity(m[2])}",
    (("评分4.5/5", "评分四点五比五"),),
    (DIGITS, "/"),
  ),
  Rule(
    "fraction",
    r"(?<![0-9./A-Za-z])(?:([0-9]{1,6})\s)?([0-9]{1,6})/([0-9]{1,6})(?!\.?[0-9]|/)",
    _fraction,
    (("占1/3", "占三分之一"), ("3½杯", "三又二分之一杯")),
    (DIGITS, "/"),
  ),
)

LAST = (
  Rule(
    "range",
    rf"(?<![0-9A-Za-z.-])((?:(?<![{HAN}])-)?{N})({TO})(?=[-+]?{N})([-+]?{N})(?![0-9.]{{0,9}}[-~])",
    lambda m: _range(_Ends(m)),
    (("3-5天", "三到五天"), ("2-3个", "两到三个"), ("10~20人", "十到二十人")),
  ),
  Rule(
    "sign before a number",
    r"(?<![0-9A-Za-z)）-])([-+±]|[><≥≤≈~]\s?)(?=[0-9])",
    lambda m: {"-": "负", "+": "正", "±": "正负", ">": "大于", "<": "小于", "≥": "大于等于", "≤": "小于等于"}.get(
      m[1].strip(), "约"
    ),
    (("-6", "负六"), ("+5", "正五"), ("±2", "正负二"), ("≈3", "约三")),
    (DIGITS, "-+±><≥≤≈~"),
  ),
  Rule("more than", rf"(?<=[0-9]0)\+(?=[{HAN}])", lambda m: "多", (("100+人", "一百多人"),), (DIGITS, "+")),
  Rule(
    "more",
    r"(?<=[0-9百千万亿])\+(?![0-9A-Za-z+])",
    lambda m: "加",
    (("18+电影", "十八加电影"), ("10万+", "十万加"), ("18+", "十八加")),
    ("+",),
  ),
  Rule(
    "digits behind letters",
    r"(?<=[A-Za-z])-?([0-9]{3,})(?![0-9.])",
    lambda m: digits(m[1]),
    (("ISO9001", "ISO九零零一"), ("A380", "A三八零")),
  ),
  Rule(
    "model behind letters",
    r"(?<=[A-Z])-([0-9]{1,2})(?![0-9.%])",
    lambda m: quantity(m[1]) if len(m[1]) < 2 or m[1] in ("19", "10") else digits(m[1]),
    (("F-35战机", "F三五战机"), ("GPT-4", "GPT四"), ("COVID-19", "COVID十九")),
    (DIGITS, "-"),
  ),
  Rule(
    "two of something",
    rf"(?<![0-9A-Za-z.第])2(?={COUNTED})",
    lambda m: "两",
    (("2个", "两个"), ("第2个", "第二个"), ("2点半", "两点半")),
    ("2",),
  ),
  Rule("Boeing", r"(?<=波音)[0-9]{3}(?![0-9])", lambda m: digits(m.group()), (("波音747", "波音七四七"),)),
  Rule("numbers", N, lambda m: quantity(m.group()), (("10010米", "一万零一十米"), ("编号007", "编号零零七"))),
)


class _Ends:
  """First and last number of a range."""

  def __init__(self, m: re.Match) -> None:
    self.string, self._end, self._groups = m.string, m.end(), (m.group(), m[1], m[3])

  def __getitem__(self, i: int) -> str:
    return self._groups[i]

  def end(self) -> int:
    return self._end


class _Percent:
  """Number, last number and sign of a percentage, whichever branch matched."""

  def __init__(self, m: re.Match) -> None:
    self._groups = (m[1] or m[2], m[3], m[4])

  def groups(self) -> tuple:
    return self._groups
