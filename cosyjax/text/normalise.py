"""Text as it will be read aloud: numbers, dates, money, units and symbols turned into words.

Chinese and English have reading rules (`read_zh`, `read_en`); text in other scripts keeps its
digits and is only tidied. Any callable from text to text can take this function's place.
"""

import re
import unicodedata

from cosyjax.errors import ConfigError
from cosyjax.text import read_en, read_zh, tags
from cosyjax.text.text_tokenizer import is_han

LANGUAGES = ("zh", "en", "other")
_FULL_STOP = {"zh": "。", "en": ".", "other": "."}

_HAN = r"\u4e00-\u9fff\u3400-\u4dbf"
_WIDE = r"\u3000-\u303f\uff00-\uff65\u2018-\u201d…—" + _HAN  # a blank beside one of these separates nothing
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2212\ufe63\uff0d"), "-")
_QUOTES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'")


def detect_language(text: str) -> str:
  """ "zh" if the text holds Chinese, "other" if it is in Japanese, Korean or another script, else "en".

  Chinese with some English in it is Chinese. Chinese characters among many kana are Japanese.
  """
  han = kana = latin = foreign = 0
  for c in tags.strip(text):
    if c < "\u0250":
      latin += c.isalpha()
    elif is_han(c):
      han += 1
    elif "\u3040" <= c <= "\u30ff":
      kana += 1
    elif c.isalpha() and not "\uff00" <= c <= "\uffef":
      foreign += 1
  if kana * 4 > han:
    return "other"
  if han:
    return "zh"
  return "other" if foreign > latin else "en"


def normalise(text: str, language: str | None = None) -> str:
  """Reads out what is not a word, and tidies marks and blanks. Tags are never altered.

  Args:
    text: any text; tags of `cosyjax.text.tags` are kept as they are.
    language: "zh", "en", "other", or None to look at the text. In a Chinese text, a run of
      three English words or more is read in English.

  Returns:
    The text as it will be read, ending in a sentence mark; "" if there is nothing to read.

  Raises:
    ConfigError: no such language.
  """
  if language is not None and language not in LANGUAGES:
    raise ConfigError(f"language: expected one of {LANGUAGES} or None, found {language!r}")
  language = language or detect_language(text)
  parts, start = [], 0
  for tag in tags.PATTERN.finditer(text):
    parts += [normalise_part(text[start : tag.start()], language), tag.group()]
    start = tag.end()
  parts.append(normalise_part(text[start:], language))
  return close_text("".join(parts).strip(), language)


def normalise_part(text: str, language: str) -> str:
  """One stretch without tags."""
  if not text.strip():
    return " " * bool(text)
  before, after = text[0].isspace(), text[-1].isspace()
  text = _join_lines(_unify(text, language).strip(), language)
  spoken = _drop_symbols(_READ[language](text))
  if language == "zh":
    text = _tidy_chinese(spoken)
    before, after = before and text[:1].isascii(), after and text[-1:].isascii()
  else:
    text = re.sub(r"\s+", " ", spoken).strip()
    text = re.sub(r" (?=[,.;:!?](?:\s|$))", "", text)
  return " " * before + text + " " * after if text else " "


def _read_mixed(text: str) -> str:
  """A Chinese text: runs of English sentences in English, all else in Chinese."""
  return read_zh.read(re.sub(r"[ -~]{8,}", _read_english_run, text))


def _read_english_run(run: re.Match) -> str:
  words = re.findall(r"(?<!\S)[A-Za-z']+(?![^\s,.;:!?])", run.group())
  is_sentence = len(words) >= 3 and sum(len(word) > 1 and word.islower() for word in words) >= 2
  return read_en.read(run.group()) if is_sentence else run.group()


_READ = {"zh": _read_mixed, "en": read_en.read, "other": lambda text: text}


