"""Texts generated from the kinds that reading rules know, and how long a stream waits for each."""

import random
import re
from collections.abc import Iterator

from cosyjax.text.stream_read import Reader
from tests import golden_files

TABLE = golden_files.GOLDEN / "text_readings.tsv"
_PLAIN = {
  "en": [
    "the",
    "house",
    "and",
    "they",
    "saw",
    "it",
    "again",
    "when",
    "we",
    "were",
    "there",
    "because",
    "nobody",
    "knew",
    "what",
    "would",
    "happen",
    "next",
  ],
  "zh": list("我们今天去公园然后回家吃饭看书的是在有"),
}
_JOINTS = {"en": (" ", " ", ", ", ". ", "\n", "\n- ", "! "), "zh": ("", "，", "。", "、", "\n", "\n- ", " ", "：")}


def rows() -> list[tuple[str, str, str, str]]:
  """(kind, language, text, reading) of the table."""
  found = []
  for line in TABLE.read_text(encoding="utf-8").splitlines():
    if not line.startswith("#"):
      kind, language, text, reading = line.split("\t")
      found.append((kind, language, unescaped(text), unescaped(reading)))
  return found


def unescaped(text: str) -> str:
  """A cell of the table as text: \\n is a line break, \\\\ a backslash."""
  return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)


def generated(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
  """(language, text): rows of the table among plain words, joined by blanks, marks and line breaks."""
  draw = random.Random(seed)
  samples = {language: [text for _, of, text, _ in rows() if of == language] for language in ("en", "zh")}
  for number in range(count):
    language = ("en", "zh")[number % 2]
    parts = []
    for _ in range(draw.randint(1, 5)):
      plain = draw.choices(_PLAIN[language], k=draw.randint(0, 4))
      parts.append((" " if language == "en" else "").join(plain))
      parts.append(draw.choice(samples[language]))
    yield language, "".join(part + draw.choice(_JOINTS[language]) for part in parts if part)


def streamed(text: str, language: str, cuts: random.Random | None = None) -> str:
  """What a reader gives for a text in pieces: of random sizes, or character by character."""
  reader, place = Reader(language), 0
  while place < len(text):
    size = cuts.randint(1, 9) if cuts else 1
    reader.feed(text[place : place + size])
    place += size
  reader.close()
  return "".join(part for _, part in reader.out)


def latency(text: str, language: str) -> float:
  """Mean number of characters that wait for their reading, over the characters of a text in plain company."""
  before, behind = (
    ("so they said that ", " and that was all there was to it")
    if language != "zh"
    else ("我们说过，", "，就是这样的了。")
  )
  reader, waiting = Reader(language if language != "auto" else "en"), []
  for i, c in enumerate(before + text + behind):
    reader.feed(c)
    if len(before) <= i < len(before) + len(text):
      waiting.append(reader.held)
  return sum(waiting) / max(len(waiting), 1)


def main() -> None:
  """Prints the mean latency of every kind, in characters."""
  kinds: dict[tuple[str, str], list[float]] = {}
  for kind, language, text, _ in rows():
    kinds.setdefault((language, kind), []).append(latency(text, language))
  for language, words in (
    ("en", "They walked along the river and talked about the summer"),
    ("zh", "他们沿着河边走，说起夏天的事情"),
  ):
    kinds[language, "plain"] = [latency(words, language)]
  for (language, kind), found in sorted(kinds.items()):
    print(f"{language:5} {kind:10} {sum(found) / len(found):6.1f} characters, {len(found)} texts")


if __name__ == "__main__":
  main()
