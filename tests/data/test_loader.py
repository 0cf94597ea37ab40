# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Loaders: order, exact restoring, complete evaluation, bad images."""

import json
import logging
import re

import cv2
import numpy as np
import pytest
from pictures import encoded, photo, write_folder

from vit_jax.data import loader as loader_lib
from vit_jax.data.datasets import open_dataset
from vit_jax.data.loader import TrainLoader, eval_batches
from vit_jax.data.sources import ArraySource, Source
from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError

SMALL = Preprocessing(crop=16)
PLAIN = Preprocessing(crop=16, train_crop="none", flip=False)
DIGITS = Preprocessing(
  crop=8, channels=1, mean=0.5, std=0.5, flip=False, train_crop="none", eval_resize="digit",
  random_affine=dict(degrees=10, translate=0.1, scale=(0.9, 1.1)),
)  # fmt: skip


RANDOM = Preprocessing(
  crop=16, min_area=0.2, random_affine=dict(degrees=10, translate=0.1, scale=(0.9, 1.1))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("photos")
  write_folder(path, {"train/cat": 12, "train/dog": 11, "val/cat": 2})
  return open_dataset(str(path)).source("train")


def numbered(count: int) -> ArraySource:
  """Images that each show their own number."""
  images = np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None], (1, 16, 16, 3))
  return ArraySource(images, np.arange(count), [str(k) for k in range(count)])


def textured(count: int) -> ArraySource:
  """Images in which every crop looks different."""
  image = photo(24, 32 + count)
  images = np.stack([image[:, k : k + 32] for k in range(count)])
  return ArraySource(images, np.arange(count), [str(k) for k in range(count)])


class Encoded(Source):
  """Records of PNG bytes, so that the threaded way is taken."""

  def __init__(self, images):
    self.files = [encoded(i) for i in images]

  def __len__(self):
    return len(self.files)

  def __getitem__(self, index):
    return {"image": self.files[index], "label": index, "id": str(index)}

  def name(self, index):
    return str(index)


def sources():
  return {"in memory": numbered(23), "encoded": Encoded(numbered(23).images)}


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    np.testing.assert_array_equal(a["image"], b["image"])
    np.testing.assert_array_equal(a["label"], b["label"])


@pytest.mark.parametrize("kind", ["in memory", "encoded"])
def test_every_epoch_is_another_permutation(kind):
  loader = TrainLoader(sources()[kind], PLAIN, batch_size=5, seed=3)
  batches = take(loader.iterator(), 23)
  assert batches[0]["image"].shape == (5, 16, 16, 3) and batches[0]["image"].dtype == np.uint8
  assert batches[0]["label"].shape == (5,) and batches[0]["label"].dtype == np.int32
  labels = np.concatenate([b["label"] for b in batches]).reshape(5, 23)
  np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches])[:, 3, 4, 1],
                                labels.ravel())  # fmt: skip
  for epoch in labels:
    assert sorted(epoch) == list(range(23))
    assert list(epoch) != list(range(23))
  assert len({tuple(e) for e in labels}) == 5
  other = take(TrainLoader(sources()[kind], PLAIN, batch_size=5, seed=4).iterator(), 5)
  assert [b["label"].tolist() for b in other] != [b["label"].tolist() for b in batches[:5]]


def test_both_ways_have_the_same_order():
  orders = [
    [b["label"].tolist() for b in take(TrainLoader(s, PLAIN, batch_size=4, seed=0).iterator(), 9)]
    for s in sources().values()
  ]
  assert orders[0] == orders[1]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_do_not_depend_on_threads_or_prefetching(folder, threads):
  expected = take(TrainLoader(folder, SMALL, batch_size=4, seed=1).iterator(), 15)
  loader = TrainLoader(folder, SMALL, batch_size=4, seed=1, threads=threads, prefetch=7)
  assert_same(take(loader.iterator(), 15), expected)
  assert len({b["image"].tobytes() for b in expected}) == 15


