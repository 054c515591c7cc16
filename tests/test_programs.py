"""The programs as a user runs them: outputs, printed lines, exit codes, and words for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from convert import cosyvoice2
from cosyjax import checkpoint, config
from cosyjax.inference.voice import Voice
from infer import benchmark, options, synthesize
from tests.conftest import ASSETS

PROMPT = ["--prompt-wav", str(ASSETS / "prompt.wav"), "--prompt-text", "希望你以后能够做的比我还好呦。", "--no-cache"]


def _run(main, *argv) -> int:
  return options.run(main, [str(a) for a in argv])


def test_conversion_prints_a_table(release, tmp_path, capsys):
  assert _run(cosyvoice2.main, release, tmp_path / "m") == 0
  out = capsys.readouterr().out
  for name in config.COMPONENTS:
    assert f"\n{name} " in out
  assert "llm.model.lm_head.weight" in out
  assert checkpoint.load_config(tmp_path / "m").lm.layers == 3
  assert _run(cosyvoice2.main, release, tmp_path / "m") == 1
  assert "is there already" in capsys.readouterr().err


def test_conversion_of_something_else(tmp_path, capsys):
  assert _run(cosyvoice2.main, tmp_path, tmp_path / "m") == 1
  assert "llm.pt, flow.pt" in capsys.readouterr().err
  assert not (tmp_path / "m").exists()


def test_conversion_stops_at_a_pickle_that_runs_code(release, tmp_path, capsys):
  import os
  import shutil
  import zipfile

  source = tmp_path / "release"
  shutil.copytree(release, source)
  canary = tmp_path / "canary"
  payload = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
  with zipfile.ZipFile(source / "hift.pt", "w") as file:
    file.writestr("archive/data.pkl", payload)
    file.writestr("archive/version", "3\n")
  assert _run(cosyvoice2.main, source, tmp_path / "m") == 1
  error = capsys.readouterr().err
  assert "hift.pt" in error and "system" in error
  assert not os.path.exists(canary) and not (tmp_path / "m").exists()  # noqa: PTH110


def test_synthesize_writes_speech_and_keeps_the_voice(converted, tmp_path, capsys):
  out, voice = tmp_path / "o.wav", tmp_path / "v.voice"
  code = _run(synthesize.main, "--model", converted, "--text", "Hi.", "--out", out, "--save-voice", voice, *PROMPT)
  assert code == 0
  wave, rate = soundfile.read(out)
  assert rate == 24_000 and len(wave) > 0 and np.all(np.isfinite(wave))
  assert f"{len(wave) / 24_000:.2f} s of audio" in capsys.readouterr().out
  assert Voice.load(voice).transcript.startswith("希望")
  again = tmp_path / "again.wav"
  args = ["--model", converted, "--text", "Hi.", "--out", again, "--voice", voice, "--no-cache"]
  assert _run(synthesize.main, *args) == 0
  np.testing.assert_array_equal(soundfile.read(again)[0], wave)


def test_jobs_file(shallow_dir, tmp_path, capsys):
  jobs = tmp_path / "jobs.jsonl"
  rows = [
    {"text": "One.", "out": str(tmp_path / "1.wav"), "seed": 1},
    {"text": "Two.", "out": str(tmp_path / "2.flac"), "instruction": "say it slowly"},
  ]
  jobs.write_text("\n".join(json.dumps(r) for r in rows))
  assert _run(synthesize.main, "--model", shallow_dir, "--jobs", jobs, *PROMPT) == 0
  assert all(soundfile.info(r["out"]).frames > 0 for r in rows)


def test_bad_jobs_are_all_named_before_anything_runs(shallow_dir, tmp_path, capsys):
  jobs = tmp_path / "jobs.jsonl"
  jobs.write_text('{"text": "x"}\n\nnonsense\n[]\n{"text": "x", "out": "a.wav", "volume": 3}\n')
  assert _run(synthesize.main, "--model", shallow_dir, "--jobs", jobs, *PROMPT) == 1
  error = capsys.readouterr().err
  assert all(f"jobs.jsonl:{n}" in error for n in (1, 3, 4, 5)) and "'volume'" in error


@pytest.mark.parametrize(
  ("args", "said"),
  [
    (["--text", "。！"], "can be spoken"),
    (["--text", "Hi.", "--speed", "9"], "speed"),
    (["--text", "Hi.", "--prompt-wav", "/nowhere.wav"], "/nowhere.wav"),
    (["--text", "Hi.", "--voice", "/nowhere.voice"], "/nowhere.voice"),
    (["--text-file", "/nowhere.txt"], "/nowhere.txt"),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(shallow_dir, tmp_path, capsys, args, said):
  assert _run(synthesize.main, "--model", shallow_dir, "--out", tmp_path / "o.wav", *PROMPT, *args) == 1
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
  assert len(lines) == 1 and said in lines[0]
  assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_refused_first(shallow_dir, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(options, "open_model", lambda args: pytest.fail("loaded a model before looking at --out"))
  for out in (tmp_path / "no folder" / "o.wav", tmp_path / "o.mp9"):
    assert _run(synthesize.main, "--model", shallow_dir, "--text", "Hi.", "--out", out, *PROMPT) == 1
    assert str(out) in capsys.readouterr().err


def test_benchmark_prints_every_figure(shallow_dir, tmp_path, capsys):
  out = tmp_path / "b.json"
  sizes = ["--tokens", "32", "--prompt-seconds", "1", "--text", "8", "--repeats", "1", "--batch", "1"]
  assert _run(benchmark.main, "--model", shallow_dir, "--dtype", "float32", *sizes, "--json", out) == 0
  printed = capsys.readouterr().out
  rows = json.loads(out.read_text())["rows"]
  assert [r["batch"] for r in rows] == [1]
  for name in benchmark.FIGURES:
    assert f"\n{name} " in printed
    assert all(r[name] > 0 for r in rows), name
  first = rows[0]
  expected = 25 * (first["d_lm_ms"] + first["d_fm_ms"] + first["d_voc_ms"])
  assert first["l_tts_ms"] == pytest.approx(expected)


def test_importing_the_library_pulls_in_neither_torch_nor_sound_libraries():
  script = (
    "import sys, cosyjax.inference.synthesizer, cosyjax.networks; "
    "bad = {'torch', 'soundfile', 'soxr', 'onnx', 'grain', 'tensorflow'} & set(sys.modules); "
    "assert not bad, bad"
  )
  subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
