"""The reader of PyTorch checkpoints: right on good files, clear about what is wrong with others."""

import struct
import zipfile

import numpy as np
import pytest

from convert.read_pt import read_pt
from cosyjax.errors import ConversionError, UnsafeFileError
from tests.pt_files import TENSOR, checkpoint, number, numbers, program, storage, tensor, text


@pytest.fixture
def small(tmp_path):
  """A valid file with one tensor of six numbers."""
  raw = np.arange(6, dtype="<f4").tobytes()
  return checkpoint(tmp_path / "small.pt", program(w=tensor("0", 6, (2, 3), (3, 1))), {"0": raw})


# Good files.


def test_release(release):
  """Names, shapes and sums as PyTorch reads them."""
  expected = {
    "llm": (43, {"llm_embedding.weight": ((2, 64), -11.53855562210083),
                 "llm.model.model.layers.1.mlp.gate_proj.weight": ((128, 64), -2.407753142877482)}),
    "flow": (211, {"decoder.estimator.final_proj.bias": ((80,), -0.22035288727784064),
                   "decoder.estimator.down_blocks.0.0.block1.block.2.weight": ((32,), 32.16108566522598)}),
    "hift": (328, {"m_source.l_linear.weight": ((1, 9), 0.5336556434631348),
                   "resblocks.3.convs1.0.bias": ((16,), -0.38291908241808414)}),
  }  # fmt: skip
  for name, (count, some) in expected.items():
    tensors = read_pt(release / f"{name}.pt")
    assert len(tensors) == count
    assert all(t.dtype == np.float32 for t in tensors.values())
    for key, (shape, total) in some.items():
      assert tensors[key].shape == shape
      assert float(tensors[key].astype(np.float64).sum()) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
  ("kind", "raw", "expected"),
  [
    ("Float", np.array([1.5, -2, 3], "<f4"), np.array([1.5, -2, 3], np.float32)),
    ("Double", np.array([1.5, 1e-60, 1e300], "<f8"), np.array([1.5, 0, np.inf], np.float32)),
    ("Half", np.array([1.5, -2, 65504], "<f2"), np.array([1.5, -2, 65504], np.float32)),
    ("BFloat16", np.array([0x3FC0, 0xC000, 0x7F80], "<u2"), np.array([1.5, -2, np.inf], np.float32)),
    ("Long", np.array([1, -2, 2**40], "<i8"), np.array([1, -2, 2**40], np.int64)),
    ("Int", np.array([1, -2, 3], "<i4"), np.array([1, -2, 3], np.int32)),
    ("Byte", np.array([0, 1, 255], "u1"), np.array([0, 1, 255], np.uint8)),
    ("Bool", np.array([0, 1, 2], "u1"), np.array([False, True, True])),
  ],
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_element_types(tmp_path, kind, raw, expected, order):
  raw = raw if order == "little" else raw.byteswap()
  pickled = program(w=tensor("0", 3, (3,), (1,), kind=kind))
  found = read_pt(checkpoint(tmp_path / "x.pt", pickled, {"0": raw.tobytes()}, byteorder=order.encode()))["w"]
  assert found.dtype == expected.dtype
  np.testing.assert_array_equal(found, expected)


def test_views(tmp_path):
  """Offsets, transposed and spaced strides, a shared storage, no axis, no element."""
  flat = np.arange(12, dtype="<f4")
  pickled = program(
    whole=tensor("0", 12, (3, 4), (4, 1)),
    turned=tensor("0", 12, (4, 3), (1, 4)),
    spaced=tensor("0", 12, (2, 2), (4, 2), offset=5),
    one=tensor("0", 12, (), (), offset=11),
    none=tensor("0", 12, (0, 3), (3, 1)),
    copy=b"ctorch._utils\n_rebuild_parameter\n("
    + tensor("0", 12, (12,), (1,))
    + b"\x88ccollections\nOrderedDict\n)RtR",
  )
  found = read_pt(checkpoint(tmp_path / "x.pt", pickled, {"0": flat.tobytes()}))
  grid = flat.reshape(3, 4)
  np.testing.assert_array_equal(found["whole"], grid)
  np.testing.assert_array_equal(found["turned"], grid.T)
  np.testing.assert_array_equal(found["spaced"], grid[1:, 1::2])
  assert found["one"].shape == () and found["one"] == 11
  assert found["none"].shape == (0, 3)
  np.testing.assert_array_equal(found["copy"], flat)


