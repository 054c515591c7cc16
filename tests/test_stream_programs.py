"""The streaming programs as a user runs them: audio where it was asked for, timelines, words for what goes wrong."""

import contextlib
import io
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import cosyjax
from cosyjax.errors import OutputError
from cosyjax.inference.engine import Engine
from cosyjax.inference.packets import Packet
from infer import benchmark, options, sinks, stream, stream_load, stream_probe, timeline
from infer.timeline import Timeline

TEXT = "Hello from JAX, this is a stream."
SECONDS = 6.0
STEP = 2 / 32767  # a half for rounding, one for readers that divide by 32768


@pytest.fixture(scope="module")
def engine(shallow_dir):
  """One engine for all runs here: compiling is most of the time."""
  model = stream_load.forced(cosyjax.load(shallow_dir, dtype="float32"), 3.0)
  with Engine(model, slots=1, seconds=SECONDS) as engine:
    yield engine


@pytest.fixture(scope="module")
def voice_file(engine, tmp_path_factory):
  path = tmp_path_factory.mktemp("voice") / "noise.voice"
  stream_load.make_voice(engine.model, 1.2, 0).save(path)
  return path


@pytest.fixture(scope="module")
def known(engine, voice_file):
  """Packets of TEXT, known as a whole."""
  return list(engine.stream(TEXT, cosyjax.Voice.load(voice_file), seed=5))


@pytest.fixture
def run(engine, voice_file, monkeypatch, tmp_path):
  """Runs infer.stream on the shared engine, in an empty folder."""
  monkeypatch.setattr(options, "open_model", lambda args: engine.model)
  monkeypatch.setattr(stream, "open_engine", lambda model, args: contextlib.nullcontext(engine))
  monkeypatch.chdir(tmp_path)
  first = ["--preset", "tiny", "--voice", str(voice_file), "--seed", "5"]
  return lambda *argv: options.run(stream.main, [*first, *(str(a) for a in argv)])


def audio_of(packets) -> np.ndarray:
  return np.concatenate([p.samples_A for p in packets])


def from_pcm(data: bytes) -> np.ndarray:
  return np.frombuffer(data, "<i2").astype(np.float32) / 32767


def packets_of(*made_and_seconds) -> list[Packet]:
  packets, start = [], 0.0
  for number, (made, seconds) in enumerate(made_and_seconds):
    packets.append(Packet(number, np.zeros(int(24_000 * seconds), np.float32), start, f"text {number}", made, 24_000))
    start += seconds
  return packets


def heard(*made_and_seconds, name="s", submitted=0.0) -> Timeline:
  found = Timeline(name, submitted)
  for packet in packets_of(*made_and_seconds):
    found.add(packet)
  return found


# Timelines.


def test_a_listener_waits_for_late_packets_and_is_late_from_then_on():
  # The first plays from 1.0 to 1.5; the second was due at 1.5 and is early; the third, due at 2.5, comes at 3.25 and
  # plays to 3.75; the fourth is due then, not when it would have been without the wait.
  found = heard((1.0, 0.5), (1.25, 1.0), (3.25, 0.5), (3.5, 2.0))
  assert [p.due for p in found.packets] == [1.0, 1.5, 2.5, 3.75]
  assert [p.slack for p in found.packets] == [0.0, 0.25, -0.75, 0.25]
  figures = found.figures()
  assert (figures["underruns"], figures["underrun_s"], figures["least_slack_s"]) == (1, 0.75, -0.75)
  assert (figures["first_packet_s"], figures["audio_s"], figures["total_s"]) == (1.0, 4.0, 3.5)
  assert figures["real_time_factor"] == 3.5 / 4.0
  assert found.ends == 5.75


def test_a_packet_that_comes_when_it_is_due_is_no_underrun():
  assert heard((0.5, 0.5), (1.0, 0.5)).figures()["underruns"] == 0


def test_a_stream_without_packets_has_figures():
  assert Timeline().figures()["underruns"] == 0 and timeline.summary(Timeline())


def test_table_has_a_line_for_every_packet_and_marks_underruns():
  lines = timeline.table(heard((1.0, 0.5), (3.25, 0.5))).splitlines()
  assert len(lines) == 3
  assert lines[1].split() == ["0", "0.00", "0.50", "1.000", "+0.000", "text", "0"]
  assert lines[2].split() == ["1", "0.50", "0.50", "3.250", "-1.750!", "text", "1"]
  assert "1 underrun, 1.75 s" in timeline.summary(heard((1.0, 0.5), (3.25, 0.5)))


