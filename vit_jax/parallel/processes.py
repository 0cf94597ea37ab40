# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of several: joining the others, and noticing that one of them is lost.

Imports nothing heavy, since `supervise` runs in a process that never needs JAX.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from vit_jax.errors import Diverged, Lost, Stopped, UserError
from vit_jax.parallel import hangup

# Set in the process that `supervise` starts: the pipe into which that one says that it has joined.
_SUPERVISED = "VIT_JAX_SUPERVISED"
_BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"  # Where the first process listens, if elsewhere.
_RESTART_SECONDS = 2.0  # Before starting again, so that the others notice, and the port is free.
_PORT_SECONDS = 3.0  # For a process that was just lost to give its port back.

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
    UserError: something is missing, nothing is known about other processes, or the port is taken.
      JAX ends this process if the others do not come, which `supervise` tells.
  """
  given = (address, count, index)
  if any(x is not None for x in given) and None in given:
    raise UserError(
      "--coordinator, --processes and --process go together; give all three, or --distributed "
      "alone where SLURM, Open MPI, GKE or a Cloud TPU slice starts the processes."
    )
  if count is not None and not 0 <= index < count:
    raise UserError(f"--process={index} is not one of the {count} processes; count from 0.")
  if address is not None:
    _check_address(address, serves=index == 0 and _BIND_ADDRESS not in os.environ)
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
      f"this process cannot serve the others at {address or 'the address of the launcher'} "
      f"({reason}); another program may have the port, so give all of them another one."
    ) from error
  if pipe := os.environ.get(_SUPERVISED):
    os.write(int(pipe), b"joined")
    os.close(int(pipe))


def _check_address(address: str, *, serves: bool) -> None:
  """Raises UserError unless this is HOST:PORT, and of a free port if this process serves there.

  Where another run listens already, gRPC would share the port with it, and each process would come
  to one or the other.
  """
  host, _, port = address.rpartition(":")
  if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator={address} is no HOST:PORT; write it as 10.0.0.1:1234.")
  until = time.monotonic() + _PORT_SECONDS
  while serves:
    try:
      with socket.create_server(("", int(port)), family=socket.AF_INET):
        return
    except OSError as error:
      if error.errno != errno.EADDRINUSE:
        return  # JAX will tell.
      if time.monotonic() > until:
        raise UserError(
          f"the port of --coordinator={address} is taken by another program on this host; give "
          "all processes a port that is free here."
        ) from error
      time.sleep(0.1)


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
      raise Lost(lost())
    if restarts:
      raise Lost(f"The others did not come back to {meeting} within {start_timeout} s. {lost()}")
    raise UserError(
      f"the processes did not meet at {meeting} within --start-timeout={start_timeout} s, or one "
      "of them was not expected there (JAX tells above); start all of them, each with its own "
      "--process, with the same --processes and an address of the first that each can reach."
    )
  return code if code >= 0 else 128 - code


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


@contextlib.contextmanager
def ends_alone(command: str) -> Iterator[None]:
  """Ends this process at once when the work in it fails, in a sentence if there is one.

  A usual exit would wait for the others, who wait for this one; so they see that it is gone.
  The first process speaks; the others only of what happens to them.
  """
  from vit_jax.parallel import coordination

  index = state().process_id
  if index:
    logging.getLogger("vit_jax").setLevel(logging.WARNING)
  # Orbax saves in threads of its own, which fail when another process is lost, as this one does.
  threading.excepthook = lambda a: print(f"{a.exc_type.__name__}: {a.exc_value}", file=sys.stderr)
  try:
    yield
  except Stopped:  # All of them, together.
    raise
  except BaseException as error:  # noqa: BLE001 - The others must see that this one ends.
    if is_loss(error):
      print(f"{error}\nvit-jax {command}: {lost()}", file=sys.stderr)
      _end(Lost.exit_code)
    if isinstance(error, UserError | Diverged):
      who = "" if isinstance(error, coordination.Disagreement) else f"process {index}: "
      print(f"vit-jax {command}: {who}{error}", file=sys.stderr, flush=True)
      coordination.leave(str(error))
      _end(error.exit_code)
    traceback.print_exc()
    _end(1)


# How the text of a plain ValueError of XLA begins. Those of TensorStore, which tell of files, go on
# with "Error writing" and so on, after the same names of a status.
_OF_XLA = re.compile(
  r"(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|FAILED_PRECONDITION|ABORTED|INTERNAL|UNAVAILABLE|DATA_LOSS)"
  r": (?!Error )"
)


def is_loss(error: BaseException) -> bool:
  """Whether an error, or what caused it, comes of another process that is gone or hangs.

  What a lost process leaves undone fails where its result is needed: of a step, in an evaluation,
  in a save. It arrives as JaxRuntimeError, or of an array that is read as a plain ValueError; a
  barrier that ran out of time as a TimeoutError without the number of a system's error.
  """
  if "jax" not in sys.modules or state().num_processes == 1:
    return False
  if isinstance(error, TimeoutError):
    return error.errno is None
  runtime_error = sys.modules["jax"].errors.JaxRuntimeError
  while error is not None:
    if isinstance(error, runtime_error):
      return "RESOURCE_EXHAUSTED" not in str(error)
    if type(error) is ValueError and _OF_XLA.match(str(error)):
      return "os_error_code" not in str(error)
    error = error.__cause__
  return False


def state() -> Any:
  """What JAX knows of the processes that have joined: `client`, `process_id`, `num_processes`.

  `jax.process_index` and `jax.process_count` start the backend, which waits for all processes. The
  name is private; Orbax uses it too.
  """
  from jax._src import distributed

  return distributed.global_state


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
