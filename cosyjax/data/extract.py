"""Computes features of a corpus: recordings decoded by threads, networks and spectra in padded batches on the device.

What inference does to a prompt is done here to every recording: speech tokens of its 16 kHz log-mel
(in windows of 30 s where it is longer), the speaker vector of its filter bank, and its 24 kHz mel and
f0 cut to exactly two frames a token.
"""

import dataclasses
import functools
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cosyjax import config as config_lib
from cosyjax.audio import check_speech, kaldi_fbank, log_mel_16k, mel_spectrogram, read, resample
from cosyjax.audio import pitch as pitch_lib
from cosyjax.audio.stft import fft_options
from cosyjax.data import text as text_lib
from cosyjax.data.feature_store import KINDS, ShardWriter, empty, made_by, shard_stem
from cosyjax.data.rows import BAD
from cosyjax.errors import ConfigError, DataError
from cosyjax.inference.buckets import fit
from cosyjax.inference.padding import column, pad
from cosyjax.networks import networks
from cosyjax.speech_tokenizer import windows
from cosyjax.speech_tokenizer.speech_encoder import token_lengths

log = logging.getLogger("cosyjax.data")

BUCKETS = (2, 3, 4, 6, 8, 11, 15, 20, 30, 60, 120, 300, 600)  # seconds that a row of a batch has
ONE_WINDOW = 30  # seconds that the speech tokenizer takes at once
CHUNK = 512  # recordings held in memory at a time
AUDIO_NAMES = ("speech_tokens", "mel", "f0", "speaker", "log_mel_16k", "fbank")
NETWORK = {"speech_tokens": "speech_tokenizer", "speaker": "speaker"}  # feature -> component that makes it
_RECIPES = {"mel": 1, "f0": pitch_lib.VERSION, "log_mel_16k": 1, "fbank": 1}  # counts changes of the numbers

Waves = tuple[np.ndarray, np.ndarray]  # at 24 and at 16 kHz


@dataclasses.dataclass(frozen=True)
class Model:
  """What features of networks and of text are made with; parts that no wanted feature needs may be missing."""

  config: config_lib.ModelConfig
  params: dict[str, Any] = dataclasses.field(default_factory=dict)
  text_tokenizer: Any = None


@dataclasses.dataclass
class Done:
  """What a job did.

  Attributes:
    shards: computed now; `skipped`: whole already; `examples`, `seconds` of audio in those computed now.
    bad: (example, reason) of recordings that could not be used.
  """

  shards: int = 0
  skipped: int = 0
  examples: int = 0
  seconds: float = 0.0
  bad: list[tuple[int, str]] = dataclasses.field(default_factory=list)


