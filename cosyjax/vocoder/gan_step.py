"""One training step of the vocoder: its generator against its discriminators.

Both networks have a `TrainState` of their own; a step takes and returns the two as
{"generator": ..., "discriminators": ...}.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cosyjax.audio.stft import fft_options
from cosyjax.config import VocoderConfig
from cosyjax.layers import remat as remat_lib
from cosyjax.layers.masks import padding_mask
from cosyjax.training.optimiser import OptimConfig
from cosyjax.training.step import Batch, Loss, Metrics, accumulate_gradients, apply_gradients, step_key, summarise
from cosyjax.training.train_state import TrainState
from cosyjax.vocoder import losses
from cosyjax.vocoder.discriminators import Discriminators
from cosyjax.vocoder.hift import Vocoder

States = dict[str, TrainState]
Update = Callable[[States, Batch], tuple[States, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What the losses weigh. The defaults are those that CosyVoice 2 is trained with."""

  mel: float = 45.0
  features: float = 4.0  # 2 in HiFi-GAN's paper, whose code doubles the loss
  adversarial: float = 1.0
  relativistic: float = 1.0
  tau: float = losses.TAU
  f0: float = 1.0  # a hertz
  mel_scales: tuple[tuple[int, ...], ...] = losses.MEL_SCALES


def draw(key: jax.Array, rows: int, frames: int, config: VocoderConfig) -> tuple[jax.Array, jax.Array]:
  """Initial phases [B, H] in cycles and noise [B, A, H] of the source, for a batch of crops.

  A crop begins somewhere in an utterance whose phases all began at zero: the fundamental's is then
  anywhere, and the overtones' are its multiples.

  Args:
    key: of the step.
    rows: B.
    frames: T of a crop.
    config: gives H, the fundamental and its overtones, and samples of a frame.
  """
  phase_key, noise_key = jax.random.split(key)
  H, samples = config.harmonics + 1, frames * config.samples_per_frame
  phase_BH = jax.random.uniform(phase_key, (rows, 1)) * jnp.arange(1, H + 1)
  return phase_BH - jnp.floor(phase_BH), jax.random.normal(noise_key, (rows, samples, H))


def resynthesise(
  model: Vocoder,
  params: Any,
  mel_BTM: jax.Array,
  lengths_B: jax.Array,
  phase_BH: jax.Array,
  noise_BAH: jax.Array,
  f0_BT: jax.Array | None = None,
  *,
  predict: jax.Array | bool = True,
) -> tuple[jax.Array, jax.Array]:
  """The vocoder as it is trained: audio [B, A] and predicted f0 [B, T].

  The audio's gradient stops at f0, as in the public code: a phase is a sum over all frames
  before it, and its gradient would be noise. The predictor learns from the f0 loss alone.

  Args:
    model, params: the vocoder's.
    mel_BTM, lengths_B, phase_BH, noise_BAH: as `Vocoder` takes them.
    f0_BT: of the recording, in Hz.
    predict: whether the source runs at the predicted f0, else at `f0_BT`. May be traced.
  """
  apply = lambda *args, method: model.apply({"params": params}, *args, method=method)
  predicted_BT = apply(mel_BTM, lengths_B, method=Vocoder.f0)
  source_f0_BT = predicted_BT if f0_BT is None else jnp.where(predict, predicted_BT, f0_BT)
  source_BA = apply(jax.lax.stop_gradient(source_f0_BT), phase_BH, noise_BAH, method=Vocoder.source)
  source_BA = jnp.where(padding_mask(lengths_B * model.config.samples_per_frame, source_BA.shape[1]), source_BA, 0)
  return apply(mel_BTM, source_BA, lengths_B, method=Vocoder.generate), predicted_BT


