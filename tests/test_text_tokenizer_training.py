"""A text tokenizer that is trained: words from merges, a Chinese character to an entry, Qwen's files."""

import pytest

from cosyjax.errors import DataError
from cosyjax.text import TextTokenizer
from train import text_tokenizer

LINES = ["the cat and the other cat", "the weather is better", "今天天气好。", "今天不好，明天好。"]


def test_words_are_merged_and_characters_are_single(tmp_path):
  file = tmp_path / "texts.txt"
  file.write_text("\n".join(LINES * 3), encoding="utf-8")
  assert text_tokenizer.main(["--texts", str(file), "--merges", "40", "--characters", "6", "--out", str(tmp_path)]) == 0
  whole, split = (TextTokenizer.load(tmp_path, split_cjk=flag) for flag in (False, True))
  for text in (*LINES, "A word that was never seen: 龘!"):
    assert whole.decode(whole.encode(text)) == text and whole.encode(text) == split.encode(text)
  assert len(whole.encode("the cat")) == 2
  assert len(whole.encode("今天好")) == 3 and len(whole.encode("龘")) > 1
  assert all(sum(c > "\u2e80" for c in whole.decode([i])) <= 1 for i in range(len(whole) - 30))


def test_no_text(tmp_path):
  with pytest.raises(DataError, match="expected lines of text"):
    text_tokenizer.train(["", "  "], 10, 10, tmp_path / "out")
