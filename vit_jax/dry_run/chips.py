# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""TPU slices by name, and what their chips are said to do.

The figures are those of Google's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" under
docs.cloud.google.com/tpu/docs, all for a chip: peak compute in bfloat16, capacity and bandwidth of
the memory (HBM), bidirectional bandwidth of the inter-chip interconnect (ICI), and bandwidth of the
data center network (DCN). Of v5e and v6e the DCN is given for a pod of 256 chips (6.4 and
25.6 Tbps). Of v4's ICI the page gives the all-reduce bandwidth of a pod, 1.1 PB/s; a chip's share
of that is half of its bidirectional bandwidth where a page gives both (v5e, v6e). The DCN of v4 is
assumed to be v5p's.

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

from vit_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
  """What is published of a chip.

  Attributes:
    name: "v5e".
    peak: bfloat16 operations a second.
    memory: bytes of HBM.
    memory_bandwidth: bytes a second.
    ici: bytes a second over all its links, both directions together.
    dcn: bytes a second in one direction, its share of the host's network.
    dims: dimensions of the torus.
    ring: a dimension of a slice closes to a ring if its size is a multiple of this.
    max_chips: of a pod.
    example: of a slice.
  """

  name: str
  peak: float
  memory: int
  memory_bandwidth: float
  ici: float
  dcn: float
  dims: int
  ring: int
  max_chips: int
  example: str


_GB, _GBIT = 1e9, 1e9 / 8
CHIPS = {
  chip.name: chip
  for chip in (
    # name, peak, memory, its bandwidth, ICI, DCN, dimensions, ring, chips of a pod, example
    Chip("v4", 275e12, 32 * 2**30, 1200 * _GB, 537 * _GB, 50 * _GBIT, 3, 4, 4096, "v4:4x4x4"),
    Chip("v5e", 197e12, 16 * 2**30, 819 * _GB, 400 * _GB, 25 * _GBIT, 2, 16, 256, "v5e:4x4"),
    Chip("v5p", 459e12, 95 * 2**30, 2765 * _GB, 1200 * _GB, 50 * _GBIT, 3, 4, 8960, "v5p:4x4x4"),
    Chip("v6e", 918e12, 32 * 2**30, 1640 * _GB, 800 * _GB, 100 * _GBIT, 2, 16, 256, "v6e:4x4"),
  )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to plan for.

  Attributes:
    name: as written, "v5e:4x4" or "cpu:8".
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
    """Number of devices; a chip is one."""
    return math.prod(self.shape) * self.slices


def parse(name: str, slices: int = 1) -> Topology:
  """Reads "v5e:4x4", "v5p:8x8x16" or "cpu:8".

  Raises:
    UserError: there is no such slice.
  """
  kind, colon, rest = name.partition(":")
  if slices < 1:
    raise UserError(f"--slices={slices} should be at least 1.")
  if kind == "cpu":
    if not rest.isdigit() or not 1 <= int(rest) <= 4096 or slices > 1:
      several = f" in {slices} slices" if slices > 1 else ""
      raise UserError(
        f"there is no topology {name!r}{several}; write cpu:N, as in cpu:8, without --slices."
      )
    return Topology(name, None, (int(rest),))
  if not colon or kind not in CHIPS:
    kinds = ", ".join(chip.example for chip in CHIPS.values())
    hint = nearest(kind, (*CHIPS, "cpu")) if colon else ""
    raise UserError(
      f"there is no topology {name!r}{hint or f'; write one such as {kinds}, cpu:8.'}"
    )
  chip = CHIPS[kind]
  shape = tuple(int(n) for n in rest.split("x")) if re.fullmatch(r"\d+(x\d+)*", rest) else ()
  if len(shape) != chip.dims:
    sides = "x".join("ABC"[: chip.dims])
    raise UserError(f"topology {name!r} should be {kind}:{sides}, such as {chip.example}.")
  sides = (1, 2, 4, 8, 16) if chip.dims == 2 else (1, 2, *range(4, 65, 4))
  if any(side not in sides for side in shape) or math.prod(shape) > chip.max_chips:
    allowed = "1, 2, 4, 8 or 16" if chip.dims == 2 else "1, 2 or a multiple of 4"
    raise UserError(
      f"there is no slice {name!r}: sides are {allowed}, and a pod of {kind} has "
      f"{chip.max_chips:,} chips; take one such as {chip.example}."
    )
  return Topology(name, chip, shape, slices)


MESH_AXES = ("replica", "data", "fsdp", "tensor")  # As `training.mesh.AXES`.


def parse_mesh(text: str) -> dict[str, int]:
  """Reads "data=4,fsdp=4"; the axes that are not named keep the config's size.

  Raises:
    UserError: an axis or a number cannot be read.
  """
  sizes = {}
  for part in filter(None, text.split(",")):
    axis, _, size = part.partition("=")
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
