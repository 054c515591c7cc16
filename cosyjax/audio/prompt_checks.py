"""What a recording is like as a prompt: silence around it, clipping, noise, a cut word, a transcript that fits."""

import dataclasses
import unicodedata

import numpy as np

from cosyjax.errors import TextError

FRAME = 0.02  # seconds
AROUND = 0.5  # seconds of silence at an end that are left alone; more is trimmed ...
KEPT = 0.2  # ... to this
INSIDE = 2.0  # seconds of silence between words from which a prompt is doubtful
BELOW_SPEECH = 35.0  # dB under the level of speech: silence
ABOVE_FLOOR = 6.0  # dB over the quietest frames of a noisy recording: silence too
NOISY = 15.0  # dB between speech and the quietest frames, at least
CUT = 15.0  # dB under the level of speech: a last frame louder than this is in the middle of a word
CLIPPED = 1e-3  # share of samples in flat tops
LETTERS_A_SECOND, SYLLABLES_A_SECOND = 35.0, 14.0  # faster than anybody speaks: alphabetic letters, Han and kana


@dataclasses.dataclass(frozen=True)
class PromptReport:
  """What `inspect_prompt` found.

  Attributes:
    start, stop: samples between which there is speech, with a margin; the whole recording if nothing is to be trimmed.
    notes: what was done, a sentence each.
    warnings: what makes the recording doubtful as a prompt, a sentence each.
  """

  start: int
  stop: int
  notes: tuple[str, ...]
  warnings: tuple[str, ...]


def inspect_prompt(wave_A: np.ndarray, rate: int, *, trim: bool = True) -> PromptReport:
  """Looks at a checked recording (`check_speech`) of one voice.

  Args:
    wave_A: samples, full scale 1.
    rate: samples a second.
    trim: whether silence of more than `AROUND` seconds at either end is cut to `KEPT` seconds.
  """
  size = max(int(FRAME * rate), 1)
  levels = _levels(wave_A, size)
  speech, floor = np.percentile(levels, 95), np.percentile(levels, 5)
  voiced = levels > max(speech - BELOW_SPEECH, min(floor + ABOVE_FLOOR, speech - CUT))
  first, last = int(np.argmax(voiced)), len(voiced) - int(np.argmax(voiced[::-1]))
  start, stop = 0, len(wave_A)
  if trim and first * FRAME > AROUND:
    start = int((first * FRAME - KEPT) * rate)
  if trim and (len(voiced) - last) * FRAME > AROUND:
    stop = min(int((last * FRAME + KEPT) * rate), len(wave_A))
  notes = []
  if (start, stop) != (0, len(wave_A)):
    before, behind = start / rate, (len(wave_A) - stop) / rate
    notes.append(f"{before:.1f} s of silence before the speech and {behind:.1f} s behind it were left out")
  return PromptReport(start, stop, tuple(notes), tuple(_doubts(wave_A, levels, voiced[first:last], speech, floor)))


def check_transcript(transcript: str, seconds: float, where: str) -> None:
  """Refuses a transcript that nobody could say in so short a recording.

  Args:
    transcript: what is said.
    seconds: of the recording.
    where: recording, for the message.

  Raises:
    TextError: it would take more than 35 letters, or 14 Han characters or kana, a second.
  """
  letters = sum(c.isalpha() and not _is_syllable(c) for c in transcript)
  syllables = sum(_is_syllable(c) for c in transcript)
  least = letters / LETTERS_A_SECOND + syllables / SYLLABLES_A_SECOND
  if least > seconds:
    found = " and ".join(
      f"{count} {name}" for count, name in ((letters, "letters"), (syllables, "Han characters or kana")) if count
    )
    raise TextError(
      f"{where}: expected a transcript of what is said in {seconds:.1f} s, found one of {found}, which takes"
      f" {least:.1f} s when spoken as fast as can be: is it the transcript of this recording?"
    )


def _levels(wave_A: np.ndarray, size: int) -> np.ndarray:
  """Level of each frame in dB; the last frame may be shorter."""
  padded = np.pad(np.asarray(wave_A, np.float64), (0, -len(wave_A) % size)).reshape(-1, size)
  counts = np.full(len(padded), size)
  counts[-1] = len(wave_A) - size * (len(padded) - 1)
  return 10 * np.log10(np.sum(np.square(padded), axis=1) / counts + 1e-12)


def _doubts(wave_A: np.ndarray, levels: np.ndarray, voiced: np.ndarray, speech: float, floor: float) -> list[str]:
  found = []
  top = np.max(np.abs(wave_A))
  flat = np.abs(wave_A) >= 0.999 * top
  share = float(np.mean(flat[1:] & flat[:-1])) if len(wave_A) > 1 else 0.0
  if share > CLIPPED and top > 0.1:
    found.append(f"it is clipped ({100 * share:.1f} % of its samples lie in flat tops): record it at a lower level")
  if speech - floor < NOISY:
    found.append(f"it is noisy or has no pause (its quietest parts are {speech - floor:.0f} dB below its speech)")
  elif np.max(levels[-2:]) > speech - CUT:
    found.append("it has speech up to its last frame, as if cut in the middle of a word: cut it in a pause")
  longest = run = 0
  for sounds in voiced:
    run = 0 if sounds else run + 1
    longest = max(longest, run)
  if longest * FRAME >= INSIDE:
    found.append(f"it has {longest * FRAME:.1f} s of silence between words: the voice may pause as long")
  return found


def _is_syllable(character: str) -> bool:
  """Whether a character is spoken as a syllable: Han, kana, Hangul."""
  return unicodedata.east_asian_width(character) in "WF" and character.isalpha()
