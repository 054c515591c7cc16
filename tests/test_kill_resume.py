"""A run killed at any moment and resumed gives the run that was not, bit for bit (contract 6).

Also: a polite stop, and two processes against one. The short test kills a toy trainer; the long
ones kill it, `train.lm` and `train.vocoder` twenty times.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import flax.traverse_util
import numpy as np
import pytest

from cosyjax.training.checkpoint_read import read_arrays, read_part
from cosyjax.training.checkpoints import UNFINISHED

ROOT = Path(__file__).parent.parent
TOY = [sys.executable, "-m", "tests.toy_trainer", "--config", "tests/toy_config.py", "--data", "none", "--no-cache"]
CUT = f"*{UNFINISHED[0]}"  # saves that were cut off
QUIET_STEPS = 50  # steps after the last kill
TIMED = ("time", "speed", "data")  # what a log has besides results


def start(command: list[str], out: Path, *flags: str, **environment: str) -> subprocess.Popen:
  out.mkdir(parents=True, exist_ok=True)
  with (out / "said").open("a") as said:
    return subprocess.Popen([*command, "--out", str(out), *flags], cwd=ROOT, stdout=said, stderr=said,
                            env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment)  # fmt: skip


def devices(count: int) -> str:
  """So many devices, and programs that are ready soon."""
  return f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"


def finish(process: subprocess.Popen, out: Path, code: int = 0) -> None:
  try:
    found = process.wait(timeout=1500)
  finally:
    process.kill()
  assert found == code, (out / "said").read_text()[-3000:]


def metrics(out: Path) -> dict[int, dict]:
  """Step -> scalars. A step that was logged twice, before a kill and after it, must be logged alike."""
  found: dict[int, dict] = {}
  for line in (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []:
    try:
      row = json.loads(line[line.rindex('{"step"') :])  # a kill may have cut a line off, and the next one follows it
    except ValueError:
      continue
    row = {name: value for name, value in row.items() if name.partition("/")[0] not in TIMED}
    known = found.setdefault(row["step"], {})
    again = {name: (known[name], value) for name, value in row.items() if known.get(name, value) != value}
    assert not again, f"step {row['step']} was another before a kill: {again}"
    known |= row
  return found


def last_step(out: Path) -> int:
  return max(metrics(out), default=0)


def wait_for(process: subprocess.Popen, ready, seconds: float = 600.0) -> bool:
  """Whether `ready()` came true while the process ran."""
  end = time.monotonic() + seconds
  while process.poll() is None and time.monotonic() < end:
    if ready():
      return True
    time.sleep(0.001)
  assert process.poll() is not None, "nothing happened"
  return False


def kill_often(command: list[str], out: Path, steps: int, kills: int, seed: int, *flags: str) -> dict[str, int]:
  """Runs to the end through `kills` times kill -9: half of them in saves, the others at any step.

  Returns:
    How many kills there were, and how many of them cut a save off.
  """
  rng, count, cut = random.Random(seed), 0, 0
  checkpoints = out / "checkpoints"
  while count < kills:
    begin = last_step(out)
    if begin > steps - QUIET_STEPS:
      break
    process = start(command, out, *flags)
    if rng.random() < 0.5:
      target = begin + rng.randint(0, 3)
      saving = lambda target=target: last_step(out) >= target and any(checkpoints.glob(CUT))
      alive = wait_for(process, saving)
      time.sleep(rng.uniform(0.0, 0.03))
    else:
      target = begin + rng.randint(1, 6)
      alive = wait_for(process, lambda target=target: last_step(out) >= target)
      time.sleep(rng.uniform(0.0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert alive, (out / "said").read_text()[-3000:]
    count += 1
    cut += any(checkpoints.glob(CUT))
  finish(start(command, out, *flags), out)
  return {"kills": count, "cut": cut}


def arrays(out: Path, step: int) -> dict[str, np.ndarray]:
  return flax.traverse_util.flatten_dict(read_arrays(out / "checkpoints", step, "")[1], sep="/")


def assert_same_end(a: Path, b: Path, steps: int) -> None:
  """Every array of the last checkpoints, the iterators' states, and every step's scalars."""
  one, other = (arrays(out, steps) for out in (a, b))
  assert one.keys() == other.keys() and len(one) > 3
  for name, array in one.items():
    assert array.dtype == other[name].dtype and array.tobytes() == other[name].tobytes(), name
  iterators = [read_part(out / "checkpoints", steps, "iterator") for out in (a, b)]
  assert iterators[0] == iterators[1]
  assert metrics(a) == metrics(b) and len(metrics(a)) >= QUIET_STEPS
  assert not list((b / "checkpoints").glob(CUT)) and not list((b / "checkpoints").glob("*.damaged"))


def test_killed_then_stopped_then_resumed_is_the_run_that_was_not(tmp_path):
  whole, broken, flags = tmp_path / "whole", tmp_path / "broken", ("--steps", "80", "--set", "pause=0.01")
  unbroken, process = start(TOY, whole, *flags), start(TOY, broken, *flags)
  assert wait_for(process, lambda: last_step(broken) >= 4)
  process.kill()
  process.wait()
  finish(unbroken, whole)
  process = start(TOY, broken, *flags)
  assert wait_for(process, lambda: last_step(broken) >= 8)
  process.terminate()
  process.send_signal(signal.SIGINT)  # impatience during the save
  finish(process, broken, 75)
  steps = sorted(int(p.name) for p in (broken / "checkpoints").iterdir())
  assert steps[-1] == last_step(broken) < 80
  finish(start(TOY, broken, *flags), broken)
  assert_same_end(whole, broken, 80)


@pytest.fixture(scope="module")
def corpus(recordings, tmp_path_factory) -> Path:
  """Pieces of the recordings with made-up transcripts, and features of random networks."""
  import soundfile

  folder, out = tmp_path_factory.mktemp("speech"), tmp_path_factory.mktemp("corpora") / "corpus"
  for speaker, (samples, rate) in recordings.items():
    (folder / speaker).mkdir()
    for n in range(int((len(samples) / rate - 1.5) / 0.3)):
      piece = samples[int(n * 0.3 * rate) : int((n * 0.3 + 1.5) * rate)]
      soundfile.write(folder / speaker / f"{speaker}_{n}.wav", piece, rate)
      (folder / speaker / f"{speaker}_{n}.txt").write_text(f"piece number {n}")
  for module, *flags in (
    ("train.build_corpus", "--folder", folder, "--language", "en", "--validation", "0.2", "--out", out),
    (
      "train.features",
      out,
      "--preset",
      "tiny",
      "--names",
      "speech_tokens",
      "speaker",
      "mel",
      "f0",
      "log_mel_16k",
      "fbank",
    ),
  ):
    command = [sys.executable, "-m", module, *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
  return out


def command_of(trainer: str, request: pytest.FixtureRequest) -> list[str]:
  if trainer == "toy":
    return TOY
  data = ["--data", str(request.getfixturevalue("corpus"))]
  return [sys.executable, "-m", f"train.{trainer}", "--config", f"configs/{trainer}.py", "--tiny", *data]


def pair_of(command: list[str], out: Path, *flags: str) -> list[subprocess.Popen]:
  """Two processes of one run, each with two devices."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  place = lambda i: [*flags, "--coordinator", f"127.0.0.1:{port}", "--processes", f"{i}/2"]
  return [start(command, out, *place(i), XLA_FLAGS=devices(2)) for i in (0, 1)]


