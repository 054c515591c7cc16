"""What is read, kind by kind: a table checked by eye, the rules' own examples, and streams of both."""

import collections
import random
import re
import time

import pytest

from cosyjax.config import TextConfig
from cosyjax.errors import ConfigError, TextError
from cosyjax.text import (
  Lexicon,
  TextStream,
  TextTokenizer,
  detect_language,
  markup,
  normalise,
  prepare,
  read_en,
  read_zh,
  tiny_tokenizer_dir,
)
from tests import fuzz_text, text_samples
from tests.stream_texts import CHINESE, ENGLISH
from tests.text_samples import generated, latency, rows, streamed

ROWS = rows()
TINY = TextTokenizer.load(tiny_tokenizer_dir())
ONE = TextConfig(min_tokens=1 << 30, max_tokens=1 << 30)
TABLES = {"en": (*read_en.RULES, *markup.READERS["en"].rules), "zh": read_zh.RULES}


def said(text: str) -> str:
  """A reading without the mark at its end."""
  return text.rstrip(".。")


def fed(text: str, size: int, **options) -> tuple[str, list[int]]:
  """Text and ids of a stream of one utterance."""
  stream = TextStream(TINY, ONE, **options)
  out = [one for i in range(0, len(text), size) for one in stream.push(text[i : i + size])] + stream.close()
  return "".join(one.text for one in out), [i for one in out for i in one.ids]


@pytest.mark.parametrize(("kind", "language"), sorted({row[:2] for row in ROWS}))
def test_table(kind, language):
  wrong = [
    (t, normalise(t, lang), r) for k, lang, t, r in ROWS if (k, lang) == (kind, language) and normalise(t, lang) != r
  ]
  assert not wrong, "\n".join(f"{text!r}: read as {found!r}, expected {reading!r}" for text, found, reading in wrong)


def test_table_covers_every_kind():
  counts = collections.Counter((language, kind) for kind, language, _, _ in ROWS)
  assert len(ROWS) >= 400 and len(set(row[1:3] for row in ROWS)) == len(ROWS)
  assert all(count >= 2 for count in counts.values())
  kinds = [
    "markup",
    "sign",
    "range",
    "score",
    "model",
    "singly",
    "address",
    "date",
    "time",
    "unit",
    "money",
    "short",
    "power",
    "roman",
    "math",
    "symbol",
  ]
  for language, more in (("en", ["title"]), ("zh", ["room", "bracket"])):
    assert all(counts[language, kind] >= 2 for kind in [*kinds, *more])
  assert counts["auto", "language"] >= 16


@pytest.mark.parametrize("language", TABLES)
def test_examples_of_the_rules(language):
  """Every rule has examples, and all rules together read them so."""
  wrong = []
  for rule in TABLES[language]:
    assert rule.examples or rule.name in ("end of a heading",), rule.name
    wrong += [
      (rule.name, t, r, normalise(t, language)) for t, r in rule.examples if said(normalise(t, language)) != said(r)
    ]
  assert not wrong


@pytest.mark.parametrize("language", TABLES)
def test_every_rule_is_needed(language):
  """A rule without which one of its examples is read the same does nothing that another rule does not do."""
  names = [rule.name for rule in TABLES[language]]
  assert len(set(names)) >= len(names) - 8  # some kinds have a rule of the same name in mark-up
  reader = read_en.READER if language == "en" else read_zh.READER
  idle = []
  for number, rule in enumerate(reader.rules):
    kept = reader._compiled[number]
    reader._compiled[number] = (1 << 999, kept[1], kept[2])  # needs what no text has
    reader._chosen.clear()
    if rule.examples and all(said(normalise(t, language)) == said(r) for t, r in rule.examples):
      idle.append(rule.name)
    reader._compiled[number] = kept
  reader._chosen.clear()
  assert not idle


def test_streams_of_the_table():
  """Words and ids are those of the whole text, the language known or not."""
  for _, language, text, _ in ROWS:
    try:
      [whole] = prepare(text, TINY, ONE, language=language)
    except TextError:
      continue
    for size in (1, 4):
      assert fed(text, size, language=language) == (whole.text, list(whole.ids)), text


def test_streams_that_find_out_the_language():
  """The language of the text so far is that of the whole, for every row of the table."""
  for _, language, text, _ in ROWS[::2]:
    options = {"prompt_language": "zh" if language == "zh" else "en"}
    try:
      [whole] = prepare(text, TINY, ONE, **options)
    except TextError:
      continue
    assert fed(text, 1, **options) == (whole.text, list(whole.ids)), text


def test_streams_of_generated_texts():
  """3,000 texts of all kinds, cut at random: the words of the whole text."""
  draw = random.Random(1)
  for language, text in generated(3000):
    assert said(streamed(text, language, draw).strip()) == said(streamed_whole(text, language)), text


def streamed_whole(text: str, language: str) -> str:
  reader = text_samples.Reader(language)
  reader.feed(text)
  reader.close()
  return "".join(part for _, part in reader.out).strip()


def test_no_sign_of_markup_is_spoken():
  for language, text in generated(600, seed=5):
    spoken = normalise(text, language)
    assert not re.search(r"\*\*|~~|```|\]\(|^#|\n", spoken), (text, spoken)
    assert not any(c.isdigit() for c in spoken), (text, spoken)


def test_latency_in_characters():
  """Plain text waits as little as it did, and no kind waits for much more than its own length."""
  assert latency("They walked along the river and talked about the summer", "en") < 4.5
  assert latency("他们沿着河边走说起夏天的事情", "zh") < 9
  for _, language, text, _ in ROWS:
    assert latency(text, language) <= len(text) + 25


