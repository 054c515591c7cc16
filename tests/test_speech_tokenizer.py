"""Speech tokenizer: quantisation, network, windows, conversion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import table_speech_tokenizer
from convert.engine import convert
from convert.read_onnx import Graph, read_onnx
from cosyjax.config import SpeechTokenizerConfig, tiny
from cosyjax.errors import AudioError, ConfigError, ConversionError
from cosyjax.layers.basic import unbox
from cosyjax.speech_tokenizer import fsq, windows
from cosyjax.speech_tokenizer.speech_encoder import SpeechTokenizer, token_lengths

CONFIG = tiny().speech_tokenizer


@pytest.fixture(scope="module")
def graph(release) -> Graph:
  return read_onnx(release / "speech_tokenizer_v2.onnx")


def _abstract(config):
  args = (jax.random.key(0), jnp.zeros((1, 64, config.mel_bins)), jnp.array([64]))
  return jax.eval_shape(SpeechTokenizer(config).init, *args)["params"]


@pytest.fixture(scope="module")
def params(graph):
  tensors = table_speech_tokenizer.tensors(graph)
  return convert("speech_tokenizer", tensors, table_speech_tokenizer.table(CONFIG), _abstract(CONFIG)).params


@pytest.fixture(scope="module")
def apply(params):
  step = jax.jit(SpeechTokenizer(CONFIG).apply)
  return lambda mel_BTM, lengths_B: step({"params": params}, mel_BTM, jnp.asarray(lengths_B))


@pytest.fixture(scope="module")
def reference(golden, apply):
  g = golden("speech_tokenizer")
  return g, apply(g["mel"].transpose(0, 2, 1), g["mel_len"])


# Quantisation


def test_every_id_survives_codes_and_back():
  ids = jnp.arange(3**8)
  codes = fsq.ids_to_codes(ids, 8, 3)
  assert set(np.unique(codes)) == {-1.0, 0.0, 1.0}
  np.testing.assert_array_equal(fsq.codes_to_ids(codes, 3), ids)
  np.testing.assert_array_equal(fsq.codes_to_ids(fsq.ids_to_codes(jnp.arange(125), 3, 5), 5), jnp.arange(125))


def test_id_is_the_sum_of_the_paper():
  codes = jnp.array([1.0, -1, 0, 0, 1, 0, -1, 1])
  expected = sum((int(h) + 1) * 3**j for j, h in enumerate(codes))
  assert fsq.codes_to_ids(codes, 3) == expected


def test_quantise_rounds_forward_and_passes_the_gradient_of_the_squash():
  x = jnp.linspace(-3, 3, 41)
  np.testing.assert_array_equal(fsq.quantise(x, 3), np.round(0.999 * np.tanh(x)))
  gradient = jax.vmap(jax.grad(lambda v: fsq.quantise(v, 3)))(x)
  np.testing.assert_allclose(gradient, 0.999 * (1 - np.tanh(x) ** 2), atol=1e-6)
  assert set(np.unique(fsq.quantise(x, 5))) == {-2.0, -1.0, 0.0, 1.0, 2.0}


@pytest.mark.parametrize("levels", [0, 1, 2, 4])
def test_levels_without_a_middle_are_refused(levels):
  with pytest.raises(ConfigError, match="odd"):
    fsq.squash(jnp.zeros(8), levels)


# Network


def test_hidden_and_projected_equal_the_reference(reference):
  g, (_, lengths_BU, out) = reference
  np.testing.assert_array_equal(lengths_BU, g["code_len"])
  for row, n in enumerate(g["code_len"]):
    np.testing.assert_allclose(out["hidden"][row, :n, ::4], g["hidden"][row, :n], atol=1e-4)
    np.testing.assert_allclose(out["projected"][row, :n], g["projected"][row, :n], atol=1e-4)


def test_tokens_equal_the_reference_exactly(reference):
  g, (ids_BU, _, _) = reference
  squashed = 0.999 * np.tanh(g["projected"])
  undecided = np.any(np.abs(np.abs(squashed) - 0.5) < 1e-4, axis=-1)  # two right answers
  assert undecided.sum() <= 2
  for row, n in enumerate(g["code_len"]):
    same = (np.asarray(ids_BU)[row, :n] == g["code"][row, :n]) | undecided[row, :n]
    assert same.all()
    assert (np.asarray(ids_BU)[row, n:] == 0).all()


def test_a_row_does_not_depend_on_batch_and_padding(reference, apply):
  g, (ids_BU, _, out) = reference
  mel_BTM = g["mel"].transpose(0, 2, 1)
  padded = np.full((1, 500, 128), 7.0, np.float32)
  padded[:, :411] = mel_BTM[1:, :411]
  alone = apply(mel_BTM[1:, :411], [411])
  for ids, lengths, other in (alone, apply(padded, [411])):
    assert lengths.tolist() == [103]
    np.testing.assert_array_equal(ids[0, :103], ids_BU[1, :103])
    np.testing.assert_allclose(other["hidden"][0, :103], out["hidden"][1, :103], atol=1e-4)


def test_no_gradient_reaches_padding(params):
  def total(mel_BTM):
    _, _, out = SpeechTokenizer(CONFIG).apply({"params": params}, mel_BTM, jnp.array([75]))
    return jnp.sum(jnp.square(out["projected"][:, : token_lengths(75)]))

  gradient = jax.jit(jax.grad(total))(jax.random.normal(jax.random.key(0), (1, 100, 128)))
  assert np.all(np.asarray(gradient)[:, 75:] == 0)
  assert np.all(np.abs(gradient[:, :75]).sum(axis=-1) > 0)


def test_jit_changes_nothing():
  config = SpeechTokenizerConfig(mel_bins=16, width=32, heads=2, layers=1)
  rng = np.random.default_rng(0)
  variables = {"params": jax.tree.map(lambda a: rng.normal(0, 0.2, a.shape).astype("f"), unbox(_abstract(config)))}
  module, args = SpeechTokenizer(config), (np.ones((1, 32, 16), np.float32), np.array([30]))
  ids, _, out = module.apply(variables, *args)
  jitted_ids, _, jitted = jax.jit(module.apply)(variables, *args)
  np.testing.assert_array_equal(ids, jitted_ids)
  np.testing.assert_allclose(out["projected"], jitted["projected"], atol=1e-5)


def test_odd_lengths_round_up(apply):
  frames_B = np.arange(413, 421)
  _, lengths_B, _ = apply(np.zeros((8, 420, 128), np.float32), frames_B)
  np.testing.assert_array_equal(lengths_B, np.ceil(frames_B / 4))
  np.testing.assert_array_equal(lengths_B, token_lengths(frames_B))


def test_random_parameters_give_varied_tokens_and_are_reproducible():
  module = SpeechTokenizer(CONFIG)
  mel_BTM = np.random.default_rng(0).normal(size=(1, 400, 128)).astype(np.float32)
  init = jax.jit(module.init)
  trees = [unbox(init(jax.random.key(0), mel_BTM, jnp.array([400]))["params"]) for _ in range(2)]
  jax.tree.map(np.testing.assert_array_equal, *trees)
  ids_BU, _, out = jax.jit(module.apply)({"params": trees[0]}, mel_BTM, jnp.array([400]))
  assert np.isfinite(out["hidden"]).all()
  assert 0.1 < np.std(out["projected"]) < 10
  assert len(np.unique(ids_BU)) > 50


def test_bfloat16_computes_the_projection_in_float32(params, reference):
  g, (_, _, out) = reference
  module = SpeechTokenizer(CONFIG, dtype=jnp.bfloat16)
  _, _, half = jax.jit(module.apply)({"params": params}, g["mel"].transpose(0, 2, 1), jnp.asarray(g["mel_len"]))
  assert half["hidden"].dtype == jnp.bfloat16
  assert half["projected"].dtype == jnp.float32
  error = np.abs(half["projected"] - out["projected"])[0]
  assert np.median(error) < 0.03  # eight bits of mantissa


def test_full_size_has_the_parameters_of_the_release():
  # What the public PyTorch port of this network counts.
  assert sum(leaf.size for leaf in jax.tree.leaves(_abstract(SpeechTokenizerConfig()))) == 123_714_568


def test_heads_must_split_the_width():
  with pytest.raises(ConfigError, match="width of 128"):
    _abstract(dataclasses.replace(CONFIG, heads=3))


# Windows


@pytest.mark.parametrize("frames", [1, 4, 2999, 3000, 3001, 3004, 3399, 5599, 5600, 5601, 6001, 8199, 8200, 9000])
def test_merged_tokens_are_those_of_the_whole_recording(frames):
  plan = windows.plan_windows([frames])
  # Token ids are positions, so that the result must count up.
  mel_BTM = np.arange(frames, dtype=np.float32)[None, :, None]
  mel_WTM = windows.split_windows(mel_BTM, plan)
  ids_BU, lengths_B = windows.merge_windows(mel_WTM[:, ::4, 0] // 4, plan)
  assert lengths_B.tolist() == [-(-frames // 4)]
  np.testing.assert_array_equal(ids_BU[0], np.arange(lengths_B[0]))


def _joined_by_the_public_rule(frames):
  """(window, token) pairs: windows every 26 s while frames are left, 50 tokens dropped at each joint."""
  starts = list(range(0, frames, 2600))
  tokens = [[(w, u) for u in range(-(-min(frames - s, 3000) // 4))] for w, s in enumerate(starts)]
  cut = [t[50 if w else 0 : -50 if w < len(starts) - 1 else None] for w, t in enumerate(tokens)]
  return [pair for part in cut for pair in part]


@pytest.mark.parametrize("frames", [3001, 3500, 5200, 5600, 6000, 7800, 8200, 8201])
def test_joints_lie_where_the_public_implementation_has_them(frames):
  expected = _joined_by_the_public_rule(frames)
  assert len(expected) == -(-frames // 4)  # elsewhere the public rule loses tokens
  plan = windows.plan_windows([frames])
  count = len(plan.row_W)
  ids_WU = np.arange(count)[:, None] * 1000 + np.arange(750)
  ids_BU, _ = windows.merge_windows(ids_WU, plan)
  assert ids_BU[0].tolist() == [w * 1000 + u for w, u in expected]


def test_tokenize_mixes_short_and_long_recordings(apply):
  shapes = []

  def step(mel_WTM, lengths_W):
    shapes.append(mel_WTM.shape)
    return apply(mel_WTM, lengths_W)[0]

  lengths_B = [900, 6100, 3000]
  mel_BTM = np.array(jax.random.normal(jax.random.key(3), (3, 6100, 128)))
  ids_BU, out_lengths = windows.tokenize(step, mel_BTM, lengths_B)
  assert out_lengths.tolist() == [225, 1525, 750]
  assert shapes == [(8, 3000, 128)]  # 1 + 3 + 1 windows
  assert (ids_BU[0, 225:] == 0).all()
  first = np.asarray(apply(mel_BTM[1:2, :3000], [3000])[0])[0]
  np.testing.assert_array_equal(ids_BU[1, :700], first[:700])
  second = np.asarray(apply(mel_BTM[1:2, 2600:5600], [3000])[0])[0]
  np.testing.assert_array_equal(ids_BU[1, 700:1350], second[50:700])
  np.testing.assert_array_equal(ids_BU[2, :750], np.asarray(apply(mel_BTM[2:, :3000], [3000])[0])[0])
  short, _ = windows.tokenize(step, mel_BTM[:1], lengths_B[:1])
  assert shapes[-1] == (1, 1000, 128)
  np.testing.assert_array_equal(short[0], ids_BU[0, :225])


@pytest.mark.parametrize("lengths", [[], [0], [11]])
def test_tokenize_refuses_lengths_that_cannot_be(lengths):
  with pytest.raises(AudioError):
    windows.tokenize(lambda *_: None, np.zeros((len(lengths), 10, 128), np.float32), lengths)


def test_tokenize_refuses_buckets_that_are_too_small():
  with pytest.raises(AudioError, match="buckets"):
    windows.tokenize(lambda *_: None, np.zeros((1, 600, 128), np.float32), [600], buckets=(250, 500))


# Conversion


def test_sizes_are_read_from_shapes(graph):
  assert table_speech_tokenizer.config_of(table_speech_tokenizer.tensors(graph)) == CONFIG


def test_initializer_numbers_do_not_matter(graph):
  numbers = {name: f"onnx::{i}" for i, name in enumerate(graph.constants)}
  nodes = [dataclasses.replace(n, inputs=tuple(numbers.get(i, i) for i in n.inputs)) for n in graph.nodes]
  renamed = Graph(graph.path, tuple(nodes), {numbers[name]: array for name, array in graph.constants.items()})
  before, after = (table_speech_tokenizer.tensors(g) for g in (graph, renamed))
  assert list(before) == list(after)
  for name in before:
    np.testing.assert_array_equal(before[name], after[name])


def test_a_weight_too_many_or_too_few_stops_the_conversion(graph):
  without = tuple(n for n in graph.nodes if n.name != "/blocks.1/attn/key/MatMul")
  with pytest.raises(ConversionError, match="attn/key/MatMul"):
    table_speech_tokenizer.tensors(Graph(graph.path, without, graph.constants))
  extra = dataclasses.replace(graph.node("/blocks.1/attn/key/MatMul"), name="/adapter/MatMul", outputs=("x",))
  with pytest.raises(ConversionError, match="/adapter/MatMul"):
    table_speech_tokenizer.tensors(Graph(graph.path, (*graph.nodes, extra), graph.constants))


def test_sizes_need_their_tensors(graph):
  tensors = table_speech_tokenizer.tensors(graph)
  del tensors["encoder.conv1.weight"]
  with pytest.raises(ConversionError, match=r"encoder\.conv1\.weight"):
    table_speech_tokenizer.config_of(tensors)
