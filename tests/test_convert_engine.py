"""The conversion engine: transforms, weight norm, and one list of everything that does not fit."""

import jax
import numpy as np
import pytest

from convert import engine
from convert.engine import Rule, Table
from convert.read_yaml import read_yaml
from cosyjax.errors import ConversionError

RNG = np.random.default_rng(0)
ABSTRACT = {
  "conv": {"kernel": jax.ShapeDtypeStruct((3, 2, 4), np.float32), "bias": jax.ShapeDtypeStruct((4,), np.float32)},
  "layers_0": {"kernel": jax.ShapeDtypeStruct((5, 6), np.float32)},
}
TABLE = Table(
  rules=(
    Rule(r"conv\.weight", "conv/kernel", engine.conv1d),
    Rule(r"conv\.bias", "conv/bias"),
    Rule(r"blocks\.(\d+)\.proj\.weight", r"layers_\1/kernel", engine.linear),
  ),
  ignored=(r"lm_head\.weight",),
)


def _tensors() -> dict[str, np.ndarray]:
  shapes = {"conv.weight": (4, 2, 3), "conv.bias": (4,), "blocks.0.proj.weight": (6, 5), "lm_head.weight": (9, 5)}
  return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_converts_and_counts():
  tensors = _tensors()
  result = engine.convert("part", tensors, TABLE, ABSTRACT)
  np.testing.assert_array_equal(result.params["conv"]["kernel"][2, 1, 3], tensors["conv.weight"][3, 1, 2])
  np.testing.assert_array_equal(result.params["layers_0"]["kernel"], tensors["blocks.0.proj.weight"].T)
  assert (result.tensors_read, result.parameters, result.ignored) == (3, 24 + 4 + 30, ("lm_head.weight",))


def test_everything_wrong_is_listed_at_once():
  tensors = _tensors()
  tensors["conv.weight"] = tensors["conv.weight"][:, :, :2]
  tensors["conv.bias"][1] = np.nan
  tensors["surprise"] = np.zeros(3, np.float32)
  tensors["blocks.7.proj.weight"] = tensors.pop("blocks.0.proj.weight")
  with pytest.raises(ConversionError) as error:
    engine.convert("part", tensors, TABLE, ABSTRACT)
  for said in (
    "part: 5 tensors do not fit",
    "tensor conv.weight (4, 2, 2): gives (2, 2, 4), parameter conv/kernel has (3, 2, 4)",
    "conv.bias: holds values that are not finite",
    "unknown tensor surprise (3,)",
    "blocks.7.proj.weight: the model has no parameter layers_7/kernel",
    "missing: nothing fills parameter layers_0/kernel (5, 6)",
  ):
    assert said in str(error.value)


def test_duplicates_and_ambiguity():
  rules = (*TABLE.rules, Rule(r"twin\.bias", "conv/bias"), Rule(r".*\.bias", "conv/bias"))
  tensors = _tensors() | {"twin.bias": np.zeros(4, np.float32)}
  with pytest.raises(ConversionError, match=r"tensor conv\.bias matches 2 rules"):
    engine.convert("part", tensors, Table(rules, TABLE.ignored), ABSTRACT)
  with pytest.raises(ConversionError, match=r"duplicate: twin\.bias and conv\.bias both fill conv/bias"):
    engine.convert("part", tensors, Table(rules[:4], TABLE.ignored), ABSTRACT)


@pytest.mark.parametrize(
  "ends", [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
)
def test_weight_norm_both_spellings(ends):
  v = RNG.normal(size=(4, 3, 5)).astype(np.float32)
  g = RNG.normal(size=(4, 1, 1)).astype(np.float32)
  out = engine.fold_weight_norm({f"up.0.{ends[0]}": g, f"up.0.{ends[1]}": v, "up.0.bias": g[:, 0, 0]})
  assert sorted(out) == ["up.0.bias", "up.0.weight"]
  expected = g * v / np.sqrt((v**2).sum(axis=(1, 2), keepdims=True))
  np.testing.assert_allclose(out["up.0.weight"], expected, rtol=1e-6)


def test_half_a_weight_norm_pair():
  with pytest.raises(ConversionError, match=r"missing: up\.weight_v"):
    engine.fold_weight_norm({"up.weight_g": np.ones((2, 1, 1), np.float32)})


def test_yaml_builds_nothing(tmp_path):
  canary = tmp_path / "canary"
  file = tmp_path / "cosyvoice2.yaml"
  file.write_text(
    f"run: !!python/object/apply:os.system ['touch {canary}']\n"
    f"also: !apply:os.system [touch {canary}]\n"
    "chunk: 25\nratio: 2\nflow: !new:some.Class\n"
    "  size: !ref <chunk> * <ratio>\n  same: !ref <chunk>\n  odd: !ref <none>\n"
  )
  data = read_yaml(file)
  assert not canary.exists()
  assert data["flow"] == {"size": 50, "same": 25, "odd": "<none>"}


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "a: &x [1]\nb: *x\n", "\x00", "a: " + "[" * 20_000])
def test_yaml_that_is_refused(tmp_path, text):
  (tmp_path / "bad.yaml").write_text(text)
  with pytest.raises(ConversionError, match=r"bad\.yaml"):
    read_yaml(tmp_path / "bad.yaml")
