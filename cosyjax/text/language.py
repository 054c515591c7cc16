"""Which language a text is read in: Chinese, English, or one whose numbers are left alone."""

import re

from cosyjax.errors import ConfigError
from cosyjax.text import tags

LANGUAGES = ("auto", "en", "zh", "other")

_LETTERS = r"[^\W\d_²³¹⁰-₟①-⓿]+"
_WORD = re.compile(rf"{_LETTERS}(?:['’]{_LETTERS})*")
_RUN_WORD = re.compile(r"(?<!\S)[A-Za-z']+(?![^\s,.;:!?])")
_SIGNED = re.compile("[0-9/]")
_HAN = re.compile("[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U000323af]")
_KANA = re.compile("[\u3040-\u30ff\uff66-\uff9f]")
_JAPANESE = re.compile(
  "[円駅気込働県図検発売読楽帰対変権経済歳込様営]"
)  # characters that Chinese writes in another way


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


# Behind a number these are units, and tell nothing.
_UNITS = _words("""
  a am b c cm db f ft g gb ghz h hz in k kg khz km kω l lb m mb mg mhz ml mm mmhg mmol mol oz pm s t tb v w x μg
  μl μm μs ω
""")
# Common in English, and in none of the languages below.
_ENGLISH = _words("""
  about after all am an and are as at be been best between but buy by café call can chapter come costs could day
  did do don't down during each every find first for from get go had has have he hello her here him his how i'm
  if in into is it it's its just last like look made make many may me million more my new next no not now of off
  on one only open or other our out over page part people please price said sale say says section see she since
  so sold some than that that's the their them then there these they this time to today tomorrow two under until
  up us use version was way we were what when which who will with would yesterday you your
""")
# Of English too, or of its names: half as telling, and only in small letters.
_WEAK = _words("""
  al art as bei bin come con der des di dos du el era et fin ha hay ho hoy il im la las le les lo los ma mes met
  mi mon na non o om on os per plus rue sale se su sur te tu um un une van von
""")
# Common in German, French, Spanish, Italian, Portuguese, Dutch, Swedish or Polish, and no English.
_FOREIGN = _words("""
  aber abril agosto alle amanhã anni anno année années ano anos ans ao août aprile att au auch auf aujourd'hui
  aus aux avec avril año años bis c'est ce cette che como coûte cuesta custa d'un d'une dans das dei dein del
  della delle dello dem det dezember dezembro dias dicembre diciembre domani décembre días een ein eine einem
  einen einer ela ele elle em en enero er es est está eu euro fait febbraio febrero februar fevereiro février
  für gennaio gestern gibt giorni giugno gli guten habe haben hai het heures heute hoch hoje horas ich ihr ik
  il's ils ist j'ai jaar jag jahre jahren janeiro januar janvier jaren je jest jours juillet juin julho juli
  julio junho juni junio kann kommt kostet kronor l'an lat leur luglio maggio maio mais mam março mayo mañana
  mehr mein meses mesi minuten mois molto morgen muito muy más märz n'est nach nació nas nasceu ne nel nella
  nicht nie niet noch nos nous novembre novembro noviembre nummer nur não né née och octobre octubre oder oggi
  oktober ottobre ou outubro où para pas perché pero più por pour prix på qu'il que questa questo qui s'il sehr
  seit septembre septiembre ses setembro settembre sich sie sind się som sono sont straße stunden sus são tage
  tagen tem tengo tenho tiene très uhr uma una und unos uns unter uur você voor vor vous wenn werden wie wir
  wird zijn zu zum zur à är år ça è é été über
""")
_MARKED = re.compile("[äöüßéèêëàâçîïôûùœæñáíóúìòãõąćęłńśźżåøěščřžýůőűğşıțșđğ]", re.I)


def _says_nothing(word: str) -> bool:
  """Single letters and short capitals stand in every language: x, CO, USA, EST."""
  return (len(word) == 1 or (len(word) < 5 and word.isupper())) and word not in ("I", "à", "é", "y", "è")


