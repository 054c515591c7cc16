"""CAM++ speaker encoder and its conversion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import table_speaker
from convert.engine import convert
from convert.read_onnx import Graph, read_onnx
from cosyjax.config import SpeakerConfig, tiny
from cosyjax.errors import ConversionError
from cosyjax.layers.basic import unbox
from cosyjax.speaker.campplus import SpeakerEncoder

CONFIG = tiny().speaker
# The same build with few layers, quick to compile.
SHALLOW = dataclasses.replace(CONFIG, mel_bins=16, head_channels=8, layers=(2, 1), kernels=(3, 3), dilations=(1, 2))


@pytest.fixture(scope="module")
def graph(release) -> Graph:
  return read_onnx(release / "campplus.onnx")


def _abstract(config):
  args = (jax.random.key(0), jnp.zeros((1, 200, config.mel_bins)), jnp.array([200]))
  return jax.eval_shape(SpeakerEncoder(config).init, *args)["params"]


@pytest.fixture(scope="module")
def params(graph):
  return convert("speaker", table_speaker.tensors(graph), table_speaker.table(CONFIG), _abstract(CONFIG)).params


@pytest.fixture(scope="module")
def encode(params):
  step = jax.jit(SpeakerEncoder(CONFIG).apply)
  return lambda fbank_BTM: np.asarray(step({"params": params}, fbank_BTM, jnp.array([fbank_BTM.shape[1]])))


@pytest.fixture(scope="module")
def shallow():
  """Parameters without a bias of zero: behind a bias, padding is no longer zero by itself."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    mean, spread = {"scale": (1, 0.1), "bias": (0, 0.1)}.get(path[-1].key, (0, (2 * leaf.shape[-1] / leaf.size) ** 0.5))
    return rng.normal(mean, spread, leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, unbox(_abstract(SHALLOW)))


@pytest.fixture(scope="module")
def encode_shallow(shallow):
  step = jax.jit(SpeakerEncoder(SHALLOW).apply)
  return lambda fbank_BTM, lengths_B: np.asarray(step({"params": shallow}, fbank_BTM, jnp.asarray(lengths_B)))


def _fbank(*shape):
  return np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)


def test_embedding_equals_the_reference(golden, encode):
  g = golden("campplus")
  np.testing.assert_allclose(encode(g["feat"]), g["embedding"], atol=1e-5)


def test_the_mean_of_the_recording_does_not_matter(golden, encode):
  g = golden("campplus")
  shifted = g["feat"] + np.linspace(-3, 12, 80, dtype=np.float32)
  np.testing.assert_allclose(encode(shifted), g["embedding"], atol=1e-4)


# 418 frames leave 209 after the stride of two: two context segments of 100 and one of 9.
@pytest.mark.parametrize("frames", [418, 401, 400, 57])
def test_a_row_does_not_depend_on_batch_and_padding(encode_shallow, frames):
  fbank_BTM = _fbank(2, 640, 16)
  alone = encode_shallow(fbank_BTM[1:, :frames], [frames])
  fbank_BTM[1, frames:] = 9.0
  together = encode_shallow(fbank_BTM, [640, frames])
  np.testing.assert_allclose(together[1:], alone, atol=1e-5 * np.abs(alone).max() + 1e-5)
  assert np.abs(together[0] - together[1]).max() > 1e-2


def test_a_few_frames_are_enough(encode_shallow):
  assert np.isfinite(encode_shallow(_fbank(3, 57, 16), [1, 2, 3])).all()


def test_the_divisor_of_the_released_runtime(golden, params):
  # ONNX Runtime 1.18 on the same graph and features; it divides the last 9 frames' sum by 100.
  expected = [0.29936, -0.56906, -0.01558, 0.39262, 0.46293, -0.80089, 0.16764, 0.34553]
  expected += [0.63935, 0.0376, -0.34462, 0.36926, 0.29582, 0.40413, 0.35852, -0.73705]
  expected += [-0.29539, 0.37776, -0.46356, -0.03743, 1.0305, 0.35806, -0.70266, 0.04699]
  module = SpeakerEncoder(dataclasses.replace(CONFIG, full_segment_divisor=True))
  found = jax.jit(module.apply)({"params": params}, golden("campplus")["feat"], jnp.array([418]))
  np.testing.assert_allclose(found[0], expected, atol=2e-5)


def test_no_gradient_reaches_padding_and_all_is_finite(shallow):
  def total(fbank_BTM):
    return jnp.sum(SpeakerEncoder(SHALLOW).apply({"params": shallow}, fbank_BTM, jnp.array([90, 2])))

  # Two frames make one after the stride of two, and one frame has no variance: the root's gradient is infinite there.
  gradient = np.asarray(jax.jit(jax.grad(total))(_fbank(2, 120, 16)))
  assert np.isfinite(gradient).all()
  assert np.all(gradient[0, 90:] == 0)
  assert np.all(gradient[1, 2:] == 0)
  assert np.all(np.abs(gradient[0, :90]).sum(axis=-1) > 0)


