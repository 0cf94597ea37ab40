# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow.

TFRecord files, the format that TFDS prepares by default, cannot be read at random and need
TensorFlow; such a dataset is refused with the command that converts it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vit_jax.data.decode import BadImage
from vit_jax.data.sources import Dataset, Record, Source, hashes, split_of
from vit_jax.errors import UserError, nearest

_NAME = re.compile(
  r"(?P<name>[a-z]\w*)(/(?P<config>[\w.\-+]+))?(:(?P<version>[\d.*]+))?", re.IGNORECASE
)
_LOGGER = logging.getLogger(__name__)


class TfdsSource(Source):
  """Records of one native split; images stay encoded."""

  def __init__(
    self,
    records: Any,
    split: str,
    keys: tuple[str, str],
    classes: int,
    indices: np.ndarray | None = None,
  ):
    self._records = records
    self._split = split
    self._image, self._label = keys
    self._classes = classes
    self._indices = np.arange(len(records)) if indices is None else indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Record:
    try:
      record = self._records[int(self._indices[index])]
    except RuntimeError as e:
      raise BadImage(f"its shard cannot be read ({_reason(e)})") from e
    image, label = record[self._image], record[self._label]
    if image is None or label is None:  # What becomes of a record beyond the end of a file.
      raise BadImage("its shard cannot be read (it is cut short)")
    if not 0 <= label < self._classes:
      advice = "prepare the dataset again, it is damaged"
      if label == -1:  # In TFDS the sign of a hidden label.
        advice = "its labels are hidden, so use another split"
      raise UserError(
        f"split {self._split!r} has the label {label} at {self.name(index)}, but the labels of its "
        f"classes are 0 to {self._classes - 1}; {advice}."
      )
    return {"image": image, "label": int(label), "id": self.name(index)}

  def check_labels(self) -> None:
    count = len(self)
    for index in (0, count // 2, count - 1)[:count]:
      with contextlib.suppress(BadImage, OSError):  # Those are counted when all are read.
        self[index]

  def name(self, index: int) -> str:
    return f"{self._split}:{self._indices[index]}"

  def keys(self) -> np.ndarray:
    return hashes([self._split]) + self._indices.astype(np.uint64)  # Quick for millions.

  def select(self, indices: np.ndarray) -> TfdsSource:
    keys = self._image, self._label
    return TfdsSource(self._records, self._split, keys, self._classes, self._indices[indices])


def _errors() -> tuple[type[Exception], ...]:
  """What TFDS and protobuf raise for files that they cannot read."""
  from google.protobuf import json_format, message  # TFDS brings it.

  return (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(ImportError, RuntimeError, AssertionError, json_format.Error, message.Error),
    SystemError,  # Of protobuf's C code, for keys that are not UTF-8.
  )


def _reason(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]


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
  folder = pathlib.Path(where or tfds.core.constants.DATA_DIR)
  try:
    builder = tfds.builder(name, data_dir=where)
  except _errors() as e:
    raise UserError(_why_not(match, folder, e)) from e
  if not builder.info.splits:
    others = _prepared(match["name"], folder)
    option = "" if where is None else f" --data_dir={where}"
    raise UserError(
      f"dataset {name!r} is not prepared in {folder}{others and f', which has {others}'}; prepare "
      f"it with `tfds build {name} --file_format=array_record{option}` (that needs TensorFlow), or "
      "set config.tfds_data_dir."
    )
  return _open(builder, name)


def _why_not(match: re.Match, folder: pathlib.Path, error: Exception) -> str:
  """The sentence on a name that TFDS has no builder for."""
  import tensorflow_datasets as tfds

  given, (name, config, version) = match[0], match.group("name", "config", "version")
  others = _prepared(name, folder)
  there = others and f"; prepared in {folder}: {others}"
  if isinstance(error, tfds.core.registered.DatasetNotFoundError):
    if others:
      return (
        f"dataset {given!r} is not prepared in {folder}, which has {others}; pass one of these."
      )
    known = re.findall(r"^\s*- (\S+)$", str(error), re.MULTILINE)  # It lists the whole catalogue.
    return (
      f"there is no dataset {given!r}: no such directory, and TFDS does not know the name"
      f"{nearest(name, ['digits', *known]) or '.'}"
    )
  if f"BuilderConfig {config} not found" in str(error):
    configs = list(tfds.builder_cls(name).builder_configs)
    near = nearest(config, configs) or "; pass one of these."
    if configs:
      return f"{name} has no config {config!r}, only {listed(configs)}{there}{near}"
    return f"{name} has no configs; pass {name!r}, or {name + ':VERSION'!r}{there}."
  if only := re.search(r"cannot be loaded at version .*, only: (.+)\.", str(error)):
    return f"{name} has no version {version}, only {only[1]}{there}; pass one of these."
  return f"TFDS cannot open {given!r}: {_reason(error)}"


def _prepared(name: str, folder: pathlib.Path) -> str:
  """The versions of a dataset that are prepared, by the names to open them with."""
  found = [path.relative_to(folder) for path in prepared_below(folder / name)]
  return listed(f"{path.parent.as_posix()}:{path.name}" for path in found)


def prepared_below(path: pathlib.Path) -> list[pathlib.Path]:
  """The directories of versions that TFDS prepared, one to three levels below `path`."""
  version = "[0-9]*.[0-9]*.[0-9]*/dataset_info.json"
  found = [f.parent for above in ("", "*/", "*/*/") for f in sorted(path.glob(above + version))]
  return [p for p in found if re.fullmatch(r"[\d.]+", p.name)]  # Not "1.0.0.incomplete...".


def listed(words: Iterable[str]) -> str:
  """At most five of the words, separated by commas, and how many more there are."""
  words = list(words)
  return ", ".join([*words[:5], *([f"{len(words) - 5} more"] if len(words) > 5 else [])])


def open_directory(path: str | os.PathLike[str]) -> Dataset:
  """Opens the directory of a dataset's version, the one with `dataset_info.json`.

  Raises:
    UserError: the directory is damaged or not prepared as ArrayRecord.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(os.fspath(path))
  except _errors() as e:
    raise UserError(
      f"TFDS cannot read the dataset in {path} by its dataset_info.json and features.json "
      f"({_reason(e)}); copy or prepare it again."
    ) from e
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
  class_names = _class_names(builder, keys[1], name)
  tables = {}
  for split in info.splits:
    try:
      records = builder.as_data_source(
        split,
        decoders={keys[0]: tfds.decode.SkipDecoding()},
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
      )
    except _errors() as e:
      raise UserError(
        f"split {split!r} of {name} cannot be opened as its dataset_info.json says: {_reason(e)}"
      ) from e
    _check_counts(records, split, name)
    ours = split_of(split) or split
    ours = split if ours in (*tables, *info.splits) else ours
    tables[ours] = TfdsSource(records, split, keys, len(class_names))
  _tell_unnamed(builder, name)
  if not tables:
    raise UserError(f"{name} has no splits in its dataset_info.json; copy or prepare it again.")
  return Dataset(name=name, class_names=class_names, tables=tables)


def _tell_unnamed(builder: Any, name: str) -> None:
  """Says which shards in the directory belong to no split."""
  named = {file for split in builder.info.splits.values() for file in split.filenames}
  there = [path.name for path in builder.data_path.glob("*.array_record-*")]
  others = sorted({*there} - named) if builder.info.file_format.value == "array_record" else []
  if others:
    _LOGGER.warning("%s is of no split in the dataset_info.json of %s", listed(others), name)


def _check_counts(records: Any, split: str, name: str) -> None:
  """Refuses shards of another number of records than `dataset_info.json` says.

  TFDS would leave out the records that are too many.
  """
  from array_record.python.array_record_module import ArrayRecordReader

  for shard in records.dataset_info.splits[split].file_instructions:
    try:
      reader = ArrayRecordReader(os.fspath(shard.filename))
      found = reader.num_records()
      reader.close()
    except (OSError, ValueError, RuntimeError):  # Told when it is read.
      continue
    if found != shard.examples_in_shard:
      raise UserError(
        f"{shard.filename} of {name} has {found} records, where dataset_info.json says "
        f"{shard.examples_in_shard}; copy or prepare the dataset again."
      )


def _keys(info: Any, name: str) -> tuple[str, str]:
  """The names of the image and of the class label among the features."""
  import tensorflow_datasets as tfds

  features = info.features
  images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
  labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
  if not images or not labels:
    raise UserError(
      f"{name} is no classification dataset: it needs an image and a class label, and its "
      f"features.json has {', '.join(features)}."
    )
  return _one_of(images, "image", info, name), _one_of(labels, "label", info, name)


def _one_of(keys: Sequence[str], usual: str, info: Any, name: str) -> str:
  """The one that is supervised, else the only one, else the one of the usual name."""
  supervised = [key for key in keys if key in (info.supervised_keys or ())]
  keys = supervised or keys
  if len(keys) == 1:
    return keys[0]
  if usual not in keys:
    raise UserError(
      f"{name} has several features that may be the {usual}: {', '.join(keys)}; tell which in its "
      'dataset_info.json, by "supervisedKeys": {"tuple": {"items": [{"featureKey": "the image"}, '
      '{"featureKey": "the label"}]}}.'
    )
  _LOGGER.info(
    "%s has several features that may be the %s (%s); %r is used",
    name,
    usual,
    ", ".join(keys),
    usual,
  )
  return usual


def _class_names(builder: Any, key: str, name: str) -> tuple[str, ...]:
  """The names of the classes, by label."""
  feature = builder.info.features[key]
  file = builder.data_path / f"{key}.labels.txt"
  if not feature.num_classes:
    raise UserError(
      f"{name} does not tell in its features.json how many classes {key!r} has; prepare it again."
    )
  if not file.is_file():
    if feature.names == [str(label) for label in range(feature.num_classes)]:
      _LOGGER.warning(
        "%s has no %s with the names of its classes, so they are called 0 to %d",
        name,
        file.name,
        feature.num_classes - 1,
      )
    return tuple(feature.names)
  # Read here, since TFDS takes names whose number is wrong, and numbers for what it cannot read.
  lines = file.read_bytes().decode("utf-8", "replace").split("\n")
  names = tuple(line.strip() for line in lines if line.strip())
  if len(set(names)) != feature.num_classes or "\ufffd" in "".join(names):
    raise UserError(
      f"{file} should have {feature.num_classes} different names in UTF-8, one a line, as "
      f"features.json says, and has {len(set(names))}; copy it again from where {name} was "
      "prepared."
    )
  return names
