"""Text that arrives in pieces: the same ids as the whole text, whatever the cuts, and early."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyjax.config import TextConfig
from cosyjax.errors import ConfigError, TextError
from cosyjax.text import TextTokenizer, prepare, stream_ids, tags, tiny_tokenizer_dir
from cosyjax.text.incremental import MOST_HELD, Fed, TextStream
from tests.stream_texts import CHINESE, CORPUS, DIFFERENT, ENDLESS, ENGLISH, NUMBERS, PARTS, READ_EN, READ_ZH

TINY = TextTokenizer.load(tiny_tokenizer_dir())
TINY_SPLIT = TextTokenizer.load(tiny_tokenizer_dir(), split_cjk=True)
HUGE = 1 << 30
ONE = TextConfig(min_tokens=HUGE, max_tokens=HUGE)  # one utterance
ONE_PLAIN = TextConfig(min_tokens=HUGE, max_tokens=HUGE, normalise=False)
SHORT = TextConfig(min_tokens=12, max_tokens=20)


def cut(text, sizes):
  """`text` (str or bytes) in pieces of the given sizes, again and again."""
  place, i, pieces = 0, 0, []
  while place < len(text):
    pieces.append(text[place : place + sizes[i % len(sizes)]])
    place, i = place + sizes[i % len(sizes)], i + 1
  return pieces


def feed(pieces, tokenizer=TINY, config=ONE, **options) -> list[Fed]:
  stream = TextStream(tokenizer, config, **options)
  return [fed for piece in pieces for fed in stream.push(piece)] + stream.close()


def utterances(fed: list[Fed]) -> list[tuple[str, list[int]]]:
  """(text, ids) of every utterance; each ends once, the last one too."""
  found, text, ids = [], "", []
  for one in fed:
    text, ids = text + one.text, ids + list(one.ids)
    if one.last:
      found.append((text, ids))
      text, ids = "", []
  assert (text, ids) == ("", [])
  return found


@pytest.mark.parametrize("text", CORPUS)
@pytest.mark.parametrize("config", [ONE, ONE_PLAIN])
def test_ids_are_those_of_the_whole_text(text, config, release):
  released = TextTokenizer.load(release / "CosyVoice-BlankEN") if config is ONE and len(text) % 4 == 0 else TINY
  for tokenizer in (TINY, TINY_SPLIT, released):
    [whole] = prepare(text, tokenizer, config)
    for sizes in ([1], [3, 0, 5, 2], [len(text)]):
      [(spoken, ids)] = utterances(feed(cut(text, sizes), tokenizer, config))
      assert (spoken, tuple(ids)) == (whole.text, whole.ids)
    assert feed(cut(text, [1, 4]), tokenizer, config)[-1].last


def test_only_documented_texts_differ():
  for text in DIFFERENT:
    [whole] = prepare(text, TINY, ONE)
    fed = utterances(feed(cut(text, [1])))
    assert fed == utterances(feed([text])) and fed != [(whole.text, list(whole.ids))], text


WORDS = st.sampled_from([*tags.SPOKEN, *PARTS])
TEXTS = st.lists(st.one_of(WORDS, WORDS, st.text(max_size=6)), max_size=25).map("".join)


@settings(max_examples=250, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), st.data())
def test_cuts_change_nothing(text, sizes, data):
  """Contract 3: ids, their order and the utterances, for str and bytes; and ids are those of each utterance's text."""
  tokenizer = data.draw(st.sampled_from([TINY, TINY_SPLIT]))
  config = data.draw(st.sampled_from([ONE, ONE_PLAIN, SHORT, TextConfig(min_tokens=5, max_tokens=6, normalise=False)]))
  options = data.draw(st.sampled_from([{}, {}, {"normalise": str.upper}]))
  results = []
  for pieces in ([text], list(text), cut(text, sizes), cut(text.encode(), sizes)):
    try:
      results.append(utterances(feed(pieces, tokenizer, config, **options)))
    except TextError as error:
      results.append(str(error).split(":")[-1])  # without the number of the piece
  assert all(result == results[0] for result in results)
  if not isinstance(results[0], str):
    for spoken, ids in results[0]:
      assert ids == tokenizer.encode(spoken) != []
      assert not set(ids) & {tokenizer.ids[tag] for tag in tags.CONTROL}


