"""`train.flow` with `distil`: the teacher stays, the student moves, the export speaks in few steps without guidance."""

import dataclasses

import jax
import numpy as np
import pytest

from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import ConfigError
from cosyjax.flow.flow_model import stack
from cosyjax.text import TextTokenizer, tiny_tokenizer_dir
from cosyjax.training.checkpoint_read import read_arrays
from tests.test_train_models import FLOW, Corpus, data  # noqa: F401  # `data` is a fixture
from train import export, flow


@pytest.mark.long
def test_a_flow_is_distilled_from_a_model_directory(data, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setattr(flow, "Corpus", Corpus)
  whole = config_lib.tiny()
  sizes = dataclasses.replace(
    whole.flow,
    token_width=8,
    steps=2,
    encoder=config_lib.FlowEncoderConfig(width=8, heads=1, ffn=8, layers=1, up_layers=1),
    estimator=config_lib.UNetConfig(channels=8, heads=1, head_dim=8, transformer_layers=1, mid_layers=1),
  )
  config = dataclasses.replace(whole, flow=sizes)
  tokenizer = TextTokenizer.load(tiny_tokenizer_dir())
  checkpoint.save_model(tmp_path / "teacher", config, networks.random_params(config), tokenizer.save)
  (tmp_path / "config.py").write_text(FLOW)
  command = ["--config", str(tmp_path / "config.py"), "--data", str(data), "--eval-data", str(data), "--no-cache"]
  command += ["--set", "distil=1", "--out", str(tmp_path / "run")]
  with pytest.raises(ConfigError, match="as --init"):
    flow.main(command)
  command += ["--init", str(tmp_path / "teacher")]
  assert flow.main([*command, "--steps", "1"]) == 0
  assert flow.main([*command, "--allow-config-change", "run"]) == 0  # goes on to the second step
  folder = tmp_path / "run" / "checkpoints"
  (step, teacher), (_, student) = (read_arrays(folder, below=name) for name in ("extra", "params"))
  assert step == 2
  given = stack(checkpoint.load_params(tmp_path / "teacher", "flow", networks.abstract_params(config)["flow"]))
  jax.tree.map(np.testing.assert_array_equal, teacher, jax.device_get(given))
  assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, student, teacher)))
  export.export(tmp_path / "two", {"flow": tmp_path / "run"}, base=tmp_path / "teacher")
  stored = checkpoint.load_config(tmp_path / "two").flow
  assert (stored.steps, stored.guidance) == (1, 0.0)
