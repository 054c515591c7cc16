"""Sequence layouts: what stands where, the fallback, and streamed rows against training rows."""

import dataclasses

import numpy as np
import pytest

from cosyjax.config import tiny
from cosyjax.errors import TokenError
from cosyjax.lm import sequence
from cosyjax.lm.sequence import IGNORE, SPECIAL, SPEECH, TEXT

CONFIG = dataclasses.replace(tiny().lm, mix_text=2, mix_speech=3)
END, FILL = CONFIG.speech_vocab.end_id, CONFIG.speech_vocab.fill_id


def tokens(pair):
  """(ids, token types) as readable strings: t5, s7, START, TURN."""
  names = {(SPECIAL, 0): "START", (SPECIAL, 1): "TURN"}
  return [names.get((k, i), f"{'ts'[k]}{i}" if k != SPECIAL else "?") for i, k in zip(*pair, strict=True)]


def test_known_text_row():
  assert tokens(sequence.known_text_sequence([1, 2], [3], [7, 8], config=CONFIG)) == [
    "START",
    "t1",
    "t2",
    "t3",
    "TURN",
    "s7",
    "s8",
  ]
  assert tokens(sequence.known_text_sequence([], [3], config=CONFIG)) == ["START", "t3", "TURN"]
  with pytest.raises(TokenError, match="no text"):
    sequence.known_text_sequence([1], [], config=CONFIG)


def test_training_row_with_known_text():
  row = sequence.training_row([1, 2], [7, 8, 9], CONFIG, interleaved=False)
  assert tokens((row.ids_L, row.token_types_L)) == ["START", "t1", "t2", "TURN", "s7", "s8", "s9"]
  assert row.targets_L.tolist() == [IGNORE, IGNORE, IGNORE, 7, 8, 9, END]


def test_interleaved_training_row():
  row = sequence.training_row([1, 2, 3], list(range(10, 16)), CONFIG, interleaved=True)
  assert tokens((row.ids_L, row.token_types_L)) == [
    "START", "t1", "t2", "s10", "s11", "s12", "t3", "TURN", "s13", "s14", "s15",
  ]  # fmt: skip
  assert row.targets_L.tolist() == [IGNORE, IGNORE, 10, 11, 12, FILL, IGNORE, 13, 14, 15, END]


@pytest.mark.parametrize(("speech", "falls_back"), [(6, True), (7, False)])
def test_too_little_speech_falls_back(speech, falls_back):
  """Four text ids call for more than six speech ids at 2:3."""
  row = sequence.training_row([1, 2, 3, 4], [9] * speech, CONFIG, interleaved=True)
  plain = sequence.training_row([1, 2, 3, 4], [9] * speech, CONFIG, interleaved=False)
  assert np.array_equal(row.token_types_L, plain.token_types_L) == falls_back
  assert (FILL in row.targets_L) != falls_back


@pytest.mark.parametrize("text", range(1, 12))
def test_each_target_is_the_next_token_of_speech(text):
  speech = np.arange(100, 100 + 4 * text)
  for interleaved in (False, True):
    row = sequence.training_row(np.arange(text), speech, CONFIG, interleaved=interleaved)
    spoken = row.targets_L[(row.targets_L != IGNORE) & (row.targets_L < END)]
    np.testing.assert_array_equal(spoken, speech)
    np.testing.assert_array_equal(row.ids_L[row.token_types_L == SPEECH], speech)
    np.testing.assert_array_equal(row.ids_L[row.token_types_L == TEXT], np.arange(text))
    follows = row.token_types_L[1:] == SPEECH
    np.testing.assert_array_equal(row.targets_L[:-1][follows], row.ids_L[1:][follows])
    assert row.targets_L[-1] == END


@pytest.mark.parametrize("text", range(1, 12))
@pytest.mark.parametrize("prompt", (0, 1, 3, 4, 7))
def test_streamed_pieces_make_the_training_row(text, prompt):
  """A stream that opens with a prompt and is fed its speech back lays down the same row."""
  config, speech = CONFIG, np.arange(100, 100 + 4 * text)
  prompt = min(prompt, len(speech))
  text_ids = np.arange(text)
  whole = sequence.training_row(text_ids, speech, config, interleaved=True)
  opening, used_text, used_speech = sequence.interleave(text_ids, speech[:prompt], config)
  parts = [opening]
  if used_text:  # the stream speaks up to the fill, then takes two more text ids, and so on
    due = sequence.speech_until_fill(prompt, config) if used_speech == prompt and prompt % config.mix_speech else 0
    due = due or (config.mix_speech if not prompt else 0)
    while True:
      parts.append(sequence._join([(SPEECH, speech[used_speech : used_speech + due])]))
      used_speech += due
      if text - used_text < config.mix_text:
        break
      parts.append(sequence.text_tokens(text_ids[used_text : used_text + config.mix_text]))
      used_text, due = used_text + config.mix_text, config.mix_speech
  parts.append(sequence.closing_tokens(text_ids[used_text:], speech[used_speech:], config=CONFIG))
  ids, kinds = (np.concatenate(x) for x in zip(*parts, strict=True))
  np.testing.assert_array_equal(ids, whole.ids_L)
  np.testing.assert_array_equal(kinds, whole.token_types_L)


def test_speech_until_the_first_fill():
  assert [sequence.speech_until_fill(n, CONFIG) for n in range(5)] == [3, 2, 1, 3, 2]


@pytest.mark.parametrize(
  ("text", "speech", "message"),
  [([], [1], "text ids"), ([1], [], "speech ids"), ([512], [1], "0 to 511"), ([1], [6561], "0 to 6560"),
   ([1], [-1], "found -1"), ([1.5], [1], "float64"), ([[1]], [1], r"\(1, 1\)")],
)  # fmt: skip
def test_bad_ids_are_refused(text, speech, message):
  with pytest.raises(TokenError, match=message):
    sequence.training_row(np.asarray(text), np.asarray(speech), CONFIG, interleaved=False)


def test_padding_rows():
  rows = sequence.pad_sequences(
    [sequence.known_text_sequence([], [3], config=CONFIG), sequence.known_text_sequence([1], [2], config=CONFIG)],
    length=6,
    batch=3,
  )
  assert rows.ids_BL.shape == (3, 6) and rows.lengths_B.tolist() == [3, 4, 0]
  assert np.all(rows.targets_BL == IGNORE) and not rows.ids_BL[2].any()
  training = [sequence.training_row([1], [5] * n, CONFIG, interleaved=False) for n in (1, 3)]
  assert sequence.pad_sequences(training).targets_BL.tolist() == [
    [IGNORE, IGNORE, 5, END, IGNORE, IGNORE],
    [IGNORE, IGNORE, 5, 5, 5, END],
  ]
  with pytest.raises(TokenError, match="do not fit"):
    sequence.pad_sequences(training, length=5)
  with pytest.raises(TokenError, match="do not fit"):
    sequence.pad_sequences(training, batch=1)
