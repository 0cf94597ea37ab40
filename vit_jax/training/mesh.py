# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Devices as a named mesh, and what is sharded over which axis.

Only `data` exists so far. A further axis (`replica`, `fsdp`, `tensor`) is another field of
`MeshPlan` and another entry of `AXES`; the rest asks the functions below.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.errors import UserError
from vit_jax.training.plan import MeshPlan

AXES = ("data",)
BATCH_AXES = ("data",)  # The axes over which examples are split.


def make_mesh(plan: MeshPlan | None = None) -> jax.sharding.Mesh:
  """Lays the devices out along the plan's axes; by default all of them along `data`.

  Raises:
    UserError: if the plan asks for more devices than there are.
  """
  shape = dataclasses.asdict(plan or MeshPlan())
  available = jax.device_count()
  given = math.prod(n for n in shape.values() if n != -1)
  sizes = [n if n != -1 else available // given for n in shape.values()]
  if min(sizes) < 1 or math.prod(sizes) > available:
    raise UserError(
      f"config.mesh={shape} asks for {given} devices, but there are {available}; "
      f"use -1 to take all of them."
    )
  return jax.make_mesh(
    tuple(sizes),
    AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
    devices=jax.devices()[: math.prod(sizes)],
  )


def data_parallelism(mesh: jax.sharding.Mesh) -> int:
  """Returns into how many parts a batch is split."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The first axis of an array split over the devices."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def place_whole(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts all of a tree of NumPy arrays on every device."""
  return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def place_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts this process's part of a batch (a tree of NumPy arrays) on the devices."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
