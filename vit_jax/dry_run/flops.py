# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The floating-point operations of a step: two for each multiply-accumulate.

Those of the traced step are of the whole batch, each product once. Those of the compiled program
are what one device does, which is more than its share where devices compute the same.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.dry_run import hlo
from vit_jax.models import cost

# Passes through a TPU's matrix unit, which multiplies bfloat16: `jax.lax.Precision`.
_PASSES = {jax.lax.Precision.HIGH: 3, jax.lax.Precision.HIGHEST: 6}


@dataclasses.dataclass(frozen=True)
class Flops:
  """Of matrix products and convolutions, over the whole batch and all devices.

  Attributes:
    model: forwards and backwards, each value computed once.
    hardware: with what rematerialisation computes again.
    peak_equivalent: `hardware`, each product as often as it passes a bfloat16 matrix unit: once in
      bfloat16, and once in float32 at JAX's default precision, which rounds the operands.
    bfloat16: share of `hardware` whose operands are bfloat16.
  """

  model: float
  hardware: float
  peak_equivalent: float
  bfloat16: float


def count(jaxpr: Any, without_remat: Any = None) -> Flops:
  """Counts the operations of a step.

  Args:
    jaxpr: of the step.
    without_remat: that of the same step without rematerialisation; None: it has none.
  """
  macs = lambda jaxpr, *weigh: 2.0 * cost.jaxpr_macs(jaxpr.jaxpr, *weigh)
  hardware = macs(jaxpr)
  return Flops(
    model=hardware if without_remat is None else macs(without_remat),
    hardware=hardware,
    peak_equivalent=macs(jaxpr, _passes),
    bfloat16=macs(jaxpr, _is_bfloat16) / hardware if hardware else 0.0,
  )


def _is_bfloat16(equation: Any) -> bool:
  return all(x.aval.dtype == jnp.bfloat16 for x in equation.invars[:2])


def _passes(equation: Any) -> int:
  if _is_bfloat16(equation):
    return 1
  precision = equation.params.get("precision")
  wanted = precision if isinstance(precision, tuple) else (precision,)
  return max(_PASSES.get(one, 1) for one in wanted)


def of_program(program: hlo.Program) -> float:
  """Operations of the matrix products and convolutions that one device runs in a step.

  Each as often as it passes a bfloat16 matrix unit, as in `Flops.peak_equivalent`. The TPU compiler
  writes matrix products as convolutions.
  """
  macs = {"dot": _dot_macs, "convolution": _convolution_macs}
  return 2.0 * sum(
    visit.times
    * macs[visit.instruction.opcode](visit.instruction, program.operands(visit))
    * _passes_of(visit.instruction, program.operands(visit))
    for visit in program.visits()
    if visit.instruction.opcode in macs
  )


def _passes_of(instruction: hlo.Instruction, operands: list[hlo.Instruction]) -> int:
  if all(operand.arrays[0].dtype == "bf16" for operand in operands):
    return 1
  written = re.search(r"operand_precision=\{([\w,]*)\}", instruction.attributes)
  names = written[1].upper().split(",") if written else ()
  return max((_PASSES.get(getattr(jax.lax.Precision, name), 1) for name in names), default=1)


def _dot_macs(instruction: hlo.Instruction, operands: list[hlo.Instruction]) -> int:
  contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
  sizes = operands[0].arrays[0].dims
  axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
  return math.prod(instruction.arrays[0].dims) * math.prod(sizes[axis] for axis in axes)


def _convolution_macs(instruction: hlo.Instruction, operands: list[hlo.Instruction]) -> int:
  """Those with real inputs, and not those with padding or with the holes of a dilated input."""
  inputs, kernel, outputs = re.search(
    r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes
  ).groups()
  image, weights = (operand.arrays[0].dims for operand in operands[:2])
  result = instruction.arrays[0].dims
  window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
  fields = dict(field.split("=") for field in window[1].split()) if window else {}
  groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
  total = weights[kernel.index("i")] * weights[kernel.index("o")]
  total *= image[inputs.index("b")] // (int(groups[1]) if groups else 1)
  dims = len(kernel) - 2
  along = lambda name, usual: fields.get(name, "x".join([usual] * dims)).split("x")
  options = zip(along("stride", "1"), along("pad", "0_0"), along("lhs_dilate", "1"),
                along("rhs_dilate", "1"), strict=True)  # fmt: skip
  for dim, (stride, pad, holes, spread) in enumerate(options if dims else ()):
    total *= _pairs(
      image[inputs.index(str(dim))],
      weights[kernel.index(str(dim))],
      result[outputs.index(str(dim))],
      stride=int(stride),
      before=int(pad.split("_")[0]),
      holes=int(holes),
      spread=int(spread),
    )
  return total


@functools.cache
def _pairs(
  inputs: int, window: int, outputs: int, *, stride: int, before: int, holes: int, spread: int
) -> int:
  """Along one dimension, pairs of an output and a place of its window that holds a real input."""
  starts = np.arange(outputs) * stride - before
  found = 0
  for place in range(window):
    at = starts + place * spread
    found += int(((at >= 0) & (at < inputs * holes) & (at % holes == 0)).sum())
  return found
