# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Containers that lie about what they hold: refused in a sentence, and no memory taken for it."""

import io
import json
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

from vit_jax.checkpoints import npz, torch_files
from vit_jax.errors import UserError

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(read, path, words=""):
  """Asserts that a file is refused in one sentence that names it, without memory for its claims."""
  tracemalloc.start()
  with pytest.raises(UserError) as caught:
    read(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  message = str(caught.value)
  assert message.startswith(str(path)) and "\n" not in message and ". " not in message
  assert words in message and peak < 10e6


def member(shape=(2, 3), descr="'<f4'", *, version=(1, 0), magic=b"\x93NUMPY", data=bytes(24)):
  """The bytes of an .npy file whose header says what it is told to."""
  header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
  length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
  return magic + bytes(version) + length + header + data


def archive(path, *contents, method=zipfile.ZIP_STORED, names=("a.npy", "b.npy")):
  with zipfile.ZipFile(path, "w", method) as file:
    for name, content in zip(names, contents, strict=False):
      file.writestr(name, content)
  return path


def patched(path, offset, form, value):
  """Overwrites a field of the first entry in the directory of a zip archive."""
  content = bytearray(path.read_bytes())
  struct.pack_into(form, content, content.index(b"PK\1\2") + offset, value)
  path.write_bytes(content)
  return path


@pytest.mark.parametrize(
  "content, words",
  [
    (member((2_500_000_000_000,)), "it holds 24 bytes"),  # 10 TB.
    (member((10**22,)), "it holds 24 bytes"),
    (member((2, 2)), "it holds 24 bytes"),  # Less than there is.
    (member((-2, -3)), "it holds 24 bytes"),
    (member((0, 10**22), data=b""), "damaged"),
    (member("(True, 6)"), "damaged"),
    (member("(2, 3"), "damaged"),
    (member("(" * 300 + ")" * 300), "damaged"),
    (member(descr="'<f8'"), "it holds 24 bytes"),
    (member(descr="('<f4',)"), "damaged"),
    (member(descr="'<q9'"), "damaged"),
    (member((6,), "[('x', '<f4')]"), "pass a file of numbers"),
    (member((3,), "('<f4', (2,))"), "pass a file of numbers"),
    (member((10**12,), "'|S0'", data=b""), "pass a file of numbers"),
    (member(descr="'|O'"), "pickled Python objects"),
    (member((6,), "[('x', '|O')]"), "pickled Python objects"),
    (member(version=(9, 0)), "damaged"),
    (member(magic=b"\x93NUMPX"), "damaged"),
    (b"", "damaged"),
    (b"\x93NUMPY\1\0\xff", "damaged"),
  ],
)
def test_a_header_that_lies_is_refused(tmp_path, content, words):
  refused(npz.read_npz, archive(tmp_path / "x.npz", content), words)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
  arrays = {
    "c": ARRAY,
    "fortran": np.asfortranarray(ARRAY),
    "big endian": ARRAY.astype(">f4"),
    "half": ARRAY.astype(np.float16),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 3), np.float32),
    "zeros": np.zeros((1000, 1000), np.float32),  # Deflates to a thousandth.
    "text": np.array("vit"),
    "count": np.arange(3),
  }
  save(tmp_path / "x.npz", **arrays)
  read, metadata = npz.read_npz(tmp_path / "x.npz")
  assert read.keys() == arrays.keys() and metadata == {}
  for name, value in arrays.items():
    np.testing.assert_array_equal(read[name], value)
  for version in ((2, 0), (3, 0)):
    path = archive(tmp_path / "y.npz", member(version=version, data=ARRAY.tobytes()))
    np.testing.assert_array_equal(npz.read_npz(path)[0]["a"], ARRAY)
  # A long integer of Python 2.
  path = archive(tmp_path / "z.npz", member("(2L, 3L)", data=ARRAY.tobytes()))
  np.testing.assert_array_equal(npz.read_npz(path)[0]["a"], ARRAY)


def saved_by_torch(path):
  torch.save({"a": torch.from_numpy(ARRAY)}, path)
  return path


