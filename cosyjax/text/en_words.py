"""Abbreviations, titles and Roman numerals in English."""

import re

from cosyjax.text.en_numbers import cardinal, ordinal
from cosyjax.text.rules import Rule, after, any_of, before

_TITLES = {
  "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Dr": "Doctor", "Prof": "Professor", "Gen": "General",
  "Capt": "Captain",
  "Sgt": "Sergeant", "Lt": "Lieutenant", "Col": "Colonel", "Maj": "Major", "Cpl": "Corporal", "Rev": "Reverend",
  "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Hon": "Honorable", "Pres": "President", "Fr": "Father",
  "Mt": "Mount", "Ft": "Fort", "Messrs": "Messrs",
}  # fmt: skip
_BARE = ("Mr", "Mrs", "Ms", "Dr", "Prof")  # also without a point, before a name
_BEHIND = {"Jr": "Junior", "Sr": "Senior", "Esq": "Esquire"}
_STREETS = {
  "St": "Street", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Ln": "Lane", "Hwy": "Highway", "Pkwy": "Parkway",
  "Dr": "Drive", "Ct": "Court", "Sq": "Square",
}  # fmt: skip
_SHORT = {
  "vs": "versus", "approx": "approximately", "dept": "department", "Dept": "Department", "est": "established",
  "min": "minimum", "max": "maximum", "avg": "average", "esp": "especially", "incl": "including", "excl": "excluding",
  "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "Assn": "Association", "Bros": "Brothers",
  "Univ": "University", "govt": "government", "Vol": "Volume", "vol": "volume", "Fig": "Figure", "fig": "figure",
  "Eq": "Equation", "Sec": "Section", "Ch": "Chapter", "pp": "pages", "ft": "featuring", "cf": "compare", "ca": "circa",
}  # fmt: skip
_BEFORE_SMALL = frozenset(
  ["min", "max", "ft", "est", "ca", "Sec", "fig", "Fig", "Vol", "vol", "pp", "Ch", "Eq"]
)  # read before a number or a small letter
_DEGREES = {
  "Ph.D": "P H D", "PhD": "P H D", "M.D": "M D", "B.A": "B A", "M.A": "M A", "B.Sc": "B S C", "M.Sc": "M S C",
  "B.S": "B S",
  "M.S": "M S", "LL.B": "L L B", "LL.M": "L L M", "D.D.S": "D D S", "R.N": "R N", "J.D": "J D", "M.B.A": "M B A",
  "Ed.D": "E D D",
}  # fmt: skip
_LATIN = {
  "e.g": "for example", "i.e": "that is", "etc": "et cetera", "et al": "et al", "a.k.a": "also known as",
  "w/o": "without",
  "w/": "with", "b/c": "because", "R&D": "R and D", "Q&A": "Q and A", "P.S": "P S", "N.B": "N B",
}  # fmt: skip

_ROYAL = (
  "Henry|Louis|Charles|George|Edward|Richard|William|James|Elizabeth|Catherine|Katherine|Mary|Anne|Francis|Frederick"
  "|Philip"
  "|Felipe|Carlos|Juan|Pedro|Napoleon|Nicholas|Alexander|Peter|Ivan|Paul|Benedict|Pius|Leo|Innocent|Gregory|Clement"
  "|Urban"
  "|Boniface|Sixtus|Julius|Wilhelm|Leopold|Ferdinand|Alfonso|Christian|Gustav|Olaf|Harald|Haakon|Ramesses|Ramses"
  "|Ptolemy"
  "|Cleopatra|Darius|Xerxes|Constantine|Theodosius|Justinian|Otto|Konrad|Rudolf|Maximilian|Joseph|Umberto|Victor"
  "|Emmanuel"
  "|Albert|Baudouin|Margrethe|Beatrix|Harold|Malcolm|Robert|David|Kenneth|Donald|Edmund|Stephen|Matilda|Amenhotep"
  "|Thutmose|Seti|Mehmed|Murad|Selim|Suleiman|Abdul|Mohammed|Hassan|Rama|Kamehameha|Pope|King|Queen|Emperor|Tsar"
)  # fmt: skip
_CHAPTERS = (
  r"(?:Chapter|Part|Volume|Book|Act|Scene|Section|Phase|Appendix|War|Episode|Type|Stage|Grade|Class|Level|Season"
  r"|Article|Title|Figure|Table"
  r"|Round|Bowl|CHAPTER|PART|chapter|part|volume|type|stage|phase|class|grade)"
)
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50}
_ROMAN = r"(?=[IVXL])X{0,3}(?:IX|IV|V?I{0,3})|L(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})|XL(?:IX|IV|V?I{0,3})"
_NO_NAME = re.compile(r"(?:^|[^A-Za-z])(?:[Tt]he|[Aa]n?|[Aa]nd|[Oo]r|[Tt]o|[Oo]f|[Ii]n|[Oo]n|[Ff]or|[Ww]ith|[Ss]ize"
                      r"|[Bb]y|[Aa]s|This|That|My"
                      r"|Your|His|Her|Our|Their|It|Is|If|When|While|But|So|You|We|He|She|They)[\s-]$")  # fmt: skip