def colours(path) -> dict[str, float]:
  """Shares of a picture's pixels that are red, blue and not white."""
  from matplotlib.image import imread

  image = imread(path)[..., :3]
  red, green, blue = np.moveaxis(image, -1, 0)
  share = lambda mask: float(np.mean(mask))
  return {
    "red": share((red > 0.7) & (green < 0.3) & (blue < 0.3)),
    "blue": share((blue > 0.6) & (red < 0.4)),
    "ink": share(image.min(-1) < 0.95),
  }


def test_a_picture_shows_streams_and_their_underruns(tmp_path):
  streams = [heard((0.4, 1.0), (0.6, 1.0), (0.9, 2.0), name=f"{i}", submitted=0.1 * i) for i in range(16)]
  timeline.draw(tmp_path / "good.png", streams, "sixteen streams")
  timeline.draw(tmp_path / "bad.png", [*streams[:15], heard((0.4, 1.0), (3.0, 1.0))])
  good, bad = colours(tmp_path / "good.png"), colours(tmp_path / "bad.png")
  assert good["ink"] > 0.05 and good["blue"] > 0.02
  assert bad["red"] > good["red"] + 0.002  # the legend has a red patch always
  assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.png", "good.png"]


def test_a_picture_without_matplotlib_names_the_extra(run, monkeypatch, capsys, tmp_path):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  assert run("--text", TEXT, "--out", "o.wav", "--timeline", "t.png") == 1
  assert "cosyjax[plots]" in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


# Files that grow.


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_a_recording_grows_beside_its_target(tmp_path, ending):
  target, wave_A = tmp_path / f"o{ending}", np.sin(np.arange(4800) / 9).astype(np.float32)
  target.write_text("what was there")
  recording = sinks.Recording(target, raw=False)
  recording.write(wave_A[:2400])
  if ending == ".wav":  # whole at any time
    assert soundfile.info(recording.part).frames == 2400
  recording.write(wave_A[2400:])
  assert target.read_text() == "what was there"
  assert recording.finish() == target
  np.testing.assert_allclose(soundfile.read(target, dtype="float32")[0], wave_A, atol=STEP)
  assert list(tmp_path.iterdir()) == [target]


def test_a_recording_that_is_given_up_leaves_nothing(tmp_path):
  recording = sinks.Recording(tmp_path / "o.wav", raw=False)
  assert recording.keep() is None
  recording.write(np.zeros(480, np.float32))
  recording.discard()
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(OutputError, match="no audio"):
    sinks.Recording(tmp_path / "o.wav", raw=False).finish()


def test_a_full_disk_is_an_output_error(tmp_path):
  if not os.path.exists("/dev/full"):  # noqa: PTH110
    pytest.skip("no /dev/full here")
  recording = sinks.Recording(tmp_path / "o.wav", raw=True)
  recording.part = Path("/dev/full")
  with pytest.raises(OutputError, match=r"o\.wav"):
    recording.write(np.zeros(480, np.float32))


# infer.stream.


def test_a_wav_holds_the_packets(run, known, capsys, tmp_path):
  code = run("--text", TEXT, "--out", "o.wav", "--json", "o.json", "--timeline", "o.png", "--memory")
  assert code == 0
  wave_A, rate = soundfile.read("o.wav", dtype="float32")
  assert rate == 24_000 and len(known) > 1
  np.testing.assert_allclose(wave_A, audio_of(known), atol=STEP)
  said = capsys.readouterr().err
  assert "real-time factor" in said and "its past" in said and "flow_per_second" in said
  figures = json.loads((tmp_path / "o.json").read_text())
  assert [row["seconds"] for row in figures["rows"]] == [p.seconds for p in known]
  assert "".join(row["text"] for row in figures["rows"]) == "".join(p.text for p in known) != ""
  assert figures["packets"] == len(known) and figures["audio_s"] == pytest.approx(len(wave_A) / 24_000)
  assert figures["memory"]["flow_per_second"] > 0 and figures["prepare_s"] >= 0
  assert colours("o.png")["blue"] > 0.01
  assert sorted(p.name for p in tmp_path.iterdir()) == ["o.json", "o.png", "o.wav"]


def test_raw_samples_in_a_file(run, known, tmp_path):
  assert run("--text", TEXT, "--out", "o.pcm", "--raw") == 0
  np.testing.assert_allclose(from_pcm((tmp_path / "o.pcm").read_bytes()), audio_of(known), atol=STEP)


