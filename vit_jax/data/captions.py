# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of images with texts, as Hugging Face's ImageFolder has it.

`metadata.jsonl` or `metadata.csv` stands beside the images, in the folder or in each of its `train/
val/ test/`. Its columns are `file_name`, relative to that file, and `text`; an image with several
texts has a list of them in JSON, or several lines. A CSV file may separate its cells by commas,
semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import pathlib
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data import listing
from vit_jax.data import splits as splits_lib
from vit_jax.data.sources import RULE, Dataset, FileSource, Record, Source, split_of
from vit_jax.errors import UserError

FILES = ("metadata.jsonl", "metadata.csv")
COLUMNS = {"file_name", "text"}
_LOGGER = logging.getLogger(__name__)


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

  @staticmethod
  def concatenate(parts: Sequence[CaptionedSource]) -> CaptionedSource:
    files, texts = ([value for p in parts for value in getattr(p, k)] for k in ("files", "texts"))
    return CaptionedSource(parts[0].root, files, texts)


def has_captions(path: str | os.PathLike[str]) -> bool:
  """Whether a folder, or one of its splits, has texts for its images."""
  root = pathlib.Path(path)
  return bool(_file_of(root) or _splits(root))


def _file_of(folder: pathlib.Path) -> pathlib.Path | None:
  """The metadata file of a folder's images, if it has texts.

  Class folders may have a file without texts beside them. Where there are no folders it is returned
  too, so that reading it tells what its rows lack.
  """
  paths = [folder / name for name in FILES if (folder / name).is_file()]
  with_texts = [path for path in paths if _has_texts(path)]
  if len(with_texts) > 1:
    raise UserError(f"{folder} has both {' and '.join(FILES)} with texts; keep one of them.")
  if with_texts or not paths:
    return with_texts[0] if with_texts else None
  if not any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir()):
    return paths[0]
  _LOGGER.info("%s has no file_name with a text, so it is not used", paths[0])
  return None


def _has_texts(path: pathlib.Path) -> bool:
  if path.suffix == ".jsonl":
    return any(row.keys() >= COLUMNS for row in _rows(path))
  with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
    header = _first_line(file)
  is_utf16 = header.startswith("\ufffd\ufffd")  # Refused when the whole file is read.
  return is_utf16 or set(_header(path, header)[1]) >= COLUMNS


def open_captions(path: str | os.PathLike[str], *, rule: int = RULE) -> Dataset:
  """Opens a folder of images with texts; it has no classes.

  `train`, `val` and `test` are used as they are, whether each has its own file of texts or one file
  names images in all of them. `train` and `test` alone: a tenth of `train` is `val`. A folder
  without splits gives a tenth each to `val` and `test`. What is drawn is drawn by `splits.draw`.
  Images without a text are left out, and counted in the log.

  Args:
    path: the folder.
    rule: 1 divides as runs from before the record did; those took `val` from `train` without
      `test`, too, and did not see splits in one file.

  Raises:
    UserError: a line that cannot be read, an image that is not there, or no text.
  """
  root = pathlib.Path(path)
  images = listing.list_images(root)
  # macOS and Linux may spell one name differently: "é" is one character, or "e" and an accent.
  on_disk = {unicodedata.normalize("NFC", image): image for image in images}
  on_disk |= {image: image for image in images}
  splits = _splits(root)
  if splits and (above := _file_of(root)):
    raise UserError(
      f"{above} has texts, and so has the folder {next(iter(splits.values()))}; keep the file for "
      "all images or one file for each split."
    )
  folders = splits or {"all": root}
  tables = {split: _read(root, folder, on_disk) for split, folder in folders.items()}
  used = {file for table in tables.values() for file in table.files}
  if unused := [image for image in images if image not in used]:
    _LOGGER.warning(
      "%s: left out %d images without a text, the first is %s", root, len(unused), unused[0]
    )
  if "all" in tables and rule > 1:
    tables = _by_folder(tables["all"]) or tables
  drawn: tuple[str, ...] = ()
  if "all" in tables:
    drawn = ("val", "test")
    tables = _divided(tables["all"], drawn, rule)
  elif "train" in tables and "val" not in tables and ("test" in tables or rule == 1):
    drawn = ("val",)
    tables |= _divided(tables["train"], drawn, rule)
  return Dataset(str(root), (), tables, drawn, rule)


def _by_folder(source: CaptionedSource) -> dict[str, CaptionedSource]:
  """The splits of one file whose images all lie in folders of splits; else empty."""
  of_file = [split_of(file.split("/")[0]) if "/" in file else None for file in source.files]
  if None in of_file or "train" not in of_file:
    return {}
  return {s: source.select(np.flatnonzero(np.array(of_file) == s)) for s in sorted(set(of_file))}


