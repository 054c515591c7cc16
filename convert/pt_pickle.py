"""Unpickles a PyTorch checkpoint as far as tensors need it, and no further.

A pickle is a program: a stock unpickler imports and calls whatever it names. In this one `find_class` knows the names
that `torch.save` writes for dicts of tensors and gives inert stand-ins for them; nothing is imported, no attribute is
set, and of what is called only the functions of this file run. It is the unpickler that `pickle` keeps in Python: its
table of opcodes can be cut down, where the one in C hashes tuples of any depth and keeps a memo of any size, by which
a file can end the process.
"""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cosyjax.errors import ConversionError, UnsafeFileError

_MAX_READS = 6_000_000  # parts of a pickle; one of 10,000 tensors has 400,000
_OPCODES = {
  "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "INT",
  "BINFLOAT", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
  "TUPLE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT",
  "PUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GET", "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD",
}  # fmt: skip
_STORAGES = {
  "FloatStorage": "f4",
  "DoubleStorage": "f8",
  "HalfStorage": "f2",
  "BFloat16Storage": "bf16",
  "LongStorage": "i8",
  "IntStorage": "i4",
  "ShortStorage": "i2",
  "CharStorage": "i1",
  "ByteStorage": "u1",
  "BoolStorage": "?",
}
_DTYPES = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


class Storage(NamedTuple):
  """A storage that the pickle refers to: its elements lie in an entry of the zip."""

  kind: str  # as in _STORAGES
  key: str
  count: int  # elements


class Tensor(NamedTuple):
  """A view of a storage, as the pickle describes it; not checked yet."""

  storage: Any
  offset: Any
  shape: Any
  strides: Any


class _StorageType(NamedTuple):
  """Stands for a class of storages."""

  kind: str


class _Inert(NamedTuple):
  """Stands for what is named and never used."""

  name: str


class _Function(NamedTuple):
  """Stands for a function; `call` takes the arguments in its place."""

  call: Callable[..., Any]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
  return Tensor(_expect(storage, Storage, "a tensor"), offset, shape, strides)


def _ordered_dict(*arguments: Any) -> dict:
  pairs = _expect(arguments[0], list, "OrderedDict") if arguments else []
  return {_key(pair[0]): pair[1] for pair in pairs}


_STAND_INS: dict[tuple[str, str], Any] = {
  ("collections", "OrderedDict"): _Function(_ordered_dict),
  ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
  ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: _expect(tensor, Tensor, "a parameter")),
  ("torch", "Size"): _Function(lambda *_: None),  # these two: nothing that a tensor needs
  ("torch", "device"): _Function(lambda *_: None),
  **{("torch", name): _StorageType(kind) for name, kind in _STORAGES.items()},
  **{("torch", name): _Inert(name) for name in _DTYPES},
}


def load(path: Path, program: bytes) -> Any:
  """The value that a pickle describes: dicts, lists, tuples, numbers, texts, `Tensor`s, None.

  Args:
    path: of the checkpoint, for messages.
    program: the pickle.

  Raises:
    ConversionError: it is damaged, or longer than that of any model.
    UnsafeFileError: it asks for more than tensors. Nothing of it has been run.
  """
  file = _Program(path, program)
  reader = _Unpickler(path, file)
  try:
    value = reader.load()
  except (ConversionError, MemoryError):
    raise
  except (
    ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError, struct.error,
    pickle.UnpicklingError,
  ) as error:  # fmt: skip
    raise ConversionError(f"{path}: its pickle is damaged: {error or type(error).__name__}") from error
  if rest := len(program) - file.tell():
    raise UnsafeFileError(f"{path}: {rest} bytes follow the end of its pickle")
  if reader.stack or reader.metastack:
    raise ConversionError(f"{path}: its pickle is damaged: it leaves values over")
  return value


