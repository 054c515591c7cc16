"""Runs the pickle of a PyTorch checkpoint as far as tensors need it, and no further.

A pickle is a program: a stock unpickler imports and calls whatever it names. This one knows
the opcodes that `torch.save` writes for dicts of tensors. A name is looked up in a table and
stands for itself; nothing is imported, no attribute is set, and no value is called.
"""

import pickletools
from pathlib import Path
from typing import Any, NamedTuple

from cosyjax.errors import ConversionError, UnsafeFileError

_MAX_OPCODES = 2_000_000

_STORAGES = {
  "torch FloatStorage": "f4",
  "torch DoubleStorage": "f8",
  "torch HalfStorage": "f2",
  "torch BFloat16Storage": "bf16",
  "torch LongStorage": "i8",
  "torch IntStorage": "i4",
  "torch ShortStorage": "i2",
  "torch CharStorage": "i1",
  "torch ByteStorage": "u1",
  "torch BoolStorage": "?",
}
_LITERALS = {
  "BININT", "BININT1", "BININT2", "LONG1", "INT", "BINFLOAT", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CALLABLE = {
  "collections OrderedDict",
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_parameter",
  "torch Size",
  "torch device",
}


class _Global(NamedTuple):
  """A name that the pickle asked for and may have: never the thing itself."""

  name: str


class Storage(NamedTuple):
  kind: str  # as in _STORAGES
  key: str
  count: int  # elements


class Tensor(NamedTuple):
  """A view of a storage, as the pickle describes it; not checked yet."""

  storage: Any
  offset: Any
  shape: Any
  strides: Any


class Interpreter:
  """Runs the few opcodes that dicts of tensors need; nothing that it makes is more than data."""

  def __init__(self, path: Path, program: bytes) -> None:
    self.path, self.program = path, program
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}

  def run(self) -> Any:
    """The value that the pickle describes."""
    try:
      for count, (opcode, argument, position) in enumerate(pickletools.genops(self.program)):
        if count > _MAX_OPCODES:
          raise ConversionError(f"{self.path}: its pickle has more than {_MAX_OPCODES:,} steps")
        if opcode.name == "STOP":
          if position + 1 != len(self.program):
            raise UnsafeFileError(f"{self.path}: {len(self.program) - position - 1} bytes follow the end of its pickle")
          if len(self.stack) != 1 or self.marks:
            raise ConversionError(f"{self.path}: its pickle is damaged: {len(self.stack)} values at the end")
          return self.stack[0]
        self._step(opcode.name, argument)
    except (ConversionError, MemoryError):
      raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError) as error:
      raise ConversionError(f"{self.path}: its pickle is damaged: {error}") from error
    raise ConversionError(f"{self.path}: its pickle does not end")

  def _step(self, name: str, argument: Any) -> None:
    stack = self.stack
    if name in ("PROTO", "FRAME"):
      pass
    elif name in _LITERALS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in ("EMPTY_DICT", "EMPTY_LIST"):
      stack.append({} if name == "EMPTY_DICT" else [])
    elif name == "MARK":
      self.marks.append(len(stack))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
      stack.append(tuple(self._take(int(name[-1]))))
    elif name in ("TUPLE", "LIST"):
      stack.append((tuple if name == "TUPLE" else list)(self._take_marked()))
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
      self.memo[argument] = self._top()
    elif name == "MEMOIZE":
      self.memo[len(self.memo)] = self._top()
    elif name in ("BINGET", "LONG_BINGET", "GET"):
      stack.append(self.memo[argument])
    elif name in ("SETITEM", "SETITEMS"):
      items = self._take(2) if name == "SETITEM" else self._take_marked()
      self._set_items(items)
    elif name in ("APPEND", "APPENDS"):
      items = self._take(1) if name == "APPEND" else self._take_marked()
      self._expect(self._top(), list, name).extend(items)
    elif name in ("GLOBAL", "STACK_GLOBAL"):
      stack.append(self._global(argument if name == "GLOBAL" else self._take(2)))
    elif name == "BINPERSID":
      stack.append(self._persistent(self._take(1)[0]))
    elif name == "REDUCE":
      function, arguments = self._take(2)
      stack.append(self._call(function, arguments))
    elif name == "BUILD":
      # torch.save hangs module versions on the OrderedDict of a state dict
      (state,) = self._take(1)
      if type(self._top()) is not dict or type(state) is not dict or set(state) - {"_metadata"}:
        raise UnsafeFileError(f"{self.path}: its pickle sets attributes of an object; nothing of it has been run")
    else:
      raise UnsafeFileError(f"{self.path}: its pickle uses {name}, which tensors never need; nothing has been run")

  def _take(self, count: int) -> list[Any]:
    if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
      raise ValueError("it takes more values than there are")
    taken = self.stack[-count:]
    del self.stack[-count:]
    return taken

  def _take_marked(self) -> list[Any]:
    if not self.marks:
      raise ValueError("it takes values without a mark")
    mark = self.marks.pop()
    taken = self.stack[mark:]
    del self.stack[mark:]
    return taken

  def _top(self) -> Any:
    if len(self.stack) <= (self.marks[-1] if self.marks else 0):
      raise ValueError("it takes more values than there are")
    return self.stack[-1]

  def _expect(self, value: Any, kind: type, where: str) -> Any:
    # Values of hostile depth are never shown, compared or hashed: only their types are.
    if type(value) is not kind:
      raise ValueError(f"{where} expects {kind.__name__}, found {type(value).__name__}")
    return value

  def _set_items(self, items: list[Any]) -> None:
    target = self._expect(self._top(), dict, "SETITEMS")
    if len(items) % 2:
      raise ValueError("SETITEMS has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
      target[self._key(key)] = value

  def _key(self, key: Any) -> Any:
    if type(key) not in (str, int):
      raise ValueError(f"a dict has a key of type {type(key).__name__}")
    return key

  def _global(self, name: Any) -> _Global:
    if type(name) is list:  # module and name from the stack
      name = " ".join(self._expect(part, str, "STACK_GLOBAL") for part in name)
    if name not in _CALLABLE and name not in _STORAGES:
      shown = ".".join(name.split(" ", 1))[:120]
      raise UnsafeFileError(
        f"{self.path} asks for {shown!r}, and only tensors are read from it; nothing has been run. If you trust the"
        " file, save the state dict alone"
      )
    return _Global(name)

  def _persistent(self, identity: Any) -> Storage:
    tag, kind, key, _, count = self._expect(identity, tuple, "a storage")
    if type(tag) is not str or tag != "storage" or type(kind) is not _Global or kind.name not in _STORAGES:
      raise ValueError("a reference to something that is no storage")
    return Storage(_STORAGES[kind.name], self._expect(key, str, "a storage"), self._expect(count, int, "a storage"))

  def _call(self, function: Any, arguments: Any) -> Any:
    if type(function) is not _Global or function.name not in _CALLABLE:
      raise UnsafeFileError(f"{self.path}: its pickle calls what is no function of tensors; nothing has been run")
    arguments = self._expect(arguments, tuple, "REDUCE")
    if function.name == "torch._utils _rebuild_tensor_v2":
      storage, offset, shape, strides = arguments[:4]
      return Tensor(self._expect(storage, Storage, "a tensor"), offset, shape, strides)
    if function.name == "torch._utils _rebuild_parameter":
      return self._expect(arguments[0], Tensor, "a parameter")
    if function.name == "collections OrderedDict":
      pairs = self._expect(arguments[0], list, "OrderedDict") if arguments else []
      return {self._key(pair[0]): pair[1] for pair in pairs}
    return None  # torch.Size and torch.device: nothing that a tensor needs
