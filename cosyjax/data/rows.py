"""From examples to the rows of a batch: one class per trainer, NumPy only, run in reader threads or processes.

`parts` reads one example and returns its arrays, unpadded; `place` writes them into a row. Whatever
is drawn (layout, crop) comes from (seed, epoch, example), so it does not matter who draws it.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cosyjax.audio.io import read
from cosyjax.config import AudioConfig, LMConfig
from cosyjax.data.feature_store import Features
from cosyjax.data.text import byte_units
from cosyjax.errors import CosyError, DataError
from cosyjax.lm.sequence import IGNORE, TEXT, training_row

Parts = dict[str, np.ndarray]
Fields = dict[str, tuple[tuple[int, ...], Any]]  # shape of a row's entry, and its type
Bad = list[tuple[int, str]]  # examples that could not be used, and why
BAD = (CosyError, OSError, RuntimeError, ValueError, EOFError)  # what a damaged record can raise
LAYOUT, CROP = 1, 2  # what a draw is for

LOG_MEL_BINS, FBANK_BINS = 128, 80


def draw(seed: int, epoch: int, example: int, what: int) -> np.random.Generator:
  """Generator of one example's draws in one epoch."""
  return np.random.default_rng([seed, epoch, example, what])


@dataclasses.dataclass
class Rows:
  """Base: one example a row, zeros where nothing is placed.

  Attributes:
    corpus: random access to examples.
    features: random access to features.
    seed: of the draws.
    counted: the field that has the rows' lengths, and the field whose second axis they count.
  """

  corpus: Any
  features: Features
  seed: int
  counted: ClassVar[tuple[str, str]]

  def fields(self, length: int) -> Fields:
    """Shape and type of each field's entry for a row of `length`."""
    raise NotImplementedError

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    """Arrays of one example for a row of `length`.

    Raises:
      any of `BAD`: it cannot be used.
    """
    raise NotImplementedError

  def place(self, out: Parts, row: int, found: Sequence[Parts]) -> None:
    """Writes the parts of a row's examples."""
    for parts in found:
      for name, value in parts.items():
        if value.ndim:
          out[name][row, : len(value)] = value
        else:
          out[name][row] = value

  def empty(self, rows: int, length: int) -> Parts:
    """A batch of empty rows."""
    return {name: np.zeros((rows, *shape), dtype) for name, (shape, dtype) in self.fields(length).items()}

  def valid(self, batch: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """(positions that are not padding, positions) of a batch."""
    lengths, over = (batch[name] for name in self.counted)
    return int(lengths.sum()), over.shape[0] * over.shape[1]

  def load(self, epoch: int, rows: Sequence[np.ndarray], length: int) -> tuple[Parts, Bad]:
    """Reads some rows of a batch: its arrays, and the examples whose place is left empty."""
    out, fields, bad = self.empty(len(rows), length), self.fields(length), []
    for row, examples in enumerate(rows):
      found = []
      for example in examples.tolist():
        try:
          parts = self.parts(example, epoch, length)
          _check(parts, fields)
          found.append(parts)
        except BAD as error:
          bad.append((example, f"{type(error).__name__}: {str(error)[:300]}"))
      self.place(out, row, found)
    return out, bad


def _check(parts: Parts, fields: Fields) -> None:
  for name, value in parts.items():
    shape = fields[name][0]
    fits = value.ndim == len(shape) and value.shape[1:] == shape[1:] and (not shape or len(value) <= shape[0])
    if not fits or not np.all(np.isfinite(value)):
      raise DataError(f"{name}: expected finite numbers of a shape that fits {shape}, found shape {value.shape}")


@dataclasses.dataclass
class LMRows(Rows):
  """Packed rows of text and speech tokens (layouts of `cosyjax.lm.sequence`).

  Attributes:
    config: of the LM.
    text_ids: gives the transcript ids of an example by its number, without its speaker's tag.
    tags_N: ids that go before each example's text; None without tags.
    interleave: probability of the interleaved layout.
    most: utterances in a row.
    speaker: size of the speaker vectors, where the LM takes one for each segment; 0 if it does not.
  """

  config: LMConfig
  text_ids: Any
  tags_N: Sequence[list[int]] | None
  interleave: float
  most: int
  speaker: int

  def fields(self, length: int) -> Fields:
    """Shape and type of each field's entry for a row of `length`."""
    names = ("ids_BL", "token_types_BL", "targets_BL", "segments_BL", "positions_BL")
    fields: Fields = {name: ((length,), np.int32) for name in names}
    return fields | ({"speaker_BSE": ((self.most, self.speaker), np.float32)} if self.speaker else {})

  def empty(self, rows: int, length: int) -> Parts:
    """A batch of rows that are nothing but padding, without targets."""
    out = super().empty(rows, length)
    out["token_types_BL"][:], out["targets_BL"][:] = TEXT, IGNORE
    return out

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    """Arrays of one example for a row of `length`."""
    text = self.text_ids[example]
    if self.tags_N is not None:
      text = np.asarray([*self.tags_N[example], *text], np.int32)
    interleaved = draw(self.seed, epoch, example, LAYOUT).random() < self.interleave
    speech = self.features.read("speech_tokens", example)
    row = training_row(text, speech, self.config, interleaved=bool(interleaved), speaker=self.speaker > 0)
    found = {"ids_BL": row.ids_L, "token_types_BL": row.token_types_L, "targets_BL": row.targets_L}
    return found | ({"speaker_BSE": self.features.read("speaker", example)[None]} if self.speaker else {})

  def place(self, out: Parts, row: int, found: Sequence[Parts]) -> None:
    """Write the examples of a row one behind the other, each a segment."""
    start = 0
    for segment, parts in enumerate(found):
      end = start + len(parts["ids_BL"])
      for name in ("ids_BL", "token_types_BL", "targets_BL"):
        out[name][row, start:end] = parts[name]
      out["segments_BL"][row, start:end] = segment + 1
      out["positions_BL"][row, start:end] = np.arange(end - start)
      if self.speaker:
        out["speaker_BSE"][row, segment] = parts["speaker_BSE"][0]
      start = end

  def valid(self, batch: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """(positions that belong to a segment, positions) of a batch."""
    return int((batch["segments_BL"] > 0).sum()), batch["segments_BL"].size


@dataclasses.dataclass
class FlowRows(Rows):
  """Speech tokens, the mel of the same audio, and the utterance's speaker vector.

  Attributes:
    speaker_dim: size of the speaker vector.
    audio: mel bins, and mel frames in a token.
  """

  speaker_dim: int
  audio: AudioConfig
  counted = ("token_lengths_B", "tokens_BU")

  def fields(self, length: int) -> Fields:
    """Shape and type of each field's entry for a row of `length`."""
    return {
      "tokens_BU": ((length,), np.int32),
      "token_lengths_B": ((), np.int32),
      "mel_BTM": ((self.audio.frames_per_token * length, self.audio.mel_bins), np.float32),
      "speaker_BE": ((self.speaker_dim,), np.float32),
    }

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    """Arrays of one example for a row of `length`."""
    tokens_U, mel_TM = self.features.read("speech_tokens", example), self.features.read("mel", example)
    frames = self.audio.frames_per_token * len(tokens_U)
    if not frames or len(mel_TM) != frames:
      raise DataError(f"example {example}: {len(tokens_U)} tokens need {frames} mel frames, found {len(mel_TM)}")
    speaker_E = self.features.read("speaker", example)
    if len(speaker_E) != self.speaker_dim:
      raise DataError(
        f"example {example}: expected a speaker vector of {self.speaker_dim} numbers, found {len(speaker_E)}"
      )
    lengths = np.asarray(len(tokens_U), np.int32)
    return {"tokens_BU": tokens_U, "token_lengths_B": lengths, "mel_BTM": mel_TM, "speaker_BE": speaker_E}


@dataclasses.dataclass
class VocoderRows(Rows):
  """A crop of audio with its mel and f0. A recording shorter than the crop is padded.

  Attributes:
    mel: name of the feature to vocode; another than "mel" fine-tunes on what a flow made of the same tokens.
    audio: sample rate, hop and mel bins.
  """

  mel: str
  audio: AudioConfig
  counted = ("lengths_B", "mel_BTM")

  def fields(self, length: int) -> Fields:
    """Shape and type of each field's entry for a row of `length`."""
    return {
      "audio_BA": ((length * self.audio.hop,), np.float32),
      "mel_BTM": ((length, self.audio.mel_bins), np.float32),
      "f0_BT": ((length,), np.float32),
      "lengths_B": ((), np.int32),
    }

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    """Arrays of one example for a row of `length`."""
    mel_TM, f0_T = self.features.read(self.mel, example), self.features.read("f0", example)
    wave_A = _audio(self.corpus[example], self.audio.sample_rate)
    frames, hop = len(mel_TM), self.audio.hop
    if not frames or len(f0_T) != frames or len(wave_A) < frames * hop:
      found = f"{frames} mel frames, {len(f0_T)} of f0, {len(wave_A) // hop} of audio"
      raise DataError(f"example {example}: expected as many of each, found {found}")
    start = int(draw(self.seed, epoch, example, CROP).integers(max(frames - length, 0) + 1))
    end = min(start + length, frames)
    return {
      "audio_BA": wave_A[start * hop : end * hop],
      "mel_BTM": mel_TM[start:end],
      "f0_BT": f0_T[start:end],
      "lengths_B": np.asarray(end - start, np.int32),
    }


@dataclasses.dataclass
class AsrRows(Rows):
  """16 kHz log-mel and the transcript's bytes.

  Attributes:
    unit_rate: bytes a second that a row has room for (and ten more).
    f0: adds `f0_BT` at 50 Hz, half as long as the log-mel.
  """

  unit_rate: float
  f0: bool
  counted = ("lengths_B", "log_mel_BTM")

  def fields(self, length: int) -> Fields:
    """Shape and type of each field's entry for a row of `length`."""
    fields: Fields = {
      "log_mel_BTM": ((length, LOG_MEL_BINS), np.float32),
      "lengths_B": ((), np.int32),
      "units_BL": ((10 + int(length / 100 * self.unit_rate),), np.int32),
      "unit_lengths_B": ((), np.int32),
    }
    return fields | ({"f0_BT": ((-(-length // 2),), np.float32)} if self.f0 else {})

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    """Arrays of one example for a row of `length`."""
    mel_TM, units_L = self.features.read("log_mel_16k", example), byte_units(self.corpus[example]["text"])
    if not len(mel_TM) or not len(units_L):
      raise DataError(f"example {example}: {len(mel_TM)} frames of audio and {len(units_L)} bytes of text")
    found = {"log_mel_BTM": mel_TM, "units_BL": units_L}
    found |= {"lengths_B": np.asarray(len(mel_TM), np.int32), "unit_lengths_B": np.asarray(len(units_L), np.int32)}
    # f0 has two values a speech token, of which the last may cover less than four frames of log-mel.
    return found | ({"f0_BT": self.features.read("f0", example)[: -(-len(mel_TM) // 2)]} if self.f0 else {})


@dataclasses.dataclass
class SpeakerRows(Rows):
  """A crop of filter bank, its mean removed, and who speaks.

  Attributes:
    labels_N: label of each example.
  """

  labels_N: np.ndarray
  counted = ("lengths_B", "fbank_BTM")

  def fields(self, length: int) -> Fields:
    """Shape and type of each field's entry for a row of `length`."""
    return {"fbank_BTM": ((length, FBANK_BINS), np.float32), "lengths_B": ((), np.int32), "labels_B": ((), np.int32)}

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    """Arrays of one example for a row of `length`."""
    fbank_TM = self.features.read("fbank", example).astype(np.float32)
    if not len(fbank_TM):
      raise DataError(f"example {example}: no frame of audio")
    start = int(draw(self.seed, epoch, example, CROP).integers(max(len(fbank_TM) - length, 0) + 1))
    crop_TM = fbank_TM[start : start + length]
    return {
      "fbank_BTM": crop_TM - crop_TM.mean(axis=0),
      "lengths_B": np.asarray(len(crop_TM), np.int32),
      "labels_B": np.asarray(self.labels_N[example], np.int32),
    }


def _audio(example: Mapping[str, Any], rate: int) -> np.ndarray:
  return read(io.BytesIO(example["audio"]), rate)[0]
