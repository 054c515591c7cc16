"""The `.onnx` reader on good, odd and hostile files."""

import time

import numpy as np
import pytest

from convert.read_onnx import read_onnx
from cosyjax.errors import ConversionError, UnsafeFileError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402


def _model(initializers=(), nodes=(), inputs=("x",)):
  values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
  outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
  graph = helper.make_graph(list(nodes), "g", values, outputs, list(initializers))
  return helper.make_model(graph)


def _tensor(name="w", dims=(2, 3), kind=TensorProto.FLOAT, raw=None):
  tensor = TensorProto(name=name, data_type=kind, dims=dims)
  tensor.raw_data = np.arange(6, dtype=np.float32).tobytes() if raw is None else raw
  return tensor


def _write(path, model):
  path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
  return path


@pytest.fixture
def file(tmp_path):
  return tmp_path / "model.onnx"


def _varint(value):
  out = bytearray()
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  return bytes([*out, value])


def _field(number, payload):
  return _varint(number << 3 | 2) + _varint(len(payload)) + payload


# Graph


def test_weights_are_found_by_node_and_position(file):
  matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
  nodes = [
    helper.make_node("Constant", [], ["scale"], "/c", value=helper.make_tensor("", TensorProto.FLOAT, [], [2.0])),
    helper.make_node("Mul", ["x", "scale"], ["a"], "/mul"),
    helper.make_node("Identity", ["onnx::MatMul_7"], ["alias"], "/identity"),
    helper.make_node("MatMul", ["a", "alias"], ["b"], "/linear/MatMul"),
    helper.make_node("Add", ["onnx::Add_8", "b"], ["c"], "/linear/Add"),
    helper.make_node("MatMul", ["c", "c"], ["d"], "/attention/MatMul"),
    helper.make_node("Conv", ["d", "k"], ["y"], "/conv/Conv", dilations=[2], group=3),
  ]
  tensors = [_tensor("onnx::MatMul_7"), _tensor("onnx::Add_8", (3,), raw=np.ones(3, np.float32).tobytes())]
  graph = read_onnx(_write(file, _model([*tensors, _tensor("k", (1, 2, 3))], nodes)))
  np.testing.assert_array_equal(graph.weight("/linear/MatMul"), matrix)
  np.testing.assert_array_equal(graph.weight("/linear/MatMul", 1), matrix)
  np.testing.assert_array_equal(graph.added("/linear/MatMul"), np.ones(3))
  assert [n.name for n in graph.nodes_of("MatMul")] == ["/linear/MatMul", "/attention/MatMul"]
  assert [n.name for n in graph.nodes_of("MatMul", weighted=True)] == ["/linear/MatMul"]
  assert graph.nodes_of("Mul", weighted=True) == []  # a scalar is no weight
  assert graph.node("/conv/Conv").attributes == {"dilations": (2,), "group": 3}
  assert graph.source(graph.node("/linear/Add"), 1) is graph.node("/linear/MatMul")
  assert graph.source(graph.node("/linear/Add"), 0) is None
  for wrong in (
    lambda: graph.node("/nowhere"),
    lambda: graph.weight("/attention/MatMul"),
    lambda: graph.weight("/linear/MatMul", 0),
    lambda: graph.weight("/linear/MatMul", 5),
    lambda: graph.added("/attention/MatMul"),
  ):
    with pytest.raises(ConversionError, match=r"model\.onnx"):
      wrong()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
  "kind",
  [
    "FLOAT",
    "DOUBLE",
    "FLOAT16",
    "BFLOAT16",
    "INT8",
    "UINT8",
    "INT16",
    "UINT16",
    "INT32",
    "UINT32",
    "INT64",
    "UINT64",
    "BOOL",
  ],
)
def test_every_number_type_is_read(file, kind, raw):
  values = np.array([[0, 1, 1], [1, 0, 1]]) if kind == "BOOL" else np.array([[0, 1, 2], [3, 100, 127]])
  data_type = getattr(TensorProto, kind)
  if raw and kind == "BFLOAT16":
    tensor = _tensor(kind=data_type, raw=(values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes())
  elif raw:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    tensor = _tensor(kind=data_type, raw=values.astype(dtype).tobytes())
  else:
    tensor = helper.make_tensor("w", data_type, (2, 3), values.ravel())
  found = read_onnx(_write(file, _model([tensor]))).constants["w"]
  np.testing.assert_array_equal(found.astype(np.float64), values)
  if kind == "BFLOAT16":
    assert found.dtype == np.float32


def test_negative_numbers_keep_their_sign(file):
  kinds = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.INT64)
  tensors = [helper.make_tensor(f"w{kind}", kind, (2,), [-3, 5]) for kind in kinds]
  for array in read_onnx(_write(file, _model(tensors))).constants.values():
    np.testing.assert_array_equal(array.astype(np.float64), [-3, 5])


# Hostile and damaged files


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../secret.bin", ""])
@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_external_data_is_refused(file, location, place):
  tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
  if location:
    tensor.external_data.add(key="location", value=location)
  constant = helper.make_node("Constant", [], ["c"], "/c", value=tensor)
  if place == "initializer":
    model = _model([tensor])
  elif place == "constant":
    model = _model(nodes=[constant])
  else:
    branch = helper.make_graph([constant], "branch", [], [])
    model = _model(nodes=[helper.make_node("If", ["x"], ["y"], "/if", then_branch=branch, else_branch=branch)])
  with pytest.raises(UnsafeFileError, match="another file") as error:
    read_onnx(_write(file, model))
  assert location in str(error.value)


