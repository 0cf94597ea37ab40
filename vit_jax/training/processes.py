# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of several: joining the others, and noticing that one of them is lost.

Imports nothing heavy, since `supervise` runs in a process that never needs JAX.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from vit_jax.errors import Diverged, Lost, Stopped, UserError
from vit_jax.training import hangup

# Set in the process that `supervise` starts.
_SUPERVISED = "VIT_JAX_SUPERVISED"

# How a launcher tells how many processes it started.
_LAUNCHERS = {"SLURM_NTASKS": "SLURM", "OMPI_COMM_WORLD_SIZE": "Open MPI"}


def join(
  address: str | None = None,
  count: int | None = None,
  index: int | None = None,
  *,
  start_timeout: int = 300,
  heartbeat_timeout: int = 100,
) -> None:
  """Joins the processes that train together; before anything else asks JAX for devices.

  Args:
    address: HOST:PORT of process 0, on a port that is free there. Without it, and `count` and
      `index`, JAX asks SLURM, Open MPI, GKE or the Cloud TPU that started this process.
    count: of all processes.
    index: of this one, from 0.
    start_timeout: seconds to wait until all are there.
    heartbeat_timeout: seconds without a sign of life after which a process counts as lost.

  Raises:
    UserError: something is missing, nothing is known about other processes, or they don't come.
  """
  given = (address, count, index)
  if any(x is not None for x in given) and None in given:
    raise UserError(
      "--coordinator, --processes and --process go together; give all three, or --distributed "
      "alone where SLURM, Open MPI, GKE or a Cloud TPU slice starts the processes."
    )
  if count is not None and not 0 <= index < count:
    raise UserError(f"--process={index} is not one of the {count} processes; count from 0.")
  import jax

  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      initialization_timeout=start_timeout,
      heartbeat_timeout_seconds=heartbeat_timeout,
    )
  except ValueError as error:  # Nothing to ask.
    raise UserError(
      "--distributed found neither SLURM nor Open MPI, GKE or a Cloud TPU; give --coordinator="
      "HOST:PORT --processes=N --process=I to each process, or leave it out to train in one."
    ) from error
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(
      f"the {count or 'other'} processes did not meet at {address or 'their coordinator'} within "
      f"{start_timeout} s ({reason}); start all of them, with an address that each can reach."
    ) from error


def launched_in_parallel() -> str | None:
  """Name of a launcher that started several processes, to ask whether that was meant."""
  for variable, name in _LAUNCHERS.items():
    if int(os.environ.get(variable) or 1) > 1:
      return name
  return None


def supervise(arguments: Sequence[str]) -> int | None:
  """Runs this command in a child, to say in a sentence why it ended if JAX ends it.

  When another process stops answering, JAX's coordination service aborts this one from C++, where
  no exception can be caught.

  Args:
    arguments: after `python -m vit_jax.cli.app`.

  Returns:
    The exit code; None in the child, which goes on with the work.

  Raises:
    Lost: another process was lost.
  """
  if os.environ.get(_SUPERVISED):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent passes it on,
    for number in hangup.signals():  # and the end of the terminal.
      signal.signal(number, hangup.leave_the_terminal)
    _end_with_the_parent()
    return None
  command = [sys.executable, "-m", "vit_jax.cli.app", *arguments]
  child = subprocess.Popen(command, env={**os.environ, _SUPERVISED: "1"})
  interrupts = 0

  def forward(number: int, frame: Any) -> None:
    """Asks the child to stop; a second Ctrl-C ends it at once."""
    nonlocal interrupts
    del frame
    if number in hangup.signals():  # The kernel may tell this process alone, the session's first.
      hangup.leave_the_terminal()
      child.send_signal(number)
    interrupts += number == signal.SIGINT
    child.send_signal(signal.SIGKILL if interrupts > 1 else signal.SIGTERM)

  numbers = (signal.SIGTERM, signal.SIGINT, *hangup.signals())
  previous = {n: signal.signal(n, forward) for n in numbers}
  try:
    code = child.wait()
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
  if code == -signal.SIGABRT:
    raise Lost(lost())
  return code if code >= 0 else 128 - code


def _end_with_the_parent() -> None:
  """On Linux: a parent that is killed, and can pass nothing on, takes this process with it."""
  if not sys.platform.startswith("linux"):
    return
  import ctypes

  set_parent_death_signal = 1
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


@contextlib.contextmanager
def ends_alone(command: str) -> Iterator[None]:
  """Ends this process at once when the work in it fails, in a sentence if there is one.

  A usual exit would wait for the others, who wait for this one; so they see that it is gone.
  The first process speaks; the others only of what happens to them.
  """
  import jax

  if jax.process_index():
    logging.getLogger("vit_jax").setLevel(logging.WARNING)
  # Orbax saves in threads of its own, which fail when another process is lost, as this one does.
  threading.excepthook = lambda a: print(f"{a.exc_type.__name__}: {a.exc_value}", file=sys.stderr)
  try:
    yield
  except Stopped:  # All of them, together.
    raise
  except (UserError, Diverged) as error:
    print(f"vit-jax {command}: process {jax.process_index()}: {error}", file=sys.stderr)
    _end(error.exit_code)
  except (jax.errors.JaxRuntimeError, TimeoutError) as error:  # Of a step, or of a save.
    print(f"{error}\nvit-jax {command}: {lost()}", file=sys.stderr)
    _end(Lost.exit_code)
  except BaseException:  # noqa: BLE001 - Whatever it is, the others must see that this one ends.
    traceback.print_exc()
    _end(1)


def _end(code: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def lost() -> str:
  """What to say when another process is gone."""
  return (
    "Another process stopped answering, and its log may say why, or this one failed as said above. "
    "The last checkpoint stands: run the same command in all processes to continue from it."
  )
