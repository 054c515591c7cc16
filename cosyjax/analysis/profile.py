"""What programs that measure read off a device: the most memory in use, and a profile's longest operations."""

import collections
import gzip
import json
import resource
from pathlib import Path

import jax


def peak_bytes() -> int:
  """Most memory ever in use, in bytes: of the first device if it tells, else of this process."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def top_kernels(folder: Path, count: int) -> list[tuple[str, float, int]]:
  """The longest operations in the newest profile below a folder: name, total milliseconds, calls.

  Those of the device if the profile has any, else those of the host's compiled programs.
  """
  files = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
  if not files:
    return []
  events = json.loads(gzip.decompress(files[-1].read_bytes()))["traceEvents"]
  names = {e["pid"]: e["args"].get("name", "") for e in events if e.get("name") == "process_name"}
  devices = {pid for pid, name in names.items() if "/device:" in name}
  spent, calls = collections.Counter(), collections.Counter()
  for e in events:
    on_device = e.get("pid") in devices if devices else "hlo_op" in e.get("args", {})
    if e.get("ph") == "X" and on_device:
      spent[e["name"]] += e["dur"] / 1e3
      calls[e["name"]] += 1
  return [(name, ms, calls[name]) for name, ms in spent.most_common(count)]
