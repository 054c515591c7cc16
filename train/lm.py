"""Trains the text-speech language model (paper 2.3): text and speech tokens to the next speech token.

  python -m train.lm --config configs/lm.py --data CORPUS --out RUN --qwen Qwen2.5-0.5B
  python -m train.lm --config configs/lm_finetune.py --data CORPUS --out RUN --init MODEL_DIR

Needs the feature speech_tokens (and text_ids, else transcripts are tokenised at each start); see train.features.
The same command resumes a run that was stopped. Utterances are packed into rows of one length, in both
layouts; the loss is on speech, fill and end tokens. Evaluation also lets the model continue fixed utterances of
the evaluation corpus: how long it speaks, how far from the recording, and, with flow and vocoder of --init or
--listen and the features mel and speaker, how it sounds.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cosyjax import checkpoint
from cosyjax.analysis import flops
from cosyjax.config import LMConfig
from cosyjax.data.batches import Batches, lm_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.data.iterator import global_shapes
from cosyjax.data.rows import LMRows
from cosyjax.errors import ConfigError
from cosyjax.layers.basic import unbox
from cosyjax.layers.stack import stack_layers, unstack_layers
from cosyjax.lm import lm_objective
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.sharding import process_share
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from cosyjax.training.optimiser import OptimConfig
from train import loop, runtime, weights
from train import task as task_lib
from train.cli import MeshConfig, RunConfig
from train.listen import LMListener, first_utterances
from train.task import Findings, HostBatch, Network, Shapes, Speak, Task, Trainer


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Rows of a batch and what is in them."""

  rows: int = 256  # packed rows, over all devices
  length: int = 2048  # positions of a row; utterances that are longer are left out
  interleave: float = 0.5  # probability of the interleaved layout
  speaker_tag: str = ""  # before each text: "speaker" gives "Speaker X<|endofprompt|>", "unknown" that word
  normalise: bool = False  # read out numbers in transcripts
  split_cjk: bool = True  # Chinese characters one by one (paper 2.1); with --init, as the model does
  split: str = "train"
  eval_split: str = "validation"
  workers: int = 0  # processes that read ahead; threads if 0


@dataclasses.dataclass(frozen=True)
class Config:
  """All settings of a run. With --init the sizes in `lm` are those of the model directory."""

  run: RunConfig
  lm: LMConfig
  data: DataConfig
  optim: OptimConfig
  mesh: MeshConfig
  speaker: int = 0  # ablation (paper Table 7): length of the speaker vector that the model reads after START; 0: none
  samples: int = 2  # utterances that each evaluation speaks; none by a model with speaker vectors
  prompt: float = 0.3  # share of each that it is given as a prompt


def add_flags(flags: argparse.ArgumentParser) -> None:
  flags.add_argument("--qwen", type=Path, metavar="DIR", help="start text embedding and stack from Qwen2.5 weights")
  flags.add_argument("--tokenizer", type=Path, metavar="DIR", help="text tokenizer, if not that of --init or --qwen")
  flags.add_argument("--listen", type=Path, metavar="MODEL_DIR", help="flow and vocoder for the sounds of evaluations")


def task(args: argparse.Namespace, config: Config) -> Task:
  if args.init and args.qwen:
    raise ConfigError("--init and --qwen: expected at most one of them")
  if args.init:
    data = dataclasses.replace(config.data, split_cjk=splits_cjk(args, config))
    config = dataclasses.replace(config, lm=weights.sizes(args, "lm", config.lm), data=data)
  c, run, codes = config.lm, config.run, config.lm.speech_vocab.codebook_size
  model = TextSpeechLM(c, jnp.dtype(run.dtype), scan=True, remat=run.remat, speaker_dim=config.speaker)

  def init(key: jax.Array) -> Any:
    row = jnp.zeros((1, 8), jnp.int32)
    speakers = jnp.zeros((1, 1, config.speaker)) if config.speaker else None
    return model.init(key, row, row, segments_BL=row, speaker_BSE=speakers)["params"]

  def model_flops(shapes: Shapes, step: int) -> float:
    rows, length = shapes["ids_BL"].shape
    attention = flops.causal_attention(rows, length, c.heads, c.head_dim, c.layers)
    forward = lambda params, batch: lm_objective.objective(model, params, batch).total
    return flops.training_flops(forward, task_lib.abstract_params(made)[0], shapes, attention=attention)

  qwen = functools.partial(qwen_params, args.qwen, c) if args.qwen else None
  made = Task(
    config=config,
    networks=Network(init, config.optim, run.steps),
    units="tokens",
    metric="loss",
    open=functools.partial(open_batches, config, functools.cache(lambda: load_tokenizer(args, config))),
    shapes=functools.partial(batch_shapes, config),
    amount=lambda batch: float((batch["segments_BL"] > 0).sum()),
    capacity=lambda shapes: float(shapes["ids_BL"].size),
    flops=model_flops,
    loss=lambda params, batch, key, extra: lm_objective.objective(model, params, batch),
    look=lambda params, extra, batch, key: lm_objective.objective(model, params, batch, layouts=True),
    measure=functools.partial(measure, c.speech_vocab.rows),
    start=weights.starter(args, "lm", stack_layers) or qwen,
    speech=None if config.speaker else functools.partial(speech, args, config),
    ids={"ids_BL": (0, min(codes, c.text_vocab)), "targets_BL": (0, codes)},
  )
  return made


