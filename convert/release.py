"""Finds the files of an official release and reads their tensors, however they were saved.

What differs from a plain release is said, never passed over: prefixes that are taken off, tensors of a training run
that are left out, files that are there and not read, which language model is chosen.
"""

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

from convert.engine import Tensors, fold_weight_norm
from convert.read_pt import read_pt
from convert.read_safetensors import read_safetensors
from cosyjax.errors import ConversionError

log = logging.getLogger("cosyjax.convert")

TEXT_TOKENIZER = "CosyVoice-BlankEN"
SETTINGS = ("cosyvoice2.yaml", "cosyvoice.yaml")
STEMS = {"lm": "llm", "flow": "flow", "vocoder": "hift"}
GRAPHS = {"speech_tokenizer": "speech_tokenizer_v2.onnx", "speaker": "campplus.onnx"}
WHOLE = "model.safetensors"  # of one component, or of all three below llm., flow. and hift.
VOICES = "spk2info.pt"
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of data parallel training, of torch.compile, of a wrapper
_KNOWN = {"lm": "llm_decoder.weight", "flow": "spk_embed_affine_layer.weight", "vocoder": "conv_pre.bias"}
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclasses.dataclass
class Release:
  """Where everything of a release is.

  Attributes:
    directory: of the release.
    files: component -> file with its weights.
    settings: the YAML file.
    voices: `spk2info.pt`, or None.
    notes: what is to be said of it.
    digests: file as named in the release -> SHA-256 and size, of every file that is read.
  """

  directory: Path
  files: dict[str, Path]
  settings: Path
  voices: Path | None
  notes: list[str] = dataclasses.field(default_factory=list)
  digests: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def find_release(directory: Path, llm: Path | None = None) -> Release:
  """The files of a release, each there and itself.

  Args:
    directory: of the release.
    llm: weights of the language model to take in place of `llm.pt`: a path, or a name in the release.

  Raises:
    ConversionError: files are missing, or are Git-LFS pointers.
  """
  directory, notes = Path(directory), []
  files = {name: directory / graph for name, graph in GRAPHS.items()}
  for name, stem in STEMS.items():
    found = [f for f in (directory / f"{stem}.pt", directory / f"{stem}.safetensors", directory / WHOLE) if f.is_file()]
    files[name] = found[0] if found else directory / f"{stem}.pt"
    notes += [f"{f.name} is there and not read: {found[0].name} is" for f in found[1:] if f.name != WHOLE]
  if (directory / WHOLE).is_file() and not any(files[name].name == WHOLE for name in STEMS):
    notes.append(f"{WHOLE} is there and not read: the .pt files are")
  if llm is not None:
    files["lm"] = llm if llm.is_file() else directory / llm
    if not files["lm"].is_file():
      raise ConversionError(f"--llm {llm}: expected a file, or the name of one in {directory}")
    notes.append(f"the language model is {files['lm']}")
  elif others := sorted(p.name for p in directory.glob("llm.*.pt")):
    there = f"there is {', '.join(others)} too: --llm {others[0]} takes it"
    notes.append(f"the language model is {files['lm'].name}; {there}")
  settings = next((directory / name for name in SETTINGS if (directory / name).is_file()), directory / SETTINGS[0])
  tokenizer = directory / TEXT_TOKENIZER / "config.json"
  missing = [p.relative_to(directory).as_posix() for p in (*files.values(), settings, tokenizer) if not p.is_file()]
  if missing:
    raise ConversionError(f"{directory} is no CosyVoice 2 release: {', '.join(missing)} not found{_kind(directory)}")
  voices = directory / VOICES if (directory / VOICES).is_file() else None
  release = Release(directory, files, settings, voices, notes)
  # The text model's own weights, which a release carries too, are not read.
  texts = sorted(p for p in tokenizer.parent.iterdir() if p.suffix in (".json", ".txt", ".jinja"))
  for path in dict.fromkeys([*files.values(), settings, *([voices] if voices else []), *texts]):
    check_pointer(path)
    name = path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)
    release.digests[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
  return release


def read_weights(release: Release, component: str) -> Tensors:
  """Tensors of the language model, the flow or the vocoder (weight norm folded), under their names in a release.

  Raises:
    ConversionError: the file cannot be read, or holds another component.
    UnsafeFileError: it asks for more than tensors.
  """
  path = release.files[component]
  tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_pt(path)
  if path.name == WHOLE:
    tensors = _part(path, tensors, component)
  tensors, said = strip_prefixes(tensors)
  if component == "vocoder":
    tensors, more = _generator(tensors)
    said += more
  release.notes += [f"{path.name}: {text}" for text in said]
  if _KNOWN[component] not in tensors and (other := next((n for n, key in _KNOWN.items() if key in tensors), None)):
    raise ConversionError(f"{path}: expected the tensors of the {component}, found those of the {other}")
  return fold_weight_norm(tensors) if component == "vocoder" else tensors


def strip_prefixes(tensors: Tensors) -> tuple[Tensors, list[str]]:
  """Tensors without what training wraps around their names, and what was taken off."""
  said = []
  while prefix := next((p for p in _PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None):
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    said.append(f"prefix {prefix!r} taken off all names")
  if inner := [name for name in tensors if "._orig_mod." in name]:
    renamed = {name: name.replace("._orig_mod.", ".") for name in inner}
    if clash := sorted(set(renamed.values()) & tensors.keys()):
      raise ConversionError(f"two tensors are called {clash[0]!r}, one with '_orig_mod.' in its name")
    tensors = {renamed.get(name, name): tensor for name, tensor in tensors.items()}
    said.append(f"'_orig_mod.' taken out of {len(inner)} names")
  return tensors, said


def check_pointer(path: Path) -> None:
  """Refuses a Git-LFS pointer, which stands for a file that was not fetched.

  Raises:
    ConversionError: it is one, or cannot be read.
  """
  try:
    with path.open("rb") as file:
      head = file.read(300)
  except OSError as error:
    raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
  if head.startswith(_POINTER):
    size = next((line[5:].decode() for line in head.splitlines() if line.startswith(b"size ")), "?")
    raise ConversionError(
      f"{path} is a Git-LFS pointer, not the file of {size} bytes that it stands for: fetch it with git lfs pull"
    )


def sha256(path: Path) -> str:
  """Of a file's content, in hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _kind(directory: Path) -> str:
  """What the directory seems to be instead."""
  if (directory / "speech_tokenizer_v1.onnx").is_file():
    return " (it looks like a release of CosyVoice 1, another model)"
  if (directory / "cosyvoice3.yaml").is_file():
    return " (it looks like a release of CosyVoice 3, another model)"
  return ""


def _part(path: Path, tensors: Tensors, component: str) -> Tensors:
  """One component's tensors of a file that may hold all three."""
  stems = {name: f"{stem}." for name, stem in STEMS.items()}
  if any(name.startswith((stems["flow"], stems["vocoder"])) for name in tensors):
    tensors = {n.removeprefix(stems[component]): t for n, t in tensors.items() if n.startswith(stems[component])}
  if not tensors:
    raise ConversionError(f"{path}: expected tensors below {stems[component]!r}, found none")
  return tensors


def _generator(tensors: Tensors) -> tuple[Tensors, list[str]]:
  """Of an adversarial training's checkpoint the generator's tensors, without their prefix."""
  discriminators = [name for name in tensors if name.startswith("discriminator.")]
  kept = {name.removeprefix("generator."): t for name, t in tensors.items() if not name.startswith("discriminator.")}
  said = [f"discriminator.* left out, {len(discriminators)} tensors of adversarial training"] if discriminators else []
  if len(kept) + len(discriminators) != len(tensors):
    raise ConversionError("two tensors of the vocoder have one name, one of them below 'generator.'")
  if any(name.startswith("generator.") for name in tensors):
    said.append("prefix 'generator.' taken off")
  return kept, said
