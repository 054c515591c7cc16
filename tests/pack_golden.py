"""Makes tests/golden from a directory of reference outputs: `python -m tests.pack_golden DIR`. Needs PyTorch."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from tests.golden_files import GOLDEN, pack

KEEP = 200  # largest noise values of a decode step that are kept
SKIP = {"dpo"}  # of a part still to come
WEIGHTS = ("campplus.onnx", "speech_tokenizer_v2.onnx", "hift.pt")
PLAIN = ("cosyvoice2.yaml", "hparams.json", "CosyVoice-BlankEN/config.json", "CosyVoice-BlankEN/merges.txt")
PLAIN += ("CosyVoice-BlankEN/tokenizer_config.json", "CosyVoice-BlankEN/vocab.json")


def main(source: Path) -> None:
  lm_rows, flow_rows = set(range(6561, 6564)), set()
  for tokens in json.loads((GOLDEN / "lm_decode_whole_cache.json").read_bytes()).values():
    lm_rows |= set(tokens)
  for path in sorted(source.glob("*.npz")):
    if path.stem in SKIP:
      continue
    data = dict(np.load(path))
    for key in ("speech_token", "prompt_speech", "tokens"):
      lm_rows |= set(data.get(key, np.zeros(0, int)).reshape(-1).tolist())
    if path.stem.startswith(("flow_inference", "token2wav")):
      flow_rows |= {int(i) for key in ("token", "prompt_token") for i in data[key].reshape(-1)}
    if path.stem.startswith("lm_decode"):
      floor = np.sort(data["noise"], axis=1)[:, -KEEP, None]
      data["noise"] = np.where(data["noise"] >= floor, data["noise"], np.float16(-65504))
    if path.stem.startswith("lm_") and "columns" in data:
      data["columns"], data["logits"] = data["columns"][::4], data["logits"][..., ::4]
    if path.stem == "speech_tokenizer":
      data["hidden"] = data["hidden"][..., ::4]
    if path.stem == "token2wav":
      data["wav_offline"] = data["wav_offline"][:, ::2]
    if path.stem == "flow_unet_streaming":  # the inputs are those of flow_unet_offline
      data = {"y": data["y"]}
    if path.stem in ("kaldi_fbank", "log_mel_128"):  # the second recording: every fourth frame
      step = (slice(None, None, 4),) if path.stem == "kaldi_fbank" else (slice(None), slice(None, None, 4))
      data["aishell_0122"] = data["aishell_0122"][step]
    out = io.BytesIO()
    np.savez(out, **data)
    _write(path.name + ".xz", pack(out.getvalue()))
  for name in WEIGHTS:
    _write(f"release/{name}.xz", pack((source / "model" / name).read_bytes()))
  _write_pt(source / "model/llm.pt", "speech_embedding.weight", lm_rows)
  _write_pt(source / "model/flow.pt", "input_embedding.weight", flow_rows)
  for name in PLAIN:
    _write(f"release/{name}", (source / "model" / name).read_bytes())
  for name in ("BAC009S0764W0121", "BAC009S0764W0122"):
    wave, rate = soundfile.read(source / f"audio/{name}.wav", dtype="int16")
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="FLAC", subtype="PCM_16")
    _write(f"audio/{name}.flac", out.getvalue())
  _write("text_tokenizer.json", (source / "text_tokenizer.json").read_bytes())


def _write_pt(path: Path, table: str, rows: set[int]) -> None:
  """Saves a state dict again with all but `rows` of one embedding table zero."""
  state = torch.load(path, weights_only=True)
  kept = torch.zeros_like(state[table])
  index = torch.tensor(sorted(rows))
  kept[index] = state[table][index]
  state[table] = kept
  out = io.BytesIO()
  torch.save(state, out)
  _write(f"release/{path.name}.xz", pack(out.getvalue()))


def _write(name: str, data: bytes) -> None:
  target = GOLDEN / name
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_bytes(data)
  print(f"{len(data):9d}  {name}")


if __name__ == "__main__":
  main(Path(sys.argv[1]))
