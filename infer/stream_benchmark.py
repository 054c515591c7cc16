"""Times streams: the first packet, underruns, and where the time goes.

  python -m infer.benchmark --stream --preset tiny
  python -m infer.benchmark --stream --model DIR --concurrency 1 4 16 --requests 64 --prompt-seconds 3 10 --json F

As many listeners as `--concurrency` says ask again as soon as they have been served (with
`--real-time`, when they have heard it all), each for a text of its own. Whoever listens plays the
first packet when it comes and waits for those that are late: the underruns. Token counts are forced, so that random
weights measure what real ones would. A prepared voice has its prompt's past on the device already; one that is
not is new in every request. Bursts run uncounted until one compiles nothing.

One stream alone is taken apart, each call waited for before the next: d_lm, d_fm and d_voc are what
LM, flow and vocoder spend on one of the M tokens of the first packet, and L_TTS = M (d_lm + d_fm +
d_voc) (paper, Eq. 11). Text that arrives at `--text-rate` ids a second gives L_Chat <= N d_llm + L_TTS (Eq. 12),
with N the ids that the first packet needs at 5:15 and 1 / d_llm the rate.
"""

import argparse
import itertools
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from cosyjax import config as config_lib
from cosyjax.files import write_whole
from cosyjax.inference.synthesizer import Synthesizer, load, random_model
from cosyjax.version import __version__
from infer import options, stream, timeline
from infer.stream_load import Bench, forced

