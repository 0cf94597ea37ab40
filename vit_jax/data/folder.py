# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of images: `train/ val/ test/` with a directory a class, or class directories alone."""

from __future__ import annotations

import collections
import logging
import os
import pathlib
import unicodedata
from collections.abc import Mapping

import numpy as np

from vit_jax.data import listing, splits
from vit_jax.data.sources import RULE, SPLITS, Dataset, FileSource, split_of
from vit_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
_Classes = dict[str, list[str]]  # The images of each class, as paths relative to the root.


def open_folder(path: str | os.PathLike[str], *, rule: int = RULE) -> Dataset:
  """Opens a folder of images.

  Directories called `train`, `val` and `test`, or by another usual name (`sources.split_of`), are
  used as they are. `train` and `test` alone: a tenth of `train` is `val`. `train` and `val` alone:
  there is no `test`. Class directories alone: a tenth each is `val` and `test`. What is drawn is
  drawn by `splits.draw`, class by class.

  Args:
    path: the folder.
    rule: 1 reads it as runs from before the record did.

  Raises:
    UserError: no images, an empty class, one class only, classes that `train` lacks, two folders
      for one split, or folders that look like splits but are not called so.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise UserError(f"there is no directory {root}; pass a folder of images.")
  opened = _Folder(root, rule)
  layout = opened.split_folders()
  return opened.with_splits(layout) if layout else opened.of_bare_classes()


class _Folder:
  """A folder while it is being opened.

  Attributes:
    left_out: how many files of each extension are no images that we read.
    loose: how many images lie outside of class folders.
  """

  def __init__(self, root: pathlib.Path, rule: int):
    self.root, self.rule = root, rule
    self.left_out: collections.Counter[str] = collections.Counter()
    self.loose = 0

  def split_folders(self) -> dict[str, str]:
    """The name of the folder of each split; empty if the folders are classes."""
    directories = self._directories(self.root)
    found: dict[str, list[str]] = {}
    for name in directories:
      if split := self._split_of(name):
        found.setdefault(split, []).append(name)
    # Without `train`, classes may happen to be called "test" or "valid".
    if not found or ("train" not in found and sum(map(len, found.values())) < len(directories)):
      return {}
    others = [name for name in directories if not self._split_of(name)]
    if others and not self._directories(self.root / found["train"][0]):
      raise UserError(
        f"{self.root} has a folder {found['train'][0]!r} without class folders beside "
        f"{', '.join(others[:3])}; if it is a class, rename it, and if it is a split, put the "
        "images of each class into a folder of its own."
      )
    for split, names in found.items():
      if len(names) > 1:
        raise UserError(
          f"{self.root} has both {names[0]!r} and {names[1]!r} as {split}; keep one of them."
        )
    layout = {split: found[split][0] for split in SPLITS if split in found}
    if others:
      _LOGGER.warning("%s: not a split, so ignored: %s", self.root, ", ".join(others))
    self._refuse_links([self.root / name for name in layout.values()])
    return layout

  def with_splits(self, layout: Mapping[str, str]) -> Dataset:
    found = {split: self._classes(layout[split], split) for split in layout}
    base = "train" if "train" in found else next(iter(found))
    if not found[base]:
      raise UserError(
        f"{self.root / layout[base]} has no class folders with images; put the images of each "
        "class into a directory of its own."
      )
    label_of = {name: label for label, name in enumerate(found[base])}
    tables, drawn = {}, ()
    for split, classes in found.items():
      unknown = sorted(set(classes) - set(label_of))
      if unknown:
        raise UserError(
          f"{self.root / layout[split]} has classes that {layout[base]} lacks: "
          f"{', '.join(unknown[:5])}; the class folders of all splits must have the names of those "
          "in train."
        )
      tables[split] = [(file, label_of[name]) for name, files in classes.items() for file in files]
    if "test" in tables and "train" in tables and "val" not in tables:
      tables, drawn = tables | self._drawn(found["train"], ("val",)), ("val",)
    return self._dataset(tuple(label_of), tables, drawn)

  def of_bare_classes(self) -> Dataset:
    if not self._directories(self.root) and not listing.list_images(self.root):
      raise UserError(
        f"the folder {self.root} is empty; it should hold one directory of images a class."
        if not any(self.root.iterdir())
        else f"{self.root} holds {self._held(self.root)} and no image that can be read; it should "
        "hold one directory of images a class."
      )
    if self.rule > 1:
      self._refuse_splits_by_other_names()
    classes = self._classes("")
    drawn = ("val", "test")
    return self._dataset(tuple(classes), self._drawn(classes, drawn), drawn)

  def _split_of(self, name: str) -> str | None:
    known = self.rule > 1 or name.lower() in ("train", "val", "valid", "validation", "test")
    return split_of(name) if known else None

  def _directories(self, path: pathlib.Path) -> list[str]:
    return listing.list_folders(path, as_before=self.rule == 1)

  def _classes(self, folder: str, split: str = "train") -> _Classes:
    """The images of each class directory of the root, or of a folder in it."""
    here, classes = self.root / folder, {}
    names = self._directories(here)
    if self.rule > 1:
      self._refuse_links([here / name for name in names])
    for name in names:
      found = listing.list_folder(here / name, as_before=self.rule == 1)
      self.left_out += found.left_out
      if found.images:
        prefix = f"{folder}/{name}" if folder else name
        # macOS and Linux may spell one name differently: "é" is one character, or two.
        spelled = unicodedata.normalize("NFC", name) if self.rule > 1 else name
        classes[spelled] = [f"{prefix}/{file}" for file in found.images]
      elif split == "train":
        held = f"; it holds {listing.told(found.left_out)}" if found.left_out else ""
        raise UserError(
          f"the class folder {here / name} has no images{held}; add some (jpg, png, webp, tif, "
          "gif, avif and others) or remove the folder."
        )
    outside = listing.list_folder(here, as_before=self.rule == 1, deep=False)
    self.loose += len(outside.images)
    if not names and split == "train":
      loose = " but its images lie outside of class folders" if outside.images else ""
      raise UserError(
        f"{here} is a folder without class folders{loose}; put the images of each class into a "
        "directory of its own."
      )
    return classes

  def _refuse_links(self, folders: list[pathlib.Path]) -> None:
    """Refuses two names of one folder: its images would be in two splits or classes."""
    seen: dict[str, pathlib.Path] = {}
    for folder in folders:
      other = seen.setdefault(os.path.realpath(folder), folder)
      if other != folder:
        raise UserError(f"{folder} and {other} are one folder; remove the link.")

  def _refuse_splits_by_other_names(self) -> None:
    """Refuses "classes" that hold only folders, of the same names: those are the classes."""
    names = self._directories(self.root)
    inside: dict[str, list[str]] = {}
    for name in names:
      inside[name] = self._directories(self.root / name)
      if not inside[name] or listing.list_folder(self.root / name, deep=False).images:
        return
    if not names:
      return
    common = sorted(set.intersection(*map(set, inside.values())))
    if len(common) < 2 or 2 * len(common) < len(set.union(*map(set, inside.values()))):
      return
    shown = ", ".join(common[:3]) + (", ..." if len(common) > 3 else "")
    if len(names) == 1:
      raise UserError(
        f"{self.root} has only one class, {names[0]!r}, which holds folders ({shown}); if those "
        f"are the classes, pass {self.root / names[0]}."
      )
    raise UserError(
      f"the folders {', '.join(names[:3])} of {self.root} hold folders of the same names "
      f"({shown}), so they look like splits and not like classes; call them train, val and test, "
      "or pass one of them."
    )

  def _drawn(self, classes: _Classes, drawn: tuple[str, ...]) -> dict[str, list[tuple[str, int]]]:
    """Draws splits off each class: (file, label) of "train" and of each of `drawn`."""
    rows = [(file, label) for label, files in enumerate(classes.values()) for file in files]
    tables: dict[str, list[tuple[str, int]]] = {split: [] for split in ("train", *drawn)}
    if self.rule == 1:
      parts = splits.stratified(np.array([label for _, label in rows]), (0.1,) * len(drawn))
      tables = {s: [rows[i] for i in part] for s, part in zip(tables, parts, strict=True)}
    else:
      for label, files in enumerate(classes.values()):
        for split, indices in splits.draw(files, drawn).items():
          tables[split] += [(files[index], label) for index in indices]
    return tables

  def _held(self, path: pathlib.Path) -> str:
    return listing.told(listing.list_folder(path).left_out)

  def _dataset(
    self,
    names: tuple[str, ...],
    tables: Mapping[str, list[tuple[str, int]]],
    drawn: tuple[str, ...],
  ) -> Dataset:
    if len(names) == 1:
      raise UserError(
        f"{self.root} has only one class, {names[0]!r}; classification needs at least two class "
        "folders."
      )
    left_out = [f"{self.loose} images outside of class folders"] if self.loose else []
    left_out += (
      [f"{listing.told(self.left_out)} (no images that are read)"] if self.left_out else []
    )
    if left_out:
      _LOGGER.warning("%s: left out %s", self.root, " and ".join(left_out))
    splits.tell_absent(str(self.root), {s: [y for _, y in t] for s, t in tables.items()}, names)
    return Dataset(
      name=str(self.root),
      class_names=names,
      tables={
        split: FileSource(
          str(self.root), [f for f, _ in rows], np.array([y for _, y in rows], np.int32)
        )
        for split, rows in tables.items()
        if rows
      },
      drawn=drawn,
      rule=self.rule,
    )