def with_a_gradient(found: dict[str, np.ndarray], name: str) -> np.ndarray:
  """Where an array is the run's doing and not rounding's: everywhere, but for an LM's key biases.

  What adds the same to all of a query's scores leaves its attention as it was, so a key's bias
  has no gradient but through the turning of RoPE. Where that turns slowly, the gradient is the
  rounding of sums whose order the devices choose, and Adam makes steps of full length of it.
  """
  if not name.startswith("params/") or not name.endswith("attention/k/bias"):
    return np.ones_like(found[name], bool)
  (variance,) = (found[n] for n in found if n.endswith(f"/nu/{name.removeprefix('params/')}"))
  where = np.sqrt(variance) > 1e-6
  assert where.mean() > 0.5, "the slower half of the frequencies, at most, may be passed over"
  return where


@pytest.mark.long
@pytest.mark.parametrize("trainer", ["toy", "lm"])
def test_two_processes_give_the_losses_of_one_and_stop_together(trainer, tmp_path, request):
  one, two, command = tmp_path / "one", tmp_path / "two", command_of(trainer, request)
  more = {"toy": ["pause=0.02"], "lm": ["data.rows=4", "data.length=256", "run.log_every=1", "run.eval_every=0"]}
  flags = ("--steps", "60", "--set", "mesh.fsdp=2", *more[trainer])
  finish(start(command, one, *flags, XLA_FLAGS=devices(4)), one)
  processes = pair_of(command, two, *flags)
  assert wait_for(processes[0], lambda: last_step(two) >= 4)
  processes[1].terminate()  # one of them is asked
  for process in processes:
    finish(process, two, 75)
  assert int(max(p.name for p in (two / "checkpoints").iterdir())) == last_step(two) < 60
  for process in pair_of(command, two, *flags):
    finish(process, two)
  a, b, loss = metrics(one), metrics(two), "train/loss"
  np.testing.assert_allclose([a[n][loss] for n in a], [b[n][loss] for n in a], atol=1e-5)
  if trainer == "toy":  # it writes what the second process sees, too
    with (two / "metrics1.jsonl").open() as file:
      assert [json.loads(line)["loss"] for line in file] == [b[n][loss] for n in b]
  x, y = arrays(one, 60), arrays(two, 60)
  assert x.keys() == y.keys()
  for name in x:
    where = with_a_gradient(x, name)
    np.testing.assert_allclose(x[name][where], y[name][where], atol=1e-5, err_msg=name)


