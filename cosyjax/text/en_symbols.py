"""Signs of arithmetic, powers, formulas and what is left of symbols, in English."""

import re

from cosyjax.text.en_numbers import quantity, signed
from cosyjax.text.rules import COMMA, DIGITS, N, Rule, before
from cosyjax.text.symbols import CIRCLED, CIRCLES, SUBSCRIPT, SUPERSCRIPT, circled, plain_script

_JOINED = {
  "==": "equals", "===": "equals", "=": "equals", "!=": "is not equal to", "≠": "is not equal to",
  ">": "is greater than",
  "<": "is less than", ">=": "is greater than or equal to", "≥": "is greater than or equal to", "=>": "implies",
  "<=": "is less than or equal to", "≤": "is less than or equal to", "≈": "is about", "~=": "is about",
  "≡": "is equivalent to",
  "+": "plus", "×": "times", "*": "times", "·": "times", "÷": "divided by", "±": "plus or minus",
  "∝": "is proportional to",
  "∈": "is in", "⊂": "is a subset of", "∪": "union", "∩": "intersection",
}  # fmt: skip
_BEFORE = {"<": "less than", ">": "more than", "≥": "greater than or equal to", ">=": "greater than or equal to",
           "≤": "less than or equal to", "<=": "less than or equal to", "≈": "about", "~": "about",
           "±": "plus or minus"}  # fmt: skip
_ABOUT = re.compile(r"(?:about|approximately|around|roughly|approx\.)\s$")
_GREEK = {
  "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
  "λ": "lambda",
  "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "χ": "chi", "ψ": "psi",
  "ω": "omega", "Δ": "delta", "Σ": "sigma", "Ω": "omega", "Γ": "gamma", "Θ": "theta", "Λ": "lambda", "Π": "pi",
  "Φ": "phi",
  "Ψ": "psi",
}  # fmt: skip
_ALONE = {
  "∞": "infinity", "∑": "sum of", "∏": "product of", "∫": "integral of", "∂": "partial", "∇": "nabla", "∴": "therefore",
  "∵": "because", "∀": "for all", "∃": "there exists", "§": "section", "¶": "paragraph", "†": "", "‡": "",
  "©": "copyright",
  "®": "", "™": "",
}  # fmt: skip


def _power(m: re.Match) -> str:
  """² and ³ are squared and cubed, all else is a power; ° as an o is none."""
  return power_words(
    plain_script(m.group().replace("^", "").strip("{}()")), ten=m.string[: m.start()].rstrip().endswith("0")
  )


def power_words(power: str, ten: bool = False) -> str:
  """Words behind a base."""
  if power in ("2", "3") and not ten:
    return " squared" if power == "2" else " cubed"
  spoken = signed(power) if re.fullmatch(rf"[-+]?{N}", power) else power.replace("-", "minus ").replace("+", " plus ")
  return f" to the power of {spoken}"


def _root(m: re.Match) -> str:
  return {"√": "square root of ", "∛": "cube root of ", "∜": "fourth root of "}[m[1]]


def _formula(m: re.Match) -> str:
  """H₂SO₄ -> H two S O four: letter by letter, elements of two letters whole."""
  parts = re.findall(r"[A-Z][a-z]?|[a-z]|[()\[\]]|[₀-₉]+|[0-9]+|[₊₋⁺⁻]", m.group())
  spoken = [
    quantity(plain_script(p)) if plain_script(p).isdigit() else {"⁺": "plus", "⁻": "minus"}.get(p, p)
    for p in parts
    if p not in "()[]"
  ]
  return " ".join(spoken)


def _scientific(m: re.Match) -> str:
  return f"{signed(m[1])} times ten to the power of {signed(m[2].lstrip('+'))}"


def _factor(m: re.Match) -> str:
  return f"{quantity(m[1])} by {quantity(m[2])}" + (f" by {quantity(m[3])}" if m[3] else "")


def _slashed(m: re.Match) -> str:
  pair = m.group().lower()
  if pair == "and/or":
    return "and or"
  return f"{m[1]} or {m[2]}" if pair in _CHOICES else f"{m[1]} {m[2]}"


_CHOICES = frozenset(
  [
    "he/she",
    "she/he",
    "his/her",
    "her/his",
    "him/her",
    "her/him",
    "yes/no",
    "true/false",
    "pass/fail",
    "on/off",
    "win/lose",
  ]
)

