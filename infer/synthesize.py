"""Text to speech from the command line.

  python -m infer.synthesize --model DIR --text "..." --prompt-wav P.wav --prompt-text "..." --out O.wav
  python -m infer.synthesize --model DIR --text-file book.txt --voice anna.voice --out book.wav
  python -m infer.synthesize --model DIR --source-wav speech.wav --voice anna.voice --out same-in-anna.wav
  python -m infer.synthesize --model DIR --jobs requests.jsonl --max-batch 8
  python -m infer.synthesize --model DIR --text-file book.txt --dry-run   (segments as they will be read, and ids)

A line of a jobs file is an object: `text` and `out`, and any of `voice`, `prompt_wav`,
`prompt_text`, `mode`, `instruction`, `speed`, `seed`, `temperature`, ...; what is left out is taken from
the flags. All lines are checked before anything is computed.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from cosyjax.audio import check_target
from cosyjax.errors import ConfigError, CosyError, TextError
from cosyjax.inference.requests import Request, Speech, resolve_mode
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.voice import Voice
from infer import options

NUMBER = int, float
JOB_FIELDS = {
  "text": str,
  "out": str,
  "voice": str,
  "prompt_wav": str,
  "prompt_text": str,
  "mode": str,
  "instruction": str,
  "language": str,
  "sampler": str,
  "speed": NUMBER,
  "temperature": NUMBER,
  "top_p": NUMBER,
  "repeat_rate": NUMBER,
  "guidance": NUMBER,
  "seed": int,
  "top_k": int,
  "repeat_window": int,
  "flow_steps": int,
}


@dataclasses.dataclass(frozen=True)
class Job:
  """One line of a jobs file, defaults filled in.

  Attributes:
    where: names it in messages.
    out: file to write.
    text: what to say.
    voice, prompt_wav, prompt_text: whose voice.
    options: the other fields of its request.
  """

  where: str
  out: Path
  text: str
  voice: str | None
  prompt_wav: str | None
  prompt_text: str
  options: dict[str, Any]


def parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.synthesize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  options.add_model_flags(parser)
  options.version_flag(parser)
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--text", help="what to say")
  what.add_argument("--text-file", type=Path, help="UTF-8 file with what to say")
  what.add_argument("--source-wav", help="voice conversion: say what this recording says")
  what.add_argument("--jobs", type=Path, help="JSON-lines file of requests")
  parser.add_argument("--out", type=Path, help=".wav or .flac file to write")
  parser.add_argument("--voice", metavar="FILE", help="a saved voice")
  parser.add_argument("--save-voice", metavar="FILE", type=Path, help="keep the voice made from --prompt-wav")
  options.add_prompt_flags(parser)
  options.add_request_flags(parser)
  options.add_dry_run_flag(parser)
  parser.add_argument("--max-batch", type=int, default=8, help="jobs computed together")
  args = parser.parse_args(argv)
  if not args.jobs and not args.out and not args.dry_run:
    parser.error("--out is needed")
  if args.dry_run and args.source_wav:
    parser.error("--dry-run shows text; --source-wav has none")
  if args.max_batch < 1:
    parser.error("--max-batch is at least 1")
  return args


def read_text(path: Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise TextError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_jobs(path: Path, args: argparse.Namespace) -> list[Job]:
  """All jobs of a file; every bad line is named in one error."""
  jobs, problems = [], []
  for number, line in enumerate(read_text(path).splitlines(), 1):
    where = f"{path}:{number}"
    if not line.strip():
      continue
    try:
      jobs.append(_job(json.loads(line), where, args))
    except json.JSONDecodeError as error:
      problems.append(f"{where}: not JSON ({error})")
    except ConfigError as error:
      problems.append(str(error))
  outs = [job.out for job in jobs]
  problems += [f"{job.where}: another line writes {job.out} too" for job in jobs if outs.count(job.out) > 1]
  if problems or not jobs:
    raise ConfigError("\n  ".join(["jobs that cannot run:", *problems]) if problems else f"{path} holds no jobs")
  return jobs


def _job(row: Any, where: str, args: argparse.Namespace) -> Job:
  if not isinstance(row, dict):
    raise ConfigError(f"{where}: expected an object, found {type(row).__name__}")
  for field, value in row.items():
    if field not in JOB_FIELDS:
      raise ConfigError(f"{where}: unknown field {field!r}; known: {', '.join(JOB_FIELDS)}")
    if not isinstance(value, JOB_FIELDS[field]) or isinstance(value, bool):
      raise ConfigError(f"{where}: field {field!r} has a value of the wrong type: {value!r}")
  if "text" not in row or "out" not in row:
    raise ConfigError(f"{where}: 'text' and 'out' are needed")
  own_voice = "voice" in row or "prompt_wav" in row
  voice = {
    "voice": None if own_voice else args.voice,
    "prompt_wav": None if own_voice else args.prompt_wav,
    "prompt_text": "" if own_voice else args.prompt_text,
  }
  voice |= {name: row[name] for name in voice if name in row}
  chosen = {name: row.get(name, value) for name, value in options.asked(args).items()}
  return Job(where=where, out=Path(row["out"]), text=row["text"], options=chosen, **voice)


def run_jobs(model: Synthesizer, jobs: list[Job], max_batch: int, keep_silence: bool = False) -> None:
  voices: dict[tuple, Voice] = {}
  requests = []
  for job in jobs:
    key = (job.voice, job.prompt_wav, job.prompt_text)
    try:
      if key not in voices:
        voices[key] = options.make_voice(model, *key, keep_silence)
      request = Request(job.text, voices[key], **job.options)
      resolve_mode(request)
    except CosyError as error:
      raise type(error)(f"{job.where}: {error}") from error
    requests.append(request)
  for start in range(0, len(jobs), max_batch):
    part = jobs[start : start + max_batch]
    began = time.perf_counter()
    speeches = model.batch(requests[start : start + max_batch], progress=options.Bars())
    seconds = time.perf_counter() - began
    for job, speech in zip(part, speeches, strict=True):
      speech.save(job.out)
      print(f"{job.out}  {speech.seconds:.2f} s of audio")
    total = sum(s.seconds for s in speeches)
    print(f"{len(part)} requests, {total:.2f} s of audio in {seconds:.2f} s", file=sys.stderr)


def describe(speech: Speech, seconds: float, out: Path) -> str:
  tokens = sum(len(s.tokens_U) for s in speech.segments)
  cut = sum(s.ended == "length" for s in speech.segments)
  note = f", {cut} of {len(speech.segments)} segments stopped at the maximum length" if cut else ""
  rate = seconds / max(speech.seconds, 1e-9)
  return (
    f"{out}: {speech.seconds:.2f} s of audio, {tokens} tokens, in {seconds:.2f} s (real-time factor {rate:.2f}){note}"
  )


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  jobs = read_jobs(args.jobs, args) if args.jobs else None
  text = read_text(args.text_file) if args.text_file else args.text
  if args.dry_run:
    for job in jobs or [None]:
      own = (job.text, job.voice, job.prompt_text) if job else (text, args.voice, args.prompt_text)
      language = argparse.Namespace(**{**vars(args), "language": job.options["language"]}) if job else args
      options.dry_run(language, *own)
    return 0
  for target in [job.out for job in jobs] if jobs else [args.out]:
    check_target(target)
  model = options.open_model(args)
  if jobs:
    run_jobs(model, jobs, args.max_batch, args.keep_silence)
    return 0
  voice = options.make_voice(model, args.voice, args.prompt_wav, args.prompt_text, args.keep_silence)
  if args.save_voice:
    voice.save(args.save_voice)
  start = time.perf_counter()
  if args.source_wav:
    speech = model.convert_voice(args.source_wav, voice, seed=args.seed, progress=options.Bars())
  else:
    speech = model.synthesize(text, voice, progress=options.Bars(), **options.asked(args))
  speech.save(args.out)
  print(describe(speech, time.perf_counter() - start, args.out))
  return 0


if __name__ == "__main__":
  sys.exit(options.run(main))
