"""Corpora: built from manifests and TFDS data sets, read back without TensorFlow, damage is named."""

import base64
import builtins
import filecmp
import io
import json
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyjax.data import builder, corpus
from cosyjax.data.manifest import Utterance, read_manifest
from cosyjax.errors import DataError
from train import build_corpus, speaker

COUNT = 37


def packed(seconds: float, pitch: float = 200.0, kind: str = "FLAC") -> bytes:
  out = io.BytesIO()
  time_A = np.arange(round(seconds * 16_000)) / 16_000
  soundfile.write(out, 0.3 * np.sin(2 * np.pi * pitch * time_A), 16_000, format=kind, subtype="PCM_16")
  return out.getvalue()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
  """Utterances of three speakers in two languages; every fifth has an instruction, some bytes in the row."""
  folder = tmp_path_factory.mktemp("manifest")
  lines = []
  for n in range(COUNT):
    row = {
      "id": f"u{n:02d}",
      "text": f"Satz {n}, größer.",
      "speaker": "abc"[n % 3],
      "language": "de" if n % 2 else "en",
    }
    audio = packed(0.3 + n / 100, 100 + 10 * n)
    if n % 4:
      (folder / f"{n}.flac").write_bytes(audio)
      row["audio"] = f"{n}.flac"
    else:
      row["audio_bytes"] = base64.b64encode(audio).decode()
    if n % 5 == 0:
      row["instruction"] = "Whisper."
    lines.append(json.dumps(row))
  (folder / "rows.jsonl").write_text("\n".join(lines))
  return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def built(manifest, tmp_path_factory) -> Path:
  out = tmp_path_factory.mktemp("built") / "corpus"
  arguments = ["--manifest", str(manifest), "--validation", "0.2", "--shards", "5", "--out", str(out)]
  assert build_corpus.main(arguments) == 0
  return out


@pytest.fixture
def copied(built, tmp_path) -> Path:
  return shutil.copytree(built, tmp_path / "corpus")


def test_records_come_back(manifest, built):
  given = {each.id: each.example() for each in read_manifest(manifest)}
  found = {}
  for split in corpus.splits(built):
    data = corpus.Corpus(built, split)
    rows = [data[n] for n in range(len(data))]
    found |= {row["id"]: row for row in rows}
    np.testing.assert_array_equal(data.seconds_N, np.float32([row["seconds"] for row in rows]))
    assert data.names == [row["speaker"] for row in rows] and data.speakers == sorted(set(data.names))
    assert data.ids_N.tolist() == [row["id"] for row in rows]
    assert data.languages_N.tolist() == [row["language"] for row in rows]
    assert data[-1] == rows[-1]
    for wrong in (len(data), -len(data) - 1):
      with pytest.raises(IndexError):
        data[wrong]
  assert len(found) == COUNT
  for name, row in given.items():
    assert found[name] == row | {"seconds": np.float32(row["seconds"])}
  firsts, counts = zip(*corpus.Corpus(built).shards, strict=True)
  assert firsts == tuple(np.cumsum((0, *counts[:-1]))) and max(counts) - min(counts) <= 1 and len(counts) == 5


def test_tfds_reads_it_too(built):
  import tensorflow_datasets as tfds

  source, data = tfds.builder_from_directory(built).as_data_source("train"), corpus.Corpus(built)
  assert len(source) == len(data)
  row = source[3]
  assert row["audio"] == data[3]["audio"] and row["text"].decode() == data[3]["text"] and row["rate"] == 16_000


