"""The README's way from a folder of recordings to a voice, its commands as printed, with two steps of each trainer."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyjax.data.feature_store import Features
from train.log import read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TRAINERS = ("train.lm", "train.flow", "train.vocoder")


def printed(heading: str) -> list[list[str]]:
  """The commands of the first block of shell under a heading of the README, as words."""
  import shlex

  block = README.split(heading, 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
  return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder that looks like a checkout, with recordings."""
  place, rng = tmp_path_factory.mktemp("checkout"), np.random.default_rng(0)
  folder = place / "recordings" / "Anna"
  folder.mkdir(parents=True)
  for n in range(1, 9):
    time_A = np.arange(30_000 + 2_000 * n) / 24_000
    hum_A = sum(np.sin(2 * np.pi * (120 + 5 * n) * k * time_A) / k for k in range(1, 20))
    noise_A = 0.01 * rng.standard_normal(len(time_A))
    soundfile.write(folder / f"{n:03d}.wav", 0.1 * hum_A * (1 + 0.5 * np.sin(20 * time_A)) + noise_A, 24_000)
    (folder / f"{n:03d}.txt").write_text(f"This is hum number {n}.\n")
  for name in ("train", "infer", "configs", "cosyjax", "convert"):
    (place / name).symlink_to(ROOT / name)
  return place


def call(place: Path, words: list[str]) -> str:
  """Runs one command; trainers in their tiny size, two steps. Returns what it said."""
  assert words[0] == "python"
  more = ["--tiny", "--steps", "2"] if words[2] in TRAINERS else []
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(place / "cache")}
  done = subprocess.run([sys.executable, *words[1:], *more], cwd=place, env=env, capture_output=True, text=True)
  assert done.returncode == 0, f"{words}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
  return done.stdout + done.stderr


@pytest.mark.long
def test_the_commands_of_the_readme_lead_from_a_folder_to_a_voice(place):
  commands = printed("### From a folder of recordings to a voice")
  assert [words[2] for words in commands] == [
    "train.build_corpus", "train.features", "train.lm", "train.flow", "train.export", "infer.synthesize"
  ]  # fmt: skip
  call(place, ["python", "-m", "train.export", "--rest", "tiny", "--out", "models/tiny"])
  for words in commands:
    words = [word.replace("models/cosyvoice2", "models/tiny") for word in words]
    said = call(place, words)
    assert "no evaluation" not in said, said
  audio_A, rate = soundfile.read(place / "anna.wav")
  assert rate == 24_000 and len(audio_A) > 2_400 and np.all(np.isfinite(audio_A)) and np.any(audio_A)
  lm, flow = (read(place / "runs" / name / "metrics.jsonl") for name in ("lm", "flow"))
  assert {"eval/loss", "eval/sample_length_ratio", "eval/sample_token_error_rate"} <= set(lm[-1])
  assert {"eval/loss", "eval/loss_full"} <= set(flow[-1])
  for name in ("lm", "flow"):  # both were heard, through the vocoder of --init
    board = b"".join(file.read_bytes() for file in (place / "runs" / name / "tensorboard").iterdir())
    assert b"speech_0" in board and b"mel_0" in board and b"RIFF" in board

  # The two commands in docs/training.md: the vocoder on the flow's own mels.
  call(place, ["python", "-m", "train.flow_mels", "corpus", "--model", "models/anna"])
  assert all(len(Features(place / "corpus", split, ["flow_mel"])) for split in ("train", "validation"))
  flags = ["--config", "configs/vocoder_finetune.py", "--init", "models/anna"]
  said = call(place, ["python", "-m", "train.vocoder", *flags, "--data", "corpus", "--out", "runs/vocoder"])
  assert "no evaluation" not in said, said
  assert "eval/mel" in read(place / "runs/vocoder/metrics.jsonl")[-1]
