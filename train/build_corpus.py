"""Builds a corpus directory (ArrayRecord shards) from manifests, from a folder, or from a TFDS data set.

  python -m train.build_corpus --manifest data/train.jsonl --validation 0.02 --out corpus
  python -m train.build_corpus --folder recordings --language en --validation 0.05 --out corpus
  python -m train.build_corpus --tfds ~/tensorflow_datasets/ljspeech/1.1.1 --validation 0.02 --out corpus

A manifest has one JSON object in a line: id, audio (path, relative to the manifest; WAV, FLAC or Opus) or
audio_bytes (base64), text, speaker, language, and instruction if there is one. A folder holds recordings, each
with a .txt of the same name beside it; the speaker is the name of the subfolder, or --speaker. LibriTTS, LJSpeech,
AISHELL-1 and -3 and Common Voice are read as they were unpacked. MP3 is stored as FLAC, and so are m4a, mp4, webm,
amr and aac (with cosyjax[media]). Every entry is checked and every recording decoded before anything is written;
all that is bad is listed at once, with file and line.

With Apache Beam (pip install apache-beam; here the direct runner) the recordings are read by the workers:

  python -m train.build_corpus --manifest data/train.jsonl --out corpus --beam

On Dataflow, with manifest and audio in a bucket (pip install "apache-beam[gcp]" gcsfs; python -m build --sdist;
requirements.txt: tensorflow-datasets, array_record, gcsfs):

  python -m train.build_corpus --manifest gs://BUCKET/train.jsonl --out gs://BUCKET/corpus --shards 1024 \\
    --beam "--runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://BUCKET/tmp \\
            --extra_package=dist/cosyjax-0.1.0.tar.gz --requirements_file=requirements.txt"

Records, order and shards are the same with and without Beam. Trainers read a corpus from a disk or a mount
(gcsfuse): ArrayRecord files are not read from buckets.

Exit status: 0, or 2 if the input cannot be used or the output not be written.
"""

import argparse
import dataclasses
import functools
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cosyjax.data import adapter, builder, layouts, manifest
from cosyjax.data.corpus import Corpus, splits
from cosyjax.errors import CosyError, DataError


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m train.build_corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--manifest", nargs="+", help="JSON lines files of the split train")
  source.add_argument("--folder", type=Path, help="folder of recordings and transcripts")
  source.add_argument("--tfds", help="directory of a prepared TFDS data set, with its version")
  parser.add_argument("--split", action="append", default=[], metavar="NAME=FILE", help="another split, of a manifest")
  parser.add_argument(
    "--validation", type=float, metavar="SHARE", help="of each speaker's utterances, held out by hash"
  )
  parser.add_argument("--out", required=True, help="corpus directory to make")
  parser.add_argument("--shards", type=int, help=f"of every split; by default one for {builder.PER_SHARD} utterances")
  parser.add_argument("--beam", nargs="?", const="", metavar="OPTIONS", help="build with Apache Beam")
  parser.add_argument("--layout", choices=layouts.LAYOUTS, help="of the --folder, where it is not recognised by itself")
  parser.add_argument("--language", help="with --folder: of the transcripts, e.g. en; if the layout does not say it")
  parser.add_argument("--speaker", help="with --folder: of all recordings, instead of the subfolders' names")
  parser.add_argument("--tfds-split", default="train", help="with --tfds: what becomes train")
  parser.add_argument("--fields", nargs="+", default=[], metavar="FIELD=NAME",
                      help="with --tfds: names of its features (audio=speech text=sentence ...); "
                      "speaker==anna is a value for all")  # fmt: skip
  parser.add_argument("--min-seconds", type=float, default=manifest.MIN_SECONDS)
  parser.add_argument("--max-seconds", type=float, default=manifest.MAX_SECONDS)
  parser.add_argument("--leave-out", type=float, default=0.0, metavar="SHARE",
                      help="of entries: so many bad ones are left out, and listed; more are refused")  # fmt: skip
  args = parser.parse_args(argv)
  if args.shards is not None and args.shards < 1:
    parser.error("--shards: expected 1 or more")
  if not 0 <= args.leave_out < 1:
    parser.error("--leave-out: expected a share from 0 to below 1")
  if args.validation is not None and not 0 < args.validation < 1:
    parser.error("--validation: expected a share above 0 and below 1")
  return args


