"""What callers give as text, language and lexicon, to the engine and to the programs."""

import types

import numpy as np
import pytest

from cosyjax.config import TextConfig
from cosyjax.errors import ConfigError, TextError
from cosyjax.inference.requests import Request
from cosyjax.inference.text_source import Inbox, read, whole_text
from cosyjax.inference.voice import Voice
from cosyjax.text import Lexicon, TextStream, TextTokenizer, prepare, tiny_tokenizer_dir
from infer import stream, synthesize

TINY = TextTokenizer.load(tiny_tokenizer_dir())


def voice(transcript: str) -> Voice:
  return Voice(np.ones(192, np.float32), np.zeros(2, np.int32), np.zeros((4, 80), np.float32), transcript)


def inbox_of(pieces) -> tuple[str, BaseException | None]:
  """What comes of pieces in the engine's inbox, read to the end."""
  inbox, channel = Inbox(lambda: None), types.SimpleNamespace(over=False)
  read(pieces, TextStream(TINY, TextConfig()), inbox, channel)()
  text, closed = "", False
  while not closed:
    items, closed = inbox.take()
    text += "".join(item.text for item in items)
  return text


def test_text_known_as_a_whole():
  assert whole_text("你好") == whole_text("你好".encode()) == whole_text(bytearray("你好".encode())) == "你好"
  with pytest.raises(TextError, match="byte 1 is not UTF-8"):
    whole_text(b"a\xff")
  for wrong in ({"text": "hi"}, {"hi"}, 5, None, ["hi"], object()):
    with pytest.raises(ConfigError, match="text: expected a string or UTF-8 bytes, found"):
      whole_text(wrong)


def test_text_that_arrives():
  assert inbox_of(["It costs ", None, b"$5", None]) == "It costs five dollars."
  assert inbox_of(iter(["㎡"])) == "m squared."
  for wrong in ({"hi": 1}, {"hi"}, frozenset({"hi"}), 5, None):
    with pytest.raises(ConfigError, match="text: expected a string or an iterable of pieces"):
      inbox_of(wrong)
  with pytest.raises(TextError, match="found int"):
    inbox_of([5])


def test_digits_alone_follow_the_prompt():
  for transcript, spoken in (("", "twelve."), ("Hello there", "twelve."), ("你好", "十二。"), ("Ich bin hier", "12.")):
    request = Request("12", voice(transcript))
    assert prepare("12", TINY, TextConfig(), **request.reading)[0].text == spoken
  with pytest.raises(ConfigError, match="lexicon: expected"):
    Request("12", voice(""), lexicon={"a": "b"}).resolved(None)


def test_dry_run(capsys, tmp_path):
  """Segments as they will be read and their ids, without weights; of a stream too."""
  lexicon = tmp_path / "words.txt"
  lexicon.write_text("SQL => sequel\n", encoding="utf-8")
  text = "I owe $5 to SQL fans. " * 12
  flags = ["--preset", "tiny", "--dry-run", "--lexicon", str(lexicon)]
  assert synthesize.main([*flags, "--text", text]) == 0
  shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
  pieces = prepare(text, TINY, TextConfig(), lexicon=Lexicon({"SQL": "sequel"}))
  assert [(words, [int(i) for i in ids.split()]) for words, ids in shown] == [(p.text, list(p.ids)) for p in pieces]
  (tmp_path / "text").write_text(text, encoding="utf-8")
  assert stream.main([*flags, "--text-file", str(tmp_path / "text")]) == 0
  shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
  assert len(shown) > 1 and all(TINY.encode(words) == [int(i) for i in ids.split()] for words, ids in shown)
  assert (
    " ".join(words for words, _ in shown)
    == "I owe five dollars to sequel fans. " * 11 + "I owe five dollars to sequel fans."
  )
  jobs = tmp_path / "jobs.jsonl"
  jobs.write_text('{"text": "12", "out": "a.wav", "language": "zh"}\n{"text": "12", "out": "b.wav"}', encoding="utf-8")
  assert synthesize.main([*flags, "--jobs", str(jobs)]) == 0
  assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["十二。", "twelve."]
  for program in (synthesize, stream):
    with pytest.raises(SystemExit):
      program.main(["--preset", "tiny", "--text", "a"])  # no --out
