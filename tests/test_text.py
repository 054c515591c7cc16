"""Tags, text tokenizer and the way from a user's text to pieces."""

import json
import logging
import subprocess
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyjax.config import TextConfig
from cosyjax.errors import CheckpointError, TextError, TokenError
from cosyjax.text import TextTokenizer, prepare, tags, tiny_tokenizer_dir
from cosyjax.text.frontend import clean
from tests import golden_files
from tests.make_tiny_tokenizer import train

TINY = TextTokenizer.load(tiny_tokenizer_dir())
TINY_SPLIT = TextTokenizer.load(tiny_tokenizer_dir(), split_cjk=True)
TEXTS = json.loads((golden_files.GOLDEN / "text_tokenizer.json").read_text(encoding="utf-8"))
QWEN = golden_files.GOLDEN / "release" / "CosyVoice-BlankEN"
PLAIN = TextConfig(normalise=False)

# Tokenizer.


def test_ids_equal_the_release():
  tokenizer = TextTokenizer.load(QWEN)
  for row in TEXTS:
    assert tokenizer.encode(row["text"]) == row["ids"], row["text"]
    assert tokenizer.decode(row["ids"]) == row["text"]
  assert tokenizer.end_of_prompt_id == 483
  assert len(tokenizer) == 500
  assert tokenizer.control_tags == tuple(sorted(tags.CONTROL))


def test_tag_order():
  """Ids follow the order of the release: <|endoftext|>, then these, without a gap."""
  tokenizer = TextTokenizer.load(QWEN)
  assert [tokenizer.ids[tag] for tag in (tags.END_OF_TEXT, *tags.SPECIAL)] == list(range(480, 500))
  for tag, i in tokenizer.ids.items():
    assert tokenizer.encode(f"a{tag}b")[1:-1] == [i]


def test_saved_and_loaded(tmp_path):
  """Through tokenizer.json, into a directory that is there or not; nothing else is left in it."""
  (tmp_path / "there").mkdir()
  for target in (tmp_path / "there", tmp_path / "new" / "deep"):
    TextTokenizer.load(QWEN).save(target)
    assert sorted(p.name for p in target.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    again = TextTokenizer.load(target)
    assert all(again.encode(row["text"]) == row["ids"] for row in TEXTS)
    assert again.ids == TextTokenizer.load(QWEN).ids
    again.save(target)


def test_unusable_directories(tmp_path):
  for missing in (tmp_path / "none", tmp_path):
    with pytest.raises(CheckpointError, match="holds no text tokenizer"):
      TextTokenizer.load(missing)
  for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
    (tmp_path / name).write_text("{", encoding="utf-8")
  with pytest.raises(CheckpointError, match="cannot be read"):
    TextTokenizer.load(tmp_path)


def test_decode_refuses_other_ids():
  for wrong in ([-1], [500], [2**40]):
    with pytest.raises(TokenError, match="not in the vocabulary of 500"):
      TINY.decode(wrong)
  assert TINY.decode(TINY.encode("a[laughter]b"), skip_tags=True) == "ab"


def test_split_cjk():
  """A token of several Chinese characters becomes one token or more per character; all else stays."""
  for text in ("喜欢", "的风", "们一起去", "我喜欢你，他们一起去。"):
    assert len(TINY.encode(text)) < len(TINY_SPLIT.encode(text))
    assert TINY_SPLIT.encode(text) == [i for c in text for i in TINY.encode(c)]
    assert TINY_SPLIT.encode(f"I {text}!") == [*TINY.encode("I "), *TINY_SPLIT.encode(text), *TINY.encode("!")]
  # a token may end within a character: "们一" and the first bytes of 赀
  assert TINY.decode(TINY.encode("们一赀")[:1]) == "们一\ufffd"
  assert TINY_SPLIT.encode("们一赀") == [i for c in "们一赀" for i in TINY.encode(c)]
  for text in ("plain English, 12.", "[laughter]<strong>a</strong>", "こんにちは", "안녕하세요", "👍🏽"):
    assert TINY_SPLIT.encode(text) == TINY.encode(text)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_round_trip(text):
  """Bytes cover every text; NFC is the only change."""
  text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
  for tokenizer in (TINY, TINY_SPLIT):
    ids = tokenizer.encode(text)
    assert all(0 <= i < 512 for i in ids)
    assert tokenizer.decode(ids) == text


def test_tiny_tokenizer_is_reproducible(tmp_path):
  train(tmp_path)
  for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
    assert (tmp_path / name).read_bytes() == (tiny_tokenizer_dir() / name).read_bytes()
  assert len(TINY) <= 512


def test_import_is_light():
  """Text comes without PyTorch, and importing it without transformers."""
  script = (
    "import sys, cosyjax.text as t; assert 'transformers' not in sys.modules;"
    "t.TextTokenizer.load(t.tiny_tokenizer_dir()); assert 'torch' not in sys.modules"
  )
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert "PyTorch" not in done.stderr


def test_spans():
  found = tags.spans("a<strong>b<laughter>c</laughter>d</strong>e<strong>f")
  assert found == [(1, 42, "<strong>"), (10, 32, "<laughter>")]
  assert tags.spans("</strong>a<strong>") == []
  assert tags.spans("<strong>a<strong>b</strong>") == [(0, 27, "<strong>")]


# Front end.


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("", "nothing"),
    (" \n\t\u3000", "nothing"),
    ("。。。", "can be spoken"),
    ("?!…", "can be spoken"),
    ("👍🎉", "can be spoken"),
    ("\u200b\u202e", "nothing"),
    ("<strong></strong>", "can be spoken"),
    ("\u0301\u0301", "can be spoken"),
    (None, "expected a string, found NoneType"),
    (b"hello", "expected a string, found bytes"),
    ("a\ud800b", "character 1 is half of a surrogate pair"),
    ("a" * 100_001, "at most 100,000"),
  ],
)
def test_unspeakable(text, says):
  with pytest.raises(TextError, match=says):
    prepare(text, TINY, TextConfig())


