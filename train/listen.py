"""What an evaluation lets one hear: fixed utterances of the corpus, said by the parameters as they are.

Speech is decoded, solved and vocoded by `cosyjax.inference.offline`, as in synthesis; parts that are not in training
come from a model directory. Shapes are those of the utterances, so everything is compiled at the first evaluation.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.config import LMConfig
from cosyjax.data.rows import BAD, LMRows
from cosyjax.errors import ConfigError
from cosyjax.evaluation.metrics import edit_distance
from cosyjax.inference import offline
from cosyjax.inference.buckets import Buckets
from cosyjax.inference.chunk import Chunk
from cosyjax.inference.loaded_model import LoadedModel, for_decoding
from cosyjax.inference.requests import Request
from cosyjax.inference.voice import Voice
from cosyjax.layers.stack import unstack_layers
from cosyjax.lm.interleave import KnownText
from cosyjax.lm.sequence import SPEECH, TEXT
from train.pictures import mel_picture
from train.task import Findings

MOST = 2  # speech is cut at this times the recording's length
ROUND = 32  # sizes are multiples of it
NOBODY = Voice.from_speaker(np.zeros(1))


def open_parts(
  directory: Path | None,
  names: Sequence[str],
  *,
  dtype: str,
  buckets: Buckets | None = None,
  lm: LMConfig | None = None,
) -> LoadedModel:
  """A model with the parameters of some parts of a model directory.

  Args:
    directory: None for no parts.
    names: of the parts.
    dtype: compute type of LM and flow.
    buckets: shapes.
    lm: sizes of the language model; the directory's if None.

  Raises:
    CheckpointError: no model directory, or a damaged one.
    ConfigError: that language model has other speech codes than the directory's flow.
  """
  stored = checkpoint.load_config(directory) if directory else _around(lm)
  shapes = networks.abstract_params(stored) if names else {}
  params = {name: checkpoint.load_params(directory, name, shapes[name]) for name in names}
  try:
    config = stored if lm is None else dataclasses.replace(stored, lm=lm)
  except ConfigError as error:
    raise ConfigError(f"{directory}: {error}") from error
  return LoadedModel(config, params, dtype=dtype, buckets=buckets)


def open_vocoder(directory: Path, *, dtype: str) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
  """A model directory's vocoder: mels [T, M] to audio [A].

  Raises:
    CheckpointError: no model directory, or a damaged one.
  """
  model = open_parts(directory, ("vocoder",), dtype=dtype)
  request = Request("", NOBODY).resolved(model.config)
  nothing_U = np.zeros(0, np.int32)
  return lambda mels: offline.vocode(model, [Chunk(request, nothing_U, 0, i) for i in range(len(mels))], mels)


def _around(lm: LMConfig) -> config_lib.ModelConfig:
  """A configuration that has room for a language model of any number of codes; nothing else in it is used."""
  c = config_lib.tiny()
  codes = dataclasses.replace(c.speech_tokenizer, fsq_levels=lm.speech_vocab.codebook_size, fsq_dims=1)
  parts = {name: getattr(c, name) for name in ("speaker", "flow", "vocoder")}
  return config_lib.assemble(lm=lm, speech_tokenizer=codes, **parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Utterance:
  """What is said again: int32 text ids [L], tag and instruction first, and speech tokens [U]; perhaps mel and voice.

  `mel_TM` [2U, M] and `speaker_E` are None where the corpus has no such features.
  """

  text_L: np.ndarray
  tokens_U: np.ndarray
  mel_TM: np.ndarray | None = None
  speaker_E: np.ndarray | None = None


def first_utterances(rows: LMRows, count: int, length: int) -> list[Utterance]:
  """The first `count` examples with text and speech, of those that take at most `length` positions."""
  known = dataclasses.replace(rows, interleave=0.0)
  mels, voices = (rows.features.maybe(name) for name in ("mel", "speaker"))
  out: list[Utterance] = []
  for example in range(len(rows.features)):
    if len(out) >= count:
      break
    try:
      row = known.parts(example, 0, length)
      ids_L, token_types_L = row["ids_BL"], row["token_types_BL"]
      made = Utterance(ids_L[token_types_L == TEXT], ids_L[token_types_L == SPEECH])
      if mels and voices:
        mel_TM, speaker_E = mels.read("mel", example), voices.read("speaker", example)
        if len(mel_TM) == 2 * len(made.tokens_U) and len(speaker_E):
          made = dataclasses.replace(made, mel_TM=mel_TM, speaker_E=speaker_E)
    except BAD:
      continue
    if len(ids_L) <= length:
      out.append(made)
  return out


class LMListener:
  """Lets a language model in training continue recordings, zero-shot: the first part of the speech is the prompt.

  Sampling is that of synthesis, each utterance under one key at every evaluation. An utterance ends by a
  stopping id, or at `MOST` times what is left of its recording.
  """

  def __init__(
    self, config: LMConfig, utterances: Sequence[Utterance], *, prompt: float, directory: Path | None, dtype: str
  ) -> None:
    """Lays the utterances out, and loads flow and vocoder for their sound.

    Args:
      config: of the LM.
      utterances: at least one.
      prompt: share of each that is given.
      directory: model directory with the flow and the vocoder; None for numbers alone.
      dtype: compute type.

    Raises:
      CheckpointError: no such model directory.
      ConfigError: its flow reads other speech codes or speaker vectors than these.
    """
    self._prompts = [int(prompt * len(u.tokens_U)) for u in utterances]
    self._rests = [u.tokens_U[p:] for u, p in zip(utterances, self._prompts, strict=True)]
    self._utterances = utterances
    rows = [
      KnownText(config, (), u.text_L, u.tokens_U[:p], 1, MOST * len(rest_U))
      for u, p, rest_U in zip(utterances, self._prompts, self._rests, strict=True)
    ]
    self._openings = [row.prefill() for row in rows]
    fit = lambda size: (-(-size // ROUND) * ROUND,)
    [prefix], most = fit(max(len(o.ids_L) for o in self._openings)), max(row.max_tokens for row in rows)
    tokens = max(p + row.max_tokens for p, row in zip(self._prompts, rows, strict=True))
    buckets = Buckets(
      batch=(len(utterances),), prefix=(prefix,), cache=fit(prefix + most), tokens=fit(tokens), frames=fit(2 * most)
    )
    self._heard = [i for i, u in enumerate(utterances) if u.mel_TM is not None] if directory else []
    names = ("flow", "vocoder") if self._heard else ()
    self._model = open_parts(directory if names else None, names, dtype=dtype, buckets=buckets, lm=config)
    self._others, self._unstack = self._model.params, jax.jit(unstack_layers)
    if directory and not self._heard:
      print(f"no sounds at evaluations: the corpus has no features mel and speaker that {directory} could speak with")
    for i in self._heard:
      if (found := len(utterances[i].speaker_E)) != (expected := self._model.config.flow.speaker_dim):
        raise ConfigError(f"{directory}: its flow takes speaker vectors of {expected} numbers, the corpus has {found}")

  def __call__(self, params: Any) -> Findings:
    """Says every utterance.

    Args:
      params: of the LM as it is trained, its layers stacked; on any devices of this process.

    Returns:
      Scalars: "sample_length_ratio", tokens said over tokens recorded; "sample_token_error_rate", edits from the one
      to the other over tokens recorded; "sample_ended", share that ended by a stopping id. Of each utterance that
      can be heard a picture, the recording's mel above the one said, and the sound.
    """
    model, config = self._model, self._model.config
    requests = [Request("", self._voice(i)).resolved(config) for i in range(len(self._utterances))]
    params = jax.device_put(params, jax.local_devices()[0])  # a step of one token is too small to be spread
    model.params = self._others | {"lm": for_decoding(self._unstack(params), model.dtype)}
    said = offline.decode(model, list(zip(self._openings, requests, range(len(requests)), strict=True)))
    model.params = self._others  # does not hold the weights until the next evaluation
    recorded = sum(map(len, self._rests))
    scalars = {
      "sample_length_ratio": sum(len(tokens_U) for tokens_U, _ in said) / recorded,
      "sample_token_error_rate": sum(edit_distance(a, b) for a, (b, _) in zip(self._rests, said, strict=True))
      / recorded,
      "sample_ended": float(np.mean([ended == "end" for _, ended in said])),
    }
    if not self._heard:
      return Findings(scalars)
    chunks = [Chunk(requests[i], said[i][0], len(said[i][0]), i) for i in self._heard]
    true = [self._utterances[i].mel_TM[2 * self._prompts[i] :] for i in self._heard]
    made = offline.solve(model, chunks)
    waves = offline.vocode(model, chunks, made)
    pictures = {f"mel_{i}": mel_picture(*pair) for i, *pair in zip(self._heard, true, made, strict=True)}
    return Findings(scalars, pictures, {f"speech_{i}": wave_A for i, wave_A in zip(self._heard, waves, strict=True)})

  def _voice(self, i: int) -> Voice:
    """The prompt of an utterance; a speaker without numbers where it is not heard."""
    u, p = self._utterances[i], self._prompts[i]
    return Voice(u.speaker_E, u.tokens_U[:p], u.mel_TM[: 2 * p]) if i in self._heard else NOBODY
