"""What must hold of the flow whatever its weights: causality, padding, batching, blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as config_lib
from cosyjax.errors import ConfigError
from cosyjax.flow import matching, noise
from cosyjax.flow.flow_model import Flow, init_arguments, mel_lengths
from cosyjax.flow.generate import generate
from cosyjax.flow.token_encoder import TokenEncoder
from cosyjax.flow.unet import UNet
from cosyjax.layers.basic import unbox
from cosyjax.layers.masks import equal_blocks, repeat_blocks

U, M = 20, 5  # tokens, tokens in a block
LOOKAHEAD = config_lib.FlowEncoderConfig.lookahead
RATE = config_lib.FlowConfig.frames_per_token
STEPS = 2


@pytest.fixture(scope="module")
def flow():
  """Tiny flow with random weights, one block to a stack: three transformers in the UNet, two in the encoder."""
  config = config_lib.tiny().flow
  encoder = dataclasses.replace(config.encoder, layers=1, up_layers=1)
  config = dataclasses.replace(config, encoder=encoder, estimator=dataclasses.replace(config.estimator, mid_layers=1))
  model = Flow(config)
  return model, unbox(jax.jit(model.init)(jax.random.key(0), *init_arguments(config))["params"])


@pytest.fixture(scope="module")
def influence(flow):
  """(blocks, frame) -> size of the gradient of that mel frame by each token, x, cond and mu frame."""
  model, params = flow
  config = model.config
  encoder, unet = TokenEncoder(config.encoder, RATE), UNet(config.estimator)
  draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  # A batch of one row that is full and one that is cut short by what follows its third block.
  lengths = jnp.array([U, 3 * M])

  def frame(inputs, blocks, t):
    embedded, x, cond, speaker = inputs
    h = encoder.apply({"params": params["encoder"]}, embedded, lengths, blocks)
    mu = h @ params["to_mel"]["kernel"]
    y = unet.apply(
      {"params": params["unet"]}, x, mu, speaker, cond, jnp.full(2, 0.3), RATE * lengths, repeat_blocks(blocks, RATE)
    )
    weights = jnp.cos(jnp.arange(y.shape[-1], dtype=jnp.float32))  # no symmetry that could cancel
    return jnp.sum(y[:, t] * weights)

  grad = jax.jit(jax.grad(frame))
  T = RATE * U
  inputs = (
    draw(1, 2, U, config.token_width), draw(2, 2, T, config.mel_bins),
    draw(3, 2, T, config.mel_bins), draw(4, 2, config.mel_bins),
  )  # fmt: skip
  return lambda blocks, t: [np.abs(np.asarray(g)).sum(-1) for g in grad(inputs, blocks, t)[:3]]


@pytest.mark.parametrize("chunk", [0, 1, M, 2 * M], ids=["full", "causal", "M", "2M"])
def test_gradient_beyond_chunk_and_lookahead_is_zero(influence, chunk):
  for t in (0, 2 * M, 2 * M + 1, 4 * M - 1, 7 * M):
    end = -(-(t // RATE + 1) // chunk) * chunk if chunk else U  # tokens up to the end of t's block
    token, x, cond = influence(equal_blocks(U, chunk), t)
    assert np.all(token[0, end + LOOKAHEAD :] == 0)
    assert np.all(x[0, RATE * end :] == 0)
    assert np.all(cond[0, RATE * end :] == 0)
    assert np.all(token[0, : end + LOOKAHEAD] > 0)  # and all that may be seen is seen
    assert np.all(x[0, : RATE * end] > 0)
    assert np.all(cond[0, : RATE * end] > 0)
    end = min(end, 3 * M)
    for gradient, stop in ((token, end if end == 3 * M else end + LOOKAHEAD), (x, RATE * end), (cond, RATE * end)):
      assert np.all(gradient[1, min(stop, 3 * M * len(gradient[1]) // U) :] == 0)  # nothing comes from padding


def test_gradient_under_unequal_blocks(influence):
  """A stream's schedule: 4 tokens, 10, and the rest."""
  blocks = jnp.repeat(jnp.arange(3), jnp.array([4, 10, 6]), total_repeat_length=U)
  for t, end in ((7, 4), (8, 14), (27, 14), (28, 20)):
    token, x, _ = influence(blocks, t)
    np.testing.assert_array_equal(token[0] > 0, np.arange(U) < end + LOOKAHEAD)
    np.testing.assert_array_equal(x[0] > 0, np.arange(RATE * U) < RATE * end)