def gather(args: argparse.Namespace) -> dict[str, list]:
  """Items by split.

  Raises:
    DataError: an input that cannot be used, or two splits of one name.
  """
  limits = (args.min_seconds, args.max_seconds)
  # -- Rows; with Beam the workers decode ------------------------------------------------------------
  checks = {
    "limits": limits,
    "leave_out": args.leave_out,
    "check_audio": args.beam is None,
    "threads": os.cpu_count() or 1,
    "progress": functools.partial(tqdm, desc="checking recordings", unit=""),
  }
  if args.manifest:
    train = manifest.read_manifest(*args.manifest, **checks)
  elif args.folder:
    name = args.layout or layouts.recognise(args.folder)
    print(f"{args.folder}: layout {name} ({layouts.LAYOUTS[name].says})", file=sys.stderr)
    entries = layouts.read_folder(args.folder, language=args.language, speaker=args.speaker, layout=name)
    train = manifest.check_entries(entries, **checks)
  else:
    fields = tfds_fields(args) if args.fields else None
    train = adapter.recordings(Path(args.tfds).expanduser(), args.tfds_split, fields=fields, limits=limits)

  # -- Splits ----------------------------------------------------------------------------------------
  found = {"train": train}
  if args.validation:
    found["train"], found["validation"] = builder.held_out(train, args.validation)
  for each in args.split:
    name, _, file = each.partition("=")
    if not (name.isidentifier() and file) or name in found:
      raise DataError(f"--split {each}: expected NAME=FILE with a name other than {', '.join(found)}")
    found[name] = manifest.read_manifest(file, **checks)
  return found


def tfds_fields(args: argparse.Namespace) -> adapter.Fields:
  """What the table says of the data set, changed as the flags say."""
  try:
    name = json.loads((Path(args.tfds).expanduser() / "dataset_info.json").read_text())["name"]
  except (OSError, ValueError, KeyError):
    name = ""  # `recordings` says what is wrong
  changes = dict(each.partition("=")[::2] for each in args.fields)
  known = {field.name for field in dataclasses.fields(adapter.Fields)}
  if unknown := sorted(set(changes) - known):
    raise DataError(f"--fields: expected {', '.join(sorted(known))}; found {', '.join(unknown)}")
  if "rate" in changes:
    if not changes["rate"].isdigit():
      raise DataError(f"--fields rate: expected samples a second, found {changes['rate']!r}")
    changes["rate"] = int(changes["rate"])
  return dataclasses.replace(adapter.KNOWN.get(name, adapter.Fields()), **changes)


def report(directory: str) -> None:
  """Prints what was built, and so makes the index that trainers look lengths and speakers up in."""
  for split in splits(directory):
    corpus = Corpus(directory, split)
    for language in sorted(set(corpus.languages_N.tolist())):
      is_one = corpus.languages_N == language
      hours, speakers = corpus.seconds_N[is_one].sum() / 3600, len(np.unique(corpus.speakers_N[is_one]))
      print(f"{split:12} {language}: {hours:.3f} h, {is_one.sum()} utterances, {speakers} speakers")


def counted(items: Iterable, bar: tqdm) -> Iterator:
  for item in items:
    yield item
    bar.update()


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
  try:
    found = gather(args)
    with tqdm(total=sum(map(len, found.values())), desc="writing", unit="", disable=args.beam is not None) as bar:
      builder.build(found, args.out, shards=args.shards, beam=args.beam, progress=lambda items: counted(items, bar))
    if "://" not in args.out:
      report(args.out)
  except (CosyError, OSError) as error:
    print(f"python -m train.build_corpus: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
