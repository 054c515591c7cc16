"""`spk2info.pt`: a release's table of speakers, as voices."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert.engine import Tensors
from convert.read_pt import read_pt
from cosyjax.errors import ConfigError, ConversionError
from cosyjax.inference.voice import Voice, voice_versions
from cosyjax.text import TextTokenizer

# Names that the public code has had for one thing, in order of choice.
_VECTOR = ("flow_embedding", "embedding", "llm_embedding")
_TOKENS = ("flow_prompt_speech_token", "llm_prompt_speech_token", "speech_token")
_MEL = ("prompt_speech_feat", "speech_feat")


def read_voices(path: Path, tokenizer: TextTokenizer, speaker_dim: int, mel_bins: int) -> dict[str, Voice]:
  """Speaker's name -> voice.

  A speaker has a vector, and may have a prompt: its speech tokens, mel and text ids. A prompt that is not whole is
  left out: the voice is then its vector alone.

  Args:
    path: written by `torch.save` of a dict of dicts of tensors.
    tokenizer: of the model, which writes the prompt's text.
    speaker_dim: E of the model.
    mel_bins: M of the model.

  Raises:
    ConversionError: the file cannot be read, or a speaker has no vector of that size.
  """
  speakers: dict[str, Tensors] = defaultdict(dict)
  for name, tensor in read_pt(path, empty=True).items():
    speaker, _, field = name.rpartition(".")
    speakers[speaker][field] = tensor
  return {name: _voice(path, name, fields, tokenizer, speaker_dim, mel_bins) for name, fields in speakers.items()}


def file_name(speaker: str) -> str:
  """Name of a voice's file: the speaker's, without what a path would take for its own."""
  name = "".join("_" if c in "/\\:\0" or ord(c) < 32 else c for c in speaker).strip(". ")[:80]
  return f"{name or 'speaker'}.voice"


def _voice(path: Path, name: str, fields: Tensors, tokenizer: TextTokenizer, speaker_dim: int, mel_bins: int) -> Voice:
  vector, tokens, mel = (next((fields[f] for f in names if f in fields), None) for names in (_VECTOR, _TOKENS, _MEL))
  if vector is None or vector.size != speaker_dim or not np.all(np.isfinite(vector)):
    found = "none" if vector is None else f"shape {vector.shape}"
    raise ConversionError(f"{path}: speaker {name!r}: expected a finite vector of {speaker_dim} numbers, found {found}")
  speaker_E = vector.reshape(-1).astype(np.float32)
  if tokens is None or mel is None or mel.shape[-1] != mel_bins or mel.size != 2 * mel_bins * tokens.size:
    return Voice.from_speaker(speaker_E, mel_bins)
  ids = fields.get("prompt_text", np.zeros(0, np.int64)).reshape(-1)
  try:
    text = tokenizer.decode([int(i) for i in ids]) if ids.size else ""
    tokens_U = tokens.reshape(-1).astype(np.int32)
    return Voice(speaker_E, tokens_U, mel.reshape(-1, mel_bins).astype(np.float32), text, voice_versions())
  except (ConfigError, ValueError) as error:
    raise ConversionError(f"{path}: speaker {name!r}: {error}") from error


def speaker_entries(voices: Mapping[str, Voice], tokenizer: TextTokenizer) -> dict[str, Tensors]:
  """Voices as the entries of `spk2info.pt`: the inverse of `read_voices`."""
  entries = {}
  for name, voice in voices.items():
    entry = {"embedding": voice.speaker_E[None], "llm_embedding": voice.speaker_E[None]}
    entry["flow_embedding"] = voice.speaker_E[None]
    if len(voice.tokens_U):
      text = np.asarray([tokenizer.encode(voice.transcript)], np.int32).reshape(1, -1)
      parts = {"prompt_text": text, "prompt_speech_feat": voice.mel_TM[None]}
      parts |= {f"{part}_prompt_speech_token": voice.tokens_U[None] for part in ("llm", "flow")}
      entry |= parts | {f"{key}_len": np.asarray([value.shape[1]], np.int32) for key, value in parts.items()}
    entries[name] = entry
  return entries