# ---- evaluation


def measure(ids: int, losses: Sequence[Any], batches: Sequence[HostBatch]) -> Findings:
  """Loss and accuracy, of each layout too, and what guessing the commonest of `ids` tokens would score."""
  targets = np.concatenate([batch["targets_BL"][batch["targets_BL"] >= 0] for batch in batches])
  counts_V = runtime.over_processes(np.bincount(targets, minlength=ids))
  return Findings(task_lib.means(losses) | {"accuracy_unigram": lm_objective.unigram_accuracy(counts_V)})


def speech(args: argparse.Namespace, config: Config, batches: Batches, fixed: Sequence[HostBatch]) -> Speak | None:
  """What lets the model continue the first utterances of the evaluation corpus."""
  utterances = first_utterances(batches.rows, config.samples, config.data.length)
  directory = args.listen or (args.init if args.init and not weights.is_run(args.init) else None)
  options = {"prompt": config.prompt, "directory": directory, "dtype": config.run.dtype}
  return LMListener(config.lm, utterances, **options) if utterances else None


# ---- data


def open_batches(config: Config, tokenizer: Any, directory: Path, split: str, mesh: Mesh, fixed: bool) -> Batches:
  c = config.data
  names = ("speech_tokens", *(("speaker",) if config.speaker else ()))
  features = Features(directory, split, names)
  return lm_batches(
    Corpus(directory, split),
    features,
    tokenizer(),
    config.lm,
    rows=c.rows,
    length=c.length,
    interleave=c.interleave,
    speaker_tag=c.speaker_tag,
    speaker=config.speaker > 0,
    normalise=c.normalise,
    seed=config.run.seed,
    process=process_share(mesh),
    **task_lib.order(fixed, c.workers),
  )


def batch_shapes(config: Config, row_multiple: int) -> Shapes:
  """Shapes of the global batch.

  Raises:
    ConfigError: its rows do not divide over the mesh.
  """
  rows, length = config.data.rows, config.data.length
  if rows % row_multiple:
    raise ConfigError(f"data.rows: expected a multiple of {row_multiple}, found {rows}")
  reader = LMRows(None, None, 0, config.lm, None, None, 0.0, max(length // 32, 1), config.speaker)
  return global_shapes(reader, rows, length)


def load_tokenizer(args, config: Config) -> TextTokenizer:
  """The text tokenizer of the run; the small built-in one for a model that has no more text ids than that."""
  of_model = args.init / "text_tokenizer" if args.init and not weights.is_run(args.init) else None
  directory = args.tokenizer or of_model or args.qwen or tiny_tokenizer_dir()
  tokenizer = TextTokenizer.load(directory, split_cjk=config.data.split_cjk)
  if len(tokenizer) > config.lm.text_vocab:
    raise ConfigError(f"{directory}: a tokenizer of {len(tokenizer)} ids, the model has {config.lm.text_vocab}")
  if directory == tiny_tokenizer_dir() and config.lm.text_vocab > 10_000:
    raise ConfigError("no text tokenizer: give --tokenizer DIR, --qwen DIR or --init MODEL_DIR")
  return tokenizer


# ---- weights to start from


def splits_cjk(args: argparse.Namespace, config: Config) -> bool:
  """Whether the model of --init reads Chinese characters one by one."""
  if not weights.is_run(args.init):
    return checkpoint.load_config(args.init).text.split_cjk
  step, _ = weights.choose(args.init, args.init_step, args.init_last)
  return weights.run_settings("lm", args.init, step)[1]["data"]["split_cjk"]


def qwen_params(directory: Path, config: LMConfig, fresh: dict) -> tuple[dict, None]:
  """Fresh parameters with the text embedding and the stack of Qwen2.5."""
  from convert import qwen2

  shapes = jax.eval_shape(unstack_layers, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), unbox(fresh)))
  found = qwen2.initial_params(directory, config, shapes)
  return dict(fresh) | stack_layers({name: found[name] for name in qwen2.PARTS}), None


TRAINER = Trainer("lm", __doc__, Config, task, add_flags)
main = functools.partial(loop.run, TRAINER)

if __name__ == "__main__":
  raise SystemExit(loop.program("train.lm"))