def make_updates(
  model: Vocoder,
  discriminators: Discriminators,
  objective: Objective,
  transforms: dict[str, optax.GradientTransformation],
  optims: dict[str, OptimConfig],
  steps: dict[str, int],
  *,
  target_f0: int = 0,
  remat: str = "none",
  shardings: dict[str, TrainState] | None = None,
) -> tuple[Update, Update]:
  """The two jitted steps `(states, batch) -> (states, metrics)`. Both donate the states.

  The first trains the generator alone, on mel and f0, and runs no discriminator. The second is a
  step of the discriminators, then one of the generator against the discriminators that it left.
  Both see the same generated audio: the generator runs once, its backward pass starts from the
  gradient with respect to that audio, and the result is that of two separate steps with the same
  draws. With `accumulate` above 1 the generator runs twice, as what it would have to keep is what
  microbatches are there to avoid.

  A step in which anything of either network is not finite changes neither.

  Batches have `audio_BA`, `mel_BTM`, `f0_BT` and `lengths_B` (see `cosyjax.data.batches`), and `key`.
  A row counts by its valid frames.

  Args:
    model: the generator.
    discriminators: the discriminators.
    objective: weights.
    transforms, optims, steps: optimiser, its configuration and the length of the run, of each state
      by its name. Both must accumulate over the same number of microbatches.
    target_f0: so many steps at first the source runs at the recording's f0, until the predictor
      has learned something.
    remat: policy of the generator's backward pass; see `cosyjax.layers.remat`.
    shardings: by name, as `cosyjax.training.step.make_update` takes them.

  Returns:
    (generator alone, both). Metrics are those of the generator, and of the discriminators as
    "discriminators/...".
  """
  policy = remat_lib.policy(remat)
  keep = lambda f: f if remat == "none" else jax.checkpoint(f, policy=policy)

  def generate(params: Any, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, frames, _ = batch["mel_BTM"].shape
    draws = draw(key, rows, frames, model.config)
    predict = step >= target_f0 if target_f0 else True
    f0_BT = batch["f0_BT"] if target_f0 else None
    run = keep(lambda p: resynthesise(model, p, batch["mel_BTM"], batch["lengths_B"], *draws, f0_BT, predict=predict))
    return run(params)

  def discriminate(params: Any, wave_BA: jax.Array) -> tuple[Any, Any]:
    return keep(lambda p, x: discriminators.apply({"params": p}, x))(params, wave_BA)

  def discriminator_loss_of(params: Any, batch: Batch, fake_BA: jax.Array) -> Loss:
    # Both in one pass, twice the rows: half as many programs. Neighbours, so that rows stay on their devices.
    rows, samples = fake_BA.shape
    both_BA = jnp.stack([batch["audio_BA"], fake_BA], axis=1).reshape(2 * rows, samples)
    scores = {name: x.reshape(rows, 2, -1) for name, x in discriminate(params, both_BA)[0].items()}
    real, fake = ({name: x[:, i] for name, x in scores.items()} for i in range(2))
    parts = {
      "adversarial": (1.0, losses.discriminator_loss(real, fake)),
      "relativistic": (objective.relativistic, losses.relativistic_loss(real, fake, objective.tau)),
    }
    return _weigh(parts, batch["lengths_B"])

  def generator_loss(made: tuple[jax.Array, jax.Array], batch: Batch, discriminator_params: Any | None) -> Loss:
    (fake_BA, f0_BT), real_BA, lengths_B = made, batch["audio_BA"], batch["lengths_B"]
    parts = {
      "mel": (objective.mel, losses.mel_loss(real_BA, fake_BA, lengths_B, model.config, objective.mel_scales)),
      "f0": (objective.f0, losses.f0_loss(batch["f0_BT"], f0_BT, lengths_B)),
    }
    if discriminator_params is not None:
      real, real_maps = discriminate(discriminator_params, real_BA)
      fake, fake_maps = discriminate(discriminator_params, fake_BA)
      parts |= {
        "features": (objective.features, losses.feature_loss(real_maps, fake_maps)),
        "adversarial": (objective.adversarial, losses.generator_loss(fake)),
        "relativistic": (objective.relativistic, losses.relativistic_loss(fake, real, objective.tau)),
      }
    return _weigh(parts, lengths_B)

  def update(states: States, batch: Batch, adversarial: bool) -> tuple[States, Metrics]:
    made, against = states["generator"], states["discriminators"]
    batch = batch | {"audio_BA": _only_valid(batch["audio_BA"], batch["lengths_B"], model.config)}
    key, count = step_key(made, batch), optims["generator"].accumulate
    apply = lambda name, state, grads, loss: apply_gradients(
      state, grads, loss, transforms[name], optims[name], steps=steps[name]
    )
    fake, pull = None, None
    if count == 1:
      fake, pull = jax.vjp(lambda p: generate(p, batch, key, made.step), made.params)

    ok, out = True, {}
    if adversarial:
      # The generated audio is a constant here: this step is the discriminators'.
      audio = lambda batch, key: generate(made.params, batch, key, made.step)[0] if fake is None else fake[0]
      loss_fn = lambda p, batch, key, _: discriminator_loss_of(p, batch, jax.lax.stop_gradient(audio(batch, key)))
      discriminator_grads, loss = accumulate_gradients(loss_fn, against.params, batch, key, {}, count)
      discriminator_value, metrics = summarise(loss)
      after, info = apply("discriminators", against, discriminator_grads, discriminator_value)
      ok = after.bad == 0
      out = {f"discriminators/{name}": x for name, x in ({"loss": discriminator_value} | metrics | info).items()}

    params = after.params if adversarial else None
    if count == 1:
      (_, loss), grads = jax.value_and_grad(_total(generator_loss), has_aux=True)(fake, batch, params)
      scale = 1.0 / jnp.where(loss.weight > 0, loss.weight, 1.0)
      [grads] = pull(jax.tree.map(lambda g: g * scale, grads))
    else:
      loss_fn = lambda p, batch, key, _: generator_loss(generate(p, batch, key, made.step), batch, params)
      grads, loss = accumulate_gradients(loss_fn, made.params, batch, key, {}, count)
    value, metrics = summarise(loss)
    made, info = apply("generator", made, grads, jnp.where(ok, value, jnp.nan))
    if adversarial:
      # Neither moves where the other cannot: the loss nan stands for a step that is skipped.
      skipped, _ = apply("discriminators", against, discriminator_grads, jnp.float32(jnp.nan))
      against = jax.tree.map(lambda a, b: jnp.where(made.bad == 0, a, b), after, skipped)
      out |= {f"discriminators/{name}": getattr(against, name).astype(jnp.float32) for name in ("bad", "skipped")}
    return {"generator": made, "discriminators": against}, {"loss": value} | metrics | info | out

  options: dict[str, Any] = {"donate_argnums": 0, "compiler_options": fft_options()}
  if shardings is not None:
    mesh = jax.tree.leaves(shardings)[0].mesh
    options["compiler_options"] = fft_options(mesh.devices.flat[0].platform)
    options["out_shardings"] = (shardings, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
  alone = jax.jit(lambda states, batch: update(states, batch, False), **options)
  return alone, jax.jit(lambda states, batch: update(states, batch, True), **options)


def evaluate(
  model: Vocoder, params: Any, batch: Batch, key: jax.Array
) -> tuple[dict[str, tuple[jax.Array, jax.Array]], jax.Array]:
  """How far resynthesis is from the recordings: {name: (sum, weight)} and the audio [B, A].

  "mel": mean absolute difference of log mel up to half the sample rate, by frames; "f0": of f0 in Hz, over frames
  that both call voiced; "voicing": share of frames voiced in one and not in the other.
  """
  mel_BTM, lengths_B, target_BT = batch["mel_BTM"], batch["lengths_B"], batch["f0_BT"]
  rows, frames, _ = mel_BTM.shape
  c: VocoderConfig = model.config
  wave_BA, f0_BT = resynthesise(model, params, mel_BTM, lengths_B, *draw(key, rows, frames, c))
  weight_B = lengths_B.astype(jnp.float32)
  mel_B = losses.mel_loss(_only_valid(batch["audio_BA"], lengths_B, c), wave_BA, lengths_B, c)
  valid_BT = padding_mask(lengths_B, frames)
  real_BT, made_BT = target_BT > c.voiced_threshold, f0_BT > c.voiced_threshold
  both_BT = valid_BT & real_BT & made_BT
  frames_total = jnp.sum(weight_B)
  return {
    "mel": (jnp.sum(mel_B * weight_B), frames_total),
    "f0": (jnp.sum(jnp.where(both_BT, jnp.abs(target_BT - f0_BT), 0.0)), jnp.sum(both_BT).astype(jnp.float32)),
    "voicing": (jnp.sum(valid_BT & (real_BT != made_BT)).astype(jnp.float32), frames_total),
  }, wave_BA


def _weigh(parts: dict[str, tuple[float, jax.Array]], lengths_B: jax.Array) -> Loss:
  """Sum of the losses by weight, each row by its valid frames."""
  weight_B = lengths_B.astype(jnp.float32)
  weight = jnp.sum(weight_B)
  sums = {name: jnp.sum(loss_B * weight_B) for name, (_, loss_B) in parts.items()}
  total = sum(parts[name][0] * value for name, value in sums.items())
  return Loss(total, weight, {name: (value, weight) for name, value in sums.items()})


def _total(loss_fn: Callable[..., Loss]) -> Callable[..., tuple[jax.Array, Loss]]:
  """The form that `jax.value_and_grad` takes."""

  def call(*args: Any) -> tuple[jax.Array, Loss]:
    loss = loss_fn(*args)
    return loss.total, loss

  return call


def _only_valid(wave_BA: jax.Array, lengths_B: jax.Array, config: VocoderConfig) -> jax.Array:
  return jnp.where(padding_mask(lengths_B * config.samples_per_frame, wave_BA.shape[1]), wave_BA, 0)