@pytest.mark.parametrize(("first", "words", "language"), [("We say ", READ_EN, "en"), ("你好", READ_ZH, "zh")])
def test_reading_rules_in_any_company(first, words, language):
  """Everything that rules look at, in random order, is read as in the whole text."""
  draw = random.Random(0)
  for _ in range(400):
    chosen = draw.choices(words.split(" "), k=draw.randint(2, 20))
    text = first + (" ".join(chosen) if language == "en" else "".join(w + " " * draw.randint(0, 1) for w in chosen))
    [whole] = prepare(text, TINY, ONE)
    assert utterances(feed(cut(text, [draw.randint(1, 9)]))) == [(whole.text, list(whole.ids))], text


def test_words_flow():
  """A word comes with the second character of the next one, a Chinese clause with its mark, a number when sure."""
  stream = TextStream(TINY, TextConfig())
  assert [[fed.text for fed in stream.push(c)] for c in "Hello my fr"] == [[]] * 7 + [["Hello"]] + [[]] * 2 + [[" my"]]
  stream = TextStream(TINY, TextConfig())
  assert [[fed.text for fed in stream.push(c)] for c in "我有2个，你"] == [[]] * 4 + [["我有两个"], []]
  stream = TextStream(TINY, TextConfig())
  assert [fed.text for fed in stream.push("It costs $5 ")] == ["It"] and stream.push("") == []
  assert "".join(fed.text for fed in stream.push("million, she")) == " costs five million dollars"
  stream.push(" is [laug")
  assert stream.push("hter]")[-1].ids[-1] == TINY.ids["[laughter]"]


@pytest.mark.parametrize(("text", "mean", "most"), [(ENGLISH, 6, 16), (CHINESE, 8, 16), (NUMBERS, 20, 50)])
def test_little_is_held_back(text, mean, most):
  stream, held = TextStream(TINY, TextConfig()), []
  for c in text:
    stream.push(c)
    held.append(stream.held)
  assert sum(held) / len(held) <= mean and max(held) <= most


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("config", [TextConfig(), TextConfig(normalise=False)])
def test_endless_text_is_held_in_bounds(name, config, monkeypatch):
  """What is held, and the work per character, do not grow; nor do utterances."""
  work = 0

  def encode(text, _encode=TINY.encode):
    nonlocal work
    work += len(text)
    return _encode(text)

  monkeypatch.setattr(TINY, "encode", encode)
  stream, size, longest = TextStream(TINY, config), 0, 0
  for _ in range(6):
    for fed in stream.push((ENDLESS[name] * 500)[:500]):
      size += len(fed.ids)
      longest, size = max(longest, size), 0 if fed.last else size
    for c in ENDLESS[name] * 3:
      stream.push(c)
      assert stream.held <= MOST_HELD
  assert longest <= 2 * 80 + 3 * stream_ids.MOST_RUN
  assert work < 12 * 3200


def test_chinese_without_marks_flows_if_characters_are_tokens():
  stream = TextStream(TINY_SPLIT, TextConfig())
  assert stream.push("我们一起去公园走走吧" * 4) != [] and stream.held <= 28


def test_utterances_end_at_sentences():
  text = "The first one is here. Dr. Smith came at 3.14 today, approx. then. " * 6
  fed = utterances(feed(cut(text, [1]), config=TextConfig(min_tokens=40, max_tokens=200)))
  assert len(fed) > 3 and all(spoken.endswith((" here.", "then.")) for spoken, _ in fed)
  assert all(len(ids) >= 40 for _, ids in fed[:-1])
  [whole] = prepare(text, TINY, ONE)
  assert " ".join(spoken for spoken, _ in fed) == whole.text
  fed = utterances(feed(["“走吧。”他说。" * 9 + "！！"], config=TextConfig(min_tokens=10, max_tokens=20)))
  assert all(spoken.endswith(("。", "”", "！")) and spoken[0] in "“他" for spoken, _ in fed)


def test_utterances_end_at_commas_blanks_or_anywhere():
  config = TextConfig(min_tokens=10, max_tokens=20)
  for text, last, least in (("aa, bb, ", ",.", 20), ("aa bb ", "ab.", 30), ("我" * 200 + "你" * 200, "我你。", 40)):
    fed = utterances(feed(cut(text * 20, [7]), config=config))
    assert len(fed) > 2
    for spoken, ids in fed[:-1]:
      assert spoken[-1] in last and least <= len(ids) <= least + 3 * stream_ids.MOST_RUN


