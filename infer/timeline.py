"""When the packets of a stream came and when they were due: figures, tables, pictures."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosyjax.errors import ConfigError
from cosyjax.files import write_whole
from cosyjax.inference.packets import Packet

WORDS = 46  # characters of text in a row of the table
# Playing, every other packet a little lighter; the first packet; silence in the middle.
BLUES, GREEN, RED, GREY = ("#3b6fb6", "#86abd9"), "#1f9d55", "#d62728", "#555555"


@dataclasses.dataclass(frozen=True)
class Heard:
  """A packet as a listener meets it. Seconds; `made` and `due` count from the request.

  Attributes:
    number: of the packet.
    start, seconds: its place in the audio, and its length.
    made: when it was there.
    due: when its first sample should have been played; for the first one, when it was.
    text: that was given for it.
  """

  number: int
  start: float
  seconds: float
  made: float
  due: float
  text: str

  @property
  def slack(self) -> float:
    """How early it came; below 0 the listener waited so long."""
    return self.due - self.made

  @property
  def played(self) -> float:
    """When it is played."""
    return max(self.due, self.made)


class Timeline:
  """A listener who plays packets as they come, from the first one on, and waits for those that are late.

  Attributes:
    name: of the stream.
    submitted: when it was asked for, seconds after whatever the caller counts from.
    packets: so far.
  """

  def __init__(self, name: str = "", submitted: float = 0.0) -> None:
    self.name, self.submitted = name, submitted
    self.packets: list[Heard] = []

  def add(self, packet: Packet) -> None:
    """Hears one more packet. Its samples are not kept."""
    due = self.ends if self.packets else packet.made
    self.packets.append(Heard(packet.number, packet.start, packet.seconds, packet.made, due, packet.text))

  @property
  def ends(self) -> float:
    """When the last packet has been played, seconds after the request."""
    return self.packets[-1].played + self.packets[-1].seconds if self.packets else 0.0

  @property
  def late(self) -> list[Heard]:
    """The underruns: packets that the listener had to wait for, but the first."""
    return [p for p in self.packets if p.slack < 0]

  def figures(self) -> dict[str, float]:
    """What one stream comes to; times in seconds."""
    audio = sum(p.seconds for p in self.packets)
    total = self.packets[-1].made if self.packets else 0.0
    return {
      "first_packet_s": self.packets[0].made if self.packets else 0.0,
      "audio_s": audio,
      "total_s": total,
      "real_time_factor": total / audio if audio else 0.0,
      "packets": len(self.packets),
      "underruns": len(self.late),
      "underrun_s": sum(-p.slack for p in self.late),
      "least_slack_s": min((p.slack for p in self.packets[1:]), default=0.0),
    }

  def to_json(self) -> dict[str, Any]:
    rows = [dataclasses.asdict(p) | {"slack": p.slack} for p in self.packets]
    return {"name": self.name, "submitted": self.submitted, **self.figures(), "rows": rows}


def table(timeline: Timeline) -> str:
  """A line for every packet."""
  lines = [f"{'packet':>6} {'start s':>8} {'audio s':>8} {'made s':>8} {'slack s':>8}  text"]
  for p in timeline.packets:
    text = " ".join(p.text.split())
    text = text if len(text) <= WORDS else text[: WORDS - 1] + "…"
    mark = "!" if p.slack < 0 else " "
    numbers = f"{p.number:>6} {p.start:>8.2f} {p.seconds:>8.2f} {p.made:>8.3f} {p.slack:>+8.3f}"
    lines.append(f"{numbers}{mark} {text}".rstrip())
  return "\n".join(lines)


def summary(timeline: Timeline) -> str:
  """One line on the whole stream."""
  f = timeline.figures()
  count = f["underruns"]
  late = f"{count} underrun{'s' * (count > 1)}, {f['underrun_s']:.2f} s of waiting" if count else "no underruns"
  audio = f"{f['audio_s']:.2f} s of audio in {f['total_s']:.2f} s (real-time factor {f['real_time_factor']:.2f})"
  return f"first packet after {f['first_packet_s']:.3f} s, {audio}, {late}"


def draw(path: Path, timelines: Sequence[Timeline], title: str = "") -> None:
  """Writes a PNG with a row for every stream: what is played when, and when it was made.

  Raises:
    ConfigError: matplotlib is not there.
    OutputError: the file cannot be written.
  """
  figure = _figure(timelines, title)
  image = io.BytesIO()
  figure.savefig(image, format="png", dpi=120, bbox_inches="tight")
  write_whole(path, image.getvalue())


def check_drawing() -> None:
  """Asks before a long run whether `draw` could.

  Raises:
    ConfigError: matplotlib is not there.
  """
  try:
    import matplotlib.figure  # noqa: F401
  except ImportError as error:
    raise ConfigError("drawing a timeline needs matplotlib: pip install 'cosyjax[plots]'") from error


def _figure(timelines: Sequence[Timeline], title: str) -> Any:
  check_drawing()
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D
  from matplotlib.patches import Patch

  figure = Figure(figsize=(12, 2.2 + 0.42 * max(len(timelines), 1)))
  axes = figure.subplots()
  for row, stream in enumerate(timelines):
    zero = stream.submitted
    if stream.packets:  # from the request to the first packet
      axes.plot([zero, zero + stream.packets[0].made], [row, row], color=GREY, linewidth=1, zorder=1)
    axes.plot([zero], [row], marker="|", color=GREY, markersize=10, linestyle="", zorder=2)
    for p in stream.packets:
      axes.barh(
        row + 0.08, p.seconds, left=zero + p.played, height=0.5, color=BLUES[p.number % 2], linewidth=0, zorder=2
      )
      if p.slack < 0:
        axes.barh(row + 0.08, -p.slack, left=zero + p.due, height=0.5, color=RED, linewidth=0, zorder=3)
    later = [zero + p.made for p in stream.packets[1:]]
    axes.plot(later, [row - 0.3] * len(later), marker="^", color="black", markersize=4, linestyle="", zorder=4)
    if stream.packets:
      first = zero + stream.packets[0].made
      axes.plot([first], [row - 0.3], marker="D", color=GREEN, markersize=6, linestyle="", zorder=5)
  axes.set_yticks(range(len(timelines)), [stream.name for stream in timelines])
  axes.set_ylim(len(timelines) - 0.45, -0.65)  # the first stream on top
  axes.set_xlim(left=min((t.submitted for t in timelines), default=0.0) - 0.02 * _span(timelines))
  axes.set_xlabel("seconds")
  axes.set_title(title, loc="left", fontsize=11)
  axes.grid(axis="x", color="0.88", zorder=0)
  axes.set_axisbelow(True)
  for side in ("top", "right", "left"):
    axes.spines[side].set_visible(False)
  axes.tick_params(axis="y", length=0)
  mark = lambda marker, color, label: Line2D([], [], marker=marker, color=color, linestyle="", label=label)
  legend = [
    mark("|", GREY, "request"),
    mark("D", GREEN, "first packet made"),
    mark("^", "black", "packet made"),
    Patch(color=BLUES[0], label="played (shades alternate by packet)"),
    Patch(color=RED, label="underrun"),
  ]
  axes.legend(
    handles=legend, loc="upper center", bbox_to_anchor=(0.5, -0.55 / figure.get_figheight()), ncols=5, frameon=False
  )
  return figure


def _span(timelines: Sequence[Timeline]) -> float:
  """Seconds from the first request to the last sample."""
  begin = min((t.submitted for t in timelines), default=0.0)
  return max((t.submitted + t.ends for t in timelines), default=1.0) - begin
