# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Asking a run to stop: SIGTERM, as schedulers send it, and SIGINT, as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax


class StopSignal:
  """Turns SIGTERM and SIGINT into `requested`; a second SIGINT interrupts at once.

  With several processes JAX's own notifier listens, which a handler here would turn off.
  """

  requested = False

  def __enter__(self) -> StopSignal:
    self._previous = {}
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: Any) -> None:
    del frame
    if self.requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.requested = True
