"""Typed errors: each says what is wrong, where, and what would be right.

All derive from `CosyError`, so one `except` covers the library, and from the built-in
type that a caller would expect (`ValueError`, `OSError`), so plain Python habits work.
"""


class CosyError(Exception):
  """Base of every error that cosyjax raises on purpose."""


class AudioError(CosyError, ValueError):
  """A recording that cannot be used: unreadable, empty, silent, not finite, too short, too long."""


class TextError(CosyError, ValueError):
  """Text that cannot be spoken: empty, only punctuation, too long, not valid Unicode."""


class TokenError(CosyError, ValueError):
  """Speech or text ids outside their vocabulary, or a decode that broke its own rules."""


class ConfigError(CosyError, ValueError):
  """A model or run setting that is missing, unknown, or contradicts another."""


class CheckpointError(CosyError, ValueError):
  """A model directory or voice file that is incomplete, damaged, or of another model."""


class ConversionError(CosyError, ValueError):
  """Released weights that do not fit: unknown, duplicate, missing or misshapen tensors."""


class UnsafeFileError(ConversionError):
  """A weight file that asks for more than tensors. Nothing of it has been run."""


class OutputError(CosyError, OSError):
  """A result that could not be written whole; the target is as it was before."""


class BusyError(CosyError, RuntimeError):
  """A request that was refused because the engine's queue is full. Nothing of it was started."""


class EngineError(CosyError, RuntimeError):
  """A streaming engine that is closed, or that lost its state on the device."""


class DataError(CosyError, ValueError):
  """A corpus, a manifest or a feature file that cannot be used."""


class TrainingError(CosyError, RuntimeError):
  """A training run that cannot go on: ten steps in a row without finite gradients, or corrupt data beyond measure."""