ROW_FIGURES = {
  "first_p50_ms": "first packet, median",
  "first_p95_ms": "first packet, 95 of 100 are earlier",
  "first_p99_ms": "first packet, 99 of 100 are earlier",
  "rtf": "real-time factor of a stream, median: time to its last packet over its audio",
  "audio_per_s": "audio seconds made per second, all streams together",
  "underruns": "packets that came late, of all streams",
  "underrun_s": "seconds that listeners waited for them, of all streams",
  "least_slack_ms": "the latest packet: before it was due (below 0: after)",
  "compiled": "programs compiled meanwhile; anything but 0 spoils the row",
}
SOLO_FIGURES = {
  "m_tokens": "M: tokens solved for the first packet",
  "d_lm_ms": "LM, per token of the first packet, its prefill included",
  "d_fm_ms": "flow, per token of the first packet",
  "d_voc_ms": "vocoder, per token of the first packet",
  "l_tts_ms": "first packet by Eq. 11",
  "first_ms": "first packet as measured, alone, median",
  "chat_ids": "N: text ids that the first packet needs when text arrives",
  "l_chat_ms": "first packet by Eq. 12",
  "held_ms": "what the text waits longer until its ids are certain",
  "chat_ms": "first packet as measured, text arriving, median",
  "growth": "last chunks over first chunks after the first packet: 1 does not grow",
  "over_recompute": "all flow and vocoder work, with caches over solving all again for each chunk: below 1 is faster",
  "over_offline": "all flow and vocoder work, prompt included, over one pass of the same tokens and blocks",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.benchmark --stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--model", type=Path, help="model directory")
  source.add_argument("--preset", choices=sorted(config_lib.PRESETS), help="seeded random weights of this size")
  parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
  parser.add_argument("--concurrency", type=int, nargs="+", default=[1], help="streams at once")
  parser.add_argument("--slots", type=int, help="of the engine; as many as streams at once if left out")
  parser.add_argument("--requests", type=int, default=8, help="streams in a row of the table, at least")
  parser.add_argument("--prompt-seconds", type=float, nargs="+", default=[3.0])
  parser.add_argument("--prepared", action=argparse.BooleanOptionalAction, help="one of the two alone")
  parser.add_argument("--text-ids", type=int, default=25, help="text ids of a request, about")
  parser.add_argument("--ratio", type=float, default=5.0, help="speech tokens (25 a second) per text id")
  parser.add_argument("--mode", default="zero_shot", choices=["zero_shot", "cross_lingual"])
  stream.add_engine_flags(parser)
  parser.add_argument("--real-time", action="store_true", help="listeners ask again when they have heard all")
  parser.add_argument("--text-rate", type=float, default=25.0, help="ids a second of text that arrives; 0: none does")
  parser.add_argument("--chunks", type=int, default=12, help="chunks of the stream that is taken apart")
  parser.add_argument("--recompute", action="store_true", help="beside solving everything again for each chunk")
  parser.add_argument("--against-offline", action="store_true", help="beside one pass of the same tokens and blocks")
  parser.add_argument("--profile", metavar="DIR", type=Path, help="keep a profile of one warm request")
  parser.add_argument("--top-kernels", metavar="K", type=int, default=0, help="print the profile's longest operations")
  parser.add_argument("--png", metavar="FILE", type=Path, help="draw the streams of the last row")
  parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures and timelines to this file too")
  options.version_flag(parser)
  args = parser.parse_args(argv)
  sizes = [*args.concurrency, args.requests, args.text_ids, args.window, args.slots or 1]
  if min(sizes) < 1 or args.chunks < 2 or args.ratio < 1 or not args.seconds > 0 or args.text_rate < 0:
    parser.error("sizes and --ratio are at least 1, --chunks 2, --seconds above 0, --text-rate not below 0")
  if not all(0.5 <= s <= 30 for s in args.prompt_seconds):
    parser.error("--prompt-seconds is 0.5 to 30")
  if args.top_kernels and not args.profile:
    parser.error("--top-kernels needs --profile")
  return args


# What is printed.


def columns(heads: list[str], rows: list[dict[str, Any]], meanings: dict[str, str]) -> str:
  """Figures down, one column per row; a figure that no row has is left out."""
  lines = [f"{'':<15}" + "".join(f"{head:>16}" for head in heads)]
  for name, meaning in meanings.items():
    values = [r.get(name) for r in rows]
    if any(v is not None for v in values):
      lines.append(f"{name:<15}" + "".join(f"{'-' if v is None else f'{v:.4g}':>16}" for v in values) + f"   {meaning}")
  return "\n".join(lines)


def about(args: argparse.Namespace, model: Synthesizer) -> dict[str, str]:
  device = jax.devices()[0]
  return {
    "cosyjax": __version__,
    "jax": jax.__version__,
    "python": platform.python_version(),
    "device": f"{device.platform}: {device.device_kind} x {jax.device_count()}",
    "model": str(args.model or f"preset {args.preset}, random weights"),
    "dtype": model.loaded.dtype,
    "schedule": args.schedule,
    "history": args.history + (f" of {args.window} blocks" if args.history == "window" else ""),
    "compilation cache": str(jax.config.jax_compilation_cache_dir or "none"),
  }


def engines(args: argparse.Namespace) -> Iterator[tuple[int, list[int]]]:
  """Slots of each engine, and how many streams at once it is asked for."""
  if args.slots:
    yield args.slots, args.concurrency
  else:
    yield from ((c, [c]) for c in args.concurrency)


def measure(args: argparse.Namespace, bench: Bench) -> dict[str, Any]:
  """All figures, by the table they belong to."""
  say = lambda line: print(line, file=sys.stderr)
  kinds = [True, False] if args.prepared is None else [args.prepared]
  result: dict[str, Any] = {"rows": [], "solo": []}
  for slots, levels in engines(args):
    with bench.engine(slots) as engine:
      if "cold" not in result:
        say("the first request of all, compiling ...")
        result["cold"] = bench.cold(engine, args.prompt_seconds[0])
      for listeners, seconds, prepared in itertools.product(levels, args.prompt_seconds, kinds):
        say(f"timing {listeners} at once, {seconds:g} s of prompt, {kind(prepared)} voice ...")
        result["rows"].append(bench.row(engine, listeners, seconds, prepared))
      if result["solo"]:
        continue
      say("taking one stream apart ...")
      result["solo"] = [bench.solo(engine, seconds) for seconds in args.prompt_seconds]
      result["long"] = bench.long(engine, args.prompt_seconds[0])
      result["memory"] = stream.memory(engine)
      if args.profile:
        result["kernels"] = bench.profile(engine, args.prompt_seconds[0])
  return result


def kind(prepared: bool) -> str:
  return "prepared" if prepared else "new"


def show(result: dict[str, Any]) -> str:
  """Tables of what `measure` found."""
  rows, solo, long = result["rows"], result["solo"], result["long"]
  cold = result["cold"]
  by_chunk = lambda name: " ".join(f"{chunk[name]:.4g}" for chunk in long["chunks"])
  heads = [f"x{r['concurrency']} {r['prompt_s']:g}s {kind(r['prepared'])}" for r in rows]
  merged = [{**solo[0], **long}, *solo[1:]]
  lines = [
    columns(heads, rows, ROW_FIGURES),
    "",
    "One stream, prepared voice, by length of the prompt:",
    columns([f"{s['prompt_s']:g}s" for s in solo], merged, SOLO_FIGURES),
    "",
    f"cold: first packet of a new engine after {cold['first_ms']:.0f} ms, of which {cold['programs']} programs took "
    f"{cold['compile_s']:.1f} s to compile",
    f"growth is of {long['growth_of']} chunks at either end; by chunk, tokens {by_chunk('tokens')}",
    *(f"  {name + ', ms:':<12} {by_chunk(name)}" for name in ("lm", "flow", "vocoder")),
    "memory: " + ", ".join(f"{name} {size:,} B" for name, size in result["memory"].items()),
  ]
  lines += [f"{ms:>10.2f} ms {calls:>6} x  {name[:90]}" for name, ms, calls in result.get("kernels", [])]
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  for path in (args.json, args.png):
    options.check_folder(path)
  if args.png:
    timeline.check_drawing()
  if args.preset:
    print(options.RANDOM_WEIGHTS, file=sys.stderr)
  open_model = random_model if args.preset else load
  bench = Bench(forced(open_model(args.preset or args.model, dtype=args.dtype), args.ratio), args)
  facts = about(args, bench.model)
  result = measure(args, bench)
  print(", ".join(f"{name} {value}" for name, value in facts.items()))
  print(f"texts of about {args.text_ids} ids, {args.ratio:g} speech tokens each; {args.mode}")
  print(show(result))
  if args.png:
    row = max(result["rows"], key=lambda r: (r["concurrency"], r["prepared"]))
    count = "one stream" if row["concurrency"] == 1 else f"{row['concurrency']} streams"
    title = f"{count} at once, {row['prompt_s']:g} s of prompt, {kind(row['prepared'])} voice"
    timeline.draw(args.png, row["streams"][: max(row["concurrency"], 16)], title)
  if args.json:
    for row in result["rows"]:
      row["streams"] = [one.to_json() for one in row["streams"]]
    write_whole(args.json, json.dumps({"about": facts, **result}, indent=2) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(options.run(main))
