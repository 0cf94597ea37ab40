# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Traces of what devices and host do: of chosen steps, or on demand through a server."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator

import jax
from etils import epath

from vit_jax.errors import UserError

log = logging.getLogger(__name__)

FOLDER = "profile"
Steps = tuple[int, int]  # The first and the last one.


def parse(text: str) -> Steps:
  """Reads FROM:TO.

  Raises:
    UserError: it is something else.
  """
  found = re.fullmatch(r"(\d+):(\d+)", text)
  if not found:
    raise UserError(
      f"--profile={text} should be FROM:TO, the first and the last step to profile, such as 20:25."
    )
  return int(found[1]), int(found[2])


def check(steps: Steps | None, total_steps: int) -> None:
  """Raises UserError unless a run of `total_steps` has these steps."""
  if steps is None or 1 <= steps[0] <= steps[1] <= total_steps:
    return
  raise UserError(
    f"--profile={steps[0]}:{steps[1]} should be FROM:TO with 1 <= FROM <= TO <= {total_steps}, the "
    "number of steps."
  )


class Trace:
  """The trace of some steps, in `profile/` of the work directory.

  Several processes write a trace each, in `profile/process_N/`: those of one machine would have the
  same file name.
  """

  def __init__(self, workdir: str | os.PathLike, steps: Steps | None, say: Callable[[str], None]):
    """Traces `steps`, None for none; what has been written is told with `say`."""
    folder = epath.Path(workdir) / FOLDER
    self._folder = folder / f"process_{jax.process_index()}" if jax.process_count() > 1 else folder
    self._steps, self._say, self._running = steps, say, False

  def __enter__(self) -> Trace:
    return self

  def __exit__(self, *exc: object) -> None:
    self._stop()

  def step(self, step: int) -> contextlib.AbstractContextManager:
    """Marks what is inside as this step; begins the trace before the first one."""
    if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
      # C++ writes it, which knows nothing of buckets.
      self._in_bucket = "://" in os.fspath(self._folder)
      self._local = tempfile.mkdtemp() if self._in_bucket else os.fspath(self._folder)
      jax.profiler.start_trace(self._local)
      self._running, self._first = True, step
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def ends(self, step: int) -> bool:
    """Whether this step, once it is computed, is the last one of the trace."""
    return self._running and step == self._steps[1]

  def end(self) -> None:
    """Writes the trace."""
    first, last = self._first, self._steps[1]
    self._stop()
    self._say(
      f"wrote the profile of steps {first} to {last} to {self._folder}; "
      f"`xprof --logdir={self._folder}` shows it (pip install xprof)"
    )

  def _stop(self) -> None:
    if not self._running:
      return
    self._running, self._steps = False, None
    jax.profiler.stop_trace()
    if self._in_bucket:
      for path in epath.Path(self._local).glob("**/*"):
        if path.is_file():
          target = self._folder / path.relative_to(self._local)
          target.parent.mkdir(parents=True, exist_ok=True)
          path.copy(target)


@contextlib.contextmanager
def server(port: int | None) -> Iterator[None]:
  """Runs JAX's profiler server, on `port` + the number of this process; None for no server.

  Raises:
    UserError: the port cannot be used.
  """
  if port is None:
    yield
    return
  own = port + jax.process_index()
  try:
    with socket.socket() as free:  # JAX would log that it is taken, and go on without a server.
      free.bind(("", own))
  except (OSError, OverflowError) as error:
    reason = getattr(error, "strerror", None) or "ports go up to 65535"
    raise UserError(f"--profile-port: port {own} cannot be used ({reason}); choose another.") from (
      error
    )
  jax.profiler.start_server(own)
  log.info("the profiler of process %d listens on port %d", jax.process_index(), own)
  try:
    yield
  finally:
    jax.profiler.stop_server()
