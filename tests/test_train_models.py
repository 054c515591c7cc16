"""Two steps of `train.lm` and `train.flow`, the former stopped after the first and resumed."""

import textwrap

import numpy as np
import pytest

from cosyjax.data import feature_store as features_lib
from cosyjax.data import text as text_lib
from cosyjax.errors import ConfigError
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from cosyjax.training.checkpoint_read import read_part
from train import flow, lm
from train.log import read

EXAMPLES = 6

LM = """
from cosyjax.config import LMConfig
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.lm import Config, DataConfig

def config():
  return Config(
    run=RunConfig(steps=2, log_every=1, eval_every=2, eval_batches=1, save_every=1, remat="dots"),
    lm=LMConfig(width=16, ffn=16, layers=2, heads=2, kv_heads=1, text_vocab=512),
    data=DataConfig(rows=2, length=96, speaker_tag="unknown"),
    optim=OptimConfig(learning_rate=0.01), mesh=MeshConfig(),
  )
"""

FLOW = """
from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.flow.flow_objective import FlowObjective
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.flow import Config, DataConfig

def config():
  return Config(
    run=RunConfig(steps=2, log_every=1, eval_every=2, eval_batches=1, save_every=1),
    flow=FlowConfig(
      token_width=8, speaker_dim=24, steps=2, encoder=FlowEncoderConfig(width=8, heads=1, ffn=8, layers=1, up_layers=1),
      estimator=UNetConfig(channels=8, heads=1, head_dim=8, transformer_layers=1, mid_layers=1),
    ),
    objective=FlowObjective(), data=DataConfig(seconds=6.0, buckets=(2.0,)),
    optim=OptimConfig(learning_rate=0.01, ema=0.9), mesh=MeshConfig(), samples=0,
  )
"""


class Corpus:
  """Stands for a corpus on disk: the features have everything that these trainers read."""

  def __init__(self, directory, split="train"):
    self.names, self.shards = ["Ann", "Ben"] * (EXAMPLES // 2), [(0, EXAMPLES)]

  def __len__(self):
    return EXAMPLES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A corpus directory's features: ramps of one to two seconds."""
  rng, directory = np.random.default_rng(0), tmp_path_factory.mktemp("corpus")
  tokenizer = TextTokenizer.load(tiny_tokenizer_dir(), split_cjk=True)
  makers = {"text_ids": text_lib.fingerprint(tokenizer)}
  for name in ("text_ids", "speech_tokens", "mel", "speaker"):
    stem = features_lib.shard_stem("train", 0, 1)
    with features_lib.ShardWriter(directory, name, stem, makers.get(name, name)) as shard:
      for i in range(EXAMPLES):
        U = 25 + 4 * i
        shard.add({
          "text_ids": np.arange(5 + i, dtype=np.int32),
          "speech_tokens": rng.integers(0, 6561, U).astype(np.int32),
          "mel": rng.normal(size=(2 * U, 80)).astype(np.float32),
          "speaker": rng.normal(size=24).astype(np.float32),
        }[name])  # fmt: skip
  return directory


@pytest.fixture(autouse=True)
def corpus_in_memory(monkeypatch):
  for program in (lm, flow):
    monkeypatch.setattr(program, "Corpus", Corpus)


def pulse(program, text, data, tmp_path, *, resume):
  """Two steps and an evaluation, perhaps in two runs: (all metrics, what the last checkpoint says of itself)."""
  file = tmp_path / "config.py"
  file.write_text(textwrap.dedent(text))
  out = tmp_path / "run"
  flags = [
    "--config",
    str(file),
    "--data",
    str(data),
    "--eval-data",
    str(data),
    "--out",
    str(out),
    "--no-cache",
    "--devices",
    "1",
  ]
  if resume:
    assert program.main([*flags, "--set", "run.eval_batches=0", "--steps", "1"]) == 0
  assert program.main([*flags, "--allow-config-change", "run"]) == 0
  info = read_part(out / "checkpoints", 2, "info")
  lines = read(out / "metrics.jsonl")
  assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
  found = {k: v for line in lines for k, v in line.items()}
  assert info["metric"] == pytest.approx(found["eval/loss"])
  assert all(np.isfinite(v) for v in found.values() if v is not None)
  return found, info


def test_lm(data, tmp_path):
  found, info = pulse(lm, LM, data, tmp_path, resume=True)
  assert found["train/loss"] < 9.5  # log 6564 is 8.8
  assert {"eval/accuracy", "eval/accuracy_unigram", "eval/loss_known"} <= set(found)
  assert "eval/loss_interleaved" not in found  # no row of that layout: its text is too long for its speech
  assert 0 < found["eval/sample_length_ratio"] <= 2 and found["eval/sample_token_error_rate"] > 0.5
  assert info["arrays"]["params/stack/layers/mlp/up/kernel"][0] == [2, 16, 16]


@pytest.mark.long
def test_flow(data, tmp_path):
  found, info = pulse(flow, FLOW, data, tmp_path, resume=False)
  assert found["train/loss"] < 3
  masks = [found[f"eval/loss_{name}"] for name in ("full", "causal", "chunk", "two_chunks")]
  assert np.mean(masks) == pytest.approx(found["eval/loss"], rel=1e-5)
  assert any("ema" in name for name in info["arrays"])
  assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_tokenizer_that_does_not_fit_is_refused(data, tmp_path):
  file = tmp_path / "config.py"
  file.write_text(LM)
  flags = ["--config", str(file), "--data", str(data), "--out", str(tmp_path / "run"), "--no-cache", "--devices", "1"]
  with pytest.raises(ConfigError, match="tokenizer of 500 ids, the model has 300"):
    lm.main([*flags, "--set", "lm.text_vocab=300"])
  with pytest.raises(ConfigError, match="no text tokenizer"):
    lm.main([*flags, "--set", "lm.text_vocab=20000"])
  with pytest.raises(ConfigError, match="at most one"):
    lm.main([*flags, "--init", "a", "--qwen", "b"])
