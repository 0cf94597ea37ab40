# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The embedded digits, and photos of digits brought to their form."""

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from vit_jax.data import datasets, digits


@pytest.fixture(scope="module")
def dataset():
  return datasets.open_dataset("digits")


@pytest.fixture(scope="module")
def classifier(dataset):
  train = dataset.source("train")
  return KNeighborsClassifier(1).fit(train.images.reshape(len(train), -1), train.labels)


def test_splits_hold_every_digit_once(dataset):
  assert dataset.splits == ("train", "val", "test", "few")
  assert dataset.class_names == tuple("0123456789")
  parts = {s: dataset.source(s) for s in ("train", "val", "test")}  # `few` is a part of train.
  assert {s: len(p) for s, p in parts.items()} == {"train": 1257, "val": 180, "test": 360}
  ids = [i for p in parts.values() for i in p.ids]
  assert len(set(ids)) == 1797
  original = load_digits()
  for part in parts.values():
    share = np.bincount(part.labels) / len(part)
    np.testing.assert_allclose(share, np.bincount(original.target) / 1797, atol=0.004)
    for k in (0, len(part) - 1):
      record, index = part[k], int(part.ids[k].split(":")[1])
      assert record["label"] == original.target[index]
      assert record["image"].dtype == np.uint8
      np.testing.assert_allclose(
        record["image"][..., 0] / 255 * 16, original.images[index], atol=0.5 * 16 / 255
      )


def test_test_split_is_the_documented_one(dataset):
  from sklearn.model_selection import train_test_split

  original = load_digits()
  expected = train_test_split(
    np.arange(1797), test_size=360, stratify=original.target, random_state=0
  )[1]
  assert dataset.source("test").ids == [f"digits:{i}" for i in expected]


@pytest.mark.parametrize("factor", [1, 3, 16, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_enlarged_example_comes_back_exactly(dataset, factor, channels):
  for image in dataset.source("test[:40]").images:
    enlarged = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    result = digits.prepare_digit(np.repeat(enlarged, channels, axis=2))
    np.testing.assert_array_equal(result, image)


def _strokes(image: np.ndarray, side: int) -> np.ndarray:
  """Ink 0..1 [side, side]: smooth strokes whose 32x32 bitmap has exactly the image's counts."""
  values = image[..., 0].astype(np.float32)
  smooth = cv2.resize(values, (32, 32), interpolation=cv2.INTER_CUBIC)
  smooth += cv2.resize(values, (32, 32), interpolation=cv2.INTER_LINEAR)
  bitmap = np.zeros((32, 32), np.float32)
  for row, column in np.ndindex(8, 8):
    block = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    rank = np.argsort(np.argsort(-smooth[block].ravel())).reshape(4, 4)
    bitmap[block] = rank < round(values[row, column] / 255 * 16)
  ink = cv2.GaussianBlur(cv2.resize(bitmap, (side, side)), (0, 0), side / 40)
  return np.clip((ink - 0.5) * 4 + 0.5, 0, 1)


def _photo(ink: np.ndarray, rng: np.random.Generator, shade: float, noise: float) -> np.ndarray:
  """Black on a larger sheet of yellowish paper, unevenly lit and noisy: uint8 RGB."""
  margins = (rng.uniform(0.15, 1.2, 4) * len(ink)).astype(int)
  ink = cv2.GaussianBlur(np.pad(ink, (margins[:2], margins[2:])), (0, 0), 1.0)
  y, x = np.mgrid[0 : ink.shape[0], 0 : ink.shape[1]] / max(ink.shape)
  angle = rng.uniform(0, 2 * np.pi)
  light = np.cos(angle) * x + np.sin(angle) * y
  light = 1 - shade * (light - light.min()) / np.ptp(light)
  sheet = (rng.uniform(200, 245) * (1 - ink) + rng.uniform(20, 80) * ink) * light
  sheet = sheet[..., None] * [1, 0.97, 0.9] + rng.normal(0, noise, (*sheet.shape, 3))
  return np.clip(sheet, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
  "shade, noise, reverse", [(0.2, 3, False), (0.6, 12, False), (0.3, 5, True)]
)
def test_photos_of_real_digits_are_still_recognised(dataset, classifier, shade, noise, reverse):
  test = dataset.source("test[:180]")
  rng = np.random.default_rng(0)
  results = []
  for image in test.images:
    photo = _photo(_strokes(image, int(rng.uniform(60, 200))), rng, shade, noise)
    results.append(digits.prepare_digit(255 - photo if reverse else photo))
  results = np.stack(results)
  assert results.shape == (180, 8, 8, 1) and results.dtype == np.uint8
  accuracy = np.mean(classifier.predict(results.reshape(180, -1)) == test.labels)
  assert accuracy >= 0.93  # 0.983 on the originals; merely shrinking the photos loses most of it.
  shrunk = np.stack([cv2.resize(_photo(_strokes(i, 90), rng, 0.2, 3), (8, 8)) for i in test.images])
  shrunk = 255 - shrunk[..., 0].reshape(180, -1)
  assert np.mean(classifier.predict(shrunk) == test.labels) < 0.5


@pytest.mark.parametrize("digit", [0, 2, 3, 4, 5, 7])
def test_drawn_digits_are_recognised(classifier, digit):
  sheet = np.full((300, 240, 3), 235, np.uint8)
  cv2.putText(sheet, str(digit), (70, 210), cv2.FONT_HERSHEY_SIMPLEX, 5, (30, 30, 40), 14)
  result = digits.prepare_digit(sheet)
  assert classifier.predict(result.reshape(1, -1))[0] == digit


def test_the_ink_is_the_data_sets_whatever_the_pen(dataset):
  means = []
  for thickness in (6, 12, 24):
    sheet = np.full((300, 240, 3), 235, np.uint8)
    cv2.putText(sheet, "3", (60, 220), cv2.FONT_HERSHEY_SIMPLEX, 5, (30, 30, 40), thickness)
    means.append(digits.prepare_digit(sheet).mean() / 255)
  expected = dataset.source("train").images.mean() / 255
  np.testing.assert_allclose(means, expected, atol=0.05)


def test_blank_and_tiny_images_do_not_fail():
  for shape in ((1, 1), (3, 200, 3), (50, 40, 1), (8, 9, 4)):
    assert digits.prepare_digit(np.full(shape, 255, np.uint8)).shape == (8, 8, 1)


def test_few_has_ten_of_each_class_of_train(dataset):
  few, train = dataset.source("few"), dataset.source("train")
  assert np.bincount(few.labels).tolist() == [10] * 10
  assert {*few.ids} < {*train.ids} and len({*few.ids}) == 100
