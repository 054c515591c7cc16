"""`train.benchmark`: two steps of the smallest of each trainer, and what is said about them."""

import json

import jax
import pytest

from cosyjax.errors import ConfigError, OutputError
from train import benchmark
from train import task as task_lib

LM = """
from cosyjax.config import LMConfig, SpeechVocab
from cosyjax.training.optimiser import OptimConfig
from train.cli import MeshConfig, RunConfig
from train.lm import Config, DataConfig

def config():
  return Config(
    run=RunConfig(steps=9), mesh=MeshConfig(fsdp=3), optim=OptimConfig(), data=DataConfig(rows=8, length=24),
    lm=LMConfig(width=16, ffn=16, layers=2, heads=2, kv_heads=1, text_vocab=512, speech_vocab=SpeechVocab(64)),
  )
"""


def test_two_steps_are_timed_and_profiled(tmp_path, capsys):
  (tmp_path / "lm.py").write_text(LM)
  flags = ["--trainer", "lm", "--config", str(tmp_path / "lm.py"), "--steps", "2", "--json", str(tmp_path / "out.json")]
  flags += ["--profile", str(tmp_path / "profile"), "--top", "3", "--devices", "1", "--set", "data.length=32"]
  assert benchmark.main(flags) == 0
  out, record = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
  assert "mesh data=-1, fsdp=3, tensor=1 does not fit" in out and "tokens a second" in out
  assert record["batch"]["ids_BL"] == [8, 32] and record["units_per_step"] == 8 * 32
  assert 0 < record["step_min"] <= record["step_p50"] < record["compile_seconds"] and 0 < record["mfu"] < 1
  assert record["units_per_second"] == pytest.approx(256 / record["step_p50"]) and record["peak_bytes"] > 1e6
  assert 3.5 < record["metrics"]["loss"] < 5.5  # log(67) is 4.2: real ids, real parameters, three steps
  assert record["metrics"]["skipped"] == 0 and len(record["kernels"]) == 3


@pytest.mark.long  # tracing alone takes half a minute
@pytest.mark.parametrize("trainer", ["flow", "vocoder", "speaker", "speech_tokenizer"])
def test_the_other_trainers_hand_over_a_step_and_what_it_takes(trainer, monkeypatch):
  """All but compiling it: fields, ranges and shardings are those that the step is traced with."""

  def measure(task, args, devices):
    mesh = benchmark.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    update, (abstract, shapes), units, flops = task_lib.build(task, mesh)
    with jax.set_mesh(mesh):
      state = jax.eval_shape(lambda: task_lib.create(task, mesh))
      batch = {name: benchmark.fill(name, shapes, task.ids) for name in shapes}
      update.trace(abstract, batch)
    assert jax.tree.structure(state) == jax.tree.structure(abstract) and units > 0 and flops > 0
    assert all(batch[name].shape == x.shape and batch[name].dtype == x.dtype for name, x in shapes.items())
    raise KeyboardInterrupt

  monkeypatch.setattr(benchmark, "measure", measure)
  sizes = {"speaker": ["data.rows=8", "data.seconds=0.5"], "vocoder": ["data.rows=8"]}.get(trainer, [])
  with pytest.raises(KeyboardInterrupt):
    benchmark.main(
      ["--trainer", trainer, "--config", f"configs/{trainer}.py", "--tiny", *(["--set", *sizes] * bool(sizes))]
    )


def test_flags_that_cannot_be(tmp_path):
  flags = ["--trainer", "lm", "--config", "configs/lm.py", "--tiny"]
  with pytest.raises(ConfigError, match="--steps: expected 1 or more, found 0"):
    benchmark.main([*flags, "--steps", "0"])
  with pytest.raises(OutputError, match="is not a directory"):
    benchmark.main([*flags, "--json", str(tmp_path / "none" / "out.json")])
  with pytest.raises(SystemExit):
    benchmark.main([*flags, "--top", "3"])
