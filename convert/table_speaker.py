"""`campplus.onnx`: its tensors under names of their own, and where each belongs in `SpeakerEncoder`.

Tensors are known by the name of the node that uses them. The release's exporter has merged most
batch norms into the convolution before them: all of the front, the time-delay layer, each dense
layer's second norm, and the one behind the last transition. What it left are norms before an
activation, which become a scale and a bias, and the one behind the embedding, which is merged
here. A graph whose norms were not merged gives the same tensors.
"""

import re
from collections.abc import Callable

import numpy as np

from convert.engine import Rule, Table, Tensors, conv1d, pointwise
from convert.read_onnx import Graph, Node
from cosyjax.config import SpeakerConfig
from cosyjax.errors import ConversionError

# Path of a node -> name of its layer, from the numbers in the path, which count from one (residual blocks: from zero).
_PLACES = (
  (r"/head/conv1", lambda: "front.conv_in"),
  (r"/head/layer(\d+)/layer\1\.(\d+)/conv(\d+)", lambda s, i, n: f"front.block_{2 * (s - 1) + i}.conv_{n - 1}"),
  (r"/head/layer(\d+)/layer\1\.(\d+)/shortcut/shortcut\.0", lambda s, i: f"front.block_{2 * (s - 1) + i}.shortcut"),
  (r"/head/conv2", lambda: "front.conv_out"),
  (r"/xvector/tdnn/linear", lambda: "tdnn"),
  (r"/xvector/block(\d+)/tdnnd(\d+)/nonlinear1/batchnorm", lambda b, i: f"block_{b - 1}.layer_{i - 1}.norm"),
  (r"/xvector/block(\d+)/tdnnd(\d+)/linear1", lambda b, i: f"block_{b - 1}.layer_{i - 1}.reduce"),
  (r"/xvector/block(\d+)/tdnnd(\d+)/cam_layer/linear_local", lambda b, i: f"block_{b - 1}.layer_{i - 1}.local"),
  (r"/xvector/block(\d+)/tdnnd(\d+)/cam_layer/linear1", lambda b, i: f"block_{b - 1}.layer_{i - 1}.gate_in"),
  (r"/xvector/block(\d+)/tdnnd(\d+)/cam_layer/linear2", lambda b, i: f"block_{b - 1}.layer_{i - 1}.gate_out"),
  (r"/xvector/transit(\d+)/nonlinear/batchnorm", lambda b: f"transit_{b - 1}.norm"),
  (r"/xvector/transit(\d+)/linear", lambda b: f"transit_{b - 1}.linear"),
  (r"/xvector/dense/linear", lambda: "embedding"),
)


def tensors(graph: Graph) -> Tensors:
  """Name -> array of every weight in the graph, batch norms folded.

  Raises:
    ConversionError: the graph is not that of CAM++.
  """
  convs = graph.nodes_of("Conv", weighted=True)
  norms = graph.nodes_of("BatchNormalization")
  behind = {conv.name: norm for norm in norms if (conv := _conv_before(graph, norm)) is not None}
  merged = {norm.name for norm in behind.values()}
  out: Tensors = {}
  for node in convs:
    name = _name(graph, node)
    weight = graph.weight(node, 1)
    bias = graph.weight(node, 2) if len(node.inputs) > 2 else None
    if node.name in behind:
      scale, shift = _affine(graph, behind[node.name])
      bias = shift if bias is None else shift + bias * scale
      weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    _put(graph, out, f"{name}.weight", weight)
    if bias is not None:
      _put(graph, out, f"{name}.bias", bias)
  for norm in norms:
    if norm.name not in merged:
      name = _name(graph, norm)
      scale, shift = _affine(graph, norm)
      _put(graph, out, f"{name}.scale", scale)
      _put(graph, out, f"{name}.bias", shift)
  _check_dilations(graph, convs)
  return out


def config_of(tensors: Tensors) -> SpeakerConfig:
  """Sizes of the network that these tensors belong to. Dilations leave no trace in a shape: see `tensors`.

  Raises:
    ConversionError: a tensor that says them is missing or misshapen.
  """
  layers: dict[int, int] = {}
  for name in tensors:
    if m := re.fullmatch(r"block_(\d+)\.layer_(\d+)\.local\.weight", name):
      layers[int(m[1])] = layers.get(int(m[1]), 0) + 1
  try:
    head_channels = tensors["front.conv_in.weight"].shape[0]
    width, front, _ = tensors["tdnn.weight"].shape
    growth, bottleneck, _ = tensors["block_0.layer_0.local.weight"].shape
    kernels = tuple(tensors[f"block_{i}.layer_0.local.weight"].shape[2] for i in range(len(layers)))
    return SpeakerConfig(
      mel_bins=front // head_channels * 8,
      speaker_dim=tensors["embedding.weight"].shape[0],
      growth=growth,
      bottleneck=bottleneck // growth,
      width=width,
      head_channels=head_channels,
      layers=tuple(layers[i] for i in range(len(layers))),
      kernels=kernels,
      dilations=SpeakerConfig().dilations[: len(layers)],
    )
  except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
    raise ConversionError(f"speaker: a tensor that tells its sizes is missing or misshapen ({error})") from None


