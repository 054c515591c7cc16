"""cosyjax: CosyVoice 2 streaming zero-shot text-to-speech as pure functions on JAX.

Names of dimensions, used as suffixes of array names inside functions (`mel_BTM`):

  B batch          L LM position       S cache slot        N/K/G query/key/group heads
  H head dim       D width             F feed-forward      V text vocabulary
  U speech token (25 Hz)               T mel frame (50 Hz, T = 2U)
  M mel bin        C channel           A audio sample (24 kHz: 480 per T)
  E speaker vector
"""

__version__ = "0.1.0"
