"""Formats of `config.json`: `upgrade` brings what an earlier commit wrote up to the present one.

Format 1 had no audio settings, no family and no kinds of networks, and said how many speech codes there
are where format 2 has a vocabulary. Values that format 1 took for granted are written out here: they
are those of the time, whatever the defaults have become. Paths of parameters are the same in both.
"""

from collections.abc import Callable
from typing import Any

from cosyjax.errors import ConfigError

FORMAT = 2

Fields = dict[str, Any]


def upgrade(info: Any) -> Fields:
  """The fields of `ModelConfig` from the contents of a `config.json` of any format.

  Raises:
    ConfigError: another format, or fields that the format does not have.
  """
  found = info.get("format") if isinstance(info, dict) else type(info).__name__
  if found not in (1, FORMAT) or isinstance(found, bool):
    raise ConfigError(f"expected format 1 to {FORMAT}, found {found}; convert the weights again")
  model = info.get("model")
  if not isinstance(model, dict):
    raise ConfigError(f"model: expected an object, found {type(model).__name__}")
  if found == FORMAT:
    return model | {"family": info.get("family")}
  out = {name: upgrade_part(name, part) for name, part in model.items()}
  mel_bins = (model.get("vocoder") or {}).get("mel_bins")
  audio = {"sample_rate": 24_000, "hop": 480, "n_fft": 1920, "win": 1920, "mel_bins": mel_bins, "fmin": 0.0}
  audio |= {"fmax": 8000.0, "frames_per_token": 2}
  return out | {"family": "cosyvoice2", "audio": audio}


def upgrade_part(name: str, part: Any) -> Any:
  """One part's fields, of format 1 or 2, as those of format 2. What has neither form is returned as it is.

  Args:
    name: a field of `ModelConfig`.
    part: its contents in `config.json`, or in the settings of a training run.
  """
  if not isinstance(part, dict) or name not in _PARTS:
    return part
  mark, up = _PARTS[name]
  return up(part) if mark(part) else part


def _renamed(fields: Fields, **names: str) -> Fields:
  """`fields` with old=new names exchanged."""
  return {names.get(name, name): value for name, value in fields.items()}


def _lm(fields: Fields) -> Fields:
  fields = _renamed(fields, min_ratio="min_tokens_per_text", max_ratio="max_tokens_per_text")
  vocab = {
    "codebook_size": fields.pop("speech_codes"),
    "special_rows": 3,
    "end": 0,
    "fill": 2,
    "ends_known": [0, 1, 2],
    "ends_streamed": [0],
    "own_rows": 2,
    "start": 0,
    "turn": 1,
    "head_bias": True,
  }
  return fields | {"speech_vocab": vocab}


def _flow(fields: Fields) -> Fields:
  fields = _renamed(fields, codes="codebook_size", speaker="speaker_dim", unet="estimator")
  encoder, estimator = fields.get("encoder"), fields.get("estimator")
  if isinstance(encoder, dict):
    fields["encoder"] = {"type": "transformer"} | _renamed(encoder, blocks="layers", up_blocks="up_layers")
  if isinstance(estimator, dict):
    names = {"blocks": "transformer_layers", "mid_stages": "mid_layers"}
    fields["estimator"] = {"type": "unet"} | _renamed(estimator, **names)
  return fields | {"frames_per_token": 2}


def _vocoder(fields: Fields) -> Fields:
  return {"type": "hift", "sample_rate": 24_000} | fields


def _speaker(fields: Fields) -> Fields:
  return _renamed(fields, embedding="speaker_dim", blocks="layers")


# By part: whether fields are of format 1, and how they are brought up.
_PARTS: dict[str, tuple[Callable[[Fields], bool], Callable[[Fields], Fields]]] = {
  "lm": (lambda fields: "speech_codes" in fields, _lm),
  "flow": (lambda fields: "codes" in fields, _flow),
  "vocoder": (lambda fields: "type" not in fields, _vocoder),
  "speaker": (lambda fields: "embedding" in fields, _speaker),
}
