# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The official `.npz` files: flat names "a/b/c", in every layout that Google's projects wrote.

Reading brings all of them to one form: Linen's numbering (LayerNorm_0, LayerNorm_1), one entry per
layer, no prefix. Writing uses the numbering of the released files (LayerNorm_0, LayerNorm_2), which
is the only one that timm reads. Which names mean what is data, in the tables below.
"""

import contextlib
import logging
import math
import os
import re
import tempfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.checkpoints.metadata import decoded, encoded
from vit_jax.errors import UserError
from vit_jax.params.tree import STATISTICS, Flat, as_float32, unstack_layers

logger = logging.getLogger(__name__)

# Our own entry: JSON as bytes. Loaders that read parameters by name, as timm's, never see it.
METADATA = "__metadata__"

# Tried in this order, each at most once: "opt/target/" (big_vision's and the pre-Linen trainer's
# optimizer state), "params/", and the image tower of a two-tower model. What lies outside a prefix
# that is there (optimizer state, text tower, counters) is not part of the image model.
PREFIXES = ("opt/target/", "params/", "img/")

_BLOCK = r"((?:Transformer|Encoder_0)/encoderblock(?:_\d+)?)"  # Of images, and of LiT's texts.
BLOCKS_TO_LINEN = [  # (pattern, replacement)
  # Before Linen, modules were numbered across classes: LayerNorm_0, MultiHead.._1, LayerNorm_2, ..
  (rf"^{_BLOCK}/MultiHeadDotProductAttention_1/", r"\1/MultiHeadDotProductAttention_0/"),
  (rf"^{_BLOCK}/LayerNorm_2/", r"\1/LayerNorm_1/"),
  (rf"^{_BLOCK}/MlpBlock_3/", r"\1/MlpBlock_0/"),
]
TO_LINEN = [
  *BLOCKS_TO_LINEN,
  # big_vision, today and before 2022.
  (r"^(?:Transformer/)?pos_embedding$", r"Transformer/posembed_input/pos_embedding"),
  # Attention pooling was once inlined at the top level.
  (r"^(probe|(?:MlpBlock|MultiHeadDotProductAttention|LayerNorm)_0(?:/.*)?)$", r"MAPHead_0/\1"),
]
TO_RELEASED = [
  (rf"^{_BLOCK}/MultiHeadDotProductAttention_0/", r"\1/MultiHeadDotProductAttention_1/"),
  (rf"^{_BLOCK}/LayerNorm_1/", r"\1/LayerNorm_2/"),
  (rf"^{_BLOCK}/MlpBlock_0/", r"\1/MlpBlock_3/"),
]
# Old GroupNorm, and that of big_vision's BiT, stored its parameters as (1, 1, 1, C).
SQUEEZED = re.compile(r"(^|/)(gn(\d+|_root|_proj)|norm-pre-head)/(scale|bias)$")

# What zipfile raises for a damaged archive, and NumPy for the damaged header of an array.
DAMAGED = (
  *(zipfile.BadZipFile, zlib.error, EOFError, OSError, MemoryError, RuntimeError),
  *(ValueError, TypeError, LookupError, OverflowError, SyntaxError, tokenize.TokenError),
)
DEFLATE_RATIO = 1032  # A byte of deflate stands for no more bytes than this.
# By version of the format; the third differs from the second in names of fields, which we refuse.
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
  (3, 0): np.lib.format.read_array_header_2_0,
}


def renamed(flat: Mapping[str, Any], table: list[tuple[str, str]]) -> dict[str, Any]:
  """Applies a table of (pattern, replacement) to every name; each name changes at most once."""
  compiled = [(re.compile(pattern), replacement) for pattern, replacement in table]
  result = {}
  for name, value in flat.items():
    for pattern, replacement in compiled:
      name, changed = pattern.subn(replacement, name)
      if changed:
        break
    result[name] = value
  return result


def strip_prefixes(flat: Mapping[str, Any], prefixes: tuple[str, ...] = PREFIXES) -> dict[str, Any]:
  """Keeps the parameters of a larger state that lie under these prefixes, without them."""
  for prefix in prefixes:
    inside = {name[len(prefix) :]: v for name, v in flat.items() if name.startswith(prefix)}
    if inside:  # Statistics stand beside the parameters, and belong to them.
      inside |= {
        STATISTICS + name.removeprefix(STATISTICS).removeprefix(prefix): v
        for name, v in flat.items()
        if name.startswith(STATISTICS)
      }
    if inside and len(inside) < len(flat):
      logger.info(
        "Read %r of the file, and left %d arrays beside it.", prefix, len(flat) - len(inside)
      )
    flat = inside or flat
  return dict(flat)


def to_linen(flat: Mapping[str, np.ndarray]) -> Flat:
  """Brings any official layout to Linen's numbering, float32, one entry per layer, no prefix."""
  return with_linen_names(strip_prefixes(flat), TO_LINEN)


def with_linen_names(flat: Mapping[str, np.ndarray], table: list[tuple[str, str]]) -> Flat:
  """Renames by a table; float32, and one entry per layer."""
  flat = unstack_layers(renamed(flat, table))
  flat = {
    name: value.reshape(-1) if SQUEEZED.search(name) else value for name, value in flat.items()
  }
  return as_float32(flat)


