"""Signs of arithmetic, powers, formulas, brackets and what is left of symbols, in Chinese."""

import re

from cosyjax.text.rules import APART, COMMA, DIGITS, STOP, N, Rule, before
from cosyjax.text.symbols import CIRCLED, CIRCLES, SUBSCRIPT, SUPERSCRIPT, circled, plain_script
from cosyjax.text.zh_numbers import HAN, quantity, signed

_OPERATORS = {
  "+": "加",
  "-": "减",
  "×": "乘以",
  "*": "乘以",
  "·": "乘以",
  "÷": "除以",
  "/": "除以",
  "=": "等于",
  "±": "加减",
}
_COMPARED = {
  "==": "等于", "=": "等于", ">": "大于", "<": "小于", "≥": "大于等于", ">=": "大于等于", "≤": "小于等于",
  "<=": "小于等于", "≠": "不等于",
  "!=": "不等于", "≈": "约等于", "≡": "恒等于", "∈": "属于", "⊂": "包含于", "∪": "并", "∩": "交", "∝": "正比于",
}  # fmt: skip
_BEFORE = {
  "<": "小于",
  ">": "大于",
  "≥": "大于等于",
  ">=": "大于等于",
  "≤": "小于等于",
  "<=": "小于等于",
  "≈": "约",
  "~": "约",
  "±": "正负",
}
_GREEK = {
  "α": "阿尔法", "β": "贝塔", "γ": "伽马", "δ": "德尔塔", "ε": "艾普西隆", "θ": "西塔", "λ": "兰姆达", "μ": "缪",
  "π": "派", "ρ": "柔", "σ": "西格玛",
  "τ": "套", "φ": "斐", "χ": "卡", "ψ": "普赛", "ω": "欧米伽", "Δ": "德尔塔", "Σ": "西格玛", "Ω": "欧米伽",
  "η": "伊塔", "Γ": "伽马", "Φ": "斐",
}  # fmt: skip
_ALONE = {
  "∞": "无穷大",
  "∑": "求和",
  "∏": "连乘",
  "∫": "积分",
  "∂": "偏",
  "∴": "所以",
  "∵": "因为",
  "∀": "任意",
  "∃": "存在",
  "§": "第",
}
_VALUES = {"I": 1, "V": 5, "X": 10}


def _power(m: re.Match) -> str:
  power = plain_script(m.group())
  if power in ("2", "3") and not m.string[m.start() - 1].isdigit():
    return "平方" if power == "2" else "立方"
  return power_words(power)


def power_words(power: str) -> str:
  """Words behind a base."""
  if power in ("2", "3"):
    return "的平方" if power == "2" else "的三次方"
  return f"的{signed(power) if re.fullmatch(rf'[-+]?{N}', power) else power.replace('-', '减').replace('+', '加')}次方"


def _sum(m: re.Match) -> str:
  spoken = re.sub(r"\s?([-+×*÷/=])\s?", lambda o: _OPERATORS[o[1]], m.group())
  return re.sub(N, lambda n: quantity(n.group()), spoken)


def _script(m: re.Match) -> str:
  number = plain_script(m.group())
  return quantity(number) if number.isdigit() else number


def _roman(m: re.Match) -> str:
  values = [_VALUES[c] for c in m[1]]
  return quantity(str(sum(-v if values[i + 1 : i + 2] > [v] else v for i, v in enumerate(values))))


def _king(m: re.Match) -> str:
  return _roman(m) + ("" if m.string[m.end() : m.end() + 1] == "世" else "世")


def _item(m: re.Match) -> str:
  return (STOP if before(m, 1) else "") + m[1] + COMMA


def _scientific(m: re.Match) -> str:
  return f"{signed(m[1])}乘以十的{signed(m[2].lstrip('+'))}次方"


def _sign_before(m: re.Match) -> str:
  """A tilde behind a quantity is a range, and behind 约 it says nothing."""
  if m[1] == "~":
    if before(m, 1) == "约":
      return ""
    if re.search(rf"[0-9]\s?(?:[{HAN}]{{1,3}}|[℃℉°%])\s?$", before(m)):
      return m.group()
  word = _BEFORE[m[1]]
  return "" if before(m, len(word)) == word else word


