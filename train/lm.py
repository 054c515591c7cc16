"""Trains the text-speech language model (paper 2.3): text and speech tokens to the next speech token.

  python -m train.lm --config configs/lm.py --data CORPUS --out RUN --qwen Qwen2.5-0.5B
  python -m train.lm --config configs/lm_finetune.py --data CORPUS --out RUN --init MODEL_DIR

Needs the feature speech_tokens (and text_ids, else transcripts are tokenised at each start); see train.features.
The same command resumes a run that was stopped. Utterances are packed into rows of one length, in both
layouts; the loss is on speech, fill and end tokens. Evaluation also lets the model continue fixed utterances of
the evaluation corpus: how long it speaks, how far from the recording, and, with flow and vocoder of --init or
--listen and the features mel and speaker, how it sounds.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.analysis import flops
from cosyjax.config import LMConfig
from cosyjax.data.batches import Batches, lm_batches
from cosyjax.data.corpus import Corpus
from cosyjax.data.feature_store import Features
from cosyjax.errors import ConfigError, DataError
from cosyjax.layers.basic import unbox
from cosyjax.layers.stack import stack_layers, unstack_layers
from cosyjax.lm import lm_objective
from cosyjax.lm.text_speech_lm import TextSpeechLM
from cosyjax.sharding import batch_sharding, process_share, put_batch, row_count, share_count
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from cosyjax.training.checkpoints import Checkpoints
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.processes import together
from cosyjax.training.step import make_update, summarise
from cosyjax.training.train_state import abstract_state, create_state, replace_params, state_shardings, with_shardings
from train import cli, compile_only, runtime
from train.cli import MeshConfig, RunConfig
from train.listen import LMListener, first_utterances
from train.log import Log
from train.runtime import due

ROWS = ("ids_BL", "kinds_BL", "targets_BL", "segments_BL", "positions_BL")


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


def main(argv: list[str] | None = None, look: compile_only.Look | None = None) -> int:
  # ---- settings
  flags = cli.parser(__doc__)
  flags.add_argument("--qwen", type=Path, metavar="DIR", help="start text embedding and stack from Qwen2.5 weights")
  flags.add_argument("--tokenizer", type=Path, metavar="DIR", help="text tokenizer, if not that of --init or --qwen")
  flags.add_argument("--listen", type=Path, metavar="MODEL_DIR", help="flow and vocoder for the sounds of evaluations")
  args, config = cli.parse(__doc__, Config, argv, flags, runs=look is None)
  runtime.join(args)
  if args.init and args.qwen:
    raise ConfigError("--init and --qwen: expected at most one of them")
  if args.init:
    stored = checkpoint.load_config(args.init)
    config = dataclasses.replace(
      config, lm=stored.lm, data=dataclasses.replace(config.data, split_cjk=stored.text.split_cjk)
    )
  run, data, optim = config.run, config.data, config.optim

  # ---- model and optimiser
  model = TextSpeechLM(config.lm, jnp.dtype(run.dtype), scan=True, remat=run.remat, speaker=config.speaker)
  tx = make_optimiser(optim, run.steps)
  loss_fn = lambda params, batch, key, extra: lm_objective.objective(model, params, batch)

  def init(key: jax.Array):
    row = jnp.zeros((1, 8), jnp.int32)
    speakers = jnp.zeros((1, 1, config.speaker)) if config.speaker else None
    return model.init(key, row, row, segments_BL=row, speaker_BSE=speakers)["params"]

  abstract = abstract_state(init, tx, optim)

  def model_flops(shapes: dict[str, jax.ShapeDtypeStruct]) -> float:
    c, (rows, length) = config.lm, shapes["ids_BL"].shape
    attention = flops.causal_attention(rows, length, c.heads, c.head_dim, c.layers)
    forward = lambda params, batch: lm_objective.objective(model, params, batch).total
    return flops.training_flops(forward, with_shapes(abstract.params), shapes, attention=attention)

  # ---- compile only: the same step for devices that are not there, or on batches that are made up
  def build(mesh: Mesh):
    shapes = batch_shapes(config)
    if data.rows % row_count(mesh):
      raise ConfigError(f"data.rows: expected a multiple of {row_count(mesh)}, found {data.rows}")
    rows, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    place = lambda name, x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole if name == "key" else rows)
    batch = {name: place(name, x) for name, x in shapes.items()}
    update = make_update(loss_fn, tx, optim, run.steps, state_shardings(abstract, mesh))
    return update, (with_shardings(abstract, mesh), batch), data.rows * data.length, model_flops(shapes)

  create = lambda mesh: create_state(init, tx, optim, mesh, runtime.make_key(run.seed, "params"))
  what = {"mesh": config.mesh, "units": "tokens", "dtype": run.dtype}
  if look:
    return look(build, create, config, **what)
  if args.compile_only:
    return compile_only.report("train.lm", args.compile_only, build, **what, file=args.report)

  # ---- devices
  mesh = runtime.start(args, config)
  stop = runtime.Stop()

  # ---- data
  tokenizer = load_tokenizer(args, config)
  batches = make_batches(args.data, (data.split,), config, tokenizer, mesh)
  fixed, listener = fixed_batches(args, config, tokenizer, mesh)

  # ---- state: resumed, or created and perhaps given weights
  checkpoints = Checkpoints(
    args.out / "checkpoints",
    config=config_lib.to_dict(config),
    keep_last=run.keep_last,
    keep_best=run.keep_best,
    metric="validation loss",
    every=run.save_every,
    allow_config_change=args.allow_config_change,
  )
  if checkpoints.latest() is not None:
    step, state, iterator = checkpoints.restore(with_shardings(abstract, mesh))
    batches.restore(iterator)
  else:
    step, state = 0, create(mesh)
    if args.init:
      state = replace_params(state, dict(state.params) | released_params(args.init))
    elif args.qwen:
      state = replace_params(state, qwen_params(args.qwen, config.lm, state.params))

  # ---- update and evaluation
  update = together(make_update(loss_fn, tx, optim, run.steps, state_shardings(abstract, mesh)), "step")
  whole = NamedSharding(mesh, PartitionSpec())
  evaluate = lambda params, batch: lm_objective.objective(model, params, batch, layouts=True)
  evaluate = together(jax.jit(evaluate, out_shardings=whole), "evaluation")
  log = Log(
    args.out,
    total_steps=run.steps,
    config=config_lib.to_dict(config),
    units="tokens",
    flops_per_unit=model_flops(batches.shapes[0]) / (data.rows * data.length),
    dtype=run.dtype,
    log_every=run.log_every,
    start=step,
    name="lm",
  )

  # ---- loop
  metric, code = None, 0
  while step < run.steps:
    host = next(batches)
    batch = put_batch(host, mesh)
    with jax.set_mesh(mesh), runtime.no_copies():
      state, metrics = update(state, batch)
    step += 1
    tokens = int((host["segments_BL"] > 0).sum()) * share_count(mesh)
    log.step(step, metrics, tokens, stats=batches.stats)
    stop.poll(step)
    if fixed and (due(step, run.eval_every) or step == run.steps):
      params = state.params if state.ema is None else state.ema
      found = validate(evaluate, params, fixed, mesh, config.lm.speech_vocab)
      heard, pictures, sounds = listener(params) if listener else ({}, {}, {})
      log.evaluation(step, found | heard, pictures, sounds)
      metric = found["loss"]
    if due(step, run.save_every) or stop.asked or step == run.steps:
      log.flush()
      checkpoints.save(step, state, batches.state(), metric=metric, wait=step == run.steps or stop.asked)
    if stop.asked and step < run.steps:
      code = runtime.STOPPED
      break
  checkpoints.close()
  batches.close()
  log.close()
  stop.close()
  return code


# ---- evaluation


def validate(evaluate, params, fixed: list[dict[str, np.ndarray]], mesh: Mesh, ids: int) -> dict[str, float]:
  """Loss and accuracy over the fixed batches, of each layout too, and what guessing the commonest token would score."""
  with jax.set_mesh(mesh):
    losses = [jax.device_get(evaluate(params, put_batch(batch, mesh))) for batch in fixed]
  loss, metrics = summarise(jax.tree.map(lambda *parts: np.sum(parts), *losses))
  targets = np.concatenate([batch["targets_BL"][batch["targets_BL"] >= 0] for batch in fixed])
  out = {"loss": float(loss)} | {name: float(value) for name, value in metrics.items()}
  counts_V = runtime.over_processes(np.bincount(targets, minlength=ids))
  return out | {"accuracy_unigram": lm_objective.unigram_accuracy(counts_V)}


def fixed_batches(
  args, config: Config, tokenizer: TextTokenizer, mesh
) -> tuple[list[dict[str, np.ndarray]], LMListener | None]:
  """The batches of every evaluation, and what says its utterances; none if there is no corpus for it."""
  splits = (config.data.eval_split, "train") if args.eval_data else (config.data.eval_split,)
  try:
    batches = make_batches(args.eval_data or args.data, splits, config, tokenizer, mesh, fixed=True)
  except DataError as error:
    if args.eval_data:
      raise
    print(f"no evaluation: {error}")
    return [], None
  found = [batch for _, batch in zip(range(config.run.eval_batches), batches, strict=False)]
  batches.close()
  said = []
  if found and not config.speaker and jax.process_count() == 1:
    said = first_utterances(batches.rows, config.samples, config.data.length)
  if not said:
    return found, None
  options = {"prompt": config.prompt, "directory": args.listen or args.init, "dtype": config.run.dtype}
  return found, LMListener(config.lm, said, **options)


# ---- data


def make_batches(
  directory: Path, splits: tuple[str, ...], config: Config, tokenizer: TextTokenizer, mesh, *, fixed: bool = False
) -> Batches:
  """Batches of the first of the splits that is there; once through and in order if they are to stay the same."""
  c = config.data
  names = ("speech_tokens", *(("speaker",) if config.speaker else ()))
  for split in splits:
    try:
      features = Features(directory, split, names)
      break
    except DataError:
      if split == splits[-1]:
        raise
  order = {"shuffle": False, "keep_rest": True, "epochs": 1} if fixed else {}
  return lm_batches(
    Corpus(directory, split),
    features,
    tokenizer,
    config.lm,
    rows=c.rows,
    length=c.length,
    interleave=c.interleave,
    speaker_tag=c.speaker_tag,
    speaker=config.speaker > 0,
    normalise=c.normalise,
    seed=config.run.seed,
    process=process_share(mesh),
    workers=0 if fixed else c.workers,
    **order,
  )


def batch_shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the global batch."""
  rows, length = config.data.rows, config.data.length
  out = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in ROWS}
  if config.speaker:
    out["speaker_BSE"] = jax.ShapeDtypeStruct((rows, max(length // 32, 1), config.speaker), jnp.float32)
  return out | {"key": jax.ShapeDtypeStruct((2,), jnp.uint32)}


def load_tokenizer(args, config: Config) -> TextTokenizer:
  """The text tokenizer of the run; the small built-in one for a model that has no more text ids than that."""
  directory = args.tokenizer or (args.init / "text_tokenizer" if args.init else args.qwen) or tiny_tokenizer_dir()
  tokenizer = TextTokenizer.load(directory, split_cjk=config.data.split_cjk)
  if len(tokenizer) > config.lm.text_vocab:
    raise ConfigError(f"{directory}: a tokenizer of {len(tokenizer)} ids, the model has {config.lm.text_vocab}")
  if directory == tiny_tokenizer_dir() and config.lm.text_vocab > 10_000:
    raise ConfigError("no text tokenizer: give --tokenizer DIR, --qwen DIR or --init MODEL_DIR")
  return tokenizer


# ---- weights to start from


def released_params(directory: Path) -> dict:
  """The LM of a model directory, stacked, on the host."""
  shapes = networks.abstract_params(checkpoint.load_config(directory))["lm"]
  return stack_layers(jax.tree.map(np.asarray, checkpoint.load_params(directory, "lm", shapes)))


def qwen_params(directory: Path, config: LMConfig, fresh: dict) -> dict:
  """Fresh parameters with the text embedding and the stack of Qwen2.5."""
  from convert import qwen2

  shapes = jax.eval_shape(unstack_layers, with_shapes(fresh))
  found = qwen2.initial_params(directory, config, shapes)
  return dict(fresh) | stack_layers({name: found[name] for name in qwen2.PARTS})


def with_shapes(params):
  """Shapes and dtypes of a tree of arrays, boxed or not."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), unbox(params))


if __name__ == "__main__":
  from train import lm  # by its own name: configuration files build the classes of that module

  raise SystemExit(cli.at_exit(lm.main))
