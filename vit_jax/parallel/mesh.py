# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Devices as a named mesh, and the batch on it; `sharding` says where the state goes.

Four axes, from the slowest links to the fastest; examples are split over the first three:

replica: copies of everything, one for each slice of several; gradients cross the data centre.
data: copies of everything, in a slice; gradients are exchanged.
fsdp: each has its part of parameters, optimizer and average; parameters and gradients are
  exchanged.
tensor: each has its heads and hidden units, of the same examples; activations are exchanged, twice
  in a block.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.errors import UserError
from vit_jax.keys import Range, key

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")  # The axes over which examples are split.
BATCH_PLACED = "/vit_jax/batch_placed"  # What listeners of `jax.monitoring` hear of each batch.
_DEVICES = Range(1, words="be at least 1, or -1 for all that are left", also=(-1,))


@dataclasses.dataclass(frozen=True)
class MeshPlan:
  """Devices along each axis; -1 takes all that are left.

  `max_whole` is the share of the state's bytes that `fsdp` may leave whole on every device.
  """

  replica: int = key(1, _DEVICES)
  data: int = key(-1, _DEVICES)
  fsdp: int = key(1, _DEVICES)
  tensor: int = key(1, _DEVICES)
  max_whole: float = key(0.02, Range(0, 1))


def make_mesh(
  plan: MeshPlan | None = None, devices: list[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """Lays the devices out along the plan's axes; by default all of them along `data`.

  Args:
    plan: sizes of the axes; one of them may be -1, for all devices that the others leave.
    devices: all of JAX's by default; those of a `jax.experimental.topologies` description will do.

  Raises:
    UserError: the sizes don't go with the devices, or `replica` not with their slices.
  """
  plan = plan or MeshPlan()
  devices = jax.devices() if devices is None else list(devices)
  shape = {axis: getattr(plan, axis) for axis in AXES}
  written = ", ".join(f"{axis}={size}" for axis, size in shape.items())
  open_axes = [axis for axis, size in shape.items() if size == -1]
  if len(open_axes) > 1:
    raise UserError(f"config.mesh ({written}) has several axes of size -1; give all but one.")
  given = math.prod(size for size in shape.values() if size != -1)
  if open_axes and len(devices) % given == 0:
    shape[open_axes[0]] = len(devices) // given
  total = math.prod(shape.values())
  if not 1 <= total <= len(devices):
    rest = f"a number that divides {len(devices)}" if open_axes else f"at most {len(devices)}"
    raise UserError(
      f"config.mesh ({written}) asks for {given} devices, but there are {len(devices)}; use {rest}."
    )
  if total < len(devices) and devices[0].platform == "tpu":
    raise UserError(
      f"config.mesh ({written}) leaves out {len(devices) - total} of {len(devices)} TPU chips, "
      "which the links between them do not allow; set one of its axes to -1."
    )
  used = {device.process_index for device in devices[:total]}
  if idle := {device.process_index for device in devices} - used:
    raise UserError(
      f"config.mesh ({written}) leaves nothing to do to {len(idle)} of {len(idle) + len(used)} "
      "processes; start fewer, or set one of its axes to -1."
    )
  slices = len({getattr(device, "slice_index", 0) for device in devices[:total]})
  if slices > 1 and shape["replica"] % slices:
    raise UserError(
      f"config.mesh.replica={shape['replica']} does not go with {slices} slices, between which "
      f"only gradients should travel; set config.mesh.replica={slices}."
    )
  if slices > 1:
    inside = (shape["replica"] // slices, *[shape[axis] for axis in AXES[1:]])
    grid = mesh_utils.create_hybrid_device_mesh(
      inside, (slices, 1, 1, 1), devices[:total], allow_split_physical_axes=True
    )
  else:
    grid = mesh_utils.create_device_mesh(
      tuple(shape.values()), devices[:total], allow_split_physical_axes=True
    )
  return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def data_parallelism(mesh: jax.sharding.Mesh) -> int:
  """Returns into how many parts a batch is split."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The first axis of an array split over the devices."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def reader(mesh: jax.sharding.Mesh, process: int | None = None) -> tuple[int, int]:
  """Which share of each batch a process reads: (index, count).

  Processes whose devices hold the same examples, because `tensor` spans them, read the same share.

  Raises:
    UserError: the devices of two processes hold overlapping, but not the same, examples.
  """
  process = jax.process_index() if process is None else process
  parts: dict[int, set[int]] = {}
  for position, device in np.ndenumerate(mesh.devices):
    part = np.ravel_multi_index(position[:-1], mesh.devices.shape[:-1])
    parts.setdefault(device.process_index, set()).add(int(part))
  shares = sorted({tuple(sorted(part)) for part in parts.values()})
  if sum(map(len, shares)) != data_parallelism(mesh) or len({*map(len, shares)}) > 1:
    raise UserError(
      f"config.mesh.tensor={mesh.shape['tensor']} lies across {len(parts)} processes such that "
      "they share some of their examples; use a size that divides the devices of a process, or a "
      "multiple of them."
    )
  return shares.index(tuple(sorted(parts[process]))), len(shares)


def place(tree: Any, shardings: Any) -> Any:
  """Puts a tree of arrays, which every process holds, on the devices of its shardings.

  Each device gets its own part alone, so that none needs room for a whole array that is split.
  """

  def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(put, tree, shardings)


def on_mesh(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Leaves each array that lies on the mesh where it is; puts the others on each of its devices."""
  devices, whole = {*mesh.devices.flat}, replicated(mesh)
  lies = lambda x: isinstance(x, jax.Array) and x.sharding.device_set == devices
  return jax.tree.map(lambda x: x if lies(x) else jax.device_put(x, whole), tree)


def place_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts this process's share of a batch (a tree of NumPy arrays) on the devices."""
  sharding = batch_sharding(mesh)
  jax.monitoring.record_event(BATCH_PLACED)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
