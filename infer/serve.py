"""Serves speech over the wire: OpenAI's routes, a WebSocket for text that arrives, Wyoming, and a page to try voices.

  python -m infer.serve --model models/cosyvoice2 --voice anna=anna.voice --voices voices
  python -m infer.serve                                  (random weights: noise, at the speed of a tiny model)
  curl http://127.0.0.1:8000/v1/audio/speech -d '{"input": "Hello from JAX.", "voice": "anna"}' -o hello.mp3

Then open http://127.0.0.1:8000/. The server listens on this machine alone; any other --host needs
--api-key-file, or --no-auth said plainly. It compiles all that requests within the limits can need before it is
ready, and keeps what it has compiled. SIGTERM lets running requests finish. docs/serving.md has the protocols,
the limits and how to run it for others.
"""

import argparse
import asyncio
import dataclasses
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import ConfigError
from cosyjax.inference import schedule
from cosyjax.inference.engine import HISTORIES, Engine
from cosyjax.inference.requests import RANGES
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.voice import Voice
from infer import options

PRESET = "tiny"  # what is served without --model
RANDOM_VOICE = "random"


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  options.add_model_flags(parser, required=False)
  options.version_flag(parser)
  add_engine_flags(parser)
  add_server_flags(parser)
  args = parser.parse_args(argv)
  if args.model is None and args.preset is None:
    args.preset = PRESET
  return args


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
  """The engine and what it is warmed up for."""
  group = parser.add_argument_group("engine")
  group.add_argument("--slots", type=int, default=4, help="requests spoken at once")
  group.add_argument("--queue", type=int, default=64, help="requests that may wait for a slot; more are refused (429)")
  group.add_argument(
    "--seconds", type=float, default=20.0, help="room for prompt and speech of a segment, to begin with"
  )
  group.add_argument("--schedule", default="balanced", choices=schedule.PRESETS, help="sizes of the chunks")
  group.add_argument("--history", default="full", choices=HISTORIES, help="what the flow keeps of a stream")
  group.add_argument(
    "--warm-up", default="streams", choices=["none", "streams", "all"],
    help="compiled before requests are taken: nothing; streams and recordings of voices; conversions too",
  )  # fmt: skip
  group.add_argument("--prompt-seconds", type=float, default=10.0, help="longest recording of a voice")
  group.add_argument("--max-flow-steps", type=int, help="most that a request may ask for; the model's own if left out")


def add_server_flags(parser: argparse.ArgumentParser) -> None:
  """Addresses, keys, voices and what requests may reach."""
  group = parser.add_argument_group("server")
  group.add_argument("--host", default="127.0.0.1", help="address to listen on")
  group.add_argument("--port", type=int, default=8000)
  group.add_argument("--api-key-file", metavar="FILE", help="one key a line; requests then need one of them")
  group.add_argument("--no-auth", action="store_true", help="listen to other machines without keys")
  group.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="name that clients call us by")
  group.add_argument("--cors-origin", action="append", default=[], metavar="ORIGIN", help="page that may call us")
  group.add_argument(
    "--wyoming-port", type=int, metavar="PORT", help="speak the Wyoming protocol there (Home Assistant)"
  )
  group.add_argument("--wyoming-host", default="127.0.0.1", help="address for it; the protocol knows no keys")
  group.add_argument("--name", help="the model's name; that of its directory if left out")
  group.add_argument("--voice", action="append", default=[], metavar="NAME=FILE", help="a voice file to serve")
  group.add_argument(
    "--voices", type=Path, metavar="DIR", help="keep voices of clients there; without it none are kept"
  )
  group.add_argument("--default-voice", metavar="NAME", help="of requests that name none, and of OpenAI's voice names")
  group.add_argument("--alias", action="append", default=[], metavar="NAME=VOICE", help="a further name of a voice")
  group.add_argument("--allow-files", type=Path, metavar="DIR", help="ref_audio may name files there (file://)")
  group.add_argument(
    "--allow-url-host", action="append", default=[], metavar="HOST", help="ref_audio may be fetched there"
  )
  group.add_argument("--connections", type=int, default=512, help="requests and sockets open at once")
  group.add_argument("--max-voices", type=int, default=256, help="voices of clients that are kept")
  group.add_argument("--drain", type=float, default=30.0, help="seconds that running requests get at SIGTERM")
  group.add_argument("--log-texts", action="store_true", help="write what is spoken into the log")
  group.add_argument("--no-page", action="store_true", help="serve no page at /")


def pairs(values: list[str], flag: str) -> dict[str, str]:
  """NAME=VALUE of a flag that may be repeated.

  Raises:
    ConfigError: without a name or a value.
  """
  found = {}
  for value in values:
    name, _, rest = value.partition("=")
    if not name or not rest:
      raise ConfigError(f"{flag}: expected NAME=VALUE, found {value!r}")
    found[name] = rest
  return found


