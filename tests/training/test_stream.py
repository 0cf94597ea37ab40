# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import pytest

from vit_jax.training.stream import Stream


def stream(shares):
  options = dict(batch=8, shares=shares, name="data", stall_timeout=0.0)
  return Stream(lambda first: itertools.count(first), **options)


@pytest.mark.parametrize(
  "processes, shares, same", [(2, 2, True), (2, 1, False), (4, 2, False), (1, 1, False)]
)
def test_continues_at_the_same_example(monkeypatch, processes, shares, same):
  """Each process saves its iterator's state, so that it means nothing to another number of them."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  before = stream(2)
  for _ in range(3):
    next(before)
  position = before.position
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  after = stream(shares)
  assert after.continue_from(position) is same
  if not same:
    assert next(after) == 24  # Three batches of 8 were taken.