ITEMS = (
  Rule(
    "items in a line",
    rf"(?:^|(?<=[^0-9A-Za-z.、]))\s?([0-9]{{1,2}})(?:[.．](?!\s?[0-9])|[)）])\s?(?=[{HAN}“《A-Za-z])(?<![(（][0-9][)"
    rf"）])(?<![(（][0-9][0-9][)）])",
    _item,
    (("1. 第一点 2. 第二点", "一，第一点。二，第二点"),),
    (DIGITS, ".．)）"),
  ),
  Rule(
    "items in brackets",
    rf"(?:^|(?<=[^0-9A-Za-z]))[(（]([0-9]{{1,2}})[)）]\s?(?=[{HAN}“《])",
    _item,
    (("（1）苹果（2）香蕉", "一，苹果。二，香蕉"),),
    (DIGITS, "(（"),
  ),
  Rule(
    "items with a comma",
    rf"(?:^|(?<=[\s。；！？]))([0-9]{{1,2}})、\s?(?=[{HAN}“《A-Za-z])",
    _item,
    (("1、苹果 2、香蕉", "一，苹果。二，香蕉"),),
    (DIGITS, "、"),
  ),
)

POWERS = (
  Rule(
    "scientific",
    rf"{APART}([-+]?{N})[eE]([-+]?[0-9]{{1,3}})(?![0-9A-Za-z.])",
    _scientific,
    (("1e-5", "一乘以十的负五次方"),),
    (DIGITS, "eE"),
  ),
  Rule(
    "root",
    r"([√∛∜])\s?(?=[0-9A-Za-z(（])",
    lambda m: {"√": "根号", "∛": "三次根号", "∜": "四次根号"}[m[1]],
    (("√16", "根号十六"),),
    ("√∛∜",),
  ),
  Rule(
    "ion",
    r"(?<=[A-Za-z₀-₉])([²³⁴-⁹]?)([⁺⁻])(?![⁰¹²³⁴-⁹])",
    lambda m: (quantity(plain_script(m[1])) if m[1] else "") + ("正" if m[2] == "⁺" else "负"),
    (("Na⁺", "Na正"),),
    ("⁺⁻",),
  ),
  Rule(
    "power in signs",
    rf"(?<=[0-9A-Za-z)）\]α-ω]){SUPERSCRIPT}",
    _power,
    (("10⁵", "十的五次方"), ("x²", "x平方"), ("10⁻³", "十的负三次方")),
    ("⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ",),
  ),
  Rule(
    "subscript",
    rf"(?<=[A-Za-zα-ω)])(?:{SUBSCRIPT})",
    _script,
    (("H₂O", "H二O"), ("CO₂排放", "CO二排放")),
    ("₀₁₂₃₄₅₆₇₈₉ₙ",),
  ),
  Rule(
    "power with a hat",
    r"(?<=[0-9A-Za-z)）])\^(?:\{([^{}]{1,20})\}|([-+]?[0-9]{1,9}|[A-Za-z]))",
    lambda m: power_words(m[1] or m[2]),
    (("10^3", "十的三次方"), ("x^2", "x的平方")),
    ("^",),
  ),
  Rule("circled numbers", CIRCLED, lambda m: circled(m, quantity, ""), (("①②③", "一，二，三"),), (CIRCLES,)),
)

COMPARED = (
  Rule(
    "sign before anything read",
    r"(?<![0-9A-Za-zα-ω)）%°²³\]])(<=|>=|[<>≤≥≈~±])\s?(?=[-+]?[$€£¥]?[0-9])",
    _sign_before,
    (
      ("约~20人", "约二十人"),
      ("小于<10个", "小于十个"),
      ("误差<5%", "误差小于百分之五"),
      ("价格>¥100", "价格大于一百元"),
      ("占比≥60%", "占比大于等于百分之六十"),
      ("体积≤100ml", "体积小于等于一百毫升"),
      ("误差±0.5mm", "误差正负零点五毫米"),
    ),
    ("<>≤≥≈~±",),
  ),
  Rule("menu", rf"(?<=[{HAN}])\s>\s(?=[{HAN}])", lambda m: COMMA, (("设置 > 隐私", "设置，隐私"),), (">",)),
  Rule(
    "comparison",
    rf"(?<=[0-9A-Za-zα-ω²³%)）{HAN}])\s?(==|!=|>=|<=|[=≠≈≥≤<>≡∈⊂∪∩∝])\s?(?=[-0-9A-Za-z(（{HAN}√$¥])(?<![=-]>)(?<!<-)",
    lambda m: _COMPARED[m[1]],
    (("1+1>1", "一加一大于一"), ("a >= b", "a大于等于b"), ("x=5", "x等于五")),
    ("=≠≈≥≤<>≡∈⊂∪∩∝",),
  ),
)