def table(config: SpeakerConfig) -> Table:
  """Rules from the names of `tensors` to parameters of `SpeakerEncoder`."""
  layer, to = r"block_(\d+)\.layer_(\d+)\.", r"block_\1_layer_\2/"
  rules = [
    Rule(r"front\.(conv_in|conv_out)\.weight", r"front/\1/kernel", _time_first),
    Rule(r"front\.(conv_in|conv_out)\.bias", r"front/\1/bias"),
    Rule(r"front\.block_(\d+)\.(conv_0|conv_1|shortcut)\.weight", r"front/block_\1_\2/kernel", _time_first),
    Rule(r"front\.block_(\d+)\.(conv_0|conv_1|shortcut)\.bias", r"front/block_\1_\2/bias"),
    Rule(r"tdnn\.weight", "tdnn/kernel", _bins_first(config.head_channels)),
    Rule(r"tdnn\.bias", "tdnn/bias"),
    Rule(layer + r"norm\.(scale|bias)", to + r"norm/\3"),
    Rule(layer + r"(reduce|gate_in|gate_out)\.weight", to + r"\3/kernel", pointwise),
    Rule(layer + r"(reduce|gate_in|gate_out)\.bias", to + r"\3/bias"),
    Rule(layer + r"local\.weight", to + "local/kernel", conv1d),
    Rule(r"transit_(\d+)\.norm\.(scale|bias)", r"transit_\1_norm/\2"),
    Rule(r"transit_(\d+)\.linear\.weight", r"transit_\1/kernel", pointwise),
    Rule(r"transit_(\d+)\.linear\.bias", r"transit_\1/bias"),
    Rule(r"embedding\.weight", "embedding/kernel", pointwise),
    Rule(r"embedding\.bias", "embedding/bias"),
  ]
  return Table(tuple(rules))


def _name(graph: Graph, node: Node) -> str:
  """Our name of the layer that this node computes."""
  path = node.name.rpartition("/")[0]
  for pattern, name in _PLACES:
    if m := re.fullmatch(pattern, path):
      return name(*map(int, m.groups()))
  raise ConversionError(f"{graph.path}: node {node.name} ({node.op}) has no place in CAM++")


def _put(graph: Graph, out: Tensors, name: str, array: np.ndarray) -> None:
  if name in out:
    raise ConversionError(f"{graph.path}: two nodes give {name}")
  out[name] = np.asarray(array, np.float32)


def _conv_before(graph: Graph, norm: Node) -> Node | None:
  """The convolution whose result is read by this norm alone, so that the two are one; None if there is none."""
  node = graph.source(norm)
  reader = norm
  while node is not None and graph.readers(node) == [reader]:
    if node.op != "Squeeze":
      return node if node.op == "Conv" else None
    node, reader = graph.source(node), node
  return None


def _affine(graph: Graph, norm: Node) -> tuple[np.ndarray, np.ndarray]:
  """Scale and shift, in float64, of a batch norm with fixed statistics."""
  gamma, beta, mean, variance = (graph.weight(norm, i).astype(np.float64) for i in range(1, 5))
  scale = gamma / np.sqrt(variance + norm.attributes.get("epsilon", 1e-5))
  return scale, beta - mean * scale


def _check_dilations(graph: Graph, convs: list[Node]) -> None:
  """Raises unless every block's convolutions have the dilation that the network is built with."""
  for node in convs:
    m = re.fullmatch(r"/xvector/block(\d+)/.*/linear_local/Conv", node.name)
    expected = SpeakerConfig().dilations[int(m[1]) - 1 : int(m[1])] if m else ()
    if m and node.attributes.get("dilations", (1,)) != expected:
      found = node.attributes.get("dilations")
      raise ConversionError(f"{graph.path}: node {node.name}: expected dilations {expected}, found {found}")


def _time_first(w: np.ndarray) -> np.ndarray:
  """[out, in, bins, time] -> [time, bins, in, out]."""
  return w.transpose(3, 2, 1, 0)


def _bins_first(channels: int) -> Callable[[np.ndarray], np.ndarray]:
  """[out, channels * bins, time] -> [time, bins * channels, out]: the front's channels vary fastest here."""

  def apply(w: np.ndarray) -> np.ndarray:
    out, _, time = w.shape
    return w.reshape(out, channels, -1, time).transpose(3, 2, 1, 0).reshape(time, -1, out)

  return apply