POWERS = (
  Rule(
    "scientific",
    rf"(?<![0-9A-Za-z.])([-+]?{N})[eE]([-+]?[0-9]{{1,3}})(?![0-9A-Za-z.])",
    _scientific,
    (("1e-5", "one times ten to the power of minus five"),),
    (DIGITS, "eE"),
  ),
  Rule(
    "root",
    r"([√∛∜])\s?(?=[0-9A-Za-z(])",
    _root,
    (("√16", "square root of sixteen"), ("∛27", "cube root of twenty-seven")),
    ("√∛∜",),
  ),
  Rule(
    "formula",
    r"(?<![A-Za-z0-9])(?=[A-Za-z0-9()]{1,20}[₀-₉])[0-9]?(?:[A-Z][a-z]?[₀-₉]{0,3}|\((?:[A-Z][a-z]?[₀-₉]{0,3}){1,6}\)"
    r"[₀-₉]{1,3}){1,15}(?![A-Za-z])",
    _formula,
    (("H₂SO₄", "H two S O four"), ("CO₂", "C O two"), ("NaHCO₃", "Na H C O three")),
    ("₀₁₂₃₄₅₆₇₈₉",),
  ),
  Rule(
    "ion",
    r"(?<=[A-Za-z₀-₉])([²³⁴-⁹]?)([⁺⁻])(?![⁰¹²³⁴-⁹])",
    lambda m: (f" {quantity(plain_script(m[1]))}" if m[1] else "") + (" plus" if m[2] == "⁺" else " minus"),
    (("Ca²⁺", "Ca two plus"),),
    ("⁺⁻",),
  ),
  Rule(
    "power in signs",
    rf"(?<=[0-9A-Za-z)\]α-ωπ]){SUPERSCRIPT}",
    _power,
    (("10⁵", "ten to the power of five"), ("x²", "x squared"), ("10⁻³", "ten to the power of minus three")),
    ("⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ",),
  ),
  Rule(
    "subscript",
    rf"(?<=[A-Za-zα-ω])({SUBSCRIPT})",
    lambda m: f" {quantity(plain_script(m[1])) if plain_script(m[1]).isdigit() else plain_script(m[1])}",
    (("x₁", "x one"),),
    ("₀₁₂₃₄₅₆₇₈₉ₙ",),
  ),
  Rule(
    "power with a hat",
    r"(?<=[0-9A-Za-z)\]])\s?\^\s?(?:\{([^{}]{1,20})\}|\(([^()]{1,20})\)|([-+]?[0-9A-Za-z]{1,9}))",
    lambda m: power_words(m[1] or m[2] or m[3], ten=m.string[: m.start()].endswith("0")),
    (("2^10", "two to the power of ten"), ("x^2", "x squared"), ("10^-5", "ten to the power of minus five")),
    ("^",),
  ),
  Rule(
    "circled numbers",
    CIRCLED,
    lambda m: circled(m, quantity, " "),
    (("①②③", "one, two, three"), ("① Go ② Stop", "one, Go, two, Stop")),
    (CIRCLES,),
  ),
)

SUMS = (
  Rule("plus or minus in signs", r"\+/-", lambda m: "±", (("5 +/- 1", "five plus or minus one"),), ("+", "-")),
  Rule(
    "difference",
    r"(?<=[0-9)])\s?-\s?(?=[0-9.]{1,15}\s?=)",
    lambda m: " minus ",
    (("5-2=3", "five minus two equals three"),),
    ("-", "="),
  ),
)

