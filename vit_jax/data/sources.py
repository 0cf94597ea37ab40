# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What images come from: a `Dataset`, whatever it was opened from, and a `Source` of its examples.

`Dataset.source("train[:98%]")` is a `Source`: random access to records `{"image": encoded bytes or
uint8 [height, width, channels], "label": int, "id": str}`. Nothing is decoded here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import UserError

Record = dict[str, Any]

SPLITS = ("train", "val", "test")
SPELLINGS = {
  "train": ("train", "training"),
  "val": ("val", "valid", "validation", "dev"),
  "test": ("test", "testing", "eval", "evaluation"),
}
RULE = 2  # Version of `splits.draw`; 1 is `splits.stratified`.
_SPLIT_OF = {spelling: split for split, known in SPELLINGS.items() for spelling in known}
_PART = re.compile(r"(?P<name>\w[\w.-]*)(\[(?P<slice>[^\]]*)\])?")
_BOUND = re.compile(r"(?P<value>-?[\d_]+(\.\d+)?)?(?P<percent>%)?")


def split_of(name: str) -> str | None:
  """ "train", "val" or "test" for a name that means it, in any letter case; else None."""
  return _SPLIT_OF.get(name.lower())


def hashes(texts: Iterable[str]) -> np.ndarray:
  """uint64 [texts]: the first 64 bits of the `digest` of each."""
  return np.frombuffer(b"".join(digest(text)[:8] for text in texts), ">u8").astype(np.uint64)


def digest(text: str) -> bytes:
  """The SHA-256 of a text in Unicode's composed form, which does not depend on the system."""
  text = unicodedata.normalize("NFC", text)
  return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()  # Names of any bytes.


class Source:
  """Random access to the records of a split. Picklable; reading is thread safe."""

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> Record:
    raise NotImplementedError

  def name(self, index: int) -> str:
    """The record's id, without reading it."""
    raise NotImplementedError

  def select(self, indices: np.ndarray) -> Source:
    """The source that has only these records, in this order."""
    return _Selection(self, indices)

  def keys(self) -> np.ndarray:
    """uint64 [examples]: what identifies each record, the same in every split that holds it."""
    return hashes(self.name(index) for index in range(len(self)))

  def check_labels(self) -> None:
    """Reads a few records of a data set whose labels may be hidden, before a run starts.

    Raises:
      UserError: a label belongs to no class.
    """


class _Selection(Source):
  """Some records of another source."""

  def __init__(self, source: Source, indices: np.ndarray):
    self._source = source
    self._indices = np.asarray(indices)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Record:
    return self._source[int(self._indices[index])]

  def name(self, index: int) -> str:
    return self._source.name(int(self._indices[index]))

  def keys(self) -> np.ndarray:
    return self._source.keys()[self._indices]

  def check_labels(self) -> None:
    self._source.check_labels()


class ArraySource(Source):
  """Images in memory: uint8 [examples, height, width, channels]."""

  def __init__(self, images: np.ndarray, labels: np.ndarray, ids: Sequence[str]):
    self.images = images
    self.labels = np.asarray(labels, np.int32)
    self.ids = list(ids)

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> Record:
    return {"image": self.images[index], "label": int(self.labels[index]), "id": self.ids[index]}

  def name(self, index: int) -> str:
    return self.ids[index]

  def select(self, indices: np.ndarray) -> ArraySource:
    return ArraySource(self.images[indices], self.labels[indices], [self.ids[i] for i in indices])


class FileSource(Source):
  """Image files below one directory; a record's id is its path relative to that directory."""

  def __init__(self, root: str, files: Sequence[str], labels: np.ndarray):
    self.root = root
    self.files = list(files)
    self.labels = np.asarray(labels, np.int32)

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> Record:
    name = self.files[index]
    data = pathlib.Path(self.root, name).read_bytes()
    return {"image": data, "label": int(self.labels[index]), "id": name}

  def name(self, index: int) -> str:
    return self.files[index]

  def select(self, indices: np.ndarray) -> FileSource:
    return FileSource(self.root, [self.files[i] for i in indices], self.labels[indices])

  @staticmethod
  def concatenate(parts: Sequence[FileSource]) -> FileSource:
    """The files of several sources below one directory, one source after the other."""
    files = [file for part in parts for file in part.files]
    return FileSource(parts[0].root, files, np.concatenate([part.labels for part in parts]))


