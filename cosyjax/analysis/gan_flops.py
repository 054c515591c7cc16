"""Floating-point operations of the vocoder's training step."""

import jax
import jax.numpy as jnp

from cosyjax.analysis.flops import training_flops
from cosyjax.layers.basic import unbox
from cosyjax.vocoder.discriminators import Discriminators
from cosyjax.vocoder.gan_step import resynthesise
from cosyjax.vocoder.hift import Vocoder, init_arguments


def step_flops(model: Vocoder, discriminators: Discriminators, rows: int, frames: int, *, alone: bool = False) -> float:
  """Model FLOPs of a step on `rows` crops of `frames`.

  The generator's forward and backward pass are three forward passes. The discriminators' own step
  is six of theirs (recording and generated audio, each with its backward pass); the generator's
  has two of them, and a backward pass to the audio without the parameters' share: nine in all.

  Args:
    alone: of the step without discriminators.
  """
  c, shape = model.config, jax.ShapeDtypeStruct
  H, sizes = c.harmonics + 1, (rows, frames * c.samples_per_frame)
  inputs = shape((rows, frames, c.mel_bins), jnp.float32), shape((rows,), jnp.int32)
  inputs += shape((rows, H), jnp.float32), shape((*sizes, H), jnp.float32)
  key = jax.random.key(0)
  params = jax.eval_shape(lambda: unbox(model.init(key, *init_arguments(c))["params"]))
  total = training_flops(lambda p, *args: resynthesise(model, p, *args), params, *inputs)
  if alone:
    return total
  wave_BA = shape(sizes, jnp.float32)
  params = jax.eval_shape(lambda: unbox(discriminators.init(key, jnp.zeros((1, sizes[1])))["params"]))
  return total + 3 * training_flops(lambda p, x: discriminators.apply({"params": p}, x), params, wave_BA)
