"""Intervals, similarity, silence, failures, records, test sets, tables: cases worked out by hand."""

import json

import numpy as np
import pytest
import soundfile

from cosyjax.errors import ConfigError, DataError
from cosyjax.evaluation import failures, intervals, scores, similarity, tables, test_sets
from cosyjax.evaluation.pauses import find_pauses
from cosyjax.evaluation.records import Records, digest_of, read_records
from cosyjax.evaluation.word_error import Errors


def test_intervals_of_cases_known_in_closed_form():
  same = intervals.mean([0.3] * 7)
  assert (same.value, same.low, same.high, same.count) == pytest.approx((0.3, 0.3, 0.3, 7))
  # Of two values a resample is both of one with probability 1/4 each: the interval is the whole range.
  assert intervals.mean([0, 1]) == intervals.Estimate(0.5, 0.0, 1.0, 2)
  values = np.random.default_rng(0).normal(5, 2, 2500)
  found = intervals.mean(values, samples=4000)
  assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 50, rel=0.05)
  assert np.isnan(intervals.mean([]).value) and intervals.mean([]).to_json()["value"] is None
  assert intervals.mean(values, seed=1) == intervals.mean(values, seed=1) != intervals.mean(values, seed=2)


def test_a_ratio_weighs_by_length_and_a_difference_is_paired():
  assert intervals.ratio([1, 0], [1, 9]).value == pytest.approx(0.1)
  assert intervals.ratio([1, 0], [1, 9]).high == pytest.approx(1.0)  # the first utterance drawn twice
  a, b = np.random.default_rng(0).normal(0, 10, 50), None
  b = a + 1
  paired = intervals.difference(b, a)
  assert (paired.value, paired.low, paired.high) == pytest.approx((1, 1, 1))
  with pytest.raises(ValueError, match="expected pairs, found 2 and 1"):
    intervals.difference([1, 2], [1])


def test_large_sets_are_resampled_in_blocks(monkeypatch):
  values = np.arange(100.0)
  whole = intervals.mean(values, samples=50)
  monkeypatch.setattr(intervals, "_BLOCK", 700)
  assert intervals.mean(values, samples=50) == whole


def test_the_nearest_voice_and_leaving_a_recording_out_of_its_own_mean():
  voices = similarity.KnownVoices([[2, 0], [0, 1], [0, 5.0]], ["a", "b", "b"])
  assert voices.compare(np.array([3.0, 4.0])) == pytest.approx({"a": 0.6, "b": 0.8})
  assert voices.compare(np.array([0, 5.0]), leave_out="b") == pytest.approx({"a": 0, "b": 1})
  assert voices.compare(np.array([2.0, 0]), leave_out="a") == pytest.approx({"b": 0})  # a has no other recording
  np.testing.assert_allclose(similarity.cosine([[1, 0], [1, 1]], [[2, 0], [-1, 1]]), [1, 0], atol=1e-12)


def test_silence_before_after_and_between():
  rate = 1000
  tone = np.sin(np.arange(500))
  wave = np.concatenate([np.zeros(300), tone, np.zeros(200), tone, 1e-4 * tone[:400]])
  found = find_pauses(wave, rate)
  assert found.seconds == pytest.approx(1.9)
  assert (found.leading, found.trailing, found.longest) == pytest.approx((0.3, 0.4, 0.2), abs=0.021)
  assert found.speaking == pytest.approx(1.2, abs=0.04)
  silent = find_pauses(np.zeros(1000), rate)
  assert (silent.leading, silent.trailing, silent.speaking) == (1.0, 0.0, 0.0)
  assert find_pauses(np.ones(3), rate).clipped == 1


def test_runaway_and_truncated():
  assert failures.by_ending(["end", "length"]) == "runaway" and failures.by_ending(["end", "given"]) is None
  text = "The birch canoe slid on the smooth planks."  # 34 letters
  assert failures.letters(text) == 34
  assert [failures.by_pace(text, "en", s) for s in (0.9, 2.5, 9.0, 0.0)] == ["truncated", None, "runaway", "truncated"]
  assert failures.by_pace("Yes.", "en", 5.0) is None  # too short to have a pace
  assert [failures.by_pace("从成都到公司大概要二十分钟。", "zh", s) for s in (0.8, 3, 13)] == [
    "truncated",
    None,
    "runaway",
  ]
  assert failures.by_transcript(Errors(5, 0, 3, 0, tail_deleted=3)) == "truncated"
  assert failures.by_transcript(Errors(7, 0, 1, 0, tail_deleted=1)) is None
  assert failures.by_transcript(Errors(5, 0, 3, 0)) is None  # words are missing, but not the end
  assert failures.by_transcript(Errors(8, 0, 0, 4)) == "runaway"
  assert failures.by_transcript(Errors(8, 0, 0, 3)) is None
  assert failures.by_transcript(Errors(10, 0, 0, 4)) is None


