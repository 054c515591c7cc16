"""Flags that name a test set and the voices that say it, for the stages of `infer.evaluate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import ConfigError
from cosyjax.evaluation import test_sets
from cosyjax.evaluation.test_sets import Sentence


def add_set_flags(parser: argparse.ArgumentParser) -> None:
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--texts", type=Path, metavar="FILE", help="UTF-8 text, a sentence a line; needs --language")
  what.add_argument("--manifest", type=Path, metavar="FILE", help="JSON lines with id, audio, text, speaker, language")
  what.add_argument("--seed-tts-eval", type=Path, metavar="LST", help="meta.lst, hardcase.lst, ... of seed-tts-eval")
  what.add_argument("--librispeech", type=Path, metavar="DIR", help="a subset of LibriSpeech, such as test-clean")
  parser.add_argument("--language", help="of the texts; of seed-tts-eval's list, if its folder is not named en or zh")
  parser.add_argument("--only-language", metavar="L", help="take sentences of this language alone")
  parser.add_argument("--limit", type=int, metavar="N", help="take N sentences, spread over the set")
  parser.add_argument(
    "--seconds", type=float, nargs=2, metavar=("LOW", "HIGH"), help="take sentences whose recording is this long"
  )


def add_voice_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--voices", type=Path, nargs="+", default=[], metavar="FILE", help="saved voices that take turns")
  parser.add_argument("--prompts", type=Path, metavar="MANIFEST", help="recordings whose voices take turns")
  parser.add_argument("--every-voice", action="store_true", help="each sentence by every voice, not in turn")


def read_set(args: argparse.Namespace, voices: bool = False) -> list[Sentence]:
  """The sentences that the flags name, if asked for with the voices that say them.

  Raises:
    DataError: the set cannot be read, or nothing is left of it.
    ConfigError: flags that contradict each other.
  """
  if args.texts:
    if not args.language:
      raise ConfigError("--texts needs --language")
    rows = test_sets.read_texts(args.texts, args.language)
  elif args.manifest:
    rows = test_sets.read_manifest_set(args.manifest)
  elif args.seed_tts_eval:
    rows = test_sets.read_meta_list(args.seed_tts_eval, args.language)
  else:
    rows = test_sets.read_librispeech(args.librispeech)
  chosen = test_sets.selection(rows, language=args.only_language, seconds=args.seconds, limit=args.limit)
  return _with_voices(chosen, rows, args) if voices else chosen


def _with_voices(chosen: Sequence[Sentence], rows: Sequence[Sentence], args: argparse.Namespace) -> list[Sentence]:
  voices = [Sentence(path.stem, "", "", speaker=path.stem, voice=path) for path in args.voices]
  voices += test_sets.read_manifest_set(args.prompts) if args.prompts else []
  if voices:
    return test_sets.with_voices(chosen, voices, args.every_voice)
  if any(s.prompt is None and s.recording is None for s in chosen):
    raise ConfigError("a set of texts alone needs voices: --voices FILE ... or --prompts MANIFEST")
  return test_sets.with_prompts(chosen, rows)


def set_header(args: argparse.Namespace) -> dict[str, object]:
  """What a system's header says about its test set."""
  [(kind, path)] = [(k, p) for k in ("texts", "manifest", "seed_tts_eval", "librispeech") if (p := getattr(args, k))]
  return {"set": kind, "path": str(path), "limit": args.limit, "seconds": args.seconds}


def set_flags(args: argparse.Namespace) -> list[str]:
  """The flags of `add_set_flags` as they were given, for another stage."""
  named = ("texts", "manifest", "seed_tts_eval", "librispeech", "language", "only_language", "limit")
  out = [x for name in named if (v := getattr(args, name)) for x in (f"--{name.replace('_', '-')}", str(v))]
  return [*out, "--seconds", *map(str, args.seconds)] if args.seconds else out
