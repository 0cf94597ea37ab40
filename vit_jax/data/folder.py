# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of images: `train/ val/ test/` with a directory a class, or class directories alone."""

from __future__ import annotations

import logging
import os
import pathlib

import numpy as np

from vit_jax.data.listing import EXTENSIONS, list_images
from vit_jax.data.sources import Dataset, FileSource
from vit_jax.errors import UserError

_SPLIT_DIRECTORIES = {
  "train": "train",
  "val": "val",
  "valid": "val",
  "validation": "val",
  "test": "test",
}
_LOGGER = logging.getLogger(__name__)


def _directories(path: pathlib.Path) -> list[str]:
  return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _classes(path: pathlib.Path) -> dict[str, list[str]]:
  """The images of each class directory below `path`, relative to `path`."""
  classes = {}
  for name in _directories(path):
    classes[name] = [f"{name}/{file}" for file in list_images(path / name)]
    if not classes[name]:
      raise UserError(
        f"the class folder {path / name} has no images; add some ({', '.join(EXTENSIONS)}) or "
        "remove the folder."
      )
  if not classes:
    loose = " but its images lie outside of class folders" if list_images(path) else ""
    raise UserError(
      f"{path} is a folder without class folders{loose}; put the images of each class into a "
      "directory of its own."
    )
  return classes


def open_folder(path: str | os.PathLike[str]) -> Dataset:
  """Opens a folder of images; DESIGN's rules decide the splits.

  `train`, `val` (also "validation", "valid") and `test` are used as they are. `train` and `test`
  alone: `val` is 10% of `train`. `train` and `val` alone: there is no `test`. Class directories
  alone: 80/10/10. What is split off is stratified with seed 0, at least one image of every class
  that can spare one.

  Raises:
    UserError: no images, an empty class, one class only, or classes that `train` lacks.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise UserError(f"there is no directory {root}; pass a folder of images.")
  directories = _directories(root)
  if not directories and not list_images(root):
    raise UserError(f"the folder {root} is empty; it should hold one directory of images a class.")
  layout: dict[str, str] = {}
  for name in directories:
    split = _SPLIT_DIRECTORIES.get(name.lower())
    if split in layout:
      raise UserError(f"{root} has both {layout[split]!r} and {name!r} as {split}; keep one.")
    if split:
      layout[split] = name
  if "train" not in layout and len(layout) < len(directories):
    layout = {}  # Classes that happen to be called "test" or "valid".
  if not layout:
    return _dataset(root, *_split_classes(_classes(root)))
  ignored = sorted(set(directories) - set(layout.values()))
  if ignored:
    _LOGGER.warning("%s: not a split, so ignored: %s", root, ", ".join(ignored))
  found = {split: _classes(root / name) for split, name in layout.items()}
  base = "train" if "train" in found else next(iter(found))
  names = tuple(found[base])
  tables = {}
  for split, classes in found.items():
    unknown = sorted(set(classes) - set(names))
    if unknown:
      raise UserError(
        f"{root / layout[split]} has classes that {layout[base]} lacks: {', '.join(unknown[:5])}; "
        "the class folders of all splits must have the names of those in train."
      )
    tables[split] = [
      (f"{layout[split]}/{file}", names.index(name))
      for name, files in classes.items()
      for file in files
    ]
  if "test" in tables and "train" in tables and "val" not in tables:
    labels = np.array([label for _, label in tables["train"]])
    train, val = stratified(labels, (0.1,))
    rows = tables["train"]
    tables["train"], tables["val"] = [rows[i] for i in train], [rows[i] for i in val]
  return _dataset(root, names, tables)


def _split_classes(classes: dict[str, list[str]]):
  rows = [(file, label) for label, files in enumerate(classes.values()) for file in files]
  parts = stratified(np.array([label for _, label in rows]), (0.1, 0.1))
  tables = {
    split: [rows[i] for i in part]
    for split, part in zip(("train", "val", "test"), parts, strict=True)
  }
  return tuple(classes), {split: rows for split, rows in tables.items() if rows}


def stratified(labels: np.ndarray, fractions: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
  """Splits `fractions` off each class; returns sorted indices of the rest, then of each fraction.

  Every part gets at least one example of a class that has one to spare, and the rest never loses
  its last (scikit-learn's splitter refuses classes this small).
  """
  random = np.random.RandomState(seed)  # Its streams are frozen, unlike those of `Generator`.
  parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
  for label in np.unique(labels):
    members = random.permutation(np.flatnonzero(labels == label)).tolist()
    for k, fraction in enumerate(fractions):
      count = max(1, round(fraction * np.count_nonzero(labels == label)))
      count = min(count, len(members) - 1)
      parts[k + 1] += members[:count]
      members = members[count:]
    parts[0] += members
  return [np.array(sorted(part), np.int64) for part in parts]


def _dataset(root: pathlib.Path, names: tuple[str, ...], tables: dict) -> Dataset:
  if len(names) == 1:
    raise UserError(
      f"{root} has only one class, {names[0]!r}; classification needs at least two class folders."
    )
  return Dataset(
    name=str(root),
    class_names=names,
    tables={
      split: FileSource(str(root), [f for f, _ in rows], np.array([y for _, y in rows], np.int32))
      for split, rows in tables.items()
    },
  )
