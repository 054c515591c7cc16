"""Draws curves of one or several runs from their metrics.jsonl.

    python -m train.curves runs/lm runs/lm-finetune --metrics eval/loss,eval/accuracy --out docs/lm.png

One panel for each metric, one line for each run. Metrics joined by "+" share a panel:
--metrics eval/accuracy+eval/accuracy_unigram. Needs matplotlib: pip install "cosyjax[plots]".
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import ConfigError, DataError
from train import cli, log

Curve = tuple[list[int], list[float]]


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("runs", nargs="+", type=Path, help="run directories")
  parser.add_argument("--metrics", required=True, help="names, separated by commas, such as eval/loss,train/loss")
  parser.add_argument("--names", help="names for the legend, separated by commas; the directories' if not given")
  parser.add_argument("--out", required=True, type=Path, help="PNG (or PDF, SVG) file to write")
  parser.add_argument("--log", action="store_true", help="logarithmic scale")
  args = parser.parse_args(argv)
  names = args.names.split(",") if args.names else [run.name for run in args.runs]
  if len(names) != len(args.runs):
    parser.error(f"{len(names)} names for {len(args.runs)} runs")
  draw(dict(zip(names, args.runs, strict=True)), args.metrics.split(","), args.out, log_scale=args.log)
  print(args.out)
  return 0


def curve(run: Path, metric: str) -> Curve:
  """(steps, values) of a metric; values that were not finite are NaN.

  Raises:
    DataError: the run has no log, or none of that metric.
  """
  path = run / log.FILE
  if not path.exists():
    raise DataError(f"{path}: no such file; expected the directory of a training run")
  lines = log.read(path)
  points = [(line["step"], line[metric]) for line in lines if metric in line]
  if not points:
    known = sorted({name for line in lines for name in line} - {"step", "time"})
    raise DataError(f"{path}: no metric {metric!r}; there are {', '.join(known) or 'none'}")
  return [step for step, _ in points], [float("nan") if value is None else value for _, value in points]


def draw(runs: dict[str, Path], metrics: Sequence[str], out: Path, *, log_scale: bool = False) -> None:
  """One panel for each entry of `metrics` (names, or several joined by "+"), a line for each run that has it.

  Raises:
    DataError: no run has the metrics of a panel. ConfigError: matplotlib is not installed.
  """
  try:
    import matplotlib
  except ImportError:
    raise ConfigError('train.curves draws with matplotlib: pip install "cosyjax[plots]"') from None
  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, panels = plt.subplots(1, len(metrics), figsize=(5.0 * len(metrics), 3.6), squeeze=False)
  for panel, metric in zip(panels[0], metrics, strict=True):
    faults, together = [], metric.split("+")
    for name, run in runs.items():
      for one in together:
        try:
          steps, values = curve(run, one)
        except DataError as error:
          faults.append(error)
          continue
        label = " ".join([name] * (len(runs) > 1) + [one] * (len(together) > 1))
        panel.plot(steps, values, label=label, marker="." if len(steps) < 60 else None, linewidth=1.3)
    if len(faults) == len(runs) * len(together):
      raise faults[0]
    panel.set_title(metric if len(together) == 1 else "")
    panel.set_xlabel("step")
    panel.grid(alpha=0.3)
    if log_scale:
      panel.set_yscale("log")
    if len(runs) * len(together) > 1:
      panel.legend()
  figure.tight_layout()
  out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(out, dpi=120, metadata={"Software": None} if out.suffix == ".png" else None)
  plt.close(figure)


if __name__ == "__main__":
  sys.exit(cli.at_exit(main))
