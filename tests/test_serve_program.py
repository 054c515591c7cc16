"""The programs infer.serve and infer.serve_ray: flags, and whole runs on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import cosyjax
from cosyjax.errors import CheckpointError, ConfigError
from infer import serve
from tests.serving_fake import CONFIG, voice_of

ROOT = Path(__file__).parent.parent


def settings(*flags):
  return serve.settings_of(serve.parse(list(flags)))


def test_defaults_are_closed():
  plain = settings()
  assert plain.host == "127.0.0.1" and plain.keys is None and plain.origins == () and plain.files is None
  assert plain.random_weights and plain.model_name == "cosyjax-tiny" and not plain.log_texts


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--host", "0.0.0.0"], "--api-key-file"),
    (["--wyoming-port", "1", "--wyoming-host", "0.0.0.0"], "knows no keys"),
    (["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
    (["--alias", "anna"], "--alias: expected NAME=VALUE"),
    (["--connections", "0"], "above 0"),
  ],
)
def test_flags_that_cannot_be_meant(flags, said):
  with pytest.raises(ConfigError, match=said):
    settings(*flags)


def test_flags_become_settings(tmp_path):
  keys = tmp_path / "keys"
  keys.write_text("a-key-of-enough-letters\n")
  flags = ["--host", "0.0.0.0", "--api-key-file", str(keys), "--model", str(tmp_path), "--alias", "me=anna"]
  found = settings(*flags, "--cors-origin", "https://a.example", "--drain", "5", "--name", "ours")
  assert found.keys.admit("a-key-of-enough-letters") and found.aliases == {"me": "anna"} and not found.random_weights
  assert found.origins == ("https://a.example",) and found.limits.drain == 5 and found.model_name == "ours"


def test_voices_of_the_flags(tmp_path):
  class Model:
    config = CONFIG

  voice_of().save(tmp_path / "anna.voice")
  args = serve.parse(
    ["--voice", f"anna={tmp_path / 'anna.voice'}", "--alias", "me=anna", "--voices", str(tmp_path / "v")]
  )
  store = serve.voices_of(args, Model(), serve.settings_of(args))
  assert [e.name for e in store.entries()] == ["anna"] and store.resolve("me").transcript == "what it says"
  args = serve.parse([])
  assert [e.name for e in serve.voices_of(args, Model(), serve.settings_of(args)).entries()] == ["random"]
  cosyjax.Voice.from_speaker(np.ones(7), 80).save(tmp_path / "other.voice")
  args = serve.parse(["--voice", f"x={tmp_path / 'other.voice'}"])
  with pytest.raises(CheckpointError, match="another model"):
    serve.voices_of(args, Model(), serve.settings_of(args))


def free_port() -> int:
  with socket.create_server(("127.0.0.1", 0)) as sock:
    return sock.getsockname()[1]


class Run:
  """A program that serves."""

  def __init__(self, module, *flags, seconds=900):
    self.port, self.seconds = free_port(), seconds
    self.url = f"http://127.0.0.1:{self.port}"
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module, "--port", str(self.port), "--no-cache", *map(str, flags)]
    self.process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    self.lines = []
    threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True).start()

  def until_ready(self):
    end = time.monotonic() + self.seconds
    while time.monotonic() < end:
      assert self.process.poll() is None, "".join(self.lines[-20:])
      try:
        if httpx.get(self.url + "/ready", trust_env=False, timeout=20).status_code == 200:
          return
      except httpx.HTTPError:
        pass
      time.sleep(0.2)
    raise AssertionError("".join(self.lines[-20:]))

  def kill(self):
    self.process.kill()
    self.process.wait()


TEXT = "Hello from JAX, this is a stream of words. And this is another one, which is longer."


@pytest.mark.long
def test_a_whole_run_and_its_end(shallow_dir, tmp_path):
  run = Run("infer.serve", "--model", shallow_dir, "--slots", 2, "--warm-up", "none", "--voices", tmp_path / "voices")
  try:
    run.until_ready()
    with httpx.Client(base_url=run.url, trust_env=False, timeout=600) as client:
      with (ROOT / "assets" / "prompt.wav").open("rb") as file:
        form = {"name": "anna", "consent": "given", "ref_text": "希望你以后能够做的比我还好呦。"}
        posted = client.post("/v1/audio/voices", data=form, files={"audio_sample": ("p.wav", file, "audio/wav")})
      assert posted.status_code == 200, posted.text
      body = {"input": TEXT, "response_format": "pcm"}
      expected = client.post("/v1/audio/speech", json=body).content
      with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        parts = answer.iter_bytes()
        data = next(parts)
        run.process.send_signal(signal.SIGTERM)
        data += b"".join(parts)
      assert len(data) == len(expected) > 24_000
    assert run.process.wait(40) == 0
    logged = [json.loads(line) for line in run.lines if line.startswith("{")]
    assert [line["event"] for line in logged][-1] == "stopped" and not any(TEXT in line for line in run.lines)
  finally:
    run.kill()


@pytest.mark.long
def test_two_replicas_on_ray(shallow_dir, tmp_path):
  from websockets.sync.client import connect

  voices = tmp_path / "voices"
  flags = ["--model", shallow_dir, "--slots", 2, "--warm-up", "none", "--voices", voices, "--gpus", 0, "--cpus", 0.5]
  run = Run("infer.serve_ray", *flags, "--min-replicas", 2, "--max-replicas", 2)
  try:
    run.until_ready()
    with httpx.Client(base_url=run.url, trust_env=False, timeout=600) as client:
      with (ROOT / "assets" / "prompt.wav").open("rb") as file:
        form = {"name": "anna", "consent": "given", "ref_text": "希望你以后能够做的比我还好呦。"}
        posted = client.post("/v1/audio/voices", data=form, files={"audio_sample": ("p.wav", file, "audio/wav")})
      assert posted.status_code == 200, posted.text
      body = {"input": "One two three.", "response_format": "pcm", "voice": "anna"}
      answers = [client.post("/v1/audio/speech", json=body) for _ in range(6)]  # of whichever replica
      assert all(a.status_code == 200 for a in answers) and len({len(a.content) for a in answers}) == 1
      assert client.post("/v1/audio/speech", json={"input": ""}).json()["error"]["code"] == "invalid_text"
    with connect(f"ws://127.0.0.1:{run.port}/v1/audio/speech/stream") as line:
      line.send(json.dumps({"type": "session.config", "voice": "anna"}))
      line.send(json.dumps({"type": "input.text", "text": "One two three."}))
      line.send(json.dumps({"type": "input.done"}))
      messages = []
      while not (messages and '"session.done"' in str(messages[-1])):
        messages.append(line.recv(300))
      assert any(isinstance(m, bytes) for m in messages)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(90) == 0
  finally:
    run.kill()