def to_released(flat: Mapping[str, np.ndarray]) -> Flat:
  """Linen's numbering, per layer, as the released files have it (0/1/2/3)."""
  return renamed(flat, TO_RELEASED)


def read_npz(path: str | os.PathLike, only: str | None = None) -> tuple[Flat, dict[str, Any]]:
  """Reads an `.npz` file as it is; never unpickles.

  Args:
    path: the file.
    only: reads just the entry of this name, if it is there.

  Returns:
    Arrays by name as stored, and our metadata ({} in files of others).

  Raises:
    UserError: the file is missing, truncated, not an npz, or holds pickled objects.
  """
  path = Path(path)
  try:
    with open(path, "rb") as file:
      magic = file.read(6)
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}); pass an .npz file.") from error
  if magic == b"\x93NUMPY":
    raise UserError(f"{path} holds a single array (.npy), not named parameters; pass an .npz file.")
  if not magic.startswith(b"PK"):
    raise UserError(f"{path} is not an .npz file (it does not begin like a zip archive).")
  flat = {}
  try:
    with zipfile.ZipFile(path) as archive:
      infos = members(archive, path)
      if any(not info.filename.endswith(".npy") for info in infos):
        raise UserError(
          f"{path} is a zip archive, but not an .npz file: it holds other things too."
        )
      for info in infos:
        name = info.filename.removesuffix(".npy")
        if only in (None, name):
          flat[name] = _read_array(archive, info, path)
  except UserError:
    raise
  except DAMAGED as error:
    raise UserError(f"{path} is truncated or damaged; fetch or copy it again.") from error
  if not flat and only is None:
    raise UserError(f"{path} is an empty .npz file; it holds no parameters.")
  entry = flat.pop(METADATA, None)
  return flat, {} if entry is None else decoded(entry.tobytes(), path)


def members(archive: zipfile.ZipFile, path: str | os.PathLike) -> list[zipfile.ZipInfo]:
  """The members of an archive that NumPy or torch wrote, none of which can unpack without end.

  Raises:
    UserError: one is encrypted, compressed otherwise, there twice, or larger than it can be.
  """
  infos, seen = archive.infolist(), set()
  room = os.path.getsize(path)
  for info in infos:
    name, size, packed = info.filename, info.file_size, info.compress_size
    if info.flag_bits & 1:
      raise UserError(f"{path} is encrypted ({name!r} in it); pass a file without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise UserError(
        f"{path} has {name!r} compressed by method {info.compress_type}, but only stored and "
        "deflated arrays can be read; save it again with numpy.savez."
      )
    if name in seen:
      raise UserError(f"{path} holds {name!r} twice; save it again with each name once.")
    # Nobody writes a comment here, and a wrong length of it swallows other members. What is marked
    # as a directory, torch does not read.
    if info.comment or info.external_attr & 0x10:
      raise UserError(f"{path} is damaged at {name!r} in its directory; fetch or copy it again.")
    seen.add(name)
    room -= packed
    stored = info.compress_type == zipfile.ZIP_STORED
    if (stored and size != packed) or size > DEFLATE_RATIO * (packed + 1) or room < 0:
      raise UserError(
        f"{path} is damaged: it says that {name!r} has {size:,} bytes, packed as {packed:,}, which "
        "cannot be; fetch or copy it again."
      )
  return infos


def _read_array(
  archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str | os.PathLike
) -> np.ndarray:
  """One array, after its header was found to say no more than there is."""
  with archive.open(info) as file, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Headers that Python 2 wrote, and odd ones of damaged files.
    shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    size = info.file_size - file.tell()
    if dtype.hasobject:
      raise UserError(
        f"{path} holds pickled Python objects, which could run code and are never loaded; "
        "pass a file with plain arrays."
      )
    if dtype.names is not None or dtype.subdtype or not dtype.itemsize:
      raise UserError(f"{path} has {info.filename!r} of dtype {dtype}; pass a file of numbers.")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
      raise UserError(
        f"{path} is damaged: {info.filename!r} says that it has shape {str(shape)[:60]} and "
        f"dtype {dtype}, but it holds {size:,} bytes; fetch or copy it again."
      )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def write_npz(
  path: str | os.PathLike, flat: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> None:
  """Writes arrays by name, and metadata as JSON beside them; the file appears only when complete.

  Raises:
    UserError: the path cannot be written.
  """
  # In one order, so that the same parameters give the same file.
  arrays = {name: np.asarray(flat[name], order="C") for name in sorted(flat)}
  if metadata:
    arrays[METADATA] = np.frombuffer(encoded(metadata).encode(), dtype=np.uint8)
  with atomic(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **arrays)


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[str]:
  """Yields a temporary name beside `path`, renamed to it on success and removed on failure."""
  path = Path(path)
  temporary = None
  try:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    yield temporary
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are private; this one is not.
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error
  finally:
    if temporary is not None:
      with contextlib.suppress(FileNotFoundError):
        os.remove(temporary)
