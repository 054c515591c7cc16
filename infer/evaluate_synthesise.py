"""Says a test set: audio, and a line of JSON for each sentence.

  python -m infer.evaluate synthesise --model DIR --seed-tts-eval en/meta.lst --out eval/offline
  python -m infer.evaluate synthesise --model DIR --librispeech test-clean --how streaming --out eval/streaming
  python -m infer.evaluate synthesise --model DIR --manifest human.jsonl --how resynthesis --out eval/resynthesis
  python -m infer.evaluate synthesise --model DIR --texts en.txt --language en --prompts voices.jsonl --out eval/texts

--how: `offline`; `streaming` through the engine, text known as a whole; `arriving`, the engine with text that comes
character by character; `resynthesis`, the set's recordings to tokens and back to audio, without the language model (by
the prompt's voice, or by the speaker vector alone where the only recording is the sentence itself).

The folder can be continued by the same command after a stop. A sentence that is refused stands in the records with its
error and counts as not said. Real-time factor and first packet are reported over sentences that compiled nothing.
"""

import argparse
import ast
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.audio import write
from cosyjax.errors import ConfigError, CosyError
from cosyjax.evaluation.pauses import find_pauses
from cosyjax.evaluation.records import Records, digest_of
from cosyjax.evaluation.seams import seam_ratios
from cosyjax.evaluation.test_sets import Sentence
from cosyjax.inference.compilation import count_compilations
from cosyjax.inference.engine import Engine
from cosyjax.inference.requests import Request
from cosyjax.inference.schedule import PRESETS
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.voice import Voice
from infer import evaluate_sets, options
from infer.evaluate_files import UTTERANCES, progress

HOW = ("offline", "streaming", "arriving", "resynthesis")
STEADIEST = 1e6  # a seam's ratio is infinite in digital silence; JSON has no infinity
OWN_FIELDS = ("text", "voice", "seed")  # of a request: given by the test set


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
  """What came of one sentence. packets: samples in each. made: seconds from the request to each; empty offline."""

  wave_A: np.ndarray
  rate: int
  packets: list[int]
  ended: list[str]
  made: list[float]
  compute: float


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m infer.evaluate synthesise",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options.add_model_flags(parser)
  evaluate_sets.add_set_flags(parser)
  evaluate_sets.add_voice_flags(parser)
  parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the system; its name is shown")
  parser.add_argument("--how", default="offline", choices=HOW)
  parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each sentence is said with each")
  parser.add_argument("--batch", type=int, default=1, help="sentences computed together, offline")
  parser.add_argument("--slots", type=int, default=1, help="streams at once")
  parser.add_argument("--schedule", default="balanced", choices=sorted(PRESETS), help="sizes of the stream's chunks")
  parser.add_argument(
    "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the request: mode=..., ..."
  )
  args = parser.parse_args(argv)
  if min(args.batch, args.slots) < 1:
    parser.error("--batch and --slots are at least 1")
  return args