class _Program(io.BytesIO):
  """The pickle's bytes, read a limited number of times."""

  def __init__(self, path: Path, program: bytes) -> None:
    super().__init__(program)
    self._path, self._left = path, _MAX_READS

  def read(self, size: int = -1) -> bytes:
    self._left -= 1
    if self._left < 0:
      raise ConversionError(f"{self._path}: its pickle has more parts than that of any model")
    data = super().read(size)
    if len(data) < size:
      raise EOFError("it does not end" if size == 1 else "it is cut short")
    return data


class _Unpickler(pickle._Unpickler):
  """Knows the opcodes that dicts of tensors need, and the stand-ins of this file."""

  def __init__(self, path: Path, file: _Program) -> None:
    super().__init__(file)
    self._path = path

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _STAND_INS:
      raise UnsafeFileError(
        f"{self._path} asks for {f'{module}.{name}'[:120]!r}, and only tensors are read from it; nothing has been run."
        " If you trust the file, save the state dict alone"
      )
    return _STAND_INS[module, name]

  def persistent_load(self, identity: Any) -> Storage:
    tag, kind, key, _, count = _expect(identity, tuple, "a storage")
    if type(tag) is not str or tag != "storage" or type(kind) is not _StorageType:
      raise ValueError("a reference to something that is no storage")
    return Storage(kind.kind, _expect(key, str, "a storage"), _expect(count, int, "a storage"))

  def _reduce(self) -> None:
    arguments, function = self.stack.pop(), self.stack.pop()
    if type(function) is not _Function:
      raise UnsafeFileError(f"{self._path}: its pickle calls what is no function of tensors; nothing has been run")
    self.append(function.call(*_expect(arguments, tuple, "REDUCE")))

  def _build(self) -> None:
    # torch.save hangs module versions on the OrderedDict of a state dict.
    state, target = self.stack.pop(), self.stack[-1]
    if type(target) is not dict or type(state) is not dict or set(state) - {"_metadata"}:
      raise UnsafeFileError(f"{self._path}: its pickle sets attributes of an object; nothing of it has been run")

  def _set_item(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    _expect(self.stack[-1], dict, "SETITEM")[_key(key)] = value

  def _set_items(self) -> None:
    items = self.pop_mark()
    target = _expect(self.stack[-1], dict, "SETITEMS")
    target.update({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

  def _append(self) -> None:
    value = self.stack.pop()
    _expect(self.stack[-1], list, "APPEND").append(value)

  def _append_many(self) -> None:
    items = self.pop_mark()
    _expect(self.stack[-1], list, "APPENDS").extend(items)

  def _frame(self) -> None:
    self.read(8)  # frames save system calls; what lies in them is read as if there were none

  def _refuse(self, name: str) -> None:
    raise UnsafeFileError(f"{self._path}: its pickle uses {name}, which tensors never need; nothing has been run")


_OWN = {
  "REDUCE": _Unpickler._reduce,
  "BUILD": _Unpickler._build,
  "SETITEM": _Unpickler._set_item,
  "SETITEMS": _Unpickler._set_items,
  "APPEND": _Unpickler._append,
  "APPENDS": _Unpickler._append_many,
  "FRAME": _Unpickler._frame,
}


def _opcode(opcode: pickletools.OpcodeInfo) -> Callable[[_Unpickler], None]:
  if opcode.name not in _OPCODES:
    return lambda self: self._refuse(opcode.name)
  return _OWN.get(opcode.name) or pickle._Unpickler.dispatch[ord(opcode.code)]


_Unpickler.dispatch = {ord(opcode.code): _opcode(opcode) for opcode in pickletools.opcodes}


def _expect(value: Any, kind: type, where: str) -> Any:
  # Values of hostile depth are never shown, compared or hashed: only their types are.
  if type(value) is not kind:
    raise ValueError(f"{where} expects {kind.__name__}, found {type(value).__name__}")
  return value


def _key(key: Any) -> Any:
  if type(key) not in (str, int):
    raise ValueError(f"a dict has a key of type {type(key).__name__}")
  return key
