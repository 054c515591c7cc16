"""The vocoder against its discriminators, for so many seconds."""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.data.batches import AUDIO
from cosyjax.layers.basic import unbox
from cosyjax.training.train_state import abstract_state
from train import vocoder as trainer
from train.box_fit import EVERY, IN_FLIGHT, Journal, average, fresh_state
from train.task import Network

RATE = 4e-4  # of either network, at most


@dataclasses.dataclass
class GanFit:
  """The compiled step of both networks. Their rates are constant: the average of the generator's parameters settles."""

  networks: dict[str, Network]
  abstract: dict[str, Any]
  update: Any

  @classmethod
  def prepare(cls, c: trainer.Config) -> "GanFit":
    """Compiles the step for batches of c.data.rows crops of c.data.frames. Any thread may call."""
    slow = lambda o: dataclasses.replace(o, schedule="constant", learning_rate=min(o.learning_rate, RATE))
    c = dataclasses.replace(c, optim=slow(c.optim), discriminator_optim=slow(c.discriminator_optim))
    task = trainer.task(argparse.Namespace(init=None), c)
    abstract = {name: unbox(abstract_state(n.init, n.tx, n.optim)) for name, n in task.networks.items()}
    rows, frames, shape = c.data.rows, c.data.frames, jax.ShapeDtypeStruct
    batch = {
      "audio_BA": shape((rows, frames * AUDIO.hop), jnp.float32),
      "mel_BTM": shape((rows, frames, c.model.mel_bins), jnp.float32),
      "f0_BT": shape((rows, frames), jnp.float32),
      "lengths_B": shape((rows,), jnp.int32),
      "key": shape((2,), jnp.uint32),
    }
    return cls(task.networks, abstract, task.updates(None)[0].lower(abstract, batch).compile())

  def run(
    self,
    generator: Any | None,
    discriminators: Any | None,
    batches: Iterator[dict[str, np.ndarray]],
    seconds: float,
    log: Journal,
  ) -> dict[str, Any]:
    """Steps until the time is over, from given parameters or fresh ones; returns {"vocoder", "judges"}."""
    given = {trainer.GENERATOR: generator, trainer.DISCRIMINATORS: discriminators}
    states = {name: fresh_state(self.networks[name].init, self.abstract[name], n, given[name])
              for n, name in enumerate(given)}  # fmt: skip
    begin, step, waiting = time.monotonic(), 0, []
    while time.monotonic() - begin < seconds:
      states, metrics = self.update(states, jax.device_put(next(batches)))
      step += 1
      waiting.append(metrics)
      if len(waiting) > IN_FLIGHT:
        shown = waiting.pop(0)
        jax.block_until_ready(shown["loss"])
        if step % EVERY == 0:
          log.add("vocoder", step=step, **{name: float(value) for name, value in shown.items()})
    log.add("vocoder/done", step=step, seconds=time.monotonic() - begin)
    judges = states[trainer.DISCRIMINATORS].params
    return {"vocoder": average(states[trainer.GENERATOR]), "judges": judges}
