"""The whole chain of training as a new user runs it, two steps of each trainer."""

import json

import numpy as np
import pytest
import soundfile

from train import round_trip


@pytest.mark.long
def test_every_program_hands_on_to_the_next(tmp_path, capsys):
  rows = []
  for n in range(4):
    time_A = np.arange(24_000 + 4_000 * n) / 24_000
    hum_A = sum(np.sin(2 * np.pi * (110 + 20 * n) * k * time_A) / k for k in range(1, 20))
    soundfile.write(tmp_path / f"{n}.wav", 0.1 * hum_A * (1 + 0.5 * np.sin(20 * time_A)), 24_000)
    rows.append({"id": str(n), "audio": f"{n}.wav", "text": f"Hum {n}.", "speaker": f"s{n % 2}", "language": "en"})
  manifest = tmp_path / "manifest.jsonl"
  manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
  flags = ["--manifest", str(manifest), "--out", str(tmp_path / "work"), "--steps", "0.001"]
  assert round_trip.main(flags) == 1  # two steps teach nobody to speak
  assert "0 of 4 texts came back" in capsys.readouterr().out
  assert sorted(p.name for p in (tmp_path / "work/audio").iterdir()) == ["0.wav", "1.wav", "2.wav", "3.wav"]
  made = [p.name for p in (tmp_path / "work/runs").iterdir()]
  assert sorted(made) == ["flow", "lm", "speaker", "speech_tokenizer", "vocoder"]