@pytest.mark.long
def test_a_process_that_comes_late_is_waited_for(tmp_path):
  out = tmp_path / "late"
  other, late = pair_of(TOY, out, "--steps", "12", "--set", "mesh.fsdp=2")  # the first one is where they meet
  assert wait_for(late, (out / "metrics1.jsonl").exists)  # it is about to compile its first step
  late.send_signal(signal.SIGSTOP)
  time.sleep(45)  # what exchanges data between CPUs gives up after 30
  assert other.poll() is None, (out / "said").read_text()[-3000:]
  late.send_signal(signal.SIGCONT)
  for process in (late, other):
    finish(process, out)
  assert last_step(out) == 12


# What makes a step of each trainer short.
SHORT = {
  "flow": ["data.seconds=6"],
  "vocoder": ["data.rows=4", "data.frames=8", "model.channels=16", "alone=30", "data.eval_rows=4"],
  "speaker": ["data.rows=4", "data.eval_split=validation"],
  "speech_tokenizer": ["data.seconds=6"],
}


@pytest.mark.long
@pytest.mark.parametrize("trainer", SHORT)
def test_two_processes_measure_what_one_does(trainer, tmp_path, request):
  one, two, command = tmp_path / "one", tmp_path / "two", command_of(trainer, request)
  flags = ("--steps", "3", "--set", "mesh.fsdp=2", "run.log_every=1", "run.eval_batches=1", *SHORT[trainer])
  finish(start(command, one, *flags, XLA_FLAGS=devices(4)), one)
  for process in pair_of(command, two, *flags):
    finish(process, two)
  a, b = metrics(one), metrics(two)
  assert sorted(a) == sorted(b) == [1, 2, 3] and any(name.startswith("eval/") for name in a[3])
  for n in a:
    assert a[n].keys() == b[n].keys()
    for name, value in a[n].items():
      np.testing.assert_allclose(b[n][name], value, rtol=1e-4, atol=1e-4, err_msg=f"step {n}, {name}")


# What makes each trainer's steps short.
SMALL = {
  "toy": ["pause=0.01"],
  "lm": ["data.rows=2", "data.length=256"],
  "vocoder": ["data.rows=2", "data.frames=8", "model.channels=16", "alone=30", "data.eval_rows=1"],
}


@pytest.mark.long
@pytest.mark.parametrize("trainer", ["toy", "lm", "vocoder"])
def test_twenty_kills(trainer, tmp_path, request):
  steps, command = 250, command_of(trainer, request)
  flags = ["--steps", str(steps), "--set", "run.save_every=2", "run.log_every=1", "run.eval_every=0", *SMALL[trainer]]
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  finish(start(command, whole, *flags), whole)
  found = kill_often(command, killed, steps, 20, 1, *flags)
  print(found)
  assert found["kills"] == 20 and found["cut"] >= 3
  assert_same_end(whole, killed, steps)
