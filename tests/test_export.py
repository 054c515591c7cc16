"""Runs to a model directory: every part arrives as inference reads it, and misfits are refused."""

import jax
import numpy as np
import pytest

from configs import speaker as speaker_config
from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import CheckpointError, CosyError
from cosyjax.flow import flow_model as flow_lib
from cosyjax.layers.stack import stack_layers
from cosyjax.training.checkpoints import Checkpoints
from train.export import PARTS, export

TINY = config_lib.tiny()


@pytest.fixture(scope="module")
def params():
  return jax.tree.map(np.asarray, networks.random_params(TINY, seed=7))


@pytest.fixture(scope="module")
def runs(params, tmp_path_factory):
  """Directories as the trainers leave them, except for the optimisers' arrays."""
  folder = tmp_path_factory.mktemp("runs")
  states = {
    "lm": {"params": stack_layers(params["lm"])},
    "flow": {"params": jax.tree.map(np.zeros_like, flow_lib.stack(params["flow"])),
             "ema": flow_lib.stack(params["flow"])},
    "vocoder": {"generator": {"params": params["vocoder"]}, "discriminators": {"params": {"x": np.zeros(2)}}},
    "speech_tokenizer": {"params": {"tokenizer": params["speech_tokenizer"], "ctc_head": {"kernel": np.zeros(3)}}},
  }  # fmt: skip
  for name, state in states.items():
    config = {PARTS[name].settings: config_lib.to_dict(getattr(TINY, name))}
    config |= {"data": {"split_cjk": True}, "speaker": 0} if name == "lm" else {}
    checkpoints = Checkpoints(folder / name / "checkpoints", config=config)
    for step in (1, 2) if name == "lm" else (2,):
      first = jax.tree.map(np.zeros_like, state) if step == 1 else state
      checkpoints.save(step, jax.tree.map(jax.numpy.asarray, first), {"batch": step}, wait=True)
    checkpoints.close()
  return {name: folder / name for name in states}


def read(path, name):
  config = checkpoint.load_config(path)
  return checkpoint.load_params(path, name, networks.abstract_params(config)[name])


def test_every_part_is_as_inference_reads_it(runs, params, tmp_path):
  origin = export(tmp_path / "model", runs, rest="tiny")
  config = checkpoint.load_config(tmp_path / "model")
  assert config.lm == TINY.lm and config.text.split_cjk
  for name in runs:
    assert "step 2" in origin[name]
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "model", name), params[name])
  assert origin["speaker"] == "random weights of the preset tiny"


def test_an_earlier_step_and_a_base(runs, params, tmp_path):
  export(tmp_path / "base", runs, rest="tiny")
  export(tmp_path / "model", {"lm": runs["lm"]}, base=tmp_path / "base", step=1)
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(read(tmp_path / "model", "lm")))
  jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "model", "flow"), params["flow"])


@pytest.mark.parametrize(
  ("wrong", "says"),
  [
    ({"lm": "flow"}, "a run of another trainer"),
    ({"flow": "nothing"}, "expected a checkpoint, found"),
  ],
)
def test_what_is_no_run_of_that_part_is_refused(runs, tmp_path, wrong, says):
  chosen = {name: runs.get(run, tmp_path / run) for name, run in wrong.items()}
  with pytest.raises(CheckpointError, match=says):
    export(tmp_path / "model", chosen, rest="tiny")
  assert not (tmp_path / "model").exists()


def test_parts_of_sizes_that_do_not_fit_are_refused(runs, tmp_path):
  with pytest.raises(CheckpointError, match="no flow, vocoder, speech_tokenizer, speaker"):
    export(tmp_path / "model", {"lm": runs["lm"]})
  with pytest.raises(CosyError, match="tokenizer"):
    export(tmp_path / "model", {"lm": runs["lm"]}, rest="tiny", tokenizer=tmp_path)


def test_other_numbers_of_codes_and_speakers_reach_the_random_rest(tmp_path):
  c = speaker_config.tiny().speaker
  sizes = config_lib.SpeechTokenizerConfig(width=128, heads=2, layers=2, fsq_dims=4)
  shapes = networks.abstract_params(config_lib.ModelConfig(
    speech_tokenizer=sizes, speaker=c, vocoder=TINY.vocoder,
    lm=config_lib.LMConfig(width=64, ffn=128, layers=3, heads=4, kv_heads=2, text_vocab=512, speech_codes=81),
    flow=config_lib.FlowConfig(codes=81, speaker=c.embedding)))["speech_tokenizer"]  # fmt: skip
  tree = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)
  checkpoints = Checkpoints(tmp_path / "run/checkpoints", config={"tokenizer": config_lib.to_dict(sizes)})
  checkpoints.save(1, {"params": {"tokenizer": tree}}, {"batch": 1}, wait=True)
  checkpoints.close()
  export(tmp_path / "model", {"speech_tokenizer": tmp_path / "run"}, rest="tiny")
  config = checkpoint.load_config(tmp_path / "model")
  assert config.lm.speech_codes == config.flow.codes == 81
