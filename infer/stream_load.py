"""Requests to a streaming engine, many at once or one taken apart, and what they come to."""

import argparse
import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cosyjax.analysis.profile import top_kernels
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.inference import offline
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.compilation import count_compilations
from cosyjax.inference.engine import Engine, Text
from cosyjax.inference.requests import Request
from cosyjax.inference.synthesizer import Synthesizer
from cosyjax.inference.voice import Voice, voice_versions
from infer.stream_probe import Probe, at_rate, growth, needed_text
from infer.timeline import Timeline

HUGE = 1 << 30  # text ids: no text is cut into utterances
TEXT = "the quick brown fox jumps over a lazy dog and then some more words are read out slowly"

Ask = Callable[[int], tuple[Text, Voice]]  # a request's text and voice, by its number


# What is asked for.


def forced(model: Synthesizer, ratio: float) -> Synthesizer:
  """The same model, with so many speech tokens per text id whatever the weights, and one utterance per text."""
  lm = dataclasses.replace(model.config.lm, min_tokens_per_text=ratio, max_tokens_per_text=ratio)
  text = dataclasses.replace(model.config.text, min_tokens=HUGE, max_tokens=HUGE)
  return model.replace(dataclasses.replace(model.config, lm=lm, text=text))


def make_words(model: Synthesizer, ids: int, seed: int) -> list[str]:
  """Words of about so many ids, in an order that the seed decides."""
  words, some = [], itertools.cycle(TEXT.split())
  while count_ids(model, words) < ids:
    words.append(next(some))
  return np.random.default_rng(seed).permutation(words).tolist()


def count_ids(model: Synthesizer, words: list[str]) -> int:
  return len(model.text_tokenizer.encode(" ".join(words)))


