"""Two steps of the trainers of the speech tokenizer and of the speaker encoder, from a corpus to a checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from cosyjax.data import feature_store as features_lib
from cosyjax.training.checkpoint_read import read_arrays
from train import speaker, speech_tokenizer

CONFIGS = Path(__file__).parent.parent / "configs"
RUN = ["run.steps=2", "run.eval_every=2", "run.save_every=2", "run.eval_batches=1", "run.log_every=1"]


class Corpus:
  """Four short examples of two speakers, in memory."""

  shards = [(0, 4)]
  names = ["a", "b", "a", "b"]

  def __init__(self, directory: str | Path, split: str = "train") -> None:
    self.directory, self.split = Path(directory), split

  def __len__(self) -> int:
    return 4

  def __getitem__(self, i: int) -> dict[str, str]:
    return {"text": ["one", "two", "six", "ten"][i]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
  """Features of those examples, as noise."""
  directory, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
  for split in ("train", "validation", "unseen"):
    stem = features_lib.shard_stem(split, 0, 1)
    for name, size in {"log_mel_16k": (128,), "fbank": (80,)}.items():
      with features_lib.ShardWriter(directory, name, stem, "noise") as shard:
        for i in range(4):
          shard.add(rng.normal(size=(60 + 7 * i, *size)).astype(np.float32))
  return directory


def _run(program, name, corpus, out, *settings):
  argv = ["--config", str(CONFIGS / f"{name}.py"), "--tiny", "--data", str(corpus), "--out", str(out), "--no-cache",
          "--devices", "1"]  # fmt: skip
  assert program.main([*argv, "--set", *RUN, *settings]) == 0
  return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _scalar(lines, name):
  return [line[name] for line in lines if name in line]


def test_speech_tokenizer_takes_two_steps(corpus, tmp_path, monkeypatch):
  monkeypatch.setattr(speech_tokenizer, "Corpus", Corpus)
  small = [
    "tokenizer.width=16",
    "tokenizer.layers=1",
    "tokenizer.fsmn_kernel=3",
    "asr.layers=0",
    "asr.decoder_layers=1",
  ]
  batches = ["data.seconds=2.0", "data.buckets=1.0", "attention_reads=false", "optim.ema=0.9", "augment.time_masks=1"]
  lines = _run(speech_tokenizer, "speech_tokenizer", corpus, tmp_path / "run", *small, *batches)
  assert np.isfinite(_scalar(lines, "train/loss")).all()
  assert len(_scalar(lines, "train/loss")) == 2
  assert 0 < _scalar(lines, "eval/codes_used_of_fillable")[0] <= 1
  assert np.isfinite(_scalar(lines, "eval/token_error_rate")).all()
  step, params = read_arrays(tmp_path / "run" / "checkpoints", below="ema")
  assert step == 2
  assert params["tokenizer"]["project"]["kernel"].shape == (16, 8)


def test_speaker_takes_two_steps(corpus, tmp_path, monkeypatch):
  monkeypatch.setattr(speaker, "Corpus", Corpus)
  small = [
    "speaker.layers=1",
    "speaker.kernels=3",
    "speaker.dilations=1",
    "speaker.head_channels=4",
    "speaker.width=8",
  ]
  batches = ["data.rows=4", "data.seconds=0.6", "data.eval_rows=4", "data.eval_seconds=0.6"]
  lines = _run(speaker, "speaker", corpus, tmp_path / "run", *small, *batches)
  assert np.isfinite(_scalar(lines, "train/loss")).all()
  assert _scalar(lines, "eval/trials") == [6]
  assert 0 <= _scalar(lines, "eval/equal_error_rate")[0] <= 1
  step, extra = read_arrays(tmp_path / "run" / "checkpoints", below="extra")
  assert step == 2 and extra["batches"] == 2
  assert extra["norms"]["encoder.front.conv_in"]["variance"].shape == (4,)
