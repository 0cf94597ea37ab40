# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: the terminal or the ssh session that a run was started in is gone.

Imports nothing heavy, since the process that supervises another one never needs JAX.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any


def signals() -> tuple[signal.Signals, ...]:
  """SIGHUP, or nothing where it is to be ignored: `nohup` asks for that. Windows has none."""
  number = getattr(signal, "SIGHUP", None)
  return () if number is None or signal.getsignal(number) is signal.SIG_IGN else (number,)


def leave_the_terminal(number: int = 0, frame: Any = None) -> None:
  """Discards what is written from now on, if the terminal is gone. Can be a signal's handler.

  A write to such a terminal fails, and with it the run that is to be saved.
  """
  if not hasattr(signal, "SIGHUP"):
    return
  import termios  # Windows has none.

  for output in (1, 2):
    try:
      termios.tcgetattr(output)
    except termios.error as error:
      if error.args[0] == errno.EIO:  # Of a file or a pipe it is ENOTTY.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
