"""Computes the mel that a flow makes of a corpus's own speech tokens: what a vocoder is fine-tuned on.

  python -m train.flow_mels CORPUS --model MODEL_DIR
  python -m train.flow_mels CORPUS --model MODEL_DIR --split train

The corpus needs the features speech_tokens, mel and speaker of the same model. Every utterance is solved whole, in its
own speaker's voice, its first --prompt of tokens with their true mel as a prompt, as in zero-shot
synthesis; so frame t of the result, feature flow_mel, belongs to frame t of the recording. --chunk 25
solves under the mask of a stream.

Feature shards are written as train.features writes them: one that is whole is never computed again, and
--process 0/4 .. 3/4 share the work. Cost: 10 network steps over 50 frames a second; full size wants an
accelerator.
"""

import argparse
import functools
import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cosyjax import checkpoint, networks
from cosyjax.config import AudioConfig, to_dict
from cosyjax.data.corpus import Corpus, splits
from cosyjax.data.feature_store import Features, ShardWriter, empty, made_by, shard_stem
from cosyjax.errors import DataError
from cosyjax.flow.flow_model import Flow
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.inference.buckets import fit
from cosyjax.inference.compilation import enable_cache
from train.cli import at_exit, parse_processes

NAME = "flow_mel"
NEEDED = ("speech_tokens", "mel", "speaker")
SECONDS = (3, 4, 6, 8, 11, 15, 20, 30, 60)  # rows of a batch; longer utterances are left empty


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m train.flow_mels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("corpus", type=Path, help="corpus directory, with its features")
  parser.add_argument("--model", type=Path, required=True, help="model directory")
  parser.add_argument("--split", nargs="+", metavar="SPLIT", help="of the corpus (default: all it has)")
  parser.add_argument("--prompt", type=float, default=0.3, help="share of an utterance given as a prompt (0.3)")
  parser.add_argument("--chunk", type=int, default=0, help="tokens in a block of the mask; 0: all see all (0)")
  parser.add_argument("--batch-seconds", type=float, default=120.0, help="audio in a batch, padding included (120)")
  parser.add_argument("--process", default="0/1", metavar="I/N", help="this is process I of N, which share the shards")
  parser.add_argument("--force", action="store_true", help="compute again what another model made")
  parser.add_argument("--no-cache", action="store_true", help="do not keep compiled programs on disk")
  args = parser.parse_args(argv)

  # ---- corpus, model, and what names the result
  index, count = parse_processes(args.process)
  if not args.no_cache:
    enable_cache()
  names = args.split or splits(args.corpus)
  read = [(Corpus(args.corpus, name), Features(args.corpus, name, NEEDED)) for name in names]
  config = checkpoint.load_config(args.model)
  params = checkpoint.load_params(args.model, "flow", networks.abstract_params(config)["flow"])
  solve = jax.jit(functools.partial(generate, Flow(config.flow), params, chunk=args.chunk))

  # ---- shards of all splits
  shards = []
  for corpus, features in read:
    maker = fingerprint(config.flow, params, args.prompt, args.chunk, features.fingerprints)
    for k, place in enumerate(corpus.shards):
      stem = shard_stem(corpus.split, k, len(corpus.shards))
      shards.append((stem, place, features, maker, made_by(args.corpus, NAME, stem)))
  if any(found not in (None, maker) for *_, maker, found in shards) and not args.force:
    raise DataError(f"{args.corpus}: {NAME} was made by another model or with other settings; --force makes it again")
  due = [tuple(job) for *job, found in shards[index::count] if found != job[-1]]
  skipped = 0
  for stem, (first, size), features, maker in tqdm(due, desc=NAME, unit="shard", file=sys.stderr, disable=None):
    mels = solve_all(solve, features, range(first, first + size), args.prompt, args.batch_seconds, config.audio)
    with ShardWriter(args.corpus, NAME, stem, maker) as shard:
      for i in range(first, first + size):
        shard.add(mels.get(i, empty("mel")))
    skipped += size - len(mels)
  print(f"{len(due)} shards computed; {skipped} utterances left empty: without features, or over {SECONDS[-1]} s")
  return 0


def solve_all(
  solve, features: Features, examples: range, prompt: float, batch_seconds: float, audio: AudioConfig
) -> dict[int, np.ndarray]:
  """Mel [2U, M] of each example that can be solved, in padded batches of few shapes."""
  groups: dict[int, list[int]] = {}
  lengths_N, rate, per_token = features.lengths("speech_tokens"), audio.token_rate, audio.frames_per_token
  for i in examples:
    if 0 < lengths_N[i] <= SECONDS[-1] * rate and len(features.read("speaker", i)):
      groups.setdefault(fit(SECONDS, -(-int(lengths_N[i]) // rate), "seconds"), []).append(i)
  out = {}
  for seconds, members in sorted(groups.items()):
    rows, size = max(int(batch_seconds / seconds), 1), seconds * rate
    for start in range(0, len(members), rows):
      batch = members[start : start + rows]
      found = [features[i] for i in batch]
      tokens_BU, lengths_B = np.zeros((rows, size), np.int32), np.ones(rows, np.int32)
      mel_BTM = np.zeros((rows, per_token * size, found[0]["mel"].shape[1]), np.float32)
      speaker_BE = np.ones((rows, len(found[0]["speaker"])), np.float32)
      for row, item in enumerate(found):
        lengths_B[row] = len(item["speech_tokens"])
        tokens_BU[row, : lengths_B[row]], speaker_BE[row] = item["speech_tokens"], item["speaker"]
        mel_BTM[row, : len(item["mel"])] = item["mel"]
      prompts_B = per_token * (prompt * lengths_B).astype(np.int32)
      noise_TM = noise_table(per_token * size, audio.mel_bins)
      made = np.asarray(solve(tokens_BU, lengths_B, mel_BTM, prompts_B, speaker_BE, noise_TM))
      out |= {i: made[row, : per_token * lengths_B[row]] for row, i in enumerate(batch)}
  return out


def fingerprint(config, params, prompt: float, chunk: int, inputs: dict[str, str]) -> str:
  """What made the mel: weights, settings, and what made the features it comes of."""
  settings = [to_dict(config), prompt, chunk, inputs]
  digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


if __name__ == "__main__":
  sys.exit(at_exit(main))
