# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a process is doing: for how long so far, by kinds of work, and since when.

The run's times (`goodput`) and the watch over it (`watchdog`) both read it here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

import jax

from vit_jax.parallel import mesh as mesh_lib

KINDS = (
  *("starting", "compiling", "input", "steps", "evaluation", "saving", "barriers"),
  *("lost_to_restarts", "other"),
)

# Durations that JAX and Orbax report when something ends; JAX also reports its beginning.
_REPORTED = {
  "/jax/core/compile/jaxpr_trace_duration": "compiling",
  "/jax/core/compile/jaxpr_to_mlir_module_duration": "compiling",
  "/jax/core/compile/backend_compile_duration": "compiling",
  "/jax/checkpoint/sync_global_devices_duration_sec": "barriers",
}


class Phases:
  """The kinds of work of the main thread, of which every moment belongs to one.

  Attributes:
    seconds: by kind, up to when the kind changed last; see `spent`.
    earlier: which of them are of the processes that this one continues.
    doing: what goes on at this moment, in words.
    finished: how many pieces of work have come to an end: steps, batches of an evaluation, saves,
      compilations.
    watched: whether what goes on is something that should end soon.
  """

  def __init__(self, started: float):
    """Begins with the kind "starting", at `started` of `time.monotonic()`."""
    self.started = started
    self.seconds = dict.fromkeys(KINDS, 0.0)
    self.earlier = dict(self.seconds)
    self.doing, self.finished, self.watched = "the start of the run", 0, False
    self._kind, self._since = "starting", started
    self._compiling = 0  # Compilations that go on, one in another.
    self._reported: list[tuple[float, float]] = []  # What was moved of the phase that goes on.
    self._thread = threading.get_ident()

  def __enter__(self) -> Phases:
    jax.monitoring.register_event_listener(self._happens)
    jax.monitoring.register_scalar_listener(self._begins)
    jax.monitoring.register_event_duration_secs_listener(self._ends)
    return self

  def __exit__(self, *exc: object) -> None:
    jax.monitoring.unregister_event_listener(self._happens)
    jax.monitoring.unregister_scalar_listener(self._begins)
    jax.monitoring.unregister_event_duration_listener(self._ends)

  @property
  def compiling(self) -> bool:
    """Whether JAX traces or compiles at this moment."""
    return self._compiling > 0

  def continue_from(self, earlier: Mapping[str, float], saved_at: float | None) -> None:
    """Adds the times of the run that this process continues.

    Args:
      earlier: what `spent` was when the run was saved.
      saved_at: `time.time()` then; what has passed since, and was not saved, is lost. None if it
        is not known.
    """
    began_at = time.time() - (time.monotonic() - self.started)
    self.earlier |= earlier
    for kind, seconds in earlier.items():
      self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
    if saved_at is not None:  # By another clock, perhaps.
      self.seconds["lost_to_restarts"] += max(0.0, began_at - saved_at)

  def spent(self) -> dict[str, float]:
    """Seconds by kind, up to now."""
    self._count()
    return dict(self.seconds)

  @contextlib.contextmanager
  def phase(self, kind: str, doing: str, *, watched: bool = True) -> Iterator[None]:
    """Counts the time inside as `kind`, without that of a phase in it."""
    self._count()
    before = self._kind, self.doing, self.watched
    self._kind, self.doing, self.watched = kind, doing, watched
    try:
      yield
    finally:
      self._count()
      self._kind, self.doing, self.watched = before
      self.finished += 1

  def turn(self, kind: str, doing: str, *, watched: bool = True) -> None:
    """Says that one piece of work has come to an end, and what the next one is."""
    self._count()
    self._kind, self.doing, self.watched = kind, doing, watched
    self.finished += 1

  def move(self, seconds: float, kind: str, source: str | None = None) -> None:
    """Counts seconds that have passed as another kind; those of the phase that goes on if None."""
    self.seconds[source or self._kind] -= seconds
    self.seconds[kind] += seconds

  def _count(self) -> None:
    now = time.monotonic()
    self.seconds[self._kind] += now - self._since
    self._since = now
    self._reported.clear()

  def _happens(self, event: str, **_: object) -> None:
    if event == mesh_lib.BATCH_PLACED:
      self.finished += 1

  def _begins(self, event: str, value: float, **_: object) -> None:
    if _REPORTED.get(event) == "compiling":
      self._compiling += 1

  def _ends(self, event: str, seconds: float, **_: object) -> None:
    kind = _REPORTED.get(event)
    if kind == "compiling":
      self._compiling = max(0, self._compiling - 1)  # One may have begun before this listened.
      self.finished += 1
    if kind is None or threading.get_ident() != self._thread:
      return
    # What was reported inside of it, such as the compilation of a barrier, has been moved already.
    now = time.monotonic()
    begin, rest = now - seconds, seconds
    while self._reported and self._reported[-1][0] >= begin - 1e-3:
      rest -= self._reported.pop()[1]
    self._reported.append((begin, seconds))
    self.move(max(0.0, rest), kind)
