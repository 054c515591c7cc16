"""A training step of the vocoder (long: compiled twice, in two forms), and two steps of its program."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile

from cosyjax.config import AudioConfig, VocoderConfig
from cosyjax.data.feature_store import ShardWriter, shard_stem
from cosyjax.sharding import make_mesh
from cosyjax.training.optimiser import OptimConfig, make_optimiser
from cosyjax.training.train_state import create_state
from cosyjax.vocoder import gan_step, losses
from cosyjax.vocoder.discriminators import DiscriminatorConfig, Discriminators
from cosyjax.vocoder.hift import Vocoder, init_arguments
from train import vocoder

HOP = AudioConfig().hop

MODEL = VocoderConfig(
  channels=8,
  f0_channels=8,
  harmonics=2,
  upsample_rates=(12, 10),
  upsample_kernels=(12, 10),
  resblock_kernels=(3,),
  resblock_dilations=((1,),),
  source_kernels=(3, 3),
  source_dilations=((1,), (1,)),
)
JUDGES = DiscriminatorConfig(
  periods=(3,), period_channels=(4, 8), spectra=((128, 64, 128),), spectrum_channels=4, spectrum_strides=(2,)
)
ROWS, FRAMES = 8, 5
OPTIM = OptimConfig(learning_rate=0.01, clip=0.0)


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  lengths_B = np.full(ROWS, FRAMES, np.int32)
  lengths_B[-2:] = FRAMES - 2, 0
  time_A = np.arange(FRAMES * HOP) / 24_000
  wave_BA = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 300, (ROWS, 1)) * time_A)
  return {
    "audio_BA": (wave_BA + 0.01 * rng.standard_normal(wave_BA.shape)).astype(np.float32),
    "mel_BTM": rng.standard_normal((ROWS, FRAMES, 80)).astype(np.float32),
    "f0_BT": rng.uniform(100, 300, (ROWS, FRAMES)).astype(np.float32),
    "lengths_B": lengths_B,
    "key": np.array([seed, 7], np.uint32),
  }


def _parts(optim, judges=JUDGES):
  names = ("generator", "discriminators")
  optims, steps = dict.fromkeys(names, optim), dict.fromkeys(names, 100)
  model, judges = Vocoder(MODEL), Discriminators(judges)
  return model, judges, {name: make_optimiser(optim, 100) for name in names}, optims, steps


def inits(model, judges):
  return {
    "generator": lambda key: model.init(key, *init_arguments(model.config))["params"],
    "discriminators": lambda key: judges.init(key, jnp.zeros((1, FRAMES * HOP)))["params"],
  }


def _states(parts, mesh):
  model, judges, transforms, optims, _ = parts
  return {
    name: create_state(init, transforms[name], optims[name], mesh, jax.random.key(0))
    for name, init in inits(model, judges).items()
  }


@pytest.fixture(scope="module")
def parts():
  return _parts(OPTIM)


@pytest.fixture(scope="module")
def states(parts):
  """The states on the host: a step donates its own."""
  return jax.tree.map(np.asarray, _states(parts, make_mesh(devices=jax.devices()[:1])))


@pytest.fixture(scope="module")
def updates(parts):
  """(generator alone, both)."""
  model, judges, *rest = parts
  alone, both = gan_step.make_updates(model, judges, gan_step.Objective(), *rest)
  place = lambda f: lambda states, batch: f(jax.tree.map(jnp.array, states), batch)
  return place(alone), place(both)


@pytest.mark.long
def test_one_update_is_a_step_of_each_network_in_turn(parts, states, updates):
  model, judges, transforms, _, _ = parts
  batch, weights = _batch(), gan_step.Objective()
  lengths_B = batch["lengths_B"]
  mean = lambda loss_B: jnp.sum(loss_B * lengths_B) / jnp.sum(lengths_B)
  valid_BA = jnp.arange(FRAMES * HOP) < lengths_B[:, None] * HOP

  @jax.jit
  def in_turn(g, d, g_moments, d_moments):
    real_BA = jnp.where(valid_BA, batch["audio_BA"], 0)
    judge = lambda d, x: judges.apply({"params": d}, x)
    draws = gan_step.draw(jax.random.wrap_key_data(batch["key"]), ROWS, FRAMES, MODEL)

    def generate(g):
      wave_BA, out = model.apply({"params": g}, batch["mel_BTM"], lengths_B, *draws)
      return wave_BA, out["f0"]

    def judges_loss(d):
      real, fake = judge(d, real_BA)[0], judge(d, generate(g)[0])[0]
      return mean(losses.discriminator_loss(real, fake) + losses.relativistic_loss(real, fake))

    change, _ = transforms["discriminators"].update(jax.grad(judges_loss)(d), d_moments, d)
    d = optax.apply_updates(d, change)

    def generator_loss(g):
      wave_BA, f0_BT = generate(g)
      (real, real_maps), (fake, maps) = judge(d, real_BA), judge(d, wave_BA)
      return mean(
        weights.mel * losses.mel_loss(real_BA, wave_BA, lengths_B, MODEL)
        + 4 * losses.feature_loss(real_maps, maps)
        + losses.generator_loss(fake)
        + losses.relativistic_loss(fake, real)
        + losses.f0_loss(batch["f0_BT"], f0_BT, lengths_B)
      )

    loss, grads = jax.value_and_grad(generator_loss)(g)
    change, _ = transforms["generator"].update(grads, g_moments, g)
    return optax.apply_updates(g, change), d, loss

  g, d = states["generator"], states["discriminators"]
  made, judged, loss = in_turn(g.params, d.params, g.opt_state, d.opt_state)
  after, metrics = updates[1](states, batch)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  for got, expected, before in [
    (after["generator"].params, made, g.params),
    (after["discriminators"].params, judged, d.params),
  ]:
    moved = 0.0
    for a, b, c in zip(*map(jax.tree.leaves, (got, expected, before)), strict=True):
      # Adam's first step is the sign of the gradient times the rate: a gradient of zero may take either.
      assert np.mean(np.abs(a - b) > 1e-5) < 0.02
      moved = max(moved, np.max(np.abs(a - c)))
    assert moved > 0.005


@pytest.mark.long
def test_alone_the_generator_moves_and_no_discriminator_does(states, updates):
  after, metrics = updates[0](states, _batch())
  jax.tree.map(np.testing.assert_array_equal, after["discriminators"], states["discriminators"])
  assert after["generator"].step == 1
  assert set(metrics) == {"loss", "mel", "f0", "grad_norm", "learning_rate", "bad", "skipped"}
  np.testing.assert_allclose(metrics["loss"], 45 * metrics["mel"] + metrics["f0"], rtol=1e-5)


@pytest.mark.long
def test_what_is_not_finite_moves_neither_network(states, updates):
  batch = _batch()
  batch["audio_BA"][1, 3] = np.nan
  after, metrics = updates[1](states, batch)
  for name in states:
    jax.tree.map(np.testing.assert_array_equal, after[name].params, states[name].params)
    jax.tree.map(np.testing.assert_array_equal, after[name].opt_state, states[name].opt_state)
    assert (after[name].step, after[name].bad, after[name].skipped) == (1, 1, 1)
  assert metrics["bad"] == metrics["discriminators/bad"] == 1
  # A discriminator that overflows stops the generator too, whose own loss is finite without it.
  broken = states["discriminators"].params["period_3"]["out"] | {"bias": np.array([np.inf], np.float32)}
  judged = states["discriminators"].params
  judged = judged | {"period_3": judged["period_3"] | {"out": broken}}
  after, _ = updates[1](states | {"discriminators": states["discriminators"].replace(params=judged)}, _batch())
  jax.tree.map(np.testing.assert_array_equal, after["generator"].params, states["generator"].params)
  jax.tree.map(np.testing.assert_array_equal, after["discriminators"].params, judged)


@pytest.mark.long
def test_what_lies_in_padding_changes_nothing(states, updates):
  batch, other = _batch(), _batch()
  for name, rate in (("audio_BA", HOP), ("mel_BTM", 1), ("f0_BT", 1)):
    other[name][-1] += 3.0
    other[name][-2, (FRAMES - 2) * rate :] -= 2.0
  (first, metrics), (second, again) = updates[1](states, batch), updates[1](states, other)
  for name, value in metrics.items():
    np.testing.assert_allclose(value, again[name], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first, second)


def test_overtones_of_a_crop_keep_their_phase_to_the_fundamental():
  phase_BH, noise_BAH = gan_step.draw(jax.random.key(0), 3, 2, dataclasses.replace(MODEL, harmonics=3))
  assert noise_BAH.shape == (3, 2 * HOP, 4)
  assert np.all((phase_BH >= 0) & (phase_BH < 1)) and len(np.unique(phase_BH[:, 0])) == 3
  off = phase_BH - phase_BH[:, :1] * np.arange(1, 5)
  np.testing.assert_allclose(off, np.round(off), atol=1e-5)


@pytest.mark.long
def test_f0_learns_from_its_own_loss_alone(parts, states):
  model, batch = parts[0], _batch()
  draws = gan_step.draw(jax.random.key(0), ROWS, FRAMES, MODEL)

  @jax.jit
  def gradient(params):
    audio = lambda p: jnp.sum(gan_step.resynthesise(model, p, batch["mel_BTM"], batch["lengths_B"], *draws)[0] ** 2)
    return jax.grad(audio)(params)

  found = gradient(states["generator"].params)
  assert not any(np.any(g) for g in jax.tree.leaves(found["f0_predictor"]))
  assert np.any(found["harmonic_mix"]["kernel"]) and np.any(found["generator"]["conv_in"]["kernel"])


# The program.


class FewTones:
  """A corpus of six recordings."""

  def __init__(self, directory, split="train"):
    self.shards = [(0, 6)]

  def __len__(self):
    return 6

  def __getitem__(self, i):
    out = io.BytesIO()
    wave_A = 0.3 * np.sin(2 * np.pi * (100 + 20 * i) * np.arange(12 * HOP) / 24_000)
    soundfile.write(out, wave_A, 24_000, format="WAV", subtype="PCM_16")
    return {"id": str(i), "audio": out.getvalue()}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
  """Features of those recordings, under another name than that of the recordings' own mel."""
  directory, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
  for split in ("train", "validation"):
    for name, shape in (("flow_mel", (12, 80)), ("f0", (12,))):
      with ShardWriter(directory, name, shard_stem(split, 0, 1), "noise") as shard:
        for _ in range(6):
          shard.add(rng.uniform(100, 200, shape).astype(np.float32) / 100)
  return directory


