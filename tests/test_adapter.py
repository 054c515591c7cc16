"""TFDS speech data sets become corpora, without TensorFlow."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyjax.data import adapter, corpus
from cosyjax.errors import DataError
from train import build_corpus


def _prepared(directory: Path, name: str, audio: dict, features: dict, rows: list[dict]) -> Path:
  """A small TFDS data set by a given name, as ArrayRecord.

  Its audio is stored and described as TFDS's Audio feature does, which itself cannot be made without TensorFlow.
  """
  import tensorflow_datasets as tfds

  class Made(tfds.core.ShardBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _shard_iterators_per_split(self, dl_manager):
      return {"train": [lambda: enumerate(rows[:1]), lambda: enumerate(rows[1:])]}

  Made.name = name
  made = Made(data_dir=str(directory), file_format="array_record")
  made.download_and_prepare()
  described = json.loads((Path(made.data_dir) / "features.json").read_text())
  kind = "tensorflow_datasets.core.features.audio_feature.Audio"
  [field] = audio
  described["featuresDict"]["features"][field] = {"pythonClassName": kind, "audio": audio[field]}
  (Path(made.data_dir) / "features.json").write_text(json.dumps(described))
  return Path(made.data_dir)


def _speech(n: int) -> np.ndarray:
  return (8000 * np.sin(np.arange(8000 + n) * 0.05)).astype(np.int16)


def test_adapter_of_librispeech(tmp_path):
  import tensorflow_datasets as tfds

  librispeech = _prepared(
    tmp_path,
    "librispeech",
    {"speech": {"dtype": "int16", "fileFormat": "flac", "sampleRate": "16000", "shape": {"dimensions": ["-1"]}}},
    {
      "speech": tfds.features.Tensor(shape=(None,), dtype=np.int16),
      "text": tfds.features.Text(),
      "speaker_id": np.int64,
      "chapter_id": np.int64,
      "id": np.str_,
    },
    [
      {"speech": _speech(n), "text": f"TEXT {n}", "speaker_id": 7 + n, "chapter_id": 1, "id": f"l{n}"}
      for n in (0, 1, 2)
    ],
  )
  row = adapter.recordings(librispeech, "train")[2].example()
  wave_A, rate = soundfile.read(io.BytesIO(row["audio"]), dtype="int16")
  np.testing.assert_array_equal(wave_A, _speech(2))
  assert row["rate"] == rate == 16_000 and row["seconds"] == 8002 / 16_000
  assert (row["id"], row["text"], row["speaker"], row["language"]) == ("l2", "TEXT 2", "9", "en")
  out = tmp_path / "corpus"
  assert build_corpus.main(["--tfds", str(librispeech), "--out", str(out)]) == 0
  assert sorted(corpus.Corpus(out).ids_N) == ["l0", "l1", "l2"]
  with pytest.raises(DataError, match="expected a split 'test', found train"):
    adapter.recordings(librispeech, "test")
  with pytest.raises(DataError, match="expected a corpus"):
    adapter.recordings(tmp_path / "nowhere", "train")


def test_adapter_of_vctk(tmp_path):
  """Class labels as speakers."""
  import tensorflow_datasets as tfds

  vctk = _prepared(
    tmp_path,
    "vctk",
    {"speech": {"dtype": "int16", "sampleRate": "48000", "shape": {"dimensions": ["-1"]}}},
    {
      "id": np.str_,
      "text": tfds.features.Text(),
      "speech": tfds.features.Tensor(shape=(None,), dtype=np.int16),
      "speaker": tfds.features.ClassLabel(names=["p225", "p226"]),
    },
    [{"id": f"v{n}", "text": "Hello.", "speech": np.repeat(_speech(0), 3), "speaker": n} for n in (0, 1)],
  )
  assert [item.example()["speaker"] for item in adapter.recordings(vctk, "train")] == ["p225", "p226"]


def test_adapter_of_other_data_sets(tmp_path):
  """Encoded files as they are, two features only, names and values by hand."""
  import tensorflow_datasets as tfds

  out = io.BytesIO()
  soundfile.write(out, _speech(0), 16_000, format="FLAC")
  flac = out.getvalue()
  other = _prepared(
    tmp_path,
    "other_speech",
    {"sound": {"dtype": "int16", "fileFormat": "flac", "lazyDecode": True, "sampleRate": "16000"}},
    {"sound": tfds.features.Text(), "words": tfds.features.Text()},
    [{"sound": flac, "words": "Hi."}, {"sound": flac, "words": " "}],
  )
  with pytest.raises(DataError, match="expected names of its fields"):
    adapter.recordings(other, "train")
  with pytest.raises(DataError, match="expected a feature 'text' as text, found sound, words"):
    adapter.recordings(other, "train", fields=adapter.Fields("sound", id="", speaker="=anna"))
  fields = adapter.Fields("sound", "words", id="", speaker="=anna", instruction="=Sing.")
  good, bad = adapter.recordings(other, "train", fields=fields)
  row = good.example()
  assert row["audio"] == flac
  assert (row["speaker"], row["id"], row["instruction"]) == ("anna", "train-0000000", "Sing.")
  with pytest.raises(DataError, match=r"train\[1\]: expected a text that is not empty"):
    bad.example()
  names = ["audio=sound", "text=words", "id=", "speaker==bob"]
  assert build_corpus.main(["--tfds", str(other), "--fields", *names, "--out", str(tmp_path / "corpus")]) == 2


@pytest.mark.parametrize("name", adapter.KNOWN)
def test_known_fields_are_those_of_tfds(name):
  """Where the table names a feature, the source of TFDS's builder has it."""
  import tensorflow_datasets as tfds

  home = Path(tfds.__file__).parent
  places = [home / "datasets" / name, home / "audio" / name, home / "audio"]
  files = [
    file for place in places for file in place.glob("*.py") if name.replace("_", "") in file.stem.replace("_", "")
  ]
  files += [file for file in (home / "datasets" / name).glob("*_dataset_builder.py")]
  source = "".join(file.read_text() for file in files)
  assert source
  for field in dataclass_values(adapter.KNOWN[name]):
    assert f'"{field}"' in source or f"'{field}'" in source, field


def dataclass_values(fields: adapter.Fields) -> list[str]:
  values = [fields.audio, fields.text, fields.id, fields.speaker, fields.language]
  return [value for value in values if value and not value.startswith("=")]