SUMS = (
  Rule("plus or minus in signs", r"\+/-", lambda m: "±", (("5+/-1", "五加减一"),), ("+", "-")),
  Rule(
    "sum",
    rf"{APART}{N}(?:\s?[-+×*÷/]\s?{N}){{1,9}}\s?=(?:\s?{N})?",
    _sum,
    (("3×4=12", "三乘以四等于十二"), ("6/2=3", "六除以二等于三")),
    (DIGITS, "="),
  ),
)

JOINED = (
  Rule("size", r"(?<=[0-9])\s?[xX](?=\s?[0-9])", lambda m: "乘", (("16X16", "十六乘十六"),), (DIGITS, "xX")),
  Rule(
    "operator",
    rf"(?<=[0-9A-Za-z)）²³{HAN}])\s?([×÷±])\s?(?=[0-9A-Za-z(（{HAN}])|(?<=[0-9a-z)）²³])\s?(\*)\s?(?=[0-9a-z(（])",
    lambda m: _OPERATORS[m[1] or m[2]],
    (("5×3", "五乘以三"), ("50cm×30cm", "五十厘米乘以三十厘米")),
    ("×*÷±",),
  ),
  Rule(
    "times", r"(?<=[0-9])\s?[xX×](?![A-Za-z0-9]|\s?[-+=^²³)])", lambda m: "倍", (("快3x", "快三倍"),), (DIGITS, "xX×")
  ),
  Rule(
    "plus",
    r"(?<=[0-9A-Za-z²³)）方])\s?\+\s?(?=[0-9A-Za-z(（])",
    lambda m: "加",
    (("T+1", "T加一"), ("a + b", "a加b")),
    ("+",),
  ),
  Rule("divided by", r"(?<=[0-9)）])\s/\s(?=[0-9(（])", lambda m: "除以", (("50 / 2", "五十除以二"),), ("/",)),
  Rule("minus", r"(?<=[a-z²³)）])\s-\s(?=[0-9a-z(（])", lambda m: "减", (("x - 3", "x减三"),), ("-",)),
  Rule(
    "plus signs",
    r"(?<=[A-Za-z])(\+\+|#)(?![A-Za-z0-9])|(?<![A-Za-z][A-F])(?<=[A-F])\+(?![0-9A-Za-z])",
    lambda m: {"++": "加加", "#": "井"}.get(m.group(), "加"),
    (("C++语言", "C加加语言"), ("C#", "C井"), ("A+级", "A加级")),
    ("+#",),
  ),
)

WORDS = (
  Rule(
    "volume",
    r"(?<![A-Za-z])(Vol|Fig|Ch|pp?|Eq|Sec|Tab)\.\s?(?=[0-9])",
    lambda m: m[1],
    (("见Fig.3", "见Fig三"),),
    (DIGITS, "."),
  ),
  Rule(
    "number sign",
    r"(?:№|(?<![A-Za-z])(?:[Nn]o|NO)\.)\s?(?=[0-9])",
    lambda m: "第",
    (("No.1", "第一"), ("NO.1", "第一")),
    (DIGITS,),
  ),
  Rule(
    "king",
    r"(?<=[亨路查伊约保爱威乔理利尔德易莎翰罗廉治森历二])([IVX]{1,5})(?![A-Za-z0-9])(?=世|，|。|$|[\u4e00-\u9fff])"
    r"(?<!第[IVX])",
    lambda m: (
      _king(m)
      if re.search(
        r"(?:亨利|路易|查理|伊丽莎白|约翰|保罗|爱德华|威廉|乔治|理查|拿破仑|彼得|尼古拉|亚历山大|腓力|腓特烈)$",
        before(m),
      )
      else _roman(m)
      if len(m[1]) > 1
      else m.group()
    ),
    (("亨利VIII", "亨利八世"),),
    ("IVX",),
  ),
  Rule(
    "roman numeral",
    rf"(?<=[{HAN}])([IVX]{{2,5}})(?![A-Za-z0-9])|(?<=第)([IVX])(?=[章节部卷条])",
    lambda m: _roman(m) if m[1] else quantity(str(_VALUES[m[2]])),
    (("最终幻想VII", "最终幻想七"), ("第IV章", "第四章")),
    ("IVX",),
  ),
  Rule(
    "roman type",
    r"(?<![A-Za-z0-9])([IVX]{1,5})(?=[型期级类度区](?!别))",
    _roman,
    (("II型糖尿病", "二型糖尿病"), ("III期临床", "三期临床")),
    ("IVX",),
  ),
)