def compute(
  corpus: Any,
  directory: Any,
  split: str,
  names: Sequence[str],
  model: Model | None = None,
  *,
  process: tuple[int, int] = (0, 1),
  force: bool = False,
  normalise: bool = False,
  batch_seconds: float | None = None,
  bad_share: float = 0.01,
  extractors: dict[tuple[str, ...], "Extractor"] | None = None,
  progress: Callable[[Done], None] | None = None,
) -> Done:
  """Computes what is missing of some features, shard by shard.

  A shard that is whole is left alone, so an interrupted job goes on where it stopped, and process i of
  n takes every n-th shard.

  Args:
    corpus: random access, with `shards`.
    directory: of the corpus; features go below it.
    split: of the corpus.
    names: of `cosyjax.data.feature_store.KINDS`.
    model: for speech_tokens, speaker and text_ids.
    process: (this process, number of processes).
    force: compute shards again that another model (or recipe) made.
    normalise: read out numbers in transcripts (text_ids).
    batch_seconds: of audio on the device at once, padding included; 60 on a CPU and 480 elsewhere if None.
    bad_share: share of the recordings that may turn out unusable (one always may).
    extractors: by the names they compute; those made here are added, so that another split's job with the
      same model compiles nothing again.
    progress: called with what is done, after each shard.

  Raises:
    ConfigError: an unknown feature, or no model for one that needs it.
    DataError: shards of another model without `force`, or too many unusable recordings.
    OutputError: a shard cannot be written; what was there is as it was.
  """
  makers = {name: fingerprint(name, model, normalise=normalise) for name in dict.fromkeys(names)}
  stems = [shard_stem(split, k, len(corpus.shards)) for k in range(len(corpus.shards))]
  mine, done = list(range(process[0], len(stems), process[1])), Done()
  due: dict[int, list[str]] = {}
  for k in mine:
    found = {name: made_by(directory, name, stems[k]) for name in makers}
    others = [name for name, maker in found.items() if maker not in (None, makers[name])]
    if others and not force:
      raise DataError(
        f"{directory}: {', '.join(others)} of shard {stems[k]} were made by another model or recipe; with --force"
        " they are computed again"
      )
    due[k] = [name for name, maker in found.items() if maker != makers[name]]
  extractors = {} if extractors is None else extractors
  with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
    for k in mine:
      if not due[k]:
        done.skipped += 1
      else:
        wanted = tuple(due[k])  # a resumed job may miss different features of different shards
        if wanted not in extractors:
          extractors[wanted] = Extractor(wanted, model, normalise=normalise, batch_seconds=batch_seconds)
        _compute_shard(corpus, directory, stems[k], corpus.shards[k], extractors[wanted], makers, pool, done)
        done.shards += 1
      limit = max(1, bad_share * len(corpus) / process[1])
      if len(done.bad) > limit:
        example, why = done.bad[-1]
        raise DataError(
          f"{len(done.bad)} of {len(corpus)} recordings cannot be used; the last: example {example}: {why}"
        )
      if progress:
        progress(done)
  return done


def _compute_shard(corpus, directory, stem, shard, extractor, makers, pool, done: Done) -> None:
  first, count = shard
  with ExitStack() as stack:
    names = extractor.names
    writers = {n: stack.enter_context(ShardWriter(directory, n, stem, makers[n])) for n in names}
    chunks = [range(i, min(i + CHUNK, first + count)) for i in range(first, first + count, CHUNK)]
    load = functools.partial(_load, corpus, extractor)
    ahead = [pool.submit(load, i) for i in chunks[0]] if chunks else []
    for chunk, following in zip(chunks, [*chunks[1:], range(0)], strict=True):
      loaded = [future.result() for future in ahead]
      ahead = [pool.submit(load, i) for i in following]  # decoded while the device works
      bad = [(i, item) for i, item in zip(chunk, loaded, strict=True) if isinstance(item, str)]
      for i, why in bad:
        log.warning("example %d cannot be used: %s", i, why)
      done.bad += bad
      good = [item for item in loaded if not isinstance(item, str)]
      results = iter(extractor(good))
      for item in loaded:
        arrays = next(results) if not isinstance(item, str) else {name: empty(name) for name in names}
        for name, writer in writers.items():
          writer.add(arrays[name])
      done.examples += len(loaded)
      done.seconds += sum(len(item.wave_24k) for item in good) / extractor.audio.sample_rate


@dataclasses.dataclass(frozen=True, eq=False)
class _Item:
  """One recording, decoded; empty waves where only its text is wanted."""

  wave_24k: np.ndarray
  wave_16k: np.ndarray
  text_ids: np.ndarray


def _load(corpus: Any, extractor: "Extractor", i: int) -> "_Item | str":
  """Example i, or why it cannot be used."""
  try:
    example = corpus[i]
    return extractor.decode(example)
  except BAD as error:
    return f"{type(error).__name__}: {str(error)[:300]}"


