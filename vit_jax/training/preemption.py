# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Asking a run to stop: SIGTERM of a scheduler, SIGINT of Ctrl-C, SIGHUP of a lost terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

from vit_jax.parallel import hangup


class StopSignal:
  """Turns SIGTERM, SIGINT and SIGHUP into a word after which step to stop.

  A second SIGINT interrupts. SIGHUP does nothing where it was ignored before, as under `nohup`.

  With several processes JAX's own notifier listens for SIGTERM, which a handler here would turn
  off, and has all of them agree on the next step that none has begun; SIGHUP is passed on to it. It
  takes a step for the number of times that it was asked in this process: a run that continued would
  never come to step 1 again.
  """

  def __enter__(self) -> StopSignal:
    self._requested = False
    self._asked = 0
    self._previous = {}
    handlers = dict.fromkeys(hangup.signals(), self._pass_on)
    if jax.process_count() == 1:
      handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT, *handlers), self._handle)
    if threading.current_thread() is threading.main_thread():
      self._previous = {n: signal.signal(n, handler) for n, handler in handlers.items()}
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
    hangup.leave_the_terminal()
    if not self._requested:
      with contextlib.suppress(OSError):  # Whoever read it is gone, and all the more it is to save.
        os.write(2, b"stopping after this step, when all is saved\n")
    self._requested = True

  def _pass_on(self, number: int, frame: Any) -> None:
    del number, frame
    hangup.leave_the_terminal()
    signal.raise_signal(signal.SIGTERM)
