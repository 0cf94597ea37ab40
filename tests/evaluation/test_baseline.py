# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy import stats

from vit_jax.data.digits import open_digits
from vit_jax.evaluation import baseline


def test_nearest_neighbour_is_the_brute_force_one():
  digits = open_digits()
  train, test = digits.source("train"), digits.source("test")
  a, b = (s.images.reshape(len(s), -1).astype(float) for s in (train, test))
  nearest = ((b[:, None] - a[None]) ** 2).sum(-1).argmin(1)
  right = baseline.nearest_neighbour(train, test)
  assert right.mean() == pytest.approx((train.labels[nearest] == test.labels).mean())


def test_standard_error_is_that_of_the_paired_difference():
  rng = np.random.default_rng(0)
  ours, theirs = rng.random(360) < 0.9, rng.random(360) < 0.7
  result = baseline.compare(ours, theirs)
  assert result["accuracy"] == theirs.mean()
  assert result["difference"] == pytest.approx(ours.mean() - theirs.mean())
  assert result["standard_error"] == pytest.approx(stats.sem(ours * 1.0 - theirs, ddof=0))
  assert baseline.compare(ours, ours) == {
    "accuracy": ours.mean(),
    "difference": 0.0,
    "standard_error": 0.0,
  }