def test_text_typed_byte_by_byte_is_played_on_standard_output(run, engine, voice_file, monkeypatch, capsysbinary):
  text = "One two three, 你好. And four five six."
  expected = audio_of(engine.stream(iter([text]), cosyjax.Voice.load(voice_file), seed=5))
  reader, writer = os.pipe()
  monkeypatch.setattr(sys, "stdin", os.fdopen(reader))

  def write() -> None:
    for byte in text.encode():
      os.write(writer, bytes([byte]))
    os.close(writer)

  threading.Thread(target=write).start()
  assert run("--out", "-") == 0
  np.testing.assert_allclose(from_pcm(capsysbinary.readouterr().out), expected, atol=STEP)


def test_a_file_arrives_unless_it_is_read_whole(run, known, engine, voice_file, monkeypatch, tmp_path):
  asked = []
  original = engine.stream
  monkeypatch.setattr(engine, "stream", lambda text, *a, **k: asked.append(text) or original(text, *a, **k))
  (tmp_path / "t.txt").write_text(TEXT)
  assert run("--text-file", "t.txt", "--whole", "--out", "o.wav") == 0
  assert asked == [TEXT]
  np.testing.assert_allclose(soundfile.read("o.wav", dtype="float32")[0], audio_of(known), atol=STEP)
  assert run("--text-file", "t.txt", "--out", "p.wav") == 0
  assert not isinstance(asked[1], str) and soundfile.info("p.wav").frames > 0


def test_whoever_stops_reading_ends_the_request_quietly(run, engine, voice_file, monkeypatch, capsys):
  reader, writer = os.pipe()
  os.close(reader)
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(writer, "wb")))
  before = engine.stats().cancelled + engine.stats().done
  assert run("--text", TEXT, "--out", "-") == 0
  sys.stdout.close()
  said = capsys.readouterr().err
  assert "nobody reads" in said and "error" not in said and "Traceback" not in said
  list(engine.stream("Hi.", cosyjax.Voice.load(voice_file)))  # the slot is free
  assert engine.stats().cancelled + engine.stats().done == before + 2 and engine.stats().running == 0


def test_interrupted_it_keeps_what_was_spoken(run, known, monkeypatch, capsys, tmp_path):
  original = sinks.Recording.write

  def write(self, samples_A):
    original(self, samples_A)
    raise KeyboardInterrupt

  monkeypatch.setattr(sinks.Recording, "write", write)
  (tmp_path / "o.wav").write_text("what was there")
  assert run("--text", TEXT, "--out", "o.wav") == 130
  assert (tmp_path / "o.wav").read_text() == "what was there"
  assert "o.part.wav holds what was spoken" in capsys.readouterr().err
  wave_A, _ = soundfile.read("o.part.wav", dtype="float32")
  np.testing.assert_allclose(wave_A, known[0].samples_A, atol=STEP)


def one_error(capsys) -> str:
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
  assert len(lines) == 1
  return lines[0]


def test_text_that_breaks_off_while_it_is_spoken_leaves_nothing(run, monkeypatch, capsys, tmp_path):
  reader, writer = os.pipe()
  monkeypatch.setattr(sys, "stdin", os.fdopen(reader))
  seen = []

  def write() -> None:
    os.write(writer, b"Hello there, this is good so far. " * 3)
    for _ in range(600):  # until there is audio
      if grown := (tmp_path / "o.part.wav").exists():
        break
      time.sleep(0.1)
    seen.append(grown)
    os.write(writer, b"\xff and this is not.")
    os.close(writer)

  threading.Thread(target=write).start()
  assert run("--out", "o.wav") == 1
  assert seen == [True]
  assert "UTF-8" in one_error(capsys) and list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_text(run, capsys, tmp_path):
  text = tmp_path / "t.txt"
  text.write_bytes(b"\xff is not text.")
  for whole in ([], ["--whole"]):
    assert run("--text-file", text, "--out", "o.wav", *whole) == 1
    assert "UTF-8" in one_error(capsys) and list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize(
  ("args", "said"),
  [
    (["--out", "no folder/o.wav"], "no folder"),
    (["--out", "o.mp9"], "o.mp9"),
    (["--out", "o.wav", "--text-file", "nowhere.txt"], "nowhere.txt"),
    (["--out", "o.wav", "--json", "nowhere/t.json"], "nowhere"),
    (["--out", "o.wav", "--text", "。！"], "can be spoken"),
    (["--out", "o.wav", "--text", TEXT, "--mode", "instruct"], "instruction"),
    (["--out", "o.wav", "--text", TEXT, "--voice", "nowhere.voice"], "nowhere.voice"),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, capsys, tmp_path, args, said):
  assert run(*args) == 1
  assert said in one_error(capsys)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "args",
  [
    ["--text", "x"],
    ["--out", "o.wav", "--schedule", "slow"],
    ["--out", "o.wav", "--window", "0"],
    ["--out", "o.wav", "--text", "x", "--text-file", "y"],
  ],
)
def test_bad_flags(run, args):
  with pytest.raises(SystemExit):
    run(*args)