def roman(number: str) -> int:
  """XIV -> 14."""
  values = [_VALUES[c] for c in number]
  return sum(-v if values[i + 1 : i + 2] > [v] else v for i, v in enumerate(values))


def _after_name(m: re.Match) -> str:
  """Kings and popes get an ordinal, all else that begins with a capital a number."""
  numeral, ahead = m[1], after(m)
  if re.search(rf"(?:^|[^A-Za-z]){_CHAPTERS}\s$", before(m)):
    return cardinal(roman(numeral))
  if not re.search(r"(?:^|[^A-Za-z])[A-Z][A-Za-z]+\s$", before(m)):
    return m.group()
  if re.search(rf"(?:^|[^A-Za-z])(?:{_ROYAL})\s$", before(m)):
    if numeral == "I" and not re.match(
      r"[,;:!?)]|\.?$|\.\s[A-Z]|'s|\s(?:of|was|died|ruled|and|in|who|became|is)\b", ahead
    ):
      return m.group()
    if numeral in ("I", "V", "X") and before(m).endswith(("Malcolm ", "King ", "Queen ", "Pope ")):
      return m.group()
    return f"the {ordinal(roman(numeral)).capitalize()}"
  if len(numeral) < 2 or numeral in ("XX", "XXX", "XL", "LI", "LV", "LX") or ahead.startswith(("'s", "-", "/", "&")):
    return m.group()
  if _NO_NAME.search(before(m)):
    return m.group()
  return cardinal(roman(numeral)).capitalize()


def _saint(m: re.Match) -> str:
  """St. before a capital that follows no name is a saint, else a street."""
  behind, ahead = before(m, 40), after(m)
  named = re.search(r"(?:[A-Z][a-z]+|[0-9]+(?:st|nd|rd|th)|street)\s$", behind) and re.search(
    r"[0-9]+\s(?:[A-Z]\.?\s)?(?:[A-Z][a-z]+\s|[0-9]+(?:st|nd|rd|th)\s)+$", behind
  )
  if re.match(r"\s[A-Z]", ahead) and not named:
    return "Saint"
  if re.search(r"(?:[A-Z][a-z]+|[0-9](?:st|nd|rd|th))\s$", behind):
    return "Street" + ("." if m[1] and re.match(r"\s[A-Z]|$", ahead) else "")
  return m.group()


def _short_word(m: re.Match) -> str:
  word = m[1]
  if word in ("Inc", "Ltd", "Corp") or (word == "ft" and before(m, 2)[:1].isdigit()):
    return m.group()
  if word in _BEFORE_SMALL and not re.match(r"\s[0-9a-z]", after(m)):
    return m.group()
  return _SHORT[word]


def _street(m: re.Match) -> str:
  return _STREETS[m[1]] + ("." if m[2] and not after(m).strip() else "")


def _closing(m: re.Match, words: str) -> str:
  """The abbreviation's point is the sentence's too at the end of a text."""
  return words + ("." if m.group().endswith(".") and not after(m).strip() else "")


