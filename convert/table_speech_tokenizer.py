"""`speech_tokenizer_v2.onnx`: its tensors under names of their own, and where each belongs in `SpeechTokenizer`.

The two strided convolutions and the projection are known by their place in the graph, what is
in a block by the name of the node that uses it. Shapes are brought to PyTorch's order, so that
the names and shapes are those of the public PyTorch port of this tokenizer.
"""

import re

import numpy as np

from convert.engine import Rule, Table, Tensors, conv1d, copy, heads_in, heads_out, linear
from convert.read_onnx import Graph
from cosyjax.config import SpeechTokenizerConfig
from cosyjax.errors import ConversionError

HEAD_DIM = 64  # of the release: its rotary tables have this width

# Linear maps of a block: node path -> has a bias.
_LINEARS = {"attn/query": True, "attn/key": False, "attn/value": True, "attn/out": True}
_LINEARS |= {"mlp/mlp.0": True, "mlp/mlp.2": True}
_PROJECT = "quantizer._codebook.project_down"


def tensors(graph: Graph) -> Tensors:
  """Name -> array of every weight in the graph.

  Raises:
    ConversionError: the graph is not that of a version 2 speech tokenizer.
  """
  out: Tensors = {}
  used: set[str] = set()

  def take(name: str, array: np.ndarray, node: str) -> None:
    out[name] = array
    used.add(node)

  convs = [node for node in graph.nodes_of("Conv", weighted=True) if node.attributes.get("group", 1) == 1]
  if len(convs) != 2 or any(node.attributes.get("strides") != (2,) for node in convs):
    raise ConversionError(f"{graph.path}: expected two convolutions of stride 2 at the front, found {len(convs)}")
  for i, node in enumerate(convs, start=1):
    take(f"encoder.conv{i}.weight", graph.weight(node, 1), node.name)
    take(f"encoder.conv{i}.bias", graph.weight(node, 2), node.name)

  for i, stem in enumerate(_block_stems(graph)):
    for norm in ("attn_ln", "mlp_ln"):
      node = graph.node(f"{stem}/{norm}/LayerNormalization")
      take(f"encoder.blocks.{i}.{norm}.weight", graph.weight(node, 1), node.name)
      take(f"encoder.blocks.{i}.{norm}.bias", graph.weight(node, 2), node.name)
    for path, biased in _LINEARS.items():
      node = graph.node(f"{stem}/{path}/MatMul")
      name = f"encoder.blocks.{i}.{path.replace('mlp/mlp', 'mlp').replace('/', '.')}"
      take(f"{name}.weight", graph.weight(node).T, node.name)
      if biased:
        take(f"{name}.bias", graph.added(node), node.name)
    node = graph.node(f"{stem}/attn/fsmn_block/Conv")
    take(f"encoder.blocks.{i}.attn.fsmn_block.weight", graph.weight(node, 1), node.name)

  weighted = [node for op in ("Conv", "MatMul", "LayerNormalization") for node in graph.nodes_of(op, weighted=True)]
  rest = [node for node in weighted if node.name not in used]
  if len(rest) != 1 or rest[0].op != "MatMul":
    names = [node.name for node in rest]
    raise ConversionError(f"{graph.path}: expected one weight behind the blocks, the projection, found {names}")
  take(f"{_PROJECT}.weight", graph.weight(rest[0]).T, rest[0].name)
  take(f"{_PROJECT}.bias", graph.added(rest[0]), rest[0].name)
  return out


def config_of(tensors: Tensors) -> SpeechTokenizerConfig:
  """Sizes of the network that these tensors belong to.

  Raises:
    ConversionError: a tensor that says them is missing, or they contradict each other.
  """
  try:
    width, mel_bins, _ = tensors["encoder.conv1.weight"].shape
    dims, _ = tensors[f"{_PROJECT}.weight"].shape
    kernel = tensors["encoder.blocks.0.attn.fsmn_block.weight"].shape[2]
  except (KeyError, ValueError, IndexError) as error:
    raise ConversionError(
      f"speech_tokenizer: a tensor that tells its sizes is missing or misshapen ({error})"
    ) from None
  if width % HEAD_DIM:
    raise ConversionError(f"speech_tokenizer: expected a width of heads of {HEAD_DIM}, found {width}")
  layers = len({m[1] for name in tensors if (m := re.match(r"encoder\.blocks\.(\d+)\.", name))})
  return SpeechTokenizerConfig(
    mel_bins=mel_bins, width=width, heads=width // HEAD_DIM, layers=layers, fsq_dims=dims, fsmn_kernel=kernel
  )


def table(config: SpeechTokenizerConfig) -> Table:
  """Rules from the names of `tensors` to parameters of `SpeechTokenizer`."""
  split, join = heads_out(config.heads), heads_in(config.heads)
  block, to = r"encoder\.blocks\.(\d+)\.", r"encoder/layers_\1/"
  rules = [
    Rule(r"encoder\.conv1\.weight", "encoder/subsample_0/kernel", conv1d),
    Rule(r"encoder\.conv1\.bias", "encoder/subsample_0/bias"),
    Rule(r"encoder\.conv2\.weight", "encoder/subsample_1/kernel", conv1d),
    Rule(r"encoder\.conv2\.bias", "encoder/subsample_1/bias"),
    Rule(block + r"attn_ln\.weight", to + "attention_norm/scale"),
    Rule(block + r"attn_ln\.bias", to + "attention_norm/bias"),
    Rule(block + r"attn\.(query|key|value)\.weight", to + r"attention/\2/kernel", split),
    Rule(block + r"attn\.(query|value)\.bias", to + r"attention/\2/bias", split),
    Rule(block + r"attn\.out\.weight", to + "attention/out/kernel", join),
    Rule(block + r"attn\.out\.bias", to + "attention/out/bias"),
    Rule(block + r"attn\.fsmn_block\.weight", to + "attention/memory", lambda w: split(w[:, 0])),
    Rule(block + r"mlp_ln\.weight", to + "mlp_norm/scale"),
    Rule(block + r"mlp_ln\.bias", to + "mlp_norm/bias"),
    Rule(block + r"mlp\.0\.weight", to + "mlp_in/kernel", linear),
    Rule(block + r"mlp\.0\.bias", to + "mlp_in/bias"),
    Rule(block + r"mlp\.2\.weight", to + "mlp_out/kernel", linear),
    Rule(block + r"mlp\.2\.bias", to + "mlp_out/bias"),
    Rule(re.escape(_PROJECT) + r"\.weight", "project/kernel", linear),
    Rule(re.escape(_PROJECT) + r"\.bias", "project/bias", copy),
  ]
  return Table(tuple(rules))


def _block_stems(graph: Graph) -> list[str]:
  """Path of each block's nodes, in order: "/blocks.0", "/blocks.1", ..."""
  pattern = re.compile(r"(.*/blocks\.(\d+))/attn_ln/LayerNormalization")
  found = [m for node in graph.nodes_of("LayerNormalization") if (m := pattern.fullmatch(node.name))]
  if not found or [int(m[2]) for m in found] != list(range(len(found))):
    raise ConversionError(
      f"{graph.path}: expected nodes .../blocks.N/attn_ln/LayerNormalization for N = 0, 1, ..., "
      f"found {[m[0] for m in found]}"
    )
  return [m[1] for m in found]
