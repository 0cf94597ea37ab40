# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of several: joining the others, and noticing that one of them is lost."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax

from vit_jax.errors import Diverged, Lost, Stopped, UserError
from vit_jax.parallel import coordination, supervision

_BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"  # Where the first process listens, if elsewhere.
_PORT_SECONDS = 3.0  # For a process that was just lost to give its port back.


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
  supervision.has_joined()


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


@contextlib.contextmanager
def ends_alone(command: str) -> Iterator[None]:
  """Ends this process at once when the work in it fails, in a sentence if there is one.

  A usual exit would wait for the others, who wait for this one; so they see that it is gone.
  The first process speaks; the others only of what happens to them.
  """
  index = coordination.state().process_id
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
      print(f"{error}\nvit-jax {command}: {supervision.LOST}", file=sys.stderr)
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
  if coordination.state().num_processes == 1:
    return False
  if isinstance(error, TimeoutError):
    return error.errno is None
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError):
      return "RESOURCE_EXHAUSTED" not in str(error)
    if type(error) is ValueError and _OF_XLA.match(str(error)):
      return "os_error_code" not in str(error)
    error = error.__cause__
  return False


def _end(code: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
