"""The recogniser that trains the speech tokenizer: padding, causality, losses, reading, export."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import SpeechTokenizerConfig
from cosyjax.errors import ConfigError
from cosyjax.layers.basic import unbox
from cosyjax.speech_tokenizer import asr_loss, ctc, recognise, units
from cosyjax.speech_tokenizer.asr_model import AsrConfig, AsrTokenizer, init_arguments, saturation, subset
from cosyjax.speech_tokenizer.speech_encoder import SpeechTokenizer

CONFIG = SpeechTokenizerConfig(mel_bins=8, width=16, heads=2, layers=1, fsq_dims=3, fsmn_kernel=3)
ASR = AsrConfig(layers=1, decoder_layers=1, pitch_weight=0.5)
MODULE = AsrTokenizer(CONFIG, ASR)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles twice as fast


def _params(module):
  shapes = unbox(jax.eval_shape(module.init, jax.random.key(0), *init_arguments(CONFIG)))["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params():
  return _params(MODULE)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(1)
  f0_BT = rng.uniform(80, 300, (3, 24)) * (rng.random((3, 24)) < 0.6)
  return {
    "log_mel_BTM": rng.normal(size=(3, 48, 8)).astype(np.float32),
    "lengths_B": np.array([48, 37, 0], np.int32),
    "units_BL": np.array([[5, 5, 200, 7, 9, 1], [3, 256, 4, 0, 0, 0], [0] * 6], np.int32),
    "unit_lengths_B": np.array([6, 3, 0], np.int32),
    "f0_BT": f0_BT.astype(np.float32),
  }


@pytest.fixture(scope="module")
def forward(params):
  """Batch -> everything that the losses compare."""
  run = quick_jit(lambda batch: asr_loss.outputs(MODULE, params, batch))
  return lambda batch: run(batch)


@pytest.fixture(scope="module")
def loss_and_gradient(params):
  def total(params, batch):
    loss = asr_loss.asr_loss(MODULE, params, batch)
    return loss.total, loss

  return quick_jit(jax.grad(total, argnums=0, has_aux=True))


def _shuffled_padding(batch):
  """The same batch with other numbers wherever there is padding."""
  other = {name: array.copy() for name, array in batch.items()}
  for row in range(3):
    other["log_mel_BTM"][row, batch["lengths_B"][row] :] = 9.0
    other["units_BL"][row, batch["unit_lengths_B"][row] :] = 77
    other["f0_BT"][row, 2 * -(-batch["lengths_B"][row] // 4) :] = 500.0
  return other


def test_padding_changes_no_valid_output(forward, batch):
  a, b = forward(batch), forward(_shuffled_padding(batch))
  np.testing.assert_array_equal(a.quantised.lengths_B, [12, 10, 0])
  np.testing.assert_array_equal(a.quantised.ids_BU[1, :10], b.quantised.ids_BU[1, :10])
  np.testing.assert_allclose(a.ctc_BRV[1, :20], b.ctc_BRV[1, :20], atol=1e-4)
  np.testing.assert_allclose(a.scores_BLV[1, :4], b.scores_BLV[1, :4], atol=1e-4)
  np.testing.assert_allclose(a.pitch_BU22[1, :10], b.pitch_BU22[1, :10], atol=1e-4)


def test_padding_and_empty_rows_change_no_loss_or_gradient(loss_and_gradient, params, batch):
  (grads, loss), (other_grads, other) = (loss_and_gradient(params, x) for x in (batch, _shuffled_padding(batch)))
  assert float(loss.weight) == 6 + 1 + 3 + 1
  np.testing.assert_allclose(loss.total, other.total, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), grads, other_grads)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  # Rounding stops no gradient: the first layer of all has one.
  assert np.abs(grads["tokenizer"]["encoder"]["subsample_0"]["kernel"]).max() > 0


def test_rows_add_up(loss_and_gradient, params, batch):
  _, together = loss_and_gradient(params, batch)
  parts = []
  for row in range(2):
    one = {name: np.where((np.arange(3) == row).reshape(-1, *[1] * (x.ndim - 1)), x, 0) for name, x in batch.items()}
    parts.append(loss_and_gradient(params, one)[1])
  np.testing.assert_allclose(together.total, parts[0].total + parts[1].total, rtol=1e-5)
  assert set(together.metrics) >= {"attention", "ctc", "unit_accuracy", "ctc_impossible", "pitch", "f0_error"}
  for name, (total, weight) in together.metrics.items():
    np.testing.assert_allclose(total, sum(p.metrics[name][0] for p in parts), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(weight, sum(p.metrics[name][1] for p in parts), err_msg=name)


def test_the_decoder_sees_no_later_unit(params):
  ids_BL = jnp.array([[units.START, 5, 6, 7, 8]])

  def score(embedding):
    changed = {**params, "decoder": {**params["decoder"], "embedding": {"embedding": embedding}}}
    mel_BTM = jnp.ones((1, 16, 8))
    return MODULE.apply({"params": changed}, mel_BTM, jnp.array([16]), ids_BL).scores_BLV[0, 2].sum()

  gradient = np.abs(quick_jit(jax.grad(score))(params["decoder"]["embedding"]["embedding"])).max(axis=-1)
  assert (gradient[[units.START, 5, 6]] > 0).all()
  assert (gradient[[7, 8]] == 0).all()


def test_tokens_are_those_of_the_exported_tokenizer(forward, params, batch):
  ids_BU, lengths_B, _ = quick_jit(SpeechTokenizer(CONFIG).apply)(
    {"params": subset(params)}, batch["log_mel_BTM"], batch["lengths_B"]
  )
  found = forward(batch).quantised
  np.testing.assert_array_equal(ids_BU, found.ids_BU)
  np.testing.assert_array_equal(lengths_B, found.lengths_B)
  assert len(np.unique(ids_BU)) > 3


def test_attention_reads_one_unit_at_a_time_what_it_scores_at_once(params, batch):
  mel, lengths = jnp.asarray(batch["log_mel_BTM"]), jnp.asarray(batch["lengths_B"])
  read = quick_jit(lambda mel, lengths: recognise.read_attention(MODULE, params, mel, lengths))(mel, lengths)
  read_BL = np.asarray(read)
  assert not read_BL[2].any()  # a row without speech
  counts = (read_BL > 0).sum(axis=1)
  assert counts[0] > 1
  # Given what was read, the scores computed at once have their maximum at what was read next.
  given_BL = jnp.pad(read, ((0, 0), (1, 0)), constant_values=units.START)
  scores = quick_jit(MODULE.apply)({"params": params}, mel, lengths, given_BL)
  best_BL = np.asarray(scores.scores_BLV.at[..., jnp.array([units.BLANK, units.START])].set(-np.inf).argmax(-1))
  for row in range(2):
    np.testing.assert_array_equal(best_BL[row, : counts[row]], read_BL[row, : counts[row]])
    assert counts[row] == 2 * -(-int(lengths[row]) // 4) or best_BL[row, counts[row]] == units.END


def test_recognise_gives_texts(params, batch):
  texts = recognise.recognise(params, CONFIG, ASR, batch["log_mel_BTM"], batch["lengths_B"])
  assert len(texts) == 3 and texts[2] == ""
  with pytest.raises(ValueError, match="beam"):
    recognise.recognise(params, CONFIG, ASR, batch["log_mel_BTM"], batch["lengths_B"], method="beam")


@pytest.fixture(scope="module")
def apart(params, batch):
  """What CTC and attention read of the first two rows, and what each text costs each of them, as training has it."""
  inputs = batch["log_mel_BTM"][:2], batch["lengths_B"][:2]
  read = {name: quick_jit(functools.partial(getattr(recognise, f"read_{name}"), MODULE))(params, *inputs)
          for name in ("ctc", "attention")}  # fmt: skip
  texts = {name: [row[row > 0].tolist() for row in np.asarray(ids)] for name, ids in read.items()}
  assert texts["ctc"] != texts["attention"]

  most = max(len(ids) for rows in texts.values() for ids in rows)

  @quick_jit
  def compare(one):
    found = asr_loss.outputs(MODULE, params, one)
    fits = ctc.feasible(MODULE.asr.ctc_rate * found.quantised.lengths_B, one["units_BL"], one["unit_lengths_B"])[0]
    return asr_loss.compare(MODULE.asr, found, one).metrics, fits

  def price(row: int, ids: list[int]) -> tuple[float, float]:
    one = {name: batch[name][row : row + 1] for name in ("log_mel_BTM", "lengths_B", "f0_BT")}
    one["units_BL"] = np.array([ids + [0] * (most - len(ids))], np.int32)
    metrics, fits = compare(one | {"unit_lengths_B": np.array([len(ids)], np.int32)})
    return float(metrics["attention"][0]), float(metrics["ctc"][0]) if fits else np.inf

  return inputs, texts, {name: [price(row, ids) for row, ids in enumerate(rows)] for name, rows in texts.items()}


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_joint_reading_takes_the_likelier_text(params, apart, weight):
  inputs, texts, prices = apart
  module = AsrTokenizer(CONFIG, dataclasses.replace(ASR, ctc_weight=weight))
  joint_BR = np.asarray(quick_jit(functools.partial(recognise.read_joint, module))(params, *inputs))
  for row in range(2):
    cost = {}
    for name, (attention, spelled) in ((name, rows[row]) for name, rows in prices.items()):
      cost[name] = (1 - weight) * attention + (weight * spelled if weight else 0.0)
    assert joint_BR[row][joint_BR[row] > 0].tolist() == texts[min(cost, key=cost.get)][row], cost


@pytest.mark.long
def test_vector_quantisation_instead(batch):
  asr = dataclasses.replace(ASR, quantiser="vq", vq_codes=6, pitch_weight=0.0)
  module = AsrTokenizer(CONFIG, asr)
  params = _params(module)
  loss = quick_jit(lambda params: asr_loss.asr_loss(module, params, batch))(params)
  pull, tokens = loss.metrics["codebook"]
  assert float(tokens) == 22 and float(pull) > 0
  without = (1 - asr.ctc_weight) * loss.metrics["attention"][0] + asr.ctc_weight * loss.metrics["ctc"][0]
  np.testing.assert_allclose(loss.total, without + pull, rtol=1e-5)
  with pytest.raises(ConfigError, match="vq"):
    subset(params)


def test_digits_are_drawn_back_to_where_tanh_has_a_slope():
  x_BUJ = jnp.array([[[0.0, 0.9, -1.0], [3.0, -1.5, 0.0]]])
  np.testing.assert_allclose(saturation(x_BUJ), [[0, (4 + 0.25) / 3]])
  gradient = jax.grad(lambda x: saturation(x).sum())(x_BUJ)
  np.testing.assert_allclose(gradient[0, 1], [4 / 3, -1 / 3, 0], rtol=1e-6)


def test_a_training_config_checks_itself():
  with pytest.raises(ConfigError, match="quantiser"):
    AsrConfig(quantiser="rvq")
  with pytest.raises(ConfigError, match="ctc_weight"):
    AsrConfig(ctc_weight=1.5)


# Units


@pytest.mark.parametrize("text", ["", "Hello, world.", "你好，CosyVoice！", "\x00 ÿ"])
def test_units_are_the_bytes(text):
  ids = units.encode(text)
  assert len(ids) == len(text.encode()) and (ids > 0).all() and (ids < units.START).all()
  assert units.decode(ids) == text
  assert units.decode([units.START, 0, *ids, 0, units.END]) == text


def test_broken_bytes_are_marked():
  assert units.decode(units.encode("你")[:2]) == "\ufffd"


# CTC


def _brute_force(log_probs_RV, target):
  """Sum over all paths of so few frames."""
  frames, scores = log_probs_RV.shape
  total = -np.inf
  for path in np.ndindex(*(scores,) * frames):
    kept = [v for r, v in enumerate(path) if v and (r == 0 or path[r - 1] != v)]
    if kept == target:
      total = np.logaddexp(total, sum(log_probs_RV[r, v] for r, v in enumerate(path)))
  return -total


def test_ctc_sums_over_all_alignments():
  logits = np.random.default_rng(2).normal(size=(3, 5, 3)).astype(np.float32)
  targets = np.array([[1, 2], [1, 1], [2, 7]])
  found = ctc.loss(logits, np.array([5, 4, 3]), targets, np.array([2, 2, 1]))
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  expected = [_brute_force(log_probs[0], [1, 2]), _brute_force(log_probs[1, :4], [1, 1]),
              _brute_force(log_probs[2, :3], [2])]  # fmt: skip
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ctc_leaves_out_what_does_not_fit():
  logits, ids = jnp.zeros((3, 3, 4)), jnp.array([[1, 2, 3], [1, 1, 2], [1, 1, 2]])
  frames, lengths = jnp.array([3, 3, 3]), jnp.array([3, 3, 2])
  np.testing.assert_array_equal(ctc.feasible(frames, ids, lengths), [True, False, True])
  rows, gradient = jax.value_and_grad(lambda x: ctc.loss(x, frames, ids, lengths).sum())(logits)
  assert 0 < rows < 20
  assert np.isfinite(gradient).all() and (gradient[1] == 0).all()


def test_ctc_greedy_drops_blanks_and_repetitions():
  best = np.array([[1, 1, 0, 1, 2, 2, 3], [0, 3, 3, 0, 3, 1, 1]])
  ids = np.asarray(ctc.greedy(jax.nn.one_hot(best, 4), np.array([6, 5])))
  assert [row[row > 0].tolist() for row in ids] == [[1, 1, 2], [3, 3]]
