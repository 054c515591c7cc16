"""Batches for the five trainers: from a corpus and its features to an iterator over what a step reads.

All factories take `seed`, `shuffle` and `keep_rest` (see `cosyjax.data.plan`), and pass `epochs`,
`process`, `workers` and `bad_share` on to `cosyjax.data.iterator.Batches`, which they return.
`features` may hold more names than are needed, or fewer; None stands for those of the corpus's directory.

In an empty row (an example that could not be read, or validation's last rows) all lengths are 0.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosyjax.config import AudioConfig, LMConfig
from cosyjax.data import rows as rows_lib
from cosyjax.data import text as text_lib
from cosyjax.data.feature_store import Features
from cosyjax.data.iterator import Batches
from cosyjax.data.plan import BucketPlan, PackedPlan
from cosyjax.errors import DataError, TextError

__all__ = ["Batches", "asr_batches", "flow_batches", "lm_batches", "speaker_batches", "vocoder_batches"]

log = logging.getLogger("cosyjax.data")

SECONDS = (3.0, 4.0, 5.0, 6.4, 8.0, 10.0, 12.8, 16.0, 20.0, 25.0, 30.0)  # row lengths of bucketed batches
AUDIO = AudioConfig()  # rates and mel settings if none are given


def lm_batches(
  corpus: Any,
  features: Features,
  tokenizer: Any,
  lm_config: LMConfig,
  *,
  rows: int,
  length: int,
  interleave: float = 0.5,
  speaker_tag: str = "",
  speaker: bool = False,
  normalise: bool = False,
  most: int | None = None,
  seed: int = 0,
  shuffle: bool = True,
  keep_rest: bool = False,
  **options: Any,
) -> Batches:
  """Packed rows for `train.lm`: several utterances in each row of `length` positions.

  Fields: `ids_BL`, `token_types_BL`, `targets_BL` as in `cosyjax.lm.sequence`; `segments_BL` (0 in padding,
  1 .. per utterance); `positions_BL` (from 0 in each utterance); `speaker_BSE` if asked for, the vector
  of segment s + 1 at s.

  Args:
    corpus, features: with speech_tokens (and speaker). Transcript ids are read from the feature
      `text_ids` where it was made with this tokenizer, else computed now, which reads the whole corpus.
    tokenizer: text tokenizer.
    lm_config: sizes and special ids.
    rows: of a batch.
    length: of a row. Longer utterances are left out (`stats["dropped"]`).
    interleave: probability of the interleaved layout.
    speaker_tag: "", "speaker" or "unknown"; see `cosyjax.data.text.speaker_ids`.
    speaker: gives the speaker vectors.
    normalise: read out numbers in transcripts.
    most: utterances in a row; one for each 32 positions if None.
  """
  features = _with(features, corpus, ("speech_tokens", *(("speaker",) if speaker else ())))
  texts, text_N = _texts(corpus, features, tokenizer, normalise)
  tags_N = None
  if speaker_tag:
    names = speaker_names(corpus)
    ids = {name: text_lib.speaker_ids(name, tokenizer, speaker_tag) for name in set(names)}
    tags_N = [ids[name] for name in names]
  speech_N = features.lengths("speech_tokens").astype(np.int64)
  tag_N = np.asarray([len(t) for t in tags_N]) if tags_N else 0
  lengths_N = np.where((text_N > 0) & (speech_N > 0), text_N + tag_N + speech_N + 2 + speaker, 0)  # start and turn
  most = most or max(length // 32, 1)
  width = _vector_size(features) if speaker else 0
  reader = rows_lib.LMRows(corpus, features, seed, lm_config, texts, tags_N, interleave, most, width)
  plan = PackedPlan(lengths_N, length=length, rows=rows, most=most, seed=seed, shuffle=shuffle, keep_rest=keep_rest)
  return Batches(reader, plan, seed=seed, **options)


def flow_batches(
  corpus: Any,
  features: Features,
  *,
  seconds: float = 120.0,
  buckets: Sequence[float] = SECONDS,
  row_multiple: int = 1,
  audio: AudioConfig = AUDIO,
  seed: int = 0,
  shuffle: bool = True,
  keep_rest: bool = False,
  **options: Any,
) -> Batches:
  """Tokens and mel for `train.flow`, in rows of like length.

  Fields: `tokens_BU`, `token_lengths_B`, `mel_BTM` (zero in padding), `speaker_BE`.

  Args:
    corpus, features: with speech_tokens, mel, speaker.
    seconds: of audio in a batch, padding included: a bucket has `seconds` / length rows.
    buckets: row lengths in seconds, ascending. Longer utterances are left out.
    row_multiple: every batch's rows are a multiple of this: the mesh's row count.
    audio: of the model: token rate, mel bins and mel frames in a token.
  """
  features = _with(features, corpus, ("speech_tokens", "mel", "speaker"))
  reader = rows_lib.FlowRows(corpus, features, seed, _vector_size(features), audio)
  lengths_N = features.lengths("speech_tokens")
  plan = _buckets(lengths_N, audio.token_rate, seconds, buckets, row_multiple, seed, shuffle, keep_rest)
  return Batches(reader, plan, seed=seed, **options)


def vocoder_batches(
  corpus: Any,
  features: Features,
  *,
  rows: int,
  frames: int,
  mel: str = "mel",
  audio: AudioConfig = AUDIO,
  seed: int = 0,
  shuffle: bool = True,
  keep_rest: bool = False,
  **options: Any,
) -> Batches:
  """Crops for `train.vocoder`: one from every utterance, elsewhere in each epoch.

  Fields: `audio_BA` (A = hop T), `mel_BTM`, `f0_BT` in Hz, `lengths_B` in mel frames.

  Args:
    corpus, features: with `mel` and f0.
    rows: of a batch.
    frames: mel frames of a crop, 50 a second. Shorter recordings are padded with zeros.
    mel: name of the feature to vocode.
    audio: of the model: sample rate, hop and mel bins.
  """
  features = _with(features, corpus, (mel, "f0"))
  reader = rows_lib.VocoderRows(corpus, features, seed, mel, audio)
  plan = _crops(features.lengths(mel), frames, rows, seed, shuffle, keep_rest)
  return Batches(reader, plan, seed=seed, **options)


def asr_batches(
  corpus: Any,
  features: Features,
  *,
  seconds: float = 120.0,
  buckets: Sequence[float] = SECONDS,
  row_multiple: int = 1,
  unit_rate: float = 30.0,
  f0: bool = False,
  seed: int = 0,
  shuffle: bool = True,
  keep_rest: bool = False,
  **options: Any,
) -> Batches:
  """Log-mel and transcripts for `train.speech_tokenizer`, in rows of like length.

  Fields: `log_mel_BTM` (16 kHz, 100 Hz, 128 bins), `lengths_B`, `units_BL` (UTF-8 bytes + 1, 0 in
  padding), `unit_lengths_B`, and `f0_BT` (50 Hz) if asked for.

  Args:
    corpus, features: with log_mel_16k (and f0).
    seconds, buckets, row_multiple: as for `flow_batches`.
    unit_rate: bytes of text a second that a row has room for. An example with more is skipped.
    f0: gives the fundamental frequency, for the pitch loss.
  """
  features = _with(features, corpus, ("log_mel_16k", *(("f0",) if f0 else ())))
  reader = rows_lib.AsrRows(corpus, features, seed, unit_rate, f0)
  plan = _buckets(features.lengths("log_mel_16k"), 100, seconds, buckets, row_multiple, seed, shuffle, keep_rest)
  return Batches(reader, plan, seed=seed, **options)


def speaker_batches(
  corpus: Any,
  features: Features,
  *,
  rows: int,
  frames: int,
  speakers: Sequence[str] | None = None,
  seed: int = 0,
  shuffle: bool = True,
  keep_rest: bool = False,
  **options: Any,
) -> Batches:
  """Crops of filter bank and who speaks, for `train.speaker`.

  Fields: `fbank_BTM` (100 Hz, 80 bins, the crop's mean removed), `lengths_B`, `labels_B` (index into
  `Batches.speakers`; 0 in an empty row).

  Args:
    corpus, features: with fbank.
    rows: of a batch.
    frames: of a crop, 100 a second.
    speakers: whose utterances to use, in the order of their labels; all, sorted, if None.

  Raises:
    DataError: none of the speakers is in the corpus.
  """
  features = _with(features, corpus, ("fbank",))
  names = speaker_names(corpus)
  known = tuple(sorted(set(names)) if speakers is None else speakers)
  label = {name: k for k, name in enumerate(known)}
  labels_N = np.asarray([label.get(name, -1) for name in names], np.int32)
  reader = rows_lib.SpeakerRows(corpus, features, seed, labels_N)
  lengths_N = np.where(labels_N >= 0, features.lengths("fbank"), 0)
  batches = Batches(reader, _crops(lengths_N, frames, rows, seed, shuffle, keep_rest), seed=seed, **options)
  batches.speakers = known
  return batches


def bucket_rows(buckets: Sequence[float], seconds: float, row_multiple: int) -> tuple[int, ...]:
  """Rows of each bucket, so that a batch holds about `seconds` of audio: a multiple of `row_multiple`, at least one."""
  return tuple(max(int(seconds / length) // row_multiple, 1) * row_multiple for length in buckets)


def speaker_names(corpus: Any) -> list[str]:
  """Who speaks in each example."""
  return list(corpus.names)


def _buckets(lengths_N, rate, seconds, buckets, row_multiple, seed, shuffle, keep_rest) -> BucketPlan:
  rows = bucket_rows(buckets, seconds, row_multiple)
  sizes = [round(length * rate) for length in buckets]
  return BucketPlan(lengths_N, buckets=sizes, rows=rows, seed=seed, shuffle=shuffle, keep_rest=keep_rest)


def _crops(lengths_N, frames, rows, seed, shuffle, keep_rest) -> BucketPlan:
  lengths_N = np.minimum(lengths_N, frames)
  return BucketPlan(lengths_N, buckets=(frames,), rows=(rows,), seed=seed, shuffle=shuffle, keep_rest=keep_rest)


def _with(features: Features | None, corpus: Any, names: tuple[str, ...]) -> Features:
  """The features by these names; of the corpus's own directory if none are given."""
  if features is None:
    features = Features(corpus.directory, corpus.split, names)
  elif not set(names) <= set(features.names):
    features = Features(features.directory, features.split, names)
  if len(features) != len(corpus):
    raise DataError(f"{features.directory}: features of {len(features)} examples, the corpus has {len(corpus)}")
  return features


def _vector_size(features: Features) -> int:
  return int(features.lengths("speaker").max())


class _Texts:
  """Transcript ids from their feature."""

  def __init__(self, features: Features) -> None:
    self._features = features

  def __getitem__(self, i: int) -> np.ndarray:
    return self._features.read("text_ids", i)


def _texts(corpus: Any, features: Features, tokenizer: Any, normalise: bool) -> tuple[Any, np.ndarray]:
  """Transcript ids by example, and how many each has (0: no text that can be spoken)."""
  stored = features.maybe("text_ids")
  if stored is not None and stored.fingerprints["text_ids"] == text_lib.fingerprint(tokenizer, normalise):
    return _Texts(stored), stored.lengths("text_ids").astype(np.int64)
  if len(corpus) > 100_000:
    log.warning("transcripts of %d examples are read at the start; compute the feature text_ids", len(corpus))
  texts = []
  for i in range(len(corpus)):
    try:
      texts.append(text_lib.transcript_ids(corpus[i], tokenizer, normalise=normalise))
    except TextError as error:
      log.warning("example %d has no text to speak: %s", i, error)
      texts.append(np.zeros(0, np.int32))
  return texts, np.asarray([len(ids) for ids in texts], np.int64)
