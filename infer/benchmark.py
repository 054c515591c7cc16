"""Times every stage, compiled and warm, compilation apart.

  python -m infer.benchmark --preset cosyvoice2 --batch 1 4 --dtype float32
  python -m infer.benchmark --model DIR --batch 1 8 --dtype bfloat16 --json figures.json
  python -m infer.benchmark --stream --preset tiny   (streams: flags of their own, see --stream --help)

Token counts are forced, so that random weights measure what real ones would. d_lm, d_fm and
d_voc are the times that LM, flow and vocoder spend on one speech token of the first chunk
of M tokens, prompt work included; L_TTS = M (d_lm + d_fm + d_voc) (paper, Eq. 11).
"""

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax import config as config_lib
from cosyjax.analysis.profile import peak_bytes
from cosyjax.errors import OutputError
from cosyjax.files import write_whole
from cosyjax.inference import offline, recordings
from cosyjax.inference.buckets import Buckets
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.lm_slots import DECODE_STEPS
from cosyjax.inference.requests import Request
from cosyjax.inference.synthesizer import Synthesizer, load, random_model
from cosyjax.inference.voice import Voice
from cosyjax.lm.interleave import KnownText
from cosyjax.version import __version__
from infer import options

FIGURES = {
  "compile_s": "all programs of this row, s",
  "voice_ms": "tokens, mel and speaker vector of the prompt, ms",
  "prefill_ms": "LM prefill, ms",
  "token_ms": "LM, per step (one token of every row), ms",
  "flow_step_ms": "flow, per Euler step, ms",
  "flow_ms": "flow, all steps, ms",
  "vocoder_ms": "vocoder, ms",
  "d_lm_ms": "LM, per token of the first chunk, ms",
  "d_fm_ms": "flow, per token of the first chunk, ms",
  "d_voc_ms": "vocoder, per token of the first chunk, ms",
  "l_tts_ms": "first packet by Eq. 11, ms",
  "rtf": "real-time factor: time over audio, all rows",
  "audio_per_s": "audio seconds made per second",
  "peak_mb": "peak memory so far, MB (device if it tells, else this process)",
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is computed in a benchmark row."""

  batch: int
  text: int
  prompt_seconds: float
  tokens: int
  repeats: int
  seed: int = 0


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--model", type=Path, help="model directory")
  source.add_argument("--preset", choices=sorted(config_lib.PRESETS), help="seeded random weights of this size")
  parser.add_argument("--batch", type=int, nargs="+", default=[1])
  parser.add_argument("--dtype", nargs="+", default=["auto"], choices=["auto", "float32", "bfloat16"])
  parser.add_argument("--text", type=int, default=40, help="text ids of a row, prompt text included")
  parser.add_argument("--prompt-seconds", type=float, default=3.0)
  parser.add_argument("--tokens", type=int, default=250, help="speech tokens to make (25 a second)")
  parser.add_argument("--repeats", type=int, default=3, help="the median of this many warm runs is printed")
  parser.add_argument("--json", type=Path, help="write the figures to this file too")
  options.version_flag(parser)
  args = parser.parse_args(argv)
  if min(*args.batch, args.text, args.tokens, args.repeats) < 1 or not 0.5 <= args.prompt_seconds <= 30:
    parser.error("--batch, --text, --tokens and --repeats are at least 1, --prompt-seconds 0.5 to 30")
  return args


def open_model(args: argparse.Namespace, dtype: str, buckets: Buckets) -> Synthesizer:
  if args.preset:
    return random_model(args.preset, dtype=dtype, buckets=buckets)
  return load(args.model, dtype=dtype, buckets=buckets)


def exact_buckets(args: argparse.Namespace) -> Buckets:
  """Buckets of just the sizes that are timed: no padding in the figures."""
  prompt = round(args.prompt_seconds * config_lib.AudioConfig().token_rate)
  prefix = args.text + prompt + 2
  chunk = config_lib.FlowConfig().chunk
  return Buckets(
    batch=tuple(sorted(set(args.batch))),
    seconds=(4, 8, 16, 30),
    prefix=(prefix,),
    cache=(prefix + args.tokens,),
    tokens=tuple(sorted({prompt + chunk, prompt + args.tokens})),
    frames=tuple(sorted({2 * chunk, 2 * args.tokens})),
  )


def measure(model: Synthesizer, shape: Shape) -> dict[str, float]:
  """Figures of one row, as named in `FIGURES`."""
  loaded, config, rng = model.loaded, model.config, np.random.default_rng(shape.seed)
  audio, chunk = config.audio, config.flow.chunk
  prompt = round(shape.prompt_seconds * audio.token_rate)
  wave = rng.normal(0, 0.1, int(shape.prompt_seconds * audio.sample_rate)).astype(np.float32)
  tokens_U = rng.integers(0, config.lm.speech_vocab.codebook_size, prompt + shape.tokens).astype(np.int32)
  mel_TM = rng.normal(-5, 2, (audio.frames_per_token * (prompt + shape.tokens), audio.mel_bins)).astype(np.float32)
  speaker_E = rng.normal(size=config.flow.speaker_dim).astype(np.float32)
  text = rng.integers(0, min(480, config.lm.text_vocab), shape.text).tolist()
  voice = Voice(speaker_E, tokens_U[:prompt], mel_TM[: audio.frames_per_token * prompt], "prompt")
  requests = [Request("", voice, shape.seed + i).resolved(config) for i in range(shape.batch)]

  def decode(count: int) -> list[Any]:
    sequence = KnownText(config.lm, [], text, tokens_U[:prompt], count, count).prefill()
    return offline.decode(loaded, [(sequence, request, 0) for request in requests])

  chunks = lambda new: [Chunk(request, tokens_U[prompt : prompt + new], new) for request in requests]
  solve = lambda new: offline.solve(loaded, chunks(new))
  vocode = lambda new: offline.vocode(loaded, chunks(new), [mel_TM[: audio.frames_per_token * new]] * shape.batch)

  before = loaded.compile_seconds
  timed = lambda work: _median(work, shape.repeats)
  figures = {
    "voice_ms": timed(lambda: recordings.analyse(loaded, wave, wave[: len(wave) * 2 // 3])),
    "prefill_ms": timed(lambda: decode(0)),
  }
  decode_ms = timed(lambda: decode(shape.tokens))
  chunk_lm_ms = timed(lambda: decode(min(chunk, shape.tokens)))
  rounds = -(-shape.tokens // DECODE_STEPS)
  figures["token_ms"] = (decode_ms - figures["prefill_ms"]) / min(rounds * DECODE_STEPS, shape.tokens)
  figures["flow_ms"] = timed(lambda: solve(shape.tokens))
  figures["flow_step_ms"] = figures["flow_ms"] / config.flow.steps
  figures["vocoder_ms"] = timed(lambda: vocode(shape.tokens))
  figures["d_lm_ms"] = chunk_lm_ms / chunk
  figures["d_fm_ms"] = timed(lambda: solve(min(chunk, shape.tokens))) / chunk
  figures["d_voc_ms"] = timed(lambda: vocode(min(chunk, shape.tokens))) / chunk
  figures["l_tts_ms"] = chunk * (figures["d_lm_ms"] + figures["d_fm_ms"] + figures["d_voc_ms"])
  audio_ms = 1e3 * shape.batch * shape.tokens / audio.token_rate
  figures["rtf"] = (decode_ms + figures["flow_ms"] + figures["vocoder_ms"]) / audio_ms
  figures["audio_per_s"] = 1 / figures["rtf"]
  figures["compile_s"] = loaded.compile_seconds - before
  figures["peak_mb"] = peak_bytes() / 1e6
  return {name: figures[name] for name in FIGURES}


def _median(work: Callable[[], Any], repeats: int) -> float:
  """Median milliseconds of `repeats` runs, after one that compiles."""
  work()
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    work()
    times.append(1e3 * (time.perf_counter() - start))
  return statistics.median(times)


def table(rows: list[dict[str, Any]]) -> str:
  """Figures down, one column per row of the benchmark."""
  lines = [f"{'':<14}" + "".join(f"{r['dtype']:>10} x{r['batch']:<3}" for r in rows)]
  for name, meaning in FIGURES.items():
    lines.append(f"{name:<14}" + "".join(f"{r[name]:>14.4g}" for r in rows) + f"   {meaning}")
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else argv
  if "--stream" in argv:
    from infer import stream_benchmark

    return stream_benchmark.main([flag for flag in argv if flag != "--stream"])
  args = parse(argv)
  if args.json and not args.json.parent.is_dir():
    raise OutputError(f"{args.json.parent} is not a directory")
  if args.preset:
    print(options.RANDOM_WEIGHTS, file=sys.stderr)
  rows, buckets = [], exact_buckets(args)
  for dtype in dict.fromkeys(args.dtype):
    model = open_model(args, dtype, buckets)
    for batch in dict.fromkeys(args.batch):
      shape = Shape(batch, args.text, args.prompt_seconds, args.tokens, args.repeats)
      print(f"timing {model.loaded.dtype}, batch {batch} ...", file=sys.stderr)
      figures = measure(model, shape)
      rows.append({"dtype": model.loaded.dtype, **dataclasses.asdict(shape), **figures})
  device = jax.devices()[0]
  about = {
    "cosyjax": __version__,
    "jax": jax.__version__,
    "python": platform.python_version(),
    "device": f"{device.platform}: {device.device_kind} x {jax.device_count()}",
    "model": str(args.model or f"preset {args.preset}, random weights"),
  }
  print(", ".join(f"{k} {v}" for k, v in about.items()))
  audio = f"{args.tokens} tokens = {args.tokens / config_lib.AudioConfig().token_rate:g} s of audio a row"
  print(f"{args.text} text ids, {args.prompt_seconds:g} s prompt, {audio}")
  print(table(rows))
  if args.json:
    write_whole(args.json, json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(options.run(main))
