# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Words between the processes of a run, through JAX's coordination service.

The devices carry them too (`multihost_utils`), but there a process that comes half a minute later
than the others ends the run: collective operations of CPUs time out after 30 s.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax

from vit_jax.training import processes

# However long it takes: a lost process ends the wait, by the heartbeats that it no longer sends.
_DAY_MS = 24 * 3600 * 1000
_calls = itertools.count()


def client() -> Any:
  """The coordination service's client; None in a single process."""
  return processes.state().client if jax.process_count() > 1 else None


def gather(value: Any) -> list[Any]:
  """What every process gives, in their order; call it in all of them alike, from one thread.

  Args:
    value: any JSON.
  """
  if jax.process_count() == 1:
    return [value]
  service, folder = client(), f"vit_jax/gather/{next(_calls)}/"
  service.key_value_set(f"{folder}{jax.process_index()}", json.dumps(value))
  service.wait_at_barrier(folder, _DAY_MS)
  found = {int(k.rpartition("/")[2]): v for k, v in service.key_value_dir_get(folder)}
  return [json.loads(found[process]) for process in range(jax.process_count())]
