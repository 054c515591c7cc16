"""Phonemes of the teachers as printable ASCII, one character each: what the speech tokenizer learns to read.

The recogniser's units are bytes (`cosyjax.speech_tokenizer.units`). Spelled this way a phoneme is one unit, in English
and in Mandarin, where a character would be three. Stress, word borders and punctuation are left out, aspiration is
part of its consonant; Mandarin's tones stay.
"""

from cosyjax.errors import DataError

_ASPIRATED = {"p": "P", "t": "B", "k": "+", "ʨ": "=", "ʦ": "%", "ꭧ": "$"}
_SAME = "AIOWYTntsdlimkzvpwfbhujxaeoy"
_OTHERS = {
  "ə": "@", "ᵊ": "@", "ɹ": "r", "ɪ": "1", "ᵻ": "1", "ɛ": "E", "æ": "&", "ʌ": "V", "ɐ": "V", "ð": "D", "ɔ": "c",
  "ɑ": "0", "ɒ": "0", "ŋ": "N", "ʃ": "S", "ɜ": "3", "ɡ": "g", "ʊ": "U", "θ": "G", "ʤ": "J", "ʧ": "C", "ʒ": "Z",
  "ɾ": "T", "ʔ": "t", "Q": "O", "→": "7", "↗": "2", "↓": "5", "↘": "4", "ʨ": "q", "ʂ": "X", "ɤ": "8", "ɨ": "9",
  "ꭧ": "F", "ɕ": "K", "ʦ": "L", "ɥ": "Q", "ɻ": "R", "ɚ": "M",
}  # fmt: skip
_LETTERS = {c: c for c in _SAME} | _OTHERS
_SILENT = frozenset(" ˈˌ.,;:!?—…\"“”()'ː")


def spell(phonemes: str) -> str:
  """ASCII of a teacher's phonemes, in the order in which they are spoken.

  Raises:
    DataError: a phoneme that is not known.
  """
  out = []
  for i, c in enumerate(phonemes):
    if phonemes[i + 1 : i + 2] == "ʰ" and c in _ASPIRATED:
      out.append(_ASPIRATED[c])
    elif c in _LETTERS:
      out.append(_LETTERS[c])
    elif c not in _SILENT and not (c == "ʰ" and i and phonemes[i - 1] in _ASPIRATED):
      raise DataError(f"phonemes {phonemes!r}: {c!r} at {i} is not known")
  return "".join(out)
