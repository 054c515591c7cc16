"""Reads the tensors of an `.onnx` file and where in the graph they stand, and nothing else.

The file is data: no operator is run, no other file is opened, and sizes are checked before
memory is given to them. Tensors are found through the nodes that use them, because exporters
number their initializers differently every time (`onnx::MatMul_2536`).
"""

import dataclasses
import mmap
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cosyjax.errors import ConversionError, UnsafeFileError

MAX_BYTES = 2**31 - 1  # protobuf's own limit
MAX_FIELDS = 300_000  # of the whole file; the larger graph of the release has 36 thousand
MAX_DEPTH = 32
MAX_PACKED = 2**24  # bytes of variable-length integers, which grow eightfold when parsed

# TensorProto.DataType: name of the field for values that are not raw, and of the numpy type.
_DTYPES = {
  1: ("float_data", "<f4"),
  2: ("int32_data", "u1"),
  3: ("int32_data", "i1"),
  4: ("int32_data", "<u2"),
  5: ("int32_data", "<i2"),
  6: ("int32_data", "<i4"),
  7: ("int64_data", "<i8"),
  9: ("int32_data", "?"),
  10: ("int32_data", "<f2"),
  11: ("double_data", "<f8"),
  12: ("uint64_data", "<u4"),
  13: ("uint64_data", "<u8"),
  16: ("int32_data", "bfloat16"),
}
_VALUE_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclasses.dataclass(frozen=True)
class Node:
  """One operator. `inputs` and `outputs` are names of values, "" for an absent one."""

  name: str
  op: str
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  attributes: dict[str, Any]  # numbers, and tuples of numbers


class Graph:
  """Nodes in topological order and the constant values that they read.

  Attributes:
    path: the file, for messages.
    nodes: every node but `Constant`.
    constants: value name -> array, of initializers, `Constant` nodes and their `Identity` aliases.
  """

  def __init__(self, path: Path, nodes: tuple[Node, ...], constants: dict[str, np.ndarray]) -> None:
    self.path = path
    self.nodes = nodes
    self.constants = constants
    self._by_name: dict[str, list[Node]] = {}
    self._producers = {output: node for node in nodes for output in node.outputs if output}
    self._readers: dict[str, list[Node]] = {}
    for node in nodes:
      self._by_name.setdefault(node.name, []).append(node)
      for value in dict.fromkeys(node.inputs):
        self._readers.setdefault(value, []).append(node)

  def node(self, name: str) -> Node:
    """The one node of this name.

    Raises:
      ConversionError: there is none, or more than one.
    """
    found = self._by_name.get(name, [])
    if len(found) != 1:
      raise ConversionError(f"{self.path}: expected one node {name}, found {len(found)}")
    return found[0]

  def nodes_of(self, op: str, *, weighted: bool = False) -> list[Node]:
    """Nodes of one operator type in topological order; `weighted`: only those that read a constant array."""
    nodes = [node for node in self.nodes if node.op == op]
    return [node for node in nodes if self._arrays(node)] if weighted else nodes

  def readers(self, node: Node) -> list[Node]:
    """Nodes that read this node's results, in topological order."""
    return [reader for output in node.outputs for reader in self._readers.get(output, [])]

  def source(self, node: Node, index: int = 0) -> Node | None:
    """The node that computes one of this node's inputs; None for a constant or an input of the graph."""
    return self._producers.get(node.inputs[index])

  def weight(self, node: Node | str, index: int | None = None) -> np.ndarray:
    """A constant input of a node.

    Args:
      node: the node or its name.
      index: position among the node's inputs; None if the node has just one constant array.

    Raises:
      ConversionError: that input is not constant, or `index` is None and there is not just one.
    """
    node = self.node(node) if isinstance(node, str) else node
    if index is not None:
      if index >= len(node.inputs) or node.inputs[index] not in self.constants:
        raise ConversionError(f"{self.path}: node {node.name} ({node.op}): input {index} is not a constant")
      return self.constants[node.inputs[index]]
    arrays = self._arrays(node)
    if len(arrays) != 1:
      raise ConversionError(
        f"{self.path}: node {node.name} ({node.op}): expected one constant array, found {len(arrays)}"
      )
    return arrays[0]

  def added(self, node: Node | str) -> np.ndarray:
    """The bias of a `MatMul`: the constant that the node behind it adds to its result.

    Raises:
      ConversionError: nothing constant is added to it.
    """
    node = self.node(node) if isinstance(node, str) else node
    biases = [reader for reader in self.readers(node) if reader.op == "Add" and self._arrays(reader)]
    if len(biases) != 1:
      raise ConversionError(f"{self.path}: node {node.name} ({node.op}): no single Add of a bias follows it")
    return self.weight(biases[0])

  def _arrays(self, node: Node) -> list[np.ndarray]:
    arrays = [self.constants[value] for value in node.inputs if value in self.constants]
    return [array for array in arrays if array.ndim]


