"""The flow's table of PyTorch names, its configuration from a release, and its full size."""

import json
import math

import jax
import numpy as np
import pytest

from convert import engine, table_flow
from convert.read_pt import read_pt
from convert.read_yaml import read_yaml
from cosyjax import config as config_lib
from cosyjax.errors import ConversionError
from cosyjax.flow.flow_model import Flow, init_arguments


@pytest.fixture(scope="module")
def tensors(release):
  return read_pt(release / "flow.pt")


@pytest.fixture(scope="module")
def yaml(release):
  return read_yaml(release / "cosyvoice2.yaml")


def abstract(config):
  model = Flow(config)
  return jax.eval_shape(model.init, jax.random.key(0), *init_arguments(config))["params"]


def test_config_from_a_release(release, tensors, yaml):
  sizes = json.loads((release / "hparams.json").read_text())["flow"]
  c = table_flow.config_of(yaml, tensors)
  assert c == config_lib.FlowConfig(
    codebook_size=sizes["vocab_size"],
    token_width=sizes["input_size"],
    mel_bins=sizes["mel"],
    speaker_dim=sizes["spk_embed_dim"],
    chunk=sizes["chunk_tokens"],
    steps=sizes["steps"],
    guidance=sizes["cfg_rate"],
    sigma_min=1e-6,
    encoder=config_lib.FlowEncoderConfig(
      width=sizes["encoder_dim"],
      heads=sizes["encoder_heads"],
      ffn=sizes["encoder_ff"],
      layers=sizes["encoder_blocks"],
      up_layers=sizes["up_encoder_blocks"],
      lookahead=sizes["pre_lookahead"],
    ),
    estimator=config_lib.UNetConfig(
      channels=sizes["unet"]["channels"],
      heads=sizes["unet"]["heads"],
      head_dim=sizes["unet"]["head_dim"],
      transformer_layers=sizes["unet"]["blocks_per_stage"],
      mid_layers=sizes["unet"]["mid_stages"],
    ),
  )
  assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(c))), config_lib.FlowConfig) == c


def test_config_takes_other_settings_from_the_yaml(tensors):
  matching = {"content": {"inference_cfg_rate": 1, "sigma_min": "1e-04"}}
  estimator = {"num_heads": 4, "attention_head_dim": 8}
  yaml = {"flow": {"encoder": {"static_chunk_size": 15}, "decoder": {"cfm_params": matching, "estimator": estimator}}}
  c = table_flow.config_of(yaml, tensors)
  assert (c.chunk, c.guidance, c.sigma_min, c.estimator.heads, c.estimator.head_dim) == (15, 1.0, 1e-4, 4, 8)
  assert isinstance(c.guidance, float)
  yaml["flow"]["encoder"]["static_chunk_size"] = "<unknown>"
  assert table_flow.config_of(yaml, tensors).chunk == 25


def test_config_that_contradicts_the_tensors_is_refused(tensors):
  yaml = {"flow": {"decoder": {"estimator": {"num_heads": 2, "attention_head_dim": 64}}}}
  with pytest.raises(ConversionError, match=r"num_heads 2 and attention_head_dim 64.*32 rows"):
    table_flow.config_of(yaml, tensors)
  short = {name: t for name, t in tensors.items() if name != "input_embedding.weight"}
  with pytest.raises(ConversionError, match="input_embedding"):
    table_flow.config_of(None, short)


def test_table_reads_every_tensor(tensors, yaml):
  config = table_flow.config_of(yaml, tensors)
  done = engine.convert("flow", tensors, table_flow.table(config), abstract(config))
  assert (done.tensors_read, done.ignored) == (len(tensors), ())
  assert done.parameters == sum(t.size for t in tensors.values())
  name = "decoder.estimator.mid_blocks.1.1.0.attn1.to_v.weight"
  np.testing.assert_array_equal(
    done.params["unet"]["mid_1"]["block_0"]["value"]["kernel"].reshape(32, 32), tensors[name].T
  )


def test_full_size():
  tree = abstract(config_lib.cosyvoice2().flow)
  count = lambda t: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(t))
  assert count(tree["unet"]) == 71_302_480
  assert count(tree) == pytest.approx(112.5e6, abs=0.05e6)


def test_every_parameter_names_its_axes():
  boxed = jax.tree.leaves(abstract(config_lib.tiny().flow), is_leaf=lambda x: hasattr(x, "names"))
  assert all(len(leaf.names) == len(leaf.value.shape) for leaf in boxed)
  assert {axis for leaf in boxed for axis in leaf.names} == {
    "vocab", "embed", "heads", "head_dim", "mlp", "norm", "conv_in", "conv_out", None,
  }  # fmt: skip
