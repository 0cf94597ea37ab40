# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the wall time of a run goes: how much of it is training, and what took the rest."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.training.phases import Phases


class Goodput:
  """Splits the time of a run by kinds of work, and finds the process that others wait for.

  The host prepares the next steps while the devices compute. So waiting for a batch counts as
  "input" only as far as the devices had nothing to do meanwhile, and as "steps" before that. A
  thread, which waits for each step, tells when they had finished.

  Of several processes the slowest one is that whose devices had nothing to do for the longest time.
  All others wait for it, in the collective operations of a step, where their devices count as busy.
  """

  def __init__(self, phases: Phases):
    self._phases, self._before = phases, phases.earlier
    self._steps: queue.SimpleQueue[jax.Array | None] = queue.SimpleQueue()
    self._dispatched = self._arrived = 0
    self._arrived_at = time.monotonic()
    self._idle = 0.0  # Of this process's devices, since the last interval ended.
    self._idle_of_all = np.zeros(jax.process_count())

  def __enter__(self) -> Goodput:
    threading.Thread(target=self._follow, name="goodput", daemon=True).start()
    return self

  def __exit__(self, *exc: object) -> None:
    self._steps.put(None)

  def _follow(self) -> None:
    while (result := self._steps.get()) is not None:
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # The main thread meets it, too.
        result.block_until_ready()
      self._arrived_at = time.monotonic()
      self._arrived += 1

  def next_batch(self, stream: Iterator[Any], name: str) -> Any:
    """Takes a batch; counts the time as "input", as far as the devices had nothing to do."""
    began = time.monotonic()
    with self._phases.phase("input", f"a training batch of {name}"):
      batch = next(stream)
    ended = time.monotonic()
    idle_since = self._arrived_at if self._arrived == self._dispatched else ended
    self._phases.move(min(max(idle_since, began), ended) - began, "steps", "input")
    return batch

  def dispatched(self, result: jax.Array) -> None:
    """Notes that a step was handed to the devices; `result` is something that it computes."""
    if self._arrived == self._dispatched > 0:  # The first one had to be compiled.
      self._idle += time.monotonic() - self._arrived_at
    self._dispatched += 1
    self._steps.put(result)

  @contextlib.contextmanager
  def paused(self) -> Iterator[dict[str, float]]:
    """Inside, the devices do something else than steps; enter it when no step goes on.

    Yields:
      Seconds by kind since it was entered last, or this process began, as `time/KIND`. Of several
      processes also `time/slowest_process`, its number, and `time/slowest_idle`, for how many
      seconds its devices had nothing to do.
    """
    yield self._interval()
    self.resume()

  def resume(self) -> None:
    """Notes that the devices did something else until now, or waited for it."""
    self._arrived_at = time.monotonic()

  def _interval(self) -> dict[str, float]:
    found = {}
    if jax.process_count() > 1:
      with self._phases.phase("barriers", "the other processes, before an evaluation or a save"):
        idle = multihost_utils.process_allgather(np.float32(self._idle))
      self._idle_of_all += idle
      found = {"time/slowest_process": int(idle.argmax()), "time/slowest_idle": float(idle.max())}
    before, self._before = self._before, self._phases.spent()
    self._idle = 0.0
    return {f"time/{k}": v - before.get(k, 0.0) for k, v in self._before.items()} | found

  def result(self) -> dict[str, Any]:
    """What `results.json` holds: `goodput`, the share of "steps", and `time`, seconds by kind."""
    spent = self._phases.spent()
    total = sum(spent.values())
    found = {"goodput": spent["steps"] / total, "time": {**spent, "total": total}}
    if jax.process_count() > 1:
      found["slowest_process"] = int(self._idle_of_all.argmax())
    return found


def in_words(result: dict[str, Any]) -> str:
  """One line on what `Goodput.result` gave."""
  seconds = dict(result["time"])
  total = seconds.pop("total")
  parts = sorted(((s, kind) for kind, s in seconds.items() if s >= 0.005 * total), reverse=True)
  shares = ", ".join(f"{kind.replace('_', ' ')} {s / total:.1%}" for s, kind in parts)
  slowest = result.get("slowest_process")
  named = "" if slowest is None else f"; process {slowest} kept the others waiting most"
  return f"{total:,.1f} s in all: {shares}{named}"