@pytest.fixture(scope="module")
def requests(flow):
  """Five requests of unlike lengths, prompts (one has none) and endings, each a dict of unpadded arrays."""
  config, rng = flow[0].config, np.random.default_rng(0)
  rows = []
  for tokens, prompt, final in ((20, 14, True), (11, 0, True), (17, 9, False), (1, 0, True), (8, 8, False)):
    rows.append(
      {
        "tokens": rng.integers(0, config.codebook_size, tokens),
        "prompt": rng.normal(-4, 2, (prompt, config.mel_bins)),
        "speaker": rng.normal(size=config.speaker_dim) * 7,
        "final": final,
      }
    )
  return rows


@pytest.fixture(scope="module")
def solve(flow):
  """Runs rows as one batch in a bucket of `size` tokens whose padding holds `junk`; returns each row's valid mel."""
  model, params = flow
  jitted = jax.jit(lambda *a: generate(model, params, *a[:6], chunk=a[6], final=a[7], steps=STEPS))

  def run(rows, size, chunk, junk):
    tokens = np.full((len(rows), size), int(junk) % model.config.codebook_size, np.int32)
    prompt = np.full((len(rows), RATE * size, model.config.mel_bins), junk, np.float32)
    for i, row in enumerate(rows):
      tokens[i, : len(row["tokens"])] = row["tokens"]
      prompt[i, : len(row["prompt"])] = row["prompt"]
    lengths = np.array([len(row["tokens"]) for row in rows], np.int32)
    final = np.array([row["final"] for row in rows])
    mel = jitted(
      tokens, lengths, prompt, np.array([len(row["prompt"]) for row in rows], np.int32),
      np.stack([row["speaker"] for row in rows]).astype(np.float32), noise.noise_table(RATE * size), chunk, final,
    )  # fmt: skip
    ends = mel_lengths(model.config, lengths, final)
    assert all(np.all(m[end:] == 0) for m, end in zip(mel, ends, strict=True))
    return [np.asarray(m[:end]) for m, end in zip(mel, ends, strict=True)]

  return run


@pytest.mark.parametrize("chunk", [0, M])
def test_row_of_a_batch_is_the_request_alone(requests, solve, chunk):
  together = solve(requests, 24, chunk, junk=1e4)
  assert [len(mel) for mel in together] == [40, 22, 28, 2, 10]
  for row, mel in zip(requests, together, strict=True):
    (alone,) = solve([row], 20, chunk, junk=0.0)
    np.testing.assert_allclose(mel, alone, atol=1e-4)
  (exact,) = solve(requests[:1], 20, chunk, junk=0.0)  # not a frame of padding
  np.testing.assert_allclose(together[0], exact, atol=1e-4)


def test_random_weights_give_sensible_mel(requests, solve):
  for mel in solve(requests, 24, 0, junk=0.0):
    assert np.all(np.isfinite(mel))
    assert 0.2 < mel.std() < 5
  assert np.abs(solve(requests, 24, 0, 0.0)[0] - solve(requests, 24, M, 0.0)[0]).max() > 1e-3  # masks matter


@pytest.fixture(scope="module")
def arguments(flow):
  config = flow[0].config
  rng = np.random.default_rng(1)
  tokens = jnp.asarray(rng.integers(0, config.codebook_size, (2, 12)), jnp.int32)
  prompt = jnp.asarray(rng.normal(-4, 2, (2, 6, config.mel_bins)), jnp.float32)
  speaker = jnp.asarray(rng.normal(size=(2, config.speaker_dim)), jnp.float32)
  return tokens, jnp.array([12, 10]), prompt, jnp.array([6, 4]), speaker, jnp.asarray(noise.noise_table(24))