def read_onnx(path: str | Path) -> Graph:
  """Reads a file.

  Raises:
    UnsafeFileError: it refers to data in another file, or would take far more memory or time than it has bytes.
    ConversionError: it cannot be read, is no ONNX model, or holds a tensor whose type, shape and data disagree.
  """
  import onnx

  path = Path(path)
  data = _bytes_of(path)
  try:
    _check_structure(path, data, onnx.ModelProto.DESCRIPTOR, onnx.TensorProto)
    return _graph(path, onnx.load_model_from_string(bytes(data)).graph)
  except ConversionError:
    raise
  except Exception as error:  # each version of protobuf has errors of its own
    raise ConversionError(f"{path}: not an ONNX model, or damaged ({error})") from error
  finally:
    data.release()


def _bytes_of(path: Path) -> memoryview:
  """The file's bytes, mapped, if it is a regular file of a possible size."""
  try:
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
      raise UnsafeFileError(f"{path}: expected a regular file")
    if info.st_size > MAX_BYTES:
      raise UnsafeFileError(f"{path}: expected less than 2 GB, found {info.st_size} bytes")
    if info.st_size == 0:
      raise ConversionError(f"{path}: the file is empty")
    with path.open("rb") as file:
      return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
  except OSError as error:
    raise ConversionError(f"{path}: cannot be read ({error.strerror})") from error


def _check_structure(path: Path, data: memoryview, root: Any, tensor_type: Any) -> None:
  """Walks the encoded fields, before anything is built from them.

  A field of two bytes can become an object of a hundred, so the number of fields is what bounds
  memory, and it is bounded here, together with depth, and with integers that are packed.
  """
  fields = packed = 0
  stack = [(root, 0, len(data), 0)]
  while stack:
    message, start, end, depth = stack.pop()
    if depth > MAX_DEPTH:
      raise UnsafeFileError(f"{path}: expected at most {MAX_DEPTH} nested levels")
    is_tensor = message.full_name == tensor_type.DESCRIPTOR.full_name
    for number, payload in _fields(path, data, start, end):
      fields += 1
      if fields > MAX_FIELDS:
        raise UnsafeFileError(f"{path}: expected at most {MAX_FIELDS} fields (nodes, names, attributes), found more")
      field = message.fields_by_number.get(number)
      if field is None:
        continue
      if is_tensor and (field.name == "external_data" or (field.name == "data_location" and payload != 0)):
        _refuse_external(path, tensor_type.FromString(bytes(data[start:end])))
      if not isinstance(payload, tuple) or payload[0] == payload[1]:
        continue
      if field.message_type is not None:
        stack.append((field.message_type, *payload, depth + 1))
      elif field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT64, field.CPPTYPE_ENUM):
        packed += payload[1] - payload[0]
        if packed > MAX_PACKED:
          raise UnsafeFileError(f"{path}: expected at most {MAX_PACKED} bytes of packed integers, found more")