def test_another_process_writes_the_same_without_tensorflow(manifest, built, tmp_path):
  arguments = ["--manifest", str(manifest), "--validation", "0.2", "--shards", "5", "--out", str(tmp_path / "c")]
  code = f"""
import sys
from train import build_corpus, speaker
from cosyjax.data.corpus import Corpus
assert build_corpus.main({arguments}) == 0
data = Corpus({str(tmp_path / "c")!r})
data[0], data.seconds_N
assert "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
  assert not _differences(built, tmp_path / "c")


def test_same_rows_same_bytes(manifest, built, tmp_path):
  """The order of the manifest does not matter, nor what else is in it for what is held out."""
  items = read_manifest(manifest, check_audio=False)
  train, validation = builder.held_out(items[::-1], 0.2)
  builder.build({"train": train, "validation": validation}, tmp_path / "c", shards=5)
  assert not _differences(built, tmp_path / "c")
  half, first = builder.held_out(items[:20], 0.2)[1], {each.id for each in items[:20]}
  for who in "abc":  # of what is there before and after, one holds out what the other does, or more
    before, after = ({each.id for each in part if each.speaker == who} & first for part in (half, validation))
    assert before and after and (before <= after or after <= before)


def test_the_share_that_is_held_out_is_the_one_given():
  """In all, and of each speaker's: to the nearest whole number, and never all of them."""
  rng = np.random.default_rng(0)
  for share in (0.001, 0.02, 0.05, 0.3, 0.5):
    sizes = rng.integers(2, 60, 40)
    items = [Utterance(f"{s}-{n}", "", "", f"s{s}", "en") for s, size in enumerate(sizes) for n in range(size)]
    kept, held = builder.held_out(items, share)
    assert len(held) == max(int(share * len(items) + 0.5), 1) and {*kept, *held} == {*items}
    for s, size in enumerate(sizes):
      found = sum(each.speaker == f"s{s}" for each in held)
      assert abs(found - share * size) < 1 and found < size
    assert [*map(set, builder.held_out(items[::-1], share))] == [set(kept), set(held)]
  many = [Utterance(f"m{n}", "", "", "many", "en") for n in range(20)]
  few = [Utterance(f"f{n}", "", "", f"one{n}", "en") for n in range(20)]
  assert {each.speaker for each in builder.held_out(many + few, 0.1)[1]} == {"many"}  # others would lose all
  assert [len(part) for part in builder.held_out(few, 0.1)] == [18, 2]  # of one recording each: speakers


def test_the_speaker_encoder_needs_two_speakers(built, monkeypatch):
  assert speaker.count_speakers(built, "train") == 3
  monkeypatch.setattr(corpus.Corpus, "names", ["anna", "anna"])
  with pytest.raises(DataError, match=r"split 'train': expected two speakers or more, .* found one, 'anna'"):
    speaker.count_speakers(built, "train")


def test_pickles_and_threads(built, monkeypatch):
  data = corpus.Corpus(built)
  assert data[0] and len(data.names) == len(data)  # has an open file, and the index
  copy = pickle.loads(pickle.dumps(data))
  monkeypatch.setattr(corpus, "_shard_index", lambda *_: pytest.fail("made the index again"))
  assert copy.names == data.names
  places = np.random.default_rng(0).integers(0, len(data), 200)
  with ThreadPoolExecutor(8) as pool:
    rows = list(pool.map(copy.__getitem__, places))
  assert [row["id"] for row in rows] == data.ids_N[places].tolist()


def test_index_is_cached_and_checked(copied, monkeypatch):
  before = corpus.Corpus(copied).seconds_N
  monkeypatch.setattr(corpus, "parse_example", lambda *_: pytest.fail("read the records"))
  np.testing.assert_array_equal(corpus.Corpus(copied).seconds_N, before)
  monkeypatch.undo()
  index = sorted((copied / "index").glob("train-*.npz"))
  index[1].write_bytes(index[1].read_bytes()[:100])  # cut short
  index[2].unlink()
  np.testing.assert_array_equal(corpus.Corpus(copied).seconds_N, before)
  assert sorted((copied / "index").glob("train-*.npz")) == index
  assert not list((copied / "index").glob(".*"))


def test_no_such_corpus(built, tmp_path):
  with pytest.raises(DataError, match=r"expected a corpus .*found none"):
    corpus.Corpus(tmp_path)
  with pytest.raises(DataError, match="a disk or a mount"):
    corpus.Corpus("gs://bucket/corpus")
  with pytest.raises(DataError, match=r"expected a split 'test', found train, validation"):
    corpus.Corpus(built, "test")
  (tmp_path / "dataset_info.json").write_text("{")
  with pytest.raises(DataError, match=r"dataset_info.json: expected the description"):
    corpus.Corpus(tmp_path)


def test_missing_shard(copied):
  shard = sorted(copied.glob("*train*"))[2]
  shard.unlink()
  with pytest.raises(DataError, match=rf"expected 5 shards of split 'train', found 4; missing: {shard.name}"):
    corpus.Corpus(copied)


def test_truncated_shard(copied):
  shard = sorted(copied.glob("*train*"))[1]
  shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
  data = corpus.Corpus(copied)
  first, count = data.shards[1]
  assert data[first - 1] and data[first + count]  # its neighbours can be read
  with pytest.raises(DataError, match=rf"{shard.name}: expected \d+ records .*truncated"):
    data[first]
  with pytest.raises(DataError, match=shard.name):
    _ = data.seconds_N


def test_damaged_record(copied):
  shard = sorted(copied.glob("*train*"))[0]
  whole = bytearray(shard.read_bytes())
  place = whole.index(b"fLaC") + 200  # inside the audio of one record
  whole[place : place + 64] = bytes(64)
  shard.write_bytes(whole)
  data = corpus.Corpus(copied)
  faults = []
  for n in range(data.shards[0][1]):
    try:
      data[n]
    except DataError as error:
      faults.append(str(error))
  assert len(faults) == 1 and f"{shard.name}: expected record" in faults[0]