@pytest.fixture(scope="module")
def by_blocks(flow, arguments):
  model, params = flow
  return jax.jit(lambda blocks: generate(model, params, *arguments, chunk=blocks, steps=STEPS))


def test_chunk_is_short_for_equal_blocks(flow, arguments, by_blocks):
  model, params = flow
  static = jax.jit(lambda: generate(model, params, *arguments, chunk=M, steps=STEPS))()
  np.testing.assert_allclose(by_blocks(equal_blocks(12, M)), static, atol=1e-5)


def test_rows_may_have_blocks_of_their_own(by_blocks):
  blocks = jnp.stack([equal_blocks(12, M), equal_blocks(12, 0)])
  mixed = by_blocks(blocks)
  np.testing.assert_allclose(mixed[0], by_blocks(blocks[0])[0], atol=1e-4)
  np.testing.assert_allclose(mixed[1], by_blocks(blocks[1])[1], atol=1e-4)
  assert float(jnp.abs(by_blocks(blocks[0])[1] - mixed[1]).max()) > 1e-3


def test_no_guidance_is_the_conditional_branch_alone(flow, arguments):
  model, params = flow
  run = lambda w: jax.jit(lambda: generate(model, params, *arguments, guidance=w, steps=STEPS))()
  np.testing.assert_allclose(run(0), run(jnp.float32(0.0)), atol=1e-4)


def test_speaker_length_and_tokens_out_of_range_do_not_matter(flow, arguments):
  model, params = flow
  run = jax.jit(
    lambda tokens, speaker: generate(model, params, tokens, *arguments[1:4], speaker, noise_TM, steps=STEPS)
  )
  tokens, speaker, noise_TM = arguments[0], arguments[4], arguments[5]
  odd = tokens.at[0, 3].set(-1), speaker * 10
  np.testing.assert_allclose(run(*odd), run(tokens.at[0, 3].set(0), speaker), atol=1e-4)


def test_short_noise_is_refused(flow, arguments):
  model, params = flow
  with pytest.raises(ConfigError, match="at least 24 frames for 12 tokens, found 23"):
    generate(model, params, *arguments[:5], arguments[5][:23])


def test_training_prediction_is_the_same_networks(flow, arguments):
  """One call predicts what encode, project_speaker and velocity give; a dropped row loses its conditions."""
  model, params = flow
  tokens, lengths, speaker = arguments[0], arguments[1], arguments[4]
  x, cond = (jax.random.normal(jax.random.key(i), (2, 24, model.config.mel_bins)) for i in range(2))
  t, blocks = jnp.array([0.2, 0.9]), equal_blocks(12, M)

  @jax.jit
  def both(keep):
    run = lambda *a, method=None: model.apply({"params": params}, *a, method=method)
    whole = run(tokens, lengths, speaker, x, cond, t, blocks, keep)
    mu = run(tokens, lengths, blocks, method=Flow.encode) * keep[:, None, None]
    spk = run(speaker, method=Flow.project_speaker) * keep[:, None]
    parts = (x, mu, spk, cond * keep[:, None, None], t, RATE * lengths, repeat_blocks(blocks, RATE))
    return whole, run(*parts, method=Flow.velocity)

  whole, parts = both(jnp.array([True, False]))
  np.testing.assert_allclose(whole, parts, atol=1e-5)
  assert np.isfinite(float(matching.loss(whole, x, RATE * lengths)))


def test_bfloat16_stays_near_float32(flow, arguments):
  model, params = flow
  half = dataclasses.replace(model, dtype=jnp.bfloat16)
  run = lambda m: np.asarray(jax.jit(lambda: generate(m, params, *arguments, steps=STEPS))())
  exact, rough = run(model), run(half)
  assert rough.dtype == np.float32
  assert np.abs(rough - exact).mean() < 0.02 * exact.std()