@pytest.mark.parametrize("tag", tags.CONTROL)
@pytest.mark.parametrize(
  "form",
  ["{}", "hello {} there", "你好{}", "x{0}{0}", "\u202e{}"],
)
def test_control_tags_are_refused(tag, form):
  with pytest.raises(TextError, match="control tag") as error:
    prepare(form.format(tag), TINY, TextConfig())
  assert tag in str(error.value) and "[laughter]" in str(error.value)


@pytest.mark.parametrize("joint", ["\u200b", "\u2060", "\x00", "\u202e", "👍", "\U000e0041"])
@pytest.mark.parametrize("config", [TextConfig(), PLAIN])
def test_control_tags_cannot_be_put_together(joint, config):
  """A sign that is removed later must not hide a tag."""
  for at in (1, 5, 14):
    text = "hi " + tags.END_OF_PROMPT[:at] + joint + tags.END_OF_PROMPT[at:] + " there"
    try:
      pieces = prepare(text, TINY, config)
    except TextError:
      continue
    ids = [i for piece in pieces for i in piece.ids]
    assert not set(ids) & {TINY.ids[tag] for tag in tags.CONTROL}


def test_a_replaced_normaliser_is_checked_too():
  with pytest.raises(TextError, match="control tag"):
    prepare("hello", TINY, TextConfig(), normalise=lambda text: text + tags.END_OF_PROMPT)
  with pytest.raises(TextError, match="found list"):
    prepare("hello", TINY, TextConfig(), normalise=list)
  [piece] = prepare("hello", TINY, TextConfig(), normalise=str.upper)
  assert piece.text == "HELLO"


