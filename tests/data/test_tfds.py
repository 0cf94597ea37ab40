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

from vit_jax.data.datasets import open_dataset
from vit_jax.data.decode import BadImage
from vit_jax.data.loader import TrainLoader, eval_batches
from vit_jax.data.tfds_source import TfdsSource
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
    ("cifar10:9.9.9", r"^cifar10 has no version 9\.9\.9, only 3\.0\.2; pass one of these\.$"),
    (
      "imagenet2012:1.*.*",
      r"imagenet2012 has no version 1\.\*\.\*, only 5\.1\.0, 5\.0\.0; pass one",
    ),
    ("imagenette/160px:9.9.9", r"imagenette has no version 9\.9\.9, only 1\.0\.0"),
    ("cifar10/nope", r"^cifar10 has no configs; pass 'cifar10', or 'cifar10:VERSION'\.$"),
    ("cifar10/3.0.2", "cifar10 has no configs"),
    ("imagenette/160", r"no config '160', only full-size-v2, .*, 1 more; did you mean '160px' or"),
    ("cifar10_corrupted/x", "no config 'x', only brightness_1, .*, 90 more; pass one of these"),
  ],
)
def test_what_cannot_be_opened_is_one_short_sentence(tmp_path, name, words):
  with pytest.raises(UserError, match=words) as error:
    open_dataset(name, data_dir=tmp_path)
  message = str(error.value).replace(str(tmp_path), "DIR")
  assert "\n" not in message and len(message) < 250


def test_what_is_prepared_is_named(data_dir, tmp_path):
  for name in ("tiny_shapes:9.9.9", "tiny_shapes:2.*.*", "tiny_shapes/nope", "tiny_shapes/1.0.0"):
    with pytest.raises(
      UserError, match=r"which has tiny_shapes:1\.0\.0; pass one of these"
    ) as error:
      open_dataset(name, data_dir=data_dir)
    assert f"dataset {name!r} is not prepared in {data_dir}" in str(error.value)
  for folder in ("cifar10/3.0.1", "imagenette/160px/0.9.0"):
    shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", tmp_path / folder)
  for name in ("cifar10", "cifar10:9.9.9"):
    with pytest.raises(UserError, match=r"prepared in .*cifar10:3\.0\.1; "):
      open_dataset(name, data_dir=tmp_path)
  for name in ("imagenette", "imagenette/160px", "imagenette/nope", "imagenette:9.9.9"):
    with pytest.raises(UserError, match=r"prepared in .*imagenette/160px:0\.9\.0; "):
      open_dataset(name, data_dir=tmp_path)


def test_directories_above_a_version_are_told_from_folders_of_images(data_dir, tmp_path):
  version = tmp_path / "all" / "shapes" / "small" / "1.0.0"
  shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", version)
  shutil.copytree(version, version.with_name("1.0.0.incompleteX"))
  for path in list(version.parents)[:3]:
    with pytest.raises(UserError, match=r"no dataset_info\.json itself; pass the dir") as error:
      open_dataset(str(path))
    assert str(error.value).endswith(f"a version: {version}.")
  for minor in range(1, 8):
    shutil.copytree(version, version.with_name(f"1.{minor}.0"))
  with pytest.raises(UserError, match=r"small/1\.0\.0, .*, 3 more\.$"):
    open_dataset(str(tmp_path / "all"))
  (tmp_path / "images" / "cat").mkdir(parents=True)
  with pytest.raises(UserError, match="class folder"):
    open_dataset(str(tmp_path / "images"))


def test_hidden_labels_are_refused(tmp_path):
  version = tiny_tfds.prepare(tmp_path, hidden=7)
  dataset = open_dataset(str(version))
  dataset.source("train+val").check_labels()
  told = (
    r"split 'test' has the label -1 at test:\d, .* classes are 0 to 1; its labels are hidden, so"
  )
  for source in (dataset.source("test"), dataset.source("train+test[2:3]")):
    with pytest.raises(UserError, match=told):
      source.check_labels()
    for threads in (0, 2):
      with pytest.raises(UserError, match=told):
        list(eval_batches(source, Preprocessing(crop=4), batch_size=4, threads=threads))
      batches = TrainLoader(source, Preprocessing(crop=4), batch_size=51, seed=0, threads=threads)
      with pytest.raises(UserError, match=told):
        next(batches.iterator())