def _splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """The folders of the splits that have texts."""
  folders = [p for p in sorted(root.iterdir()) if p.is_dir() and split_of(p.name)]
  with_texts = [folder for folder in folders if _file_of(folder)]
  found: dict[str, pathlib.Path] = {}
  for folder in folders if with_texts else ():
    split = split_of(folder.name)
    if split in found:
      raise UserError(
        f"{root} has both {found[split].name!r} and {folder.name!r} as {split}; keep one."
      )
    found[split] = folder
  return {split: folder for split, folder in found.items() if folder in with_texts}


def _divided(source: CaptionedSource, drawn: tuple[str, ...], rule: int) -> dict[str, Source]:
  """Draws splits: "train" and each of `drawn`."""
  if len(source) <= len(drawn):
    raise UserError(
      f"{source.root} has only {len(source)} images with texts in its {' or '.join(FILES)}; add "
      "more of them."
    )
  draw = splits_lib.draw if rule > 1 else splits_lib.shuffled
  parts = draw(source.files, drawn)
  return {split: source.select(np.array(part, np.int64)) for split, part in parts.items()}


def _read(root: pathlib.Path, folder: pathlib.Path, on_disk: Mapping[str, str]) -> CaptionedSource:
  """The images of a folder that have texts; `on_disk` gives the spelling of their paths."""
  texts: dict[str, list[str]] = {}
  path = _file_of(folder)
  for number, row in enumerate(_rows(path), start=1):
    file, own = row.get("file_name"), row.get("text")
    own = [own] if isinstance(own, str) else own
    is_text = isinstance(own, list) and own and all(isinstance(t, str) and t.strip() for t in own)
    if not isinstance(file, str) or not is_text:
      raise UserError(f"{path}: row {number} needs a file_name and a text; it has {row!r:.80}.")
    inside = posixpath.relpath(posixpath.join(folder, file), folder)
    if file.startswith("/") or inside.split("/")[0] == "..":
      raise UserError(
        f"{path} names {file}, which is outside of its folder; names are relative to {folder}."
      )
    name = posixpath.normpath(posixpath.join(folder.relative_to(root).as_posix(), inside))
    image = on_disk.get(name) or on_disk.get(unicodedata.normalize("NFC", name))
    if not image and not os.path.isfile(root / name):
      raise UserError(f"{path} names {file}, which is not there; names are relative to {folder}.")
    texts.setdefault(image or name, []).extend(own)
  if not texts:
    raise UserError(f"{path} is empty; write a row with file_name and text for each image.")
  return CaptionedSource(str(root), list(texts), list(texts.values()))


def _rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  try:
    content = path.read_bytes().decode("utf-8-sig")  # Spreadsheets put a mark in front.
  except UnicodeDecodeError as error:
    raise UserError(f"{path} cannot be read ({error}); write it as UTF-8.") from error
  return (_csv_rows if path.suffix == ".csv" else _json_rows)(path, content)


def _json_rows(path: pathlib.Path, content: str) -> Iterator[dict[str, Any]]:
  for number, line in enumerate(content.split("\n"), start=1):  # Texts may have other line ends.
    if not line.strip():
      continue
    try:
      row = json.loads(line, strict=False)
    except (ValueError, RecursionError) as error:
      raise UserError(f"{path}: line {number} is no JSON ({error}).") from error
    if not isinstance(row, dict):
      raise UserError(f"{path}: line {number} is no JSON object with file_name and text.")
    yield dict(zip(_columns(path, row), row.values(), strict=True))


def _csv_rows(path: pathlib.Path, content: str) -> Iterator[dict[str, str]]:
  lines = io.StringIO(content, newline="")
  separator, columns = _header(path, _first_line(lines))
  for number, cells in enumerate(filter(any, _cells(path, lines, separator)), start=1):
    if any(cells[len(columns) :]):
      raise UserError(
        f"{path}: row {number} has more cells than there are columns; put a text that has "
        f"{separator!r} in quotes."
      )
    yield dict(zip(columns, cells, strict=False))


def _first_line(lines: Iterable[str]) -> str:
  return next((line for line in lines if line.strip()), "")


def _header(path: pathlib.Path, line: str) -> tuple[str, list[str]]:
  """How a table separates its cells, and its columns."""
  for separator in "\t;,":
    columns = _columns(path, next(_cells(path, [line], separator), []))
    if set(columns) >= COLUMNS:
      break
  return separator, columns


def _cells(path: pathlib.Path, lines: Iterable[str], separator: str) -> Iterator[list[str]]:
  try:
    for cells in csv.reader(lines, delimiter=separator, skipinitialspace=True):
      yield [cell.strip(" \t") for cell in cells]
  except csv.Error as error:
    raise UserError(f"{path} is no CSV file ({error}).") from error


def _columns(path: pathlib.Path, names: Iterable[str]) -> list[str]:
  columns = [name.strip().lower() for name in names]
  for column in COLUMNS:
    if columns.count(column) > 1:
      raise UserError(f"{path} has two columns called {column}; keep one.")
  return columns