def test_records_go_on_where_they_were_cut(tmp_path):
  path, head = tmp_path / "a" / "rows.jsonl", {"stage": "test", "seeds": (0, 1)}
  with Records(path, head) as records:
    records.add({"id": "1", "text": "繁"})
    with pytest.raises(DataError, match="one result of '1'"):
      records.add({"id": "1"})
    records.add({"id": "2"})
  data = path.read_bytes()
  for cut in range(len(data.splitlines(True)[0]), len(data) + 1):  # killed after any byte
    path.write_bytes(data[:cut])
    assert len(read_records(path)[1]) == data[:cut].count(b"\n") - 1
    with Records(path, head) as records:
      for name in {"1", "2"} - set(records.rows):
        records.add({"id": name})
    assert set(read_records(path)[1]) == {"1", "2"}
  with pytest.raises(ConfigError, match=r"other settings \(seeds: \[0, 1\], now 5\): name another folder"):
    Records(path, {"stage": "test", "seeds": 5})
  path.write_bytes(data.replace(b'{"id": "1"', b'{"id: "1"'))
  with pytest.raises(DataError, match=r"rows.jsonl:2: expected a JSON object"):
    read_records(path)
  path.write_text('{"id": "1"}\n')
  with pytest.raises(DataError, match="expected a header"):
    read_records(path)


def test_a_folders_digest_depends_on_bytes_and_names(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "x").write_bytes(b"abc")
  assert digest_of(tmp_path / "a" / "x").startswith("ba7816bf8f01cfea")
  first = digest_of(tmp_path / "a")
  (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
  assert digest_of(tmp_path / "a") != first
  with pytest.raises(DataError, match="expected a file or a folder with files"):
    digest_of(tmp_path / "nothing")


def _sound(path, seconds):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, 0.1 * np.sin(np.arange(int(16_000 * seconds))), 16_000)


def test_seed_tts_evals_list(tmp_path):
  folder = tmp_path / "en"
  for name in ("prompt-wavs/a.wav", "wavs/1-2.wav", "own.wav"):
    _sound(folder / name, 1)
  lines = ["1-2|What it says.|prompt-wavs/a.wav|Say this.", "1-3|What.|prompt-wavs/a.wav|And this.|own.wav", ""]
  (folder / "meta.lst").write_text("\n".join([*lines, lines[0]]))
  rows = test_sets.read_meta_list(folder / "meta.lst")
  assert [(r.id, r.text, r.language, r.prompt_text) for r in rows] == [
    ("1-2", "Say this.", "en", "What it says."),
    ("1-3", "And this.", "en", "What."),
    ("1-2:4", "Say this.", "en", "What it says."),
  ]
  assert [r.recording and r.recording.name for r in rows] == ["1-2.wav", "own.wav", "1-2.wav"]
  (folder / "bad.lst").write_text("1|2|3\n1|a|missing.wav|b\n")
  with pytest.raises(DataError, match=r"bad.lst:1: expected id\|prompt text\|prompt audio\|text"):
    test_sets.read_meta_list(folder / "bad.lst")
  (folder / "bad.lst").write_text("1|a|missing.wav|b\n")
  with pytest.raises(DataError, match=r"found nothing at .*missing.wav"):
    test_sets.read_meta_list(folder / "bad.lst")
  (tmp_path / "meta.lst").write_text(lines[0])
  with pytest.raises(DataError, match="expected a language"):
    test_sets.read_meta_list(tmp_path / "meta.lst")


def test_librispeech_gets_prompts_of_the_same_speaker(tmp_path):
  for name, seconds in (("0000", 2), ("0001", 5), ("0002", 4), ("0003", 20)):
    _sound(tmp_path / "61" / "70" / f"61-70-{name}.flac", seconds)
  (tmp_path / "61" / "70" / "61-70.trans.txt").write_text(
    "\n".join(f"61-70-000{n} HE SAID {word}" for n, word in enumerate(["ONE", "TWO", "THREE", "FOUR"]))
  )
  rows = test_sets.read_librispeech(tmp_path)
  assert [(r.id, r.text, r.speaker) for r in rows][1] == ("61-70-0001", "he said two", "61")
  said = test_sets.with_prompts(rows, rows)
  assert [s.prompt.stem[-1] for s in said] == ["1", "2", "1", "1"]  # the next of 3 to 10 s that is not itself
  assert said[0].prompt_text == "he said two"
  assert [s.prompt.stem[-1] for s in test_sets.with_prompts(rows[:1], rows)] == ["1"]
  assert len(test_sets.selection(rows, seconds=(3, 10))) == 2
  assert [r.id[-1] for r in test_sets.selection(rows, limit=2)] == ["0", "2"]
  with pytest.raises(DataError, match="expected another recording of '61'"):
    test_sets.with_prompts(rows[:1], rows[:1])
  with pytest.raises(DataError, match=r"trans.txt, found none"):
    test_sets.read_librispeech(tmp_path / "61" / "70" / "none")


