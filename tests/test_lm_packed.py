"""Packed training rows of the text-speech model: several utterances in a row, none sees another."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import tiny
from cosyjax.errors import ConfigError
from cosyjax.layers import attention
from cosyjax.layers.basic import unbox
from cosyjax.layers.masks import segment_mask
from cosyjax.layers.stack import stack_layers
from cosyjax.lm import lm_objective, loss, sequence
from cosyjax.lm.text_speech_lm import TextSpeechLM
from tests.test_lm_model import golden_rows, load_lm

LENGTH = 160
QUICK = {"xla_backend_optimization_level": "0"}  # compiling is nearly all of the time


@pytest.fixture(scope="module")
def lm(release):
  """The small release in the layout of training."""
  model, params = load_lm(release)
  return TextSpeechLM(model.config, scan=True, remat="full"), stack_layers(params)


def pack(rows, places, batch, length):
  """A packed batch: utterance i goes into row places[i], after those that are there already."""
  out = {
    name: np.zeros((batch, length), np.int32) for name in ("ids_BL", "token_types_BL", "segments_BL", "positions_BL")
  }
  out["targets_BL"] = np.full((batch, length), sequence.IGNORE, np.int32)
  ends, counts = [0] * batch, [0] * batch
  for row, b in zip(rows, places, strict=True):
    n = len(row.ids_L)
    span = slice(ends[b], ends[b] + n)
    counts[b] += 1
    out["ids_BL"][b, span], out["token_types_BL"][b, span], out["targets_BL"][b, span] = (
      row.ids_L,
      row.token_types_L,
      row.targets_L,
    )
    out["segments_BL"][b, span], out["positions_BL"][b, span] = counts[b], np.arange(n)
    ends[b] += n
  return out


def golden_utterances(data, config, interleaved):
  cut = zip(data["text_token"], data["text_len"], data["speech_token"], data["speech_len"], interleaved, strict=True)
  return [sequence.training_row(t[:n], s[:m], config, interleaved=bool(i)) for t, n, s, m, i in cut]


@pytest.fixture(scope="module")
def objective(lm):
  model, params = lm
  return jax.jit(lambda batch: lm_objective.objective(model, params, batch, chunk=48, layouts=True))


@pytest.mark.parametrize(
  ("name", "interleaved"),
  [("lm_unistream", (0, 0, 0)), ("lm_bistream", (1, 1, 1)), ("lm_mixed", (1, 0, 1))],
)
def test_packed_rows_have_the_loss_of_the_reference(lm, objective, golden, name, interleaved):
  """Two utterances in one row and one in another, chunks of logits that do not divide the row."""
  data = golden(name)
  batch = pack(golden_utterances(data, lm[0].config, interleaved), (0, 1, 0), 2, LENGTH)
  found = objective(batch)
  np.testing.assert_allclose(found.total / found.weight, data["loss"], atol=1e-5)
  right, count = found.metrics["accuracy"]
  np.testing.assert_allclose(right / count, data["accuracy"], atol=1e-6)
  known, mixed = (found.metrics[f"loss_{layout}"] for layout in lm_objective.LAYOUTS)
  np.testing.assert_allclose(known[0] + mixed[0], found.total, rtol=1e-6)
  # In lm_mixed the third utterance has too little speech to be interleaved, and the first is.
  targets = [int((row.targets_L >= 0).sum()) for row in golden_utterances(data, lm[0].config, interleaved)]
  expected = {"lm_unistream": 0, "lm_bistream": mixed[1], "lm_mixed": targets[0]}[name]
  assert float(mixed[1]) == expected and float(known[1] + mixed[1]) == sum(targets)


def test_each_utterance_scores_as_it_does_alone(lm, golden):
  model, params = lm
  rows = golden_utterances(golden("lm_mixed"), model.config, (1, 0, 1))
  packed = pack(rows, (0, 0, 0), 2, LENGTH)
  padded = golden_rows(golden("lm_mixed"), model.config, (1, 0, 1))
  run = jax.jit(
    lambda p, s, q: (
      model.apply({"params": params}, p["ids_BL"], p["token_types_BL"], segments_BL=p["segments_BL"],
                  positions_BL=p["positions_BL"]),
      model.apply({"params": params}, s, q, padded.lengths_B),
    ),
    compiler_options=QUICK,
  )  # fmt: skip
  together, alone = run(packed, padded.ids_BL, padded.token_types_BL)
  for i, row in enumerate(rows):
    part = np.asarray(together)[0][packed["segments_BL"][0] == i + 1]
    np.testing.assert_allclose(part, alone[i, : len(row.ids_L)], atol=1e-5)
    np.testing.assert_allclose(
      loss.cross_entropy(part[None], row.targets_L[None]),
      loss.cross_entropy(np.asarray(alone)[i : i + 1, : len(row.ids_L)], row.targets_L[None]),
      atol=1e-5,
    )


def test_no_gradient_crosses_an_utterance(lm):
  """Three utterances of ids of their own: a loss in the second one moves the rows of its ids alone."""
  model, params = lm
  kinds = np.full((1, 24), sequence.SPEECH, np.int32)
  ids = np.arange(24, dtype=np.int32)[None]
  segments = np.repeat([1, 2, 3, 0], [7, 8, 6, 3])[None].astype(np.int32)
  positions = np.concatenate([np.arange(n) for n in (7, 8, 6, 3)])[None].astype(np.int32)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def gradient(params):
    def score(params):
      logits = model.apply({"params": params}, ids, kinds, segments_BL=segments, positions_BL=positions)
      return jnp.sum(jnp.square(logits[0, 7:13])) + jnp.sum(jnp.square(logits[0, 21:]))

    return jax.grad(score)(params)

  table = gradient(params)["speech_embedding"]["embedding"]
  assert np.all(np.abs(table[7:13]).max(axis=1) > 0)
  np.testing.assert_array_equal(table[:7], 0)
  np.testing.assert_array_equal(table[13:], 0)


def test_attention_in_pieces_is_the_plain_one(monkeypatch):
  """Four pieces of unequal size against a product of everything, gradients too."""
  monkeypatch.setattr(attention, "PIECE", 5)
  rng = np.random.default_rng(0)
  q, k, v = (rng.standard_normal((2, 23, heads, 4)).astype(np.float32) for heads in (6, 2, 2))
  segments = np.stack([np.repeat([1, 2, 0], [9, 10, 4]), np.repeat([1, 0], [20, 3])]).astype(np.int32)

  def plain(q, k, v):
    scores = jnp.einsum("blnh,bsnh->bnls", q, jnp.repeat(k, 3, axis=2)) / 2
    scores = jnp.where(segment_mask(segments)[:, None], scores, -jnp.inf)
    return jnp.einsum("bnls,bsnh->blnh", jax.nn.softmax(scores), jnp.repeat(v, 3, axis=2))

  weight = rng.standard_normal(q.shape).astype(np.float32)
  both = [
    jax.jit(jax.value_and_grad(lambda *a, f=f: jnp.sum(f(*a) * weight), argnums=(0, 1, 2)))(q, k, v)
    for f in (plain, lambda *a: attention.attend(*a, attention.Segments(segments)))
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *both)


def test_segment_mask():
  mask = segment_mask(jnp.array([[1, 1, 2, 2, 0]]))
  expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
  np.testing.assert_array_equal(mask[0], np.array(expected, bool))
  part = segment_mask(jnp.array([2, 2]), jnp.array([1, 1, 2, 2]), start=2)
  np.testing.assert_array_equal(part, mask[0, 2:4, :4])


class TestSpeakerAblation:
  """One more position after START, of which the other parameters know nothing."""

  @pytest.fixture(scope="class")
  def batch(self):
    config = tiny().lm
    rows = [sequence.training_row([5, 6], [7, 8, 9], config, interleaved=False, speaker=True) for _ in range(3)]
    speakers = np.random.default_rng(0).standard_normal((2, 4, 24)).astype(np.float32)
    return pack(rows, (0, 0, 1), 2, 20) | {"speaker_BSE": speakers}

  def test_rows_have_a_place_for_it(self, batch):
    assert batch["token_types_BL"][0, :2].tolist() == [sequence.SPECIAL, sequence.SPEAKER]
    assert batch["targets_BL"][0, :9].tolist() == [-1, -1, -1, -1, 7, 8, 9, 6561, -1]

  def test_each_utterance_reads_its_own_speaker(self, batch):
    model = TextSpeechLM(dataclasses.replace(tiny().lm, layers=1), speaker_dim=24)
    arguments = {name: batch[name] for name in ("segments_BL", "positions_BL", "speaker_BSE")}

    init = lambda key: unbox(model.init(key, batch["ids_BL"], batch["token_types_BL"], **arguments)["params"])
    rng = np.random.default_rng(1)
    params = jax.tree.map(
      lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32), jax.eval_shape(init, jax.random.key(0))
    )
    assert params["speaker_projection"]["kernel"].shape == (24, 64)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(speakers):
      def total(speakers):
        logits = model.apply(
          {"params": params}, batch["ids_BL"], batch["token_types_BL"], **arguments | {"speaker_BSE": speakers}
        )
        return jnp.sum(jnp.square(logits[0, 8:16]))  # the second utterance of the first row

      return jax.grad(total)(speakers)

    size = np.abs(gradient(batch["speaker_BSE"])).max(axis=-1)
    assert size[0, 1] > 0 and np.count_nonzero(size) == 1

  def test_without_it_the_parameters_are_as_ever_and_vectors_are_refused(self, batch):
    shape = lambda **options: unbox(
      jax.eval_shape(
        lambda: TextSpeechLM(tiny().lm, **options).init(
          jax.random.key(0), batch["ids_BL"], batch["token_types_BL"], segments_BL=batch["segments_BL"],
          speaker_BSE=batch["speaker_BSE"] if options else None,
        )["params"]
      )
    )  # fmt: skip
    assert set(shape(speaker_dim=24)) - set(shape()) == {"speaker_projection"}
    with pytest.raises(ConfigError, match="length of 0"):
      TextSpeechLM(tiny().lm).init(
        jax.random.key(0), batch["ids_BL"], batch["token_types_BL"], segments_BL=batch["segments_BL"],
        speaker_BSE=batch["speaker_BSE"],
      )  # fmt: skip
    with pytest.raises(ConfigError, match="either lengths_B"):
      TextSpeechLM(tiny().lm).init(jax.random.key(0), batch["ids_BL"], batch["token_types_BL"])


def test_unigram_accuracy_is_the_share_of_the_commonest_target():
  assert lm_objective.unigram_accuracy(np.array([3, 5, 2])) == 0.5
  assert lm_objective.unigram_accuracy(np.zeros(4)) == 0
