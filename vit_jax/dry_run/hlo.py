# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A compiled program's text as data: computations, instructions, shapes, and how often each runs.

XLA's own cost analysis counts the body of a loop once; here a body counts as often as its loop runs
it. Written for what the TPU and CPU compilers print after optimization.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}  # f32, bf16, s4, f8e4m3fn, ...
_DTYPE_BITS = re.compile(r"^(?:bf|f|s|u)(\d+)")
_ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<dims>[\d,<=]*)\](?P<layout>\{[^}]*\})?")
_ON_CHIP = re.compile(r"S\((?!0\))\d+\)")  # A memory space: absent or 0 is the chip's main memory.
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_NAMED = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
  r"(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
  r"(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a shape: its bytes, whether they lie in the main memory (HBM), type and sizes."""

  bytes: int
  in_hbm: bool
  dtype: str
  dims: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name, opcode: as printed.
    arrays: of its result; several for a tuple.
    operands: names of instructions of the same computation; of a parameter its number.
    attributes: the rest of the line.
    is_root: whether it is the computation's result.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  @property
  def bytes(self) -> int:
    return sum(array.bytes for array in self.arrays)

  def called(self, key: str) -> str | None:
    """The computation of an attribute such as "body" or "calls"."""
    return next((name for k, name in self._called if k == key), None)

  @functools.cached_property
  def _called(self) -> tuple[tuple[str, str], ...]:
    return tuple(
      (key, name)
      for key, value in _CALLED.findall(self.attributes)
      for name in re.findall(r"[\w.\-]+", value)
    )


@dataclasses.dataclass(frozen=True)
class Visit:
  """An instruction and how often a step runs it.

  Attributes:
    computation: name of the one it stands in.
    loop: name of the body of the innermost loop around it; "" outside.
    times: product of the trip counts of the loops around it.
    fused: whether it is part of a fusion, whose inner results never leave the core.
  """

  instruction: Instruction
  computation: str
  loop: str
  times: int
  fused: bool


class Program:
  """A parsed module.

  Attributes:
    computations: instructions by name, in order, by the computation's name.
    entry: name of the one that is run.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ""
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
      named = _NAMED.match(line)
      if named:
        instruction = _parse(line, named)
        current[instruction.name] = instruction
      elif header := _HEADER.match(line):
        current = self.computations.setdefault(header["name"], {})
        if header["entry"]:
          self.entry = header["name"]

  def operands(self, visit: Visit) -> list[Instruction]:
    """What an instruction takes."""
    scope = self.computations[visit.computation]
    return [scope[name] for name in visit.instruction.operands if name in scope]

  def operand_bytes(self, visit: Visit) -> int:
    """Bytes of all that an instruction takes."""
    return sum(operand.bytes for operand in self.operands(visit))

  def visits(self) -> Iterator[Visit]:
    """All instructions that a step runs; those of both branches, where there are two."""
    yield from self._visits(self.entry, "", 1, False)

  def _visits(self, name: str, loop: str, times: int, fused: bool) -> Iterator[Visit]:
    for instruction in self.computations.get(name, {}).values():
      yield Visit(instruction, name, loop, times, fused)
      opcode = instruction.opcode
      if opcode == "while":
        trips = times * self.trip_count(instruction)
        body = instruction.called("body")
        yield from self._visits(body, body, trips, fused)
        yield from self._visits(instruction.called("condition"), body, trips, fused)
      elif opcode == "fusion":
        yield from self._visits(instruction.called("calls"), loop, times, True)
      elif opcode in ("call", "async-start"):
        inner = instruction.called("calls") or instruction.called("to_apply")
        yield from self._visits(inner, loop, times, fused)
      elif opcode == "conditional":
        for key, inner in instruction._called:
          if key in ("branch_computations", "true_computation", "false_computation"):
            yield from self._visits(inner, loop, times, fused)

  def trip_count(self, loop: Instruction) -> int:
    """How often a `while` runs its body: as the compiler notes it, or its condition's constant.

    A scan counts from 0 in steps of 1 until it is no longer below that constant.
    """
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
    if known:
      return int(known[1])
    bounds = [
      int(value[1])
      for instruction in self.computations.get(loop.called("condition"), {}).values()
      if instruction.opcode == "constant"
      and (value := re.match(r"\((\d+)\)", instruction.attributes))
    ]
    return max(bounds, default=1)


def _parse(line: str, named: re.Match) -> Instruction:
  rest = line[named.end() :]
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
  shape, rest = rest[:end], rest[end:].lstrip()
  start = rest.find("(")
  end = _closing(rest, start)
  opcode, inside, attributes = rest[:start], rest[start + 1 : end], rest[end + 1 :]
  if opcode == "constant":
    attributes = f"({inside}){attributes}"
  operands = (inside,) if opcode == "parameter" else tuple(_OPERAND.findall(inside))
  return Instruction(
    named["name"], opcode, arrays(shape), operands, attributes, bool(named["root"])
  )


def arrays(shape: str) -> tuple[Array, ...]:
  """The arrays of a shape such as "(f32[8,128]{1,0:T(8,128)S(1)}, s32[])"."""
  found = []
  for array in _ARRAY.finditer(shape):
    sized = _DTYPE_BITS.match(array["dtype"])
    bits = int(sized[1]) if sized else BITS.get(array["dtype"], 0)
    dims = tuple(int(dim.lstrip("<=")) for dim in array["dims"].split(",") if dim)
    in_hbm = not _ON_CHIP.search(array["layout"] or "")
    found.append(Array(math.ceil(math.prod(dims) * bits / 8), in_hbm, array["dtype"], dims))
  return tuple(found)


def _closing(text: str, start: int) -> int:
  """Where the parenthesis that opens at `start` closes."""
  depth = 0
  for index in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[index], 0)
    if depth == 0:
      return index
  return len(text)