COMPARED = (
  Rule(
    "sign before anything read",
    r"(?<![0-9A-Za-zα-ω)\]°%²³=-])(?:(<=|>=|[<>≤≥≈~])|(?<![0-9A-Za-zα-ω)\]°%²³]\s)(<=|>=|[<>≤≥≈~])\s)(?=(?:[$€£¥]\s?)"
    r"?[-+]?\.?[0-9])",
    lambda m: "" if m.group()[0] in "~≈" and _ABOUT.search(before(m)) else f"{_BEFORE[m[1] or m[2]]} ",
    (
      ("<$5", "less than five dollars"),
      (">10 kg", "more than ten kilograms"),
      ("≥ 18", "greater than or equal to eighteen"),
    ),
    ("<>≤≥≈~",),
  ),
  Rule(
    "menu",
    r"(?<=[A-Za-z])\s>\s(?=[A-Z][a-z])",
    lambda m: f"{COMMA} ",
    (("Go to Settings > Privacy", "Go to Settings, Privacy"),),
    (">",),
  ),
  Rule(
    "comparison",
    r"(?<=[0-9A-Za-zα-ωΑ-Ω²³)%])\s?(===?|!=|>=|<=|~=|[≠≈≥≤≡∝∈⊂∪∩]|(?<=\s)[<>=]|(?<=[0-9A-Za-z)²³])[=](?!>)|(?<=[0-9)])"
    r"[<>](?=[0-9 ])|(?<=[A-Za-z])[<>](?=[0-9]))\s?(?=[-+0-9A-Za-z(\[√π$]|\.[0-9])",
    lambda m: f" {_JOINED[m[1]]} ",
    (
      ("a >= b", "a is greater than or equal to b"),
      ("x = y", "x equals y"),
      ("5 > 3", "five is greater than three"),
      ("a != b", "a is not equal to b"),
    ),
    ("=<>≠≈≥≤≡∝∈⊂∪∩",),
  ),
)

JOINED = (
  Rule(
    "times",
    r"(?<=[0-9])\s?[xX×](?![A-Za-z0-9]|\s?[-+=^²³)])",
    lambda m: " x" if re.search("equal|than|plus|minus", m.string[: m.start()]) else " times",
    (("3x faster", "three times faster"),),
    (DIGITS, "xX×"),
  ),
  Rule(
    "operator",
    r"(?<=[0-9A-Za-z²³)%])\s?(?:([×÷±·∪∩])|(?<=[0-9A-Za-z)] )(\*)(?= )|(?<=[0-9)])(\*)(?=[0-9(]))\s?(?=[-0-9A-Za-z(√])",
    lambda m: f" {_JOINED[m[1] or m[2] or m[3]]} ",
    (("2 * 3", "two times three"), ("5×y", "five times y")),
    ("×÷±·∪∩*",),
  ),
  Rule(
    "divided by", r"(?<=[0-9)])\s/\s(?=[0-9(])", lambda m: " divided by ", (("50 / 2", "fifty divided by two"),), ("/",)
  ),
  Rule(
    "plus",
    r"(?<=[0-9A-Za-z²³)])(?:\s\+\s|\+(?=[0-9A-Za-z(])|\s\+(?=[0-9]))(?=[0-9A-Za-z(])",
    lambda m: " plus ",
    (("x + y", "x plus y"), ("2+3", "two plus three")),
    ("+",),
  ),
  Rule(
    "minus",
    r"(?<=[0-9)])\s-\s(?=[a-z(])|(?<=[a-z)])(?<![a-z][a-z])\s-\s(?=[0-9a-z(])|(?<=squared)\s-\s|(?<=cubed)\s-\s",
    lambda m: " minus ",
    (("x² - 4", "x squared minus four"), ("10 - x", "ten minus x"), ("x - y", "x minus y")),
    ("-",),
  ),
  Rule(
    "ratio",
    r"(?<![0-9:.])([0-9]{1,9}):([0-9]{1,9})(?::([0-9]{1,9}))?(?![0-9:])",
    lambda m: " to ".join(quantity(n) for n in m.groups() if n),
    (("3:1", "three to one"), ("a 1:2:3 mix", "a one to two to three mix")),
    (DIGITS, ":"),
  ),
  Rule(
    "language names",
    r"(?<![A-Za-z])([CF])(#|\+\+)(?![A-Za-z0-9])",
    lambda m: f"{m[1]} " + ("sharp" if m[2] == "#" else "plus plus"),
    (("C++ and C#", "C plus plus and C sharp"),),
    ("#+",),
  ),
  Rule(
    "grade",
    r"(?<![A-Za-z])([A-F])([+-])(?=[\s,.;!?)]|$)",
    lambda m: f"{m[1]} " + ("plus" if m[2] == "+" else "minus"),
    (("got an A+ today", "got an A plus today"),),
    ("+-", "ABCDF"),
  ),
)

