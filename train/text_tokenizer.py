"""Trains a text tokenizer in Qwen's files: byte-level BPE in which every Chinese character is a token of its own.

  python -m train.text_tokenizer --texts en.txt zh.txt --merges 1500 --characters 2200 --out TOKENIZER

Reads lines of text. Words are learned from what is not Chinese: so many merges of byte pairs. The most frequent
Chinese characters get an entry each (and their first two bytes one that they share); rarer ones stay bytes. No
entry holds two Chinese characters, so `split_cjk` changes nothing.

Writes vocab.json, merges.txt and tokenizer_config.json, and prints how many text ids a word and a character take.

Exit status: 0, or 1 if a file cannot be used.
"""

import argparse
import collections
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cosyjax.errors import DataError
from cosyjax.text import TextTokenizer, tags
from cosyjax.text.text_tokenizer import is_han
from train.cli import at_exit

# Qwen's way of cutting words.
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_CHINESE = "\u2e80"  # from here on are characters and their punctuation


def train(lines: Sequence[str], merges: int, characters: int, directory: Path) -> int:
  """Writes the tokenizer of some lines; returns its number of entries, tags not counted.

  Args:
    lines: texts in any language.
    merges: of bytes outside Chinese characters, at most.
    characters: Chinese and their punctuation, the most frequent, at most.
    directory: is made.

  Raises:
    DataError: there is no text.
  """
  if not any(line.strip() for line in lines):
    raise DataError("text tokenizer: expected lines of text, found none")
  vocab, pairs = _words(["".join(" " if c >= _CHINESE else c for c in line) for line in lines], merges)
  counts = collections.Counter(c for line in lines for c in line if c >= _CHINESE)
  for pair in _character_pairs([c for c, _ in counts.most_common(characters)]):
    pairs.append(pair)
    vocab.setdefault("".join(pair), len(vocab))
  config = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": tags.END_OF_TEXT,
    "pad_token": tags.END_OF_TEXT,
    "bos_token": None,
    "unk_token": None,
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "added_tokens_decoder": {str(len(vocab)): {"content": tags.END_OF_TEXT, "special": True, "normalized": False}},
  }
  directory.mkdir(parents=True, exist_ok=True)
  lines_of_pairs = "\n".join(" ".join(pair) for pair in pairs)
  (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
  (directory / "merges.txt").write_text(f"#version: 0.2\n{lines_of_pairs}\n", encoding="utf-8")
  (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
  return len(vocab)


def _words(lines: Iterable[str], merges: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Vocabulary of all bytes and of the merges learned from some lines, and these."""
  from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

  bpe = Tokenizer(models.BPE())
  bpe.normalizer = normalizers.NFC()
  split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  )
  bpe.decoder = decoders.ByteLevel()
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  trainer = trainers.BpeTrainer(
    vocab_size=len(alphabet) + merges, min_frequency=2, initial_alphabet=alphabet, show_progress=False
  )
  bpe.train_from_iterator(lines, trainer)
  model = json.loads(bpe.to_str())["model"]
  pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
  return dict(sorted(model["vocab"].items(), key=lambda item: item[1])), pairs


def _character_pairs(characters: Sequence[str]) -> list[tuple[str, str]]:
  """Merges that make characters of their UTF-8 bytes, shared beginnings once."""
  letters = _byte_letters()
  pairs: dict[tuple[str, str], None] = {}
  for character in characters:
    first, *others = (letters[byte] for byte in character.encode("utf-8"))
    for letter in others:
      pairs[first, letter] = None
      first += letter
  return list(pairs)


def _byte_letters() -> list[str]:
  """The letter that byte-level BPE writes for each byte: itself where it can be printed, else one from 256 on."""
  shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = (chr(256 + n) for n in range(256))
  return [chr(byte) if byte in shown else next(others) for byte in range(256)]


def report(tokenizer: TextTokenizer, lines: Sequence[str]) -> str:
  """Text ids of a word and of a Chinese character, on average over lines that have only one of both."""
  ids, units = collections.Counter(), collections.Counter()
  for line in lines:
    han = sum(map(is_han, line))
    kind = "Chinese character" if han else "word"
    ids[kind] += len(tokenizer.encode(line))
    units[kind] += han or len(line.split())
  return ", ".join(f"{ids[kind] / units[kind]:.2f} ids a {kind}" for kind in sorted(ids) if units[kind])


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.text_tokenizer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--texts", nargs="+", type=Path, required=True, metavar="FILE", help="lines of text")
  parser.add_argument("--merges", type=int, default=1500, help="of bytes outside Chinese characters")
  parser.add_argument("--characters", type=int, default=2200, help="Chinese, with an entry each")
  parser.add_argument("--out", type=Path, required=True, metavar="DIR")
  args = parser.parse_args(argv)
  try:
    lines = [line for file in args.texts for line in file.read_text(encoding="utf-8").splitlines()]
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"--texts: expected files of UTF-8 text ({error})") from error
  entries = train(lines, args.merges, args.characters, args.out)
  tokenizer = TextTokenizer.load(args.out, split_cjk=True)
  print(f"{entries} entries, {len(tokenizer)} ids with all tags; {report(tokenizer, lines)}")
  return 0


if __name__ == "__main__":
  sys.exit(at_exit(main))
