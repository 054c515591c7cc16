"""Shows what a model directory holds, and the SHA-256 of every file that it was made of.

  python -m convert.inspect DIR
  python -m convert.inspect DIR --json

No weights are read: sizes come from config.json.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import jax

from cosyjax import checkpoint, networks
from cosyjax.errors import CosyError
from cosyjax.inference.voice import Voice


def describe(directory: Path) -> dict[str, Any]:
  """Facts of a model directory, ready for JSON.

  Raises:
    CheckpointError: it is none, or a voice in it is damaged.
  """
  config = checkpoint.load_config(directory)
  info = json.loads((directory / "config.json").read_text())
  count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  voices = {}
  for path in sorted((directory / "voices").glob("*")):
    voice = Voice.load(path)
    voices[path.name] = {"prompt_seconds": voice.seconds, "transcript": voice.transcript}
  return {
    "format": info["format"],
    "family": info.get("family", "cosyvoice2"),
    "parameters": {name: count(tree) for name, tree in networks.abstract_params(config).items()},
    "source": info.get("source", {}),
    "voices": voices,
  }


def text(directory: Path, facts: dict[str, Any]) -> str:
  """The facts for people."""
  lines = [f"{directory}: format {facts['format']}, {facts['family']}"]
  lines += [f"  {name:<18}{size:>14,} parameters" for name, size in facts["parameters"].items()]
  lines.append(f"  {'all':<18}{sum(facts['parameters'].values()):>14,} parameters")
  source = facts["source"]
  if not source.get("files"):
    lines.append("made of: not noted (trained here, or converted before inputs were noted)")
  else:
    lines.append(f"made of (language model: {source.get('lm', '?')}):")
    lines += [f"  {f['sha256']}  {f['bytes']:>13,}  {name}" for name, f in source["files"].items()]
  lines += [f"  {note}" for note in source.get("notes", [])]
  lines.append(f"voices: {len(facts['voices'])}")
  for name, voice in facts["voices"].items():
    prompt = f"{voice['prompt_seconds']:.1f} s of prompt, {voice['transcript']!r}"
    lines.append(f"  {name}: {prompt if voice['prompt_seconds'] else 'the speaker vector alone'}")
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m convert.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("directory", type=Path, metavar="DIR", help="model directory")
  parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
  args = parser.parse_args(argv)
  try:
    facts = describe(args.directory)
  except CosyError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(json.dumps(facts, indent=2, ensure_ascii=False) if args.json else text(args.directory, facts))
  return 0


if __name__ == "__main__":
  sys.exit(main())
