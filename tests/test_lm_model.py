"""Text-speech model: conversion, parity with the reference, the two layouts, padding, cache."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import table_lm
from convert.engine import convert
from cosyjax.config import LMConfig, cosyvoice2, tiny
from cosyjax.errors import CheckpointError, ConfigError, ConversionError
from cosyjax.layers.basic import unbox
from cosyjax.layers.stack import stack_layers, unstack_layers
from cosyjax.lm import loss, sequence
from cosyjax.lm.qwen2 import empty_cache, fuse_for_decoding, pad_cache
from cosyjax.lm.text_speech_lm import TextSpeechLM


def abstract(model: TextSpeechLM):
  """Shapes of the parameters, boxed with their logical axes."""
  row = jnp.zeros((1, 8), jnp.int32)
  return jax.eval_shape(lambda key: model.init(key, row, row, jnp.array([8]))["params"], jax.random.key(0))


def random_lm(config: LMConfig, seed: int = 0):
  """(model, parameters): seeded noise of the size that the initialisers give, without compiling them."""
  model, rng = TextSpeechLM(config), np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(rng.normal(scale=max(x.shape[-1], 4) ** -0.5, size=x.shape), jnp.float32)
  return model, jax.tree.map(draw, unbox(abstract(model)))


def load_lm(release):
  """(model, parameters) of the small release."""
  from convert.read_pt import read_pt

  tensors = read_pt(release / "llm.pt")
  config = table_lm.config_of(json.loads((release / "CosyVoice-BlankEN/config.json").read_text()), tensors)
  model = TextSpeechLM(config)
  return model, convert("lm", tensors, table_lm.table(config), abstract(model)).params


@pytest.fixture(scope="module")
def lm(release):
  return load_lm(release)


@pytest.fixture(scope="module")
def forward(lm):
  model, params = lm
  return jax.jit(lambda *args: model.apply({"params": params}, *args))


def golden_rows(data, config, interleaved):
  rows = [
    sequence.training_row(data["text_token"][i, :t], data["speech_token"][i, :s], config, interleaved=interleaved[i])
    for i, (t, s) in enumerate(zip(data["text_len"], data["speech_len"], strict=True))
  ]
  return sequence.pad_sequences(rows)


@pytest.mark.parametrize(
  ("name", "interleaved"),
  [("lm_unistream", (0, 0, 0)), ("lm_bistream", (1, 1, 1)), ("lm_mixed", (1, 0, 1))],
)
def test_training_rows_logits_and_loss_equal_the_reference(lm, forward, golden, name, interleaved):
  model, params = lm
  data = golden(name)
  rows = golden_rows(data, model.config, interleaved)
  np.testing.assert_array_equal(rows.targets_BL, data["lm_target"])
  np.testing.assert_array_equal(rows.lengths_B, data["lm_len"])
  valid = np.arange(rows.ids_BL.shape[1]) < rows.lengths_B[:, None]

  vectors = jax.jit(lambda *a: model.apply({"params": params}, *a, method=model.embed))(
    rows.ids_BL, rows.token_types_BL
  )
  np.testing.assert_array_equal(np.asarray(vectors)[valid], data["lm_input_embedding"][valid])

  logits = forward(rows.ids_BL, rows.token_types_BL, rows.lengths_B)
  # Well within 1e-3, the rule for a whole network.
  np.testing.assert_allclose(np.asarray(logits)[..., data["columns"]][valid], data["logits"][valid], atol=1e-5)
  np.testing.assert_allclose(jax.nn.logsumexp(logits, -1)[valid], data["logsumexp"][valid], atol=1e-5)
  np.testing.assert_allclose(loss.cross_entropy(logits, rows.targets_BL), data["loss"], atol=1e-5)
  np.testing.assert_allclose(loss.accuracy(logits, rows.targets_BL), data["accuracy"], atol=1e-6)


def test_accuracy_and_log_probabilities_count_only_targets():
  logits = jnp.log(jnp.array([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]]))
  targets = jnp.array([[0, 2, sequence.IGNORE]])
  np.testing.assert_allclose(loss.accuracy(logits, targets), 0.5)
  np.testing.assert_allclose(loss.token_log_probs(logits, targets), [[np.log(0.7), np.log(0.1), 0.0]], rtol=1e-6)
  np.testing.assert_allclose(loss.cross_entropy(logits, targets), -(np.log(0.7) + np.log(0.1)) / 2, rtol=1e-6)
  assert loss.cross_entropy(logits, jnp.full((1, 3), sequence.IGNORE)) == 0


def test_padding_changes_no_valid_position(lm, forward, golden):
  model, _ = lm
  data = golden("lm_mixed")
  rows = golden_rows(data, model.config, (1, 0, 1))
  batch = forward(rows.ids_BL, rows.token_types_BL, rows.lengths_B)
  length = int(rows.lengths_B[2])
  ids, kinds = (np.full((1, rows.ids_BL.shape[1]), fill, np.int32) for fill in (7, 1))  # other padding
  ids[0, :length], kinds[0, :length] = rows.ids_BL[2, :length], rows.token_types_BL[2, :length]
  alone = forward(ids, kinds, np.array([length], np.int32))
  np.testing.assert_allclose(alone[0, :length], batch[2, :length], atol=1e-5)


def test_no_gradient_reaches_later_tokens_or_padding(lm):
  model, params = lm
  ids, kinds = jnp.arange(12, dtype=jnp.int32)[None], jnp.ones((1, 12), jnp.int32)

  @jax.jit
  def gradient(params):
    def score(params):
      logits = model.apply({"params": params}, ids, kinds, jnp.array([10]))
      return jnp.sum(jnp.square(logits[0, 4])) + jnp.sum(jnp.square(logits[0, 10:]))

    return jax.grad(score)(params)

  table = gradient(params)["speech_embedding"]["embedding"]
  assert np.all(np.abs(table[:5]).max(axis=1) > 0)
  np.testing.assert_array_equal(table[5:], 0)


def test_stacked_layers_equal_separate_ones(lm, forward, golden):
  model, params = lm
  rows = golden_rows(golden("lm_mixed"), model.config, (1, 0, 1))
  args = (rows.ids_BL, rows.token_types_BL, rows.lengths_B)
  stacked = stack_layers(params)
  model_scan = TextSpeechLM(model.config, scan=True, remat="full")
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(stacked) == shapes(unbox(abstract(model_scan)))

  def objective(m):
    return lambda p: loss.cross_entropy(m.apply({"params": p}, *args), rows.targets_BL)

  value, grads = jax.jit(jax.value_and_grad(objective(model)))(params)
  value_scan, grads_scan = jax.jit(jax.value_and_grad(objective(model_scan)))(stacked)
  np.testing.assert_allclose(value_scan, value, atol=1e-5)
  for a, b in zip(jax.tree.leaves(unstack_layers(grads_scan)), jax.tree.leaves(grads), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  with pytest.raises(ConfigError, match="separate layers"):
    model_scan.apply(
      {"params": stacked}, *args, jnp.zeros(3, jnp.int32), empty_cache(model.config, 3, 80), method="step"
    )


def test_fused_matrices_equal_separate_ones(lm, forward, golden):
  model, params = lm
  rows = golden_rows(golden("lm_mixed"), model.config, (1, 0, 1))
  args = (rows.ids_BL, rows.token_types_BL, rows.lengths_B)
  fused, model_fused = fuse_for_decoding(params), TextSpeechLM(model.config, fused=True)
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(fused) == shapes(unbox(abstract(model_fused)))
  logits = jax.jit(lambda p: model_fused.apply({"params": p}, *args))(fused)
  np.testing.assert_allclose(logits, forward(*args), atol=1e-5)
  both = unstack_layers(fuse_for_decoding(stack_layers(params)))
  jax.tree.map(np.testing.assert_array_equal, both, fused)
  assert "q" in params["stack"]["layers_0"]["attention"]  # the argument is left as it was


def test_stacking_there_and_back_is_exact_and_refuses_gaps():
  rng = np.random.default_rng(0)
  tree = {"a": {f"layers_{i}": {"w": rng.normal(size=(2, 3))} for i in range(11)} | {"norm": np.ones(2)}}
  stacked = stack_layers(tree)
  assert stacked["a"]["layers"]["w"].shape == (11, 2, 3)
  back = unstack_layers(stacked)
  assert back.keys() == tree.keys() and back["a"].keys() == tree["a"].keys()
  jax.tree.map(np.testing.assert_array_equal, back, tree)
  del tree["a"]["layers_4"]
  with pytest.raises(CheckpointError, match="layers_0 to layers_9"):
    stack_layers(tree)
  with pytest.raises(CheckpointError, match="differ"):
    stack_layers({"layers_0": {"w": np.ones(2)}, "layers_1": {"w": np.ones(3)}})


def test_prefill_and_steps_equal_one_pass(lm, forward):
  """Rows of different lengths, then pieces of 3, 0 and 1 tokens appended at each row's own slot."""
  model, params = lm
  rng = np.random.default_rng(0)
  ids, kinds = rng.integers(0, 500, (2, 16)).astype(np.int32), rng.integers(0, 2, (2, 16)).astype(np.int32)
  whole = forward(ids, kinds, np.array([16, 16], np.int32))
  apply = lambda method: jax.jit(lambda *a: model.apply({"params": params}, *a, method=method))
  filled = np.array([9, 4], np.int32)
  logits, cache = apply("prefill")(ids[:, :9], kinds[:, :9], filled)
  cache = pad_cache(cache, 20)
  step = apply("step")
  for lengths in ((3, 0), (1, 3), (3, 3)):
    for b in range(2):
      np.testing.assert_allclose(logits[b], whole[b, filled[b] - 1], atol=1e-5)
    pieces = [np.stack([x[b, filled[b] : filled[b] + 3] for b in range(2)]) for x in (ids, kinds)]
    lengths = np.array(lengths, np.int32)
    new, cache = step(*pieces, lengths, filled, cache)
    logits = np.where(lengths[:, None] > 0, new, logits)
    filled = filled + lengths
  with pytest.raises(ConfigError, match="capacity"):
    pad_cache(cache, 19)


