# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A small dataset prepared by TFDS as ArrayRecord, offline and without TensorFlow."""

import json
import pathlib
import pickle
import shutil
import sys

import numpy as np
import pytest
import tiny_tfds
from pictures import encoded

from vit_jax.data.decode import BadImage
from vit_jax.data.loader import eval_batches
from vit_jax.data.sources import open_dataset
from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("tfds")
  tiny_tfds.prepare(path)
  return path


def test_by_name_and_by_directory(data_dir):
  for given in ("tiny_shapes", "tiny_shapes:1.0.0", str(data_dir / "tiny_shapes" / "1.0.0")):
    dataset = open_dataset(given, data_dir=data_dir)
    assert dataset.splits == ("train", "val")
    assert dataset.class_names == ("circle", "square")
    train = dataset.source("train")
    assert len(train) == 50
    record = train[7]
    assert isinstance(record["image"], bytes) and record["id"] == "train:7"
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("content", [b"", bytes(2**17)], ids=["empty", "zeros"])
def test_a_damaged_shard_makes_its_images_bad(tmp_path, data_dir, content):
  folder = shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", tmp_path / "1.0.0")
  train = open_dataset(str(folder)).source("train")
  [shard] = folder.glob("*train*")
  shard.write_bytes(content)
  with pytest.raises(BadImage, match="its shard cannot be read"):
    train[3]


def test_slices_have_the_records_that_tfds_gives(data_dir):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(str(data_dir / "tiny_shapes" / "1.0.0"))
  dataset = open_dataset("tiny_shapes", data_dir=data_dir)
  skip = {"picture": tfds.decode.SkipDecoding()}
  for spec in ("train[:98%]", "train[98%:]", "train[:33%]", "train[10:20]", "validation[-3:]"):
    theirs = builder.as_data_source(spec, decoders=skip)
    ours = dataset.source(spec)
    assert len(ours) == len(theirs)
    for k in range(len(ours)):
      assert ours[k]["image"] == theirs[k]["picture"]
      assert ours[k]["label"] == theirs[k]["kind"]


def test_it_goes_through_the_loader(data_dir):
  source = open_dataset("tiny_shapes", data_dir=data_dir).source("train[:90%]+validation")
  source = pickle.loads(pickle.dumps(source))
  batches = list(eval_batches(source, Preprocessing(crop=4), batch_size=16))
  assert [b["mask"].sum() for b in batches] == [16, 16, 16, 7]
  images = np.concatenate([b["image"] for b in batches])[:55]
  labels = np.concatenate([b["label"] for b in batches])[:55]
  values = images[:, 0, 0, 0]  # Which is the number of the example.
  assert len(set(values.tolist())) == 55
  np.testing.assert_array_equal(labels, values % 2)


def test_tfrecord_is_refused_with_the_conversion(data_dir, tmp_path):
  path = tmp_path / "tiny_shapes" / "1.0.0"
  shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", path)
  info = json.loads((path / "dataset_info.json").read_text())
  (path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
  for given in ("tiny_shapes", str(path)):
    with pytest.raises(UserError, match=r"prepared as tfrecord.*tfds convert_format") as error:
      open_dataset(given, data_dir=tmp_path)
    assert str(path) in str(error.value) and "--out_file_format=array_record" in str(error.value)
  # Converted in place, TFDS lists ArrayRecord as an alternative.
  info |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
  (path / "dataset_info.json").write_text(json.dumps(info))
  assert open_dataset(str(path)).source("train")[0]["label"] in (0, 1)


@pytest.mark.parametrize(
  "name, words",
  [
    ("cifr10", "did you mean 'cifar10'"),
    ("digit", "'digits'"),
    ("cifar10", r"tfds build cifar10 --file_format=array_record"),
    ("huggingface:some/thing", "neither 'digits', nor a directory, nor a TFDS name"),
    ("no/such/folder", "neither"),
  ],
)
def test_what_cannot_be_opened_is_one_short_sentence(tmp_path, name, words):
  with pytest.raises(UserError, match=words) as error:
    open_dataset(name, data_dir=tmp_path)
  message = str(error.value).replace(str(tmp_path), "DIR")
  assert "\n" not in message and len(message) < 250


def test_a_damaged_directory(tmp_path):
  (tmp_path / "dataset_info.json").write_text("{")
  with pytest.raises(UserError, match="cannot read"):
    open_dataset(str(tmp_path))
  (tmp_path / "dataset_info.json").write_bytes(encoded(np.zeros((2, 2, 3), np.uint8)))
  with pytest.raises(UserError, match="cannot read"):
    open_dataset(str(tmp_path))