RULES = (
  Rule(
    "degree",
    rf"(?<![A-Za-z.])({any_of(tuple(_DEGREES))})(?![A-Za-z])\.?",
    lambda m: _closing(m, _DEGREES[m[1]]),
    (("a Ph.D. student", "a P H D student"), ("John Doe, M.D.", "John Doe, M D.")),
    ("DABMSLRJE",),
  ),
  Rule(
    "saint or street",
    r"(?<![A-Za-z.])St(\.)?(?=\s|,|$)",
    _saint,
    (("St. Mary", "Saint Mary"), ("on Main St.", "on Main Street."), ("5 Oak St, Boston", "five Oak Street, Boston")),
    ("S",),
  ),
  Rule(
    "street",
    rf"(?<=[a-z]\s)({any_of(tuple(k for k in _STREETS if k != 'St'))})(\.)?(?=,|$|\s(?:in|at|and|near|is|was)\b)"
    rf"(?<=[a-z][a-z]\s\1\2)".replace(r"(?<=[a-z][a-z]\s\1\2)", ""),
    lambda m: _street(m) if re.search(r"(?:[A-Z][a-z]+|[0-9](?:st|nd|rd|th))\s$", before(m)) else m.group(),
    (("on Fifth Ave.", "on Fifth Avenue."), ("Sunset Blvd in LA", "Sunset Boulevard in LA")),
    ("ABRLHPDCS",),
  ),
  Rule(
    "title",
    rf"(?<![A-Za-z.])({any_of(tuple(_TITLES))})\.(?=[\s,]|[A-Z][a-z])",
    lambda m: _TITLES[m[1]] + " " * after(m)[:1].isalpha(),
    (("Dr. Smith", "Doctor Smith"), ("Gen. Lee", "General Lee"), ("Mt. Everest", "Mount Everest")),
    ("MDPGCSLRHF", "."),
  ),
  Rule(
    "title without a point",
    rf"(?<![A-Za-z.])({any_of(_BARE)})(?=\s[A-Z])",
    lambda m: _TITLES[m[1]],
    (("Mr Smith met Ms. Jones", "Mister Smith met Miz Jones"),),
    ("MDP",),
  ),
  Rule(
    "title behind",
    rf"(?<=[a-z,]\s)({any_of(tuple(_BEHIND))})(\.)?(?![A-Za-z])",
    lambda m: _closing(m, _BEHIND[m[1]]),
    (("Martin Luther King Jr. spoke", "Martin Luther King Junior spoke"),),
    ("JSE",),
  ),
  Rule(
    "latin",
    r"(?<![A-Za-z.])(e\.g|i\.e|a\.k\.a|P\.S|N\.B)\.(?=[\s,:]|$)|(?<![A-Za-z.])(?<!slash )(etc)(\.)?(?![A-Za-z])",
    lambda m: _LATIN[m[1]] if m[1] else _closing(m, "et cetera"),
    (("e.g. this", "for example this"), ("apples, pears, etc.", "apples, pears, et cetera.")),
    ("egkSB",),
  ),
  Rule(
    "short word",
    rf"(?<![A-Za-z.])({any_of(tuple(_SHORT))})\.(?=[\s,])(?!\s[A-Z][a-z]+\s[a-z])",
    _short_word,
    (("vs. six", "versus six"), ("approx. five", "approximately five"), ("Fig. 3", "Figure three")),
    (".",),
  ),
  Rule(
    "company",
    r"(?<![A-Za-z.])(Inc|Ltd|Corp)\.(?=[\s,]|$)",
    lambda m: _closing(m, _SHORT[m[1]]),
    (("Acme Inc.", "Acme Incorporated."),),
    ("ILC", "."),
  ),
  Rule(
    "with and without",
    r"(?<![A-Za-z])(w/o|b/c)(?![A-Za-z])|(?<![A-Za-z])(w/)(?=\s)",
    lambda m: _LATIN[m[1] or m[2]],
    (("tea w/o milk", "tea without milk"),),
    ("wb", "/"),
  ),
  Rule(
    "roman numeral",
    rf"(?<=[A-Za-z]\s)({_ROMAN})(?![A-Za-z0-9.]?[A-Za-z0-9])",
    lambda m: _after_name(m) if m[1] else m.group(),
    (
      ("Chapter IV", "Chapter four"),
      ("World War II", "World War two"),
      ("Henry VIII", "Henry the Eighth"),
      ("Rocky IV", "Rocky Four"),
      ("Elizabeth I of England", "Elizabeth the First of England"),
      ("Final Fantasy VII", "Final Fantasy Seven"),
    ),
    ("IVXL",),
  ),
  Rule(
    "number sign",
    r"(?:№|(?<![A-Za-z])(?:No|NO)\.|(?<![A-Za-z])no\.(?=[0-9]))\s?(?=[0-9])",
    lambda m: "number ",
    (("NO.1", "number one"), ("No. 7", "number seven")),
    ("0123456789", "№."),
  ),
)

WAITING = (
  *_TITLES,
  *_BEHIND,
  *_SHORT,
  *_DEGREES,
  "etc",
  "a.k.a",
  "St",
  "No",
  "no",
  "Ave",
  "Blvd",
  "Rd",
  "e.g",
  "i.e",
  "a.m",
  "p.m",
  "P.M",
  "A.M",
  *["hr", "hrs", "lb", "lbs", "oz", "in", "mi", "yd", "tsp", "tbsp", "sec", "gal", "yr", "yrs"],
)
WAITING_BARE = ("St", "Blvd", "Ave", "Rd", "Hwy", "Pkwy", "Ln", *_BARE)
