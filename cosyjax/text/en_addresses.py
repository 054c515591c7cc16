"""Addresses, versions, file names and identifiers in English."""

import re

from cosyjax.text import addresses
from cosyjax.text.en_numbers import digits, quantity
from cosyjax.text.rules import DIGITS, Rule

_NAMES = {
  ".": "dot", "/": "slash", "\\": "backslash", "@": "at", ":": "colon", "_": "underscore", "-": "dash",
  "?": "question mark",
  "=": "equals", "&": "and", "#": "hash", "%": "percent", "~": "tilde", "+": "plus",
}  # fmt: skip
_COUNTRIES = re.compile(r"(?<= dot )(uk|us|eu|tv|io)(?= |$)")


def _number(number: str) -> str:
  """Up to two digits as a number, longer ones singly."""
  return digits(number) if len(number) > 2 or (number[0] == "0" and len(number) > 1) else quantity(number)


def _address(m: re.Match) -> str:
  text = addresses.without_scheme(m.group())
  number = digits if re.match(r"(?:[0-9]+\.){3}", text) else _number
  spoken = addresses.spell(text, _NAMES, number, " ")
  return _COUNTRIES.sub(lambda c: " ".join(c[1].upper()), spoken)


def _version(m: re.Match) -> str:
  spoken = f"{m[1].strip('. ')} " if m[1] else ""
  spoken += " point ".join(map(quantity, m[2].split(".")))
  return spoken + (f" {m[3]} {quantity(m[4]) if m[4] else ''}".rstrip() if m[3] else "")


RULES = (
  Rule(
    "URL",
    addresses.URL,
    _address,
    (
      ("https://x.org/page is down", "x dot org slash page is down"),
      ("see http://localhost:8080/a", "see localhost colon eight zero eight zero slash a"),
    ),
    (":",),
  ),
  Rule(
    "mail",
    addresses.MAIL,
    _address,
    (("me@x.com", "me at x dot com"), ("john.doe_99@mail.org", "john dot doe underscore ninety-nine at mail dot org")),
    ("@",),
  ),
  Rule(
    "host",
    addresses.HOST,
    _address,
    (
      ("www.example.com/a-b", "www dot example dot com slash a dash b"),
      ("visit example.co.uk/path?id=5", "visit example dot co dot U K slash path question mark id equals five"),
      ("github.com", "github dot com"),
    ),
    (".:/",),
  ),
  Rule(
    "IP address",
    addresses.IP,
    lambda m: " dot ".join(" slash ".join(map(digits, part.split("/"))) for part in m.group().split(".")),
    (("at 192.168.1.1", "at one nine two dot one six eight dot one dot one"),),
    (DIGITS, "."),
  ),
  Rule(
    "name with a point",
    r"(?<![A-Za-z0-9.])(Node|Vue|React|Next|Nuxt|Express|Three|D3|Chart|Day|Moment|Socket|Discord|ASP|Booking|Web"
    r"|Crates|Character|Stability|Cal|Draw|Bun|Ember|Backbone|Alpine|[A-Z][a-z]{2,12})\.(js|io|NET|ts|py|ai)"
    r"(?![A-Za-z])",
    lambda m: f"{m[1]} dot {' '.join(m[2].upper()) if m[2] in ('js', 'ts', 'io', 'ai') else m[2]}",
    (("Node.js", "Node dot J S"),),
    (".",),
  ),
  Rule(
    "file name",
    addresses.FILE,
    _address,
    (
      ("open main.py", "open main dot py"),
      ("in src/data/train_v2.json", "in src slash data slash train underscore v two dot json"),
    ),
    (".",),
  ),
  Rule(
    "path",
    addresses.PATH,
    _address,
    (
      ("in /usr/local/bin", "in slash usr slash local slash bin"),
      ("~/projects", "tilde slash projects"),
      ("C:\\Users\\me", "C colon backslash Users backslash me"),
    ),
    ("/\\",),
  ),
  Rule("handle", addresses.HANDLE, _address, (("ask @jane_doe", "ask at jane underscore doe"),), ("@",)),
  Rule(
    "version",
    addresses.VERSION,
    _version,
    (
      ("v1.2.3", "v one point two point three"),
      ("2.0.0-beta", "two point zero point zero beta"),
      ("Section 3.1.2", "Section three point one point two"),
    ),
    (DIGITS, "."),
  ),
  Rule(
    "name after a point",
    r"(?<![A-Za-z0-9.])\.(?=NET\b|[a-z]{2,14}(?![A-Za-z.]))",
    lambda m: " dot ",
    (("the .NET framework", "the dot NET framework"), ("edit .gitignore now", "edit dot gitignore now")),
    (".",),
  ),
  Rule(
    "letter, point, digit",
    r"(?<=[A-Za-z])\.([0-9]{1,15})",
    lambda m: f" dot {_number(m[1])}",
    (("the H.264 codec", "the H dot two six four codec"),),
    (DIGITS, "."),
  ),
  Rule(
    "point between words",
    r"(?<=[a-z]{2})\.(?=[a-z]{2})",
    lambda m: " dot ",
    (("import os.path", "import os dot path"),),
    (".",),
  ),
  Rule(
    "identifier",
    addresses.IDENTIFIER,
    lambda m: re.sub("_", " ", m.group()),
    (("call my_func now", "call my func now"),),
    ("_",),
  ),
)
