"""cosyjax: CosyVoice 2 streaming zero-shot text-to-speech as pure functions on JAX.

Names of dimensions, used as suffixes of array names inside functions (`mel_BTM`):

  B batch          L LM position       S cache slot        N/K/G query/key/group heads
  H head dim       D width             F feed-forward      V text vocabulary
  U speech token (25 Hz)               T mel frame (50 Hz, T = 2U)
  M mel bin        C channel           A audio sample (24 kHz: 480 per T)
  E speaker vector
"""

__version__ = "0.1.0"
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
  "enable_cache",
  "load",
  "random_model",
]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from cosyjax.buckets import Buckets
  from cosyjax.compilation import enable_cache
  from cosyjax.requests import Request, Speech
  from cosyjax.schedule import Schedule
  from cosyjax.streaming.engine import Engine
  from cosyjax.streaming.stream import Packet, Stream
  from cosyjax.synthesizer import Synthesizer, load, random_model
  from cosyjax.voice import Voice

_HOMES = {
  "Buckets": "buckets",
  "enable_cache": "compilation",
  "Engine": "streaming.engine",
  "Packet": "streaming.stream",
  "Request": "requests",
  "Schedule": "schedule",
  "Speech": "requests",
  "Stream": "streaming.stream",
  "Synthesizer": "synthesizer",
  "load": "synthesizer",
  "random_model": "synthesizer",
  "Voice": "voice",
}


def __getattr__(name: str) -> Any:
  """Public names are imported when first used: `import cosyjax.audio` pulls in no model."""
  if name not in _HOMES:
    raise AttributeError(f"module 'cosyjax' has no attribute {name!r}")
  import importlib

  return getattr(importlib.import_module(f"cosyjax.{_HOMES[name]}"), name)
