"""What `train.box_device` is made of: corpora in memory, training by the clock, results in pieces, the pack."""

import itertools
import json
import shutil
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.audio import mel_spectrogram
from cosyjax.data.batches import AUDIO, asr_batches
from cosyjax.errors import CheckpointError, DataError
from cosyjax.text import tiny_tokenizer_dir
from cosyjax.training.optimiser import OptimConfig
from cosyjax.training.step import Loss
from train import box_arrays, box_fit, box_memory, box_pack, box_voice
from train.box_fit import Fit, Journal, average, rate_at
from train.box_memory import MemoryCorpus, MemoryFeatures, Utterance

RATE = 24_000


def _tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
  return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def _utterances(count: int) -> list[Utterance]:
  rng = np.random.default_rng(0)
  waves = [(3000 * rng.normal(size=RATE // 2 + 480 * n)).astype(np.int16) for n in range(count)]
  return [Utterance(wave_A, f"Text {n}.", "tEkst", "ab"[n % 2], "en") for n, wave_A in enumerate(waves)]


def test_resampling_keeps_what_is_below_and_drops_what_is_above():
  found_BA = np.asarray(box_memory.two_thirds(jnp.asarray([_tone(1000.0, 0.5), _tone(9000.0, 0.5)])))
  assert found_BA.shape == (2, 8000)
  middle = slice(500, -500)
  np.testing.assert_allclose(found_BA[0, middle], _tone(1000.0, 0.5, 16_000)[middle], atol=2e-3)
  assert np.abs(found_BA[1, middle]).max() < 2e-3


def test_spectra_are_those_of_each_recording_alone():
  some = _utterances(3)
  found = box_memory.spectra(some, seconds=1.0, rows=2)
  for i, one in enumerate(some):
    wave_1A = one.wave_A[None].astype(np.float32) / 32768
    mel_TM = np.asarray(mel_spectrogram(wave_1A, np.asarray([wave_1A.shape[1]]), AUDIO)[0])[0]
    size = len(found["mel"][i])
    assert size % 2 == 0 and size == len(found["f0"][i]) and 0 <= len(mel_TM) - size <= 3
    np.testing.assert_allclose(found["mel"][i].astype(np.float32), mel_TM[:size], atol=5e-3)  # half precision
    assert len(found["log_mel_16k"][i]) == len(one.wave_A) * 2 // 3 // 160
  with pytest.raises(DataError, match=r"at most 0\.3 s"):
    box_memory.spectra(some, seconds=0.3, rows=2)


def test_batches_read_ahead_are_those_of_the_iterator():
  some = _utterances(9)
  mels = [np.full((50 + n, 128), n, np.float16) for n in range(9)]
  make = lambda: asr_batches(
    MemoryCorpus(some, phones=True), MemoryFeatures({"log_mel_16k": mels}), seconds=2.0, buckets=(1.0,), seed=3
  )
  expected = list(itertools.islice(make(), 7))
  for found, batch in zip(box_memory.read_ahead(make(), threads=2), expected, strict=False):
    assert set(found) == set(batch)
    for name in batch:
      np.testing.assert_array_equal(found[name], batch[name])
  assert bytes((expected[0]["units_BL"][0, :5] - 1).tolist()) == b"tEkst"


def test_short_ones_come_first():
  found = box_memory.in_turn(itertools.repeat("short"), itertools.repeat("any"), 0.2)
  assert next(found) == "short"
  time.sleep(0.3)
  assert [next(found), next(found)] == ["any", "any"]


def test_the_rate_follows_the_clock():
  c = OptimConfig(learning_rate=2.0, warmup=4, final=0.1)
  assert [rate_at(c, 0.0, step) for step in (0, 1, 3, 9)] == pytest.approx([0.5, 1.0, 2.0, 2.0])
  assert rate_at(c, 0.5, 9) == pytest.approx(1.1) and rate_at(c, 7.0, 9) == pytest.approx(0.2)


def test_a_network_is_trained_for_as_long_as_it_says(tmp_path):
  def loss(params, batch, key, extra):
    error = jnp.sum(jnp.square(batch["x"] @ params["w"] - batch["y"]))
    return Loss(error, jnp.float32(len(batch["y"])), {"error": (error, jnp.float32(1))})

  rng = np.random.default_rng(0)
  x, truth = rng.normal(size=(32, 4)).astype(np.float32), np.asarray([1.0, -2.0, 3.0, 0.5], np.float32)
  batch = {"x": x, "y": x @ truth, "key": np.zeros(2, np.uint32)}
  shapes = [{name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in batch.items()}]
  optim = OptimConfig(learning_rate=0.1, final=0.01, ema=0.5)
  fit = Fit.prepare("toy", loss, lambda key: {"w": jax.random.normal(key, (4,))}, optim, shapes)
  journal = Journal(tmp_path / "journal.jsonl")
  look = lambda params: {"distance": float(jnp.max(jnp.abs(params["w"] - truth)))}
  state = fit.run(fit.state(0), itertools.repeat(batch), 1.0, journal, look)
  np.testing.assert_allclose(average(state)["w"], truth, atol=1e-2)
  rows = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
  assert sum(row["what"] == "toy/held_out" for row in rows) == box_fit.LOOKS
  assert rows[-1]["what"] == "toy/done" and 1 <= rows[-1]["seconds"] < 5 and rows[-1]["distance"] < 1e-2
  again = fit.state(0, {"w": truth})
  np.testing.assert_array_equal(again.params["w"], truth)
  with pytest.raises(CheckpointError, match="do not fit"):
    fit.state(0, {"w": truth[:2]})
  worse = itertools.count()
  far = lambda params: {"distance": float(next(worse))}  # it gets worse from the first look on
  kept = fit.run(fit.state(0), itertools.repeat(batch), 1.0, journal, far, keep="distance")
  assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["what"] == "toy/kept"
  assert np.any(np.asarray(average(kept)["w"]) != np.asarray(kept.params["w"]))


def test_parameters_come_back_from_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr(box_arrays, "PIECE", 5000)
  rng = np.random.default_rng(0)
  tree = {"a": {"kernel": rng.normal(size=(40, 40)).astype(np.float32)}, "b": rng.normal(size=900).astype(np.float32)}
  kept = box_arrays.rounded(tree)
  box_arrays.save(tmp_path, "lm", kept)
  assert sorted(file.name for file in tmp_path.iterdir()) == ["lm.0.npz", "lm.1.npz"]
  assert all(file.stat().st_size < 5600 for file in tmp_path.iterdir())
  found = box_arrays.load(tmp_path, "lm")
  jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(kept))
  assert box_arrays.load(tmp_path, "flow") is None


def test_speech_is_handed_over_in_whole_parts(tmp_path):
  entries = [{"text": f"Zeile {n} ü", "wave": np.arange(n + 1, dtype=np.int16)} for n in range(3)]
  box_voice.write(tmp_path, "s00000-00", entries)
  assert [file.name for file in tmp_path.iterdir()] == ["s00000-00.npz"]
  for found, entry in zip(box_voice.read(tmp_path / "s00000-00.npz"), entries, strict=True):
    assert found["text"] == entry["text"]
    np.testing.assert_array_equal(found["wave"], entry["wave"])


@pytest.fixture
def speech(tmp_path):
  """A folder of recordings as `train.make_corpus --teacher` makes them, and one of wheels that are none."""
  from cosyjax.audio import write

  folder, wheels = tmp_path / "speech", tmp_path / "wheels"
  (folder / "audio").mkdir(parents=True)
  wheels.mkdir()
  entries = []
  for n in range(24):
    write(folder / "audio" / f"{n}.flac", 0.5 * _tone(200.0 + 10 * n, 0.8 + 0.02 * n), RATE)
    entry = {
      "id": f"u{n}",
      "audio": f"audio/{n}.flac",
      "text": f"Text {n % 12}.",
      "speaker": f"s{n % 3}",
      "language": "en",
    }
    entries.append(entry)
  (folder / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
  details = [{"id": entry["id"], "seconds": 1.0, "speed": 1.0, "phonemes": "tˈɛkst"} for entry in entries]
  (folder / "details.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in details))
  for name in ("hibari_tts", "onnxruntime", "soundfile"):
    with zipfile.ZipFile(wheels / f"{name}-1-py3-none-any.whl", "w") as files:
      files.writestr("empty.txt", "")
  (tmp_path / "texts.txt").write_text("")
  return tmp_path


def _make(speech, *more):
  flags = ["make", "--speech", speech / "speech", "--texts", speech / "texts.txt", "--wheels", speech / "wheels"]
  return [str(word) for word in (*flags, "--text-tokenizer", tiny_tokenizer_dir(), "--out", speech / "pack", *more)]


def test_a_pack_has_recordings_and_says_what_is_missing(speech, capsys):
  assert box_pack.main(_make(speech)) == 0
  assert "MiB" in capsys.readouterr().out
  entries = list(box_voice.recordings(speech / "pack", (1, 2)))
  assert len(entries) == 12 and entries[0]["phones"] == "tEkst" and abs(len(entries[0]["wave"]) - 0.82 * RATE) < 1000
  shutil.rmtree(speech / "pack")
  next((speech / "wheels").glob("onnx*")).unlink()
  with pytest.raises(DataError, match="missing: onnxruntime"):
    box_pack.main(_make(speech))
  with pytest.raises(DataError, match="expected results of train"):
    box_pack.main(["join", str(speech), "--text-tokenizer", "t", "--out", str(speech / "model")])


@pytest.mark.long
def test_all_parts_are_trained_and_become_a_model(speech, monkeypatch):
  """The whole program on small networks; sizes and times are those of a try, not of speech."""
  from cosyjax import checkpoint

  monkeypatch.setattr("train.teacher_corpus.HELD_OUT", 4)
  box_pack.main(_make(speech))
  program = "import sys; from train import box_device; box_device.HELD_OUT = 4; sys.exit(box_device.main(sys.argv[1:]))"
  flags = ["--pack", speech / "pack", "--out", speech / "results", "--seconds", "150", "--processes", "1", "--tiny"]
  command = [sys.executable, "-c", program, *map(str, flags), "--dtype", "float32"]
  subprocess.run(command, check=True, timeout=1500)
  entries = [json.loads(line) for line in (speech / "results" / "journal.jsonl").read_text().splitlines()]
  done = [entry["what"] for entry in entries if entry["what"].endswith("/done")]
  assert done == ["speech_tokenizer/done", "speaker/done", "lm/done", "flow/done", "vocoder/done"]
  model = speech / "model"
  assert (
    box_pack.main(["join", str(speech / "results"), "--text-tokenizer", str(tiny_tokenizer_dir()), "--out", str(model)])
    == 0
  )
  assert checkpoint.load_config(model).speech_tokenizer.codebook_size == 6561
