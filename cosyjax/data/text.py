"""Transcripts as the LM and the recogniser are trained on them: cleaned as inference cleans text, not read out.

Inference spells out numbers and signs by rule before the LM sees them. A transcript says what was
really said, so a rule that reads "1999" the other way would teach the model a text that is not in the
audio: normalisation is off unless `normalise` asks for it.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.config import TextConfig
from cosyjax.errors import ConfigError
from cosyjax.speech_tokenizer import units
from cosyjax.text import TextTokenizer, prepare, tags
from cosyjax.text.frontend import clean

RECIPE = 1  # counts changes of what transcript ids are
READING = 2  # counts changes of how numbers and signs are read out
SPEAKER_TAGS = ("", "speaker", "unknown")
_WHOLE = TextConfig(normalise=False, min_tokens=1 << 30, max_tokens=1 << 30, merge_tokens=0)


def transcript_ids(example: Mapping[str, Any], tokenizer: TextTokenizer, *, normalise: bool = False) -> np.ndarray:
  """Text ids of an example: int32 [L]. An instruction and the end-of-prompt tag come first if there is one.

  Args:
    example: its `text`, and `instruction` if any.
    tokenizer: of the model.
    normalise: read out numbers and signs, as inference does.

  Raises:
    TextError: nothing that can be spoken, invalid Unicode, or a control tag in it.
  """
  config = dataclasses.replace(_WHOLE, normalise=normalise)
  pieces = prepare(example["text"], tokenizer, config)
  ids = tokenizer.encode(" ".join(piece.text for piece in pieces))
  return np.asarray([*instruction_ids(example.get("instruction", ""), tokenizer), *ids], np.int32)


def instruction_ids(instruction: str, tokenizer: TextTokenizer) -> list[int]:
  """Ids of an instruction and the tag that ends it; none for an empty one.

  Raises:
    TextError: as `transcript_ids`.
  """
  if not instruction.strip():
    return []
  pieces = prepare(instruction, tokenizer, _WHOLE)
  return [*tokenizer.encode(" ".join(piece.text for piece in pieces)), tokenizer.end_of_prompt_id]


def speaker_ids(speaker: str, tokenizer: TextTokenizer, tag: str) -> list[int]:
  """Ids of what goes before a text in multi-speaker fine-tuning (paper 2.7).

  Args:
    speaker: name.
    tokenizer: of the model.
    tag: "" for none, "speaker" for `Speaker X<|endofprompt|>`, "unknown" for `unknown<|endofprompt|>`.

  Raises:
    ConfigError: another tag.
    TextError: a name that cannot be written.
  """
  if tag not in SPEAKER_TAGS:
    raise ConfigError(f"speaker_tag: expected one of {SPEAKER_TAGS}, found {tag!r}")
  return instruction_ids({"": "", "speaker": f"Speaker {speaker}", "unknown": "unknown"}[tag], tokenizer)


def byte_units(text: str) -> np.ndarray:
  """The transcript that the recogniser spells, cleaned, without tags; see `cosyjax.speech_tokenizer.units`."""
  return units.encode(" ".join(tags.strip(clean(text)).split()))


def fingerprint(tokenizer: TextTokenizer, normalise: bool = False) -> str:
  """Equal for settings that give equal transcript ids."""
  with tempfile.TemporaryDirectory() as folder:
    tokenizer.save(folder)
    digest = hashlib.blake2b((Path(folder) / "tokenizer.json").read_bytes(), digest_size=16)
  digest.update(bytes([RECIPE, tokenizer.split_cjk, READING if normalise else 0]))
  return digest.hexdigest()
