# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Saves every so many minutes: `config.checkpoint_minutes`."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import divergence

ASK_EVERY = divergence.LAG + 2  # By then the answer is there, and nobody waits for it.


class SaveClock:
  """Tells when a save is due by the time since the last one.

  Of several processes the clock of the first one counts. It tells the others by an array that the
  devices carry: asked at every `ASK_EVERY`th step, answered at the next of these, in all processes
  at the same one.
  """

  def __init__(self, minutes: float, mesh: jax.sharding.Mesh):
    """Starts the clock; 0 minutes for never."""
    self._seconds, self._since = 60.0 * minutes, time.monotonic()
    self._answer: jax.Array | None = None
    self._each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._largest = jax.jit(jnp.max, out_shardings=mesh_lib.replicated(mesh))

  def due(self, step: int) -> bool:
    """Whether to save after this step; ask after every step, in all processes alike."""
    if not self._seconds:
      return False
    over = time.monotonic() - self._since >= self._seconds
    if jax.process_count() == 1:
      return over
    if step % ASK_EVERY:
      return False
    answer = self._answer
    says = np.full(jax.local_device_count(), over and jax.process_index() == 0, np.int32)
    self._answer = self._largest(jax.make_array_from_process_local_data(self._each, says))
    return answer is not None and bool(answer)

  def restart(self) -> None:
    """Notes that the run was saved, or went back to a save."""
    self._since, self._answer = time.monotonic(), None
