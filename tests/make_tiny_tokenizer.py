"""Trains the tokenizer of the tiny model: python -m tests.make_tiny_tokenizer

Byte-level BPE with Qwen's way of cutting words, on the sentences below: 256 bytes, then
merges up to 480 entries, so that the tags (480 ..) stay below the tiny model's 512 rows.
The result is committed; a test checks that this script still gives it.
"""

import json
import sys
from pathlib import Path

from cosyjax.text import tags, tiny_tokenizer_dir

ENTRIES = 480
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = """
The morning train was late, and the people on the platform talked about the weather.
There is nothing in the world that a good story and a little laughter cannot make better.
She told him that they would have to wait another hour before the bridge was open again.
When the evening comes, the lights along the river look like a thread of small stars.
He was reading the letter for the third time when the telephone began to ring.
I think that this is the right way, but we should ask someone who has been here before.
What are you going to do with all of those old books? They are going to the school library.
The weather on the mountain changes quickly: first the sun, then the rain, then the sun again.
Could you tell me where the nearest station is? It is over there, behind the market.
Every voice has its own colour, and every sentence has its own music.
Thank you for listening. We are very happy that you could be with us today.
The children were playing in the garden while their mother was making dinner.
今天的天气真好，我们一起去公园走走吧。
你好，很高兴认识你，请问你叫什么名字？
他们在河边坐了一个下午，一直聊到太阳下山。
这个问题我不知道应该怎么回答，你可以再说一遍吗？
我们的老师说，学习语言最重要的是多听多说。
早上的火车晚点了，大家都在站台上等着。
如果明天不下雨，我就和你们一起去爬山。
她的声音很好听，像春天的风一样。
中国有很多美丽的地方，我想去看一看。
时间过得真快，一年又要过去了。
我喜欢在晚上看书，也喜欢听音乐。
请把门关上，外面的风太大了。
"""


def train(directory: Path) -> None:
  """Writes vocab.json, merges.txt and tokenizer_config.json."""
  from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

  bpe = Tokenizer(models.BPE())
  bpe.normalizer = normalizers.NFC()
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  bpe.decoder = decoders.ByteLevel()
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  trainer = trainers.BpeTrainer(vocab_size=ENTRIES, initial_alphabet=alphabet, show_progress=False)
  bpe.train_from_iterator(TEXT.strip().splitlines(), trainer)
  model = json.loads(bpe.to_str())["model"]
  if len(model["vocab"]) != ENTRIES:
    raise SystemExit(f"expected {ENTRIES} entries, found {len(model['vocab'])}: more text is needed")
  vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
  merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
  config = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": tags.END_OF_TEXT,
    "pad_token": tags.END_OF_TEXT,
    "bos_token": None,
    "unk_token": None,
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "added_tokens_decoder": {str(ENTRIES): {"content": tags.END_OF_TEXT, "special": True, "normalized": False}},
  }
  directory.mkdir(parents=True, exist_ok=True)
  (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
  (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
  (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
  train(Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_tokenizer_dir())
