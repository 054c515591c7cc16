"""The log of a run: files, lateness, resume, pictures; and what compiling for absent devices says."""

import json
import struct
import subprocess
import sys
import wave
import zlib
from io import BytesIO
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import ConfigError, DataError, TrainingError
from train import compile_only, curves, log, pictures


def make(tmp_path, **options):
  return log.Log(tmp_path, total_steps=options.pop("total_steps", 100), show=False, **options)


def metrics(loss, bad=0):
  return {"loss": jnp.float32(loss), "bad": jnp.float32(bad)}


def lines(tmp_path):
  return log.read(tmp_path / log.FILE)


def test_metrics_are_fetched_one_step_late(tmp_path):
  run = make(tmp_path, log_every=1)
  assert run.step(1, metrics(5.0), 10) == {}
  assert lines(tmp_path) == []
  assert run.step(2, metrics(4.0), 10) == {"loss": 5.0, "bad": 0.0}
  assert [line["step"] for line in lines(tmp_path)] == [1]
  assert run.flush()["loss"] == 4.0 and run.flush() == {}
  run.close()
  run.close()
  assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 5.0), (2, 4.0)]


def test_lines_every_so_many_steps_and_at_the_end(tmp_path):
  with make(tmp_path, log_every=4, total_steps=10) as run:
    for step in range(1, 11):
      run.step(step, metrics(step), 1)
  assert [line["step"] for line in lines(tmp_path)] == [4, 8, 10]


def test_speed_stall_and_utilisation(tmp_path, monkeypatch):
  clock = [100.0]
  monkeypatch.setattr(log.time, "perf_counter", lambda: clock[0])
  monkeypatch.setattr(log, "peak_flops", lambda kind, dtype: 1e6)
  with make(tmp_path, log_every=5, flops_per_unit=10.0, devices=4, units="audio seconds") as run:
    for step in range(1, 11):
      clock[0] += 9.0 if step == 6 else 0.5
      if step == 6:
        run.restart()  # an evaluation came between
      run.step(step, metrics(1.0), 100.0, {"wait_s": 0.1 * step, "padding": 0.25})
      if step == 7:
        clock[0] += 5.0
        run.evaluation(7, {"loss": 2.0})
  last = lines(tmp_path)[-1]
  assert last["step"] == 10 and last["data/padding"] == 0.25
  assert last["speed/audio_seconds_per_second"] == pytest.approx(200.0)
  assert last["speed/mfu"] == pytest.approx(10.0 * 200.0 / (4 * 1e6))
  assert last["speed/stall"] == pytest.approx(0.2)
  assert last["speed/step_p50"] == last["speed/step_p99"] == pytest.approx(0.5)


def test_non_finite_numbers_are_null_and_the_tenth_in_a_row_ends_the_run(tmp_path):
  run = make(tmp_path, log_every=1)
  for step in range(1, 11):
    run.step(step, metrics(float("nan"), bad=step), 1)
  assert run.bad == 9
  with pytest.raises(TrainingError, match="step 10"):
    run.step(11, metrics(1.0), 1)
  run.close()
  text = (tmp_path / log.FILE).read_text()
  assert "NaN" not in text and json.loads(text.splitlines()[0])["train/loss"] is None
  assert lines(tmp_path)[-1]["train/bad"] == 10


def test_a_resumed_run_has_each_step_once(tmp_path):
  with make(tmp_path, log_every=1) as run:
    for step in range(1, 8):
      run.step(step, metrics(step), 1)
      if step == 4:
        run.evaluation(4, {"loss": 9.0})
  with (tmp_path / log.FILE).open("a") as file:
    file.write('{"step": 8, "train/lo')  # killed while writing
  with make(tmp_path, log_every=1, start=4) as run:
    for step in range(5, 8):
      run.step(step, metrics(10 * step), 1)
  found = [(line["step"], line["train/loss"]) for line in lines(tmp_path) if "train/loss" in line]
  assert found == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60), (7, 70)]
  assert [line["step"] for line in lines(tmp_path) if "eval/loss" in line] == [4]
  assert list(tmp_path.glob("*.tmp")) == []


def test_only_the_main_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(log.runtime, "is_main", lambda: False)
  with make(tmp_path, log_every=1) as run:
    run.step(1, metrics(1.0), 1)
    assert run.step(2, metrics(2.0), 1)["loss"] == 1.0
    run.evaluation(2, {"loss": 1.0}, {"mel": np.zeros((4, 4, 3), np.uint8)})
  assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_scalars_pictures_and_sounds(tmp_path):
  from tensorboardX.proto.event_pb2 import Event

  mel = pictures.mel_picture(np.random.default_rng(0).normal(size=(20, 80)))
  tone = np.sin(np.arange(2400) / 10).astype(np.float32)
  with make(tmp_path, log_every=1, config={"run": {"steps": 3}}) as run:
    run.step(1, metrics(3.5), 1)
    run.evaluation(1, {"loss": 2.5}, {"mel": mel}, {"prompt": tone})
  (path,) = (tmp_path / "tensorboard").glob("events*")
  data, found = path.read_bytes(), {}
  while data:
    (size,) = struct.unpack("<Q", data[:8])
    for value in Event.FromString(data[12 : 12 + size]).summary.value:
      found[value.tag] = value
    data = data[16 + size :]
  assert found["train/loss"].simple_value == 3.5 and found["eval/loss"].simple_value == 2.5
  image, audio = found["mel"].image, found["prompt"].audio
  assert (image.height, image.width) == mel.shape[:2] and image.encoded_image_string == pictures.png(mel)
  assert audio.sample_rate == 24_000 and audio.length_frames == 2400
  with wave.open(BytesIO(audio.encoded_audio_string)) as file:
    samples = np.frombuffer(file.readframes(2400), "<i2") / 32767
  np.testing.assert_allclose(samples, tone, atol=2e-5)


