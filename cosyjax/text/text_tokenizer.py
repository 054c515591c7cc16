"""Text to ids of the LM's text vocabulary and back: Qwen's byte-level BPE and the release's tags."""

import os
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosyjax.errors import CheckpointError, OutputError, TokenError
from cosyjax.files import write_whole
from cosyjax.text import tags


class TextTokenizer:
  """The text vocabulary of a model.

  Attributes:
    split_cjk: replace a token that holds several Chinese characters by the tokens of its
      characters, one by one (paper section 2.1). The released weights were trained without.
    ids: id of every tag, by its spelling.
    control_tags: added tokens that a user's text must not contain; beyond `tags.CONTROL`
      this covers whatever else the files on disk define.
  """

  def __init__(self, qwen: Any, *, split_cjk: bool = False) -> None:
    """Wraps a `transformers` Qwen2 tokenizer and adds the tags that it lacks."""
    special = {
      "eos_token": tags.END_OF_TEXT,
      "pad_token": tags.END_OF_TEXT,
      "additional_special_tokens": list(tags.SPECIAL),
    }
    qwen.add_special_tokens(special)
    self._qwen = qwen
    self._bpe = qwen.backend_tokenizer  # a tenth of the wrapper's time per call
    self.split_cjk = split_cjk
    self.ids: dict[str, int] = {tag: self._bpe.token_to_id(tag) for tag in (tags.END_OF_TEXT, *tags.SPECIAL)}
    added = {str(token) for token in qwen.added_tokens_decoder.values()}
    self.control_tags = tuple(sorted(added - set(tags.SPOKEN)))
    self._size = max(self._bpe.get_vocab(with_added_tokens=True).values()) + 1

  @classmethod
  def load(cls, directory: str | Path, *, split_cjk: bool = False) -> "TextTokenizer":
    """Reads the tokenizer of a directory; the network is never asked.

    Args:
      directory: holds `tokenizer.json`, or `vocab.json` and `merges.txt`; with
        `tokenizer_config.json` in both cases.
      split_cjk: see the class.

    Raises:
      CheckpointError: files are missing or damaged.
    """
    directory = Path(directory)
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if "tokenizer_config.json" not in names or not ("tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names):
      raise CheckpointError(
        f"{directory} holds no text tokenizer: expected tokenizer_config.json with tokenizer.json, or with"
        f" vocab.json and merges.txt; found {sorted(names) or 'nothing'}"
      )
    try:
      return cls(_qwen_class().from_pretrained(str(directory), local_files_only=True), split_cjk=split_cjk)
    except Exception as error:  # transformers and tokenizers raise bare Exceptions on damaged files
      raise CheckpointError(f"{directory}: the text tokenizer cannot be read: {error}") from error

  def __len__(self) -> int:
    """Size of the vocabulary, tags included: one more than the largest id."""
    return self._size

  @property
  def end_of_prompt_id(self) -> int:
    """Id that separates an instruction from the text to speak."""
    return self.ids[tags.END_OF_PROMPT]

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, tags recognised: control tags too, so check a user's text first (`prepare` does)."""
    if self.split_cjk:
      return self._encode_characters(unicodedata.normalize("NFC", text))
    return self._bpe.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int], *, skip_tags: bool = False) -> str:
    """Text of `ids`.

    Raises:
      TokenError: an id is outside the vocabulary.
    """
    ids = [int(i) for i in ids]
    wrong = [i for i in ids if not 0 <= i < len(self) or self._bpe.id_to_token(i) is None]
    if wrong:
      raise TokenError(f"text ids {wrong[:5]} are not in the vocabulary of {len(self)}")
    return self._bpe.decode(ids, skip_special_tokens=skip_tags)

  def save(self, directory: str | Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, tags included; each appears whole.

    Raises:
      OutputError: the directory cannot be written.
    """
    directory = Path(directory)
    try:
      directory.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory() as work:
        self._qwen.save_pretrained(work)
        for name in ("tokenizer.json", "tokenizer_config.json"):
          write_whole(directory / name, (Path(work) / name).read_bytes())
    except OutputError:
      raise
    except OSError as error:
      raise OutputError(f"{directory}: the text tokenizer cannot be written: {error}") from error

  def _encode_characters(self, text: str) -> list[int]:
    """`encode` where Chinese characters may not share a token."""
    encoding = self._bpe.encode(text, add_special_tokens=False)
    ids, places, out, i = encoding.ids, encoding.offsets, [], 0
    while i < len(ids):
      # Tokens that hold parts of one character belong together.
      begin, end, first, several = *places[i], i, False
      while i < len(ids) and (i == first or places[i][0] < end):
        several = several or sum(map(is_han, text[places[i][0] : places[i][1]])) > 1
        end = max(end, places[i][1])
        i += 1
      if several:
        out += [part for c in text[begin:end] for part in self._bpe.encode(c, add_special_tokens=False).ids]
      else:
        out += ids[first:i]
    return out


def is_han(character: str) -> bool:
  """Whether this is a Chinese character (any Unicode block of unified ideographs)."""
  return (
    "\u4e00" <= character <= "\u9fff"
    or "\u3400" <= character <= "\u4dbf"
    or "\uf900" <= character <= "\ufaff"
    or "\U00020000" <= character <= "\U000323af"
  )


def tiny_tokenizer_dir() -> Path:
  """Directory of the tokenizer that comes with the package: 480 entries, below 512 with all tags.

  It serves the tiny model. `tests/make_tiny_tokenizer.py` made it.
  """
  return Path(__file__).parent / "tiny_tokenizer"


def _qwen_class() -> Any:
  """transformers' Qwen2 tokenizer, imported without its advice to install PyTorch."""
  name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
  before = os.environ.get(name)
  os.environ[name] = "1"
  try:
    from transformers import Qwen2Tokenizer
  finally:
    if before is None:
      del os.environ[name]
    else:
      os.environ[name] = before
  return Qwen2Tokenizer