@pytest.mark.parametrize(
  "offset, form, value, words",
  [
    (8, "<H", 1, "is encrypted"),
    (8, "<H", 64, "damaged"),  # Strong encryption.
    (10, "<H", 12, "compressed by method 12"),
    (10, "<H", 99, "compressed by method 99"),
    (24, "<I", 2**31, "which cannot be"),  # Unpacks to.
    (20, "<I", 2**31, "which cannot be"),  # Is packed as.
    (16, "<I", 1, "damaged"),  # The sum of its bytes.
    (6, "<H", 99, "damaged"),  # The version that it takes to read it.
  ],
)
def test_an_archive_that_lies_is_refused(tmp_path, offset, form, value, words):
  path = archive(tmp_path / "x.npz", member(), method=zipfile.ZIP_DEFLATED)
  refused(npz.read_npz, patched(path, offset, form, value), words)
  # torch looks at none of these.
  path = patched(saved_by_torch(tmp_path / "x.pth"), offset, form, value)
  refused(torch_files.read_pickled, path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs_are_refused(tmp_path, method):
  content = member((10**8,), "'|u1'", data=bytes(10**8))
  refused(npz.read_npz, archive(tmp_path / "x.npz", content, method=method), "compressed by method")
  # Deflate cannot hold what this claims, though header and directory agree.
  path = archive(tmp_path / "y.npz", member((10**9,), "'|u1'"), method=zipfile.ZIP_DEFLATED)
  refused(npz.read_npz, patched(path, 24, "<I", 10**9 + 72), "which cannot be")


def test_a_directory_that_swallows_a_member_is_refused(tmp_path):
  path = archive(tmp_path / "x.npz", member(), member())
  refused(npz.read_npz, patched(path, 32, "<H", 46 + len("b.npy")), "damaged at 'a.npy'")


def test_a_name_that_is_there_twice_is_refused(tmp_path):
  with pytest.warns(UserWarning, match="Duplicate name"):
    path = archive(tmp_path / "x.npz", member(), member(), names=("a.npy", "a.npy"))
  refused(npz.read_npz, path, "holds 'a.npy' twice")


NOT_OURS = [b"[1]", b"3", b"null", b'"x"', b"\xff", b"", b"[" * 100_000, b"{" * 100_000]


@pytest.mark.parametrize("text", NOT_OURS, ids=lambda text: repr(text[:4]))
def test_damaged_metadata_is_not_taken_for_none(tmp_path, text):
  """Without it the same weights would be given other activations and epsilons."""
  np.savez(tmp_path / "x.npz", a=ARRAY, **{npz.METADATA: np.frombuffer(text, np.uint8)})
  refused(npz.read_npz, tmp_path / "x.npz", "its metadata is no")
  texts = {torch_files.METADATA: text.decode("latin1")}
  safetensors.numpy.save_file({"a": ARRAY}, tmp_path / "x.safetensors", texts)
  refused(torch_files.read_safetensors, tmp_path / "x.safetensors", "its metadata is no")


@pytest.mark.parametrize(
  "key, value",
  [
    *(("class_names", 5), ("class_names", [5]), ("class_names", {"0": "cat"}), ("model", 3)),
    *(("config", []), ("fields", "x"), ("input", 3), ("text", None), ("layer_norm_eps", "1e-6")),
    *(("layer_norm_eps", True), ("activation", ["gelu"]), ("image_size", "224")),
    *(("trained_windows", 7), ("token_mixer", {})),
  ],
)
def test_metadata_of_another_type_is_refused(tmp_path, key, value):
  npz.write_npz(tmp_path / "x.npz", {"a": ARRAY}, {key: value})
  refused(npz.read_npz, tmp_path / "x.npz", f"its metadata has {key}=")
  torch_files.write_safetensors(tmp_path / "x.safetensors", {"a": ARRAY}, {key: value})
  refused(torch_files.read_safetensors, tmp_path / "x.safetensors", f"its metadata has {key}=")


def tensors(path, header, data=bytes(24), length=None):
  """A safetensors file with this header, an object or its bytes."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
  return path


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
  "header, data, length",
  [
    ({"a": entry(), "b": entry()}, bytes(24), None),  # Overlapping.
    ({"a": entry(), "b": entry(offsets=(20, 44))}, bytes(44), None),
    ({"a": entry(shape=(2, 6), offsets=(0, 48))}, bytes(24), None),  # Beyond the end.
    ({"a": entry(offsets=(24, 0))}, bytes(24), None),
    ({"a": entry(offsets=(8, 32))}, bytes(32), None),  # A hole.
    ({"a": entry()}, bytes(25), None),
    ({"a": entry(shape=(2, 4))}, bytes(24), None),
    ({"a": entry("F64")}, bytes(24), None),
    ({"a": entry("F33")}, bytes(24), None),
    ({"a": entry(shape=(-2, -3))}, bytes(24), None),
    ({"a": entry(shape=(2**40, 2**40))}, bytes(24), None),
    ({"a": entry(shape=(0, 2**60, 2**60), offsets=(0, 0))}, b"", None),
    ({"a": entry(shape=(1,) * 70, offsets=(0, 4))}, bytes(4), None),  # NumPy has 64 axes.
    ({"a": entry("F8_E4M3", (24,))}, bytes(24), None),
    ({"a": entry("F8_E5M2", (24,))}, bytes(24), None),
    ({"a": entry("F4", (48,))}, bytes(24), None),
    ({"a": entry(), "__metadata__": {"vit_jax": 3}}, bytes(24), None),
    ({"a": [1]}, bytes(24), None),
    ([1], bytes(24), None),
    (b"null", bytes(24), None),
    (b"[" * 100_000, bytes(24), None),
    (b"\xff{}", bytes(24), None),
    ({"a": entry()}, bytes(24), 10**9),
    ({"a": entry()}, bytes(24), 2**63),
    ({"a": entry()}, bytes(24), 0),
  ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, header, data, length):
  refused(torch_files.read_safetensors, tensors(tmp_path / "x.safetensors", header, data, length))


def test_what_safetensors_can_hold_is_read(tmp_path):
  halves = torch.arange(4).bfloat16()
  data = halves.view(torch.int16).numpy().tobytes()
  header = {
    "a": entry("BF16", (4,), (0, 8)),
    "empty": entry(shape=(0, 3), offsets=(8, 8)),
    "scalar": entry(shape=(), offsets=(8, 12)),
  }
  path = tensors(tmp_path / "x.safetensors", header, data + struct.pack("<f", 7))
  read, _ = torch_files.read_safetensors(path)
  np.testing.assert_array_equal(read["a"].astype(np.float32), [0, 1, 2, 3])
  assert read["empty"].shape == (0, 3) and read["scalar"] == 7 and read["scalar"].shape == ()


def test_the_prefix_of_parallel_training_is_left_out(tmp_path):
  tensor = torch.from_numpy(ARRAY)
  path = tmp_path / "x.pth"
  for state in (
    {"module.cls": tensor, "module.module.x": tensor},
    {"state_dict": {"module.cls": tensor, "module.module.x": tensor}, "epoch": 3},
    {"model": {"state_dict": {"module.cls": tensor, "module.module.x": tensor}}},
  ):
    torch.save(state, path)
    assert torch_files.read_pickled(path).keys() == {"cls", "module.x"}
  torch.save({"module.cls": tensor, "cls": tensor + 1}, path)
  refused(torch_files.read_pickled, path, "both 'cls' and 'module.cls'")


@pytest.mark.filterwarnings("ignore:.*quantiz|.*[nN]ested")
@pytest.mark.parametrize(
  "make, words",
  [
    (lambda x: {"a": x.to_sparse()}, "a tensor 'a' that NumPy cannot hold"),
    (lambda x: {"a": x.to(torch.float8_e4m3fn)}, "a tensor 'a' that NumPy cannot hold"),
    (lambda x: {"a": x.to("meta")}, "a tensor 'a' that NumPy cannot hold"),
    (lambda x: {"a": x.to(torch.complex64).conj()}, "a tensor 'a' that NumPy cannot hold"),
    (lambda x: {"a": torch._neg_view(x)}, "a tensor 'a' that NumPy cannot hold"),
    (lambda x: {0: x}, "no state dict of tensors"),
    (lambda x: {"a": x, "b": 3}, "no state dict of tensors"),
    (lambda x: [x], "no state dict of tensors"),
    (lambda x: x, "no state dict of tensors"),
    (lambda x: {"model": {}}, "no state dict of tensors"),
  ],
)
def test_other_tensors_of_torch_are_refused(tmp_path, make, words):
  torch.save(make(torch.from_numpy(ARRAY)), tmp_path / "x.pth")
  refused(torch_files.read_pickled, tmp_path / "x.pth", words)


def test_parameters_and_halves_of_torch_are_read(tmp_path):
  tensor = torch.from_numpy(ARRAY)
  state = {"p": torch.nn.Parameter(tensor), "h": tensor.half(), "b": tensor.bfloat16()}
  state["t"] = tensor.T
  torch.save(state, tmp_path / "x.pth")
  read = torch_files.read_pickled(tmp_path / "x.pth")
  for name in state:
    np.testing.assert_array_equal(read[name], ARRAY.T if name == "t" else ARRAY)


def test_torch_files_without_sums_are_read(tmp_path):
  torch.serialization.set_crc32_options(False)
  try:
    path = saved_by_torch(tmp_path / "x.pth")
  finally:
    torch.serialization.set_crc32_options(True)
  np.testing.assert_array_equal(torch_files.read_pickled(path)["a"], ARRAY)


def test_a_changed_bit_of_a_torch_file_is_noticed(tmp_path):
  path = saved_by_torch(tmp_path / "x.pth")
  content = bytearray(path.read_bytes())
  content[content.index(ARRAY.tobytes()) + 9] ^= 1
  path.write_bytes(content)
  refused(torch_files.read_pickled, path, "is not as written")


def bytes_of(kind):
  """(content, reader) of a small file of each container."""
  file = io.BytesIO()
  arrays = {"cls": ARRAY, "head/kernel": ARRAY + 1}
  as_torch = {name: torch.from_numpy(value) for name, value in arrays.items()}
  if kind == "npz":
    np.savez(file, **arrays)
  elif kind == "header of npz":
    file.write(member())
  elif kind == "compressed":
    np.savez_compressed(file, **arrays)
  elif kind == "safetensors":
    file.write(safetensors.numpy.save(arrays, {torch_files.METADATA: '{"model": "ViT-B_16"}'}))
  else:
    torch.save({"model": as_torch}, file, _use_new_zipfile_serialization=kind == "pth")
  readers = dict.fromkeys(("npz", "compressed", "header of npz"), npz.read_npz)
  readers["safetensors"] = torch_files.read_safetensors
  return file.getvalue(), readers.get(kind, torch_files.read_pickled)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
  "kind", ["npz", "compressed", "header of npz", "safetensors", "pth", "old pth"]
)
def test_damaged_files_raise_nothing_else(tmp_path, kind):
  content, read = bytes_of(kind)
  path = tmp_path / "x"
  refusals = 0
  for seed in range(300):
    rng = random.Random(seed)
    damaged = bytearray(content)
    start = rng.randrange(len(content))
    if seed % 3 == 0:
      damaged[start] ^= 1 << rng.randrange(8)
    elif seed % 3 == 1:
      damaged[start : start + rng.choice([1, 2, 4, 8])] = rng.randbytes(4)
    else:
      del damaged[start : start + rng.choice([1, 8, len(content)])]
    if kind == "header of npz":  # In an archive that is whole, with its right sum.
      archive(path, damaged)
    else:
      path.write_bytes(damaged)
    try:
      read(path)
    except UserError as error:
      refusals += 1
      assert str(error).startswith(str(path)) and "\n" not in str(error)
  assert refusals > 100