def test_program_takes_two_steps(tones, tmp_path, monkeypatch):
  monkeypatch.setattr(vocoder, "Corpus", FewTones)
  spell = lambda name, config: [f"{name}.{f.name}={getattr(config, f.name)}" for f in dataclasses.fields(config)]
  settings = [*spell("model", MODEL), *spell("discriminators", JUDGES), "data.rows=2", f"data.frames={FRAMES}"]
  settings += ["discriminators.spectra=()"]  # compiling is most of the time
  settings += ["data.eval_rows=2", "data.eval_frames=12", "run.eval_batches=2", "run.eval_every=1", "run.log_every=1"]
  config = Path(__file__).parent.parent / "configs" / "vocoder_finetune.py"
  argv = [
    "--config",
    str(config),
    "--tiny",
    "--data",
    str(tones),
    "--out",
    str(tmp_path),
    "--no-cache",
    "--devices",
    "1",
  ]
  assert vocoder.main([*argv, "--set", *settings, "run.steps=2", "run.save_every=2"]) == 0
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [1, 1, 2, 2]
  assert {"train/mel", "train/discriminators/loss", "train/features", "train/f0"} <= set(lines[2])
  assert {"eval/mel", "eval/voicing"} <= set(lines[3])
  assert "eval/f0" not in lines[3]  # no frame is voiced in both
  assert lines[1]["eval/mel"] != lines[3]["eval/mel"]
  assert (tmp_path / "checkpoints" / "00000002" / "digests").exists()