def test_random_parameters_are_reproducible_and_tell_recordings_apart():
  module = SpeakerEncoder(dataclasses.replace(SHALLOW, layers=(1,), kernels=(3,), dilations=(1,)))
  args = _fbank(2, 57, 16), jnp.array([57, 57])
  init = jax.jit(lambda key: unbox(module.init(key, *args)["params"]))
  trees = init(jax.random.key(0)), init(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, *trees)
  embedding_BE = np.asarray(jax.jit(module.apply)({"params": trees[0]}, *args))
  assert 0.01 < np.abs(embedding_BE).mean() < 100
  assert np.abs(embedding_BE[0] - embedding_BE[1]).max() > 1e-3


def test_bfloat16_stays_close(shallow, encode_shallow):
  expected = encode_shallow(_fbank(3, 57, 16), [57, 57, 57])
  module = SpeakerEncoder(SHALLOW, dtype=jnp.bfloat16)
  found = np.asarray(jax.jit(module.apply)({"params": shallow}, _fbank(3, 57, 16), jnp.array([57, 57, 57])))
  assert found.dtype == np.float32
  cosine = np.sum(found * expected) / np.linalg.norm(found) / np.linalg.norm(expected)
  assert cosine > 0.999


def test_full_size_has_the_parameters_of_the_release():
  # PyTorch counts 6,848,544, with scale and bias of every batch norm but the last. A norm merged into
  # a convolution leaves a bias alone, and the last one, which had neither, leaves the embedding's bias.
  config = SpeakerConfig()
  front = 13 * config.head_channels - config.head_channels  # twelve convolutions of the front
  merged = front + config.width + sum(config.layers) * config.growth * config.bottleneck + 512
  count = sum(leaf.size for leaf in jax.tree.leaves(_abstract(config)))
  assert count == 6_848_544 - merged + config.speaker_dim == 6_841_056


# Conversion


def test_sizes_are_read_from_shapes(graph):
  assert table_speaker.config_of(table_speaker.tensors(graph)) == CONFIG


def test_initializer_numbers_do_not_matter(graph):
  numbers = {name: f"onnx::{i}" for i, name in enumerate(graph.constants)}
  nodes = [dataclasses.replace(n, inputs=tuple(numbers.get(i, i) for i in n.inputs)) for n in graph.nodes]
  renamed = Graph(graph.path, tuple(nodes), {numbers[name]: array for name, array in graph.constants.items()})
  before, after = (table_speaker.tensors(g) for g in (graph, renamed))
  assert list(before) == list(after)
  for name in before:
    np.testing.assert_array_equal(before[name], after[name])


def test_a_norm_that_the_exporter_did_not_merge_is_merged(graph):
  """Puts a batch norm behind a convolution whose weights undo it."""
  conv = graph.node("/xvector/block1/tdnnd2/linear1/Conv")
  channels = len(graph.weight(conv, 2))
  rng = np.random.default_rng(0)
  gamma, beta, mean = rng.normal(1, 0.2, (3, channels)).astype(np.float32)
  variance = rng.uniform(0.5, 2, channels).astype(np.float32)
  scale = gamma / np.sqrt(variance + 1e-5)
  constants = dict(graph.constants)
  constants |= {"w": graph.weight(conv, 1) / scale[:, None, None], "b": (graph.weight(conv, 2) - beta) / scale + mean}
  constants |= {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
  nodes = []
  for node in graph.nodes:
    if node is conv:
      nodes.append(dataclasses.replace(conv, inputs=(conv.inputs[0], "w", "b"), outputs=("bare",)))
      inputs = ("bare", "gamma", "beta", "mean", "variance")
      norm = "/xvector/block1/tdnnd2/nonlinear2/batchnorm/BatchNormalization"
      nodes.append(dataclasses.replace(conv, name=norm, op="BatchNormalization", inputs=inputs, attributes={}))
    else:
      nodes.append(node)
  before, after = table_speaker.tensors(graph), table_speaker.tensors(Graph(graph.path, tuple(nodes), constants))
  assert set(before) == set(after)
  for name in before:
    np.testing.assert_allclose(after[name], before[name], atol=1e-5)


def test_other_graphs_are_refused(graph, release):
  with pytest.raises(ConversionError, match="no place in CAM"):
    table_speaker.tensors(read_onnx(release / "speech_tokenizer_v2.onnx"))
  local = graph.node("/xvector/block2/tdnnd1/cam_layer/linear_local/Conv")
  other = dataclasses.replace(local, attributes=local.attributes | {"dilations": (4,)})
  nodes = tuple(other if node is local else node for node in graph.nodes)
  with pytest.raises(ConversionError, match="expected dilations"):
    table_speaker.tensors(Graph(graph.path, nodes, graph.constants))


def test_sizes_need_their_tensors(graph):
  tensors = table_speaker.tensors(graph)
  del tensors["block_1.layer_0.local.weight"]
  with pytest.raises(ConversionError, match=r"block_1\.layer_0\.local\.weight"):
    table_speaker.config_of(tensors)