def test_training_checkpoint(tmp_path, caplog):
  """The wrapper comes off, what is no tensor is left out and named, inner dicts are joined by dots."""
  w = tensor("0", 6, (6,), (1,))
  raw = {"0": bytes(24)}
  wrapped = (
    b"\x80\x02}("
    + text("model")
    + b"}("
    + text("a.w")
    + w
    + b"u"
    + text("epoch")
    + b"K\x03"
    + text("lr")
    + b"N"
    + b"u."
  )
  with caplog.at_level("WARNING", logger="cosyjax.convert"):
    assert list(read_pt(checkpoint(tmp_path / "a.pt", wrapped, raw))) == ["a.w"]
  assert "epoch, lr" in caplog.text
  flat = program(w=w, epoch=b"K\x03", step=b"K\x07")
  assert list(read_pt(checkpoint(tmp_path / "b.pt", flat, raw))) == ["w"]
  nested = program(encoder=program(w=w)[2:-1], w=w)
  assert sorted(read_pt(checkpoint(tmp_path / "c.pt", nested, raw))) == ["encoder.w", "w"]


# Tensors that do not fit.


@pytest.mark.parametrize(
  "wrong",
  [
    tensor("1", 6, (6,), (1,)),  # no such data
    tensor("../data.pkl", 6, (6,), (1,)),
    tensor("0", 7, (7,), (1,)),
    tensor("0", 5, (5,), (1,)),
    tensor("0", 6, (6,), (1,), kind="Half"),
    tensor("0", 6, (7,), (1,)),
    tensor("0", 6, (3,), (3,)),
    tensor("0", 6, (6,), (1,), offset=1),
    tensor("0", 6, (6,), (-1,), offset=5),
    tensor("0", 6, (-6,), (1,)),
    tensor("0", 6, (6,), (1,), offset=-1),
    tensor("0", 6, (6,), (1, 1)),
    tensor("0", 6, (10**6, 10**6), (0, 0)),
    tensor("0", 6, (2**62, 4), (0, 0)),
    tensor("0", 6, (2**32, 2**32), (2**32, 1)),
    tensor("0", 6, (0, 2**47, 2**47), (1, 1, 1)),
    tensor("0", 6, (2**70,), (1,)),
    tensor("0", -6, (6,), (1,)),
    tensor("0", 2**62, (6,), (1,)),
    tensor("0", 6, (1,) * 40, (1,) * 40),
    TENSOR + b"(" + storage("0", 6) + number(0) + text("ab") + numbers((1,)) + b"\x89NtR",
    TENSOR + b"(" + storage("0", 6) + number(0) + numbers((6,)) + b"(G\x3f\xf0\x00\x00\x00\x00\x00\x00t\x89NtR",
  ],
  ids=range(22),
)
def test_tensors_that_do_not_fit(tmp_path, wrong):
  with pytest.raises(ConversionError, match=r"x\.pt.*(tensor 'w'|damaged)"):
    read_pt(checkpoint(tmp_path / "x.pt", program(w=wrong), {"0": bytes(24)}))


def test_endless_copies(tmp_path):
  """Thousands of transposed views of one storage would take far more memory than the file."""
  views = {f"w{i}": tensor("0", 250_000, (500, 500), (1, 500)) for i in range(200)}
  with pytest.raises(ConversionError, match="far larger than the file"):
    read_pt(checkpoint(tmp_path / "x.pt", program(**views), {"0": bytes(1_000_000)}))


def test_one_storage_of_two_types(tmp_path):
  pickled = program(a=tensor("0", 6, (6,), (1,)), b=tensor("0", 6, (6,), (1,), kind="Int"))
  with pytest.raises(ConversionError, match="another type"):
    read_pt(checkpoint(tmp_path / "x.pt", pickled, {"0": bytes(24)}))


