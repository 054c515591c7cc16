"""cosyjax: CosyVoice 2 streaming zero-shot text-to-speech as pure functions on JAX.

Names of dimensions, used as suffixes of array names inside functions (`mel_BTM`):

  B batch          L LM position       S cache slot        N/K/G query/key/group heads
  H head dim       D width             F feed-forward      V text vocabulary
  U speech token (25 Hz)               T mel frame (50 Hz, T = 2U)
  M mel bin        C channel           A audio sample (24 kHz: 480 per T)
  E speaker vector
"""

__all__ = [
  "Buckets",
  "Engine",
  "Packet",
  "Request",
  "Schedule",
  "Speech",
  "Stream",
  "Synthesizer",
  "Voice",
  "__version__",
  "enable_cache",
  "load",
  "random_model",
]

from typing import TYPE_CHECKING, Any

from cosyjax.version import __version__

if TYPE_CHECKING:
  from cosyjax.inference.buckets import Buckets
  from cosyjax.inference.compilation import enable_cache
  from cosyjax.inference.engine import Engine
  from cosyjax.inference.packets import Packet, Stream
  from cosyjax.inference.requests import Request, Speech
  from cosyjax.inference.schedule import Schedule
  from cosyjax.inference.synthesizer import Synthesizer, load, random_model
  from cosyjax.inference.voice import Voice

_HOMES = {
  "Buckets": "inference.buckets",
  "enable_cache": "inference.compilation",
  "Engine": "inference.engine",
  "Packet": "inference.packets",
  "Request": "inference.requests",
  "Schedule": "inference.schedule",
  "Speech": "inference.requests",
  "Stream": "inference.packets",
  "Synthesizer": "inference.synthesizer",
  "load": "inference.synthesizer",
  "random_model": "inference.synthesizer",
  "Voice": "inference.voice",
}


def __getattr__(name: str) -> Any:
  """Public names are imported when first used: `import cosyjax.audio` pulls in no model."""
  if name not in _HOMES:
    raise AttributeError(f"module 'cosyjax' has no attribute {name!r}")
  import importlib

  return getattr(importlib.import_module(f"cosyjax.{_HOMES[name]}"), name)