def test_writes_past_the_capacity_are_dropped(lm):
  """Three tokens at slots 2, 3, 4: the last one falls off a cache of four and overwrites nothing."""
  model, params = lm
  args = np.array([[1, 2, 3]], np.int32), np.ones((1, 3), np.int32), np.array([3]), np.array([2])
  step = jax.jit(lambda cache: model.apply({"params": params}, *args, cache, method=model.step)[1])
  narrow, wide = step(empty_cache(model.config, 1, 4)), step(empty_cache(model.config, 1, 8))
  assert np.abs(wide[0].v_BKSH[:, :, 2:5]).min() > 0
  np.testing.assert_allclose(narrow[0].v_BKSH, wide[0].v_BKSH[:, :, :4], atol=1e-6)
  np.testing.assert_allclose(narrow[0].k_BKHS, wide[0].k_BKHS[..., :4], atol=1e-6)


def test_bfloat16_compute_keeps_float32_logits(lm, golden):
  model, params = lm
  rows = golden_rows(golden("lm_unistream"), model.config, (0, 0, 0))
  half = TextSpeechLM(model.config, dtype=jnp.bfloat16)
  logits = jax.jit(lambda *a: half.apply({"params": params}, *a))(rows.ids_BL, rows.token_types_BL, rows.lengths_B)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(loss.cross_entropy(logits, rows.targets_BL), golden("lm_unistream")["loss"], atol=2e-2)


