# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's handwritten digits: 1,797 real images that need no download.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak, 1998): 32x32 bitmaps whose 4x4 blocks were counted, which gives 8x8 images of 0..16. The
bitmaps had been normalised by NIST's programs: the digit fills the height, and strokes are
thickened or thinned to a common amount of ink.
"""

from __future__ import annotations

import cv2
import numpy as np

from vit_jax.data.decode import to_channels
from vit_jax.data.sources import ArraySource, Dataset

CLASS_NAMES = tuple("0123456789")

_BITMAP = 32  # Side of the bitmaps that the data set was counted from.
_STRETCH = 1.2  # Narrow digits are widened up to this, but not beyond
_WIDEST = 23  # so many pixels of the bitmap: three quarters of the data set are within 22.
_INK = 0.305  # Mean share of the bitmap that is ink: 4.88 of 16,
_TOLERANCE = 0.03  # give or take less than its standard deviation of 0.034.


def open_digits() -> Dataset:
  """The digits as uint8 [8, 8, 1] (0..16 scaled to 0..255): 1,257 train, 180 val, 360 test.

  The splits are stratified with a fixed seed, so a number here can be compared with any other
  that states the same split. `few` has the first 10 of each class of `train`.
  """
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  data = load_digits()
  images = np.round(data.images[..., None] * (255 / 16)).astype(np.uint8)
  labels = data.target.astype(np.int32)
  rest, test = train_test_split(
    np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
  )
  train, val = train_test_split(rest, test_size=180, stratify=labels[rest], random_state=0)
  whole = ArraySource(images, labels, [f"digits:{i}" for i in range(len(labels))])
  few = np.sort(np.concatenate([train[labels[train] == c][:10] for c in range(10)]))
  splits = {"train": train, "val": val, "test": test, "few": few}
  tables = {name: whole.select(indices) for name, indices in splits.items()}
  return Dataset(name="digits", class_names=CLASS_NAMES, tables=tables)


def prepare_digit(image: np.ndarray) -> np.ndarray:
  """Brings a picture of one digit to the data set's form.

  An 8x8 image, and one of a bright digit on black that reaches from the top to the bottom as the
  data set's do, is only averaged down to 8x8: an enlarged example comes back as it was. Anything
  else is taken as a photo, of dark ink on bright paper or the reverse: light is evened out, the
  ink found (Otsu's threshold), cropped and normalised as the data set was.

  Args:
    image: uint8 [height, width] or [height, width, channels], of any size.

  Returns:
    uint8 [8, 8, 1], bright on dark.
  """
  grey = to_channels(image, 1)[..., 0]
  if grey.shape == (8, 8):
    return grey[..., None]
  scale = 256 / max(grey.shape)
  size = [max(8, round(s * scale)) for s in grey.shape]
  method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
  photo = cv2.resize(grey, size[::-1], interpolation=method)
  difference = photo - _paper(photo)
  bright_on_dark = np.quantile(difference, 0.999) > -np.quantile(difference, 0.001)
  if bright_on_dark and _fills_height(photo):
    return cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA)[..., None]
  return _normalize(_find_ink(255 - photo if bright_on_dark else photo))


def _paper(grey: np.ndarray) -> np.ndarray:
  """The background as a plane through the border's pixels, without those that do not fit it."""
  height, width = grey.shape
  y, x = np.mgrid[0:height, 0:width]
  border = np.zeros(grey.shape, bool)
  border[[0, -1]] = border[:, [0, -1]] = True
  design = np.stack([np.ones(grey.size), y.ravel() / height, x.ravel() / width], axis=1)
  rows, values = design[border.ravel()], grey[border].astype(float)
  keep = np.abs(values - np.median(values)) <= 2 * np.abs(values - np.median(values)).mean()
  for _ in range(3):
    plane = np.linalg.lstsq(rows[keep], values[keep], rcond=None)[0]
    error = np.abs(values - rows @ plane)
    keep = error <= 2 * error[keep].mean() + 1
  return (design @ plane).reshape(grey.shape)


def _fills_height(grey: np.ndarray) -> bool:
  """Whether a bright digit on black reaches the top and the bottom, as all in the data set do."""
  rows = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).max(axis=1)
  columns = np.median(grey[:, [0, -1]])
  return bool(columns < 32 and rows.min() > 0 and min(rows[0], rows[-1]) > 48)


