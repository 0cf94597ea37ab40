# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where images come from: the embedded digits, a folder of images, or a prepared TFDS dataset.

`open_dataset` turns a name or a path into a `Dataset`, and `Dataset.source("train[:98%]")` into a
`Source`: random access to records `{"image": encoded bytes or uint8 [height, width, channels],
"label": int, "id": str}`. Nothing is decoded here.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data import listing
from vit_jax.errors import UserError

Record = dict[str, Any]

SPLITS = ("train", "val", "test")
_ALIASES = {"validation": "val", "valid": "val"}
_PART = re.compile(r"(?P<name>\w[\w.-]*)(\[(?P<slice>[^\]]*)\])?")
_BOUND = re.compile(r"(?P<value>-?[\d_]+(\.\d+)?)?(?P<percent>%)?")


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
    raise NotImplementedError


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


def _concat(parts: Sequence[Source]) -> Source:
  if len(parts) == 1:
    return parts[0]
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
  """

  name: str
  class_names: tuple[str, ...]
  tables: Mapping[str, Source] = dataclasses.field(repr=False)

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits that exist: "train", "val" and "test" first, then others by their own names."""
    known = [s for s in SPLITS if s in self.tables]
    return (*known, *(s for s in self.tables if s not in SPLITS))

  def source(self, split_spec: str) -> Source:
    """Opens `train`, `train[:98%]`, `train[10:20]`, `train[-5%:]` or sums such as `train+val`.

    Percentages round to the closest example, as in TFDS; "validation" and "valid" mean "val".

    Raises:
      UserError: the spec cannot be read, names no split, or selects no example.
    """
    parts = [self._part(part.strip(), split_spec) for part in str(split_spec).split("+")]
    source = _concat(parts)
    if not len(source):
      raise UserError(f"split {split_spec!r} of {self.name} selects no example; widen the slice.")
    return source

  def _part(self, part: str, spec: str) -> Source:
    match = _PART.fullmatch(part)
    if not match:
      raise UserError(
        f"cannot read split {spec!r}; write for example 'train', 'train[:98%]', 'train[10:20]' "
        "or 'train+val'."
      )
    name = _ALIASES.get(match["name"], match["name"])
    if name not in self.tables:
      raise UserError(
        f"{self.name} has no split {match['name']!r}; it has {', '.join(self.splits)}."
      )
    table = self.tables[name]
    if match["slice"] is None:
      return table
    start, stop = _bounds(match["slice"], len(table), spec)
    return table.select(np.arange(start, max(start, stop)))


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


def open_dataset(dataset: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
  """Opens a dataset by its name or directory.

  Args:
    dataset: "digits"; a directory with `train/ val/ test/` or with one directory a class; one of
      images with texts (`data.captions`); a directory that TFDS prepared; or a TFDS name that is
      prepared in `data_dir`.
    data_dir: where TFDS keeps its datasets (default: TFDS's own, `~/tensorflow_datasets`).

  Raises:
    UserError: there is no such dataset, or it cannot be used; one sentence says why.
  """
  name = os.fspath(dataset)
  if name == "digits":
    from vit_jax.data import digits

    return digits.open_digits()
  path = pathlib.Path(name).expanduser()
  try:
    if path.is_dir():
      return _open_directory(path)
  except OSError as error:
    listing.refuse(error)
  if path.is_file():
    raise UserError(f"{path} is a file; dataset= takes a directory, a TFDS name or 'digits'.")
  if name.startswith(("/", "./", "../", "~")) or name.endswith("/"):
    raise UserError(f"there is no directory {path}; pass an existing one, a TFDS name or 'digits'.")
  from vit_jax.data import tfds_source

  return tfds_source.open_name(name, data_dir=data_dir)


def _open_directory(path: pathlib.Path) -> Dataset:
  if (path / "dataset_info.json").is_file():
    from vit_jax.data import tfds_source

    return tfds_source.open_directory(path)
  from vit_jax.data import captions, folder

  if captions.has_captions(path):
    return captions.open_captions(path)
  return folder.open_folder(path)