def make_voice(model: Synthesizer, seconds: float, seed: int) -> Voice:
  """A voice of noise, with a transcript of usual length."""
  rng, U = np.random.default_rng(seed), round(seconds * model.config.audio.token_rate)
  mel_TM = rng.normal(-5, 2, (model.config.audio.frames_per_token * U, model.config.flow.mel_bins)).astype(np.float32)
  speaker_E = rng.normal(size=model.config.flow.speaker_dim).astype(np.float32)
  tokens_U = rng.integers(0, model.config.lm.speech_vocab.codebook_size, U).astype(np.int32)
  transcript = " ".join(make_words(model, max(U // 5, 1), seed)) + "."
  return Voice(speaker_E, tokens_U, mel_TM, transcript, voice_versions())


def burst(engine: Engine, ask: Ask, listeners: int, count: int, mode: str, real_time: bool = False) -> list[Timeline]:
  """Serves `count` requests, `ask(0)`, ..., to so many listeners; `real_time`: each hears one out before the next."""
  numbers, began = iter(range(count)), time.perf_counter()

  def listen(_: int) -> list[Timeline]:
    heard = []
    for number in numbers:  # shared: `next` of a range iterator is one step of the interpreter
      text, voice = ask(number)
      now = Timeline(f"{number}", time.perf_counter() - began)
      for packet in engine.stream(text, voice, seed=number, mode=mode):
        now.add(packet)
      heard.append(now)
      if real_time:
        time.sleep(max(began + now.submitted + now.ends - time.perf_counter(), 0))
    return heard

  with concurrent.futures.ThreadPoolExecutor(listeners) as pool:
    heard = [one for some in pool.map(listen, range(listeners)) for one in some]
  return sorted(heard, key=lambda one: int(one.name))


# What is measured.


@dataclasses.dataclass
class Bench:
  """One model, and requests to it. `fresh` numbers voices that no engine has seen."""

  model: Synthesizer
  args: argparse.Namespace
  fresh: int = 1000
  kept: dict[float, Voice] = dataclasses.field(default_factory=dict)  # the voice to prepare, by its seconds

  def engine(self, slots: int) -> Engine:
    a = self.args
    sizes = {"schedule": a.schedule, "history": a.history, "window": a.window, "seconds": a.seconds}
    return Engine(self.model, slots=slots, **sizes)

  def text(self, number: int, ids: int | None = None) -> str:
    return " ".join(make_words(self.model, ids or self.args.text_ids, number)) + "."

  def new_voice(self, seconds: float) -> Voice:
    self.fresh += 1
    return make_voice(self.model, seconds, self.fresh)

  def prepared_voice(self, engine: Engine, seconds: float) -> Voice:
    voice = self.kept.setdefault(seconds, make_voice(self.model, seconds, 0))
    engine.prepare(voice)
    return voice

  def asks(self, engine: Engine, seconds: float, prepared: bool, count: int) -> Ask:
    """Requests with one prepared voice or each with a new one. All are made beforehand."""
    voices = [self.prepared_voice(engine, seconds)] if prepared else [self.new_voice(seconds) for _ in range(count)]
    texts = [self.text(i) for i in range(count)]
    return lambda number: (texts[number], voices[number % len(voices)])

  def settle(self, engine: Engine, ask: Callable[[int], Ask], listeners: int) -> None:
    """Runs bursts until one compiles nothing, a few at most."""
    for _ in range(4):
      with count_compilations() as compiled:
        burst(engine, ask(listeners), listeners, listeners, self.args.mode)
      if not compiled.count:
        return

  def row(self, engine: Engine, listeners: int, seconds: float, prepared: bool) -> dict[str, Any]:
    """A row of the table, and under "streams" what its listeners heard."""
    count = max(self.args.requests, listeners)
    asks = lambda n: self.asks(engine, seconds, prepared, n)
    self.settle(engine, asks, listeners)
    ask = asks(count)
    start = time.perf_counter()
    with count_compilations() as compiled:
      heard = burst(engine, ask, listeners, count, self.args.mode, self.args.real_time)
    wall = time.perf_counter() - start
    each = [one.figures() for one in heard]
    column = lambda name: np.asarray([f[name] for f in each])
    first = {f"first_p{q}_ms": 1e3 * float(np.percentile(column("first_packet_s"), q)) for q in (50, 95, 99)}
    figures = first | {
      "rtf": float(np.median(column("real_time_factor"))),
      "audio_per_s": float(column("audio_s").sum() / wall),
      "underruns": int(column("underruns").sum()),
      "underrun_s": float(column("underrun_s").sum()),
      "least_slack_ms": 1e3 * float(column("least_slack_s").min()),
      "compiled": compiled.count,
    }
    shape = {"concurrency": listeners, "slots": engine.slots.count, "prompt_s": seconds, "prepared": prepared}
    return shape | {"requests": count} | figures | {"streams": heard}

  def cold(self, engine: Engine, seconds: float) -> dict[str, float]:
    """The very first request of an engine: it compiles what it needs."""
    with count_compilations() as compiled:
      [heard] = burst(engine, self.asks(engine, seconds, False, 1), 1, 1, self.args.mode)
    first = 1e3 * heard.figures()["first_packet_s"]
    return {"first_ms": first, "programs": compiled.count, "compile_s": compiled.seconds}

  def probe(self, engine: Engine, voice: Voice, text: Text) -> Probe:
    """One stream, each call timed."""
    with Probe(engine) as probe:
      for _ in engine.stream(text, voice, seed=0, mode=self.args.mode):
        pass
    return probe

  def quiet_probe(self, engine: Engine, new_voice: Callable[[], Voice], text: Text) -> tuple[Voice, Probe]:
    """`probe` with a new voice, again until nothing was compiled meanwhile, a few times at most."""
    for _ in range(4):
      voice = new_voice()
      with count_compilations() as compiled:
        probe = self.probe(engine, voice, text)
      if not compiled.count:
        break
    return voice, probe

  def solo(self, engine: Engine, seconds: float) -> dict[str, Any]:
    """One stream with a prepared voice, taken apart."""
    voice, text, args = self.prepared_voice(engine, seconds), self.text(0), self.args
    asks = lambda n: lambda number: (text, voice)
    self.settle(engine, asks, 1)
    firsts = lambda heard: 1e3 * float(np.median([one.figures()["first_packet_s"] for one in heard]))
    figures = {"prompt_s": seconds, "first_ms": firsts(burst(engine, asks(3), 1, 3, args.mode))}
    runs = [self.probe(engine, voice, text).first_packet() for _ in range(3)]
    figures |= sorted(runs, key=lambda run: run["l_tts_ms"])[1]
    if args.text_rate:
      figures |= self._chat(engine, voice, figures)
    return figures

  def _chat(self, engine: Engine, voice: Voice, solo: dict[str, float]) -> dict[str, float]:
    """The first packet when text arrives, by Eq. 12 and as measured."""
    args, words = self.args, make_words(self.model, self.args.text_ids, 0)
    pieces = [word + " " for word in words[:-1]] + [words[-1] + "."]
    starts = ["".join(pieces[: i + 1]).strip() for i in range(len(pieces))]
    times = [len(self.model.text_tokenizer.encode(start)) / args.text_rate for start in starts]
    tokens = solo["m_tokens"] + self.model.config.flow.encoder.lookahead
    ids, arrived = needed_text(self.model, voice, args.mode, pieces, tokens)
    self.settle(engine, lambda n: lambda number: (iter(pieces), voice), 1)
    heard = burst(engine, lambda number: (at_rate(pieces, times), voice), 1, 3, args.mode)
    waited = 1e3 * times[min(arrived, len(times)) - 1]
    return {
      "chat_ids": ids,
      "l_chat_ms": 1e3 * ids / args.text_rate + solo["l_tts_ms"],
      "held_ms": waited - 1e3 * ids / args.text_rate,
      "chat_ms": 1e3 * float(np.median([one.figures()["first_packet_s"] for one in heard])),
    }

  def long(self, engine: Engine, seconds: float) -> dict[str, Any]:
    """A stream of many chunks: how the time of one depends on its place, and what other ways would take."""
    args, chunk = self.args, self.model.config.flow.chunk
    new_voice = lambda: self.new_voice(seconds)
    prompt = round(seconds * self.model.config.audio.token_rate)
    sizes = sum(itertools.islice(engine.schedule.chunks(prompt, chunk), args.chunks))
    text = self.text(0, ids=-int(-sizes // args.ratio))
    voice, kept = self.quiet_probe(engine, new_voice, text)
    figures = {"prompt_s": seconds, "chunks": kept.chunks()}
    figures["growth"], figures["growth_of"] = growth(figures["chunks"])
    work = kept.total("flow", "vocoder")
    if args.recompute:
      ends = np.minimum(np.cumsum([c["tokens"] for c in figures["chunks"]]), len(kept.tokens_U)).astype(int)
      again = sum(self._prefix(engine, voice, kept.tokens_U[:end])[0] for end in ends)
      figures["over_recompute"] = work / (again + kept.total("vocoder"))
    if args.against_offline:
      figures["over_offline"] = work / sum(self._prefix(engine, voice, kept.tokens_U))
    return figures

  def _prefix(self, engine: Engine, voice: Voice, tokens_U: np.ndarray) -> tuple[float, float]:
    """Seconds of flow and of vocoder for a whole sequence at once, under the mask of the stream's blocks, padded."""
    loaded, P, rate = self.model.loaded, len(voice.tokens_U), self.model.config.audio.frames_per_token
    U, flow = loaded.buckets.fit("tokens", P + len(tokens_U)), loaded.modules["flow"]
    ids_1U, blocks_U = np.zeros((1, U), np.int32), np.full(U, HUGE, np.int32)
    ids_1U[0, : P + len(tokens_U)] = np.concatenate([voice.tokens_U, tokens_U])
    blocks_U[: P + len(tokens_U)] = engine.schedule.blocks(P, len(tokens_U), self.model.config.flow.chunk)
    lengths = np.asarray([P + len(tokens_U)]), np.asarray([rate * P])
    noise_TM = noise_table(rate * U, self.model.config.flow.mel_bins)
    args = ids_1U, lengths[0], voice.mel_TM[None], lengths[1], voice.speaker_E[None], noise_TM, blocks_U
    solve = loaded.program("flow, blocks given", lambda params, *a: generate(flow, params, *a[:-1], chunk=a[-1]))
    request = Request("", voice).resolved(self.model.config)

    def run() -> tuple[float, float]:
      start = time.perf_counter()
      mel_TM = np.asarray(solve(loaded.params["flow"], *args))[0, rate * P : rate * (P + len(tokens_U))]
      solved = time.perf_counter()
      offline.vocode(loaded, [Chunk(request, tokens_U, len(tokens_U))], [mel_TM])
      return solved - start, time.perf_counter() - solved

    run()
    return tuple(float(x) for x in np.median([run() for _ in range(3)], axis=0))

  def profile(self, engine: Engine, seconds: float) -> list[tuple[str, float, int]]:
    """Keeps a profile of one warm request."""
    ask = self.asks(engine, seconds, True, 1)
    self.settle(engine, lambda n: ask, 1)
    with jax.profiler.trace(str(self.args.profile)):
      burst(engine, ask, 1, 1, self.args.mode)
    return top_kernels(self.args.profile, self.args.top_kernels)
