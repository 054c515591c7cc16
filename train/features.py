"""Computes features of a corpus: speech tokens, mel, speaker vectors, f0 and what else training reads.

  python -m train.features DIR --model MODEL_DIR --names speech_tokens mel speaker f0 text_ids
  python -m train.features DIR --names log_mel_16k fbank f0                # for the two encoders: no model needed

Features lie beside the corpus in shards like its own. A shard that is whole is never computed again:
an interrupted job goes on where it stopped. Several machines share the work with --process 0/4 ..
3/4. Cost: mel and f0 of an hour take half a minute on a CPU core; networks want an accelerator.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.data.corpus import Corpus, splits
from cosyjax.data.extract import NETWORK, Model, compute
from cosyjax.data.feature_store import KINDS, Features
from cosyjax.errors import DataError
from cosyjax.evaluation.metrics import codebook_use
from cosyjax.inference.compilation import enable_cache
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from train.cli import at_exit, parse_processes


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("corpus", type=Path, help="corpus directory, from python -m train.build_corpus")
  names = ", ".join(f"{name} ({kind.says})" for name, kind in KINDS.items())
  parser.add_argument("--names", nargs="+", required=True, choices=list(KINDS), metavar="NAME", help=names)
  parser.add_argument("--split", nargs="+", metavar="SPLIT", help="of the corpus (default: all it has)")
  source = parser.add_mutually_exclusive_group()
  source.add_argument("--model", type=Path, help="model directory; for speech_tokens, speaker and text_ids")
  source.add_argument(
    "--preset", choices=sorted(config_lib.PRESETS), help="seeded random weights: for trying things out"
  )
  parser.add_argument("--process", default="0/1", metavar="I/N", help="this is process I of N, which share the shards")
  parser.add_argument("--force", action="store_true", help="compute again what another model made")
  parser.add_argument("--normalise", action="store_true", help="read out numbers in transcripts (text_ids)")
  parser.add_argument("--batch-seconds", type=float, help="audio on the device at once (default: 60 on CPU, 480 else)")
  parser.add_argument("--bad-share", type=float, default=0.01, help="stop if more recordings are unusable (0.01)")
  parser.add_argument("--no-cache", action="store_true", help="do not keep compiled programs on disk")
  args = parser.parse_args(argv)

  # -- Settings ---------------------------------------------------------------------------------

  start = time.perf_counter()
  logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
  process = parse_processes(args.process)
  if not args.no_cache:
    enable_cache()

  # -- Corpus and model: only the networks that the features need ------------------------------------

  corpora = [Corpus(args.corpus, split) for split in args.split or splits(args.corpus)]
  model = open_model(args.model, args.preset, args.names)

  # -- Shards -----------------------------------------------------------------------------------

  dones, extractors = [], {}
  total = sum(len(range(process[0], len(corpus.shards), process[1])) for corpus in corpora)
  with tqdm(total=total, desc=" ".join(args.names), unit="shard", file=sys.stderr, disable=None) as bar:

    def show(done):
      bar.update(sum(d.shards + d.skipped for d in [*dones, done]) - bar.n)
      seconds = sum(d.seconds for d in [*dones, done])
      bad = sum(len(d.bad) for d in [*dones, done])
      speed = seconds / (time.perf_counter() - start)
      bar.set_postfix(audio=f"{seconds / 3600:.2f} h", speed=f"{speed:.0f}x", bad=bad)

    for corpus in corpora:
      done = compute(
        corpus,
        args.corpus,
        corpus.split,
        args.names,
        model,
        process=process,
        force=args.force,
        normalise=args.normalise,
        batch_seconds=args.batch_seconds,
        bad_share=args.bad_share,
        extractors=extractors,
        progress=show,
      )
      dones.append(done)
    elapsed = time.perf_counter() - start
  seconds, bad = sum(done.seconds for done in dones), sum(len(done.bad) for done in dones)
  print(
    f"{sum(done.shards for done in dones)} shards computed, {sum(done.skipped for done in dones)} were there;"
    f" {sum(done.examples for done in dones)} examples, {seconds:.0f} s of audio in {elapsed:.0f} s,"
    f" {seconds / elapsed:.0f} times real time; {bad} recordings unusable"
  )
  if "speech_tokens" in args.names:
    report_use(args.corpus, [corpus.split for corpus in corpora], model.config.speech_tokenizer.codebook_size)
  return 0


def report_use(directory: Path, names: list[str], codes: int) -> None:
  """Prints how the tokens of each split fill the codebook; a split whose shards are not all there has no line."""
  for split in names:
    try:
      features = Features(directory, split, ["speech_tokens"])
    except DataError:  # another process has not finished its shards
      continue
    counts_C = np.zeros(codes, np.int64)
    for i in range(len(features)):
      counts_C += np.bincount(features[i]["speech_tokens"], minlength=codes)
    use = codebook_use(counts_C)
    print(
      f"{split}: {use.tokens:,} tokens use {use.used} of {use.codes} codes ({use.of_fillable:.1%} of what they could),"
      f" perplexity {use.perplexity:.0f}"
    )


def open_model(path: Path | None, preset: str | None, names: list[str]) -> Model | None:
  """The networks and the tokenizer that the features need, of a model directory or of a preset.

  Raises:
    CheckpointError: not a model directory.
  """
  components = sorted({NETWORK[name] for name in names if name in NETWORK})
  if preset:
    config = config_lib.PRESETS[preset]()
    params = networks.random_params(config) if components else {}
    return Model(config, {part: params[part] for part in components}, TextTokenizer.load(tiny_tokenizer_dir()))
  if not path:
    return None
  config = checkpoint.load_config(path)
  abstract = networks.abstract_params(config) if components else {}
  params = {part: checkpoint.load_params(path, part, abstract[part]) for part in components}
  tokenizer = None
  if "text_ids" in names:
    tokenizer = TextTokenizer.load(path / "text_tokenizer", split_cjk=config.text.split_cjk)
  return Model(config, params, tokenizer)


if __name__ == "__main__":
  sys.exit(at_exit(main))