class Extractor:
  """Computes some features of recordings, in batches of few shapes.

  Attributes:
    names: of the features.
    audio: rates and mel settings: the model's, or the default ones without a model.
  """

  def __init__(
    self,
    names: Sequence[str],
    model: Model | None = None,
    *,
    normalise: bool = False,
    batch_seconds: float | None = None,
  ) -> None:
    """Prepares the programs; they are compiled when a shape is first met.

    Raises:
      ConfigError: an unknown feature, or no model for one that needs it.
    """
    for name in names:
      _check_name(name, model)
    self.names = tuple(names)
    self.audio = model.config.audio if model else config_lib.AudioConfig()
    self._tokenizer = model.text_tokenizer if model and "text_ids" in names else None
    self._normalise = normalise
    self._batch_seconds = batch_seconds or (60.0 if jax.default_backend() == "cpu" else 480.0)
    self._audio = tuple(name for name in names if name in AUDIO_NAMES)
    devices = np.asarray(jax.local_devices())
    mesh = jax.sharding.Mesh(devices, ("data",))
    self._rows, self._devices = NamedSharding(mesh, PartitionSpec("data")), len(devices)
    parts = [NETWORK[name] for name in self._audio if name in NETWORK]
    self._modules = networks(model.config) if parts else {}
    self._params = jax.device_put({part: model.params[part] for part in parts}, NamedSharding(mesh, PartitionSpec()))
    self._front = jax.jit(self._front_fn, static_argnames="tokens", compiler_options=fft_options())
    self._tokenise = jax.jit(self._tokenise_fn)

  def decode(self, example: dict[str, Any]) -> _Item:
    """The recording at both rates and the transcript's ids.

    Raises:
      AudioError, TextError: it cannot be used.
    """
    ids = np.zeros(0, np.int32)
    if self._tokenizer is not None:
      ids = text_lib.transcript_ids(example, self._tokenizer, normalise=self._normalise)
    if not self._audio:
      return _Item(np.zeros(0, np.float32), np.zeros(0, np.float32), ids)
    wave_A, rate = read(io.BytesIO(example["audio"]), max_seconds=BUCKETS[-1])
    check_speech(wave_A, rate, where=example.get("id", "recording"), min_seconds=0.1, max_seconds=None)
    return _Item(resample(wave_A, rate, self.audio.sample_rate), resample(wave_A, rate, 16_000), ids)

  def __call__(self, items: Sequence[_Item]) -> list[dict[str, np.ndarray]]:
    """Features of each recording, by name."""
    results: list[dict[str, np.ndarray]] = [{} for _ in items]
    if "text_ids" in self.names:
      for result, item in zip(results, items, strict=True):
        result["text_ids"] = item.text_ids
    if self._audio:
      waiting: list[tuple[list[int], Any]] = []
      for group, seconds, rows in self._groups(items):
        waiting.append((group, self._start([items[i] for i in group], seconds, rows)))
        if len(waiting) > 1:  # the device works on one batch while the host takes apart the one before
          self._finish(items, *waiting.pop(0), results)
      for group, started in waiting:
        self._finish(items, group, started, results)
    return results

  def _groups(self, items: Sequence[_Item]) -> Iterator[tuple[list[int], int, int]]:
    """(indices, seconds of a row, rows) of each batch: recordings of like length.

    A length has at most three numbers of rows, the fewest for what is left of a small shard.
    """
    buckets: dict[int, list[int]] = {}
    for i, item in enumerate(items):
      longest = max(len(item.wave_24k) / self.audio.sample_rate, len(item.wave_16k) / 16_000)
      buckets.setdefault(fit(BUCKETS, -(-longest // 1), "seconds"), []).append(i)
    for seconds, members in sorted(buckets.items()):
      rows = max(int(self._batch_seconds / seconds) // self._devices, 1) * self._devices
      for start in range(0, len(members), rows):
        group = members[start : start + rows]
        few = [r for r in (rows // 16, rows // 4) if r >= len(group) and r % self._devices == 0]
        yield group, seconds, few[0] if few else rows

  def _start(self, items: list[_Item], seconds: int, rows: int) -> dict[str, Any]:
    arrays = []
    for waves, rate in (([i.wave_24k for i in items], self.audio.sample_rate), ([i.wave_16k for i in items], 16_000)):
      arrays += [pad(waves, (rows, seconds * rate), np.float32), column([len(w) for w in waves], rows)]
    arrays = [jax.device_put(array, self._rows) for array in arrays]
    return self._front(self._params, *arrays, tokens="speech_tokens" in self._audio and seconds <= ONE_WINDOW)

  def _finish(self, items: Sequence[_Item], group: list[int], started: Any, results: list) -> None:
    started = jax.device_get(started)
    if "speech_tokens" in self._audio and "speech_tokens" not in started:
      frames_B = np.asarray([len(items[i].wave_16k) // 160 for i in group])
      apply = lambda mel_WTM, lengths_W: self._tokenise(self._params, mel_WTM, lengths_W)
      started["speech_tokens"], _ = windows.tokenize(apply, started["log_mel_16k"][: len(group)], frames_B)
    for row, i in enumerate(group):
      size = _sizes(len(items[i].wave_24k), len(items[i].wave_16k), self.audio)
      for name in self._audio:
        # A copy: a view would keep the whole batch in memory.
        results[i][name] = started[name][row, : size.get(name)].astype(KINDS[name].dtype, copy=True)

  def _front_fn(self, params, wave_24k_BA, lengths_24k_B, wave_16k_BA, lengths_16k_B, *, tokens: bool):
    names, out = self._audio, {}
    if "mel" in names:
      out["mel"], _ = mel_spectrogram(wave_24k_BA, lengths_24k_B, self.audio)
    if "f0" in names:
      out["f0"], _ = pitch_lib.f0_track(wave_24k_BA, lengths_24k_B, self.audio)
    if "log_mel_16k" in names or "speech_tokens" in names:
      log_mel_BTM, frames_B = log_mel_16k(wave_16k_BA, lengths_16k_B)
      if "log_mel_16k" in names or not tokens:
        out["log_mel_16k"] = log_mel_BTM
      if tokens:
        out["speech_tokens"] = self._tokenise_fn(params, log_mel_BTM, frames_B)
    if "fbank" in names or "speaker" in names:
      fbank_BTM, frames_B = kaldi_fbank(wave_16k_BA, lengths_16k_B)
      if "fbank" in names:
        out["fbank"] = fbank_BTM
      if "speaker" in names:
        out["speaker"] = self._modules["speaker"].apply({"params": params["speaker"]}, fbank_BTM, frames_B)
    return out

  def _tokenise_fn(self, params, log_mel_BTM, lengths_B):
    module = self._modules["speech_tokenizer"]
    return module.apply({"params": params["speech_tokenizer"]}, log_mel_BTM, lengths_B)[0]


def _sizes(samples_24k: int, samples_16k: int, audio: config_lib.AudioConfig) -> dict[str, int]:
  """Length of each feature along its first axis."""
  frames_16k = samples_16k // 160
  U = min(token_lengths(frames_16k), samples_24k // audio.samples_per_token)
  fbank = max(samples_16k - 240, 0) // 160  # frames of 400 samples, 160 apart, within the signal
  T = audio.frames_per_token * U
  return {"speech_tokens": U, "mel": T, "f0": T, "log_mel_16k": frames_16k, "fbank": fbank}


def fingerprint(name: str, model: Model | None = None, *, normalise: bool = False) -> str:
  """What makes a feature: equal for equal recipes, and for equal weights where a network makes it.

  Raises:
    ConfigError: an unknown feature, or no model for one that needs it.
  """
  _check_name(name, model)
  if name == "text_ids":
    return text_lib.fingerprint(model.text_tokenizer, normalise)
  if name not in NETWORK:
    return f"{name}/{_RECIPES[name]}"
  component = NETWORK[name]
  config = config_lib.to_dict(getattr(model.config, component))
  digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
  for path, leaf in jax.tree_util.tree_leaves_with_path(model.params[component]):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode() + array.tobytes())
  return digest.hexdigest()


def _check_name(name: str, model: Model | None) -> None:
  if name not in KINDS:
    raise ConfigError(f"unknown feature {name!r}; known are {', '.join(KINDS)}")
  component = NETWORK.get(name)
  if component and (model is None or component not in model.params):
    raise ConfigError(f"feature {name} is made by the {component} network: give a model (--model)")
  if name == "text_ids" and (model is None or model.text_tokenizer is None):
    raise ConfigError("feature text_ids is made by a text tokenizer: give a model that has one (--model)")
