"""The flow against what the public PyTorch modules compute with the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import engine, table_flow
from convert.read_pt import read_pt
from convert.read_yaml import read_yaml
from cosyjax.flow import matching, noise
from cosyjax.flow.flow_model import Flow, init_arguments, mel_lengths
from cosyjax.flow.generate import generate
from cosyjax.flow.token_encoder import TokenEncoder
from cosyjax.flow.unet import UNet
from cosyjax.layers.masks import equal_blocks


@functools.lru_cache(maxsize=1)
def converted(release):
  """The small release's flow: (module, parameters)."""
  tensors = read_pt(release / "flow.pt")
  config = table_flow.config_of(read_yaml(release / "cosyvoice2.yaml"), tensors)
  model = Flow(config)
  abstract = jax.eval_shape(model.init, jax.random.key(0), *init_arguments(config))["params"]
  return model, engine.convert("flow", tensors, table_flow.table(config), abstract).params


@pytest.fixture(scope="module")
def flow(release):
  return converted(release)


@pytest.fixture(scope="module")
def encode(flow):
  model, params = flow
  encoder = TokenEncoder(model.config.encoder, model.config.frames_per_token)
  return jax.jit(lambda *a: encoder.apply({"params": params["encoder"]}, *a))


@pytest.fixture(scope="module")
def velocity(flow):
  model, params = flow
  unet = UNet(model.config.estimator)
  return jax.jit(lambda *a: unet.apply({"params": params["unet"]}, *a))


def last(x):
  """PyTorch's [batch, channel, time] to [batch, time, channel]."""
  return np.swapaxes(x, 1, 2)


@pytest.mark.parametrize(("name", "chunk"), [("offline", 0), ("streaming", 25)])
def test_encoder(golden, encode, name, chunk):
  g = golden(f"flow_encoder_{name}")
  blocks = equal_blocks(g["x"].shape[1], chunk)
  # The reference's convolution looks past a short row's end into its padding. Here that would
  # break contract 5; the same three tokens, given as look-ahead context, show the rest to agree.
  h = encode(g["x"], jnp.array([57, 41 + 3]), blocks, jnp.array([57, 41]))
  np.testing.assert_allclose(h[0], g["h"][0], atol=1e-4)
  np.testing.assert_allclose(h[1, :82], g["h"][1, :82], atol=1e-4)


def test_encoder_with_context(golden, encode):
  g = golden("flow_encoder_context")
  x = np.concatenate([g["x"], g["context"]], axis=1)
  h = encode(x, jnp.array([53]), equal_blocks(53, 25), jnp.array([50]))
  np.testing.assert_allclose(h[:, :100], g["h"], atol=1e-4)


@pytest.mark.parametrize(("name", "chunk"), [("offline", 0), ("streaming", 50)])
def test_unet(golden, velocity, name, chunk):
  g = golden("flow_unet_offline")
  blocks = equal_blocks(g["x"].shape[2], chunk)
  y = velocity(last(g["x"]), last(g["mu"]), g["spk"], last(g["cond"]), g["t"], g["lengths"].astype(np.int32), blocks)
  np.testing.assert_allclose(y, last(golden(f"flow_unet_{name}")["y"]), atol=1e-4)


@pytest.fixture(scope="module")
def solve(flow):
  model, params = flow

  def run(g, chunk, final):
    tokens = np.concatenate([g["prompt_token"], g["token"]], axis=1).astype(np.int32)
    prompt = g["prompt_mel"].shape[1]
    mel = jitted(
      params, tokens, jnp.array([tokens.shape[1]]), g["prompt_mel"], jnp.array([prompt]), g["speaker"],
      noise.noise_table(2 * tokens.shape[1]), chunk, final,
    )  # fmt: skip
    end = int(mel_lengths(model.config, tokens.shape[1], final))
    return np.asarray(mel[:, prompt:end])

  jitted = jax.jit(lambda *a: generate(model, *a[:-2], chunk=a[-2], final=a[-1]))
  return run


@pytest.mark.parametrize("final", ["final", "partial"])
@pytest.mark.parametrize(("name", "chunk"), [("offline", 0), ("streaming", 25)])
def test_inference(golden, solve, name, chunk, final):
  g = golden(f"flow_inference_{name}_{final}")
  np.testing.assert_allclose(solve(g, chunk, final == "final"), last(g["mel"]), atol=1e-3)


def test_chunk_masked_prefix_is_what_a_stream_hears(golden, solve):
  """Cut off after 25 + 3 tokens, the first block's frames come out as in the whole request."""
  g = golden("flow_inference_streaming_final")
  cut = dict(g, token=g["token"][:, : 50 + 3 - g["prompt_token"].shape[1]])
  whole, part = solve(g, 25, True), solve(cut, 25, False)
  np.testing.assert_allclose(part, whole[:, : part.shape[1]], atol=1e-4)


def test_loss(golden, velocity, flow):
  g = golden("flow_loss")
  lengths = g["lengths"].astype(np.int32)
  x, target = matching.interpolate(last(g["x1"]), last(g["z"]), g["t"], flow[0].config.sigma_min)
  prediction = velocity(x, last(g["mu"]), g["spk"], last(g["cond"]), g["t"], lengths, equal_blocks(90, 0))
  np.testing.assert_allclose(prediction, last(g["prediction"]), atol=1e-4)
  assert float(matching.loss(prediction, target, lengths, "squared")) == pytest.approx(float(g["mse"]), abs=1e-4)
  assert float(matching.loss(prediction, target, lengths, "l1")) == pytest.approx(float(g["l1"]), abs=1e-4)


def test_noise_table(golden):
  g = golden("flow_noise")
  table_TM = noise.noise_table(15_000)
  assert (1, *table_TM.shape[::-1]) == tuple(g["shape"])
  np.testing.assert_allclose(table_TM[:64].T, g["first"], atol=1e-6)
  np.testing.assert_allclose(table_TM[-8:].T, g["last"], atol=1e-6)
  assert table_TM.sum(dtype=np.float64) == pytest.approx(float(g["sum"]), abs=1e-3)
