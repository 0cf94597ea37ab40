# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Words between the processes of a run, through the key-value store of JAX's coordination service.

The store is reached by a private name (`state`). The public way, `multihost_utils`, compiles a
program over all devices. That hangs or aborts where processes differ in their versions or devices,
or where one has failed before; and a process that comes half a minute later than the others ends
the run, since collective operations of CPUs time out after 30 s. The store needs neither a backend
nor a program.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import jax

from vit_jax.errors import UserError

# However long it takes: a lost process ends the wait, by the heartbeats that it no longer sends.
_DAY = 24 * 3600.0
_LEAVE_SECONDS = 5.0  # For the others to hear why this process ends.
_FOLDER = "vit_jax/exchange"
_ENDED = "ended"  # The key of a sentence instead of a value.

_round = 0  # Exchanges that this process has passed; the same number in all of them.


class Disagreement(UserError):
  """The processes of a run differ. All of them raise it, with the same sentence."""


def state() -> Any:
  """What JAX knows of the processes that have joined: `client`, `process_id`, `num_processes`.

  `jax.process_index` and `jax.process_count` start the backend, which waits for all processes. The
  name is private; Orbax uses it too.
  """
  from jax._src import distributed

  return distributed.global_state


def has_others() -> bool:
  """Whether `jax.distributed` has joined several processes. Starts no backend."""
  joined = state()
  return joined.client is not None and joined.num_processes > 1


def client() -> Any:
  """The coordination service's client; None in a single process."""
  return state().client if has_others() else None


def exchange(value: Any, combine: Callable[[list[Any]], Any], *, seconds: float = _DAY) -> Any:
  """Gives every process what the first one makes of the values of all.

  Call it in all processes alike, from one thread.

  Args:
    value: any JSON.
    combine: makes any JSON of all values, in the order of the processes; called in the first one.
    seconds: to wait for the others.

  Raises:
    Disagreement: another process has ended with a `UserError` before it came here, or does not come
      in time.
  """
  global _round
  if not has_others():
    return combine([value])
  now, _round = _round, _round + 1
  index = state().process_id
  _put(f"{now}/{index}", [value])
  if index == 0:
    problem, values = _wait_for_all(now, seconds)
    _put(f"{now}/result", {_ENDED: problem} if problem else [combine(values)])
  # The first process may have come later, and then waits as long as it may.
  result = _get(f"{now}/result", 2 * seconds)
  if isinstance(result, dict):
    raise Disagreement(result[_ENDED])
  return result[0]


def gather(value: Any) -> list[Any]:
  """What every process gives, any JSON, in their order; see `exchange`."""
  return exchange(value, list)


def leave(sentence: str) -> None:
  """Tells the others why this process ends, so that the exchange they wait in ends them too.

  The first process, whose end ends the store, waits a little until all have heard it.
  """
  if not has_others():
    return
  joined = state()
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # They may be gone.
    _put(f"{_round}/{joined.process_id}", {_ENDED: sentence})
    if joined.process_id:
      _put(f"left/{joined.process_id}", True)
      return
    _put(f"{_round}/result", {_ENDED: f"process 0: {sentence}"})
    until = time.monotonic() + _LEAVE_SECONDS
    for process in range(1, joined.num_processes):
      _get(f"left/{process}", max(0.01, until - time.monotonic()))
    time.sleep(0.2)  # They are ending, which the end of the store would disturb.


def _wait_for_all(now: int, seconds: float) -> tuple[str | None, list[Any]]:
  """Why an exchange cannot be, None if it can; and the values of all processes."""
  values, problem, until = [], None, time.monotonic() + seconds
  for process in range(state().num_processes):
    try:
      told = _get(f"{now}/{process}", max(1.0, until - time.monotonic()))
    except jax.errors.JaxRuntimeError as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise
      return (
        f"process {process} has not told within {seconds:.0f} s what it runs, as this version of "
        "vit_jax does after joining; run the same version in all of them, and look at its log."
      ), []
    if isinstance(told, dict):
      problem = problem or f"process {process}: {told[_ENDED]}"
    else:
      values += told
  return problem, values


def _put(key: str, value: Any) -> None:
  client().key_value_set(f"{_FOLDER}/{key}", json.dumps(value), allow_overwrite=True)


def _get(key: str, seconds: float) -> Any:
  """Raises JaxRuntimeError if nothing comes under `key` within so many seconds."""
  return json.loads(client().blocking_key_value_get(f"{_FOLDER}/{key}", round(seconds * 1000)))