LAST = (
  Rule("degree sign", "°", lambda m: " degrees ", (("sin30°", "sin thirty degrees"),), ("°",)),
  Rule("hashtag", r"(?<![A-Za-z0-9&])#(?=[A-Za-z])", lambda m: "hashtag ", (("use #fun", "use hashtag fun"),), ("#",)),
  Rule("at", r"(?<=\s)@(?=\s)|^@(?=\s)", lambda m: "at", (("lunch @ noon", "lunch at noon"),), ("@",)),
  Rule(
    "and",
    r"(?:(?<=[A-Za-z0-9.,])\s?|(?<=[A-Za-z0-9.,]\s))&\s?(?=[A-Za-z0-9])",
    lambda m: " and ",
    (("AT&T", "AT and T"), ("R & D", "R and D")),
    ("&",),
  ),
  Rule(
    "slash between words",
    r"(?<![A-Za-z/.])([A-Za-z]{1,20})\s?/\s?([A-Za-z]{1,20})(?![A-Za-z/])",
    _slashed,
    (("he/she", "he or she"), ("and/or", "and or"), ("TCP/IP", "TCP IP")),
    ("/",),
  ),
  Rule(
    "letters from to",
    r"(?<![A-Za-z-])([Aa])[-–]([D-Zd-z])(?![A-Za-z-])",
    lambda m: f"{m[1]} to {m[2]}",
    (("from A-Z", "from A to Z"),),
    ("-–",),
  ),
  Rule(
    "arrow",
    r"\s?(?:[→⇒⟶➜➔►▶]|->|-->|=>|==>|←|<-)\s?",
    lambda m: f"{COMMA} ",
    (("A → B", "A, B"), ("a -> b", "a, b")),
    ("→⇒⟶➜➔►▶>←<",),
  ),
  Rule(
    "Greek letter",
    rf"(?<![α-ωΑ-Ω])([{''.join(_GREEK)}])(?![α-ωΑ-Ωά-ώ])",
    lambda m: f" {_GREEK[m[1]]} ",
    (("α = 0.05", "alpha equals zero point zero five"), ("2π", "two pi")),
    ("".join(_GREEK),),
  ),
  Rule(
    "symbol",
    f"[{''.join(_ALONE)}]",
    lambda m: f" {_ALONE[m.group()]} ".replace("  ", " "),
    (("to ∞", "to infinity"), ("© Acme", "copyright Acme")),
    ("".join(_ALONE),),
  ),
  Rule("squared", "²", lambda m: " squared", (("it is ²", "it is squared"),), ("²",)),
  Rule("cubed", "³", lambda m: " cubed", (("it is ³", "it is cubed"),), ("³",)),
  Rule("equals alone", r"(?<=[A-Za-z0-9])\s=\s", lambda m: " equals ", (("x = ?", "x equals?"),), ("=",)),
)


def _times(m: re.Match) -> str:
  """ "16x16" is a size; with blanks around the sign it is a product, unless a unit or a grid follows."""
  behind = m.string[m.end() :]
  is_power = re.match(r"-?[0-9.]+\s?(?:\^|[⁰¹²³⁴-⁹⁻])", behind)
  is_size = re.match(
    r"[0-9.]+\s?(?:(?:[cmkd]?m|in|ft|inch(?:es)?|feet|px|pixels|grid|matrix|table|array|board|square)(?![A-Za-z])|\")",
    behind,
  )
  first = re.search(r"[0-9.]+$", before(m))
  is_product = m.group()[0] == " " or ("×" in m.group() and len(first.group()) < 2)
  return " times " if is_power or (is_product and not is_size) else " by "


SIZES = (
  Rule(
    "by",
    r"(?<=[0-9])(?:[xX×]|\s[xX×]\s)(?=-?[0-9])",
    _times,
    (
      ("16X16", "sixteen by sixteen"),
      ("3 x 4", "three times four"),
      ("10x10 cm", "ten by ten centimeters"),
      ("1.6×10⁻¹⁹", "one point six times ten to the power of minus nineteen"),
      ("1920x1080", "one thousand nine hundred and twenty by one thousand and eighty"),
    ),
    (DIGITS, "xX×"),
  ),
  Rule(
    "sizes with units",
    rf"({N}\s?(?:cm|mm|m|in|ft|km)\s?)[x×](?=\s?{N})",
    lambda m: m[1] + " by ",
    (("5 cm x 3 cm", "five centimeters by three centimeters"),),
    (DIGITS, "x×"),
  ),
)