LAST = (
  Rule("degree sign", "°", lambda m: "度", (("sin30°", "sin三十度"),), ("°",)),
  Rule(
    "function", r"(?<=[A-Za-z0-9])\((?=[A-Za-z0-9])", lambda m: " ", (("复杂度O(n)较低", "复杂度O n，较低"),), ("(",)
  ),
  Rule(
    "brackets",
    rf"(?<![A-Za-z0-9])[(（【〔［\[](?=\S)|(?<=[{HAN}，。！？；：、A-Za-z0-9])[（【〔［](?=\S)|(?<=[{HAN}”’」』》）)])"
    rf"[(\[]|(?<=\S)[)）】〕］\]]",
    lambda m: COMMA,
    (("你好（笑）", "你好，笑"), ("他（她）说", "他，她，说"), ("【李四】来了", "李四，来了")),
    ("(（【〔［[)）】〕］]",),
  ),
  Rule("bracket left over", r"[(（【〔［\[]", lambda m: "", (('print("好")', 'print"好"'),), ("(（【〔［[",)),
  Rule("squared", "²", lambda m: "平方", (("的²", "的平方"),), ("²",)),
  Rule("cubed", "³", lambda m: "立方", (("的³", "的立方"),), ("³",)),
  Rule("and", r"\s?&\s?", lambda m: "和", (("A&B", "A和B"),), ("&",)),
  Rule("hash", r"#", lambda m: "", (("#话题#很热", "话题很热"),), ("#",)),
  Rule(
    "arrow", r"\s?(?:[→⇒⟶➜➔►▶←]|->|-->|=>|==>|<-)\s?", lambda m: COMMA, (("北京→上海", "北京，上海"),), ("→⇒⟶➜➔►▶←<>",)
  ),
  Rule(
    "dash between words",
    rf"(?<=[{HAN}])[-–](?=[{HAN}])| -{{1,3}} |—+|(?<=\S)－+",
    lambda m: COMMA,
    (("张三——走了", "张三，走了"), ("走了 - 真的", "走了，真的")),
    ("-–—",),
  ),
  Rule(
    "letters from to",
    r"(?<![A-Za-z-])([Aa])[-–]([D-Zd-z])(?![A-Za-z-])",
    lambda m: f"{m[1]}到{m[2]}",
    (("A-Z", "A到Z"),),
    ("-–",),
  ),
  Rule(
    "slash",
    rf"(?<=[A-Za-z])/(?=[A-Za-z])|(?<=[{HAN}])\s?/\s?(?=[{HAN}])",
    lambda m: " " if before(m, 1).isascii() else COMMA,
    (("A/B测试", "A B测试"), ("男/女", "男，女")),
    ("/",),
  ),
  Rule(
    "Greek letter",
    rf"(?<![α-ωΑ-Ω])([{''.join(_GREEK)}])(?![α-ωΑ-Ωά-ώ])",
    lambda m: _GREEK[m[1]],
    (("α射线", "阿尔法射线"), ("2π", "二派")),
    ("".join(_GREEK),),
  ),
  Rule("symbol", f"[{''.join(_ALONE)}]", lambda m: _ALONE[m.group()], (("趋于∞", "趋于无穷大"),), ("".join(_ALONE),)),
  Rule("tilde", r"~+", lambda m: "", (("好的~", "好的"),), ("~",)),
)
