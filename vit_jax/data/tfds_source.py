# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow.

TFRecord files, the format that TFDS prepares by default, cannot be read at random and need
TensorFlow; such a dataset is refused with the command that converts it.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import numpy as np

from vit_jax.data.decode import BadImage
from vit_jax.data.sources import Dataset, Record, Source
from vit_jax.errors import UserError, nearest

_NAME = re.compile(r"(?P<name>[a-z]\w*)(/[\w.\-+]+)?(:[\d.*]+)?", re.IGNORECASE)


class TfdsSource(Source):
  """Records of one native split; images stay encoded."""

  def __init__(
    self, records: Any, split: str, keys: tuple[str, str], indices: np.ndarray | None = None
  ):
    self._records = records
    self._split = split
    self._image, self._label = keys
    self._indices = np.arange(len(records)) if indices is None else indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Record:
    try:
      record = self._records[int(self._indices[index])]
    except RuntimeError as e:
      raise BadImage(f"its shard cannot be read ({str(e).strip().splitlines()[0]})") from e
    image, label = record[self._image], record[self._label]
    if image is None or label is None:  # What becomes of a record beyond the end of a file.
      raise BadImage("its shard cannot be read (it is cut short)")
    return {
      "image": image,
      "label": int(label),
      "id": self.name(index),
    }

  def name(self, index: int) -> str:
    return f"{self._split}:{self._indices[index]}"

  def select(self, indices: np.ndarray) -> TfdsSource:
    keys = self._image, self._label
    return TfdsSource(self._records, self._split, keys, self._indices[indices])


def open_name(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
  """Opens a prepared dataset by its TFDS name, such as "cifar10" or "imagenet2012:5.1.0".

  Raises:
    UserError: TFDS has no such dataset, or it is not prepared as ArrayRecord in `data_dir`.
  """
  match = _NAME.fullmatch(name)
  if not match:  # TFDS would go online for others, such as "huggingface:...".
    raise UserError(f"dataset {name!r} is neither 'digits', nor a directory, nor a TFDS name.")
  import tensorflow_datasets as tfds

  where = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
  try:
    builder = tfds.builder(name, data_dir=where)
  except tfds.core.registered.DatasetNotFoundError as e:
    known = re.findall(r"^\s*- (\S+)$", str(e), re.MULTILINE)  # It lists the whole catalogue.
    raise UserError(
      f"there is no dataset {name!r}: no such directory, and TFDS does not know the name"
      f"{nearest(match['name'], ['digits', *known]) or '.'}"
    ) from None
  except Exception as e:
    reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    raise UserError(f"TFDS cannot open {name!r}: {reason}") from e
  if not builder.info.splits:
    option = "" if data_dir is None else f" --data_dir={where}"
    raise UserError(
      f"dataset {name!r} is not prepared in {pathlib.Path(builder.data_path).parents[1]}; prepare "
      f"it with `tfds build {name} --file_format=array_record{option}` (that needs TensorFlow), or "
      "set config.tfds_data_dir."
    )
  return _open(builder, name)


def open_directory(path: str | os.PathLike[str]) -> Dataset:
  """Opens the directory of a dataset's version, the one with `dataset_info.json`.

  Raises:
    UserError: the directory is damaged or not prepared as ArrayRecord.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(os.fspath(path))
  except Exception as e:
    raise UserError(f"{path} has a dataset_info.json that TFDS cannot read: {e}") from e
  return _open(builder, os.fspath(path))


def _open(builder: Any, name: str) -> Dataset:
  import tensorflow_datasets as tfds

  info = builder.info
  if tfds.core.FileFormat.ARRAY_RECORD not in info.available_file_formats():
    raise UserError(
      f"{name} is prepared as {info.file_format.value}, which needs TensorFlow to be read; convert "
      f"it with `tfds convert_format --dataset_version_dir={builder.data_path} "
      "--out_file_format=array_record`."
    )
  keys = _keys(info, name)
  tables = {}
  for split in info.splits:
    try:
      records = builder.as_data_source(
        split,
        decoders={keys[0]: tfds.decode.SkipDecoding()},
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
      )
    except Exception as e:
      reason = str(e).strip().splitlines()[0]
      raise UserError(f"split {split!r} of {name} cannot be opened: {reason}") from e
    ours = "val" if split == "validation" else split
    tables[ours] = TfdsSource(records, split, keys)
  return Dataset(name=name, class_names=tuple(info.features[keys[1]].names), tables=tables)


def _keys(info: Any, name: str) -> tuple[str, str]:
  """The names of the image and of the class label among the features."""
  import tensorflow_datasets as tfds

  features = info.features
  images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
  labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
  supervised = info.supervised_keys or ()
  for candidates in (images, labels):
    candidates.sort(key=lambda k: k not in supervised)  # Stable: these first.
  if not images or not labels:
    raise UserError(
      f"{name} is no classification dataset: it needs an image and a class label, and has "
      f"{', '.join(features)}."
    )
  return images[0], labels[0]