def test_a_few_records_are_looked_at():
  for bad in (0, 2, 4):
    labels = [9 if k == bad else 1 for k in range(5)]
    records = [{"image": b"", "label": label} for label in labels]
    with pytest.raises(UserError, match=rf"has the label 9 at x:{bad}, but .* 0 to 8; prepare"):
      TfdsSource(records, "x", ("image", "label"), 9).check_labels()
  records[4]["label"] = None  # A bad image, which is not looked for.
  TfdsSource(records, "x", ("image", "label"), 9).check_labels()
  for count in (0, 1, 2):
    TfdsSource(records[:count], "x", ("image", "label"), 9).check_labels()


def edited(version, tmp_path, features=(), supervised=None):
  """A copy of a version's directory with other features and supervised keys."""
  folder = shutil.copytree(version, tmp_path / "edited", dirs_exist_ok=True)
  described = json.loads((folder / "features.json").read_text())
  own = described["featuresDict"]["features"]
  own |= {name: own[like] for name, like in dict(features).items()}
  (folder / "features.json").write_text(json.dumps(described))
  info = json.loads((folder / "dataset_info.json").read_text())
  del info["supervisedKeys"]
  if supervised:
    info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in supervised]}}
  (folder / "dataset_info.json").write_text(json.dumps(info))
  for name, like in dict(features).items():
    if like == "kind":
      (folder / f"{name}.labels.txt").write_text(f"{name}-a\n{name}-b\n")
  return str(folder)


def test_one_of_several_labels_is_never_guessed(data_dir, tmp_path, caplog):
  caplog.set_level("INFO", "vit_jax")
  version = data_dir / "tiny_shapes" / "1.0.0"
  assert open_dataset(edited(version, tmp_path)).class_names == ("circle", "square")
  assert not caplog.messages
  labels = {"colour": "kind"}
  with pytest.raises(
    UserError, match=r"several features that may be the label: (\w+, )*kind"
  ) as error:
    open_dataset(edited(version, tmp_path, labels))
  assert "colour" in str(error.value) and "supervisedKeys" in str(error.value)
  with pytest.raises(UserError, match=r"may be the image: .*; tell which in its dataset_info"):
    open_dataset(edited(version, tmp_path / "b", {"mask": "picture"}))
  for chosen in ("kind", "colour"):  # As the sentence says.
    folder = edited(version, tmp_path, labels, ("picture", chosen))
    names = ("circle", "square") if chosen == "kind" else ("colour-a", "colour-b")
    assert open_dataset(folder).class_names == names
  assert not caplog.messages
  folder = edited(version, tmp_path, labels | {"label": "kind"})
  assert open_dataset(folder).class_names == ("label-a", "label-b")
  (message,) = caplog.messages
  assert message.endswith("'label' is used") and "colour" in message and "kind" in message


def test_names_of_classes(data_dir, tmp_path, caplog):
  folder = shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", tmp_path / "1.0.0")
  file = folder / "kind.labels.txt"
  for content in (b"circle\n", b"", b"circle\ncircle\n", b"a\nb\nc\n", b"a\n\xff\n"):
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"kind\.labels\.txt should have 2 different names"):
      open_dataset(str(folder))
  file.write_bytes("a\u2028b\r\nc\n".encode())
  assert open_dataset(str(folder)).class_names == ("a\u2028b", "c")
  assert not caplog.messages
  file.unlink()
  assert open_dataset(str(folder)).class_names == ("0", "1")
  (message,) = caplog.messages
  assert "no kind.labels.txt with the names of its classes, so they are called 0 to 1" in message


def test_a_damaged_directory(tmp_path):
  (tmp_path / "dataset_info.json").write_text("{")
  with pytest.raises(UserError, match="cannot read"):
    open_dataset(str(tmp_path))
  (tmp_path / "dataset_info.json").write_bytes(encoded(np.zeros((2, 2, 3), np.uint8)))
  with pytest.raises(UserError, match="cannot read"):
    open_dataset(str(tmp_path))
