# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Asking a run to stop: SIGTERM, as schedulers send it, and SIGINT, as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Turns SIGTERM and SIGINT into a word after which step to stop; a second SIGINT interrupts.

  With several processes JAX's own notifier listens, which a handler here would turn off, and has
  all of them agree on the next step that none has begun. It takes a step for the number of times
  that it was asked in this process: a run that continued would never come to step 1 again.
  """

  def __enter__(self) -> StopSignal:
    self._requested = False
    self._asked = 0
    self._previous = {}
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def reached(self) -> bool:
    """Whether to stop here; ask after every step, in all processes alike."""
    if jax.process_count() > 1:
      self._asked += 1
      self._requested |= multihost_utils.reached_preemption_sync_point(self._asked)
    return self._requested

  def _handle(self, number: int, frame: Any) -> None:
    del frame
    if self._requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    if not self._requested:
      os.write(2, b"stopping after this step, when all is saved\n")
    self._requested = True
