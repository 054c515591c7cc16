"""Fuzzes reading, splitting and streams of text: whatever comes, typed errors or text, and streams equal whole texts.

A short run is in the suite; for minutes of it: `python -m tests.fuzz_text --minutes 10`.
"""

import argparse
import time

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from cosyjax.config import TextConfig
from cosyjax.errors import CosyError
from cosyjax.text import Lexicon, TextStream, TextTokenizer, normalise, prepare, split_text, tags, tiny_tokenizer_dir
from tests.stream_texts import PARTS, READ_EN, READ_ZH
from tests.text_samples import rows

TINY = TextTokenizer.load(tiny_tokenizer_dir())
LEXICON = Lexicon({"sql": "sequel", "the": "ze", "我们": "咱们", "five dollars": "a fiver", "haha": "[laughter]"})
_SIGNS = "0123456789.,:;/\\-–—~+*_#`|<>[](){}$€£¥%°'\"’”²³⁵₂①½√^=&@!?。，、：（）【】 \n\t年月日元个点分AaMmxXIVkgKwW"
_ANY = st.one_of(
  st.text(max_size=8),
  st.text(alphabet=_SIGNS, max_size=12),
  st.sampled_from([text for _, _, text, _ in rows()]),
  st.sampled_from([*PARTS, *tags.SPECIAL, *READ_EN.split(" "), *READ_ZH.split(" ")]),
)
TEXTS = st.lists(_ANY, max_size=12).map("".join)
LANGUAGES = st.sampled_from(["auto", "en", "zh", "other"])


def check(text: str, language: str, sizes: list[int], with_lexicon: bool, limits: tuple[int, int]) -> None:
  """One text through everything; raises what is no typed error, and AssertionError where a stream differs."""
  lexicon = LEXICON if with_lexicon else None
  options = {"language": language, "lexicon": lexicon}
  spoken = normalise(text, **options)
  assert isinstance(spoken, str)
  if language in ("en", "zh"):
    plain = tags.strip(normalise(text, language))
    assert not any(c in "0123456789" for c in plain), plain
  parts = split_text(spoken, TINY, *limits, 3)
  assert all(part == part.strip() != "" for part in parts)
  config = TextConfig(min_tokens=limits[0], max_tokens=limits[1], merge_tokens=0)
  _quietly(lambda: prepare(text, TINY, config, **options))
  one = TextConfig(min_tokens=1 << 30, max_tokens=1 << 30, merge_tokens=0)
  results = [_quietly(lambda c=cut: _streamed(text, c, config, options)) for cut in ([1], sizes)]
  assert results[0] == results[1], results
  whole = _quietly(lambda: prepare(text, TINY, one, **options)[0].ids)
  if language != "auto" and isinstance(whole, tuple) and len(text) < 60 and max(map(len, text.split() or [""])) < 60:
    assert _quietly(lambda: _streamed(text, sizes, one, options)[1]) == whole


def _streamed(text: str, sizes: list[int], config: TextConfig, options: dict) -> tuple[str, tuple[int, ...]]:
  stream, fed, place, turn = TextStream(TINY, config, **options), [], 0, 0
  while place < len(text):
    size = max(sizes[turn % len(sizes)], 1)
    fed += stream.push(text[place : place + size])
    place, turn = place + size, turn + 1
  fed += stream.close()
  return "".join(one.text for one in fed), tuple(i for one in fed for i in one.ids)


def _quietly(call):
  """The result, or the kind of the typed error."""
  try:
    return call()
  except CosyError as error:
    return type(error).__name__


def case(examples: int, number: int = 0):
  """A function that runs so many examples."""

  @seed(number)
  @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
  @given(
    TEXTS,
    LANGUAGES,
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([(6, 10), (20, 40), (60, 80)]),
  )
  def run(text, language, sizes, with_lexicon, limits):
    check(text, language, sizes, with_lexicon, limits)

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=10)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  start, rounds = time.monotonic(), 0
  while time.monotonic() - start < 60 * args.minutes:
    case(500, args.seed + rounds)()
    rounds += 1
  print(f"{500 * rounds} examples in {(time.monotonic() - start) / 60:.1f} minutes, none failed")


if __name__ == "__main__":
  main()
