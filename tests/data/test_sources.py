# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders and the split syntax."""

import os
import pickle
import shutil

import numpy as np
import pytest
from pictures import encoded, photo, write_folder

from vit_jax.data.datasets import open_dataset
from vit_jax.errors import UserError


def files(source):
  return [source[i]["id"] for i in range(len(source))]


def labels(source):
  return [source[i]["label"] for i in range(len(source))]


def test_split_folders_are_used_as_they_are(tmp_path):
  write_folder(tmp_path, {"train/cat": 3, "train/dog": 4, "validation/dog": 2, "test/cat": 1})
  dataset = open_dataset(str(tmp_path))
  assert dataset.splits == ("train", "val", "test")
  assert dataset.class_names == ("cat", "dog")
  train = dataset.source("train")
  assert files(train) == [f"train/cat/{k:03d}.jpg" for k in range(3)] + [
    f"train/dog/{k:03d}.jpg" for k in range(4)
  ]
  assert labels(train) == [0] * 3 + [1] * 4
  assert labels(dataset.source("val")) == labels(dataset.source("valid")) == [1, 1]
  assert train[1]["image"] == (tmp_path / "train/cat/001.jpg").read_bytes()
  assert files(pickle.loads(pickle.dumps(train))) == files(train)


def test_every_extension_nested_hidden_and_linked(tmp_path):
  image = photo(20, 30)
  kinds = {"a.JPG": "JPEG", "b.jpeg": "JPEG", "c.Png": "PNG", "d.webp": "WEBP", "e.BMP": "BMP"}
  for name, kind in kinds.items():
    path = tmp_path / "one" / "deep" / "er" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, kind))
  for name in (".hidden.jpg", "notes.txt", ".cache/x.png"):
    path = tmp_path / "one" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not to be read")
  (tmp_path / ".git").mkdir()
  elsewhere = write_folder(tmp_path.parent / "elsewhere", {"pictures": 10})
  (tmp_path / "two").symlink_to(elsewhere / "pictures")
  (tmp_path / "one" / "loop").symlink_to(tmp_path / "one")
  dataset = open_dataset(str(tmp_path))
  assert dataset.class_names == ("one", "two")
  everything = dataset.source("train+val+test")
  assert len(everything) == 15
  assert sorted(f for f in files(everything) if f.startswith("one")) == [
    f"one/deep/er/{name}" for name in sorted(kinds)
  ]


def test_bare_classes_split_80_10_10_stratified_and_repeatably(tmp_path):
  write_folder(tmp_path, {"cat": 60, "dog": 20, "emu": 5, "fox": 1})
  dataset = open_dataset(str(tmp_path))
  counts = {s: np.bincount(labels(dataset.source(s)), minlength=4).tolist() for s in dataset.splits}
  assert counts == {"train": [48, 16, 3, 1], "val": [6, 2, 1, 0], "test": [6, 2, 1, 0]}
  parts = [set(files(dataset.source(s))) for s in dataset.splits]
  assert len(set.union(*parts)) == sum(map(len, parts)) == 86
  again = open_dataset(shutil.copytree(tmp_path, tmp_path.parent / "copy"))
  for split in dataset.splits:
    assert files(again.source(split)) == files(dataset.source(split))
  cats = [f for f in files(dataset.source("val")) if f.startswith("cat")]
  assert cats != [f"cat/{k:03d}.jpg" for k in range(6)]  # Drawn, not the first ones.


def test_val_is_taken_from_train_only_if_there_is_a_test(tmp_path):
  write_folder(tmp_path / "a", {"train/x": 20, "train/y": 40, "test/x": 2})
  dataset = open_dataset(str(tmp_path / "a"))
  assert dataset.splits == ("train", "val", "test")
  assert np.bincount(labels(dataset.source("val"))).tolist() == [2, 4]
  assert np.bincount(labels(dataset.source("train"))).tolist() == [18, 36]
  assert not set(files(dataset.source("val"))) & set(files(dataset.source("train")))
  write_folder(tmp_path / "b", {"train/x": 3, "train/y": 3, "val/y": 2})
  dataset = open_dataset(str(tmp_path / "b"))
  assert dataset.splits == ("train", "val")
  with pytest.raises(UserError, match=r"no split 'test'; it has train, val\.$"):
    dataset.source("test")


