"""Flags and configuration files of the trainers, signals, and when things are due."""

import dataclasses
import importlib
import json
import os
import shlex
import signal
import textwrap
from pathlib import Path
from typing import Literal

import jax
import pytest

from cosyjax import config as config_lib
from cosyjax.config import VocoderConfig
from cosyjax.errors import ConfigError
from cosyjax.training.optimiser import OptimConfig
from train import cli, loop, runtime
from train.cli import MeshConfig, RunConfig
from train.weights import SETTINGS


@dataclasses.dataclass(frozen=True)
class Net:
  width: int = 4
  sizes: tuple[int, ...] = (1, 2)
  pair: tuple[float, float] = (0.5, 1.0)
  kind: Literal["fsq", "vq"] = "fsq"
  seconds: float | None = None
  pitch: bool = False
  name: str = "a"


@dataclasses.dataclass(frozen=True)
class Config:
  run: RunConfig
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  net: Net = Net()


FILE = """
  from tests.test_cli import Config
  from train.cli import RunConfig

  def config():
    return Config(RunConfig(steps=1000))

  def tiny():
    return Config(RunConfig(steps=2, eval_every=0))
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "net.py"
  path.write_text(textwrap.dedent(FILE))
  return path


def parse(file, *flags, kind=Config):
  return cli.parse("doc", kind, ["--config", str(file), "--data", "d", "--out", "o", *map(str, flags)])


def test_full_size_and_tiny(file):
  args, config = parse(file)
  assert config.run.steps == 1000 and args.processes == (0, 1) and str(args.out) == "o"
  assert parse(file, "--tiny")[1].run == RunConfig(steps=2, eval_every=0)
  assert parse(file, "--tiny", "--steps", 7)[1].run.steps == 7


def test_settings_are_read_by_their_type(file):
  settings = {
    "optim.learning_rate": ("1e-4", 1e-4),
    "optim.warmup": ("12", 12),
    "net.sizes": ("3,4,5", (3, 4, 5)),
    "net.pair": ("(1, 2.5)", (1.0, 2.5)),
    "net.kind": ("vq", "vq"),
    "net.seconds": ("2", 2.0),
    "net.pitch": ("true", True),
    "net.name": ("1", "1"),
    "mesh.data": ("-1", -1),
  }
  _, config = parse(file, "--set", *[f"{name}={text}" for name, (text, _) in settings.items()])
  for name, (_, value) in settings.items():
    part, field = name.split(".")
    found = getattr(getattr(config, part), field)
    assert found == value and type(found) is type(value), name
  assert parse(file, "--set", "net.seconds=none")[1].net.seconds is None
  assert parse(file, "--set", "net.sizes=")[1].net.sizes == ()
  assert parse(file, "--set", "net.sizes=7,")[1].net.sizes == (7,)
  assert parse(file, "--set", "net.sizes=7")[1].net.sizes == (7,)
  dotted = parse(file, "--net.width", "3", "--net.sizes=7,8", "--optim.weight-decay", "0.5", "--set", "net.name=b")[1]
  assert (dotted.net.width, dotted.net.sizes, dotted.optim.weight_decay, dotted.net.name) == (3, (7, 8), 0.5, "b")
  nested = cli.override(VocoderConfig(), ["source_dilations=((1, 3), (2,))"])
  assert nested.source_dilations == ((1, 3), (2,))
  twice = parse(file, "--set", "net.width=1", "--set", "net.width=2", "optim.ema=0.5")[1]
  assert (twice.net.width, twice.optim.ema) == (2, 0.5)


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("optim.learning_rat=1", "OptimConfig has no field 'learning_rat'; did you mean optim.learning_rate"),
    ("learning_rate=1", "did you mean optim.learning_rate"),
    ("zzz=1", "Config has no field 'zzz'; there are run, optim, mesh, net"),
    ("optim.warmup=1.5", "expected int, found '1.5'"),
    ("optim.learning_rate=fast", "expected float, found 'fast'"),
    ("net.pitch=maybe", "expected bool"),
    ("net.kind=rvq", "invalid choice 'rvq' for argument '--net.kind'. Expected one of ('fsq', 'vq')"),
    ("net.sizes=1,x", "expected tuple"),
    ("net.pair=1,2,3", "expected tuple[float, float], found '1,2,3'"),
    ("net.seconds=long", "found 'long'"),
    ("net=1", "net has fields of its own; set one of net.width"),
    ("net.width.x=1", "net.width is a value and has no fields"),
    ("net.width", "expected NAME=VALUE"),
    ("optim.ema=2", "optim.ema: expected 0 to below 1"),
    ("run.dtype=float16", "run.dtype: expected one of float32, bfloat16"),
    ("run.remat=most", "remat: expected one of none"),
    ("run.steps=0", "run.steps: expected 1 or more"),
  ],
)
def test_wrong_settings_say_what_would_be_right(file, setting, message):
  with pytest.raises(ConfigError) as caught:
    parse(file, "--set", setting)
  assert message in str(caught.value)


def test_wrong_files_and_flags(file, tmp_path, capsys):
  with pytest.raises(ConfigError, match="no such file"):
    parse(tmp_path / "none.py")
  with pytest.raises(ConfigError, match=r"gives a .*Config, expected .*OptimConfig; is it for another trainer"):
    parse(file, kind=OptimConfig)
  bad = tmp_path / "bad.py"
  for text, message in (("1/0", "ZeroDivisionError"), ("x = 1", r"expected it to define config\(\)"),
                        ("def config(): return {}['a']", "KeyError: 'a'")):  # fmt: skip
    bad.write_text(text)
    with pytest.raises(ConfigError, match=message):
      parse(bad)
  for flags in (["--config", str(file)], ["--config", str(file), "--data", "d", "--out", "o", "--processes", "0/2"]):
    with pytest.raises(SystemExit):
      cli.parse("doc", Config, flags)
  said = capsys.readouterr().err
  assert "required: --data, --out" in said and "needs --coordinator" in said
  assert cli.parse("doc", Config, ["--config", str(file), "--compile-only", "v5e:16x16"])[0].out is None
  assert cli.parse_processes("1/4") == (1, 4)
  for wrong in ("2/2", "1", "a/b", "-1/2"):
    with pytest.raises(ConfigError, match="expected I/N"):
      cli.parse_processes(wrong)


def test_a_flag_that_is_no_field_is_refused_and_help_lists_the_fields(file, capsys):
  with pytest.raises(ConfigError, match=r"--optim.learning-rat: .* did you mean optim.learning_rate"):
    parse(file, "--optim.learning-rat", "1")
  with pytest.raises(SystemExit):
    parse(file, "--no-such", "1")
  assert "unrecognized arguments: --no-such" in capsys.readouterr().err
  with pytest.raises(SystemExit) as caught:
    parse(file, "--help-config")
  said = capsys.readouterr().out
  assert caught.value.code == 0 and "--optim.learning_rate" in said and "steps of linear rise" in said


def test_epochs_hold_until_a_length_in_steps_is_asked_for(tmp_path):
  file = tmp_path / "net.py"
  file.write_text(textwrap.dedent(FILE).replace("steps=1000", "steps=1000, epochs=3.0"))
  assert parse(file)[1].run.epochs == 3
  for flags in (["--steps", "7"], ["--set", "run.steps=7"], ["--run.steps", "7"]):
    run = parse(file, *flags)[1].run
    assert (run.steps, run.epochs) == (7, 0)

  class Corpus:
    plan = type("Plan", (), {"batches": 11})

  assert loop.with_steps(parse(file)[1], Corpus).run.steps == 33
  assert loop.with_steps(parse(file, "--run.epochs", "0.01")[1], Corpus).run.steps == 1


@pytest.mark.parametrize("page", ["README.md", "docs/training.md", "docs/pods.md"])
def test_trainers_know_the_flags_that_are_printed(page, capsys):
  """Every command of a trainer in the docs, as far as its configuration."""
  text = (Path(__file__).parent.parent / page).read_text().replace("\\\n", " ")
  lines = [
    line.split("#")[0].strip() for block in text.split("```sh\n")[1:] for line in block.split("```")[0].splitlines()
  ]
  commands = [shlex.split(line) for line in lines if any(line.startswith(f"python -m train.{n} ") for n in SETTINGS)]
  assert commands
  for words in commands:
    trainer = importlib.import_module(words[2]).TRAINER
    with pytest.raises(SystemExit) as caught:
      cli.parse(trainer.doc, trainer.config, [*words[3:], "--print-config"], trainer.flags)
    assert caught.value.code == 0, (words, capsys.readouterr().err)


def test_print_config_is_json(file, capsys):
  with pytest.raises(SystemExit) as caught:
    parse(file, "--tiny", "--set", "net.width=9", "--print-config")
  assert caught.value.code == 0
  shown = json.loads(capsys.readouterr().out)
  assert shown["net"]["width"] == 9 and shown["run"]["steps"] == 2


def test_errors_are_one_line(capsys):
  def main():
    raise ConfigError("no")

  assert cli.at_exit(main) == 1 and capsys.readouterr().err == "ConfigError: no\n"
  assert cli.at_exit(lambda: 75) == 75


def test_start_makes_the_mesh_that_is_left_over(file):
  args, config = parse(file, "--no-cache")
  assert dict(runtime.start(args, config).shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
  with pytest.raises(ConfigError, match=r"does not fit 8 devices.*--set mesh.data=-1 mesh.fsdp=4 mesh.tensor=2"):
    runtime.start(args, dataclasses.replace(config, mesh=MeshConfig(fsdp=12, tensor=2)))
  with pytest.raises(ConfigError, match="does not fit"):
    runtime.start(args, dataclasses.replace(config, mesh=MeshConfig(tensor=3)))
  alone, _ = parse(file, "--no-cache", "--devices", "1")
  assert runtime.start(alone, config).devices.tolist() == [[[jax.devices()[0]]]]
  with pytest.raises(ConfigError, match="--devices 9: expected 1 to 8"):
    runtime.start(parse(file, "--no-cache", "--devices", "9")[0], config)


def test_signals_only_raise_a_flag_that_holds_for_the_step(capsys):
  before = signal.getsignal(signal.SIGTERM)
  stop = runtime.Stop()
  try:
    assert not stop.poll(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not stop.asked  # this step has begun without it
    os.kill(os.getpid(), signal.SIGINT)  # would raise KeyboardInterrupt
    assert stop.poll(2) and stop.asked
  finally:
    stop.close()
  assert signal.getsignal(signal.SIGTERM) is before
  assert capsys.readouterr().err.count("saving after this step") == 1


def test_a_second_signal_stops_at_once_unless_it_is_the_first_once_more(monkeypatch):
  codes, clock = [], [10.0]
  monkeypatch.setattr(runtime.os, "_exit", codes.append)
  monkeypatch.setattr(runtime.time, "monotonic", lambda: clock[0])
  stop = runtime.Stop()
  try:
    os.kill(os.getpid(), signal.SIGINT)
    clock[0] += 0.1  # a terminal and a parent process may both send it
    os.kill(os.getpid(), signal.SIGINT)
    assert codes == [] and stop.poll(1)
    clock[0] += 5.0
    os.kill(os.getpid(), signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]
  finally:
    stop.close()


def test_due_and_keys():
  assert [step for step in range(1, 10) if runtime.due(step, 4)] == [4, 8] and not runtime.due(4, 0)
  keys = {jax.random.key_data(runtime.make_key(seed, name)).tobytes() for seed in (0, 1) for name in ("a", "b")}
  assert len(keys) == 4
  assert config_lib.to_dict(RunConfig(steps=1))["keep_last"] == 3
