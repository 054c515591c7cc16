"""One spelling per sign, before rules look at a text, and the signs that nobody says."""

import re
import unicodedata

_SIGNS = {ord(c): "-" for c in "\u2010\u2011\u2012\u2212\ufe63\uff0d"}
_SIGNS |= {
  ord(a): b
  for a, b in zip("∶′″‶〜～％＄￥＋／＝＆＃＠＊＜＞＂＾＿｜＼≧≦⩾⩽µ", ':\'""~~%$¥+/=&#@*<>"^_|\\≥≤≥≤μ', strict=True)
}
_LATIN = {ord(a): b for a, b in zip("‘’ʼ。、", "'''.,", strict=True)}


class _Spelling(dict):
  """What a character becomes, found out once for each."""

  def __missing__(self, code: int) -> str | None:
    self[code] = found = self.of(chr(code))
    return found

  @staticmethod
  def of(c: str) -> str | None:
    if c < "\x80":
      return c
    if (d := unicodedata.decimal(c, None)) is not None:
      return str(d)
    if "\u2160" <= c <= "\u217f":  # Roman numerals of one sign
      return str(int(unicodedata.numeric(c)))
    if "\u2150" <= c <= "\u215e" or c in "¼½¾":
      return "\ue002" + unicodedata.normalize("NFKC", c).replace("\u2044", "/")
    if "\u3371" <= c <= "\u33df":  # ㎏, ㎡
      return unicodedata.normalize("NFKC", c).replace("2", "²").replace("3", "³")
    if "\uff21" <= c <= "\uff5a" and c.isalpha():
      return chr(ord(c) - 0xFEE0)
    if "\ue000" <= c <= "\uf8ff":
      return None  # private signs; the rules use some of them
    return _SIGNS.get(ord(c), c)


class _Spoken(_Spelling):
  """A character, or nothing for emoji and other signs that nobody says, and for what modifies them."""

  @staticmethod
  def of(c: str) -> str | None:
    if c in "\ue000\ue001":
      return c  # pauses of the rules
    kind = unicodedata.category(c)
    silent = kind in ("So", "Co", "Cn", "Cs", "Me") or "\ufe00" <= c <= "\ufe0f" or "\U0001f3fb" <= c <= "\U0001f3ff"
    return None if silent else c


_SPELLING, _SPOKEN = _Spelling(), _Spoken()


def unify(text: str, language: str) -> str:
  """ASCII digits, letters and signs for their other spellings; circled numbers stay."""
  if text.isascii():
    return text
  text = text.translate(_SPELLING)
  if "\ue002" in text:  # a fraction of one sign is a part of the number before it
    text = re.sub("(?<=[0-9])\ue002", " ", text).replace("\ue002", "")
  if "．" in text or "：" in text:
    text = re.sub(r"(?<=[0-9])[．：](?=[0-9])", lambda m: unicodedata.normalize("NFKC", m.group()), text)
  if language == "en":
    text = text.translate(_LATIN)
    text = re.sub("[\uff01-\uff5e]", lambda m: unicodedata.normalize("NFKC", m[0]), text)
  return text


def drop_symbols(text: str) -> str:
  """Without emoji and other signs that nobody says, and what modifies them."""
  return text if text.isascii() else text.translate(_SPOKEN)