class ConcatSource(Source):
  """Several sources, one after the other."""

  def __init__(self, parts: Sequence[Source]):
    self.parts = list(parts)
    self._ends = np.cumsum([len(p) for p in self.parts])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def _locate(self, index: int) -> tuple[Source, int]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    k = int(np.searchsorted(self._ends, index, side="right"))
    return self.parts[k], index - int(self._ends[k]) + len(self.parts[k])

  def __getitem__(self, index: int) -> Record:
    part, position = self._locate(index)
    return part[position]

  def name(self, index: int) -> str:
    part, position = self._locate(index)
    return part.name(position)

  def keys(self) -> np.ndarray:
    return np.concatenate([part.keys() for part in self.parts])

  def check_labels(self) -> None:
    for part in self.parts:
      part.check_labels()


class Numbered(Source):
  """A source whose labels are the indices of its records."""

  def __init__(self, source: Source):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return {**self._source[index], "label": index}

  def name(self, index: int) -> str:
    return self._source.name(index)


def concatenate(parts: Sequence[Source]) -> Source:
  """Several sources as one, one after the other."""
  if len(parts) == 1:
    return parts[0]
  kind = type(parts[0])
  if issubclass(kind, FileSource) and all(
    type(p) is kind and p.root == parts[0].root for p in parts
  ):
    return kind.concatenate(parts)
  if all(isinstance(p, ArraySource) for p in parts):
    return ArraySource(
      np.concatenate([p.images for p in parts]),
      np.concatenate([p.labels for p in parts]),
      [i for p in parts for i in p.ids],
    )
  return ConcatSource(parts)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset that is open for reading.

  Attributes:
    name: "digits", the directory, or the TFDS name.
    class_names: the classes, in the order of their labels.
    tables: for each split that exists, the source of all its records.
    drawn: the splits that were drawn here, since the data set does not have them.
    rule: the version of the rule by which they were drawn, see `data.splits`.
  """

  name: str
  class_names: tuple[str, ...]
  tables: Mapping[str, Source] = dataclasses.field(repr=False)
  drawn: tuple[str, ...] = ()
  rule: int = RULE

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits that exist: "train", "val" and "test" first, then others by their own names."""
    known = [s for s in SPLITS if s in self.tables]
    return (*known, *(s for s in self.tables if s not in SPLITS))

  def source(self, split_spec: str) -> Source:
    """Opens `train`, `train[:98%]`, `train[10:20]`, `train[-5%:]` or sums such as `train+val`.

    Percentages round to the closest example, as in TFDS; "validation", "dev" and so on mean "val".

    Raises:
      UserError: the spec cannot be read, names no split, or selects no example.
    """
    source = concatenate([self._part(*part, split_spec) for part in parts_of(split_spec)])
    if not len(source):
      raise UserError(f"split {split_spec!r} of {self.name} selects no example; widen the slice.")
    return source

  def _part(self, name: str, limits: str | None, spec: str) -> Source:
    table = self.tables.get(name, self.tables.get(split_of(name)))
    if table is None:
      raise UserError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}.")
    if limits is None:
      return table
    start, stop = _bounds(limits, len(table), spec)
    return table.select(np.arange(start, max(start, stop)))


def parts_of(split_spec: str) -> list[tuple[str, str | None]]:
  """The parts of a sum such as "train[:98%]+val": [("train", ":98%"), ("val", None)].

  Raises:
    UserError: it cannot be read.
  """
  matches = [_PART.fullmatch(part.strip()) for part in str(split_spec).split("+")]
  if not all(matches):
    raise UserError(
      f"cannot read split {split_spec!r}; write for example 'train', 'train[:98%]', "
      "'train[10:20]' or 'train+val'."
    )
  return [(match["name"], match["slice"]) for match in matches]


def _bounds(text: str, size: int, spec: str) -> tuple[int, int]:
  """Absolute bounds of the slice `text` of `size` examples, rounded as tfds' 'closest'."""
  bounds = [_BOUND.fullmatch(t.strip()) for t in text.split(":")]
  if len(bounds) != 2 or not all(bounds) or not any(b["value"] for b in bounds):
    raise UserError(f"cannot read the slice of split {spec!r}; write [10:20], [:98%] or [-5%:].")
  percent = any(b["percent"] for b in bounds)
  result = []
  for bound, default in zip(bounds, (0, size), strict=True):
    if bound["value"] is None:
      result.append(default)
      continue
    if not percent and "." in bound["value"]:
      raise UserError(f"split {spec!r}: a bound that is no percentage must be a whole number.")
    value = round(float(bound["value"]) * size / 100) if percent else int(bound["value"])
    if abs(value) > size:
      raise UserError(f"split {spec!r} asks for more than the {size} examples there are.")
    result.append(value + size if value < 0 else value)
  return result[0], result[1]