def _find_ink(grey: np.ndarray) -> np.ndarray:
  """The dark strokes of a photo, cropped: bool [height, width]."""
  grey = cv2.GaussianBlur(cv2.medianBlur(grey, 3), (0, 0), 1.0)
  # Closing fills what is narrower than its kernel, so it leaves the paper under the strokes.
  side = max(3, min(grey.shape) // 3) | 1
  kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
  paper = cv2.blur(cv2.morphologyEx(grey, cv2.MORPH_CLOSE, kernel), (side, side))
  # Divided, because light multiplies what paper and ink reflect.
  darkness = 255 - np.clip(255.0 * grey / np.maximum(paper, 1), 0, 255).astype(np.uint8)
  _, ink = cv2.threshold(darkness, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
  return _crop(_without_specks(ink))


def _without_specks(ink: np.ndarray) -> np.ndarray:
  """Keeps the largest stroke and those not much smaller; drops what hangs on the photo's edge."""
  count, parts, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
  if count == 1:
    return ink.astype(bool)
  areas = stats[:, cv2.CC_STAT_AREA].copy()
  areas[0] = 0
  edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
  inner = areas.copy()
  inner[edge] = 0
  if inner.max() > max(0.05 * areas.max(), 0.001 * ink.size):
    areas = inner
  return np.isin(parts, np.flatnonzero(areas >= 0.08 * areas.max()))


def _crop(ink: np.ndarray) -> np.ndarray:
  rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
  if not len(rows):
    return ink
  return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _normalize(ink: np.ndarray) -> np.ndarray:
  """Ink, bool [height, width], to the data set's 8x8 counts: NIST's size and stroke width."""
  if not ink.any():
    return np.zeros((8, 8, 1), np.uint8)
  best, least = None, np.inf
  for grow in sorted(np.arange(-1.5, 4.1, 0.25), key=abs):  # As little as will do.
    bitmap = _bitmap(ink, grow)
    miss = abs(bitmap.mean() - _INK)
    if miss < least:
      best, least = bitmap, miss
    if miss <= _TOLERANCE:
      break
  cell = len(best) // 8
  share = best.reshape(8, cell, 8, cell).mean(axis=(1, 3))
  return np.round(np.round(share * 16) * (255 / 16)).astype(np.uint8)[..., None]


def _bitmap(ink: np.ndarray, grow: float) -> np.ndarray:
  """The ink as high as the page, with strokes wider by `grow` pixels of the 32 at each edge."""
  fine = 4  # Each of the 32x32 pixels is drawn as 4x4.
  grow = grow * fine
  side, margin = _BITMAP * fine, 4 * fine
  height = side - 2 * grow
  width = min(_STRETCH * ink.shape[1] * height / ink.shape[0], _WIDEST * fine - 2 * grow)
  size = max(1, round(width)), max(1, round(height))
  method = cv2.INTER_AREA if size[1] < ink.shape[0] else cv2.INTER_LINEAR
  page = np.zeros((side + 2 * margin,) * 2, np.uint8)
  top, left = (len(page) - size[1]) // 2, (len(page) - size[0]) // 2
  resized = cv2.resize(ink.astype(np.float32), size, interpolation=method)
  page[top : top + size[1], left : left + size[0]] = resized >= 0.5
  if grow > 0:
    page = cv2.distanceTransform(1 - page, cv2.DIST_L2, 5) <= grow
  elif grow < 0:
    page = cv2.distanceTransform(page, cv2.DIST_L2, 5) > -grow
  return page[margin:-margin, margin:-margin]
