# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Damage to a file, decided by one integer: `mutated(content, kind, seed)`."""

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

# What takes a JSON value's place, as text: Python's encoder could not write some of it.
WRONG_VALUES = [
  *("null", "true", "false", "0", "-1", "7", "0.5", "-0.5", "1e999", "NaN", "-Infinity", "1e-300"),
  *('"text"', '""', '"7"', '"\\ud800"', '"../.."', '"\\u0000"', "[]", "{}", "[[]]", "[null]"),
  *('{"a": [null]}', "[7, 7]", "[-1, 7]", '["a", "b", "c"]', "1" * 30, "1" * 5000),
  "[" * 100_000 + "]" * 100_000,
]
_MARK = "@the value@"


def mutated(content: bytes, kind: str, seed: int) -> bytes:
  """The content with one mutation of its kind, or of those that any file may suffer.

  Args:
    content: of a valid file.
    kind: "json", "jsonl", "csv", "safetensors", "npz" or "binary".
    seed: decides which mutation it is, and where.
  """
  rng = random.Random(seed)
  own = OWN.get(kind)
  return own(rng, content) if own and rng.random() < 0.6 else rng.choice(ANY)(rng, content)


def flip_bits(rng: random.Random, content: bytes) -> bytes:
  changed = bytearray(content)
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
  return bytes(changed)


def overwrite(rng: random.Random, content: bytes) -> bytes:
  at, length = rng.randrange(len(content)), rng.choice((1, 2, 4, 8, 64, 512))
  return content[:at] + rng.choice((b"\0", b"\xff")) * length + content[at + length :]


def cut_off(rng: random.Random, content: bytes) -> bytes:
  return content[: rng.randrange(len(content))]


def cut_out(rng: random.Random, content: bytes) -> bytes:
  at = rng.randrange(len(content))
  return content[:at] + content[at + rng.choice((1, 2, 8, 64, 512)) :]


def insert(rng: random.Random, content: bytes) -> bytes:
  at = rng.randrange(len(content) + 1)
  return content[:at] + rng.randbytes(rng.choice((1, 2, 8, 64))) + content[at:]


def repeat(rng: random.Random, content: bytes) -> bytes:
  at, length = rng.randrange(len(content)), rng.choice((1, 8, 64, 512))
  to = rng.choice((at, rng.randrange(len(content))))
  return content[:to] + content[at : at + length] + content[to:]


