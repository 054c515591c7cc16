"""The server of infer.serve as a Ray Serve deployment: replicas, each with a device of its own, that come and go.

  python -m infer.serve_ray --model models/cosyvoice2 --voices /voices --max-replicas 4 --gpus 1
  python -m infer.serve_ray --min-replicas 2 --max-replicas 2 --gpus 0    (two tiny models on this machine's CPU)

Ray's proxy hands each request to one replica, streams its audio back, and tells it when the client leaves;
more replicas are started when requests wait. Voices belong in a directory that all replicas see. Joins the cluster
that `RAY_ADDRESS` names, or starts one on this machine. Needs `pip install 'cosyjax[ray]'`.
"""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from cosyjax.errors import ConfigError
from infer import options, serve


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.serve_ray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  options.add_model_flags(parser, required=False)
  options.version_flag(parser)
  serve.add_engine_flags(parser)
  serve.add_server_flags(parser)
  group = parser.add_argument_group("replicas")
  group.add_argument("--min-replicas", type=int, default=1)
  group.add_argument("--max-replicas", type=int, default=1)
  group.add_argument("--gpus", type=float, default=1.0, help="GPUs of a replica")
  group.add_argument("--cpus", type=float, default=1.0, help="CPU cores of a replica")
  args = parser.parse_args(argv)
  if not 0 < args.min_replicas <= args.max_replicas:
    parser.error("expected at least one replica, and no more at least than at most")
  if args.model is None and args.preset is None:
    args.preset = serve.PRESET
  if args.wyoming_port is not None:
    parser.error("--wyoming-port is for infer.serve: Ray's proxy speaks HTTP and WebSocket alone")
  return args


def application(args: argparse.Namespace) -> Any:
  """What `ray.serve.run` takes."""
  from ray import serve as ray_serve

  @ray_serve.deployment(
    name="speech",
    autoscaling_config={
      "min_replicas": args.min_replicas,
      "max_replicas": args.max_replicas,
      "target_ongoing_requests": max(args.slots, 1),
    },
    max_ongoing_requests=args.connections,  # whether there is room is the engine's to say, with 429
    ray_actor_options={"num_gpus": args.gpus, "num_cpus": args.cpus},
    graceful_shutdown_timeout_s=args.drain + 5,
    health_check_period_s=5,
  )
  @ray_serve.ingress()
  class Speech:
    """One replica: a model, its engine and the whole application."""

    async def __init__(self) -> None:
      from cosyjax.serving.server import log_to

      log_to()
      self.service = serve.make_service(args)
      await self.service.start()  # the replica takes no requests before

    def __serve_build_asgi_app__(self) -> Any:
      from cosyjax.serving.app import make_app

      return make_app(self.service, starts=True)

    def check_health(self) -> None:
      """Ray replaces a replica whose engine has died for good."""
      if self.service.state() == "dead":
        raise RuntimeError("the engine has died")

  return Speech.bind()


@contextlib.contextmanager
def running(args: argparse.Namespace) -> Iterator[None]:
  """The deployment, from the moment when all its first replicas take requests."""
  import ray
  from ray import serve as ray_serve

  ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=args.verbose)
  try:
    ray_serve.start(http_options={"host": args.host, "port": args.port})
    ray_serve.run(application(args), name="cosyjax", route_prefix="/")
    yield
  finally:
    ray_serve.shutdown()
    ray.shutdown()


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  serve.settings_of(args)  # refuses an open door here, not in a replica
  try:
    import ray.serve  # noqa: F401
  except ImportError as error:
    raise ConfigError(f"this needs Ray: pip install 'cosyjax[ray]' ({error})") from error
  ended = threading.Event()
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: ended.set())
  with running(args):
    print(f"http://{args.host}:{args.port}/ answers", file=sys.stderr)
    while not ended.wait(1.0):
      pass
  return 0


if __name__ == "__main__":
  sys.exit(options.run(main))