def test_external_data_beside_raw_data_is_refused(file):
  tensor = _tensor()
  tensor.external_data.add(key="location", value="other.bin")
  with pytest.raises(UnsafeFileError, match=r"other\.bin"):
    read_onnx(_write(file, _model([tensor])))


def test_inline_location_is_fine(file):
  tensor = _tensor()
  tensor.data_location = TensorProto.DEFAULT
  assert read_onnx(_write(file, _model([tensor]))).constants["w"].shape == (2, 3)


@pytest.mark.parametrize(
  ("tensor", "message"),
  [
    (_tensor(dims=(-1, 6)), "negative"),
    (_tensor(dims=(2**40, 2**40)), "cannot fit"),
    (_tensor(dims=(2**62, 2**62, 0), raw=b""), "damaged"),
    (_tensor(dims=(2, 4)), "24 bytes of data, expected 32"),
    (_tensor(dims=(2, 3), kind=TensorProto.INT64), "expected 48"),
    (_tensor(kind=TensorProto.STRING), "data type 8"),
    (_tensor(kind=TensorProto.UNDEFINED), "data type 0"),
    (_tensor(kind=TensorProto.COMPLEX64), "data type 14"),
    (TensorProto(name="w", data_type=1, dims=[3], float_data=[1.0, 2.0]), "2 values"),
    (TensorProto(name="w", data_type=1, dims=[2], int32_data=[1, 2]), "expected 2 in float_data"),
    (TensorProto(name="w", data_type=3, dims=[1], int32_data=[300]), "range"),
    (TensorProto(name="w", data_type=1, dims=[2]), "0 values"),
    (TensorProto(name="w", data_type=1, segment=TensorProto.Segment(begin=0, end=1)), "segmented"),
  ],
)
def test_tensors_that_contradict_themselves_are_refused(file, tensor, message):
  with pytest.raises(ConversionError, match=message):
    read_onnx(_write(file, _model([tensor])))


def test_values_have_one_origin_and_come_before_their_readers(file):
  with pytest.raises(ConversionError, match="unique"):
    read_onnx(_write(file, _model([_tensor(), _tensor()])))
  cycle = [helper.make_node("Relu", ["b"], ["a"], "/a"), helper.make_node("Relu", ["a"], ["b"], "/b")]
  with pytest.raises(ConversionError, match="cycle"):
    read_onnx(_write(file, _model(nodes=cycle)))
  twice = [helper.make_node("Relu", ["x"], ["y"], "/a"), helper.make_node("Relu", ["x"], ["y"], "/b")]
  with pytest.raises(ConversionError, match="exists already"):
    read_onnx(_write(file, _model(nodes=twice)))


def _nested(levels):
  data = b""
  for _ in range(levels):  # graph > node > attribute > graph
    data = _field(1, _field(5, _field(6, data)))
  return _field(7, data)


@pytest.mark.parametrize(
  "data",
  [
    _field(7, _field(1, b"") * 500_000),  # nodes
    _field(7, _field(1, _field(5, b"") * 500_000)),  # attributes of one node
    _field(7, _field(1, _field(1, b"") * 500_000)),  # inputs of one node
    _field(7, _field(5, b"\x08\x01" * 500_000)),  # dimensions of one tensor
    _field(7, _field(5, _field(7, b"\x01" * 20_000_000))),  # packed integers
    _field(25, b"") * 500_000,  # functions
    _nested(200),
  ],
  ids=["nodes", "attributes", "inputs", "dimensions", "packed", "functions", "nesting"],
)
def test_files_that_grow_when_parsed_are_refused_at_once(file, data):
  _write(file, data)
  start = time.process_time()
  with pytest.raises(UnsafeFileError, match="expected at most"):
    read_onnx(file)
  assert time.process_time() - start < 2


def test_more_than_two_gigabytes_are_refused_unread(file):
  with file.open("wb") as out:
    out.truncate(2**31 + 1)
  with pytest.raises(UnsafeFileError, match="2 GB"):
    read_onnx(file)


def test_what_is_no_model_is_refused(file, tmp_path):
  for data in (b"", b"\0" * 100, b"not a model at all", b"\x80\x02" + b"pickle" * 100, b"\xff" * 100):
    with pytest.raises(ConversionError, match=r"model\.onnx"):
      read_onnx(_write(file, data))
  with pytest.raises(ConversionError, match="regular file"):
    read_onnx(tmp_path)
  with pytest.raises(ConversionError, match="cannot be read"):
    read_onnx(tmp_path / "absent.onnx")


def test_damage_anywhere_gives_a_typed_error_or_a_graph(file):
  nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "/conv", dilations=[2], group=3)]
  whole = bytearray(
    _model([_tensor(), helper.make_tensor("v", TensorProto.INT64, [3], [1, 2, 3])], nodes).SerializeToString()
  )
  rng = np.random.default_rng(0)
  refused = 0
  for trial in range(300):
    data = bytearray(whole)
    for at in rng.integers(len(data), size=1 + trial % 3):
      data[at] ^= int(rng.integers(1, 256))
    try:
      read_onnx(_write(file, bytes(data[: rng.integers(len(data))] if trial % 5 == 0 else data)))
    except ConversionError:
      refused += 1
  assert refused > 100
