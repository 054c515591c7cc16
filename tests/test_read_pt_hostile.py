"""PyTorch checkpoints made to harm: refused by a typed error, and nothing of them is run."""

import builtins
import collections
import functools
import os
import pickle
import random
import subprocess
import time

import numpy as np
import pytest

from convert.read_pt import read_pt
from cosyjax.errors import ConversionError, UnsafeFileError
from tests.pt_files import TENSOR, checkpoint, number, program, storage, tensor, text


class _Call:
  """Pickles as a call of any function."""

  def __init__(self, function, *arguments):
    self.parts = (function, arguments)

  def __reduce__(self):
    return self.parts


def _payloads(canary: str) -> dict[str, bytes]:
  touch = f"touch {canary}"
  system = b"c" + os.system.__module__.encode() + b"\nsystem\n"
  code = f"open({canary!r}, 'w')"
  called = text(touch)
  empty = b"ccollections\nOrderedDict\n)R"
  ops = {
    "global only": program(w=system),
    "reduce": program(w=system + called + b"\x85R"),
    "reduce os": program(w=b"cos\nsystem\n" + called + b"\x85R"),
    "reduce before the dict": b"\x80\x02" + system + called + b"\x85R0" + program(w=b"N")[2:],
    "inst": program(w=b"(" + called + b"ios\nsystem\n"),
    "obj": program(w=b"(" + system + called + b"o"),
    "newobj": program(w=system + called + b"\x85\x81"),
    "newobj of an allowed name": program(w=b"ccollections\nOrderedDict\n)\x81"),
    "newobj_ex": program(w=system + called + b"\x85}\x92"),
    "stack global": program(w=text("os") + text("system") + b"\x93" + called + b"\x85R"),
    "stack global from the memo": program(w=text("os") + b"q\x01" + text("system") + b"q\x02h\x01h\x02\x93"),
    "stack global of dotted names": program(w=text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93"),
    "global of dotted names": program(w=b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n"),
    "global of a dotted module": program(w=b"ctorch\n_utils.sys.modules\n"),
    "ext1": program(w=b"\x82\x01"),
    "ext2": program(w=b"\x83\x01\x00"),
    "ext4": program(w=b"\x84\x01\x00\x00\x00"),
    "build with setstate": program(w=empty + b"}(" + text("__setstate__") + system + b"ub" + text("x") + b"b"),
    "build of attributes": program(w=empty + b"}(" + text("__setstate__") + text("x") + b"ub"),
    "build of a global": program(w=TENSOR + b"}(" + text("__code__") + text("x") + b"ub"),
    "build of slots": program(w=empty + b"N}(" + text("__reduce__") + text("x") + b"u\x86b"),
    "calling a storage": program(w=storage("0", 6) + called + b"\x85R"),
    "calling a string": program(w=text("os.system") + called + b"\x85R"),
    "calling a storage type": program(w=b"ctorch\nFloatStorage\n" + called + b"\x85R"),
    "after the end": program(w=b"N") + system + called + b"\x85R.",
    "persistent id of text": program(w=b"Pos.system\n"),
    "bytes and sets": program(w=b"\x8f"),
    "torch.load inside": program(w=b"ctorch\nload\n" + text(canary) + b"\x85R"),
    "hub": program(w=b"ctorch.hub\nload_state_dict_from_url\n" + text("http://localhost") + b"\x85R"),
    "getattr": program(w=b"cbuiltins\ngetattr\n" + system + text("__call__") + b"\x86R" + called + b"\x85R"),
    "rebuild hooks": program(w=tensor("0", 6, (6,), (1,)).replace(empty, system + called + b"\x85R")),
    "type v2": program(w=b"ctorch._tensor\n_rebuild_from_type_v2\n(" + system + b"NN)tR"),
  }  # fmt: skip
  made = {
    "eval": _Call(builtins.eval, code),
    "exec": _Call(builtins.exec, code),
    "popen": _Call(subprocess.Popen, ["touch", canary]),
    "nested": {"a": {"b": [collections.OrderedDict(c=_Call(os.system, touch))]}},
    "as a key": {_Call(os.system, touch): 1},
    "import": _Call(builtins.__import__, "os"),
    "map": _Call(list, _Call(map, builtins.eval, [code])),
    "partial": _Call(functools.partial, os.system, touch),
  }
  for name, value in made.items():
    for protocol in (0, 2, 4):
      ops[f"{name}, protocol {protocol}"] = pickle.dumps(value, protocol)
  return ops


@pytest.mark.parametrize("name", _payloads("x"))
def test_payloads_are_refused_and_not_run(tmp_path, name):
  canary = tmp_path / "canary"
  path = checkpoint(tmp_path / "evil.pt", _payloads(str(canary))[name], {"0": bytes(24)})
  with pytest.raises(UnsafeFileError, match=r"evil\.pt"):
    read_pt(path)
  assert not canary.exists()


def test_the_canary_works(tmp_path):
  """The payloads above are live: a stock unpickler runs them."""
  canary = tmp_path / "canary"
  pickle.loads(_payloads(str(canary))["reduce"])
  assert canary.exists()


@pytest.mark.parametrize(
  "pickled",
  [
    b"",
    b"\x80\x02.",
    b"\x80\x02}",
    b"\x80\x02}}.",
    b"\x80\x02(}.",
    b"\x80\x02u.",
    b"\x80\x02N(s.",
    b"\x80\x02h\x07.",
    b"\x80\x02}q\x00(" + text("me") + b"h\x00u.",  # a dict in itself
    b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".",
    b"\x80\x02]" + b"\x85" * 200_000 + b".",
    b"\x80\x02}" + text("k") + b"N" + b"\x85" * 200_000 + b"s.",
    b"\x80\x02}" + b"N" + b"\x85" * 200_000 + b"Ns.",  # a tuple as deep as that for a key
    b"\x80\x02X\xff\xff\xff\x7fabc.",
    b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    b"\x80\x02Nr\xff\xff\xff\xff.",
    b"\x80\x02" + b"N0" * 1_100_000 + b".",
    b"\x80\x02" + b"}" * 2_100_000,
    b"I" + b"9" * 100_000 + b"\n.",
    program(w=tensor("0", 6, (6,), (1,)))[:-40],
    program(w=storage("0", 6)),
    program(w=b"N"),
    program(w=TENSOR + b")R"),
    program(w=TENSOR + b"(NK\x00))\x89NtR"),
    program(w=b"(" + text("storage") + b"K\x01" + text("0") + text("cpu") + number(6) + b"tQ"),
    program(w=b"(" + text("module") + b"tQ"),
  ],
  ids=range(27),
)
def test_broken_pickles(tmp_path, pickled):
  start = time.perf_counter()
  with pytest.raises(ConversionError, match=r"broken\.pt"):
    read_pt(checkpoint(tmp_path / "broken.pt", pickled, {"0": bytes(24)}))
  assert time.perf_counter() - start < 20


def test_shared_dicts_do_not_multiply(tmp_path):
  """Dicts that share dicts describe more leaves than any file has."""
  node = tensor("0", 6, (0,), (1,))
  for level in range(1, 9):
    again = b"".join(text(str(i)) + b"h" + bytes([level]) for i in range(20))
    node = b"}(" + text("first") + node + b"q" + bytes([level]) + again + b"u"
  with pytest.raises(ConversionError, match="deeper or wider"):
    read_pt(checkpoint(tmp_path / "x.pt", b"\x80\x02" + node + b".", {"0": bytes(24)}))


def test_fuzz(tmp_path):
  """Bytes changed, cut out or doubled anywhere give arrays or a typed error."""
  path, read, refused = tmp_path / "fuzzed.pt", 0, 0
  pickled = program(w=tensor("0", 6, (2, 3), (3, 1)))
  raw = checkpoint(path, pickled, {"0": bytes(24)}).read_bytes()
  random_ = random.Random(0)
  for turn in range(600):
    data = bytearray(pickled if turn % 2 else raw)
    for _ in range(random_.randint(1, 4)):
      at = random_.randrange(len(data))
      change = random_.random()
      if change < 0.8:
        data[at] = random_.randrange(256)
      elif change < 0.9:
        del data[at : at + random_.randint(1, 8)]
      else:
        data[at:at] = data[at : at + random_.randint(1, 30)]
    if turn % 2:  # with a right checksum, so that the pickle is reached
      checkpoint(path, bytes(data), {"0": bytes(24)})
    else:
      path.write_bytes(data)
    try:
      tensors = read_pt(path)
      assert all(isinstance(t, np.ndarray) for t in tensors.values())
      read += 1
    except ConversionError as error:
      assert "fuzzed.pt" in str(error)
      refused += 1
  assert read > 5 and refused > 100
