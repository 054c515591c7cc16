"""What chat models write around words: Markdown, HTML and LaTeX. Nothing of it is spoken.

`begin_line` takes off what a line begins with; the rules take off what stands within a line.
"""

import re

from cosyjax.text.rules import COMMA, STOP, Reader, Rule

_FENCE = re.compile(r"(?:`{3,}|~{3,})[\w+#.-]{0,20}(?:\s|$)")
_LINE_OF_SIGNS = re.compile(r"(?:[-*_=~]\s?){3,}$|\|?[\s:|-]*-{2,}[\s:|-]*\|?$")
_QUOTE = re.compile(r"(?:>\s?){0,8}>(?:\s|(?=[A-Za-z\u4e00-\u9fff\"“'*>_`[#]|$))|&gt;\s")
_HEADING = re.compile(r"#{1,6}\s+")
_BULLET = re.compile(r"[-*+•◦▪‣●○■□◆◇–·∙]\s+(?:\[[ xX]\]\s+)?|[•◦▪‣●○■□◆◇]\s?")
_NUMBER = re.compile(
  r"\**(?:(\d{1,3})\.|[(（]?(\d{1,2})[)）])(?:\**(?:\s+|$)|\**(?=[^\d\s.,)（(%\x00-\x40]))|(\d{1,2})、\s?(?=\D)"
)
_LETTER = re.compile(r"([a-hA-H])\)(?:\s+|$)")


def begin_line(text: str) -> tuple[str, bool]:
  """A line's beginning without its mark-up, and whether the line is an item, a heading or a row.

  A number of a list stays, with a pause behind it.
  """
  text = text.lstrip()
  if text[:1].isalpha() and text[1:2] != ")":
    return text, False
  if _FENCE.match(text):
    return _FENCE.sub("", text, count=1), False
  if _LINE_OF_SIGNS.fullmatch(text.rstrip()):
    return "", False
  is_item = False
  if m := _QUOTE.match(text):
    text = text[m.end() :]
  if m := _HEADING.match(text) or _BULLET.match(text):
    text, is_item = text[m.end() :], True
  if m := _NUMBER.match(text):
    return f"{'**' if m.group().startswith('**') else ''}{m[1] or m[2] or m[3]}{COMMA} {text[m.end() :]}", True
  if m := _LETTER.match(text):
    return f"{m[1]}{COMMA} {text[m.end() :]}", True
  if text.startswith("|"):
    return text[1:], True
  return text, is_item


_ENTITIES = {
  "amp": "&",
  "lt": "<",
  "gt": ">",
  "nbsp": " ",
  "quot": '"',
  "apos": "'",
  "#39": "'",
  "ndash": "–",
  "mdash": "—",
  "hellip": "…",
}
_BREAKS = "br|p|div|li|ul|ol|tr|td|th|table|h[1-6]|hr|blockquote|section|article|details|summary"
_NOTHING = "b|i|u|s|em|a|span|code|pre|kbd|sub|sup|img|font|small|big|mark|del|ins|q|cite|strong|thead|tbody"
_MATHS = {
  "times": "×", "cdot": "×", "div": "÷", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠",
  "neq": "≠", "approx": "≈", "infty": "∞",
  "sum": "∑", "int": "∫", "prod": "∏", "partial": "∂", "to": "→", "rightarrow": "→", "Rightarrow": "→", "alpha": "α",
  "beta": "β", "gamma": "γ",
  "delta": "δ", "Delta": "Δ", "epsilon": "ε", "theta": "θ", "lambda": "λ", "mu": "μ", "pi": "π", "rho": "ρ",
  "sigma": "σ", "Sigma": "Σ", "tau": "τ",
  "phi": "φ", "omega": "ω", "Omega": "Ω", "in": "∈", "cup": "∪", "cap": "∩", "circ": "°", "ldots": "…", "cdots": "…",
  "quad": " ", "left": "", "right": "",
  "equiv": "≡", "sin": "sin ", "cos": "cos ", "tan": "tan ", "log": "log ", "ln": "ln ", "lim": "lim ", "implies": "→",
}  # fmt: skip


