# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens a data set by its name or path: the embedded digits, a folder of images, or one of TFDS."""

from __future__ import annotations

import os
import pathlib

from vit_jax.data import captions, digits, folder, listing, tfds_source
from vit_jax.data.sources import RULE, Dataset
from vit_jax.errors import UserError


def is_same_place(one: str, other: str) -> bool:
  """Whether two names of data sets are one directory, or the same name."""
  paths = [os.path.expanduser(name) for name in (one, other)]
  return one == other or (all(map(os.path.isdir, paths)) and os.path.samefile(*paths))


def absolute(dataset: str | os.PathLike[str]) -> str:
  """A directory as an absolute path; any other name of a data set as it is."""
  path = os.path.expanduser(os.fspath(dataset))
  is_directory = os.fspath(dataset) != "digits" and os.path.isdir(path)
  return os.path.abspath(path) if is_directory else os.fspath(dataset)


def open_dataset(
  dataset: str, *, data_dir: str | os.PathLike[str] | None = None, rule: int = RULE
) -> Dataset:
  """Opens a dataset by its name or directory.

  Args:
    dataset: "digits"; a directory with `train/ val/ test/` or with one directory a class; one of
      images with texts (`data.captions`); a directory that TFDS prepared; or a TFDS name that is
      prepared in `data_dir`.
    data_dir: where TFDS keeps its datasets (default: TFDS's own, `~/tensorflow_datasets`).
    rule: the version of the rule that draws the splits which a folder does not have; 1 reads a
      folder as runs from before the record did.

  Raises:
    UserError: there is no such dataset, or it cannot be used; one sentence says why.
  """
  name = os.fspath(dataset)
  if not name.strip():
    raise UserError("the name of the data set is empty; pass a directory, a TFDS name or 'digits'.")
  if name == "digits":
    return digits.open_digits()
  path = pathlib.Path(name).expanduser()
  try:
    if path.is_dir():
      return _open_directory(path, rule)
  except OSError as error:
    listing.refuse(error)
  if path.is_file():
    raise UserError(f"{path} is a file; dataset= takes a directory, a TFDS name or 'digits'.")
  if name.startswith(("/", "./", "../", "~")) or name.endswith("/"):
    raise UserError(f"there is no directory {path}; pass an existing one, a TFDS name or 'digits'.")
  return tfds_source.open_name(name, data_dir=data_dir)


def _open_directory(path: pathlib.Path, rule: int) -> Dataset:
  if (path / "dataset_info.json").is_file():
    return tfds_source.open_directory(path)
  if captions.has_captions(path):
    return captions.open_captions(path, rule=rule)
  try:
    return folder.open_folder(path, rule=rule)
  except UserError as error:
    if not (versions := tfds_source.prepared_below(path)):
      raise
    raise UserError(
      f"{path} has no dataset_info.json itself; pass the directory of a version: "
      f"{tfds_source.listed(map(str, versions))}."
    ) from error
