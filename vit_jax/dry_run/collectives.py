# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What devices send each other in a step, read from the compiled program.

Of an asynchronous pair (`all-gather-start`, `all-gather-done`) the start is counted. The TPU
compiler also spreads a collective over several fusions, which carry one `chain_id`, and writes a
reduce-scatter as an all-reduce in a fusion named `all-reduce-scatter`; both count as what they are.
Between slices it hands a collective's data to the host, in a `send` that says what for.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.dry_run import hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind along the same axes.

  Attributes:
    kind: one of KINDS.
    axes: names of the mesh's axes along which a group's devices lie; () if they could not be told.
    group: the first group, as positions in the mesh's flat array of devices.
    count: how many a step runs.
    bytes: of all of them, on each device: what it gets of an all-gather, what it gives of the rest.
    sizes: the bytes of one, and how many have so many; (): all have the same.
  """

  kind: str
  axes: tuple[str, ...]
  group: tuple[int, ...]
  count: int
  bytes: int
  sizes: tuple[tuple[int, int], ...] = ()

  def with_one_more(self, size: int, times: int) -> Collective:
    """With another collective of `size` bytes, which a step runs so many times."""
    sizes = collections.Counter(dict(self.sizes))
    sizes[size] += times
    count, total = self.count + times, self.bytes + size * times
    return dataclasses.replace(self, count=count, bytes=total, sizes=tuple(sizes.items()))

  def among(self, members: int, parts: int = 1) -> Collective:
    """The same among so many devices, of one of `parts` parts of the bytes."""
    return dataclasses.replace(
      self,
      group=tuple(range(members)),
      bytes=self.bytes // parts,
      sizes=tuple((size // parts, count) for size, count in self.sizes),
    )

  @property
  def wire_bytes(self) -> float:
    """Bytes that cross a device's link in a bidirectional ring of the group, of all together."""
    return self._on_the_wire(self.bytes)

  def _on_the_wire(self, size: float) -> float:
    """A ring gathers, or reduces and scatters, in n - 1 steps of 1/n of the bytes; an all-reduce is
    both. In an all-to-all of n devices a part travels n / 4 steps on average.
    """
    n = len(self.group)
    factor = {
      "all-reduce": 2 * (n - 1) / n,
      "all-gather": (n - 1) / n,
      "reduce-scatter": (n - 1) / n,
      "all-to-all": n / 4,
      "collective-permute": 1.0,
    }[self.kind]
    return factor * size

  def seconds(self, bandwidth: float, latency: float = 0.0) -> float:
    """How long all of them take, one after the other.

    Args:
      bandwidth: bytes a second.
      latency: seconds from one end of the group to the other, below which none of them gets; an
        all-reduce goes that way twice.
    """
    least = latency * (2 if self.kind == "all-reduce" else 1)
    sizes = self.sizes or ((self.bytes / self.count, self.count),)
    return sum(count * max(least, self._on_the_wire(size) / bandwidth) for size, count in sizes)


_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