def _unify(text: str, language: str) -> str:
  """One spelling per sign: ASCII digits and letters, plain hyphens and blanks, unfolded ligatures of units."""
  out = []
  for c in text:
    if c < "\x80":
      out.append("\n" if c == "\r" else c)
    elif (d := unicodedata.decimal(c, None)) is not None:
      out.append(str(d))
    elif "\u2160" <= c <= "\u217f" or "\u2460" <= c <= "\u2473":  # Roman numerals and circled numbers of one sign
      out.append(str(int(unicodedata.numeric(c))))
    elif "\u2150" <= c <= "\u215e" or c in "¼½¾":
      out.append((" " if out and out[-1].isdigit() else "") + unicodedata.normalize("NFKC", c).replace("\u2044", "/"))
    elif "\u3371" <= c <= "\u33df":  # ㎏, ㎡
      out.append(unicodedata.normalize("NFKC", c).replace("2", "²").replace("3", "³"))
    elif "\uff21" <= c <= "\uff5a" and c.isalpha():
      out.append(chr(ord(c) - 0xFEE0))
    elif c in "\u2028\u2029\x85":
      out.append("\n")
    elif c.isspace():
      out.append(" ")
    else:
      out.append(c)
  text = "".join(out).translate(_DASHES)
  # Full-width signs that belong to numbers.
  text = re.sub(r"[％＄￥＋／＝＆＃＠＊＜＞～]", lambda m: unicodedata.normalize("NFKC", m.group()), text)
  text = re.sub(r"(?<=[0-9])[．：](?=[0-9])", lambda m: unicodedata.normalize("NFKC", m.group()), text)
  if language == "en":
    text = text.translate(_QUOTES)
    text = re.sub(
      r"[\uff01-\uff5e。、]", lambda m: {"。": ".", "、": ","}.get(m[0], unicodedata.normalize("NFKC", m[0])), text
    )
  return text


def _join_lines(text: str, language: str) -> str:
  """Line breaks become blanks, or marks where a line ends without one and a pause is due."""
  stop = _FULL_STOP[language]
  text = re.sub(r"[ \t\v\f]*\n[ \t\v\f]*", "\n", text)
  text = re.sub(r"(?<=\w)\n\n+", stop + "\n", text)
  if language == "zh":
    return re.sub(r"\n+", "", re.sub(r"(?<=\w)\n(?=\S)", "，", text))
  return re.sub(r"\n+", " ", text)


def _drop_symbols(text: str) -> str:
  """Emoji and other signs that nobody says, with what modifies them."""
  if text.isascii():
    return text
  return "".join(c for c in text if c.isascii() or not _silent(c))


def _silent(c: str) -> bool:
  kind = unicodedata.category(c)
  return kind in ("So", "Co", "Cn", "Cs", "Me") or "\ufe00" <= c <= "\ufe0f" or "\U0001f3fb" <= c <= "\U0001f3ff"


def _tidy_chinese(text: str) -> str:
  text = re.sub(r"\s+", " ", text)
  text = re.sub(r" -+ |—+", "，", text)
  text = re.sub(rf"(?<=[{_WIDE}]) | (?=[{_WIDE}])", "", text)
  text = re.sub(r"[（）【】`]", "", text)
  text = re.sub(r"\.{2,}", "……", text)
  text = re.sub(r"(?<![A-Za-z0-9])\.|\.(?=[^\x00-\x7f]|$)", "。", text)
  return re.sub(r"，+(?=[，。！？；：、,.!?;:])|(?<=[，。！？；：、])，+", "", text)


def close_text(text: str, language: str) -> str:
  """Ends the text in a sentence mark."""
  spoken = tags.strip(text).rstrip()
  if not spoken:
    return text
  east = any(is_han(c) or "\u3040" <= c <= "\u30ff" for c in spoken[-8:])
  stop = "。" if east else _FULL_STOP[language]
  trimmed = text.rstrip()
  if trimmed.endswith(("，", ",", "、", "：", ":")):
    return trimmed.rstrip("，,、：: ") + stop
  return trimmed if unicodedata.category(spoken[-1]).startswith("P") else trimmed + stop
