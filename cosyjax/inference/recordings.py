"""Recordings to what a voice is made of: speech tokens, mel, speaker vector."""

import functools
from typing import Any

import jax
import numpy as np

from cosyjax.audio import kaldi_fbank, log_mel_16k, mel_spectrogram
from cosyjax.audio.stft import fft_options
from cosyjax.inference.limits import Limits
from cosyjax.inference.loaded_model import LoadedModel
from cosyjax.inference.padding import wave
from cosyjax.speech_tokenizer import windows


def analyse(
  model: LoadedModel, wave_24k: np.ndarray, wave_16k: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tokens [U], mel [T, M] and speaker vector [E] of a recording of at most 30 s, given at two rates."""
  seconds = model.buckets.fit("seconds", -(-len(wave_16k) // 16_000))
  found = jax.device_get(_analyse(model, wave_24k, wave_16k, seconds))
  ids_BU, ids_lengths, mel_BTM, mel_lengths, speaker_BE = found
  return ids_BU[0, : ids_lengths[0]], mel_BTM[0, : mel_lengths[0]], speaker_BE[0]


def tokenise(model: LoadedModel, wave_16k: np.ndarray) -> np.ndarray:
  """Tokens [U] of a recording of any length, in windows of 30 s where it is longer."""
  seconds = model.buckets.fit("source_seconds", -(-len(wave_16k) // 16_000))
  mel_BTM, frames_B = jax.device_get(_log_mel(model, wave_16k, seconds))
  ids_BU, _ = windows.tokenize(lambda mel, n: _tokens(model, mel, n)[0], mel_BTM, frames_B)
  return ids_BU[0]


def rehearse(model: LoadedModel, limits: Limits) -> None:
  """Makes all calls that recordings within the limits can make."""
  nothing = np.zeros(0, np.float32)
  for seconds in model.buckets.up_to("seconds", int(np.ceil(limits.prompt))) if limits.recordings else ():
    _analyse(model, nothing, nothing, seconds)
  if limits.sources:
    for seconds in model.buckets.up_to("source_seconds", windows.WINDOW // 100):
      _log_mel(model, nothing, seconds)
    for T in windows.BUCKETS:
      mel_BTM = np.zeros((1, T, model.config.speech_tokenizer.mel_bins), np.float32)
      _tokens(model, mel_BTM, np.zeros(1, np.int32))


def _analyse(model: LoadedModel, wave_24k: np.ndarray, wave_16k: np.ndarray, seconds: int) -> Any:
  c = model.config

  def run(params, wave_24k_BA, lengths_24k_B, wave_16k_BA, lengths_16k_B):
    mel_BTM, mel_lengths_B = mel_spectrogram(wave_24k_BA, lengths_24k_B, c.audio)
    log_mel = log_mel_16k(wave_16k_BA, lengths_16k_B, c.speech_tokenizer.mel_bins)
    ids_BU, ids_lengths_B = _tokenise(model.modules["speech_tokenizer"], params["speech_tokenizer"], *log_mel)
    fbank_BTM, fbank_lengths_B = kaldi_fbank(wave_16k_BA, lengths_16k_B, c.speaker.mel_bins)
    speaker_BE = model.modules["speaker"].apply({"params": params["speaker"]}, fbank_BTM, fbank_lengths_B)
    return ids_BU, ids_lengths_B, mel_BTM, mel_lengths_B, speaker_BE

  params = {name: model.params[name] for name in ("speech_tokenizer", "speaker")}
  waves = *wave(wave_24k, seconds * c.audio.sample_rate), *wave(wave_16k, seconds * 16_000)
  return model.program("voice", run, options=fft_options())(params, *waves)


def _log_mel(model: LoadedModel, wave_16k: np.ndarray, seconds: int) -> Any:
  front = functools.partial(log_mel_16k, bins=model.config.speech_tokenizer.mel_bins)
  program = model.program("log-mel", front, options=fft_options())
  return program(None, *wave(wave_16k, seconds * 16_000))


def _tokens(model: LoadedModel, mel_BTM: Any, lengths_B: Any) -> Any:
  program = model.program("tokenizer", functools.partial(_tokenise, model.modules["speech_tokenizer"]))
  return program(model.params["speech_tokenizer"], mel_BTM, lengths_B)


def _tokenise(network, params, log_mel_BTM, lengths_B):
  ids_BU, ids_lengths_B, _ = network.apply({"params": params}, log_mel_BTM, lengths_B)
  return ids_BU, ids_lengths_B