def _fields(path: Path, data: memoryview, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
  """Field numbers, each with the range of its bytes, or with its value if it is an integer of variable length."""
  at = start
  while at < end:
    tag, at = _varint(path, data, at, end)
    kind = tag & 7
    if kind == 0:
      payload, at = _varint(path, data, at, end)
    elif kind == 2:
      size, at = _varint(path, data, at, end)
      payload = (at, at + size)
      at += size
    elif kind in (1, 5):
      size = 8 if kind == 1 else 4
      payload = (at, at + size)
      at += size
    else:
      raise ConversionError(f"{path}: not an ONNX model, or damaged (wire type {kind} at byte {at})")
    if at > end:
      raise ConversionError(f"{path}: not an ONNX model, or damaged (a field ends after byte {end})")
    yield tag >> 3, payload


def _varint(path: Path, data: memoryview, at: int, end: int) -> tuple[int, int]:
  if at < end and data[at] < 128:  # nearly all are this short
    return data[at], at + 1
  value = shift = 0
  while at < end and shift < 70:
    byte = data[at]
    at += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, at
    shift += 7
  raise ConversionError(f"{path}: not an ONNX model, or damaged (a number at byte {at} does not end)")


def _refuse_external(path: Path, tensor: Any) -> NoReturn:
  where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
  raise UnsafeFileError(
    f"{path}: tensor {tensor.name} keeps its data in another file ({where!r}); expected all data inside the model"
  )


def _graph(path: Path, proto: Any) -> Graph:
  """Our view of the parsed graph, checked for order and unique values."""
  if proto.sparse_initializer:
    raise ConversionError(f"{path}: sparse initializers are not supported")
  constants: dict[str, np.ndarray] = {}
  for tensor in proto.initializer:
    if not tensor.name or tensor.name in constants:
      raise ConversionError(f"{path}: expected unique initializer names, found {tensor.name!r} twice or empty")
    constants[tensor.name] = _array(path, tensor, tensor.name)
  known = {"", *constants, *(value.name for value in proto.input)}
  nodes = []
  for node in proto.node:
    unknown = [value for value in node.input if value not in known]
    if unknown:
      raise ConversionError(
        f"{path}: node {node.name} reads {unknown[0]!r} before it exists (a cycle, or out of order)"
      )
    twice = [value for value in node.output if value and value in known]
    if twice:
      raise ConversionError(f"{path}: node {node.name} writes {twice[0]!r}, which exists already")
    known.update(node.output)
    value = {a.name: a.t for a in node.attribute if a.HasField("t")}.get("value")
    if node.op_type == "Constant" and len(node.output) == 1:
      if value is not None:
        constants[node.output[0]] = _array(path, value, node.name)
      continue
    if node.op_type == "Identity" and len(node.input) == 1 and node.input[0] in constants:
      constants[node.output[0]] = constants[node.input[0]]
      continue
    nodes.append(Node(node.name, node.op_type, tuple(node.input), tuple(node.output), _attributes(node)))
  return Graph(path, tuple(nodes), constants)


def _attributes(node: Any) -> dict[str, Any]:
  """Numbers and tuples of numbers among a node's attributes."""
  readers = {1: lambda a: a.f, 2: lambda a: a.i, 6: lambda a: tuple(a.floats), 7: lambda a: tuple(a.ints)}
  return {a.name: readers[a.type](a) for a in node.attribute if a.type in readers}


def _array(path: Path, tensor: Any, name: str) -> np.ndarray:
  """A tensor's values; bfloat16 comes back as float32.

  Raises:
    ConversionError: unknown type, impossible shape, or data that do not fill the shape.
  """
  where = f"{path}: tensor {name}"
  if tensor.data_type not in _DTYPES:
    raise ConversionError(f"{where}: data type {tensor.data_type} is not supported; expected numbers")
  if tensor.HasField("segment"):
    raise ConversionError(f"{where}: segmented tensors are not supported")
  shape, count = tuple(tensor.dims), 1
  for size in shape:
    if size < 0:
      raise ConversionError(f"{where}: expected no negative size, found {list(shape)}")
    count *= size
  if len(shape) > MAX_DEPTH or count > MAX_BYTES:
    raise ConversionError(f"{where}: a shape of {list(shape)[:8]} cannot fit into the file")
  field, kind = _DTYPES[tensor.data_type]
  bits = np.dtype("<u2" if kind == "bfloat16" else kind)
  filled = [f for f in _VALUE_FIELDS if len(getattr(tensor, f))]
  if tensor.HasField("raw_data"):
    raw = tensor.raw_data
    if filled or len(raw) != count * bits.itemsize:
      raise ConversionError(f"{where}: {len(raw)} bytes of data, expected {count * bits.itemsize} for {list(shape)}")
    values = np.frombuffer(raw, bits)
  else:
    values = _typed(where, getattr(tensor, field), field, kind, bits)
    if filled not in ([], [field]) or values.size != count:
      raise ConversionError(f"{where}: {values.size} values in {filled}, expected {count} in {field}")
  if kind == "bfloat16":
    values = (values.astype(np.uint32) << 16).view(np.float32)
  return values.reshape(shape)


def _typed(where: str, stored: Any, field: str, kind: str, bits: np.dtype) -> np.ndarray:
  """Values that are kept one by one; 16-bit floats are kept as the integers of their bits."""
  values = np.array(stored, "<i8" if field == "int32_data" else None)
  if field != "int32_data":
    return values.astype(bits)
  integers = np.dtype("<u2") if kind in ("<f2", "bfloat16") else np.dtype("u1") if kind == "?" else bits
  limits = np.iinfo(integers)
  if values.size and (values.min() < limits.min or values.max() > limits.max):
    raise ConversionError(f"{where}: values beyond the range of {integers}")
  return values.astype(integers).view(bits)