def test_texts_are_said_by_given_voices_in_turn_or_by_each(tmp_path):
  (tmp_path / "some.txt").write_text("One.\n\nTwo.\nThree.\n", encoding="utf-8")
  rows = test_sets.read_texts(tmp_path / "some.txt", "en")
  assert [r.id for r in rows] == ["some-0001", "some-0003", "some-0004"]
  voice = lambda name, language: test_sets.Sentence(name, "says", language, name, recording=tmp_path / name)
  voices = [voice("anna", "en"), voice("bo", "zh"), voice("cy", "en")]
  assert [s.speaker for s in test_sets.with_voices(rows, voices)] == ["anna", "cy", "anna"]
  each = test_sets.with_voices(rows[:1], voices, every=True)
  assert [(s.id, s.prompt.name, s.prompt_text) for s in each] == [
    ("some-0001@anna", "anna", "says"), ("some-0001@cy", "cy", "says")
  ]  # fmt: skip


def _row(name, **more):
  said = {"id": name, "text": "the cat sat on the mat today", "language": "en", "speaker": "anna"}
  sound = {"seconds": 2.5, "leading": 0.2, "trailing": 0.3, "longest_pause": 0.1, "ended": ["end"], "compiled": 0}
  return said | sound | {"compute": 1.0, "seam_ratios": [0.5, 3.0]} | more


def test_scores_of_utterances_and_of_the_set():
  right = scores.score_utterance(_row("1"), {"w": "The cat sat on the mat today."}, {"mos": 4.0})
  wrong = scores.score_utterance(_row("2", compiled=3, compute=9.0), {"w": "The hat sat on"}, {"mos": 3.0})
  kept = ("id", "text", "language", "speaker", "error")
  refused = {name: value for name, value in _row("3", error="no").items() if name in kept}
  refused = scores.score_utterance(refused, {"w": None}, {"mos": None})
  assert right["failed"] is None and wrong["failed"] == "truncated" and refused["failed"] == "error"
  found = scores.summarise([right, wrong, refused])
  assert found["error mean w"].value == pytest.approx((0 + 4 / 7 + 1) / 3)
  assert found["error corpus w"].value == pytest.approx(11 / 21)
  assert (found["quality mos"].value, found["quality mos"].count) == (3.5, 2)
  assert found["seams"].value == 0.5
  assert (found["real-time factor"].value, found["real-time factor"].count) == (0.4, 1)  # only what compiled nothing
  assert found["pace"].value == pytest.approx(22 / 2.0)
  assert [found[name].value for name in ("runaway", "truncated", "refused")] == pytest.approx([0, 1 / 3, 1 / 3])
  other = scores.score_utterance(_row("2"), {"w": "the cat sat on the mat"}, {"mos": 3.25})
  minus = scores.differences([right, wrong], [other])
  assert minus["error mean w"].value == pytest.approx(4 / 7 - 1 / 7) and minus["quality mos"].value == -0.25


def test_similarity_is_with_the_prompt_and_with_the_known_voices():
  rows = [scores.score_utterance(_row("1"), {}, {}), scores.score_utterance(_row("2"), {}, {})]
  known = similarity.KnownVoices([[1, 0], [0, 1.0]], ["anna", "bo"])
  scores.add_similarity(rows, "s", {"1": [1, 0], "2": [0.6, 0.8]}, {"1": [1.0, 1.0], "2": None}, known)
  assert rows[0]["similarity"]["s"] == pytest.approx(
    {"prompt": 0.5**0.5, "speaker": 1, "nearest": "anna", "right": True}
  )
  assert rows[1]["similarity"]["s"]["nearest"] == "bo" and not rows[1]["similarity"]["s"]["right"]
  found = scores.summarise(rows)
  assert found["nearest s"].value == 0.5 and found["prompt similarity s"].count == 1


def test_tables():
  estimate = intervals.Estimate(0.0512, 0.024, 0.0891, 40)
  assert tables.cell("error mean w", estimate) == "5.1 [2.4, 8.9]"
  assert tables.cell("error mean w", estimate, signed=True) == "+5.1 [+2.4, +8.9]"
  assert tables.cell("real-time factor", estimate) == "0.05 [0.02, 0.09]"
  assert tables.cell("runaway", estimate) == "2 of 40" and tables.cell("pace", None) == "-"
  table = tables.figures({"a|b": {"pace": estimate}, "c": {}}, ["pace", "absent"])
  assert table.splitlines() == [
    "| system | pace, letters/s   |",
    "| ------ | ----------------- |",
    "| a\\|b   | 0.05 [0.02, 0.09] |",
    "| c      | -                 |",
  ]
  assert json.loads(json.dumps(estimate.to_json())) == {"value": 0.0512, "low": 0.024, "high": 0.0891, "count": 40}
