"""Sentences of a small grammar, English and Spanish, for speech engines to say.

Numbers are words, so that spelling follows sound.
"""

import random
import re
from collections.abc import Iterator


def words(line: str) -> list[str]:
  return line.split("|" if "|" in line else None)


SMALL = words("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen")
TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
CHICO = words("dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince veinte treinta")
WORDS = {
  "en": {
    "number": SMALL[1:] + [f"{tens} {small}" for tens in TENS for small in SMALL[:9]],
    "day": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": words("January February March April May June July August September October November December"),
    "name": words(
      "Alice Victor George Yvonne Thomas Judith Zachary Ursula Philip Bridget Hugo Naomi Quentin Rachel Walter Joyce "
      "Edward Charlotte Oliver Beth"
    ),
    "adj": words(
      "yellow huge quiet ancient shiny broken cheerful foggy purple wooden thick jealous smooth younger vague clever "
      "orange heavy narrow golden"
    ),
    "noun": words(
      "bridge yacht thimble garage wolf engine orchard judge violin mushroom feather clock ship pigeon treasure "
      "blanket oyster kitchen queen zebra hammer cloud fish lighthouse giraffe window village thunder boy road"
    ),
    "plural": words(
      "apples wheels bells chairs letters horses pictures candles sausages boats coins shoes leaves keys watches "
      "jugs toys maps eggs vases rings bricks"
    ),
    "place": words(
      "the harbour|the old church|the valley|a shop near the river|the railway station|their house|the beach|"
      "a village in the north|the theatre|the edge of the wood|the zoo|my uncle's farm|the third floor"
    ),
    "past": words(
      "found|measured|sold|watched|carried|caught|painted|forgot|borrowed|pushed|noticed|chose|described|hid|"
      "followed|lifted|cleaned|drew|photographed|threw away"
    ),
    "how": words(
      "quickly|without a sound|just in time|with great pleasure|rather badly|at the same hour|very gently|"
      "for no reason at all|again and again|before the storm"
    ),
  },
  "es": {
    "number": CHICO + words("cuarenta cincuenta sesenta setenta ochenta noventa cien"),
    "day": words("lunes martes miércoles jueves viernes sábado domingo"),
    "month": words("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
    "name": words(
      "Lucía Jorge Begoña Íñigo Raquel Guillermo Chelo Joaquín Ximena Andrés Paula Enrique Yolanda Félix Sergio "
      "Almudena Tomás Irene Vicente Zoraida"
    ),
    "adj": words(
      "azul verde grande gris triste fuerte brillante enorme elegante amable frágil alegre diferente inútil caliente "
      "feliz"
    ),
    "noun": words(
      "el perro|la casa|el jardín|la llave|el zapato|la guitarra|el pueblo|la montaña|el puente|la cuchara|el reloj|"
      "la niña|el caballo|la lluvia|el queso|la ventana|el ferrocarril|la hoja|el ladrillo|la bicicleta|el buey|"
      "la iglesia|el dibujo|la foca|el murciélago|la yegua|el pingüino|la charca"
    ),
    "plural": words(
      "manzanas llaves coches gatos cartas flores peces sillas barcos huevos relojes cajas ruedas pájaros naranjas "
      "jueces guantes zanahorias lápices"
    ),
    "place": words(
      "el mercado|la estación|la orilla del río|un pueblo del norte|la vieja iglesia|la playa|el tercer piso|"
      "la calle mayor|el borde del bosque|su casa|el teatro|una granja lejana|la biblioteca"
    ),
    "past": words(
      "encontró|midió|vendió|miró|llevó|pintó|olvidó|empujó|eligió|describió|escondió|siguió|levantó|limpió|dibujó|"
      "buscó|arrojó|guardó|compró|destruyó"
    ),
    "how": words(
      "muy deprisa|sin hacer ruido|justo a tiempo|con mucho gusto|bastante mal|a la misma hora|con cuidado|"
      "sin ninguna razón|una y otra vez|antes de la tormenta"
    ),
  },
}
SHORT = {
  "en": ("{name} {past} the {noun}.", "Where is the {adj} {noun}?", "{number} {plural}, please.", "See you on {day}!"),
  "es": ("{name} {past} {noun}.", "¿Dónde está {noun} {adj}?", "{number} {plural}, por favor.", "¡Hasta el {day}!"),
}
LONG = {
  "en": (
    "On {day}, {name} {past} the {adj} {noun} {how}.",
    "{name} and {name2} {past} {number} {adj} {plural} near {place}.",
    "The {adj} {noun} from {place} cost {number} pounds in {month}.",
    "Why did the {noun} of {name} stay at {place} until {day}?",
    "There were {number} {plural} and a {adj} {noun} at {place}.",
    "{name} said that the {noun} was {adj}, but {name2} {past} it {how}.",
    "Nobody {past} the {adj} {noun} before the {adj2} {plural} came in {month}.",
    "Count the {plural}: {number}, {number2}, and {number3}!",
    "From {day} to {day2}, the {noun} stood {how} by {place}.",
    "My {adj} {noun} is larger than your {noun2}, said {name} {how}.",
  ),
  "es": (
    "El {day}, {name} {past} {noun} {adj} {how}.",
    "{name} y su abuelo cuentan {number} {plural} cerca de {place}.",
    "En {month}, {noun} {adj} costaba {number} pesos.",
    "¿Por qué {name} {past} {noun} en {place} hasta el {day}?",
    "Había {number} {plural} y {noun} {adj} junto a {place}.",
    "{name} dijo que {noun} era {adj}, pero {name2} {past} {noun2} {how}.",
    "Nadie {past} {noun} {adj} antes del {day}, según {name}.",
    "Cuenta conmigo: {number}, {number2} y {number3} {plural}.",
    "Desde {month} hasta {month2}, {noun} siguió {how} en {place}.",
    "Mañana {name} traerá {number} {plural} y {noun} {adj}.",
  ),
}


def sentences(language: str, seed: int, short: bool = False) -> Iterator[str]:
  """Texts of a language without end, no two the same: of a short sentence, or of one or two of any kind."""
  rng = random.Random(f"{seed} {language} {short}")
  known, seen = WORDS[language], set()
  while True:
    kinds = (SHORT,) if short else rng.choice(((LONG,), (LONG,), (LONG,), (LONG,), (SHORT, SHORT), (LONG, SHORT)))
    text = " ".join(_fill(rng.choice(kind[language]), known, rng) for kind in kinds)
    if text not in seen:
      seen.add(text)
      yield text


def _fill(line: str, known: dict[str, list[str]], rng: random.Random) -> str:
  for slot in re.findall(r"{(\w+)}", line):
    line = line.replace(f"{{{slot}}}", rng.choice(known[slot.rstrip("23")]), 1)
  line = re.sub(r"\ba (?=[aeiou])", "an ", line) if known is WORDS["en"] else line.replace(" de el ", " del ")
  start = 1 if line[0] in "¿¡" else 0
  return line[:start] + line[start].upper() + line[start + 1 :]