def test_pictures():
  mel_TM = np.linspace(0, 1, 80)[None].repeat(30, axis=0)
  picture = pictures.mel_picture(mel_TM, mel_TM[:20], scale=2)
  assert picture.shape == (2 * 160 + 4, 60, 3) and picture.dtype == np.uint8
  assert picture[0].sum() > picture[159].sum()  # high bins, which are loud here, are at the top
  assert (picture[164:, 40:] == 255).all()  # the shorter one is filled with white
  assert pictures.alignment_picture(np.eye(5), scale=1)[-1, 0].sum() > pictures.alignment_picture(np.eye(5))[0, 0].sum()
  assert pictures.mel_picture(np.full((4, 80), np.nan)).shape == (240, 12, 3)

  data = pictures.png(picture)
  assert data.startswith(b"\x89PNG") and struct.unpack(">II", data[16:24]) == (60, 324)
  (size,) = struct.unpack(">I", data[33:37])
  rows = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(324, 1 + 180)
  np.testing.assert_array_equal(rows[:, 1:].reshape(324, 60, 3), picture)


def test_curves(tmp_path):
  pytest.importorskip("matplotlib")
  for name, factor in (("a", 1.0), ("b", 2.0)):
    with make(tmp_path / name) as run:
      for step in (10, 20):
        run.evaluation(step, {"loss": factor * step})
  assert curves.curve(tmp_path / "b", "eval/loss") == ([10, 20], [20.0, 40.0])
  out = tmp_path / "docs" / "x.png"
  assert curves.main([str(tmp_path / "a"), str(tmp_path / "b"), "--metrics", "eval/loss", "--out", str(out)]) == 0
  assert out.read_bytes().startswith(b"\x89PNG")
  lone = out.read_bytes()
  curves.draw({"a": tmp_path / "a"}, ["eval/loss+eval/none"], out)  # one of a panel's metrics is enough
  assert out.read_bytes() != lone
  with pytest.raises(DataError, match="there are eval/loss"):
    curves.draw({"a": tmp_path / "a"}, ["eval/none+eval/nothing"], out)
  with pytest.raises(DataError, match="there are eval/loss"):
    curves.draw({"a": tmp_path / "a"}, ["eval/accuracy"], out)
  with pytest.raises(DataError, match="no such file"):
    curves.curve(tmp_path, "eval/loss")


def test_report_of_a_step_that_does_not_fit():
  record = {"name": "lm", "topology": "v5e:4x4", "device": "TPU v5 lite", "devices": 16, "mesh": {"data": 16},
            "units": "tokens", "units_per_step": 32768.0, "model_flops": 1.6e13, "executed_flops": 3.2e13,
            "fits": False, "error": "out of memory"}  # fmt: skip
  text = compile_only.describe(record)
  assert "DOES NOT FIT" in text and "1e+12 of the model" in text and "2,048 a device" in text


def test_compile_only_needs_libtpu(monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  with pytest.raises(ConfigError, match="pip install libtpu"):
    compile_only.topology_devices("v5e:4x4")


ABSENT = """
import sys
import jax, jax.numpy as jnp
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec as P
from cosyjax import sharding
from cosyjax.errors import ConfigError
from train import compile_only
from train.cli import MeshConfig

def build(rows):
  def at(mesh):
    put = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
    w = put((1024, 1024), "fsdp")
    update = jax.jit(lambda w, x: w - jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(w), donate_argnums=0,
                     out_shardings=w.sharding)
    return update, (w, put((rows, 1024), sharding.ROW_AXES)), rows, None
  return at

file = Path(sys.argv[1])
run = lambda name, rows: compile_only.report("toy", name, build(rows), mesh=MeshConfig(fsdp=4), file=file)
assert run("v5e:2x4", 4096) == 0
assert run("v5e:2x4", 1 << 26) == 1
try:
  run("v99:2x2", 8)
except ConfigError as error:
  assert "v5e:16x16" in str(error)
else:
  raise SystemExit("an unknown name was taken")
"""


@pytest.mark.long
def test_compiling_for_absent_devices(tmp_path):
  pytest.importorskip("libtpu")
  file = tmp_path / "report.jsonl"
  done = subprocess.run(
    [sys.executable, "-c", ABSENT, str(file)],
    capture_output=True,
    text=True,
    check=False,
    cwd=Path(__file__).parent.parent,
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  assert "8 x TPU v5 lite, mesh data 2, fsdp 4, tensor 1" in done.stdout
  fits, too_large = map(json.loads, file.read_text().splitlines())
  assert fits["fits"] and not too_large["fits"]
  assert fits["executed_flops"] == 2 * 2 * 4096 * 1024 * 1024  # forward, and the gradient of w
  assert fits["bytes"]["arguments"] == pytest.approx(4 * (1024 * 1024 / 4 + 4096 * 1024 / 8), rel=0.01)
  assert {"all-reduce", "all-gather", "reduce-scatter"} & set(fits["collectives"])
  assert 0 < fits["bound"]["exposed"] <= fits["bound"]["overlapped"] <= 1
