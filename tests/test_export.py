"""Runs to a model directory: every part arrives as inference reads it, and misfits are refused."""

import argparse
import json

import jax
import numpy as np
import pytest

from configs import speaker as speaker_config
from cosyjax import checkpoint, networks
from cosyjax import config as config_lib
from cosyjax.errors import CheckpointError, ConfigError, CosyError
from cosyjax.flow import flow_model as flow_lib
from cosyjax.layers.stack import stack_layers
from cosyjax.training.checkpoints import Checkpoints
from tests.golden_files import GOLDEN
from train import speaker, weights
from train.export import export
from train.weights import SETTINGS

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
    config = {SETTINGS[name]: config_lib.to_dict(getattr(TINY, name))}
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
    ({"flow": "nothing"}, "nothing: no such folder"),
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
    lm=config_lib.LMConfig(
      width=64, ffn=128, layers=3, heads=4, kv_heads=2, text_vocab=512, speech_vocab=config_lib.SpeechVocab(81)
    ),
    flow=config_lib.FlowConfig(codebook_size=81, speaker_dim=c.speaker_dim)))["speech_tokenizer"]  # fmt: skip
  tree = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)
  checkpoints = Checkpoints(tmp_path / "run/checkpoints", config={"tokenizer": config_lib.to_dict(sizes)})
  checkpoints.save(1, {"params": {"tokenizer": tree}}, {"batch": 1}, wait=True)
  checkpoints.close()
  export(tmp_path / "model", {"speech_tokenizer": tmp_path / "run"}, rest="tiny")
  config = checkpoint.load_config(tmp_path / "model")
  assert config.lm.speech_vocab.codebook_size == config.flow.codebook_size == 81


def flags(init, step=None, last=False):
  return argparse.Namespace(init=init, init_step=step, init_last=last)


def test_runs_start_from_runs_and_from_model_directories(runs, params, tmp_path, capsys):
  fresh = {"speech_tokenizer": {"tokenizer": 0, "ctc_head": 1, "decoder": 2}}
  for name, run in runs.items():
    args = flags(run)
    assert weights.sizes(args, name, None) == getattr(TINY, name)
    begun = fresh.get(name, {"more": 3})
    found, extra = weights.starter(args, name)(begun)
    assert extra is None and set(begun) <= set(found)  # what the run does not have stays as it was
    wanted = weights.run_weights(name, run, 2).params
    jax.tree.map(np.testing.assert_array_equal, {part: found[part] for part in wanted}, wanted)
  assert "step 2, the last" in capsys.readouterr().err
  export(tmp_path / "model", runs, rest="tiny")
  args = flags(tmp_path / "model")
  assert weights.sizes(args, "flow", None) == TINY.flow
  found, _ = weights.starter(args, "speech_tokenizer", lambda p: {"tokenizer": p})(fresh["speech_tokenizer"])
  jax.tree.map(np.testing.assert_array_equal, found["tokenizer"], params["speech_tokenizer"])
  assert (found["ctc_head"], found["decoder"]) == (1, 2)
  found, _ = weights.starter(args, "lm", stack_layers)({"speaker": 4})
  jax.tree.map(np.testing.assert_array_equal, found, stack_layers(params["lm"]) | {"speaker": 4})
  with pytest.raises(ConfigError, match="norms folded in"):
    speaker.task(args, speaker_config.tiny())
  assert weights.starter(flags(None), "lm") is None and weights.sizes(flags(None), "lm", 5) == 5


def test_the_best_checkpoint_is_taken_unless_another_is_asked_for(tmp_path):
  checkpoints = Checkpoints(tmp_path / "run/checkpoints", config={}, keep_last=9, metric="token_error_rate")
  for step, metric in ((1, None), (2, 0.25), (3, 0.5)):
    checkpoints.save(step, {"params": {"x": jax.numpy.ones(2)}}, {}, metric=metric, wait=True)
  checkpoints.close()
  assert weights.choose(tmp_path / "run") == (2, "step 2, the best by token_error_rate (0.25)")
  assert weights.choose(tmp_path / "run", last=True) == (3, "step 3, the last")
  assert weights.choose(tmp_path / "run", step=1) == (1, "step 1, as asked for")
  with pytest.raises(CheckpointError, match="expected a checkpoint of step 4, found 1, 2, 3"):
    weights.choose(tmp_path / "run", step=4)
  (tmp_path / "empty").mkdir()
  with pytest.raises(CheckpointError, match="expected a checkpoint, found none"):
    weights.choose(tmp_path / "empty")


def test_settings_of_an_earlier_format_are_read_and_resumed(tmp_path):
  """Fields of networks as they were before a model was a value; the names of states' arrays are the same."""
  old = json.loads((GOLDEN / "config_format_1.json").read_text())["model"]
  for name, part in (("lm", "lm"), ("flow", "flow"), ("vocoder", "model"), ("speaker", "speaker")):
    folder = tmp_path / name / "checkpoints"
    checkpoints = Checkpoints(folder, config={part: old[name], "run": {"seed": 3}})
    checkpoints.save(1, {"params": {"x": jax.numpy.ones(2)}}, {"batch": 1}, wait=True)
    checkpoints.close()
    sizes, settings = weights.run_settings(name, tmp_path / name, 1)
    plain = lambda value: json.loads(json.dumps(value))  # tuples and lists are one
    assert plain(config_lib.to_dict(sizes)) == plain(settings[part]) and settings["run"] == {"seed": 3}
    new = {part: config_lib.to_dict(sizes), "run": {"seed": 3}}
    again = Checkpoints(folder, config=new, upgrade=lambda config, name=name: weights.upgraded(name, config))
    abstract = {"params": {"x": jax.ShapeDtypeStruct((2,), "float32", sharding=jax.numpy.ones(2).sharding)}}
    assert again.restore(abstract)[2] == {"batch": 1}
    with pytest.raises(CheckpointError, match="another configuration"):
      Checkpoints(folder, config=new).restore(abstract)
