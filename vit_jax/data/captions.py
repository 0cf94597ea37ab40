# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of images with texts, as Hugging Face's ImageFolder has it.

`metadata.jsonl` or `metadata.csv` stands beside the images, in the folder or in each of its `train/
val/ test/`. Its columns are `file_name`, relative to that file, and `text`; an image with several
texts has a list of them in JSON, or several lines.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax.data.sources import Dataset, FileSource, Record
from vit_jax.errors import UserError

FILES = ("metadata.jsonl", "metadata.csv")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class CaptionedSource(FileSource):
  """Image files with texts; a record's "text" is a list of them, and its label is its index."""

  def __init__(self, root: str, files: Sequence[str], texts: Sequence[Sequence[str]]):
    super().__init__(root, files, np.arange(len(files)))
    self.texts = [list(own) for own in texts]

  def __getitem__(self, index: int) -> Record:
    return {**super().__getitem__(index), "text": self.texts[index]}

  def select(self, indices: np.ndarray) -> CaptionedSource:
    files, texts = ([own[i] for i in indices] for own in (self.files, self.texts))
    return CaptionedSource(self.root, files, texts)


def has_captions(path: str | os.PathLike[str]) -> bool:
  """Whether a folder, or one of its splits, has texts for its images."""
  root = pathlib.Path(path)
  return bool(_file_of(root) or _splits(root))


def _file_of(folder: pathlib.Path) -> pathlib.Path | None:
  """The file with the texts; one without these columns, which classes may have, is none."""
  for name in FILES:
    path = folder / name
    if not path.is_file():
      continue
    if name.endswith(".csv"):
      with open(path, encoding="utf-8-sig", errors="replace") as file:
        if not {"file_name", "text"} <= {*file.readline().strip().split(",")}:
          continue
    return path
  return None


def open_captions(path: str | os.PathLike[str]) -> Dataset:
  """Opens a folder of images with texts; it has no classes.

  `train`, `val` and `test` are used as they are. Where `val` is missing it is 10% of `train`; a
  folder without splits gives 10% to `val` and 10% to `test`, all with seed 0.

  Raises:
    UserError: a line that cannot be read, an image that is not there, or no text.
  """
  root = pathlib.Path(path)
  tables = {SPLITS[folder.name.lower()]: _read(root, folder) for folder in _splits(root)}
  if not tables:
    whole = _read(root, root)
    tables["train"], tables["val"], tables["test"] = _divided(whole, 0.1, 0.1)
  elif "train" in tables and "val" not in tables:
    tables["train"], tables["val"] = _divided(tables["train"], 0.1)
  return Dataset(str(root), (), tables)


def _splits(root: pathlib.Path) -> list[pathlib.Path]:
  return [
    folder
    for folder in sorted(root.iterdir())
    if folder.is_dir() and folder.name.lower() in SPLITS and _file_of(folder)
  ]


def _divided(source: CaptionedSource, *fractions: float) -> list[CaptionedSource]:
  """The rest, and a random part of each fraction, at least one example."""
  if len(source) <= len(fractions):
    raise UserError(f"{source.root} has only {len(source)} images with texts; add more of them.")
  order = np.random.RandomState(0).permutation(len(source))
  parts = []
  for fraction in fractions:
    count = max(1, round(fraction * len(source)))
    parts.append(source.select(np.sort(order[:count])))
    order = order[count:]
  return [source.select(np.sort(order)), *parts]


def _read(root: pathlib.Path, folder: pathlib.Path) -> CaptionedSource:
  texts: dict[str, list[str]] = {}
  path = _file_of(folder)
  for number, row in enumerate(_rows(path), start=1):
    file, own = row.get("file_name"), row.get("text")
    own = [own] if isinstance(own, str) else own
    is_text = isinstance(own, list) and own and all(isinstance(t, str) and t.strip() for t in own)
    if not isinstance(file, str) or not is_text:
      raise UserError(f"{path}: row {number} needs a file_name and a text; it has {row!r:.80}.")
    texts.setdefault(file, []).extend(own)
  if not texts:
    raise UserError(f"{path} is empty; write a row with file_name and text for each image.")
  for file in texts:
    if pathlib.PurePath(file).is_absolute() or not (folder / file).is_file():
      raise UserError(f"{path} names {file}, which is not there; names are relative to {folder}.")
  files = [(folder / file).relative_to(root).as_posix() for file in texts]
  return CaptionedSource(str(root), files, list(texts.values()))


def _rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  try:
    content = path.read_text(encoding="utf-8-sig")  # Spreadsheets put a mark in front.
  except UnicodeDecodeError as error:
    raise UserError(f"{path} cannot be read ({error}); write it as UTF-8.") from error
  if path.suffix == ".csv":
    try:
      yield from csv.DictReader(io.StringIO(content, newline=""))
    except csv.Error as error:
      raise UserError(f"{path} is no CSV file ({error}).") from error
    return
  for number, line in enumerate(content.split("\n"), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      raise UserError(f"{path}: line {number} is no JSON ({error}).") from error
    if not isinstance(row, dict):
      raise UserError(f"{path}: line {number} is no JSON object with file_name and text.")
    yield row