def read(program: hlo.Program, mesh_shape: Mapping[str, int], slices: int = 1) -> list[Collective]:
  """All collectives of a program, largest bytes first.

  Args:
    program: of a step whose devices are numbered as the mesh's flat array.
    mesh_shape: axis names and sizes, in the mesh's order.
    slices: that the mesh's first axis goes over.
  """
  devices = math.prod(mesh_shape.values())
  found: dict[tuple, Collective] = {}
  chains = set()
  for visit in program.visits():
    instruction = visit.instruction
    kind = instruction.opcode.removesuffix("-start")
    attributes = instruction.attributes
    between = _BETWEEN_SLICES.search(attributes) if kind == "send" else None
    if between:
      kind = between[1].lower().replace("_", "-")
    if kind not in KINDS:
      continue
    if chain := re.search(r'chain_id="(\d+)"', attributes):
      channel = re.search(r"channel_id=(\d+)", attributes)
      key = (visit.loop, chain[1], channel and channel[1])
      if key in chains:
        continue
      chains.add(key)
    if kind == "all-reduce" and visit.computation.startswith("all-reduce-scatter"):
      kind = "reduce-scatter"
    if between:
      group = tuple(range(0, devices, devices // slices))
    elif kind == "collective-permute":
      group = _pair(attributes)
    else:
      group = replica_groups(attributes, devices)[0]
    size = program.operand_bytes(visit) * (len(group) if kind == "all-gather" else 1)
    axes = axes_of(group, mesh_shape)
    before = found.get((kind, axes, len(group))) or Collective(kind, axes, group, 0, 0)
    found[kind, axes, len(group)] = before.with_one_more(size, visit.times)
  return sorted(found.values(), key=lambda collective: -collective.bytes)


def axes_of(group: Sequence[int], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
  """Names of the mesh's axes along which the devices of a group differ."""
  places = np.array(np.unravel_index(np.array(group), tuple(mesh_shape.values())))
  return tuple(
    name for name, along in zip(mesh_shape, places, strict=True) if len({*along.tolist()}) > 1
  )


def _pair(attributes: str) -> tuple[int, ...]:
  """Source and target of a permute's first pair that is two devices."""
  pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
  for source, target in re.findall(r"\{(\d+),(\d+)\}", pairs[1] if pairs else ""):
    if source != target:
      return (int(source), int(target))
  return (0,)


_EXPLICIT = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
  r"replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
  r" ?\{([^}]*)\}"
)
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


def replica_groups(attributes: str, devices: int) -> list[tuple[int, ...]]:
  """The groups of an instruction, in any of XLA's three notations.

  {{0,1},{2,3}} lists them. [2,2]<=[4] are rows of the numbers 0..3; with T(1,0) after reshaping to
  the second brackets and transposing. mesh['a'=2,'b'=2] {'b'} are the devices along axis b of a
  mesh, which holds the numbers in order, or as device_ids says. None at all means all devices.
  """
  if found := _EXPLICIT.search(attributes):
    groups = [_ints(group) for group in re.findall(r"\{([\d,]*)\}", found[1])]
    return [group for group in groups if group] or [tuple(range(devices))]
  if found := _IOTA.search(attributes):
    numbers = _iota(_ints(found[2]), found[3]).reshape(_ints(found[1]))
    return [tuple(row) for row in numbers.tolist()]
  if found := _MESH.search(attributes):
    return _mesh_groups(*found.groups())
  return [tuple(range(devices))]


def _mesh_groups(
  sizes: str, ids: str | None, order: str | None, chosen: str
) -> list[tuple[int, ...]]:
  shape = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
  numbers = _iota(_ints(ids), order) if ids else np.arange(math.prod(shape.values()))
  # A part of an axis, 'a':(2)4, is its second factor: 2 outside, 4 along it, the rest inside.
  dims: list[int] = []
  along: list[int] = []
  parts = {
    name: (int(outside or 1), int(size or shape[name]))
    for name, outside, size in _AXIS.findall(chosen)
  }
  for name, size in shape.items():
    if name in parts:
      outside, inner = parts[name]
      along.append(len(dims) + 1)
      dims += [outside, inner, size // (outside * inner)]
    else:
      dims.append(size)
  rest = [axis for axis in range(len(dims)) if axis not in along]
  group = math.prod(dims[axis] for axis in along)
  rows = numbers.reshape(dims).transpose(rest + along).reshape(-1, group)
  return [tuple(row) for row in rows.tolist()]


def _iota(dims: tuple[int, ...], order: str | None) -> np.ndarray:
  numbers = np.arange(math.prod(dims)).reshape(dims)
  return numbers.transpose(_ints(order)) if order else numbers


def _ints(text: str) -> tuple[int, ...]:
  return tuple(int(number) for number in text.split(",") if number)
