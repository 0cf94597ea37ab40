# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools
import logging
import threading
import time

import jax
import pytest

from vit_jax.training.stream import Stream


def stream(shares, stall_timeout=0.0):
  options = dict(batch=8, shares=shares, name="data", stall_timeout=stall_timeout)
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


def test_a_batch_that_does_not_come_is_told_again_and_again(caplog):
  def late():
    end = time.monotonic() + 60
    while len(caplog.records) < 2 and time.monotonic() < end:
      time.sleep(0.01)
    yield 7

  caplog.set_level(logging.WARNING)
  running = threading.enumerate()
  with stream(1, stall_timeout=0.2) as batches:
    next(batches)
    time.sleep(0.4)  # Nobody waits for a batch.
    assert not caplog.records
    batches.iterator, started = late(), time.monotonic()
    assert next(batches) == 7
  watchers = [t for t in threading.enumerate() if t not in running]
  for watcher in watchers:
    watcher.join(30)
  assert not any(watcher.is_alive() for watcher in watchers)
  # Two time-outs, though it is looked at four times as often.
  assert len(caplog.records) == 2 and time.monotonic() - started > 0.4
  assert all("reading data hangs; look at its disk" in message for message in caplog.messages)


@pytest.mark.parametrize("stall_timeout", [0.0, 30.0])
def test_a_batch_that_comes_in_time_is_not_told(stall_timeout, caplog):
  caplog.set_level(logging.WARNING)
  with stream(1, stall_timeout) as batches:
    batches.iterator = iter(lambda: time.sleep(0.3), 1)
    next(batches)
  assert not caplog.records
