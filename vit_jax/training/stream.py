# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training batches of this process, and where they stand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax

log = logging.getLogger(__name__)


class Stream:
  """Batches in order, from the beginning or from where a checkpoint stands.

  A checkpoint holds the position of each process's iterator. With another number of processes those
  mean nothing; then all go on at the example at which the whole stream stood. With unreadable
  images, which each process steps over by itself, a few may come again or be left out.

  Attributes:
    iterator: Grain's, whose state is saved.
  """

  def __init__(self, open_at: Callable[[int], Any], *, batch: int, shares: int):
    """Opens the stream at its beginning.

    Args:
      open_at: gives this process's iterator that leaves out so many examples of all processes.
      batch: examples of a step, of all processes.
      shares: into how many parts the stream is read.
    """
    self._open_at, self._batch, self._shares = open_at, batch, shares
    self._first = self._taken = 0
    self.iterator = open_at(0)

  def __iter__(self) -> Stream:
    return self

  def __next__(self) -> Any:
    batch = next(self.iterator)
    self._taken += 1
    return batch

  @property
  def position(self) -> dict[str, int]:
    """What a checkpoint says beside the iterator's state."""
    return {
      "processes": jax.process_count(),  # Each of them saves its iterator's state.
      "shares": self._shares,
      "first": self._first,
      "taken": self._taken,
    }

  def continue_from(self, position: dict[str, int]) -> bool:
    """Opens the stream where it stood; whether the iterator's saved state is to be restored too."""
    self._taken = position["taken"]
    now = self.position
    same = all(position[key] == now[key] for key in ("processes", "shares"))
    self._first = position["first"] if same else self._taken * self._batch
    if self._first:
      self.iterator = self._open_at(self._first)
    if not same:
      log.info(
        "the data was read in %d parts and is now read in %d; it goes on at example %d",
        *(position["shares"], self._shares, self._first),
      )
    return same
