# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training batches of this process: where they stand, and a word when they don't come."""

from __future__ import annotations

import logging
import threading
import time
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

  def __init__(
    self,
    open_at: Callable[[int], Any],
    *,
    batch: int,
    shares: int,
    name: str,
    stall_timeout: float,
  ):
    """Opens the stream at its beginning.

    Args:
      open_at: gives this process's iterator that leaves out so many examples of all processes.
      batch: examples of a step, of all processes.
      shares: into how many parts the stream is read.
      name: of the data, for the word on a stall.
      stall_timeout: seconds after which waiting for a batch is worth a word; 0 for never.
    """
    self._open_at, self._batch, self._shares = open_at, batch, shares
    self._name, self._stall_timeout = name, stall_timeout
    self._first = self._taken = 0
    self._waits_since: float | None = None
    self._closed = threading.Event()
    self.iterator = open_at(0)

  def __enter__(self) -> Stream:
    if self._stall_timeout > 0:
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *exc: object) -> None:
    self._closed.set()

  def __next__(self) -> Any:
    self._waits_since = time.monotonic()
    batch = next(self.iterator)
    self._waits_since = None
    self._taken += 1
    return batch

  def _watch(self) -> None:
    """Says that a batch does not come, again after each time-out."""
    said = 0.0
    while not self._closed.wait(min(1.0, self._stall_timeout / 4)):
      since, now = self._waits_since, time.monotonic()
      if since is not None and now - max(since, said) > self._stall_timeout:
        said = now
        log.warning(
          "no training batch for %d s: reading %s hangs; look at its disk or network, or raise "
          "config.threads",
          *(now - since, self._name),
        )

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
