"""Splitting long text into pieces."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyjax.errors import ConfigError
from cosyjax.text import TextTokenizer, split_text, tags, tiny_tokenizer_dir

TINY = TextTokenizer.load(tiny_tokenizer_dir())


def letters(text: str) -> int:
  return len("".join(text.split()))


def words(text: str) -> int:
  return len(text.split())


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("一二三。四五六！七八？九", ["一二三。", "四五六！", "七八？", "九"]),
    ("他说：“走吧。”然后笑了。", ["他说：“走吧。”", "然后笑了。"]),
    ("真的吗？！太好了……走", ["真的吗？！", "太好了……", "走"]),
    ("First one. Second one! Third? Yes", ["First one.", "Second one!", "Third?", "Yes"]),
    ('"Stop!" She left. "Really?" he said.', ['"Stop!"', "She left.", '"Really?" he said.']),
    ("Mr. Smith paid 3.14 dollars. Then he left.", ["Mr. Smith paid 3.14 dollars.", "Then he left."]),
    ("Use fruit, e.g. apples. J. K. Rowling wrote.", ["Use fruit, e.g. apples.", "J. K. Rowling wrote."]),
    ("See example.com. It is v1.2.3. Done", ["See example.com.", "It is v1.2.3.", "Done"]),
    ("It took approx. five days... or more. Fine.", ["It took approx. five days... or more.", "Fine."]),
    ("好。[laughter]走。", ["好。", "[laughter]走。"]),
    ("a<strong>好。走。</strong>b。c", ["a<strong>好。走。</strong>b。", "c"]),
    ("a<strong>好。走。b。c", ["a<strong>好。", "走。", "b。", "c"]),
  ],
)
def test_sentence_ends(text, expected):
  """Whatever fits a piece, pieces hold as many whole sentences as fit."""
  for longest in range(max(map(letters, expected)), letters(text) + 1):
    filled = [""]
    for sentence in expected:
      if letters(filled[-1] + sentence) > longest:
        filled.append("")
      filled[-1] += sentence
    pieces = split_text(text, letters, 1, longest, 0)
    assert ["".join(piece.split()) for piece in pieces] == ["".join(piece.split()) for piece in filled]


def test_pieces_are_filled():
  text = "One two three four. " * 10
  assert split_text(text, words, 6, 8, 0) == ["One two three four. One two three four."] * 5


def test_a_short_end_joins_the_piece_before():
  text = "One two three four. " * 4 + "Five."
  assert split_text(text, words, 6, 8, 0)[-1] == "Five."
  merged = split_text(text, words, 6, 8, 2)
  assert len(merged) == 2 and merged[-1].endswith("four. Five.")


def test_a_piece_below_the_minimum_takes_clauses():
  """Six of eight words are too few here, and the next sentence can be cut at its comma."""
  text = "One two three four five six. Seven eight, nine ten eleven twelve. Thirteen."
  assert split_text(text, words, 7, 8, 0) == [
    "One two three four five six. Seven eight,",
    "nine ten eleven twelve. Thirteen.",
  ]
  # cutting would not help if the comma comes too late
  text = "One two three four five six. Seven eight nine, ten eleven twelve. Thirteen."
  assert split_text(text, words, 7, 8, 0) == [
    "One two three four five six.",
    "Seven eight nine, ten eleven twelve. Thirteen.",
  ]


def test_long_sentences_are_cut_at_commas_then_blanks_then_anywhere():
  assert split_text("一二三四，五六七八，九十", len, 5, 6, 0) == ["一二三四，", "五六七八，", "九十"]
  assert split_text("aaa bbb ccc ddd eee", len, 6, 8, 0) == ["aaa bbb", "ccc ddd", "eee"]
  assert split_text("abcdefghij", len, 3, 4, 0) == ["abcd", "efgh", "ij"]
  assert split_text("1,234,567 and 12:30", words, 1, 2, 0) == ["1,234,567 and", "12:30"]


def test_a_mark_or_an_accent_begins_no_piece():
  assert split_text("一二三四五。六", len, 5, 5, 0) == ["一二三四", "五。六"]
  parts = split_text("e\u0301" * 9, len, 3, 3, 0)
  assert all(part.startswith("e") for part in parts)


def test_spans_stay_whole():
  text = "一二三。<strong>四五六。七八九。</strong>十。"
  parts = split_text(text, TINY, 10, 24, 0)
  assert any("<strong>四五六。七八九。</strong>" in part for part in parts)
  assert "".join(parts) == text
  text = "一二三。<strong>[laughter]四五六。[breath]七八九。</strong>十。"
  for longest in (24, 26, 28):
    assert any(
      "<strong>[laughter]四五六。[breath]七八九。</strong>" in p for p in split_text(text, TINY, 10, longest, 0)
    )


def test_a_span_longer_than_a_piece_is_closed_and_opened_again():
  inside = "今天的天气真好，我们一起去公园走走吧。" * 8
  parts = split_text(f"好。<strong>{inside}</strong>走。", TINY, 20, 40, 0)
  assert len(parts) > 4
  for part in parts:
    assert part.count("<strong>") == part.count("</strong>") <= 1
    assert len(TINY.encode(part)) <= 40
  assert re.sub("</?strong>", "", "".join(parts)) == f"好。{inside}走。"
  assert all(part.startswith("<strong>") for part in parts[1:-1])


def test_limits():
  for limits in ((0, 10, 5), (11, 10, 5), (5, 10, -1)):
    with pytest.raises(ConfigError, match="min_tokens"):
      split_text("a", len, *limits)
  assert split_text("", len) == split_text("  \n", len) == []


PARTS = st.one_of(
  st.text(max_size=8),
  st.sampled_from(["。", ". ", "，", ", ", "3.14", "Mr. ", "”", '"', "你好世界", "hello ", "e\u0301", *tags.SPOKEN]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PARTS, max_size=25).map("".join), st.integers(1, 12), st.integers(0, 12), st.integers(0, 6))
def test_nothing_is_lost(text, least, more, merge):
  """The pieces are the text, but for blanks and for spans cut in two; no tag is broken; lengths hold."""
  most = least + more

  def count(part: str) -> int:  # a tag is one token, as for the model
    return len(tags.PATTERN.sub("T", part))

  parts = split_text(text, count, least, most, merge)
  joined = "".join(parts)
  for opening, closing in tags.SPANS.items():
    joined, expected = joined.replace(opening, "").replace(closing, ""), text.replace(opening, "").replace(closing, "")
    text = expected
  assert "".join(joined.split()) == "".join(text.split())
  assert all(part and part == part.strip() for part in parts)


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS.filter(lambda p: p not in tags.SPANS and p not in tags.SPANS.values()), max_size=25).map("".join))
def test_tags_are_not_broken_and_lengths_hold(text):
  def count(part: str) -> int:
    return len(tags.PATTERN.sub("T", part))

  parts = split_text(text, count, 6, 20, 0)
  found = [tag for part in parts for tag in tags.PATTERN.findall(part)]
  assert found == tags.PATTERN.findall(text)
  assert all(count(part) <= 20 for part in parts)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12))
def test_spans_hold_in_every_piece(size, longest):
  """However small pieces are, each has as many opening as closing tags, in order."""
  text = "a。<laughter>" + "好。" * size + "<strong>" + "走" * size + "</strong></laughter>b"
  for part in split_text(text, lambda p: len(tags.PATTERN.sub("T", p)), 1, longest, 0):
    depth = []
    for tag in tags.PATTERN.findall(part):
      if tag in tags.SPANS:
        depth.append(tags.SPANS[tag])
      else:
        assert depth.pop() == tag
    assert not depth