def test_official_size_has_the_official_number_of_parameters():
  for scan in (False, True):
    params = unbox(abstract(TextSpeechLM(cosyvoice2().lm, scan=scan)))
    stack = sum(x.size for x in jax.tree.leaves(params["stack"]))
    assert stack == 357_898_112  # Qwen2 0.5B without its token embedding
    assert params["text_embedding"]["embedding"].shape == (151_936, 896)
    assert params["head"]["kernel"].shape == (6564, 896)


def test_every_parameter_names_its_axes():
  boxed = jax.tree.leaves(abstract(TextSpeechLM(tiny().lm, scan=True)), is_leaf=lambda x: hasattr(x, "names"))
  for leaf in boxed:
    assert len(leaf.names) == leaf.value.ndim
  names = {name for leaf in boxed for name in leaf.names}
  assert names == {"layers", "vocab", "embed", "heads", "kv_heads", "head_dim", "mlp", "norm", None}


def test_initial_parameters_give_sensible_logits():
  model, row = TextSpeechLM(tiny().lm, scan=True), np.arange(40, dtype=np.int32)[None]
  args = (row, row % 2, np.array([40], np.int32))
  logits = jax.jit(lambda key: model.init_with_output(key, *args)[0])(jax.random.key(0))
  assert np.all(np.isfinite(logits)) and 0.3 < np.std(logits) < 3


class TestConfigOf:
  def settings(self, release):
    return json.loads((release / "CosyVoice-BlankEN/config.json").read_text())

  @pytest.fixture(scope="class")
  def tensors(self, release):
    from convert.read_pt import read_pt

    return read_pt(release / "llm.pt")

  def test_both_spellings_of_the_rope_base(self, release, tensors):
    old = self.settings(release)
    new = {k: v for k, v in old.items() if k != "rope_theta"} | {
      "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}
    }
    assert table_lm.config_of(old, tensors) == table_lm.config_of(new, tensors) == tiny().lm

  def test_sampling_and_interleaving_come_from_the_yaml(self, release, tensors):
    yaml = {"llm": {"mix_ratio": [3, 9], "sampling": {"top_p": 0.5, "top_k": 7, "win_size": 4, "tau_r": 0.5}}}
    c = table_lm.config_of(self.settings(release), tensors, yaml)
    assert (c.mix_text, c.mix_speech, c.top_p, c.top_k, c.repeat_window, c.repeat_rate) == (3, 9, 0.5, 7, 4, 0.5)

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      ({"num_key_value_heads": 4}, "k_proj"),
      ({"hidden_size": 32, "num_attention_heads": 2}, "llm_decoder"),
      ({"num_hidden_layers": 4}, "3 layers"),
      ({"hidden_act": "gelu"}, "silu"),
      ({"use_sliding_window": True}, "use_sliding_window"),
      ({"rope_scaling": {"type": "yarn"}}, "rotary"),
    ],
  )
  def test_disagreement_is_refused(self, release, tensors, change, message):
    with pytest.raises(ConversionError, match=message):
      table_lm.config_of(self.settings(release) | change, tensors)

  def test_missing_setting_is_named(self, release, tensors):
    settings = self.settings(release)
    del settings["rms_norm_eps"]
    with pytest.raises(ConversionError, match="rms_norm_eps"):
      table_lm.config_of(settings, tensors)