def _html(m: re.Match) -> str:
  name = m[1].lower()
  return STOP if re.fullmatch(_BREAKS, name) and name not in ("td", "th") else COMMA if name in ("td", "th") else ""


def _inline_math(m: re.Match) -> str:
  inside = m[1] or m[2]
  is_math = re.search(r"[\\^_={}+<>]|^[A-Za-z]$|^[A-Za-z0-9]+[-*/()][A-Za-z0-9]|^[a-z]\([a-z]\)$", inside) is not None
  return inside.strip() if is_math else m.group()


def _rules(over: str) -> tuple[Rule, ...]:
  """`over`: what stands between the two of a fraction of letters; {0} and {1} are they."""

  def fraction(m: re.Match) -> str:
    if m[1].isdigit() and m[2].isdigit():
      return f" {m[1]}/{m[2]} "
    return over.format(m[1], m[2])

  return (
    Rule(
      "link",
      r"!?\[([^\[\]\n]{0,200})\]\(\s?[^()\s]{0,400}(?:\([^()\s]{0,100}\)[^()\s]{0,100})"
      r"?(?:\s[\"'“][^\"\n]{0,100}[\"'”])?\s?\)",
      lambda m: m[1],
      (("see [the docs](https://example.com/a)", "see the docs"), ("![a cat](cat.png)", "a cat")),
      ("[", "("),
    ),
    Rule(
      "footnote",
      r"\[\^[^\]\s]{1,20}\]:?|(?:(?<=[.,;:!?。，！？；”\u4e00-\u9fff])|(?<=[a-z]{3}))"
      r"(?:\s?\[[0-9]{1,3}(?:[,，-]\s?[0-9]{1,3}){0,9}\]){1,5}(?![(\[\w=])"
      r"|【[0-9]+†[^】]{0,40}】",
      lambda m: "",
      (("true.[1] Next", "true. Next"), ("so[^2] it is", "so it is")),
      ("[【",),
    ),
    Rule(
      "reference",
      r"\[([^\[\]\n]{1,200})\]\[[^\[\]\n]{0,40}\]",
      lambda m: m[1],
      (("see [docs][1]", "see docs"),),
      ("[",),
    ),
    Rule(
      "address in angles",
      r"<(https?://[^<>\s]{1,300}|mailto:[^<>\s]{1,99}|[^<>\s@]{1,64}@[^<>\s@]{1,64})>",
      lambda m: m[1].removeprefix("mailto:"),
      (("<me@x.com>", "me at x dot com"),),
      ("<",),
    ),
    Rule(
      "HTML",
      rf"</?({_BREAKS}|{_NOTHING})(?:\s[^<>\n]{{0,200}})?\s?/?>|<!--[^\n]{{0,200}}?-->()",
      lambda m: _html(m) if m[1] else "",
      (("a<br>b", "a. b"), ("H<sub>2</sub>O", "H two O")),
      ("<",),
    ),
    Rule("entity", rf"&({'|'.join(_ENTITIES)});", lambda m: _ENTITIES[m[1]], (("R&amp;D", "R and D"),), ("&", ";")),
    Rule(
      "mathematics",
      r"\$\$([^$\n]{1,200})\$\$|(?<![A-Za-z0-9$])\$(?=[^\s$])([^$\n]{1,120})(?<=[^\s])\$(?![0-9A-Za-z$])",
      _inline_math,
      (("$x^2$", "x squared"),),
      ("$",),
    ),
    Rule(
      "fraction",
      r"\\[dt]?frac\s?\{([^{}]{1,60})\}\s?\{([^{}]{1,60})\}",
      fraction,
      (("\\frac{1}{2}", "one half"), ("\\frac{a}{b}", "a over b")),
      ("\\",),
    ),
    Rule(
      "root",
      r"\\sqrt(?:\[3\](?=\{))?\s?\{([^{}]{1,60})\}",
      lambda m: ("∛" if "[3]" in m.group() else "√") + m[1],
      (("\\sqrt{16}", "square root of sixteen"),),
      ("\\",),
    ),
    Rule(
      "text in mathematics",
      r"\\(?:text|mathrm|mathbf|mathit|mathbb|boxed|operatorname|vec|hat|bar|textbf)\s?\{([^{}]{0,80})\}",
      lambda m: m[1],
      (("\\text{if}", "if"),),
      ("\\",),
    ),
    Rule(
      "command",
      rf"\\({'|'.join(sorted(_MATHS, key=len, reverse=True))})(?![A-Za-z])\s?",
      lambda m: _MATHS[m[1]],
      (("a \\times b", "a times b"), ("x \\leq y", "x is less than or equal to y")),
      ("\\",),
    ),
    Rule(
      "brackets of mathematics", r"\\[()\[\],;!:]|\\\\", lambda m: " ", (("\\(x = 5\\)", "x equals five"),), ("\\",)
    ),
    Rule(
      "index",
      r"(?<=[A-Za-z])_\{([^{}]{1,12})\}|(?<![A-Za-z0-9_])(?<=[a-zA-Z])_([0-9a-z])(?![A-Za-z0-9_])|(?<=\b[a-zA-Z])"
      r"_([0-9a-z])(?![A-Za-z0-9_@.])",
      lambda m: f" {m[1] or m[2] or m[3]}",
      (("x_{1}", "x one"), ("a_2", "a two")),
      ("_",),
    ),
    Rule(
      "escape",
      r"\\([*_#`~$|>{}%&])",
      lambda m: "" if m[1] in "*_#`~|" else m[1],
      (("\\*not bold\\*", "not bold"),),
      ("\\",),
    ),
    Rule(
      "strong",
      r"(?<![0-9a-zA-Z)])\*{2,3}(?!\s)|(?<=[^\s*])\*{2,3}(?![0-9a-zA-Z(*])|(?<=[^\s*])\*\*\*?(?=[A-Za-z])",
      lambda m: "",
      (("**Note:** ok", "Note: ok"), ("***both***", "both")),
      ("*",),
    ),
    Rule(
      "emphasis",
      r"(?<![0-9A-Za-z*)])\*(?=[^\s*0-9])|(?<=[^\s*])\*(?![0-9A-Za-z*(])",
      lambda m: "",
      (("and *really* good", "and really good"),),
      ("*",),
    ),
    Rule("struck", r"~~|(?<![\w=])==(?=\w)|(?<=\w)==(?![\w=\s])", lambda m: "", (("~~old~~ new", "old new"),), ("~=",)),
    Rule("blank to fill", r"_{3,}", lambda m: COMMA, (("a ____ b", "a, b"),), ("_",)),
    Rule(
      "underlined",
      r"(?<![0-9A-Za-z_/.@])_{1,3}(?=[^\s_])|(?<=[^\s_])_{1,3}(?![0-9A-Za-z_@])",
      lambda m: "",
      (("__important__", "important"), ("_so_", "so")),
      ("_",),
    ),
    Rule("code", r"`{1,3}", lambda m: "", (("Use `pip install` now", "Use pip install now"),), ("`",)),
    Rule("cell", r"(?:^|\s)\|{1,2}(?=\s|$)\s?", lambda m: COMMA + " ", (("a | b", "a, b"),), ("|",)),
    Rule("end of a heading", r"(?<=\S)\s#{1,6}\s?$", lambda m: "", (), ("#",)),
    Rule(
      "face",
      r"(?<!\S)[:;]-?[)(DPp](?!\S)|(?<![\w:]):[a-z_]{3,24}:(?![\w:/])",
      lambda m: "",
      (("ok :) so", "ok so"),),
      (":;",),
    ),
  )


SIGNS = re.compile(r"[\[<&$\\*~_`|#:;!=【]")  # without one of these nothing is mark-up
READERS = {"en": Reader(_rules("{0} over {1}")), "zh": Reader(_rules("{1}分之{0}")), "other": Reader(_rules("{0}/{1}"))}