def request_fields(settings: Sequence[str]) -> dict[str, Any]:
  """FIELD=VALUE as options of a request, numbers and the like read as such.

  Raises:
    ConfigError: not of that form, or no such field.
  """
  known = {f.name for f in dataclasses.fields(Request)} - set(OWN_FIELDS)
  out = {}
  for setting in settings:
    name, mark, value = setting.partition("=")
    if not mark or name not in known:
      raise ConfigError(f"--set: expected FIELD=VALUE with a field of {sorted(known)}, found {setting!r}")
    try:
      out[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      out[name] = value
  return out


def header(args: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
  model = {"model": digest_of(args.model)} if args.model else {"model": "random weights", "preset": args.preset}
  voices = {"voices": [digest_of(p) for p in args.voices], "every_voice": args.every_voice}
  voices |= {"prompts": digest_of(args.prompts) if args.prompts else None}
  how = {"how": args.how, "seeds": args.seeds, "request": fields, "dtype": args.dtype}
  how |= {"batch": args.batch} if args.how == "offline" else {}
  how |= {"slots": args.slots, "schedule": args.schedule} if args.how in ("streaming", "arriving") else {}
  return {"stage": "synthesise", **model, **evaluate_sets.set_header(args), **voices, **how}


class Speaker:
  """Says sentences with one model, in one of the ways of `HOW`. Voices of prompts are made once each."""

  def __init__(self, model: Synthesizer, how: str, fields: dict[str, Any], engine: Engine | None = None) -> None:
    self.model, self.how, self.fields, self.engine = model, how, fields, engine
    self.voice = functools.lru_cache(maxsize=64)(self._voice)

  def _voice(self, sentence_voice: tuple[Path | None, Path | None, str]) -> Voice:
    saved, prompt, transcript = sentence_voice
    return Voice.load(saved) if saved is not None else self.model.voice(prompt, transcript)

  def say(self, work: Sequence[tuple[Sentence, int]]) -> list[Said]:
    """Say sentences with their seeds; offline in one batch."""
    if self.how == "resynthesis":
      return [self._resynthesise(*item) for item in work]
    if self.how == "offline":
      return self._offline(work)
    return [self._stream(*item) for item in work]

  def _offline(self, work: Sequence[tuple[Sentence, int]]) -> list[Said]:
    voices = [self.voice((s.voice, s.prompt, s.prompt_text)) for s, _ in work]
    start = time.perf_counter()
    requests = [Request(s.text, v, seed=seed, **self.fields) for (s, seed), v in zip(work, voices, strict=True)]
    speeches = self.model.batch(requests)
    # A sentence's share of the batch's time is that of its audio.
    per_second = (time.perf_counter() - start) / max(sum(speech.seconds for speech in speeches), 1e-9)
    return [_said(speech, per_second * speech.seconds) for speech in speeches]

  def _resynthesise(self, sentence: Sentence, seed: int) -> Said:
    if sentence.recording is None:
      raise ConfigError(f"{sentence.id}: expected a recording to resynthesise, the set has none")
    if sentence.voice is not None or sentence.prompt not in (None, sentence.recording):
      voice = self.voice((sentence.voice, sentence.prompt, sentence.prompt_text))
    else:
      own = self.voice((None, sentence.recording, ""))
      voice = Voice.from_speaker(own.speaker_E, own.mel_TM.shape[1])
    start = time.perf_counter()
    speech = self.model.convert_voice(str(sentence.recording), voice, seed=seed)
    return _said(speech, time.perf_counter() - start)

  def _stream(self, sentence: Sentence, seed: int) -> Said:
    voice = self.voice((sentence.voice, sentence.prompt, sentence.prompt_text))
    self.engine.prepare(voice, **self.fields)
    text = iter(sentence.text) if self.how == "arriving" else sentence.text
    start = time.perf_counter()
    packets = list(self.engine.stream(text, voice, seed=seed, **self.fields))
    compute = time.perf_counter() - start
    waves = [packet.samples_A for packet in packets]
    made = [packet.made for packet in packets]
    wave_A, rate = np.concatenate(waves), packets[0].rate
    # A stream does not say how it ended; audio of the greatest length was cut off there.
    request = Request(sentence.text, voice, **self.fields)
    ended = "length" if len(wave_A) >= rate * greatest_seconds(self.model, request) else "end"
    return Said(wave_A, rate, [len(wave) for wave in waves], [ended], made, compute)


def _said(speech: Any, compute: float) -> Said:
  sizes = [round(segment.seconds * speech.rate) for segment in speech.segments]
  return Said(speech.samples_A, speech.rate, sizes, [segment.ended for segment in speech.segments], [], compute)


def greatest_seconds(model: Synthesizer, request: Request) -> float:
  """Audio of a request all of whose segments stop at their greatest length."""
  return (
    sum(layout.max_tokens for _, layout in model.known_text(request)) / model.config.audio.token_rate / request.speed
  )


def late_share(packets: Sequence[int], made: Sequence[float], rate: int) -> float:
  """Share of packets after the first that came after the audio before them had been played."""
  due = made[0] + np.cumsum([0, *packets[:-1]]) / rate
  return float(np.mean(np.asarray(made[1:]) > due[1:])) if len(made) > 1 else 0.0


def describe(said: Said) -> dict[str, Any]:
  """The measured part of a record."""
  pauses = find_pauses(said.wave_A, said.rate)
  ratios = seam_ratios(said.wave_A, said.packets) if sum(said.packets) == len(said.wave_A) else np.zeros(0)
  row = {
    "seconds": pauses.seconds,
    "leading": pauses.leading,
    "trailing": pauses.trailing,
    "longest_pause": pauses.longest,
    "clipped": pauses.clipped,
    "compute": said.compute,
  }
  if said.made:
    row |= {"first_packet": said.made[0], "late": late_share(said.packets, said.made, said.rate)}
  row = {name: round(value, 4) for name, value in row.items()}
  return row | {"ended": said.ended, "seam_ratios": [round(float(min(ratio, STEADIEST)), 3) for ratio in ratios]}


def run(speak: Callable[[Sequence[tuple[Sentence, int]]], list[Said]], args: argparse.Namespace, records: Records,
        work: Sequence[tuple[str, Sentence, int, str]]) -> None:  # fmt: skip
  """Say what is not in the records yet: (id, sentence, seed, audio file's name)."""
  todo = [item for item in work if item[0] not in records]
  batch = args.batch if args.how == "offline" else args.slots
  groups = [todo[i : i + batch] for i in range(0, len(todo), batch)]

  def attempt(group: Sequence[tuple[str, Sentence, int, str]]) -> list[Said | CosyError]:
    try:
      return speak([(sentence, seed) for _, sentence, seed, _ in group])
    except CosyError as error:
      # One bad request refuses its batch: its mates are said alone.
      return [error] if len(group) == 1 else [found for item in group for found in attempt([item])]

  with ThreadPoolExecutor(args.slots) as pool:
    for group in progress(groups, args.out.name, -(-len(work) // batch) - len(groups)):
      with count_compilations() as compiled:
        if args.how in ("streaming", "arriving"):
          found = [result for [result] in pool.map(attempt, [[item] for item in group])]
        else:
          found = attempt(group)
      for (name, sentence, seed, file), result in zip(group, found, strict=True):
        row = {"id": name, "text": sentence.text, "language": sentence.language, "speaker": sentence.speaker}
        row |= {"seed": seed, "prompt": str(sentence.prompt.resolve()) if sentence.prompt else None}
        if isinstance(result, CosyError):
          row["error"] = str(result)
        else:
          write(args.out / "audio" / file, result.wave_A, result.rate)
          row |= {"audio": f"audio/{file}", **describe(result), "compiled": compiled.count}
        records.add(row)


def main(argv: Sequence[str] | None = None) -> int:
  args = parse(argv)
  fields = request_fields(args.set)
  sentences = evaluate_sets.read_set(args, voices=args.how != "resynthesis" or bool(args.voices or args.prompts))
  many = len(args.seeds) > 1
  pairs = [(s, seed) for s in sentences for seed in args.seeds]
  work = [(f"{s.id}#{seed}" if many else s.id, s, seed, f"{n:05d}.flac") for n, (s, seed) in enumerate(pairs)]
  with Records(args.out / UTTERANCES, header(args, fields)) as records:
    if all(name in records for name, *_ in work):
      print(f"{args.out}: all {len(work)} sentences are said already")
      return 0
    (args.out / "audio").mkdir(exist_ok=True)
    model = options.open_model(args)
    engine = None
    if args.how in ("streaming", "arriving"):
      engine = Engine(model, slots=args.slots, schedule=args.schedule, flow_steps=fields.get("flow_steps"))
    try:
      run(Speaker(model, args.how, fields, engine).say, args, records, work)
    finally:
      if engine is not None:
        engine.close()
    refused = sum("error" in row for row in records.rows.values())
  print(f"{args.out}: {len(work)} sentences" + (f", {refused} refused" if refused else ""))
  return 0
