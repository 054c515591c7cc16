"""What a run shows: a progress bar, lines of JSON, TensorBoard.

Metrics are fetched one step late, so that the device never waits for the host: while step i
runs, the numbers of step i - 1 are read. All files are written by process 0:

  RUN/metrics.jsonl    an object a line: step, time (seconds since 1970), and scalars by name:
                       train/*, eval/*, speed/* (units a second, step seconds, mfu, stall), data/padding
  RUN/tensorboard/     the same, with pictures and sounds

mfu is that of `cosyjax.analysis.flops`; stall is the share of a step's time spent waiting for the
input pipeline; speed/step_p50 and step_p99 are of the last 200 steps.
"""

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cosyjax.analysis.flops import peak_flops, utilisation
from cosyjax.files import write_whole
from cosyjax.training.processes import meet
from train import runtime
from train.pictures import png, wav

FILE = "metrics.jsonl"
_WINDOW = 200  # steps whose times the percentiles are of


class Log:
  """A run's log. Every process makes one and calls it alike; process 0 alone writes.

  Attributes:
    out: run directory.
    bad: non-finite steps in a row, as last fetched.
    last: scalars of the last step that was fetched, by name.
  """

  def __init__(
    self,
    out: Path | str,
    *,
    total_steps: int,
    start: int = 0,
    config: Mapping[str, Any] | None = None,
    units: str = "tokens",
    sample_rate: int = 24_000,
    flops_per_unit: float | None = None,
    dtype: Any = "float32",
    devices: int | None = None,
    log_every: int = 10,
    name: str = "train",
    show: bool = True,
  ) -> None:
    """Opens the files; of those that are there, lines beyond `start` are dropped.

    Args:
      out: run directory.
      total_steps: length of the run.
      start: step that the run goes on from; 0 for a new one.
      config: shown in TensorBoard.
      units: what speed is counted in: "tokens", or "audio seconds".
      sample_rate: of the sounds, in Hz.
      flops_per_unit: model FLOPs of a unit (`flops.training_flops` over the units of a step); no MFU if None.
      dtype: compute type, for the peak rate.
      devices: how many work on a step; all if None.
      log_every: steps between lines.
      name: of the trainer, before the bar.
      show: False for neither bar nor lines on the terminal.
    """
    self.bad, self.last, self.out, self._rate = 0, {}, Path(out), sample_rate
    self._main = runtime.is_main()
    self._total, self._every, self._units, self._name = total_steps, max(log_every, 1), units, name
    self._flops, self._devices = flops_per_unit, devices or jax.device_count()
    self._peak = peak_flops(jax.devices()[0].device_kind, dtype) if flops_per_unit else None
    self._pending: tuple[int, Mapping[str, Any], dict[str, float]] | None = None
    self._times: deque[float] = deque(maxlen=_WINDOW)
    self._before, self._waited = None, 0.0  # clock and waiting time at the last step
    self._clear_window()
    self._file = self._board = self._bar = None
    self._show = show and self._main
    if not self._main:
      return
    self.out.mkdir(parents=True, exist_ok=True)
    drop_after(self.out / FILE, start)
    self._file = (self.out / FILE).open("a")
    self._board = _board(self.out / "tensorboard", start)
    if self._board is not None and config is not None:
      self._board.add_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```", start)
    terminal = self._show and sys.stderr.isatty()
    self._bar = tqdm(total=total_steps, initial=start, desc=name, dynamic_ncols=True, unit="step") if terminal else None

  def step(
    self, step: int, metrics: Mapping[str, Any], units: float, stats: Mapping[str, float] | None = None
  ) -> dict[str, float]:
    """Takes note of a step that has been started, and fetches the one before.

    Args:
      step: counted from 1.
      metrics: scalars on the device, from the update.
      units: of the whole step, over all processes.
      stats: `batches.stats`: "wait_s" (seconds waited for input, so far) and "padding" (share, so far).

    Returns:
      Scalars of the step before; empty at the first.

    Raises:
      TrainingError: that one was the tenth in a row that was not finite.
    """
    for value in metrics.values():
      if isinstance(value, jax.Array):
        value.copy_to_host_async()
    waited = float((stats or {}).get("wait_s", self._waited))
    done = self.flush()
    now = time.perf_counter()
    if self._before is not None:
      self._times.append(now - self._before)
      self._seconds += now - self._before
      self._waiting += max(waited - self._waited, 0.0)
      self._counted += units
    self._before, self._waited = now, waited
    speed = self._speed() if step % self._every == 0 or step == self._total else {}
    if speed and stats and "padding" in stats:
      speed["data/padding"] = float(stats["padding"])
    self._pending = (step, metrics, speed)
    return done

  def flush(self) -> dict[str, float]:
    """Fetches the last step that was noted, and writes its line if it is one to write.

    Call it before a checkpoint is saved: a run that goes on from there finds its lines complete.

    Raises:
      TrainingError: as for `step`.
    """
    if self._pending is None:
      return {}
    (step, metrics, speed), self._pending = self._pending, None
    values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
    self.last = values
    self.bad = int(max((v for name, v in values.items() if name.rsplit("/", 1)[-1] == "bad"), default=0))
    if step % self._every == 0 or step == self._total:
      self._write(step, {f"train/{name}": value for name, value in values.items()} | speed)
    self._show_step(step, values, speed)
    runtime.check_bad(values, step)
    return values

  def evaluation(
    self,
    step: int,
    scalars: Mapping[str, float],
    pictures: Mapping[str, np.ndarray] | None = None,
    sounds: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """Writes what an evaluation found; every process calls it. The time since the last step does not count as a step's.

    Args:
      step: whose parameters were evaluated.
      scalars: by name, without "eval/".
      pictures: uint8 [height, width, 3], see `train.pictures`.
      sounds: float32 [A] at `sample_rate`.
    """
    self.flush()
    values = {f"eval/{name}": float(value) for name, value in jax.device_get(dict(scalars)).items()}
    self._write(step, values)
    if self._board is not None:
      for name, picture in (pictures or {}).items():
        self._add("image", name, png(picture), step, height=picture.shape[0], width=picture.shape[1], colorspace=3)
      for name, audio in (sounds or {}).items():
        self._add("audio", name, wav(audio, self._rate), step, sample_rate=float(self._rate), num_channels=1,
                  length_frames=len(audio), content_type="audio/wav")  # fmt: skip
      self._board.flush()
    self.say(f"{self._name}: step {step}, " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    meet("evaluation written")  # process 0 had pictures to make and files to write
    self.restart()

  def say(self, text: str) -> None:
    """Shows a text on the terminal of process 0."""
    if self._show:
      tqdm.write(text, file=sys.stderr) if self._bar is not None else print(text, file=sys.stderr, flush=True)

  def rate(self, flops_per_unit: float) -> None:
    """Model FLOPs of a unit from the next step on."""
    self._flops = flops_per_unit

  def restart(self) -> None:
    """Starts the clock of the next step anew, after something that was not training."""
    self._before = None

  def close(self) -> None:
    """Writes what is pending and closes the files. May be called again."""
    with contextlib.suppress(RuntimeError) if sys.exc_info()[0] else contextlib.nullcontext():
      self.flush()
    for part in (self._bar, self._file, self._board):
      if part is not None:
        part.close()
    self._bar = self._file = self._board = None

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()

  def _clear_window(self) -> None:
    self._seconds = self._waiting = self._counted = 0.0

  def _speed(self) -> dict[str, float]:
    """Speed since the last line."""
    if self._seconds <= 0:
      return {}
    rate = self._counted / self._seconds
    out = {f"speed/{self._units.replace(' ', '_')}_per_second": rate, "speed/stall": self._waiting / self._seconds}
    out |= {f"speed/step_p{q}": float(np.percentile(self._times, q)) for q in (50, 99)}
    if self._flops and (mfu := utilisation(self._flops * rate, 1.0, self._devices, self._peak)) is not None:
      out["speed/mfu"] = mfu
    self._clear_window()
    return out

  def _write(self, step: int, values: dict[str, float]) -> None:
    if self._file is not None:
      clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
      self._file.write(json.dumps({"step": step, "time": round(time.time(), 3)} | clean) + "\n")
      self._file.flush()
    if self._board is not None:
      for name, value in values.items():
        self._board.add_scalar(name, value, step)
      self._board.flush()

  def _add(self, kind: str, name: str, data: bytes, step: int, **fields: Any) -> None:
    from tensorboardX.proto.summary_pb2 import Summary

    part = getattr(Summary, kind.capitalize())(**{f"encoded_{kind}_string": data}, **fields)
    self._board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, **{kind: part})]), step)

  def _show_step(self, step: int, values: dict[str, float], speed: dict[str, float]) -> None:
    if not self._show:
      return
    shown = [f"loss {values['loss']:.4g}"] if "loss" in values else []
    shown += [f"skipped {values['skipped']:.0f}"] if values.get("skipped") else []
    for name, value in speed.items():
      kind = name.rsplit("/", 1)[-1]
      if kind.endswith("_per_second"):
        shown.append(f"{_short(value)} {self._units}/s")
      elif kind in ("mfu", "stall", "padding"):
        shown.append(f"{kind} {value:.1%}")
    if self._bar is not None:
      self._bar.update(step - self._bar.n)
      if speed or not self._bar.postfix:
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
    elif speed:
      print(f"{self._name}: step {step} of {self._total}, {', '.join(shown)}", file=sys.stderr, flush=True)


def read(path: Path | str) -> list[dict[str, Any]]:
  """The objects of a `metrics.jsonl`; a last line that was cut off is left out."""
  out = []
  for line in Path(path).read_text().splitlines():
    with contextlib.suppress(json.JSONDecodeError):
      out.append(json.loads(line))
  return out


def drop_after(path: Path, step: int) -> None:
  """Drops the lines of steps beyond `step`, and cut-off ones: a resumed run writes them again."""
  if not path.exists():
    return
  kept = [line for line in read(path) if line["step"] <= step]
  write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def _board(directory: Path, start: int) -> Any:
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    print("tensorboardX is not installed: metrics go to metrics.jsonl alone", file=sys.stderr)
    return None
  return SummaryWriter(str(directory), purge_step=start + 1 if start else None)


def _short(value: float) -> str:
  for unit, scale in (("M", 1e6), ("k", 1e3)):
    if value >= scale:
      return f"{value / scale:.3g}{unit}"
  return f"{value:.3g}"
