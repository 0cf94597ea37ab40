# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Devices to plan for, by name, and how they are described to JAX and the TPU compiler.

Nothing here imports JAX before it must: `prepare` has to come first.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import sys
from typing import Any

from vit_jax.dry_run.specs import CHIPS, Chip
from vit_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to plan for.

  Attributes:
    name: "v5e:4x4" or "cpu:8".
    chip: None for CPU devices.
    shape: of a slice, in chips.
    slices: how many such, connected by the data center network.
  """

  name: str
  chip: Chip | None
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def size(self) -> int:
    """Number of devices."""
    return self.chip_count * (self.chip.devices if self.chip else 1)

  @property
  def chip_count(self) -> int:
    return math.prod(self.shape) * self.slices

  @property
  def closed(self) -> tuple[bool, ...]:
    """Along which sides links go round the ends; see `specs`."""
    if len(self.shape) == 2:
      return tuple(side == 16 for side in self.shape)
    return (all(side % 4 == 0 for side in self.shape),) * len(self.shape)


def parse(name: str, slices: int = 1) -> Topology:
  """Reads "v5e:4x4", "v5p:8x8x16", the names of products (v5litepod-16, v5p-128) and "cpu:8".

  Raises:
    UserError: there is no such slice.
  """
  if slices < 1:
    raise UserError(f"--slices={slices} should be at least 1.")
  kind, colon, rest = name.partition(":")
  if kind == "cpu":
    if not rest.isdigit() or not 1 <= int(rest) <= 4096 or slices > 1:
      several = f" in {slices} slices" if slices > 1 else ""
      raise UserError(
        f"there is no topology {name!r}{several}; write cpu:N, as in cpu:8, without --slices."
      )
    return Topology(name, None, (int(rest),))
  if not colon:
    kind, _, rest = name.partition("-")
  products = {own: (chip, units) for chip in CHIPS.values() for own, units in chip.products}
  if not (kind in CHIPS if colon else kind in products and rest):
    kinds = ", ".join(chip.example for chip in CHIPS.values())
    hint = nearest(kind, (*CHIPS, "cpu") if colon else (*products,)) if rest else ""
    raise UserError(
      f"there is no topology {name!r}{hint or f'; write one such as {kinds}, cpu:8.'}"
    )
  if colon:
    chip = CHIPS[kind]
    shape = tuple(int(n) for n in rest.split("x")) if re.fullmatch(r"\d+(x\d+)*", rest) else ()
    if len(shape) != chip.dims:
      sides = "x".join("ABC"[: chip.dims])
      raise UserError(f"topology {name!r} should be {kind}:{sides}, such as {chip.example}.")
    found = [own for own in chip.shapes(math.prod(shape)) if sorted(own) == sorted(shape)]
  else:
    chip, units = products[kind]
    found = chip.shapes(int(rest) // units) if rest.isdigit() and int(rest) % units == 0 else []
  if not found:
    counted = "" if colon or units == 1 else f", which counts TensorCores, {units} in a chip"
    raise UserError(
      f"there is no slice {name!r}{counted}: {chip.slices}; take one such as {chip.example}."
    )
  return Topology(f"{chip.name}:{'x'.join(map(str, found[0]))}", chip, found[0], slices)


MESH_AXES = ("replica", "data", "fsdp", "tensor")  # As `parallel.mesh.AXES`.


def parse_mesh(text: str) -> dict[str, int]:
  """Reads "data=4,fsdp=4"; the axes that are not named keep the config's size.

  Raises:
    UserError: an axis or a number cannot be read.
  """
  sizes = {}
  for part in filter(None, text.split(",")):
    axis, _, size = part.partition("=")
    if axis in sizes:
      raise UserError(f"--mesh={text} names {axis} twice; give each axis one size.")
    if axis not in MESH_AXES or not re.fullmatch(r"-1|[1-9]\d*", size):
      raise UserError(
        f"--mesh={text} cannot be read at {part!r}; write sizes of {', '.join(MESH_AXES)}, such as "
        "--mesh=data=4,fsdp=4."
      )
    sizes[axis] = int(size)
  return sizes


def prepare(topology: Topology) -> None:
  """Sets what JAX and the TPU compiler read when they are imported; call it before that.

  A TPU's program is compiled by libtpu on this machine's CPU, and no TPU is asked for.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  if topology.chip is None:
    # The program is never run, so that its machine code need not be fast.
    wanted = {
      "--xla_force_host_platform_device_count": str(topology.size),
      "--xla_backend_optimization_level": "0",
      "--xla_llvm_disable_expensive_passes": "true",
    }
    kept = [f for f in os.environ.get("XLA_FLAGS", "").split() if f.split("=")[0] not in wanted]
    flags = [*kept, *(f"{flag}={value}" for flag, value in wanted.items())]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    return
  # Otherwise libtpu asks the metadata server of a Google Cloud machine what it runs on, and says at
  # length that there is none; and it allows one process on a machine, which would own its TPUs. A
  # program for chips that are not here can be kept in JAX's cache, but not be read from it.
  quiet = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
  }
  for variable, value in quiet.items():
    os.environ.setdefault(variable, value)


def devices(topology: Topology) -> list[Any]:
  """The devices of a topology: of this process for CPU, descriptions for TPU.

  Raises:
    UserError: libtpu is not installed or refuses the slice; or JAX runs already with fewer CPUs.
  """
  running = "jax" in sys.modules
  prepare(topology)
  import jax
  from jax.experimental import topologies

  if topology.chip is None:
    found = jax.devices("cpu")
    if len(found) < topology.size:
      late = " that was imported too early" if running else ""
      raise UserError(
        f"{topology.name} asks for {topology.size} CPU devices of a JAX{late} that has "
        f"{len(found)}; set XLA_FLAGS=--xla_force_host_platform_device_count={topology.size}."
      )
    return found[: topology.size]
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      f"compiling for {topology.name} needs libtpu, which is not installed: "
      'pip install "vit_jax[tpu]", or plan for CPU devices with --topology=cpu:8.'
    )
  shape = (*topology.shape, 1)[:3]
  options: dict[str, Any] = {"chips_per_host_bounds": tuple(min(2, side) for side in shape[:2])}
  options["chips_per_host_bounds"] += (1,)
  if topology.chip.name == "v4":  # Both its cores as one device, as on Cloud TPU.
    options["chip_config_name"] = "megacore"
  if topology.slices > 1:
    options["num_slices"] = topology.slices
  try:
    description = topologies.get_topology_desc(
      platform="tpu", topology_name=topology.name, **options
    )
  except Exception as error:  # libtpu's own, of several types.
    reason = str(error).strip().splitlines()[0]
    raise UserError(
      f"the TPU compiler refuses {topology.name} ({reason}); take a slice such as "
      f"{topology.chip.example}."
    ) from error
  return list(description.devices)
