"""A corpus in memory, for a machine that has neither Grain nor TFDS: recordings, their features, batches read ahead.

`Corpus` and `Features` of `cosyjax.data` with arrays behind them, so that batches are planned and rows are made by the
same code. Recordings are 24 kHz int16; features are computed on the device in batches of one shape.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import jax
import numpy as np

from cosyjax.audio import kaldi_fbank, log_mel_16k, mel_spectrogram
from cosyjax.audio import pitch as pitch_lib
from cosyjax.audio.stft import fft_options
from cosyjax.data.batches import AUDIO, Batches
from cosyjax.data.rows import CROP, Fields, Parts, Rows, draw
from cosyjax.errors import DataError
from cosyjax.speech_tokenizer.speech_encoder import token_lengths

AHEAD = 16  # batches read before they are asked for


@dataclasses.dataclass(eq=False)
class Utterance:
  """One recording: int16 samples at 24 kHz, what is said in it as text and as `train.phones` spells it, and by whom."""

  wave_A: np.ndarray
  text: str
  phones: str
  speaker: str
  language: str


class MemoryCorpus:
  """What batches ask of a `cosyjax.data.corpus.Corpus`."""

  def __init__(self, utterances: Sequence[Utterance], *, phones: bool = False) -> None:
    """`phones` gives the phonemes for text."""
    self.directory, self.split = "memory", "train"
    self._utterances, self._phones = utterances, phones

  def __len__(self) -> int:
    return len(self._utterances)

  def __getitem__(self, i: int) -> dict[str, Any]:
    one = self._utterances[i]
    text = one.phones if self._phones else one.text
    return {"id": str(i), "text": text, "speaker": one.speaker, "language": one.language, "instruction": ""}

  @property
  def names(self) -> list[str]:
    return [one.speaker for one in self._utterances]


class MemoryFeatures:
  """What batches ask of `cosyjax.data.feature_store.Features`."""

  def __init__(self, arrays: dict[str, list[np.ndarray]]) -> None:
    self.directory, self.split, self._arrays = "memory", "train", arrays
    self.fingerprints = dict.fromkeys(arrays, "memory")

  def __len__(self) -> int:
    return len(next(iter(self._arrays.values())))

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self._arrays)

  def read(self, name: str, i: int) -> np.ndarray:
    return self._arrays[name][i]

  def lengths(self, name: str) -> np.ndarray:
    return np.asarray([len(x) for x in self._arrays[name]], np.int32)

  def maybe(self, name: str) -> "MemoryFeatures | None":
    return MemoryFeatures({name: self._arrays[name]}) if name in self._arrays else None


@dataclasses.dataclass
class CropRows(Rows):
  """Crops for the vocoder, as `cosyjax.data.rows.VocoderRows`, from waves in memory."""

  waves: Sequence[np.ndarray]
  counted: ClassVar[tuple[str, str]] = ("lengths_B", "mel_BTM")

  def fields(self, length: int) -> Fields:
    return {
      "audio_BA": ((length * AUDIO.hop,), np.float32),
      "mel_BTM": ((length, AUDIO.mel_bins), np.float32),
      "f0_BT": ((length,), np.float32),
      "lengths_B": ((), np.int32),
    }

  def parts(self, example: int, epoch: int, length: int) -> Parts:
    mel_TM, f0_T = self.features.read("mel", example), self.features.read("f0", example)
    start = int(draw(self.seed, epoch, example, CROP).integers(max(len(mel_TM) - length, 0) + 1))
    end = min(start + length, len(mel_TM))
    audio_A = self.waves[example][start * AUDIO.hop : end * AUDIO.hop].astype(np.float32) / 32768
    spectra = {"mel_BTM": mel_TM[start:end].astype(np.float32), "f0_BT": f0_T[start:end]}
    return spectra | {"audio_BA": audio_A, "lengths_B": np.asarray(end - start, np.int32)}


def spectra(utterances: Sequence[Utterance], seconds: float, rows: int) -> dict[str, list[np.ndarray]]:
  """log_mel_16k, fbank, mel and f0 of recordings of at most `seconds`, `rows` at a time; stored in half precision.

  Raises:
    DataError: a recording is longer.
  """
  size = round(seconds * AUDIO.sample_rate)
  longest = max(len(one.wave_A) for one in utterances)
  if longest > size:
    raise DataError(
      f"spectra: expected recordings of at most {seconds:g} s, found one of {longest / AUDIO.sample_rate:.2f} s"
    )
  out: dict[str, list[np.ndarray]] = {name: [] for name in ("log_mel_16k", "fbank", "mel", "f0")}
  waiting: list[tuple[Any, np.ndarray]] = []
  for first in range(0, len(utterances), rows):
    some = utterances[first : first + rows]
    wave_BA, lengths_B = np.zeros((rows, size), np.int16), np.zeros(rows, np.int32)
    for row, one in enumerate(some):
      wave_BA[row, : len(one.wave_A)], lengths_B[row] = one.wave_A, len(one.wave_A)
    waiting.append((_program()(wave_BA, lengths_B), lengths_B[: len(some)]))
    if len(waiting) > 1:  # the device works on one batch while the host takes apart the one before
      _cut(*waiting.pop(0), out)
  for pair in waiting:
    _cut(*pair, out)
  return out


@functools.cache
def _program() -> Callable:
  """The compiled spectra, made when they are first asked for: their options depend on the device."""
  return jax.jit(_spectra, compiler_options=fft_options())


def _spectra(wave_BA: jax.Array, lengths_B: jax.Array) -> dict[str, jax.Array]:
  wave_BA = wave_BA.astype(np.float32) / 32768
  wave_16k_BA = two_thirds(wave_BA)
  half = lambda found: found[0].astype(np.float16)
  return {
    "log_mel_16k": half(log_mel_16k(wave_16k_BA, lengths_B * 2 // 3)),
    "fbank": half(kaldi_fbank(wave_16k_BA, lengths_B * 2 // 3)),
    "mel": half(mel_spectrogram(wave_BA, lengths_B, AUDIO)),
    "f0": pitch_lib.f0_track(wave_BA, lengths_B, AUDIO)[0],
  }


def two_thirds(wave_BA: jax.Array) -> jax.Array:
  """24 kHz to 16 kHz: [B, A] to [B, 2 A / 3], by a windowed sinc of 7.6 kHz at every third of twice the samples."""
  taps = _low_pass()
  up_BA1 = jax.numpy.stack([wave_BA, jax.numpy.zeros_like(wave_BA)], axis=-1).reshape(wave_BA.shape[0], -1, 1)
  pad = (len(taps) // 2, len(taps) // 2)
  out = jax.lax.conv_general_dilated(
    up_BA1, taps[:, None, None], (3,), [pad], dimension_numbers=("NWC", "WIO", "NWC"), precision="highest"
  )
  return out[:, : wave_BA.shape[1] * 2 // 3, 0]


@functools.cache
def _low_pass(half: int = 96, cut: float = 7600.0, rate: float = 48000.0) -> np.ndarray:
  at = np.arange(-half, half + 1)
  window = np.kaiser(len(at), 8.0)
  return (2 * (2 * cut / rate) * np.sinc(2 * cut / rate * at) * window).astype(np.float32)


def _cut(found: dict[str, Any], sizes: np.ndarray, out: dict[str, list[np.ndarray]]) -> None:
  """Takes the rows of a batch apart, each feature to its length as `cosyjax.data.extract` has it."""
  found = jax.device_get(found)
  for row, samples in enumerate(sizes.tolist()):
    samples_16k = samples * 2 // 3
    frames = samples_16k // 160
    tokens = min(token_lengths(frames), samples // AUDIO.samples_per_token)
    mel = AUDIO.frames_per_token * tokens
    ends = {"log_mel_16k": frames, "fbank": max(samples_16k - 240, 0) // 160, "mel": mel, "f0": mel}
    for name, end in ends.items():
      out[name].append(found[name][row, :end].copy())


def read_ahead(batches: Batches, first: int = 0, threads: int = 6) -> Iterator[dict[str, np.ndarray]]:
  """Batches from number `first` on, without end, read by threads before they are asked for, in order."""
  with ThreadPoolExecutor(threads) as pool:
    futures = [pool.submit(batches.read, n) for n in range(first, first + AHEAD)]
    n = first + AHEAD
    while True:
      futures.append(pool.submit(batches.read, n))
      n += 1
      yield futures.pop(0).result()


def in_turn(
  first: Iterator[dict[str, np.ndarray]], then: Iterator[dict[str, np.ndarray]], seconds: float
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of `first` for so many seconds from the first one on, then those of `then`."""
  begin = time.monotonic()
  while time.monotonic() - begin < seconds:
    yield next(first)
  yield from then
