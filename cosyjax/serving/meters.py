"""What Prometheus reads of one server."""

import contextlib
import threading
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

OUTCOMES = ("done", "cancelled", "failed", "refused")
_SECONDS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Meters:
  """Counters and histograms. Each speech request is submitted once and ends in exactly one outcome."""

  def __init__(self) -> None:
    self.registry = CollectorRegistry()
    make = {"registry": self.registry, "namespace": "cosyjax"}
    self.submitted = Counter("requests_submitted", "Speech requests", ["route"], **make)
    self.ended = Counter("requests", "Speech requests by how they ended", ["route", "outcome"], **make)
    self.first_packet = Histogram(
      "first_packet_seconds", "From a request to its first packet", buckets=_SECONDS, **make
    )
    self.gap = Histogram("packet_gap_seconds", "Between two packets of a request", buckets=_SECONDS, **make)
    self.audio = Counter("audio_seconds", "Audio that was made", **make)
    self.http = Counter("http_responses", "Answers by route and status", ["route", "status"], **make)
    self.compilations = Counter("compilations", "Programs compiled while requests were served", **make)
    self.restarts = Counter("engine_restarts", "Engines that died and were made anew", **make)
    self.slots = Gauge("slots", "Places in the device batch", ["state"], **make)
    self.queue = Gauge("queue", "Requests that wait for a slot", **make)
    self.unread = Gauge("unread_bytes", "Audio that readers have not taken yet", **make)
    self.connections = Gauge("connections", "Requests and sockets that are open", **make)
    self.ready = Gauge("ready", "1 when requests are taken", **make)
    self._lock = threading.Lock()
    self._totals = dict.fromkeys(("submitted", *OUTCOMES), 0)

  def begin(self, route: str) -> None:
    """Counts a request that has come."""
    with self._lock:
      self._totals["submitted"] += 1
    self.submitted.labels(route).inc()

  def end(self, route: str, outcome: str) -> None:
    """Counts how a request has ended."""
    with self._lock:
      self._totals[outcome] += 1
    self.ended.labels(route, outcome).inc()

  def totals(self) -> dict[str, int]:
    """Speech requests of all routes, and how they ended; the rest still run."""
    with self._lock:
      return dict(self._totals)

  def text(self) -> bytes:
    """In Prometheus' format."""
    return generate_latest(self.registry)


class CompileWatch:
  """Counts compilations for as long as it is open."""

  def __init__(self, meters: Meters) -> None:
    self._meters, self._stack, self._seen = meters, contextlib.ExitStack(), 0
    self._counter: Any = None

  def open(self) -> None:
    """Begins to count."""
    from cosyjax.inference.compilation import count_compilations

    self._counter, self._seen = self._stack.enter_context(count_compilations()), 0

  def look(self) -> None:
    """Brings the metric up to date."""
    if self._counter is not None:
      self._meters.compilations.inc(self._counter.count - self._seen)
      self._seen = self._counter.count

  def close(self) -> None:
    """Stops counting."""
    self._stack.close()
