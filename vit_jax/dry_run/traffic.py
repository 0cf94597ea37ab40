# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How many bytes a step moves between a chip and its memory, read from the compiled program.

An instruction outside of fusions reads its operands and writes its result; what the compiler keeps
on the chip (a memory space other than 0 in the layout) does not travel. Of an array that is only
sliced, or updated in place, the slice or the update counts. Padding to tiles is left out.
"""

from __future__ import annotations

from vit_jax.dry_run import hlo

# They name or rearrange what is there, or their bytes are counted elsewhere.
_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
  "conditional",
  "call",
  "iota",
  "partition-id",
  "replica-id",
  "after-all",
  "optimization-barrier",
  "custom-call",
  "async-start",
  "async-update",
}
_VIEWS = ("bitcast", "reshape", "get-tuple-element")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def bytes_accessed(program: hlo.Program) -> int:
  """Bytes that a device reads from and writes to its main memory in one step."""
  return sum(
    visit.times * _moved(program, visit)
    for visit in program.visits()
    if not visit.fused
    and visit.instruction.opcode not in _FREE
    and not visit.instruction.opcode.endswith("-done")
  )


def _moved(program: hlo.Program, visit: hlo.Visit) -> int:
  instruction, scope = visit.instruction, program.computations[visit.computation]
  taken = [scope[name] for name in instruction.operands if name in scope]
  opcode = instruction.opcode
  if opcode in ("copy-start", "slice-start", "dynamic-slice-start"):
    # A tuple of the destination, the source and a flag: a part goes one way, or both.
    return sum(array.bytes for array in instruction.arrays[:2] if array.in_hbm)
  if opcode == "fusion":
    return _fusion(program, instruction, taken)
  if opcode in ("dynamic-slice", "slice", "gather"):
    return 2 * _in_hbm(instruction)
  if opcode == "dynamic-update-slice":
    return 2 * _in_hbm(taken[1])
  if opcode.removesuffix("-start") in _COLLECTIVES:
    return 2 * sum(_in_hbm(operand) for operand in taken)
  return sum(map(_in_hbm, taken)) + _in_hbm(instruction)


def _in_hbm(instruction: hlo.Instruction) -> int:
  return sum(array.bytes for array in instruction.arrays if array.in_hbm)


def _fusion(
  program: hlo.Program, instruction: hlo.Instruction, taken: list[hlo.Instruction]
) -> int:
  name = instruction.called("calls")
  inner = program.computations[name]
  parameters = _parameters(inner)
  total = 0
  for index, operand in enumerate(taken):
    if index in parameters and _in_hbm(operand):
      total += min(_read(program, name, parameters[index]), _in_hbm(operand))
  root = next(one for one in inner.values() if one.is_root)
  outputs = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
  for array, output in zip(instruction.arrays, outputs, strict=False):
    if array.in_hbm:
      total += min(_written(program, name, output), array.bytes)
  return total


def _parameters(inner: dict[str, hlo.Instruction]) -> dict[int, str]:
  return {int(one.operands[0]): one.name for one in inner.values() if one.opcode == "parameter"}


def _read(program: hlo.Program, computation: str, name: str) -> int:
  """Bytes that are read of a fusion's parameter, or of a view of it."""
  inner = program.computations[computation]
  total = 0
  for user in inner.values():
    if user.opcode == "parameter" or name not in user.operands:
      continue
    if user.opcode in ("dynamic-slice", "slice", "gather"):
      total += user.bytes
    elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
      pass  # In place.
    elif user.opcode in _VIEWS and not user.is_root:
      total += _read(program, computation, user.name)
    elif user.opcode == "fusion":
      nested = user.called("calls")
      parameters = _parameters(program.computations[nested])
      total += sum(
        _read(program, nested, parameters[index])
        for index, operand in enumerate(user.operands)
        if operand == name
      )
    elif user.opcode == "tuple" or _is_asynchronous(user):
      pass  # Handed through.
    else:
      return inner[name].bytes
  return min(total, inner[name].bytes)


def _written(program: hlo.Program, computation: str, output: hlo.Instruction) -> int:
  """Bytes that are written of one of a fusion's results."""
  inner = program.computations[computation]
  while output.opcode in _VIEWS and output.operands and output.operands[0] in inner:
    output = inner[output.operands[0]]
  if output.opcode == "dynamic-update-slice":
    return inner[output.operands[1]].bytes
  if output.opcode == "fusion" and len(output.arrays) == 1:
    nested = output.called("calls")
    root = next(one for one in program.computations[nested].values() if one.is_root)
    return _written(program, nested, root)
  if output.opcode == "parameter" or (
    _is_asynchronous(output) and output.opcode not in _COLLECTIVES
  ):
    return 0
  return output.bytes


def _is_asynchronous(instruction: hlo.Instruction) -> bool:
  """Whether it belongs to a collective that the compiler spreads over several fusions."""
  return "AsyncCollective" in instruction.attributes or "chain_id" in instruction.attributes