def test_bare_classes_may_be_called_like_splits(tmp_path):
  write_folder(tmp_path, {"test": 3, "valid": 3, "broken": 3})
  assert open_dataset(str(tmp_path)).class_names == ("broken", "test", "valid")


@pytest.mark.parametrize(
  "spec, expected",
  [
    ("train", range(7)),
    ("train[:98%]", range(7)),  # 6.86 rounds to 7, as tfds' "closest".
    ("train[:50%]", range(4)),  # 3.5: Python rounds half to even, and so does tfds.
    ("train[50%:]", range(4, 7)),
    ("train[2:4]", range(2, 4)),
    ("train[-2:]", range(5, 7)),
    ("train[-30%:]", range(5, 7)),
    ("train[:1]+train[5:]", [0, 5, 6]),
    ("train[3:5] + val[1:]", [3, 4, 8]),
  ],
)
def test_split_syntax(tmp_path, spec, expected):
  write_folder(tmp_path, {"train/x": 3, "train/y": 4, "val/x": 2})
  dataset = open_dataset(str(tmp_path))
  everything = files(dataset.source("train")) + files(dataset.source("val"))
  assert files(dataset.source(spec)) == [everything[i] for i in expected]


def test_percentages_round_as_tfds():
  splits = pytest.importorskip("tensorflow_datasets.core.splits")
  dataset = open_dataset("digits")

  class Info:
    num_examples = 1257

  for spec in ("train[:98%]", "train[33%:67%]", "train[12.5%:-7.5%]", "train[-1%:]", "train[5:-5]"):
    part = splits.ReadInstruction.from_spec(spec).to_absolute({"train": Info})[0]
    expected = dataset.source("train").ids[part.from_ : part.to]
    assert dataset.source(spec).ids == expected, spec


@pytest.mark.parametrize(
  "spec, words",
  [
    ("tain", "it has train, val, test"),
    ("train[", "cannot read"),
    ("train[a:b]", "cannot read"),
    ("train[3]", "cannot read"),
    ("train[:1.5]", "whole number"),
    ("train[:2000]", "1257"),
    ("train[5:5]", "no example"),
    ("", "cannot read"),
    ("train+", "cannot read"),
  ],
)
def test_wrong_splits_are_one_sentence(spec, words):
  with pytest.raises(UserError, match=words) as error:
    open_dataset("digits").source(spec)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "counts, extra, words",
  [
    ({}, None, "empty"),
    ({"a": 3}, None, "only one class, 'a'"),
    ({"train/a": 3, "val/a": 1}, None, "only one class"),
    ({"a": 3, "b": 0}, None, "b has no images"),
    ({"train/a": 3, "train/b": 0}, None, "train/b has no images"),
    ({"train/a": 3, "train/b": 3, "val/c": 1}, None, "val has classes that train lacks: c"),
    ({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}, None, "both"),
    ({}, "loose.jpg", "outside of class folders"),
  ],
)
def test_wrong_folders_are_one_sentence(tmp_path, counts, extra, words):
  write_folder(tmp_path, counts)
  if extra:
    (tmp_path / extra).write_bytes(encoded(photo(), "JPEG"))
  with pytest.raises(UserError, match=words) as error:
    open_dataset(str(tmp_path))
  assert "\n" not in str(error.value)


def test_missing_folder(tmp_path):
  with pytest.raises(UserError, match="there is no directory"):
    open_dataset(str(tmp_path / "absent"))
  path = tmp_path / "file"
  path.touch()
  with pytest.raises(UserError, match="is a file"):
    open_dataset(os.fspath(path))