@pytest.mark.parametrize("kind", ["digits", "folder"])
@pytest.mark.parametrize("position", [0, 1, 7, 13])
def test_a_restored_iterator_continues_bit_identically(folder, kind, position):
  source, pp = (folder, SMALL) if kind == "folder" else (
    open_dataset("digits").source("train[:40]"), DIGITS
  )  # fmt: skip

  def loader():
    return TrainLoader(source, pp, batch_size=6, seed=5)

  first = loader().iterator()
  take(first, position)
  state = json.loads(json.dumps(first.get_state()))  # As a checkpoint stores it.
  expected = take(first, 12)
  fresh = loader().iterator()
  fresh.set_state(state)
  assert_same(take(fresh, 12), expected)
  used = loader().iterator()
  take(used, 3)  # With a full buffer of what comes next.
  used.set_state(state)
  assert_same(take(used, 12), expected)
  if position:
    assert not np.array_equal(take(loader().iterator(), 1)[0]["image"], expected[0]["image"])


def test_the_state_goes_through_an_orbax_checkpoint(folder, tmp_path):
  import grain
  import orbax.checkpoint as ocp

  iterator = TrainLoader(folder, SMALL, batch_size=3, seed=0).iterator()
  take(iterator, 5)
  with ocp.CheckpointManager(tmp_path) as manager:
    manager.save(5, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
    expected = take(iterator, 4)
    fresh = TrainLoader(folder, SMALL, batch_size=3, seed=0).iterator()
    manager.restore(5, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
  assert_same(take(fresh, 4), expected)


@pytest.mark.parametrize("kind", ["digits", "folder"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_processes_goes_on_at_the_same_example(folder, kind, count):
  """What one process would see in steps 3 and 4, `count` processes that begin there see too."""
  source, pp = (folder, SMALL) if kind == "folder" else (
    open_dataset("digits").source("train[:40]"), PLAIN
  )  # fmt: skip
  expected = take(TrainLoader(source, pp, batch_size=6, seed=5).iterator(), 4)[2:]
  shares = [
    TrainLoader(
      source, pp, batch_size=6 // count, seed=5, shard_index=k, shard_count=count, first=12
    ).iterator()
    for k in range(count)
  ]
  for batch in expected:
    parts = [next(share) for share in shares]
    images = np.concatenate([part["image"] for part in parts])
    found = {
      (image.tobytes(), label)
      for part in parts
      for image, label in zip(part["image"], part["label"], strict=True)
    }
    assert len(images) == 6
    assert found == {(i.tobytes(), k) for i, k in zip(batch["image"], batch["label"], strict=True)}


@pytest.mark.parametrize("kind", ["in memory", "encoded"])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("first", [0, 16])
def test_processes_together_augment_as_one_does(kind, count, first):
  """Example by example: the share of process k are the examples k, k + count, ... of a batch."""
  source = textured(23) if kind == "in memory" else Encoded(textured(23).images)
  options = dict(seed=5, first=first)
  whole = take(TrainLoader(source, RANDOM, batch_size=8, **options).iterator(), 6)
  shares = [
    TrainLoader(
      source, RANDOM, batch_size=8 // count, shard_index=k, shard_count=count, **options
    ).iterator()
    for k in range(count)
  ]
  for batch in whole:
    parts = [next(share) for share in shares]
    mixed = {key: np.stack([p[key] for p in parts], 1).reshape(batch[key].shape) for key in batch}
    assert_same([mixed], [batch])
  images = np.concatenate([batch["image"] for batch in whole])
  assert len({image.tobytes() for image in images}) == 48  # Two epochs, and all are augmented.


def test_images_in_memory_are_augmented_as_files_are():
  memory, files = (
    take(TrainLoader(source, RANDOM, batch_size=size, seed=5, first=8).iterator(), 40 // size)
    for source, size in ((textured(23), 8), (Encoded(textured(23).images), 5))
  )
  assert_same(*([{k: np.concatenate([b[k] for b in bs]) for k in bs[0]}] for bs in (memory, files)))


@pytest.mark.parametrize("kind", ["in memory", "encoded"])
def test_augmentation_depends_on_the_seed_and_the_position(kind):
  """Of a single example, so that its order cannot hide how it is augmented."""
  source = textured(1) if kind == "in memory" else Encoded(textured(1).images)
  images = [
    np.concatenate([
      batch["image"]
      for batch in take(TrainLoader(source, RANDOM, batch_size=4, seed=seed).iterator(), 5)
    ])
    for seed in (0, 1, 2**40, 0)
  ]  # fmt: skip
  np.testing.assert_array_equal(images[0], images[3])
  assert len({image.tobytes() for image in np.concatenate(images[:3])}) == 60


def test_a_batch_may_be_larger_than_the_data():
  for source in sources().values():
    batch = next(TrainLoader(source, PLAIN, batch_size=60, seed=0).iterator())
    counts = np.bincount(batch["label"], minlength=23)
    assert counts.sum() == 60 and counts.min() == 2 and counts.max() == 3


@pytest.mark.parametrize("kind", ["in memory", "encoded"])
def test_shards_share_every_epoch(kind):
  source = sources()[kind]
  parts = [
    take(
      TrainLoader(source, PLAIN, batch_size=2, seed=0, shard_index=k, shard_count=2).iterator(), 23
    )
    for k in range(2)
  ]
  whole = take(TrainLoader(source, PLAIN, batch_size=4, seed=0).iterator(), 23)
  for a, b, both in zip(*parts, whole, strict=True):
    mixed = np.stack([a["label"], b["label"]], axis=1).ravel()
    np.testing.assert_array_equal(mixed, both["label"])


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_evaluation_covers_every_example_once_in_order(batch_size, threads):
  for source in sources().values():
    batches = eval_batches(source, PLAIN, batch_size=batch_size, threads=threads)
    for _ in range(2):  # It can be iterated again.
      seen = []
      for batch in batches:
        assert batch["image"].shape == (batch_size, 16, 16, 3)
        assert batch["mask"].dtype == np.float32
        real = batch["mask"] == 1
        assert set(batch["mask"].tolist()) <= {0, 1} and real.any()
        assert not batch["image"][~real].any()
        np.testing.assert_array_equal(batch["image"][real][:, 0, 0, 0], batch["label"][real])
        seen += batch["label"][real].tolist()
      assert seen == list(range(23))


def test_evaluation_shards_have_as_many_batches():
  batches = [
    list(eval_batches(numbered(9), PLAIN, batch_size=2, shard_index=k, shard_count=4))
    for k in range(4)
  ]
  assert [len(b) for b in batches] == [2] * 4
  seen = np.concatenate([b["label"][b["mask"] == 1] for part in batches for b in part])
  assert sorted(seen) == list(range(9))


@pytest.fixture
def damaged(tmp_path):
  write_folder(tmp_path, {"train/cat": 30, "train/dog": 30, "val/cat": 1, "val/dog": 1})
  (tmp_path / "train/cat/003.jpg").write_bytes(encoded(photo(), "JPEG")[:3000])
  (tmp_path / "train/cat/007.jpg").write_bytes(b"")
  (tmp_path / "train/dog/005.jpg").write_text("no image")
  (tmp_path / "train/dog/006.jpg").write_bytes(encoded(photo(), "PNG"))  # Fine, oddly named.
  source = open_dataset(str(tmp_path)).source("train")
  (tmp_path / "train/dog/009.jpg").unlink()  # Gone after the folder was listed.
  return source


BAD = {"train/cat/003.jpg", "train/cat/007.jpg", "train/dog/005.jpg", "train/dog/009.jpg"}


@pytest.mark.parametrize("threads", [0, 4])
def test_bad_images_are_skipped_counted_and_named_once(damaged, threads, caplog):
  loader = TrainLoader(damaged, SMALL, batch_size=8, seed=0, threads=threads, max_bad_fraction=0.1)
  with caplog.at_level(logging.WARNING):
    batches = take(loader.iterator(), 7 * 4)  # Four epochs of the 56 good ones.
  assert set(loader.bad_images) == BAD and len(loader.bad_images) == 4
  for name in BAD:
    assert sum(name in r.getMessage() for r in caplog.records) == 1
  counts = np.bincount(np.concatenate([b["label"] for b in batches]))
  assert counts.tolist() == [4 * 28, 4 * 28]


def test_restoring_with_bad_images_is_exact_too(damaged):
  def loader():
    return TrainLoader(damaged, SMALL, batch_size=8, seed=0, max_bad_fraction=0.1)

  first = loader().iterator()
  take(first, 5)
  state = first.get_state()
  expected = take(first, 10)
  fresh = loader().iterator()
  fresh.set_state(state)
  assert_same(take(fresh, 10), expected)


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_too_many_bad_images_stop_with_a_sentence(damaged, threads, stage):
  options = dict(batch_size=8, threads=threads, max_bad_fraction=0.05)
  if stage == "training":
    batches = TrainLoader(damaged, SMALL, seed=0, **options)
  else:
    batches = eval_batches(damaged, SMALL, **options)
  with pytest.raises(UserError, match=r"^4 of 60 images cannot be read, .*max_bad_fraction") as e:
    for _, _batch in zip(range(50), batches, strict=False):
      pass
  assert "\n" not in str(e.value) and any(name in str(e.value) for name in BAD)


def test_evaluation_leaves_bad_images_out(damaged):
  batches = eval_batches(damaged, SMALL, batch_size=50, max_bad_fraction=0.1)
  results = list(batches)
  assert [b["mask"].sum() for b in results] == [50, 6]
  assert set(batches.bad_images) == BAD


def test_one_bad_image_never_stops_a_small_run_unless_asked(tmp_path):
  write_folder(tmp_path, {"train/cat": 4, "train/dog": 4})
  (tmp_path / "train/cat/000.jpg").write_text("no image")
  source = open_dataset(str(tmp_path)).source("train")
  take(TrainLoader(source, SMALL, batch_size=4, seed=0).iterator(), 6)
  with pytest.raises(UserError, match="1 of 8"):
    take(TrainLoader(source, SMALL, batch_size=4, seed=0, max_bad_fraction=0).iterator(), 6)


@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_each_of_several_processes_counts_against_its_part(tmp_path, stage):
  """Otherwise none of many would ever see enough bad images of a split."""
  write_folder(tmp_path, {"train/cat": 20, "train/dog": 20})
  source = open_dataset(str(tmp_path)).source("train")
  for name in ("000", "004", "008"):
    (tmp_path / f"train/cat/{name}.jpg").write_text("no image")
  options = dict(batch_size=2, max_bad_fraction=0.1, shard_count=4)
  assert len(source) == 40  # 4 may be bad of all, 1 of the 10 that a process reads.
  with pytest.raises(UserError, match=r"^\d of 1\d images cannot be read"):
    for shard in range(4):  # In evaluation the three are in one part.
      if stage == "training":
        take(TrainLoader(source, SMALL, seed=0, shard_index=shard, **options).iterator(), 6)
      else:
        list(eval_batches(source, SMALL, shard_index=shard, **options))


def test_evaluating_again_does_not_loosen_the_limit(tmp_path):
  write_folder(tmp_path, {"train/cat": 20, "train/dog": 20})
  source = open_dataset(str(tmp_path)).source("train")
  batches = eval_batches(source, SMALL, batch_size=5, max_bad_fraction=0.1, shard_count=4)
  for _ in range(4):
    list(batches)
  for name in ("000", "004"):
    (tmp_path / f"train/cat/{name}.jpg").write_text("no image")
  with pytest.raises(UserError, match=r"^2 of 10 images cannot be read"):
    list(batches)


def test_nothing_but_bad_images_ends(tmp_path):
  write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
  for name in ("cat", "dog"):
    (tmp_path / f"train/{name}/000.jpg").write_text("no image")
  source = open_dataset(str(tmp_path)).source("train")
  with pytest.raises(UserError, match="2 of 2"):
    next(TrainLoader(source, SMALL, batch_size=4, seed=0, max_bad_fraction=1.0).iterator())


def test_our_own_errors_are_not_taken_for_bad_images():
  class Broken(Encoded):
    def __getitem__(self, index):
      raise KeyError("a bug")

  source = Broken(numbered(9).images)
  for threads in (0, 4):
    with pytest.raises(KeyError, match="a bug") as error:
      next(TrainLoader(source, SMALL, batch_size=2, seed=0, threads=threads).iterator())
    assert re.search(r"with the image \w+", error.value.__notes__[0])


@pytest.mark.parametrize("error", [UserError("a mistake"), MemoryError(), cv2.error("a bug")])
def test_whatever_a_worker_raises_names_the_image(error, monkeypatch):
  def fails(*_):
    raise error

  monkeypatch.setattr(loader_lib, "eval_transform", lambda spec: fails)
  for source in (Encoded(numbered(3).images), numbered(3)):
    with pytest.raises(type(error)) as found:
      list(eval_batches(source, SMALL, batch_size=2))
    told = [str(found.value), *getattr(found.value, "__notes__", ())]
    assert any(source.name(0) in words for words in told)


def test_wrong_batch_sizes():
  with pytest.raises(UserError, match="batch=0"):
    TrainLoader(numbered(3), PLAIN, batch_size=0, seed=0)
  with pytest.raises(UserError, match="batch_eval=0"):
    eval_batches(numbered(3), PLAIN, batch_size=0)