def test_plain_text_is_cheap():
  """Below 0.2 ms of processor time for 100 characters of prose, with much to spare on any machine."""
  for text in (ENGLISH, CHINESE):
    best = 9.0
    for _ in range(5):
      start = time.process_time()
      normalise(text)
      best = min(best, time.process_time() - start)
    assert best / len(text) * 100 < 0.2e-3


def test_language_is_detected():
  for text, language in {
    "Bei 10 hoch 7 Metern": "other", "J'ai 25 ans": "other", "Tengo 3 gatos y es tarde": "other", "Ho 40 anni": "other",
    "O preço é 50 reais": "other", "私は25歳です": "other", "東京駅で10円": "other", "저는 20살": "other",
    "Мне 30 лет": "other",
    "I have 3 cats": "en", "The café opens at 9": "en", "Los Angeles has 4 million people": "en", "α = 5": "en",
    "Smith et al. 2020": "en", "3:00 PM EST": "en", "import os.path": "en", "ΔT rose": "en",
    "角度θ为30°": "zh", "hello 世界": "zh", "5 μg": "en",
  }.items():  # fmt: skip
    assert detect_language(text) == language, text
  for text in (
    "2024-05",
    "12",
    "5.6mmol/L",
    "①②③",
    "-5%~-3%",
    "x³",
    "CO₂",
    "US$20",
    "A-Z",
  ):  # digits, signs and units alone
    assert (detect_language(text), detect_language(text, "zh")) == ("en", "zh")


def test_language_is_an_argument():
  assert normalise("12") == "twelve." and normalise("12", prompt_language="zh") == "十二。"
  assert normalise("12", "other") == "12." and normalise("I ate 2", "zh") == "I ate二。"
  [piece] = prepare("12", TINY, ONE, language="zh")
  assert piece.text == "十二。" == fed("12", 1, language="zh")[0] == fed("12", 1, prompt_language="zh")[0]
  assert fed("J'ai 25 ans", 1)[0] == "J'ai 25 ans."
  for wrong in ({"language": "de"}, {"prompt_language": "auto"}, {"language": None}):
    for refused in (
      lambda w=wrong: normalise("a", **w),
      lambda w=wrong: prepare("a", TINY, ONE, **w),
      lambda w=wrong: fed("a", 1, **w),
    ):
      with pytest.raises(ConfigError, match="language: expected one of"):
        refused()


def test_units_of_one_sign_alone():
  """A unit without a number is read, alone and in a stream alike."""
  for text in ("㎡", "㎏", "℃", "5㎡"):
    for language in ("en", "zh"):
      try:
        [whole] = prepare(text, TINY, ONE, language=language)
      except TextError:
        with pytest.raises(TextError):
          fed(text, 1, language=language)
        continue
      assert fed(text, 1, language=language) == (whole.text, list(whole.ids))


def test_lexicon():
  lexicon = Lexicon({"sql": "sequel", "GIF": "jif", "New York": "Noo Yawk", "重庆": "崇庆", "haha": "[laughter]"})
  text = "The SQL in mysql, a GIF or gif, in New York. 重庆 haha"
  spoken = normalise(text, "en", lexicon=lexicon)
  assert spoken == "The sequel in mysql, a jif or gif, in Noo Yawk. 崇庆 [laughter]。"
  for size in (1, 3, 50):
    [whole] = prepare(text, TINY, ONE, lexicon=lexicon)
    assert fed(text, size, lexicon=lexicon) == (whole.text, list(whole.ids))
    plain = TextConfig(min_tokens=1 << 30, max_tokens=1 << 30, normalise=False)
    stream = TextStream(TINY, plain, lexicon=lexicon)
    out = [one for i in range(0, len(text), size) for one in stream.push(text[i : i + size])] + stream.close()
    assert "".join(one.text for one in out) == prepare(text, TINY, plain, lexicon=lexicon)[0].text
  assert normalise("It costs $5", lexicon=Lexicon({"five dollars": "a fiver"})) == "It costs a fiver."


def test_lexicon_in_pieces():
  """Wherever a text is cut, entries that overlap or end it are found as in the whole."""
  lexicon, draw = Lexicon({"ab": "1", "abc": "2", "b c": "3", "好": "4", "好的": "5", "C": "6"}), random.Random(2)
  for _ in range(2000):
    text = "".join(draw.choices("abcC 好的.", k=draw.randint(1, 12)))
    stream, out = lexicon.stream(), ""
    for c in text:
      out += stream.feed(c)
      assert stream.held <= 4
    assert out + stream.close() == lexicon.replace(text), text


def test_lexicon_file(tmp_path):
  path = tmp_path / "words.txt"
  path.write_text("# words\nSQL => sequel\n\nGIF\tjif\n你好 => 您好\n", encoding="utf-8")
  lexicon = Lexicon.load(path)
  assert len(lexicon) == 3 and lexicon.replace("SQL GIF 你好") == "sequel jif 您好"
  for text, says in (
    ("a => b\nword", "line 2: expected 'word => words'"),
    ("=> b", "line 1: "),
    ("a =>", "line 1"),
    ("a => b\na => c", "line 2: 'a' stands in line 1"),
    ("a => <|endofprompt|>", "line 1: .* control tag"),
    ("x" * 65 + " => y", "at most 64"),
    ("[breath] => y", "holds a tag"),
  ):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
      Lexicon.load(path)
  path.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(ConfigError, match="cannot be read"):
    Lexicon.load(path)
  with pytest.raises(ConfigError, match="cannot be read"):
    Lexicon.load(tmp_path / "none")


def test_fuzzed():
  """A short run of `tests.fuzz_text`: typed errors at most, and streams equal whole texts."""
  fuzz_text.case(150)()
