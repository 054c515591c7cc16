"""The sequence layouts of the text-speech model, as integers (paper Fig. 2 and section 2.3).

A sequence is two arrays, an id and a token type for each position. Start and turn are special
tokens of the `SpeechVocab`:

  known text          start text turn speech              targets: speech, end
  interleaved text    start (N text, M speech)* rest turn speech
                      targets: M speech and fill after each whole group, at last speech, end

With N = 5 and M = 15 in the release. For inference the speech is that of the prompt (in
context, ICL) or none (a fine-tuned speaker, SFT) and the model goes on from there; the text
is then the prompt's transcript followed by what is to be said.

All functions run on the host and return NumPy arrays.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosyjax.config import LMConfig
from cosyjax.errors import TokenError

TEXT, SPEECH, SPECIAL, SPEAKER = 0, 1, 2, 3  # token types: which embedding an id belongs to; SPEAKER is an ablation's
IGNORE = -1  # target of a position that is not trained

Ids = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRow:
  """One training sequence.

  Attributes:
    ids_L, token_types_L: int32 tokens.
    targets_L: int32 speech id that each position predicts, or `IGNORE`.
  """

  ids_L: np.ndarray
  token_types_L: np.ndarray
  targets_L: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class PaddedSequences:
  """Sequences padded to one length.

  Attributes:
    ids_BL, token_types_BL: int32; padding is text id 0.
    targets_BL: int32, `IGNORE` in padding.
    lengths_B: int32 valid positions; 0 for those that only fill the batch.
  """

  ids_BL: np.ndarray
  token_types_BL: np.ndarray
  targets_BL: np.ndarray
  lengths_B: np.ndarray


def start_token(config: LMConfig) -> tuple[int, list[int]]:
  """Start of sequence: (token type, [id])."""
  return _special(config, config.speech_vocab.start_id)


def turn_token(config: LMConfig) -> tuple[int, list[int]]:
  """Turn of speech: (token type, [id])."""
  return _special(config, config.speech_vocab.turn_id)


def _special(config: LMConfig, token_id: int) -> tuple[int, list[int]]:
  return SPECIAL if config.speech_vocab.own_rows else SPEECH, [token_id]


def known_text_sequence(
  prompt_text: Ids, text: Ids, prompt_speech: Ids = (), *, config: LMConfig
) -> tuple[np.ndarray, np.ndarray]:
  """Sequence up to the first new speech token, all text known: (ids [L], token types [L]).

  With a prompt's transcript and speech tokens the model continues the prompt (ICL); with
  neither it speaks on its own (SFT).

  Raises:
    TokenError: there is no text.
  """
  if not len(text):
    raise TokenError("known_text_sequence: no text ids to speak")
  closing = [turn_token(config), (SPEECH, prompt_speech)]
  return _join([start_token(config), (TEXT, prompt_text), (TEXT, text), *closing])


def known_text_prefix(prompt_text: Ids, *, config: LMConfig) -> tuple[np.ndarray, np.ndarray]:
  """What every `known_text_sequence` of one prompt begins with: (ids, token types)."""
  return _join([start_token(config), (TEXT, prompt_text)])


def training_row(text: Ids, speech: Ids, config: LMConfig, *, interleaved: bool, speaker: bool = False) -> TrainingRow:
  """Training row with its targets.

  Args:
    text: text ids.
    speech: speech ids of the same utterance.
    config: gives N, M and the vocabulary.
    interleaved: the interleaved layout is wanted (drawn by the caller, with probability 1/2
      in the release). A row with too little speech for it, speech / text <= M / N, gets the
      known-text layout.
    speaker: puts one position of type SPEAKER, id 0, right after the start: the place of the
      utterance's speaker vector in the ablation of paper Table 7. See `TextSpeechLM.speaker_dim`.

  Raises:
    TokenError: no text, no speech, or an id outside its vocabulary.
  """
  vocab = config.speech_vocab
  text, speech = checked("text", text, config.text_vocab), checked("speech", speech, vocab.codebook_size)
  if interleaved and _enough_speech(len(text), len(speech), config):
    opening, used_text, used_speech = interleave(text, speech, config)
    targets = [IGNORE]
    for start in range(0, used_speech, config.mix_speech):
      targets += [IGNORE] * (config.mix_text - 1) + speech[start : start + config.mix_speech].tolist()
      targets += [vocab.fill_id]
  else:
    opening, used_text, used_speech = _join([start_token(config)]), 0, 0
    targets = [IGNORE]
  closing = closing_tokens(text[used_text:], speech[used_speech:], config=config)
  targets += [IGNORE] * (len(text) - used_text) + speech[used_speech:].tolist() + [vocab.end_id]
  ids_L, token_types_L = (np.concatenate(pair) for pair in zip(opening, closing, strict=True))
  row = (ids_L, token_types_L, np.asarray(targets, np.int32))
  return TrainingRow(*(np.insert(a, 1, v) for a, v in zip(row, (0, SPEAKER, IGNORE), strict=True)) if speaker else row)


def interleave(text: Ids, speech: Ids, config: LMConfig) -> tuple[tuple[np.ndarray, np.ndarray], int, int]:
  """Start and as many groups of N text and M speech ids as the text allows.

  Begins a training row and a streamed request. A group needs N text ids; the last one may
  hold less than M speech ids (a prompt's end, which the model then completes), and where no
  speech is left no group is opened, except a first one of text alone (SFT).

  Returns:
    ((ids, token types), text ids used, speech ids used).
  """
  text, speech = np.asarray(text, np.int32), np.asarray(speech, np.int32)
  n, m = config.mix_text, config.mix_speech
  groups = min(len(text) // n, max(-(-len(speech) // m), 1))
  parts = [start_token(config)]
  for i in range(groups):
    parts += [(TEXT, text[i * n : (i + 1) * n]), (SPEECH, speech[i * m : (i + 1) * m])]
  return _join(parts), groups * n, min(groups * m, len(speech))


def text_tokens(text: Ids) -> tuple[np.ndarray, np.ndarray]:
  """The next N text ids of a streamed request, which answer a fill token: (ids, token types)."""
  return _join([(TEXT, text)])


def closing_tokens(text: Ids, speech: Ids = (), *, config: LMConfig) -> tuple[np.ndarray, np.ndarray]:
  """The end of the text: what is left of it, the turn, and speech not yet placed: (ids, token types)."""
  return _join([(TEXT, text), turn_token(config), (SPEECH, speech)])


def speech_until_fill(prompt_speech: int, config: LMConfig) -> int:
  """Speech ids that a streamed request of so many prompt ids produces before the first fill is due."""
  return config.mix_speech - prompt_speech % config.mix_speech


def pad_sequences(sequences: Sequence[Any], *, length: int | None = None, batch: int | None = None) -> PaddedSequences:
  """Pads sequences to one length and one batch size.

  Args:
    sequences: `TrainingRow`s, or (ids, token types) pairs.
    length: positions; the longest sequence's if None.
    batch: sequences; as many as there are if None.

  Raises:
    TokenError: a sequence is longer than `length`, or there are more than `batch`.
  """
  triples = [
    (r.ids_L, r.token_types_L, r.targets_L) if isinstance(r, TrainingRow) else (*r, np.full(len(r[0]), IGNORE))
    for r in sequences
  ]
  lengths = [len(ids) for ids, _, _ in triples]
  length = max(lengths, default=1) if length is None else length
  batch = len(triples) if batch is None else batch
  if len(triples) > batch or max(lengths, default=0) > length:
    raise TokenError(
      f"pad_sequences: {len(triples)} sequences of {max(lengths, default=0)} do not fit [{batch}, {length}]"
    )
  out = PaddedSequences(
    np.zeros((batch, length), np.int32),
    np.full((batch, length), TEXT, np.int32),
    np.full((batch, length), IGNORE, np.int32),
    np.zeros(batch, np.int32),
  )
  for b, (ids, token_types, targets) in enumerate(triples):
    out.ids_BL[b, : lengths[b]], out.token_types_BL[b, : lengths[b]], out.targets_BL[b, : lengths[b]] = (
      ids,
      token_types,
      targets,
    )
    out.lengths_B[b] = lengths[b]
  return out


def _enough_speech(text: int, speech: int, config: LMConfig) -> bool:
  return speech * config.mix_text > text * config.mix_speech


def checked(what: str, ids: Ids, size: int, *, some: bool = True) -> np.ndarray:
  """`ids` as int32.

  Raises:
    TokenError: not a list of integers from 0 to `size` - 1; or an empty one, where there should be `some`.
  """
  ids = np.asarray(ids)
  ids = ids.astype(np.int32) if ids.shape == (0,) else ids  # an empty list has no type
  if ids.ndim != 1 or (some and not ids.size) or not np.issubdtype(ids.dtype, np.integer):
    raise TokenError(f"{what} ids: expected a list of {'some ' * some}integers, found {ids.dtype} {ids.shape}")
  if ids.size and (ids.min() < 0 or ids.max() >= size):
    raise TokenError(f"{what} ids: expected 0 to {size - 1}, found {ids.min()} to {ids.max()}")
  return ids.astype(np.int32)


def _join(parts: Sequence[tuple[int, Ids]]) -> tuple[np.ndarray, np.ndarray]:
  ids = np.concatenate([np.asarray(ids, np.int32).reshape(-1) for _, ids in parts])
  return ids, np.concatenate([np.full(len(ids), token_type, np.int32) for token_type, ids in parts])
