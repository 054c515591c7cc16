"""The recipe of the model in the box: what stops its stages and how they go on; its configurations fit together."""

import json
import time
from pathlib import Path

import pytest

from cosyjax import config as config_lib
from cosyjax.data.manifest import read_manifest
from cosyjax.errors import ConfigError, DataError, TrainingError
from train import box, box_corpus, cli, teacher_corpus

TRAINERS = {"speech_tokenizer": "speech_tokenizer", "speaker": "speaker", "lm": "lm", "flow": "flow",
            "flow_distilled": "flow", "vocoder": "vocoder", "vocoder_flow": "vocoder"}  # fmt: skip


@pytest.fixture
def stages(monkeypatch):
  """Three stages that note that they ran; the second evaluates as `figures` says."""
  ran, figures = [], {"error": 0.5}

  def work(name):
    def do(run: box.Box) -> None:
      ran.append(name)
      (run.out / name).mkdir(exist_ok=True)
      row = {"step": 1} | {f"eval/{key}": value for key, value in figures.items()}
      (run.out / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")

    return do

  made = {
    name: box.Stage(work(name), {"error": ("<", 0.4)} if name == "two" else {}) for name in ("one", "two", "three")
  }
  monkeypatch.setattr(box, "STAGES", made)
  return ran, figures


def test_a_stage_that_falls_short_stops_the_run_and_a_done_one_is_not_repeated(stages, tmp_path, capsys):
  ran, figures = stages
  with pytest.raises(TrainingError, match=r"two: error: expected < 0.4, found 0.5"):
    box.run(box.Box(tmp_path), list(box.STAGES))
  assert ran == ["one", "two"] and list(box.read_state(tmp_path)) == ["one"]
  figures["error"] = 0.3
  assert box.run(box.Box(tmp_path), list(box.STAGES)) == 0
  assert ran == ["one", "two", "two", "three"]
  assert box.read_state(tmp_path)["two"]["figures"] == {"error": 0.3}
  assert box.run(box.Box(tmp_path), list(box.STAGES)) == 0 and len(ran) == 4
  assert "two: 0 s, {'error': 0.3}" in capsys.readouterr().out


def test_a_figure_that_is_not_there_falls_short(stages, tmp_path):
  _, figures = stages
  del figures["error"]
  with pytest.raises(TrainingError, match="found nan"):
    box.run(box.Box(tmp_path), list(box.STAGES))
  assert box.run(box.Box(tmp_path), list(box.STAGES), go_on=True) == 0


def test_a_run_ends_in_time(stages, tmp_path):
  assert box.run(box.Box(tmp_path, deadline=time.monotonic()), list(box.STAGES)) == 75
  assert not box.read_state(tmp_path)


def test_a_program_is_asked_to_stop_at_the_deadline(tmp_path, monkeypatch):
  (tmp_path / "sleeper.py").write_text(
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\ntime.sleep(60)\n"
  )
  (tmp_path / "broken.py").write_text("raise SystemExit(3)\n")
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  begin = time.monotonic()
  with pytest.raises(TimeoutError):
    box.Box(tmp_path, deadline=begin + 1.5).call("sleeper")
  assert time.monotonic() - begin < 20
  with pytest.raises(TrainingError, match="python -m broken ended with exit status 3"):
    box.Box(tmp_path).call("broken")


def test_trainers_are_called_with_the_sizes_and_settings_asked_for(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(box.Box, "call", lambda self, *command: said.append(" ".join(map(str, command))))
  run = box.Box(tmp_path, small=True, settings=(("lm", "run.steps=3"), ("flow", "run.steps=4")))
  for name in ("lm", "vocoder_flow", "evaluation"):
    box.STAGES[name].work(run)
  assert said[0].startswith("train.lm --config configs/box/lm.py") and said[0].endswith("--tiny --set run.steps=3")
  assert said[1].startswith("train.lm_check --lm")
  assert "--text-judge" not in said[3] and said[3].startswith("infer.evaluate run --model")
  assert said[2].startswith("train.vocoder --config configs/box/vocoder_flow.py") and "run.steps" not in said[2]


def test_wrong_flags(tmp_path):
  with pytest.raises(ConfigError, match=r"STAGE\.NAME=VALUE"):
    box.main(["--out", str(tmp_path), "--set", "nothing.run.steps=3"])
  with pytest.raises(ConfigError, match="--speech"):
    box.main(["--out", str(tmp_path)])
  with pytest.raises(DataError, match=r"expected a folder of train\.make_corpus"):
    box.main(["--out", str(tmp_path), "--speech", str(tmp_path / "nothing")])


def test_folders_of_teachers_become_one_corpus(tmp_path):
  for name in ("a", "b"):
    entries = [
      {"id": f"{name}{n}", "audio": f"audio/{name}{n}.flac", "text": f"Text {n}.", "speaker": name, "language": "en",
       "seconds": 1.0 + 5 * n, "speed": 1.0, "phonemes": "həlˈO"}
      for n in range(3)
    ]  # fmt: skip
    (tmp_path / name / "entries").mkdir(parents=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / name / "entries" / f"{name}-00000.jsonl").write_text(lines)
    teacher_corpus.write_manifests(tmp_path / name)
  hours = box_corpus.write([tmp_path / "a", tmp_path / "b"], tmp_path / "m", longest=8.0)
  assert hours["train"] == pytest.approx(2 * 7 / 3600)
  found, spelled = (read_manifest(tmp_path / "m" / kind / "train.jsonl", check_audio=False) for kind in ("", "phones"))
  assert [item.id for item in found] == ["a0", "a1", "b0", "b1"] and {item.text for item in spelled} == {"h@lO"}
  assert (tmp_path / "m" / "texts.txt").read_text() == "Text 0.\nText 1.\n"
  assert len(box_corpus.build_flags(tmp_path / "m")) == 2  # nothing is held out of so few


@pytest.mark.parametrize("tiny", [False, True])
def test_the_configurations_fit_together(tiny):
  import importlib

  found = {
    name: cli.load(Path("configs/box") / f"{name}.py", importlib.import_module(f"train.{program}").Config, tiny=tiny)
    for name, program in TRAINERS.items()
  }
  assert found["vocoder_flow"].model == found["vocoder"].model
  assert found["flow_distilled"].flow == found["flow"].flow and found["flow_distilled"].distil == 2
  config_lib.ModelConfig(  # refuses parts that do not fit
    speech_tokenizer=found["speech_tokenizer"].tokenizer, speaker=found["speaker"].speaker, lm=found["lm"].lm,
    flow=found["flow"].flow, vocoder=found["vocoder"].model,
  )  # fmt: skip
  assert found["lm"].lm.speech_vocab.codebook_size == 6561
