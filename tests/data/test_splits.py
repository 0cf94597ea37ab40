# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which examples a run gets: the rule that draws splits, and what a config may ask for."""

import collections
import itertools
import unicodedata

import numpy as np
import pytest
from pictures import write_folder

from vit_jax.data import splits
from vit_jax.data.datasets import open_dataset
from vit_jax.data.sources import ArraySource, Dataset, Source, concatenate, split_of
from vit_jax.errors import UserError


def split_by_file(dataset):
  return {
    table.name(k): split for split, table in dataset.tables.items() for k in range(len(table))
  }


def names(count, prefix="cat"):
  return [f"{prefix}/{k:05d}.jpg" for k in range(count)]


@pytest.mark.parametrize(
  "count, expected",
  [
    *((1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (14, (12, 1, 1))),
    *((15, (12, 1, 2)), (16, (12, 2, 2)), (60, (48, 6, 6)), (1_000, (800, 100, 100))),
  ],
)
def test_a_tenth_each_and_train_comes_first(count, expected):
  parts = splits.draw(names(count), ("val", "test"))
  assert tuple(len(parts[s]) for s in ("train", "val", "test")) == expected
  assert sorted(itertools.chain(*parts.values())) == list(range(count))
  assert all(part == sorted(part) for part in parts.values())


def test_val_alone_is_a_tenth_of_train():
  for count, expected in ((1, 0), (2, 1), (20, 2), (25, 2), (40, 4)):
    parts = splits.draw(names(count), ("val",))
    assert len(parts["val"]) == expected and len(parts["train"]) == count - expected


def test_the_order_is_that_of_a_hash():
  """The rule as DESIGN states it, computed by other means."""
  import hashlib

  files = [*names(40), "cat/é.jpg"]
  order = sorted(files, key=lambda f: hashlib.sha256(f"0/{f}".encode()).hexdigest())
  parts = splits.draw(files, ("val", "test"))
  assert {files[k] for k in parts["test"]} == set(order[:4])
  assert {files[k] for k in parts["val"]} == set(order[4:8])
  decomposed = [unicodedata.normalize("NFD", f) for f in files]
  assert splits.draw(decomposed, ("val", "test")) == parts


def test_a_change_moves_at_most_one_file_over_each_border():
  """Every count up to 130, with one file removed anywhere: 8,000 changes."""
  rank = {"test": 0, "val": 1, "train": 2}
  for drawn in (("val", "test"), ("val",)):
    for count in range(2, 131):
      files = names(count)
      before = {files[k]: s for s, part in splits.draw(files, drawn).items() for k in part}
      for gone in range(0, count, max(1, count // 30)):
        rest = files[:gone] + files[gone + 1 :]
        after = {rest[k]: s for s, part in splits.draw(rest, drawn).items() for k in part}
        crossed = collections.Counter()
        for file in rest:
          low, high = sorted((rank[before[file]], rank[after[file]]))
          crossed.update(range(low, high))
        assert max(crossed.values(), default=0) <= 1, (count, gone, crossed)


def test_one_file_less_leaves_nearly_all_where_they_were(tmp_path):
  """5 classes of 1,000 files: one deleted drew 259 of 500 test images from train before."""
  sizes = dict.fromkeys("abcde", 1_000)
  for name, count in sizes.items():
    (tmp_path / name).mkdir()
    for k in range(count):
      (tmp_path / name / f"{k:04d}.jpg").touch()
  before = split_by_file(open_dataset(str(tmp_path)))
  (tmp_path / "a" / "0500.jpg").unlink()
  after = split_by_file(open_dataset(str(tmp_path)))
  moved = [f for f in after if after[f] != before[f]]
  assert len(moved) <= 2 and all(f.startswith("a/") for f in moved)
  counts = collections.Counter(before.values())
  assert counts == {"train": 4_000, "val": 500, "test": 500}
  old = split_by_file(open_dataset(str(tmp_path), rule=1))  # Runs of the past are read as then.
  (tmp_path / "a" / "0501.jpg").unlink()
  again = split_by_file(open_dataset(str(tmp_path), rule=1))
  assert sum(again[f] == "test" and old[f] == "train" for f in again) > 50


def test_captions_are_drawn_by_the_same_rule(tmp_path):
  rows = []
  for k in range(40):
    (tmp_path / f"{k:02d}.jpg").touch()
    rows.append(f"{k:02d}.jpg,text {k}\n")
  (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(rows))
  before = split_by_file(open_dataset(str(tmp_path)))
  assert collections.Counter(before.values()) == {"train": 32, "val": 4, "test": 4}
  (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(rows[1:]))
  after = split_by_file(open_dataset(str(tmp_path)))
  assert sum(after[f] != before[f] for f in after) <= 2


@pytest.mark.parametrize(
  "folders, expected",
  [
    (("training", "testing"), {"train", "val", "test"}),
    (("Train", "DEV", "Eval"), {"train", "val", "test"}),
    (("TRAIN", "Validation"), {"train", "val"}),
    (("training", "evaluation"), {"train", "val", "test"}),
  ],
)
def test_usual_names_of_splits_in_any_letter_case(tmp_path, folders, expected):
  write_folder(tmp_path, {f"{folder}/{name}": 4 for folder in folders for name in "xy"})
  dataset = open_dataset(str(tmp_path))
  assert set(dataset.splits) == expected and dataset.class_names == ("x", "y")
  assert dataset.drawn == (("val",) if "test" in expected and len(folders) == 2 else ())
  assert len(dataset.source("Training")) == len(dataset.tables["train"])
  assert split_of("cats") is None


@pytest.mark.parametrize(
  "counts, words",
  [
    ({"train/x": 1, "train/y": 1, "test/x": 1, "Eval/x": 1}, "both 'Eval' and 'test' as test"),
    ({"a/cat": 2, "a/dog": 2, "b/cat": 2, "b/dog": 2}, "a, b of .* same names .cat, dog.*splits"),
    ({"fold1/1": 1, "fold1/2": 1, "fold2/1": 1, "fold2/2": 1, "fold2/3": 1}, "same names"),
    ({"images/cat": 2, "images/dog": 2}, r"only one class, 'images', .*pass .*/images\.$"),
  ],
)
def test_folders_that_are_splits_by_another_name(tmp_path, counts, words):
  write_folder(tmp_path, counts)
  with pytest.raises(UserError, match=words) as error:
    open_dataset(str(tmp_path))
  assert "\n" not in str(error.value)


def test_nested_classes_are_no_splits(tmp_path):
  """Tiny ImageNet keeps the images of each class in a folder `images`."""
  write_folder(tmp_path, {"n01/images": 3, "n02/images": 3})
  assert open_dataset(str(tmp_path)).class_names == ("n01", "n02")


def test_what_a_split_lacks_is_told_in_one_line(tmp_path, caplog):
  write_folder(tmp_path, {"train/x": 2, "train/y": 2, "val/x": 1, "test": 0})
  dataset = open_dataset(str(tmp_path))
  assert dataset.splits == ("train", "val")
  [line] = [m for m in caplog.messages if "val has" in m]
  assert line == f"{tmp_path}: val has no image of 1 of the 2 classes (y); test is empty"


def test_what_lies_outside_of_classes_is_counted(tmp_path, caplog):
  write_folder(tmp_path, {"x": 3, "y": 3})
  for name in ("x/a.heic", "x/b.HEIC", "y/notes.txt", "loose.jpg"):
    (tmp_path / name).write_bytes(b"\xff\xd8\xff")
  assert len(open_dataset(str(tmp_path)).source("train+val+test")) == 6
  assert (
    f"{tmp_path}: left out 1 images outside of class folders and 2 .heic, 1 .txt (no images that "
    "are read)"
  ) in caplog.messages
  for k in range(2):
    (tmp_path / "z").mkdir(exist_ok=True)
    (tmp_path / "z" / f"{k}.heic").touch()
  with pytest.raises(UserError, match=r"z has no images; it holds 2 \.heic; add some"):
    open_dataset(str(tmp_path))


class Numbers(Source):
  """Records of a native split, as TFDS has them; labels may be hidden."""

  def __init__(self, split, count, label=0):
    self.split, self.count, self.label = split, count, label

  def __len__(self):
    return self.count

  def name(self, index):
    return f"{self.split}:{index}"

  def check_labels(self):
    if self.label < 0:
      raise UserError(f"split {self.split!r} has hidden labels")


def chosen(asked, tables=("train", "test"), hidden=()):
  tables = {name: Numbers(name, 100, -1 if name in hidden else 0) for name in tables}
  found = splits.choose(Dataset("pets", ("a", "b"), tables), asked)
  assert not set.intersection(
    {found.sources["train"].name(k) for k in range(len(found.sources["train"]))},
    {s.name(k) for n, s in found.sources.items() if n != "train" for k in range(len(s))},
  )
  return found.specs, {split: len(source) for split, source in found.sources.items()}


def test_a_split_that_no_one_names_is_the_data_sets_own():
  """The ancestor's command on pets named train alone, and lost its test."""
  specs, counts = chosen({"train": "train[:90%]"})
  assert specs == {"train": "train[:90%]", "val": None, "test": "test"}
  assert counts == {"train": 90, "test": 100}
  specs, counts = chosen({"train": "train[:90%]", "val": "train[90%:]"})
  assert counts == {"train": 90, "val": 10, "test": 100}
  assert chosen({}, ("train", "val", "test"))[1] == {"train": 100, "val": 100, "test": 100}
  assert chosen({"val": splits.NONE, "test": ""}, ("train", "val", "test"))[1] == {"train": 100}


@pytest.mark.parametrize(
  "asked, train",
  [
    ({"val": "train[90%:]"}, 90),
    ({"train": "train", "val": "train[90%:]"}, 90),
    ({"val": "train[90%:]", "test": "train[:20%]"}, 70),
    ({"val": "train[:5]+train[10:15]"}, 90),
    ({"train": "train+test", "val": "test[50%:]", "test": ""}, 150),
    ({"val": "Training[90%:]"}, 90),
  ],
)
def test_a_slice_of_train_is_taken_out_of_it(asked, train):
  assert chosen(asked)[1]["train"] == train


@pytest.mark.parametrize(
  "asked",
  [
    {"test": "train+test"},
    {"val": "train"},
    {"train": "train[:90%]", "val": "train[80%:]"},
    {"train": "train+test"},
    {"train": "train[50%:]+test", "val": "train[:60%]", "test": ""},
    {"val": "train[:100%]"},
  ],
)
def test_any_other_overlap_with_train_is_refused(asked):
  with pytest.raises(UserError, match=r"also in config\.pp\.train=.*judged on what it has learned"):
    chosen(asked)


def test_a_split_of_another_name_with_the_same_images_overlaps():
  with pytest.raises(UserError, match=r"100 images of config\.pp\.val='few'"):
    splits.choose(open_dataset("digits"), {"train": "train", "val": "few"})


def test_a_test_that_val_has_chosen_on_is_told(caplog):
  chosen({"val": "test", "test": "test"})
  assert any("100 images of test are also in val" in message for message in caplog.messages)


def test_hidden_labels_are_not_evaluated_unless_asked_for(caplog):
  specs, _ = chosen({}, ("train", "val", "test"), hidden=("test",))
  assert specs["test"] is None
  assert caplog.messages == ["pets: test is not evaluated: split 'test' has hidden labels"]
  with pytest.raises(UserError, match="hidden labels"):
    chosen({"test": "test"}, hidden=("test",))
  with pytest.raises(UserError, match="hidden labels"):
    chosen({}, hidden=("train",))
  with pytest.raises(UserError, match="hidden labels"):
    chosen({"test": "test[:50%]"}, hidden=("test",))


def test_sums_of_splits_keep_their_keys_and_can_be_taken_from():
  table = open_dataset("digits").tables["train"]
  both = concatenate([Numbers("a", 3), Numbers("b", 2)])
  assert len(set(both.keys().tolist())) == 5
  rest = both.select(np.array([4, 0]))
  assert [rest.name(k) for k in range(2)] == ["b:1", "a:0"]
  assert rest.keys().tolist() == both.keys()[[4, 0]].tolist()
  assert isinstance(table.select(np.array([1])), ArraySource)


def test_an_example_that_is_named_twice_is_refused():
  for asked in ({"train": "train+train[:50%]"}, {"train": "train", "test": "test+test"}):
    with pytest.raises(UserError, match="twice; name each part once"):
      splits.choose(open_dataset("digits"), asked)


def test_a_slice_that_loses_classes_says_so(tmp_path, caplog):
  write_folder(tmp_path, {f"train/{name}": 10 for name in "abcde"})
  splits.choose(open_dataset(str(tmp_path)), {"val": "train[80%:]"})
  [line] = [m for m in caplog.messages if "has no image" in m]
  assert "train has no image of 1 of the 5 classes (e)" in line
  assert "val has no image of 4 of the 5 classes (a, b, c, d)" in line


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_that_is_empty_is_not_this_directory(name):
  with pytest.raises(UserError, match="the name of the data set is empty"):
    open_dataset(name)


def test_names_of_any_bytes_and_of_either_unicode_form(tmp_path):
  write_folder(tmp_path, {"train/caf\u00e9": 3, "train/b": 3, "test/cafe\u0301": 2, "test/b": 2})
  odd = bytes(tmp_path / "train" / "b") + b"/caf\xe9.jpg"
  with open(odd, "wb") as file:
    file.write(b"x")
  dataset = open_dataset(str(tmp_path))
  assert dataset.class_names == ("b", "caf\u00e9")
  everything = concatenate([*dataset.tables.values()])
  assert len(np.unique(everything.keys())) == len(everything) == 11


def test_two_names_of_one_folder_are_refused(tmp_path):
  write_folder(tmp_path / "splits", {"train/x": 3, "train/y": 3})
  (tmp_path / "splits" / "test").symlink_to(tmp_path / "splits" / "train")
  write_folder(tmp_path / "classes", {"x": 3, "y": 3})
  (tmp_path / "classes" / "z").symlink_to(tmp_path / "classes" / "x")
  for name in ("splits", "classes"):
    with pytest.raises(UserError, match="are one folder; remove the link"):
      open_dataset(str(tmp_path / name))


def test_a_class_called_train_is_no_split(tmp_path):
  write_folder(tmp_path, {"bus": 3, "car": 3, "train": 3})
  with pytest.raises(UserError, match="if it is a class, rename it"):
    open_dataset(str(tmp_path))


def test_splits_without_classes_are_refused(tmp_path):
  write_folder(tmp_path, {"val": 3, "test": 3})
  with pytest.raises(UserError, match="val has no class folders with images"):
    open_dataset(str(tmp_path))