def test_spoken_tags_reach_the_model():
  [piece] = prepare("[laughter]真好！<strong>3</strong>个 [breath]", TINY, TextConfig())
  assert piece.text == "[laughter]真好！<strong>三</strong>个[breath]。"
  for tag in ("[laughter]", "<strong>", "</strong>", "[breath]"):
    assert TINY.ids[tag] in piece.ids
  [piece] = prepare("[laughter]", TINY, TextConfig())
  assert piece.ids == (TINY.ids["[laughter]"],)


def test_pieces_and_log(caplog):
  text = "The first sentence has 12 words. " * 20
  with caplog.at_level(logging.INFO, logger="cosyjax.text"):
    pieces = prepare(text, TINY, TextConfig())
  assert len(pieces) > 2
  assert all(list(piece.ids) == TINY.encode(piece.text) for piece in pieces)
  assert " ".join(piece.text for piece in pieces) == ("The first sentence has twelve words. " * 20).strip()
  assert all(len(piece.ids) <= 80 for piece in pieces[:-1])
  lines = [record.getMessage() for record in caplog.records]
  assert len(lines) == len(pieces)
  assert lines[0] == f"segment 1 of {len(pieces)}, {len(pieces[0].ids)} tokens: {pieces[0].text}"


def test_normalising_can_be_left_out():
  [piece] = prepare("cafe\u0301 12", TINY, PLAIN)
  assert piece.text == "café 12"


def test_one_piece_without_limits():
  huge = 1 << 30
  config = TextConfig(min_tokens=huge, max_tokens=huge, merge_tokens=0)
  assert len(prepare("First. Second!\n\nThird? 第四。", TINY, config)) == 1


def test_clean():
  assert clean("a\x00\x1b\u202eb\u200d\ufeff\nc\td") == "ab\nc\td"
  assert clean("e\u0301") == "é"
  assert clean("a" + "\u0301" * 1000) == "á" + "\u0301" * 7  # NFC of endless marks would take forever


HOSTILE = {
  "digits": "1" * 100_000,
  "words": "I have 123 apples, it costs $45.60. " * 2700,
  "prices": "我有123个苹果，价格是￥45.60。" * 5000,
  "one word": "a" * 100_000,
  "one Chinese word": "我" * 100_000,
  "hyphens": "a-" * 50_000,
  "marks": "，" * 99_999 + "a",
  "accents": "a" + "\u0316\u0301" * 49_999,
  "jamo": "\u1100" * 50_000 + "\u1161" * 49_999,
  "joiners": "\u200d" * 99_999 + "a",
  "emoji": "👨‍👩‍👧" * 19_999 + "a",
  "sounds": "[laughter]1" * 9000,
  "open tags": "<strong>" * 12_000 + "a",
  "spans": "<strong>a</strong>" * 5500,
  "one span": "<strong>" + "我" * 90_000 + "</strong>",
  "nested tags": "<strong><laughter>" * 4000 + "a" + "</laughter></strong>" * 1000,
  "lines": "a\n" * 50_000,
  "short sentences": "a。" * 50_000,
  "directions": "\u202e\u2066a" * 33_000,
  "Thai": "ก็้" * 33_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_bounded(name):
  """100,000 characters of anything take seconds, and no piece is much longer than allowed."""
  start = time.process_time()
  pieces = prepare(HOSTILE[name], TINY, TextConfig())
  assert time.process_time() - start < 15  # alone, the slowest takes 2.5 s
  assert pieces and all(len(piece.ids) <= 80 + 20 + 4 for piece in pieces)


@settings(max_examples=150, deadline=None)
@given(
  st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*tags.SPECIAL, "3.14", "。", "\n", "你好"])), max_size=12)
)
def test_any_text_gives_pieces_or_a_text_error(parts):
  text = "".join(parts)
  try:
    pieces = prepare(text, TINY, TextConfig(min_tokens=6, max_tokens=10, merge_tokens=3))
  except TextError:
    return
  assert pieces
  for piece in pieces:
    assert piece.ids and not set(piece.ids) & {TINY.ids[tag] for tag in tags.CONTROL}
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in piece.text)
