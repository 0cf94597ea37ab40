# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ends a run that hangs, after it has written down where each process hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import jax
from etils import epath

from vit_jax.errors import Lost
from vit_jax.parallel import coordination
from vit_jax.training.phases import Phases

log = logging.getLogger(__name__)

STACKS = "stacks"
ATTEMPT_SECONDS = 10.0  # What hangs must not keep the run from ending.
T = TypeVar("T")

_PROGRESS, _WAITS = "vit_jax/progress", "vit_jax/waits"


class Watchdog:
  """Notices that nothing comes to an end any more: no step, batch, evaluation, save or compilation.

  The processes of a run wait for each other, so progress of one of them is progress of the run:
  while one compiles, or evaluates slowly, the others do not hang. After one time-out without any,
  each process writes the stacks of its threads; after a second one it ends with exit code 69. What
  has no parts that come to an end, such as reading a checkpoint, is told but not ended.
  """

  def __init__(self, phases: Phases, workdir: str | os.PathLike, timeout: float):
    """Watches from `with` on.

    Args:
      phases: of the main thread.
      workdir: gets `stacks/process_N.txt`.
      timeout: seconds; see `Plan.stall_timeout`.
    """
    self._phases, self._timeout = phases, timeout
    self._process = jax.process_index()
    self._path = epath.Path(workdir) / STACKS / f"process_{self._process}.txt"
    self._service = coordination.client()
    self._closed = threading.Event()

  def __enter__(self) -> Watchdog:
    threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
    return self

  def __exit__(self, *exc: object) -> None:
    self._closed.set()

  def _watch(self) -> None:
    tick = min(1.0, self._timeout / 8)
    waited = silent = 0.0  # Since there was progress, and since the others were told of it.
    finished, of_others, has_told = -1, None, False
    # Ticks are counted, not the time of day: a process that was stopped has not waited.
    while not self._closed.wait(tick):
      waited, silent = waited + tick, silent + tick
      watched = self._phases.watched
      moves = self._phases.finished != finished or self._phases.compiling
      if (moves or not watched) and silent > self._timeout / 4:
        self._publish(_PROGRESS, str(time.monotonic()))
        silent = 0.0
      if moves:
        finished, of_others = self._phases.finished, None
        waited, has_told = 0.0, False
      elif waited > self._timeout / 2:
        before, of_others = of_others, self._published(_PROGRESS)
        if before is not None and before != of_others:
          waited, has_told = 0.0, False
        self._publish(_WAITS, self._phases.doing)
      if waited > self._timeout and not has_told:
        self._tell(watched)
        has_told = True
      if waited > 2 * self._timeout and watched:
        self._end()

  def _publish(self, folder: str, value: str) -> None:
    if self._service:
      key = f"{folder}/{self._process}"
      _attempt(lambda: self._service.key_value_set(key, value, allow_overwrite=True))

  def _published(self, folder: str) -> dict[int, str]:
    """What the other processes have published last."""
    entries = _attempt(lambda: self._service.key_value_dir_get(folder)) if self._service else None
    found = {int(key.rpartition("/")[2]): value for key, value in entries or ()}
    return {process: value for process, value in found.items() if process != self._process}

  def _tell(self, watched: bool) -> None:
    doing = self._phases.doing
    others = {p: what for p, what in self._published(_WAITS).items() if what != doing}
    elsewhere = "".join(f", process {p} for {what}" for p, what in sorted(others.items())[:4])
    end = f"; after {self._timeout:g} s more it ends with exit code 69" if watched else ""
    log.warning(
      "nothing has finished for %g s: process %d waits for %s%s; the stacks of its threads are in "
      "%s%s",
      *(self._timeout, self._process, doing, elsewhere, self._write_stacks(), end),
    )

  def _end(self) -> None:
    path = self._write_stacks()
    print(
      f"vit-jax: nothing has finished for {2 * self._timeout:g} s: process {self._process} waits "
      f"for {self._phases.doing}; the stacks of its threads are in {path}. The last checkpoint "
      "stands: run the same command in all processes to continue from it, with a larger "
      "config.stall_timeout if it was only slow.",
      file=sys.stderr,
      flush=True,
    )
    os._exit(Lost.exit_code)  # The main thread hangs, and can neither raise nor return.

  def _write_stacks(self) -> str | os.PathLike:
    """Adds the stacks of all threads to the file in the work directory; gives its path."""
    with tempfile.NamedTemporaryFile("w+", prefix="stacks_", suffix=".txt", delete=False) as file:
      names = ", ".join(f"{t.ident:#018x} {t.name}" for t in threading.enumerate() if t.ident)
      doing = f"process {self._process} waits for {self._phases.doing}"
      file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {doing}\nthreads: {names}\n")
      file.flush()
      faulthandler.dump_traceback(file, all_threads=True)
      file.seek(0)
      text = file.read()

    def copy() -> epath.Path:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      before = self._path.read_text() if self._path.exists() else ""
      self._path.write_text(f"{before}{text}\n")
      os.unlink(file.name)
      return self._path

    return _attempt(copy) or file.name


def _attempt(action: Callable[[], T]) -> T | None:
  """The result of an action; None if it fails, or hangs as the file system or a peer may do."""
  results: list[T] = []

  def act() -> None:
    with contextlib.suppress(OSError, jax.errors.JaxRuntimeError):
      results.append(action())

  acting = threading.Thread(target=act, name="watchdog's attempt", daemon=True)
  acting.start()
  acting.join(ATTEMPT_SECONDS)
  return results[0] if results else None
