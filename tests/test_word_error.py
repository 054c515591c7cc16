"""Word and character error: text rules, alignments counted by hand, rates over utterances and over the corpus."""

import pytest

from cosyjax.errors import ConfigError
from cosyjax.evaluation import word_error
from cosyjax.evaluation.word_error import Errors, align, compare, plain_text


def words(reference, found):
  return align(reference.split(), found.split())


def test_alignments_counted_by_hand():
  assert words("a b c d", "a x c") == Errors(2, 1, 1, 0, tail_deleted=1)
  assert words("the cat sat", "the the cat sat down now") == Errors(3, 0, 0, 3, tail_inserted=2)
  assert align("kitten", "sitting") == Errors(4, 2, 0, 1, tail_inserted=1)
  assert words("one two", "") == Errors(0, 0, 2, 0, tail_deleted=2)
  assert align([], ["noise"]) == Errors(0, 0, 0, 1, tail_inserted=1)
  assert align([], []).rate == 0
  assert align(["a"], ["b", "c"]).rate == 2  # above 1 where much was added


def test_the_mean_over_utterances_is_not_the_corpus_rate():
  errors = [words("a", "b"), words("a b c d e f g h i", "a b c d e f g h i")]
  assert word_error.mean_rate(errors) == pytest.approx((1 + 0) / 2)
  assert word_error.corpus_rate(errors) == pytest.approx(1 / 10)
  assert str(word_error.mean_rate([])) == str(word_error.corpus_rate([])) == "nan"


def test_english_by_whispers_rule_knows_numbers_contractions_and_spelling():
  assert plain_text("Twenty-one men don't like the colour.", "en") == "21 men do not like the color"
  word, character = compare("We paid forty dollars, Mr. Brown!", "we paid $40 mister brown", "en")
  assert (word.edits, word.length, character.edits) == (0, 5, 0)
  word, character = compare("The birch canoe slid.", "the birch canoes slid", "en")
  assert (word.edits, word.length, word.rate) == (1, 4, 0.25)
  assert (character.edits, character.length) == (1, len("the birch canoe slid"))


def test_chinese_is_compared_by_simplified_character_with_numbers_read_out():
  assert plain_text("繁體字，「七百」。", "zh") == "繁 体 字 七 百"
  word, character = compare("这个自行车七百五十块。", "這個自行車750塊", "zh")
  assert word == character == Errors(10, 0, 0, 0)
  word, _ = compare("交易几乎停滞", "交易幾乎停制", "zh")
  assert (word.edits, word.length) == (1, 6)


def test_seed_tts_evals_rule_reads_nothing_out():
  assert plain_text("It's twenty-one, isn't it?", "en", "seed-tts-eval") == "it's twentyone isn't it"
  assert plain_text("六点整。", "zh", "seed-tts-eval") == "六 点 整"
  assert compare("六点", "6点", "zh", "seed-tts-eval")[0].edits == 1
  assert compare("六点", "6点", "zh")[0].edits == 0
  assert plain_text("Guten Tag, 'Welt'!", "de") == "guten tag 'welt'"
  assert plain_text("こんにちは。", "ja") == "こ ん に ち は"


def test_a_wrong_rule_or_a_missing_package_says_what_would_be_right(monkeypatch):
  with pytest.raises(ConfigError, match=r"expected one of \('whisper', 'seed-tts-eval'\), found 'other'"):
    plain_text("a", "en", "other")
  monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
  with pytest.raises(ConfigError, match=r"word error needs the package jiwer: pip install 'cosyjax\[evaluation\]'"):
    align(["a"], ["b"])