# infer.benchmark --stream.


@pytest.mark.long
def test_stream_benchmark_prints_every_figure(tmp_path, capsys):
  out, png = tmp_path / "b.json", tmp_path / "b.png"
  sizes = ["--requests", "2", "--prompt-seconds", "1.2", "--text-ids", "12", "--ratio", "3", "--chunks", "3"]
  more = ["--seconds", str(SECONDS), "--text-rate", "200", "--recompute", "--against-offline", "--dtype", "float32"]
  argv = ["--stream", "--preset", "tiny", *sizes, *more, "--json", str(out), "--png", str(png)]
  assert options.run(benchmark.main, argv) == 0
  printed, found = capsys.readouterr().out, json.loads(out.read_text())
  assert [(r["concurrency"], r["prepared"]) for r in found["rows"]] == [(1, True), (1, False)]
  for name in (*benchmark_figures("ROW_FIGURES"), *benchmark_figures("SOLO_FIGURES")):
    assert f"\n{name} " in printed, name
  for row in found["rows"]:
    assert 0 < row["first_p50_ms"] <= row["first_p95_ms"] <= row["first_p99_ms"]
    assert row["audio_per_s"] > 0 and row["rtf"] > 0 and len(row["streams"]) == 2
    assert all(s["audio_s"] == pytest.approx(row["streams"][0]["audio_s"], rel=0.2) for s in row["streams"])
  [solo] = found["solo"]
  assert solo["l_tts_ms"] == pytest.approx(solo["m_tokens"] * (solo["d_lm_ms"] + solo["d_fm_ms"] + solo["d_voc_ms"]))
  assert solo["l_chat_ms"] == pytest.approx(1e3 * solo["chat_ids"] / 200 + solo["l_tts_ms"])
  assert found["long"]["over_recompute"] > 0 and found["long"]["over_offline"] > 0
  assert len(found["long"]["chunks"]) >= 3 and found["cold"]["programs"] > 0
  assert colours(png)["blue"] > 0.01


def benchmark_figures(name: str) -> list[str]:
  from infer import stream_benchmark

  return list(getattr(stream_benchmark, name))


def test_stream_benchmark_refuses_bad_flags():
  for bad in (["--chunks", "1"], ["--concurrency", "0"], ["--prompt-seconds", "99"], ["--top-kernels", "3"]):
    with pytest.raises(SystemExit):
      benchmark.main(["--stream", "--preset", "tiny", *bad])


def test_a_probe_times_the_slots_and_goes_away(engine, voice_file, known):
  slots = engine.slots
  with stream_probe.Probe(engine) as probe:
    again = list(engine.stream(TEXT, cosyjax.Voice.load(voice_file), seed=5))
  assert not {"open", "extend", "step"} & {*vars(slots.lm), *vars(slots.flow), *vars(slots.vocoder)}
  np.testing.assert_array_equal(audio_of(again), audio_of(known))
  assert sum(event.samples for event in probe.events) == len(audio_of(known))
  assert sum(event.tokens for event in probe.events) == len(probe.tokens_U) == len(audio_of(known)) // 960
  assert [c["tokens"] for c in probe.chunks()] == [e.tokens for e in probe.events if e.tokens]


def test_growth_compares_chunks_of_one_size():
  chunk = lambda tokens, ms: {"tokens": tokens, "lm": ms / 2, "flow": ms / 4, "vocoder": ms / 4}
  chunks = [chunk(50, 999.0), chunk(25, 999.0), *(chunk(50, 10.0 + i) for i in range(12)), chunk(7, 999.0)]
  ratio, count = stream_probe.growth(chunks)
  assert count == 5 and ratio == 19.0 / 12.0
  assert stream_probe.growth(chunks[:1]) == (None, 0)


def test_needed_text_is_what_the_engine_waits_for(engine):
  words = [f"{w} " for w in stream_load.TEXT.split()]
  model, voice = engine.model, stream_load.make_voice(engine.model, 1.2, 0)
  ids, pieces = stream_probe.needed_text(model, voice, "cross_lingual", words, 15)
  assert ids == 5 and 0 < pieces < len(words)
  assert stream_probe.needed_text(model, voice, "cross_lingual", words, 16)[0] == 10
  assert stream_probe.needed_text(model, voice, "cross_lingual", words, 10_000)[1] == len(words) + 1
