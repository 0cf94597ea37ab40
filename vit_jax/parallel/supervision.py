# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The process that supervises a process of several: why that one ended, and starting it again.

Imports nothing heavy, since it never needs JAX.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from vit_jax.errors import Lost, UserError
from vit_jax.parallel import hangup

# Set in the process that `supervise` starts: the pipe into which that one says that it has joined.
_SUPERVISED = "VIT_JAX_SUPERVISED"
_RESTART_SECONDS = 2.0  # Before starting again, so that the others notice, and the port is free.

# How a launcher tells how many processes it started.
_LAUNCHERS = {"SLURM_NTASKS": "SLURM", "OMPI_COMM_WORLD_SIZE": "Open MPI"}

# What to say when another process is gone.
LOST = (
  "Another process stopped answering, and its log may say why, or this one failed as said above. "
  "The last checkpoint stands: run the same command in all processes to continue from it."
)


def launched_in_parallel() -> str | None:
  """Name of a launcher that started several processes, to ask whether that was meant."""
  for variable, name in _LAUNCHERS.items():
    if int(os.environ.get(variable) or 1) > 1:
      return name
  return None


def supervise(
  arguments: Sequence[str],
  meeting: str = "their coordinator",
  *,
  start_timeout: int = 300,
  max_restarts: int = 0,
  again: Sequence[str] = (),
) -> int | None:
  """Runs this command in a child: says in a sentence why it ended, and may start it again.

  When another process stops answering, or does not come, JAX's coordination service aborts this one
  from C++, where no exception can be caught.

  Args:
    arguments: after `python -m vit_jax.cli.app`.
    meeting: where the processes meet, for the sentence when they don't.
    start_timeout: seconds that the child waits for the others.
    max_restarts: how many times to start it again after a process was lost, this or another. The
      others have to do so too. After a loss one comes back earlier than another, so what ends
      before all have met counts only after `start_timeout`.
    again: further arguments when it is started again.

  Returns:
    The exit code; None in the child, which goes on with the work.

  Raises:
    UserError: the processes did not meet.
    Lost: a process was lost, and there is no restart left.
  """
  if os.environ.get(_SUPERVISED):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent passes it on,
    for number in hangup.signals():  # and the end of the terminal.
      signal.signal(number, hangup.leave_the_terminal)
    _end_with_the_parent()
    return None
  restarts, back_by = 0, 0.0
  command = [sys.executable, "-m", "vit_jax.cli.app", *arguments]
  with _Child(command) as child:
    while True:
      code, joined = child.run()
      is_lost = code < 0 or code == Lost.exit_code
      if child.told or (joined and (restarts == max_restarts or not is_lost)):
        break
      if joined:
        restarts += 1
        child.command = [*command, *again]
        back_by = time.monotonic() + start_timeout
        print(
          f"vit-jax {arguments[0]}: a process was lost, this one or another; starting again from "
          f"the last checkpoint ({restarts} of {max_restarts} restarts)",
          file=sys.stderr,
        )
      elif time.monotonic() > back_by:
        break
      child.pause(_RESTART_SECONDS)
  if code == -signal.SIGABRT or (restarts and not joined):
    if joined or child.told:
      raise Lost(LOST)
    if restarts:
      raise Lost(f"The others did not come back to {meeting} within {start_timeout} s. {LOST}")
    raise UserError(
      f"the processes did not meet at {meeting} within --start-timeout={start_timeout} s, or one "
      "of them was not expected there (JAX tells above); start all of them, each with its own "
      "--process, with the same --processes and an address of the first that each can reach."
    )
  return code if code >= 0 else 128 - code


def has_joined() -> None:
  """Tells the supervising process, if there is one, that this process has met the others."""
  if pipe := os.environ.get(_SUPERVISED):
    os.write(int(pipe), b"joined")
    os.close(int(pipe))


class _Child:
  """This command in a process of its own, which is told of the signals that this one gets.

  Attributes:
    command: what to run.
    told: whether there was a signal to stop.
  """

  def __init__(self, command: Sequence[str]):
    self.command = command
    self.told = False
    self._process: subprocess.Popen | None = None
    self._interrupts = 0

  def __enter__(self) -> _Child:
    numbers = (signal.SIGTERM, signal.SIGINT, *hangup.signals())
    self._previous = {n: signal.signal(n, self._forward) for n in numbers}
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _forward(self, number: int, frame: Any) -> None:
    """Asks the child to stop; a second Ctrl-C ends it at once."""
    del frame
    self.told = True
    self._interrupts += number == signal.SIGINT
    is_hangup = number in hangup.signals()
    if is_hangup:  # The kernel may tell this process alone, the session's first.
      hangup.leave_the_terminal()
    if self._process is not None:
      if is_hangup:
        self._process.send_signal(number)
      self._process.send_signal(signal.SIGKILL if self._interrupts > 1 else signal.SIGTERM)

  def run(self) -> tuple[int, bool]:
    """Runs it to its end: its exit code, and whether it had met the other processes."""
    read, write = os.pipe()
    os.set_blocking(read, False)  # Whatever the child has started may still have its end.
    environment = {**os.environ, _SUPERVISED: str(write)}
    self._process = subprocess.Popen(self.command, env=environment, pass_fds=(write,))
    os.close(write)
    code, joined = self._process.wait(), b""
    with contextlib.suppress(BlockingIOError):
      joined = os.read(read, 1)
    os.close(read)
    return code, bool(joined)

  def pause(self, seconds: float) -> None:
    """Waits, unless there is a signal to stop."""
    until = time.monotonic() + seconds
    while not self.told and time.monotonic() < until:
      time.sleep(0.1)


def _end_with_the_parent() -> None:
  """On Linux: a parent that is killed, and can pass nothing on, takes this process with it."""
  if not sys.platform.startswith("linux"):
    return
  import ctypes

  set_parent_death_signal = 1
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
