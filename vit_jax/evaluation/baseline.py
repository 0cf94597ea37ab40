# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a method that learns nothing gets on the same images: a figure to read an accuracy beside.

For images in memory only, since every test image is compared with every training image.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

from vit_jax.data.sources import ArraySource


def nearest_neighbour(train: ArraySource, test: ArraySource) -> Bool[np.ndarray, " examples"]:
  """scikit-learn's 1-nearest-neighbour on the raw pixels: which examples of `test` it gets right.

  Args:
    train: images uint8 [examples, height, width, channels] with labels.
    test: the same kind of images.
  """
  from sklearn.neighbors import KNeighborsClassifier

  classifier = KNeighborsClassifier(n_neighbors=1)
  classifier.fit(_flat(train), train.labels)
  return classifier.predict(_flat(test)) == test.labels


def _flat(source: ArraySource) -> np.ndarray:
  return source.images.reshape(len(source), -1).astype(np.float32)


def compare(
  ours: Bool[np.ndarray, " examples"], theirs: Bool[np.ndarray, " examples"]
) -> dict[str, float]:
  """Compares two classifiers that answered the same questions.

  The standard error is that of a mean of paired differences: examples on which both are right, or
  both wrong, say nothing about which is better (McNemar, 1947).

  Args:
    ours: whether each example was right.
    theirs: the same examples in the same order.

  Returns:
    `accuracy` of `theirs`, `difference` (ours minus theirs) and its `standard_error`, as shares.
  """
  paired = ours.astype(np.float64) - theirs.astype(np.float64)
  return {
    "accuracy": float(theirs.mean()),
    "difference": float(paired.mean()),
    "standard_error": float(paired.std() / math.sqrt(len(paired))),
  }