def test_spans_are_closed_and_opened_again():
  text = "<strong>" + "今天的天气真好。" * 9 + "</strong>走。"
  fed = utterances(feed(cut(text, [5]), config=SHORT))
  assert len(fed) > 2
  for spoken, ids in fed:
    assert spoken.count("<strong>") == spoken.count("</strong>") <= 1 and ids == TINY.encode(spoken)
  assert "".join(spoken for spoken, _ in fed).replace("</strong><strong>", "") == text
  text = "走吧。<strong>今天好。我们走。</strong>好。"  # one that is short enough stays whole
  fed = utterances(feed(cut(text, [5]), config=TextConfig(min_tokens=10, max_tokens=60)))
  assert [spoken for spoken, _ in fed] == ["走吧。<strong>今天好。我们走。</strong>", "好。"]


def test_signs_make_no_utterance():
  fed = utterances(feed(["One two three four five six. ", "Done it all. ", "👍 !! ...", " —"], config=SHORT))
  assert all(any(c.isalnum() for c in spoken) for spoken, _ in fed)
  assert feed(["Hi", " [breath]"])[-1].last


@pytest.mark.parametrize("tag", tags.CONTROL)
def test_control_tags_are_refused(tag):
  """As soon as they are complete, however they come about; nothing of them comes before."""
  for config in (ONE, ONE_PLAIN):
    stream, fed = TextStream(TINY, config), []
    for c in "hello my " + tag[:-1]:
      fed += stream.push(c)
    assert "".join(one.text for one in fed) in ("hello", "hello my")
    with pytest.raises(TextError, match=r"piece 1\d+|piece 2\d+") as error:
      stream.push(tag[-1] + " ")  # there is an accent that could still change ">"
    assert tag in str(error.value) and "[laughter]" in str(error.value)
    for again in (stream.close, lambda: stream.push("x")):  # noqa: B023
      with pytest.raises(TextError, match="has failed"):
        again()
    with pytest.raises(TextError, match="control tag"):
      feed([tag[:5], "\u200b", tag[5:]], config=config)
  with pytest.raises(TextError, match="control tag"):
    feed(["hello " + tag[:6] + "👍" + tag[6:]])
  with pytest.raises(TextError, match="control tag"):
    feed(["Hello. ", "There"], normalise=lambda text: text + tag)


def test_errors_say_where():
  for wrong, says in (
    (None, "piece 2 .* found NoneType"),
    ("ab\ud83d", "piece 2 .* character 2 is half of a surrogate pair"),
    (b"ab\xff", "piece 2 .* byte 2 is not UTF-8"),
  ):
    with pytest.raises(TextError, match=says):
      feed(["hi", wrong])
  with pytest.raises(TextError, match="byte 0 is not UTF-8"):
    feed([b"hi \xe4\xbd", b"x"])
  with pytest.raises(TextError, match="after bytes that end within"):
    feed([b"hi \xe4\xbd", "x"])
  with pytest.raises(TextError, match="ends within a character, after 1 pieces"):
    feed([b"hi \xe4\xbd"])
  with pytest.raises(TextError, match="found int"):
    feed(["Hello."], normalise=len)
  with pytest.raises(TextError, match="surrogate"):
    feed(["Hello."], normalise=lambda text: "\ud800")
  with pytest.raises(ConfigError, match="min_tokens"):
    TextStream(TINY, TextConfig(min_tokens=9, max_tokens=8))
  stream = TextStream(TINY, ONE)
  stream.push("Hello")
  assert stream.close()[-1] == Fed("Hello.", tuple(TINY.encode("Hello.")), True)
  for again in (stream.close, lambda: stream.push("")):
    with pytest.raises(TextError, match="has been closed"):
      again()


@pytest.mark.parametrize(
  "text", ["", "  \n", "。。。", "?!…" * 99, "👍🎉", "\u200b", "<strong></strong>", "\u0301", "["]
)
@pytest.mark.parametrize("config", [ONE, ONE_PLAIN, SHORT])
def test_nothing_to_say(text, config):
  for pieces in ([text], list(text), []):
    stream = TextStream(TINY, config)
    assert all(stream.push(piece) == [] for piece in pieces)
    with pytest.raises(TextError, match="can be spoken"):
      stream.close()


def test_a_normaliser_of_the_callers_gets_sentences():
  seen = []
  text = "Mr. One is here. Two [laughter] came! 三。四"
  fed = feed(cut(text, [4]), normalise=lambda sentence: seen.append(sentence) or sentence.upper())
  assert seen == ["Mr. One is here.", " Two [laughter] came!", " 三。", "四"]
  assert utterances(fed)[0][0] == "MR. ONE IS HERE. TWO [LAUGHTER] CAME! 三。四"
