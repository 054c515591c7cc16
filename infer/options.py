"""Flags, model loading and progress bars that the programs share."""

import argparse
import dataclasses
import functools
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cosyjax import checkpoint
from cosyjax import config as config_lib
from cosyjax.errors import AudioError, CosyError, OutputError
from cosyjax.inference.compilation import enable_cache
from cosyjax.inference.requests import MODES, SAMPLERS, Request
from cosyjax.inference.synthesizer import Synthesizer, load, random_model
from cosyjax.inference.voice import Voice
from cosyjax.text import Fed, Lexicon, TextStream, TextTokenizer, prepare, tiny_tokenizer_dir
from cosyjax.text.language import LANGUAGES, detect_language
from cosyjax.version import __version__

REQUEST_FIELDS = [field.name for field in dataclasses.fields(Request) if field.name not in ("text", "voice")]
RANDOM_WEIGHTS = (
  "The weights are random (seeded): the output is noise of the right shape, not speech. "
  "Convert an official CosyVoice 2 directory for speech: python -m convert.cosyvoice2 SRC DST"
)


def add_model_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
  source = parser.add_mutually_exclusive_group(required=required)
  source.add_argument("--model", type=Path, help="model directory, from python -m convert.cosyvoice2")
  source.add_argument("--preset", choices=sorted(config_lib.PRESETS), help="seeded random weights of this size")
  parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"], help="compute type")
  parser.add_argument("--no-cache", action="store_true", help="do not keep compiled programs on disk")
  parser.add_argument("--verbose", action="store_true", help="log the text as it is read, and compilations")


def add_request_flags(parser: argparse.ArgumentParser) -> None:
  """Flags for the fields of a request; what is left out takes the model's default."""
  parser.add_argument("--instruction", help='how to say it, such as "say it happily"')
  parser.add_argument("--mode", choices=MODES, help="what the LM is prompted with; chosen from the rest if left out")
  parser.add_argument("--speed", type=float, default=1.0, help="0.5 to 2, 1 as the model speaks")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--language", default="auto", choices=LANGUAGES, help="how the text is read; found out by default"
  )
  parser.add_argument(
    "--lexicon", metavar="FILE", type=Path, help="words to say in the place of words: 'SQL => sequel', one a line"
  )
  parser.add_argument("--sampler", choices=SAMPLERS, help="how speech tokens are drawn")
  parser.add_argument("--temperature", type=float, help="of the distribution of speech tokens")
  parser.add_argument("--top-p", type=float, help="probability of the nucleus")
  parser.add_argument("--top-k", type=int, help="speech tokens in the nucleus, at most")
  parser.add_argument("--repeat-window", type=int, help="recent tokens that a drawn one is compared with")
  parser.add_argument("--repeat-rate", type=float, help="share of the window from which a token is drawn again")
  parser.add_argument("--flow-steps", type=int, help="Euler steps of the flow")
  parser.add_argument("--guidance", type=float, help="strength of the flow's classifier-free guidance")


def asked(args: argparse.Namespace) -> dict[str, Any]:
  """The fields of a request that flags give."""
  fields = {name: getattr(args, name) for name in REQUEST_FIELDS}
  return fields | {"lexicon": _lexicon(args.lexicon) if args.lexicon else None}


@functools.cache
def _lexicon(path: Path) -> Lexicon:
  return Lexicon.load(path)


def add_dry_run_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--dry-run", action="store_true", help="print each segment as it will be read, and its ids")


def dry_run(args: argparse.Namespace, text: str | Iterable[bytes], voice: str | None, prompt_text: str) -> None:
  """Prints each segment of a text as it will be read, and its ids; no weights are loaded.

  Args:
    args: of a program with the model's and a request's flags.
    text: known, or bytes that arrive; then the segments are those of a stream.
    voice, prompt_text: whose transcript says how digits alone are read.

  Raises:
    TextError: it cannot be spoken.
  """
  config = config_lib.PRESETS[args.preset]() if args.preset else checkpoint.load_config(args.model)
  directory = tiny_tokenizer_dir() if args.preset else args.model / "text_tokenizer"
  tokenizer = TextTokenizer.load(directory, split_cjk=config.text.split_cjk)
  spoken_before = Voice.load(voice).transcript if voice else prompt_text
  chosen = {"language": args.language, "prompt_language": detect_language(spoken_before)}
  chosen["lexicon"] = asked(args)["lexicon"]
  if isinstance(text, str):
    for piece in prepare(text, tokenizer, config.text, **chosen):
      _print_segment(piece.text, piece.ids)
    return
  stream, words, ids = TextStream(tokenizer, config.text, **chosen), "", []
  for fed in itertools.chain(itertools.chain.from_iterable(map(stream.push, text)), _closed(stream)):
    words, ids = words + fed.text, [*ids, *fed.ids]
    if fed.last:
      _print_segment(words, ids)
      words, ids = "", []


def _closed(stream: TextStream) -> Iterator[Fed]:
  yield from stream.close()


def _print_segment(text: str, ids: Sequence[int]) -> None:
  print(f"{text}\t{' '.join(map(str, ids))}", flush=True)


def open_model(args: argparse.Namespace) -> Synthesizer:
  """Sets up logging and the compilation cache, and loads what the flags name."""
  logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
  logging.getLogger("cosyjax").setLevel(logging.INFO if args.verbose else logging.WARNING)
  if not args.no_cache:
    enable_cache()
  if args.preset:
    print(RANDOM_WEIGHTS, file=sys.stderr)
    return random_model(args.preset, dtype=args.dtype)
  return load(args.model, dtype=args.dtype)


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
  """Flags for the recording whose voice is taken."""
  parser.add_argument("--prompt-wav", metavar="FILE", help="recording of 0.5 to 30 s of the voice to take")
  parser.add_argument("--prompt-text", default="", help="what the prompt says")
  parser.add_argument("--keep-silence", action="store_true", help="keep long silence around the prompt's speech")


def make_voice(
  model: Synthesizer, voice: str | None, prompt_wav: str | None, prompt_text: str, keep_silence: bool = False
) -> Voice:
  """A voice from a saved file, or from a recording and its transcript."""
  if voice:
    return Voice.load(voice)
  if not prompt_wav:
    raise AudioError("no voice: give --prompt-wav (with --prompt-text), or --voice FILE")
  return model.voice(prompt_wav, prompt_text, trim=not keep_silence)


def check_folder(path: Path | None) -> None:
  """Whether a file could be put there: asked before a long computation.

  Raises:
    OutputError: its folder is not one.
  """
  if path is not None and (not path.parent.is_dir() or path.is_dir()):
    raise OutputError(f"{path}: expected the name of a file in a folder that is there")


class Bars:
  """One progress bar per stage, on standard error, shown only where somebody watches."""

  def __init__(self, least: int = 2) -> None:
    self._bars: dict[str, tqdm] = {}
    self._least = least

  def __call__(self, stage: str, done: int, total: int) -> None:
    if total < self._least:
      return
    if stage not in self._bars:
      self._bars[stage] = tqdm(total=total, desc=stage, file=sys.stderr, disable=None, leave=False)
    bar = self._bars[stage]
    bar.update(done - bar.n)
    if done == total:
      self._bars.pop(stage).close()


def run(main: Any, argv: list[str] | None = None) -> int:
  """Runs a program's `main`; a typed error becomes one line and exit status 1."""
  try:
    return main(argv)
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130


def version_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--version", action="version", version=f"cosyjax {__version__}")