def lie_about_a_length(rng: random.Random, content: bytes) -> bytes:
  """Changes an integer that may be a length or an offset: one smaller than the file."""
  code = rng.choice(("<I", "<Q", ">I", ">H", "<H"))
  size = struct.calcsize(code)
  if len(content) < size:
    return b""
  for _ in range(300):
    at = rng.randrange(len(content) - size + 1)
    (value,) = struct.unpack_from(code, content, at)
    if 0 < value <= len(content):
      break
  largest = 256**size - 1
  other = rng.choice((0, 1, value - 1, value + 1, 2 * value, largest, largest // 2, 1 << 24))
  return content[:at] + struct.pack(code, other % (largest + 1)) + content[at + size :]


ANY: list[Callable[[random.Random, bytes], bytes]] = [
  *(flip_bits, flip_bits, overwrite, cut_off, cut_out, insert, repeat, lie_about_a_length),
]


def change_json(rng: random.Random, content: bytes) -> bytes:
  """Another value at any node, a key removed, added or said twice, or bytes that are not UTF-8."""
  tree = json.loads(content)
  nodes = [*_nodes(tree)]
  parent, key = rng.choice(nodes) if nodes else (None, None)
  what = rng.choice(("value", "value", "value", "value", "remove", "add", "twice", "encoding"))
  raw = rng.choice(WRONG_VALUES)
  if what == "encoding":
    at = rng.randrange(len(content))
    return content[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80")) + content[at:]
  if parent is None:
    return raw.encode()
  if what == "remove":
    del parent[key]
  elif what == "add" and isinstance(parent, dict):
    parent[rng.choice(("", "colour", "a.b", "__class__", "\0"))] = _MARK
  elif what == "twice" and isinstance(parent, dict):
    # The value as it was, and the key again with another.
    raw = f"{json.dumps(parent[key])}, {json.dumps(key)}: {raw}"
    parent[key] = _MARK
  else:
    parent[key] = _MARK
  return json.dumps(tree, indent=2).replace(json.dumps(_MARK), raw).encode()


def _nodes(tree: Any):
  """(parent, key) of everything below the top; what stands higher comes as often as its leaves."""
  items = tree.items() if isinstance(tree, dict) else enumerate(tree)
  for key, value in [*items]:
    yield tree, key
    if isinstance(value, dict | list):
      yield from _nodes(value)


def change_json_line(rng: random.Random, content: bytes) -> bytes:
  lines = content.split(b"\n")
  filled = [k for k, line in enumerate(lines) if line.strip()]
  at = rng.choice(filled)
  changed = change_json(rng, lines[at])
  # On one line, as the format wants it; or on several.
  lines[at] = re.sub(rb"\n *", b" ", changed) if rng.random() < 0.9 else changed
  return b"\n".join(lines)


def change_csv(rng: random.Random, content: bytes) -> bytes:
  """A quote, separator, NUL or line end too many or too few; a column less; another header."""
  lines = content.split(b"\n")
  what = rng.choice(("insert", "insert", "insert", "remove", "column", "header", "encoding"))
  at = rng.randrange(len(content))
  if what == "insert":
    piece = rng.choice(
      (b'"', b",", b";", b"\t", b"\0", b"\r", b"\n", b'""', b'","', b"\xef\xbb\xbf")
    )
    return content[:at] + piece + content[at:]
  if what == "remove":
    places = [k for k in range(len(content)) if content[k : k + 1] in (b'"', b",", b"\n")]
    at = rng.choice(places)
    return content[:at] + content[at + 1 :]
  if what == "column":
    return b"\n".join(line.split(b",", 1)[0] for line in lines)
  if what == "header":
    names = rng.choice((b"", b"file_name", b"text,text", b"file_name,text,text", b"a,b", b"text"))
    return b"\n".join([names, *lines[1:]])
  return content[:at] + rng.choice((b"\xff", b"\xc3\x28")) + content[at:]


def change_safetensors(rng: random.Random, content: bytes) -> bytes:
  """Other JSON in the header, or in our metadata there, by a right length."""
  (length,) = struct.unpack("<Q", content[:8])
  header, tensors = content[8 : 8 + length], content[8 + length :]
  inner = json.loads(header).get("__metadata__", {}).get("vit_jax")
  if inner and rng.random() < 0.5:
    changed = json.loads(header)
    text = change_json(rng, inner.encode()).decode("utf-8", "replace")
    changed["__metadata__"]["vit_jax"] = text
    header = json.dumps(changed).encode()
  else:
    header = change_json(rng, header)
  return struct.pack("<Q", len(header)) + header + tensors


def change_npz(rng: random.Random, content: bytes) -> bytes:
  """Another header of an array, or other JSON of ours, by a right checksum."""
  archive, changed = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
  chosen = rng.choice(archive.namelist())
  if "__metadata__.npy" in archive.namelist() and rng.random() < 0.4:
    chosen = "__metadata__.npy"
  with zipfile.ZipFile(changed, "w") as new:
    for name in archive.namelist():
      entry = archive.read(name)
      length = 10 + struct.unpack_from("<H", entry, 8)[0]
      head, body = entry[:length], entry[length:]
      if name == chosen == "__metadata__.npy":
        body = change_json(rng, body)
        size = re.search(rb"\(\d+,\), } *", head)
        stated = f"({len(body)},), }}".encode().ljust(len(size[0]))
        head = head.replace(size[0], stated)
      elif name == chosen:
        head = _other_header(rng, head)
      new.writestr(zipfile.ZipInfo(name), head + body)
  return changed.getvalue()


def _other_header(rng: random.Random, head: bytes) -> bytes:
  """A damaged header, or one that lies: of as many bytes where it can be."""
  if rng.random() < 0.5:
    return rng.choice(ANY)(rng, head)
  old, new = rng.choice(
    [
      (rb"<f4", rng.choice((b"<f8", b"<i4", b"|O", b"<U1", b"<c8", b"V99"))),
      (rb"\(\d+", rng.choice((b"(0", b"(-1", b"(99999999999", b"(4000000000", b"(1.5", b"((2,)"))),
      (rb"\(\d+", b"(" + b"1, " * 70 + b"1"),
      (rb"False", rng.choice((b"True", b"None", b"7"))),
      (rb"descr", b"sort"),
    ]
  )
  return re.sub(old, new, head, count=1)


OWN = dict(
  json=change_json,
  jsonl=change_json_line,
  csv=change_csv,
  safetensors=change_safetensors,
  npz=change_npz,
)


def changed_part(before: bytes, after: bytes) -> list[int]:
  """The positions in `before` that differ; of another length, all from the first to the last."""
  if len(before) == len(after):
    return [k for k, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
  shorter = min(len(before), len(after))
  start = next((k for k in range(shorter) if before[k] != after[k]), shorter)
  end = next(
    (k for k in range(shorter - start) if before[-1 - k] != after[-1 - k]), shorter - start
  )
  return [start, max(start, len(before) - end - 1)]
