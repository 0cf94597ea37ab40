# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import pytest

from vit_jax.training.stream import Stream


def stream(shares):
  return Stream(lambda first: itertools.count(first), batch=8, shares=shares)


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


def test_what_was_left_out_once_stays_left_out(monkeypatch):
  """The iterator's saved state counts from where the stream was opened."""
  position = {"processes": 2, "shares": 1, "first": 0, "taken": 3}
  after = stream(1)
  assert not after.continue_from(position)
  for _ in range(2):
    next(after)
  assert after.position == {"processes": 1, "shares": 1, "first": 24, "taken": 5}
  again = stream(1)
  assert again.continue_from(after.position)
  assert next(again) == 24  # Where the state that is restored next begins to count.
  assert again.position == after.position | {"taken": 6}