def check(language: str, prompt_language: str = "en") -> None:
  """Refuses names of languages that nobody knows.

  Raises:
    ConfigError: no such language.
  """
  if language not in LANGUAGES:
    raise ConfigError(f"language: expected one of {', '.join(LANGUAGES)}, found {language!r}")
  if prompt_language not in LANGUAGES[1:]:
    raise ConfigError(f"prompt_language: expected one of {', '.join(LANGUAGES[1:])}, found {prompt_language!r}")


class Counter:
  """What speaks for each language in the text so far."""

  def __init__(self) -> None:
    self._han = self._kana = self._latin = self._other = 0
    self._english = self._foreign = 0.0
    self.words = 0  # of the Latin alphabet, units left out

  def feed(self, text: str) -> None:
    """Counts more text; words must not be cut."""
    if not text.isascii():
      han = len(_HAN.findall(text))
      kana = len(_KANA.findall(text))
      if han:
        kana += len(_JAPANESE.findall(text))
      self._han, self._kana = self._han + han, self._kana + kana
    elif not _SIGNED.search(text):  # words alone: a short cut
      for word in _WORD.findall(text):
        if _says_nothing(word):
          continue
        self.words += 1
        self._latin += len(word)
        lower = word.lower()
        self._english += lower in _ENGLISH
        self._foreign += 1 if lower in _FOREIGN else 0.4 if word in _WEAK else 0
      return
    for m in _WORD.finditer(text):
      word = m.group()
      if word.isascii():
        self._count_latin(word, text, m.start())
      elif not word[0].isalpha() or _HAN.search(word) or _KANA.search(word):
        continue
      elif word[0] < "\u0370" or word[-1].isascii():  # ΔT, μm
        self._count_latin(word.replace("’", "'"), text, m.start())
      elif len(word) > 1 or not "\u0370" <= word <= "\u03ff":
        self._other += sum(not "\uff00" <= c <= "\uffef" and not "\u2100" <= c <= "\u214f" for c in word)

  def _count_latin(self, word: str, text: str, start: int) -> None:
    lower = word.lower()
    if (start and (text[start - 1].isdigit() or text[start - 1] in "/²³μ°")) or (
      lower in _UNITS and text[:start].rstrip()[-1:].isdigit()
    ):
      return  # a unit
    if _says_nothing(word):
      return
    self._latin += len(word)
    self.words += 1
    if lower in _ENGLISH:
      self._english += 1
    elif lower in _FOREIGN:
      self._foreign += 1
    elif word in _WEAK:
      self._foreign += 0.4
    if not word.isascii() and _MARKED.search(word):
      self._foreign += 0.6

  def language(self, prompt_language: str = "en") -> str:
    """ "zh", "en" or "other"; `prompt_language` where nothing but digits and signs have come."""
    if self._kana * 4 > self._han:
      return "other"
    if self._han:
      return "other" if self._other > 2 * self._han else "zh"
    if self._other > self._latin:
      return "other"
    if not self._latin:
      return prompt_language
    return "other" if self._foreign >= 1 and self._foreign > self._english else "en"


def detect_language(text: str, prompt_language: str = "en") -> str:
  """The language that "auto" takes for a text.

  Chinese with some English in it is Chinese, Chinese characters among many kana are Japanese.
  German, French, Spanish, Italian and Portuguese are known by their commonest words and marked
  letters, other scripts by their letters; all of these are "other". Single Greek letters and
  units behind numbers tell nothing.
  """
  counter = Counter()
  counter.feed(tags.strip(text))
  return counter.language(prompt_language)


def is_english(run: str) -> bool:
  """Whether a run of ASCII in a Chinese text is a piece of English: three words, two in small letters."""
  words = _RUN_WORD.findall(run)
  return len(run) >= 8 and len(words) >= 3 and sum(len(word) > 1 and word.islower() for word in words) >= 2