def test_count_mismatch(copied):
  info = json.loads((copied / "dataset_info.json").read_text())
  train = next(split for split in info["splits"] if split["name"] == "train")
  train["shardLengths"][0] = str(int(train["shardLengths"][0]) + 1)
  (copied / "dataset_info.json").write_text(json.dumps(info))
  with pytest.raises(DataError, match=r"00000-of-00005: expected \d+ records as dataset_info.json says, found \d+"):
    corpus.Corpus(copied)[0]


def test_build_refuses(manifest, built, tmp_path, capsys):
  items = read_manifest(manifest, check_audio=False)
  with pytest.raises(DataError, match="expected a folder that is not there yet"):
    builder.build({"train": items}, built)
  with pytest.raises(DataError, match=r"'u00' of split 'train' too"):
    builder.build({"train": items, "validation": items[:1]}, tmp_path / "c")
  with pytest.raises(DataError, match="found all 1 held out"):
    builder.held_out(items[:1], 0.5)
  assert [len(part) for part in builder.held_out(items[:2], 1e-9)] == [1, 1]
  assert build_corpus.main(["--manifest", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "c")]) == 2
  assert "expected a manifest" in capsys.readouterr().err
  bad = Utterance("x", str(tmp_path / "none.wav"), "Hi.", "a", "en", where="here:1")
  with pytest.raises(DataError, match="here:1: expected an audio file, found nothing"):
    builder.build({"train": [*items, bad]}, tmp_path / "c")
  assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.mark.parametrize(("count", "shards", "buckets"), [(1, 1, 16), (16, 16, 16), (100, 7, 16), (867, 16, 16)])
def test_shard_keys_lead_to_the_spans(count, shards, buckets):
  """By the rule of TFDS's Beam writer."""
  from tensorflow_datasets.core.shuffle import get_bucket_number

  keys = list(builder.shard_keys(count, shards, buckets))
  assert keys == sorted(set(keys)) and len(keys) == count
  found = [get_bucket_number(hkey=key, num_buckets=buckets, max_hkey=keys[-1]) for key in keys]
  lengths = [found.count(bucket) for bucket in sorted(set(found))]
  assert lengths == [stop - start for start, stop in builder.spans(count, shards)]


@pytest.mark.long
def test_beam_gives_the_same_corpus(manifest, built, tmp_path, capsys):
  pytest.importorskip("apache_beam")
  arguments = ["--manifest", str(manifest), "--validation", "0.2", "--shards", "5", "--beam"]
  assert build_corpus.main([*arguments, "--out", str(tmp_path / "c")]) == 0
  assert not _differences(built, tmp_path / "c")
  # A worker's error is told, and leaves nothing behind.
  cut = tmp_path / "cut.jsonl"
  (tmp_path / "cut.flac").write_bytes(packed(3.0)[:3000])
  cut.write_text(json.dumps({"id": "x", "audio": "cut.flac", "text": "Hi.", "speaker": "a", "language": "en"}))
  assert build_corpus.main(["--manifest", str(cut), "--beam", "--out", str(tmp_path / "d")]) == 2
  assert "cut.flac" in capsys.readouterr().err
  assert not (tmp_path / "d").exists() and not list(tmp_path.glob(".*"))


def _differences(a: Path, b: Path) -> list[str]:
  """Files that differ; the description of a corpus counts bytes in another way with Beam."""
  names = {str(file.relative_to(place)) for place in (a, b) for file in place.rglob("*") if file.is_file()}
  names -= {name for name in names if name.endswith(".npz") or name == "dataset_info.json"}
  assert names
  return filecmp.cmpfiles(a, b, names, shallow=False)[1] + filecmp.cmpfiles(a, b, names, shallow=False)[2]


def test_only_one_thread_at_a_time_imports_tfds(monkeypatch):
  inside, most, real = [], [], builtins.__import__

  def slow(name, *args, **kwargs):
    if not name.startswith("tensorflow_datasets"):
      return real(name, *args, **kwargs)
    inside.append(name)
    most.append(len(inside))
    time.sleep(0.01)
    try:
      return real(name, *args, **kwargs)
    finally:
      inside.pop()

  corpus.example_type()  # what TFDS itself imports is not looked at
  monkeypatch.setattr(builtins, "__import__", slow)
  with ThreadPoolExecutor(8) as pool:
    assert len({future.result() for future in [pool.submit(corpus.example_type) for _ in range(8)]}) == 1
  assert most and max(most) == 1
