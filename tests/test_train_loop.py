"""The training loop with the toy trainer: what is said, evaluated, kept, resumed, and started from."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from cosyjax.errors import ConfigError
from cosyjax.training.checkpoint_read import best_step, read_arrays, saved_steps
from tests import toy_trainer
from train import loop, runtime, weights

CONFIG = Path(__file__).parent / "toy_config.py"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
  """The toy's log is put into the loop for one test."""
  monkeypatch.setattr(loop, "Log", loop.Log)
  monkeypatch.setitem(weights.SETTINGS, "toy", "optim")  # so that a run of it can be started from


def run(out: Path, *flags: str) -> int:
  argv = ["--config", str(CONFIG), "--data", "none", "--out", str(out), "--no-cache", "--devices", "1"]
  return toy_trainer.main([*argv, *flags])


def lines(out: Path) -> list[dict]:
  return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_does_and_goes_on_where_it_was(tmp_path, capsys):
  out, evaluated = tmp_path / "run", ["--set", "run.eval_every=2", "run.save_every=2", "run.keep_last=1"]
  assert run(out, "--steps", "4", *evaluated) == 0
  said = capsys.readouterr().err
  assert "train.toy: 576 parameters on 1 x cpu, mesh data 1, fsdp 1, tensor 1, float32; a new run" in said
  assert "length: 4 steps of at most 16 rows" in said and f"tensorboard --logdir {out}/tensorboard" in said
  measured = {line["step"]: line["eval/loss"] for line in lines(out) if "eval/loss" in line}
  assert sorted(measured) == [2, 4]
  best, name, value = best_step(out / "checkpoints")
  assert (name, value) == ("loss", pytest.approx(min(measured.values()))) and measured[best] == pytest.approx(value)
  assert f"4 steps done in {out}; best loss {value:.4g} at step {best}" in said
  assert set(saved_steps(out / "checkpoints")) == {best, 4}  # the last and the best
  assert run(out, "--steps", "6", *evaluated, "--allow-config-change", "run.steps") == 0
  assert "resumed from step 4" in capsys.readouterr().err
  assert [line["step"] for line in lines(out) if "train/loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_signal_saves_within_one_step_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
  draw = toy_trainer.Batches.__next__

  def interrupted(self):
    batch = draw(self)
    if self.n == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch

  with monkeypatch.context() as patch:
    patch.setattr(toy_trainer.Batches, "__next__", interrupted)
    assert run(tmp_path / "run", "--steps", "5") == runtime.STOPPED
  assert saved_steps(tmp_path / "run/checkpoints") == [2]
  assert "stopped and saved at step 2 of 5" in capsys.readouterr().err
  assert run(tmp_path / "run", "--steps", "5") == 0 and run(tmp_path / "whole", "--steps", "5") == 0
  whole, broken = (read_arrays(tmp_path / name / "checkpoints", 5)[1]["up"]["kernel"] for name in ("whole", "run"))
  np.testing.assert_array_equal(whole, broken)


def test_a_run_starts_from_the_best_of_another(tmp_path, monkeypatch, capsys):
  first, second = tmp_path / "first", tmp_path / "second"
  assert run(first, "--steps", "6", "--set", "run.eval_every=3", "run.keep_last=9", "optim.learning_rate=50") == 0
  best, _, _ = best_step(first / "checkpoints")
  assert best == 3  # each step is too long: it gets worse
  state = toy_trainer.task

  def started(args, config):
    made = state(args, config)
    return made.__class__(**(vars(made) | {"start": weights.starter(args, "toy")}))

  monkeypatch.setattr(toy_trainer, "TRAINER", toy_trainer.TRAINER._replace(task=started))
  still = ["--steps", "1", "--init", str(first), "--set", "optim.learning_rate=0.0"]
  for n, (flags, step) in enumerate([([], best), (["--init-last"], 6), (["--init-step", "6"], 6)]):
    assert run(second / str(n), *still, *flags) == 0
    said = capsys.readouterr().err
    assert f"--init {first}: step {step}" in said and f"from the weights of {first}" in said
    wanted = read_arrays(first / "checkpoints", step, "ema")[1]["up"]["kernel"]
    found = read_arrays(second / str(n) / "checkpoints", 1)[1]["up"]["kernel"]  # after a step of no length
    np.testing.assert_array_equal(found, wanted)


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(ConfigError, match=r"does not fit 1 devices.*--set mesh.data=-1 mesh.fsdp=1 mesh.tensor=1"):
    run(tmp_path / "run", "--steps", "1", "--mesh.fsdp", "16")
  assert not (tmp_path / "run").exists()
