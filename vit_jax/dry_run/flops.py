# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The floating-point operations of a traced step: two for each multiply-accumulate."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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