# Zips that are not what they seem.


def test_other_files(tmp_path):
  path = tmp_path / "x.pt"
  with pytest.raises(ConversionError, match="cannot be read"):
    read_pt(path)
  with pytest.raises(ConversionError, match="cannot be read"):
    read_pt(tmp_path)
  for content in (b"", b"PK", b"hello", b"PK\x03\x04", bytes(1000)):
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"x\.pt"):
      read_pt(path)
  path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
  with pytest.raises(ConversionError, match=r"before 1\.6; save it again"):
    read_pt(path)


def test_torchscript(tmp_path):
  path = checkpoint(tmp_path / "x.pt", program(), {}, **{"constants.pkl": b"x"})
  with pytest.raises(ConversionError, match="TorchScript"):
    read_pt(path)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_cut_short(small, keep):
  raw = small.read_bytes()
  small.write_bytes(raw[: int(len(raw) * keep)])
  with pytest.raises(ConversionError, match=r"small\.pt"):
    read_pt(small)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "archive/../../evil", "archive/..\\evil", "C:/evil"])
def test_names_that_lead_out(small, name):
  with zipfile.ZipFile(small, "a") as archive:
    archive.writestr(name, b"x")
  with pytest.raises(UnsafeFileError, match="outside the archive"):
    read_pt(small)


def test_compressed_entries(tmp_path):
  """A bomb: kilobytes that would unpack to half a gigabyte."""
  path = tmp_path / "x.pt"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("archive/data.pkl", program(w=tensor("0", 2**24, (2**24,), (1,))))
    archive.writestr("archive/data/0", bytes(2**26))
  with pytest.raises(UnsafeFileError, match="compressed"):
    read_pt(path)


def test_huge_pickle(tmp_path):
  with pytest.raises(ConversionError, match="at most"):
    read_pt(checkpoint(tmp_path / "x.pt", bytes(9 << 20), {}))


def test_duplicate_names(small):
  with zipfile.ZipFile(small, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
    archive.writestr("archive/data.pkl", program())
  with pytest.raises(UnsafeFileError, match="two entries"):
    read_pt(small)


def test_two_roots(small):
  with zipfile.ZipFile(small, "a") as archive:
    archive.writestr("other/data.pkl", program())
  with pytest.raises(ConversionError, match=r"one data\.pkl, found 2"):
    read_pt(small)


def _directory(raw: bytes, name: bytes) -> int:
  """Where the central directory describes the entry."""
  return raw.index(name, raw.index(b"PK\x01\x02")) - 46


@pytest.mark.parametrize(
  ("at", "value"),
  [
    (20, struct.pack("<II", 25, 25)),  # sizes that lie
    (20, struct.pack("<II", 2**31, 2**31)),
    (24, struct.pack("<I", 2**31)),
    (42, struct.pack("<I", 0)),  # the place of another entry
    (42, struct.pack("<I", 2**31)),
    (16, struct.pack("<I", 1)),  # checksum
    (8, struct.pack("<H", 1)),  # encrypted
  ],
  ids=["size", "huge size", "unpacked size", "overlap", "place", "checksum", "encrypted"],
)
def test_entries_that_lie(small, at, value):
  raw = bytearray(small.read_bytes())
  place = _directory(raw, b"archive/data/0") + at
  raw[place : place + len(value)] = value
  small.write_bytes(raw)
  with pytest.raises(ConversionError, match=r"small\.pt"):
    read_pt(small)


def test_header_with_another_name(small):
  raw = small.read_bytes()
  small.write_bytes(raw.replace(b"archive/data/0", b"archive/data/1", 1))
  with pytest.raises(UnsafeFileError, match="its own header"):
    read_pt(small)


def test_missing_data_pickle_and_byteorder(tmp_path):
  path = tmp_path / "x.pt"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/version", b"3")
  with pytest.raises(ConversionError, match=r"data\.pkl"):
    read_pt(path)
  with pytest.raises(ConversionError, match="byteorder"):
    read_pt(checkpoint(path, program(), {}, byteorder=b"middle"))
