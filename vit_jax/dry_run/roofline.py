# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How long a step could take at best: operations, memory and links, each at its published rate.

An estimate, and not a measurement: no unit reaches its published rate for long. It is there to tell
which of the three limits a run, and to compare one layout with another.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from vit_jax.dry_run.chips import Chip, Topology
from vit_jax.dry_run.collectives import Collective

ASSUMPTIONS = (
  "Estimate from published rates, not a measurement. Compute: operations at the bfloat16 peak. "
  "Memory: what the program reads and writes outside of fusions, at the memory's bandwidth. "
  "Communication: rings over the links of the torus dimensions that a group spans, at half the "
  "rate where the ring does not close, and less where groups share links; between slices over the "
  "data center network. "
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
  peak_equivalent: float,
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
    peak_equivalent, model_flops: of the whole batch, see `flops.Flops`.
    bytes_accessed: by each device.
    collectives: of each device.
    batch, total_steps: of the run.
  """
  chip = topology.chip
  links = [link_seconds(one, topology, devices) for one in collectives]
  return Estimate(
    compute=peak_equivalent / (len(devices) * chip.peak),
    memory=bytes_accessed / chip.memory_bandwidth,
    ici=sum(ici for ici, _ in links),
    dcn=sum(dcn for _, dcn in links),
    batch=batch,
    total_steps=total_steps,
    chips=len(devices),
    model_flops=model_flops,
    peak=chip.peak,
  )


def link_seconds(
  collective: Collective, topology: Topology, devices: Sequence[Any]
) -> tuple[float, float]:
  """Seconds of a collective on the links of a slice, and between slices.

  Devices of several slices first add up within theirs, so that each sends only its share across.
  """
  members = [devices[position] for position in collective.group]
  if len(members) < 2:
    return 0.0, 0.0
  slices = len({getattr(member, "slice_index", 0) for member in members})
  inside = len(members) // slices
  if slices == 1:
    return collective.wire_bytes / ring_bandwidth(topology, members), 0.0
  share = dataclasses.replace(
    collective, group=tuple(range(slices)), bytes=collective.bytes // max(inside, 1)
  )
  dcn = share.wire_bytes / topology.chip.dcn
  if inside < 2:
    return 0.0, dcn
  first = [m for m in members if m.slice_index == members[0].slice_index]
  within = dataclasses.replace(collective, group=tuple(range(inside)))
  return within.wire_bytes / ring_bandwidth(topology, first), dcn


def ring_bandwidth(topology: Topology, members: Sequence[Any]) -> float:
  """Bytes a second that a device of a group gets (and gives) by the links between its members."""
  chip: Chip = topology.chip
  both_ways = chip.ici / (2 * chip.dims)  # Of the two links along one dimension.
  total = 0.0
  for dim, side in enumerate(topology.shape):
    places = sorted({member.coords[dim] for member in members})
    if len(places) < 2:
      continue
    wraps = side % chip.ring == 0
    gaps = [after - before for before, after in itertools.pairwise(places)]
    gaps += [places[0] + side - places[-1]] if wraps else []
    apart = min(gaps)  # So many groups lie between each other's chips and share the links.
    closed = wraps and len(places) * apart == side
    total += (both_ways if closed else both_ways / 2) / apart
  return total or both_ways / 2
