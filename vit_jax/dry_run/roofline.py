# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How long a step could take at best: operations, memory and links, each at its published rate.

An estimate, and not a measurement: no unit reaches its published rate for long. It is there to tell
which of the three limits a run, and to compare one layout with another.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from vit_jax.dry_run.chips import Topology
from vit_jax.dry_run.collectives import Collective
from vit_jax.dry_run.specs import Chip

# Of a message from chip to chip, about: "A note on ICI latency" in
# https://jax-ml.github.io/scaling-book/sharding, as read on 2026-11-30.
HOP_SECONDS = 1e-6
ASSUMPTIONS = (
  "Estimate from published rates, not a measurement. Compute: the matrix products of the compiled "
  "program on each device, at the bfloat16 peak. "
  "Memory: what the program reads and writes outside of fusions, at the memory's bandwidth. "
  "Communication: rings over the links of the torus dimensions that a group spans, at half the "
  "rate where the ring does not close, and less where groups share links; no collective is faster "
  "than 1 us for each hop between chips on its way; between slices over the data center network, "
  "without latency. "
  "A step takes the longest of the three if all overlap, their sum if nothing does. "
  "Input, evaluation and checkpoints are left out."
)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds of a step, and what follows from them.

  Attributes:
    compute: of the matrix units.
    memory: between chip and HBM.
    ici: on the links of a slice.
    dcn: between slices.
    latency: that the hops of all collectives take, below which `ici` does not get.
    batch: examples of a step.
    total_steps: of the run.
    chips: how many work on it.
    model_flops: of a step.
    peak: bfloat16 operations a second of one chip.
  """

  compute: float
  memory: float
  ici: float
  dcn: float
  latency: float
  batch: int
  total_steps: int
  chips: int
  model_flops: float
  peak: float

  @property
  def communication(self) -> float:
    return self.ici + self.dcn

  @property
  def step(self) -> tuple[float, float]:
    """At best (all three overlap) and at worst (one after the other), in seconds."""
    parts = (self.compute, self.memory, self.communication)
    return max(parts), sum(parts)

  @property
  def limit(self) -> str:
    """Which of the three takes longest."""
    parts = {
      "compute": self.compute,
      "memory": self.memory,
      "communication": self.communication,
    }
    return max(parts, key=parts.get)

  @property
  def mfu(self) -> tuple[float, float]:
    """Model FLOPs utilization (arXiv:2204.02311, appendix B), at best and at worst."""
    return tuple(self.model_flops / (self.chips * self.peak * step) for step in self.step)

  @property
  def images_per_second(self) -> tuple[float, float]:
    return tuple(self.batch / step for step in self.step)

  @property
  def days(self) -> tuple[float, float]:
    return tuple(self.total_steps * step / 86_400 for step in self.step)

  @property
  def chip_hours(self) -> tuple[float, float]:
    return tuple(24 * days * self.chips for days in self.days)

  def to_dict(self) -> dict[str, Any]:
    pair = lambda values: {"overlapped": values[0], "sequential": values[1]}
    return {
      "compute_seconds": self.compute,
      "memory_seconds": self.memory,
      "ici_seconds": self.ici,
      "dcn_seconds": self.dcn,
      "latency_seconds": self.latency,
      "limit": self.limit,
      "step_seconds": pair(self.step),
      "mfu": pair(self.mfu),
      "images_per_second": pair(self.images_per_second),
      "days": pair(self.days),
      "chip_hours": pair(self.chip_hours),
    }


def estimate(
  topology: Topology,
  devices: Sequence[Any],
  *,
  operations: float,
  model_flops: float,
  bytes_accessed: float,
  collectives: Sequence[Collective],
  batch: int,
  total_steps: int,
) -> Estimate:
  """Estimates a step.

  Args:
    topology: of TPUs.
    devices: the mesh's, flat; with `coords` in the slice and, of several slices, `slice_index`.
    operations: by each device, see `flops.of_program`.
    model_flops: of the whole batch, see `flops.Flops`.
    bytes_accessed: by each device.
    collectives: of each device.
    batch, total_steps: of the run.
  """
  chip = topology.chip
  links = [link_seconds(one, topology, devices) for one in collectives]
  ici, dcn, latency = (sum(kind) for kind in zip(*links, strict=True)) if links else (0.0,) * 3
  return Estimate(
    compute=operations * chip.devices / chip.peak,
    memory=bytes_accessed * chip.devices / chip.memory_bandwidth,
    ici=ici,
    dcn=dcn,
    latency=latency,
    batch=batch,
    total_steps=total_steps,
    chips=len(devices) // chip.devices,
    model_flops=model_flops,
    peak=chip.peak,
  )


def link_seconds(
  collective: Collective, topology: Topology, devices: Sequence[Any]
) -> tuple[float, float, float]:
  """Seconds of a collective on the links of a slice and between slices, and of its hops alone.

  Devices of several slices first add up within theirs, so that each sends only its share across.
  """
  members = [devices[position] for position in collective.group]
  if len(members) < 2:
    return 0.0, 0.0, 0.0
  slices = len({getattr(member, "slice_index", 0) for member in members})
  inside = len(members) // slices
  dcn = 0.0
  if slices > 1:
    dcn = collective.among(slices, max(inside, 1)).seconds(topology.chip.dcn)
    members = [m for m in members if m.slice_index == members[0].slice_index]
    collective = collective.among(inside)
  if inside < 2:
    return 0.0, dcn, 0.0
  links = links_of(topology, members)
  latency = links.hops * HOP_SECONDS
  return (
    collective.seconds(links.bandwidth, latency),
    dcn,
    collective.seconds(math.inf, latency),
  )


@dataclasses.dataclass(frozen=True)
class Links:
  """The way between the members of a group.

  Attributes:
    bandwidth: bytes a second that each gets, and gives.
    hops: from chip to chip, until what one sends has reached all others, in both directions.
  """

  bandwidth: float
  hops: int


def links_of(topology: Topology, members: Sequence[Any]) -> Links:
  """The links that a group of devices of a slice may use; see `specs` for those of a slice."""
  chip: Chip = topology.chip
  both_ways = chip.ici / (2 * chip.dims)  # Of the two links along one dimension.
  total, hops = 0.0, 0
  for dim, (side, wraps) in enumerate(zip(topology.shape, topology.closed, strict=True)):
    places = sorted({member.coords[dim] for member in members})
    if len(places) < 2:
      continue
    gaps = [after - before for before, after in itertools.pairwise(places)]
    gaps += [places[0] + side - places[-1]] if wraps else []
    apart = min(gaps)  # So many groups lie between each other's chips and share the links.
    closed = wraps and len(places) * apart == side
    total += (both_ways if closed else both_ways / 2) / apart
    if closed:
      hops += side // 2
    else:
      hops += side - max(gaps) if wraps else places[-1] - places[0]
  chips = len({tuple(member.coords) for member in members})
  together = len(members) // chips  # Devices of a chip that are in the group.
  if chips == 1:
    # Nothing is published of the way between the two devices of a chip: it is taken to be as fast
    # as all links of the chip, and one hop long.
    return Links(chip.ici / 2, 1)
  # Devices of a chip that are in another group use the same links.
  return Links(total * together / chip.devices, hops + (together > 1))