def settings_of(args: argparse.Namespace) -> Any:
  """The flags as `Settings`.

  Raises:
    ConfigError: they contradict each other, or leave the door open.
  """
  from cosyjax.serving.settings import Keys, Limits, Settings, check_open, is_loopback

  keys = Keys.read(args.api_key_file) if args.api_key_file else None
  check_open(args.host, keys, args.no_auth)
  if args.wyoming_port is not None and not is_loopback(args.wyoming_host) and not args.no_auth:
    raise ConfigError(
      f"--wyoming-host {args.wyoming_host}: this protocol knows no keys; say --no-auth if anybody may use it"
    )
  limits = Limits(
    connections=args.connections, voices=args.max_voices, drain=args.drain, prompt_seconds=args.prompt_seconds
  )
  if min(dataclasses.astuple(limits)) <= 0:
    raise ConfigError("limits: expected numbers above 0")
  return Settings(
    model_name=args.name or (args.model.resolve().name if args.model else f"cosyjax-{args.preset}"),
    host=args.host,
    port=args.port,
    keys=keys,
    hosts=tuple(args.allow_host),
    origins=tuple(args.cors_origin),
    files=args.allow_files,
    url_hosts=tuple(args.allow_url_host),
    default_voice=args.default_voice,
    aliases=pairs(args.alias, "--alias"),
    log_texts=args.log_texts,
    random_weights=args.model is None,
    history=args.history,
    flow_steps=args.max_flow_steps,
    page=not args.no_page,
    limits=limits,
  )


def voices_of(args: argparse.Namespace, model: Synthesizer, settings: Any) -> Any:
  """Voices of the flags and of the model directory; random weights get a random one."""
  from cosyjax.serving.voice_store import VoiceStore, check_voice

  built_in = {name: Voice.load(path) for name, path in pairs(args.voice, "--voice").items()}
  for voice in built_in.values():
    check_voice(voice, model.config)
  if settings.random_weights and not built_in:
    size = model.config.flow.speaker_dim
    speaker_E = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    built_in[RANDOM_VOICE] = Voice.from_speaker(speaker_E, model.config.flow.mel_bins)
  shipped = args.model / "voices" if args.model else None
  return VoiceStore(settings, model.config, directory=args.voices, shipped=shipped, built_in=built_in)


def warm(engine: Engine, args: argparse.Namespace) -> None:
  """Compiles what requests can need, with progress."""
  if args.warm_up == "none":
    return
  bars = options.Bars()
  print("compiling; the first start takes minutes, later ones find it on disk", file=sys.stderr)
  config, seconds = engine.model.config, args.seconds
  rate = config.audio.token_rate
  prefix = math.ceil(rate * args.prompt_seconds) + 2 * config.text.max_tokens + 16  # prompt, what it says, text
  cache = prefix + int(min(config.text.max_tokens * config.lm.max_tokens_per_text, rate * seconds))
  steps = args.max_flow_steps or config.flow.steps
  limits = {"prompt": args.prompt_seconds, "slowest": RANGES["speed"][0], "flow_steps": steps}
  count = engine.warm_up(progress=bars, seconds=seconds, prefix=prefix, cache=cache, **limits)
  conversions = args.warm_up == "all"  # else recordings of voices alone, and the least of what comes with them
  offline = {"seconds": seconds, "sources": True} if conversions else {"seconds": 1.0}
  count += engine.model.warm_up(progress=bars, prompt=args.prompt_seconds, prefix=64, cache=512, **offline)
  print(f"{count} programs are ready", file=sys.stderr)


def make_service(args: argparse.Namespace) -> Any:
  """The model, its engine and voices, as a service that is not started yet."""
  from cosyjax.serving.service import Service

  settings = settings_of(args)
  print(f"loading {args.model or args.preset}", file=sys.stderr)
  model = options.open_model(args)
  settings = dataclasses.replace(settings, flow_steps=args.max_flow_steps or model.config.flow.steps)
  voices = voices_of(args, model, settings)
  engine = lambda: Engine(
    model,
    slots=args.slots,
    queue=args.queue,
    schedule=args.schedule,
    history=args.history,
    seconds=args.seconds,
    flow_steps=settings.flow_steps,
  )
  return Service(engine, voices, settings, lambda engine: warm(engine, args))


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  try:
    from cosyjax.serving.server import log_to, run
  except ImportError as error:
    raise ConfigError(f"the server needs its own packages: pip install 'cosyjax[serve]' ({error})") from error
  service = make_service(args)
  log_to(level=logging.DEBUG if args.verbose else logging.INFO)
  port = args.wyoming_port
  print(f"http://{args.host}:{args.port}/ answers; GET /ready says when it takes requests", file=sys.stderr)
  try:
    asyncio.run(run(service, wyoming=None if port is None else (args.wyoming_host, port)))
  except OSError as error:
    raise ConfigError(f"cannot listen on {args.host}:{args.port} ({error.strerror or error})") from error
  return 0


if __name__ == "__main__":
  sys.exit(options.run(main))
