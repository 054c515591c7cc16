"""Streams text to speech from the command line: audio comes while it is made.

  python -m infer.stream --model DIR --voice anna.voice --text "Hello from JAX." --out hello.wav
  some-chat-program | python -m infer.stream --model DIR --voice anna.voice --out - | aplay -f S16_LE -r 24000
  python -m infer.stream --model DIR --prompt-wav P.wav --prompt-text "..." --out typed.wav   (type; end with Ctrl-D)

Text of `--text` is known as a whole: its tokens are those of infer.synthesize. Text of a file or of
standard input is spoken as it arrives, wherever its bytes are cut; `--whole` reads it to its end first.

Where the audio goes, by `--out`: a .wav or .flac file; with `--raw` a file of samples (16 bits, little
endian, mono, 24 kHz); `-` is such samples on standard output, packet by packet. A file grows
beside its target, as NAME.part.wav for NAME.wav, and is renamed when it is whole; the growing WAV can be
played at any time, so that even a killed run leaves what it has spoken. An error removes it. Ctrl-C keeps it
under that name, closed, and leaves the target as it was; the exit status is 130. Whoever stops
reading standard output ends the request.

At the end a table of the packets goes to standard error. A listener is assumed who plays the
first packet when it is there: `slack` is how long before it was due a packet came, below 0 an underrun.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp

from cosyjax.errors import TextError
from cosyjax.files import write_whole
from cosyjax.flow.chunk_state import bytes_per_frame
from cosyjax.inference import schedule
from cosyjax.inference.engine import HISTORIES, Engine
from cosyjax.inference.synthesizer import Synthesizer
from infer import options, timeline
from infer.sinks import Pipe, Recording, open_sink
from infer.timeline import Timeline

READ = 1 << 16  # bytes of text read at once, at most


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  options.add_model_flags(parser)
  options.version_flag(parser)
  what = parser.add_mutually_exclusive_group()
  what.add_argument("--text", help="what to say")
  what.add_argument(
    "--text-file", metavar="FILE", help="UTF-8 text, spoken as it arrives; standard input if left out, or -"
  )
  parser.add_argument("--whole", action="store_true", help="read the text to its end before the first word")
  parser.add_argument("--out", help=".wav or .flac file, or - for samples on standard output")
  parser.add_argument("--raw", action="store_true", help="--out is a file (or pipe) of samples without a header")
  parser.add_argument("--voice", metavar="FILE", help="a saved voice")
  options.add_prompt_flags(parser)
  options.add_request_flags(parser)
  options.add_dry_run_flag(parser)
  add_engine_flags(parser)
  parser.add_argument("--warm-up", action="store_true", help="compile all that --seconds may need before reading text")
  parser.add_argument("--timeline", metavar="FILE", type=Path, help="draw the packets to a PNG file")
  parser.add_argument("--json", metavar="FILE", type=Path, help="write the timeline's figures to this file")
  parser.add_argument("--memory", action="store_true", help="say what the caches take on the device")
  args = parser.parse_args(argv)
  if not args.out and not args.dry_run:
    parser.error("--out is needed")
  if args.window < 1 or not args.seconds > 0:
    parser.error("--window is at least 1, --seconds above 0")
  return args


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
  """How streams are cut and what is kept of them; for every program that makes an `Engine`."""
  parser.add_argument("--schedule", default="balanced", choices=schedule.PRESETS, help="sizes of the chunks")
  parser.add_argument(
    "--history", default="full", choices=HISTORIES, help="what the flow keeps of a stream: all, or a window"
  )
  parser.add_argument("--window", type=int, default=8, help="mask blocks in the window")
  parser.add_argument("--seconds", type=float, default=20.0, help="room for prompt and speech to begin with; grows")


def arriving(file: BinaryIO, name: str) -> Iterator[bytes]:
  """Bytes as they come, however few."""
  while True:
    try:
      piece = os.read(file.fileno(), READ)
    except OSError as error:
      raise TextError(f"{name} cannot be read any further ({error.strerror or error})") from error
    if not piece:
      return
    yield piece


def open_text(args: argparse.Namespace) -> str | Iterator[bytes]:
  """Text that is known, or text that arrives.

  Raises:
    TextError: it cannot be read.
  """
  if args.text is not None:
    return args.text
  name = args.text_file or "-"
  try:
    file = sys.stdin.buffer if name == "-" else Path(name).open("rb", buffering=0)  # noqa: SIM115
  except OSError as error:
    raise TextError(f"{name} cannot be read ({error.strerror or error})") from error
  name = "standard input" if name == "-" else name
  if name == "standard input" and sys.stdin.isatty():
    print("reading text from the terminal; Ctrl-D ends it", file=sys.stderr)
  pieces = arriving(file, name)
  if not args.whole:
    return pieces
  try:
    return b"".join(pieces).decode("utf-8")
  except UnicodeDecodeError as error:
    raise TextError(f"{name} is not UTF-8 text: {error}") from error


def open_engine(model: Synthesizer, args: argparse.Namespace) -> Engine:
  return Engine(
    model,
    slots=1,
    schedule=args.schedule,
    history=args.history,
    window=args.window,
    seconds=args.seconds,
    flow_steps=args.flow_steps,
  )


def memory(engine: Engine) -> dict[str, int]:
  """Bytes: what a second of audio takes in the caches, and what all state takes now."""
  config, dtype = engine.model.config, jnp.dtype(engine.model.loaded.dtype)
  lm = 2 * config.lm.layers * config.lm.kv_heads * config.lm.head_dim * dtype.itemsize
  per_second = {
    "flow_per_second": config.audio.frame_rate * bytes_per_frame(config.flow, dtype),
    "lm_per_second": config.audio.token_rate * lm,
  }
  return per_second | engine.memory()


def speak(engine: Engine, text: Any, voice: Any, sink: Recording | Pipe, args: argparse.Namespace) -> Timeline:
  """Runs the request into the sink. Returns what a listener heard, also of a request that was cut short."""
  heard = Timeline("stream")
  try:
    with engine.stream(text, voice, **options.asked(args)) as packets:
      for packet in packets:
        sink.rate = packet.rate
        sink.write(packet.samples_A)
        heard.add(packet)
    print(f"wrote {sink.finish()}", file=sys.stderr)
  except BrokenPipeError:
    print("nobody reads any more; stopped", file=sys.stderr)
  except KeyboardInterrupt:
    kept = sink.keep()
    print(f"stopped; {kept} holds what was spoken" if kept else "stopped", file=sys.stderr)
    report(engine, heard, args)
    raise
  except BaseException:
    sink.discard()
    raise
  return heard


def report(engine: Engine, heard: Timeline, args: argparse.Namespace, **more: Any) -> None:
  """The timeline to standard error, and to the files that were asked for."""
  taken = memory(engine)
  print(timeline.table(heard), file=sys.stderr)
  print(timeline.summary(heard), file=sys.stderr)
  if more:
    print(f"before it: voice {more['voice_s']:.2f} s, its past {more['prepare_s']:.2f} s", file=sys.stderr)
  if args.memory or args.verbose:
    print("memory: " + ", ".join(f"{name} {size:,} B" for name, size in taken.items()), file=sys.stderr)
  if args.json:
    write_whole(args.json, json.dumps(heard.to_json() | more | {"memory": taken}, indent=2) + "\n")
  if args.timeline:
    timeline.draw(args.timeline, [heard], timeline.summary(heard))


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  if args.dry_run:
    options.dry_run(args, open_text(args), args.voice, args.prompt_text)
    return 0
  sink = open_sink(args.out, args.raw)
  for path in (args.json, args.timeline):
    options.check_folder(path)
  if args.timeline:
    timeline.check_drawing()
  text = open_text(args)
  model = options.open_model(args)
  began = time.perf_counter()
  voice = options.make_voice(model, args.voice, args.prompt_wav, args.prompt_text, args.keep_silence)
  analysed = time.perf_counter()
  with open_engine(model, args) as engine:
    if args.warm_up:
      limits = {"seconds": args.seconds, "prompt": max(voice.seconds, 1.0), "slowest": min(args.speed, 1.0)}
      engine.warm_up(progress=options.Bars(), **limits)
    start = time.perf_counter()
    engine.prepare(voice, **options.asked(args))
    prepared = time.perf_counter()
    heard = speak(engine, text, voice, sink, args)
    report(engine, heard, args, voice_s=analysed - began, prepare_s=prepared - start)
  return 0


if __name__ == "__main__":
  sys.exit(options.run(main))
