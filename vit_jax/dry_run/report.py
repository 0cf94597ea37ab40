# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run on paper: `dry_run(config, topology)` compiles its step and says what it will need."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import ml_collections

from vit_jax.data import datasets
from vit_jax.dry_run import chips, collectives, flops, hlo, roofline, step, traffic
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import plan as plan_lib
from vit_jax.workdir import run_data


@dataclasses.dataclass(frozen=True)
class Report:
  """What is known of a run before it begins.

  Attributes:
    topology, plan, mesh: for what, of what, and how it is laid out.
    num_classes, classes_from: how many, and who says so.
    notes: what the dry run does differently from the run.
    parameters: of the model.
    rows: where each array of the state lies.
    memory: of each device in a step.
    held: what arrays the run has on each device, in a step and out of it.
    needs: bytes on each device of all that the run does, see `step.Run`.
    fits: whether programs get as much; None for CPU devices.
    flops: of a step.
    operations: of each device in a step, see `flops.of_program`; None if the compiler refused it.
    collectives: of each device in a step.
    bytes_accessed: by each device in a step; None if the compiler refused it.
    estimate: None for CPU devices, or if the compiler refused it.
    tracing_seconds, compiling_seconds: how long this took.
  """

  topology: chips.Topology
  plan: plan_lib.Plan
  mesh: jax.sharding.Mesh
  num_classes: int
  classes_from: str
  notes: tuple[str, ...]
  parameters: int
  rows: tuple[sharding.Row, ...]
  memory: step.Memory
  held: step.Held
  needs: dict[str, int]
  fits: bool | None
  flops: flops.Flops
  operations: float | None
  collectives: tuple[collectives.Collective, ...]
  bytes_accessed: int | None
  estimate: roofline.Estimate | None
  tracing_seconds: float
  compiling_seconds: float

  @property
  def replication(self) -> float | None:
    """How many times its share of the step's operations each device does; None if not known."""
    if self.operations is None:
      return None
    return self.operations * self.mesh.size / self.flops.peak_equivalent

  def to_dict(self, *, parameters: bool = False) -> dict[str, Any]:
    """The report as plain JSON types; with `parameters` also where each array lies."""
    chip = self.topology.chip
    found = {
      "model": self.plan.model.name,
      "topology": self.topology.name,
      "slices": self.topology.slices,
      "devices": self.topology.size,
      "mesh": dict(self.mesh.shape),
      "batch": self.plan.batch,
      "accum_steps": self.plan.accum_steps,
      "total_steps": self.plan.total_steps,
      "image_size": list(self.plan.pp.size),
      "num_classes": self.num_classes,
      "classes_from": self.classes_from,
      "notes": list(self.notes),
      "parameters": self.parameters,
      "state_bytes": sum(row.bytes for row in self.rows),
      "state_bytes_per_device": sum(row.device_bytes for row in self.rows),
      "memory_per_device": dataclasses.asdict(self.memory),
      "held_per_device": dataclasses.asdict(self.held),
      "needs_per_device": self.needs,
      "memory_of_device": chip and chip.memory // chip.devices,
      "memory_for_programs": chip and chip.usable,
      "fits": self.fits,
      "flops": dataclasses.asdict(self.flops),
      "operations_per_device": self.operations,
      "replication": self.replication,
      "collectives": [
        {
          "kind": one.kind,
          "axes": list(one.axes),
          "group_size": len(one.group),
          "count": one.count,
          "bytes": one.bytes,
          "sizes": [list(size) for size in one.sizes],
        }
        for one in self.collectives
      ],
      "bytes_accessed_per_device": self.bytes_accessed,
      "estimate": self.estimate and self.estimate.to_dict(),
      "assumptions": chip and roofline.ASSUMPTIONS,
      "tracing_seconds": self.tracing_seconds,
      "compiling_seconds": self.compiling_seconds,
    }
    if parameters:
      found["arrays"] = [
        {
          "path": row.path,
          "shape": list(row.shape),
          "axes": [list(a) if isinstance(a, tuple) else a for a in row.axes],
          "bytes": row.bytes,
          "device_bytes": row.device_bytes,
        }
        for row in self.rows
      ]
    return found


def dry_run(
  config: ml_collections.ConfigDict | Mapping[str, Any],
  topology: chips.Topology,
  *,
  mesh: Mapping[str, int] | None = None,
  classes: int | None = None,
  scan: bool = False,
) -> Report:
  """Compiles the training step of a config for devices that need not be there.

  Args:
    config: as for `training.loop.train_and_evaluate`. Its data set need not be there, and no weight
      is read.
    topology: see `chips.parse`.
    mesh: sizes of the mesh's axes, instead of the config's.
    classes: how many, where the data set cannot be opened; None: as many as the registry's model.
    scan: whether to compile the layers as a scan, whatever the config says; see `SCANNED`.

  Raises:
    UserError: for a mistake in the config, or devices that do not go with it.
  """
  devices = chips.devices(topology)
  plan, notes = prepare(config, topology, mesh, scan=scan)
  num_classes, classes_from = find_classes(plan, classes)
  return examine(plan, topology, devices, num_classes, classes_from, notes)


SCANNED = (
  "--scan: compiled with model.scan_layers=True, which takes as long for any depth; the run has "
  "False, another program, which of a ViT-S/16 needed from a third of the memory to a third more"
)
_UNNAMED = "unnamed"  # Where a config leaves its data set to the command line.
_EXAMPLES = 10_000  # Training images, where a config counts epochs and there is no data set.


def prepare(
  config: ml_collections.ConfigDict | Mapping[str, Any],
  topology: chips.Topology,
  mesh: Mapping[str, int] | None = None,
  *,
  scan: bool = False,
) -> tuple[plan_lib.Plan, tuple[str, ...]]:
  """The plan to compile, and what of it differs from the config's."""
  keys = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  plan = plan_lib.make_plan({**keys, "dataset": keys.get("dataset") or _UNNAMED})
  plan, notes = _with_steps(plan)
  if not plan.from_scratch or plan.init != plan_lib.InitPlan():
    notes.append("weights to start from are not read: they have the same shapes")
  plan = step.from_scratch(plan)
  if scan and not step.field_values(plan, "scan_layers"):
    raise UserError(f"--scan has no effect on {plan.model.name}; remove it.")
  if scan and False in step.field_values(plan, "scan_layers"):
    notes.append(SCANNED)
    plan = step.with_fields(plan, scan_layers=True)
  if plan.pp.train_sizes:
    notes.append(f"images of {max(plan.pp.train_sizes)} pixels, the largest of pp.train_sizes")
  sizes = {"replica": topology.slices} if topology.slices > 1 else {}
  plan = dataclasses.replace(plan, mesh=dataclasses.replace(plan.mesh, **{**sizes, **(mesh or {})}))
  return plan, tuple(notes)


def _with_steps(plan: plan_lib.Plan) -> tuple[plan_lib.Plan, list[str]]:
  """The plan with steps instead of epochs, and what was taken for granted."""
  if plan.epochs is None and plan.warmup_epochs is None:
    return plan, []
  try:
    examples = run_data.open_run_data(plan, "", None).record.epoch
    return plan.with_steps(examples), []
  except UserError:
    told = (
      f"{_EXAMPLES:,} training images, since there is no data set whose epochs could be counted"
    )
    return plan.with_steps(_EXAMPLES), [told]


def find_classes(plan: plan_lib.Plan, classes: int | None) -> tuple[int, str]:
  """How many classes the model gets, and who says so."""
  if classes is not None and classes < 1:
    raise UserError(f"--classes={classes} should be at least 1.")
  if plan.text:
    return 0, "texts instead of classes"
  if plan.dataset != _UNNAMED:
    try:
      dataset = datasets.open_dataset(plan.dataset, data_dir=plan.tfds_data_dir)
      if dataset.class_names:
        return len(dataset.class_names), f"the data set {plan.dataset}"
    except UserError:
      pass
  if classes is not None:
    return classes, "--classes"
  model = registry.create_model(plan.model.name)
  where = "no data set is named" if plan.dataset == _UNNAMED else f"{plan.dataset} is not here"
  return model.num_classes, f"the registry's {plan.model.name}: {where}"


def examine(
  plan: plan_lib.Plan,
  topology: chips.Topology,
  devices: list[Any],
  num_classes: int,
  classes_from: str = "",
  notes: tuple[str, ...] = (),
) -> Report:
  """Traces and compiles the step of a plan that is prepared."""
  mesh = make_mesh(plan, topology, devices)
  traced = step.trace(plan, mesh, num_classes)
  counted = count_flops(traced, num_classes)
  room = topology.chip.usable if topology.chip else math.inf
  run = step.compile_run(traced, room)
  compiled = run.step
  found, moved, estimate, operations = (), None, None, None
  if compiled.hlo:
    program = hlo.Program(compiled.hlo)
    found = tuple(collectives.read(program, mesh.shape, topology.slices))
    moved = traffic.bytes_accessed(program)
    operations = flops.of_program(program)
    if topology.chip:
      estimate = roofline.estimate(
        topology,
        list(mesh.devices.flat),
        operations=operations,
        model_flops=counted.model,
        bytes_accessed=moved,
        collectives=found,
        batch=plan.batch,
        total_steps=plan.total_steps,
      )
  return Report(
    topology=topology,
    plan=plan,
    mesh=mesh,
    num_classes=num_classes,
    classes_from=classes_from,
    notes=notes,
    parameters=traced.parameters,
    rows=tuple(sharding.summary(traced.target, mesh)),
    memory=compiled.memory,
    held=traced.held,
    needs=run.needs,
    fits=run.fits(room) if topology.chip else None,
    flops=counted,
    operations=operations,
    collectives=found,
    bytes_accessed=moved,
    estimate=estimate,
    tracing_seconds=traced.seconds,
    compiling_seconds=run.seconds,
  )


def make_mesh(
  plan: plan_lib.Plan, topology: chips.Topology, devices: list[Any]
) -> jax.sharding.Mesh:
  """The mesh of a plan over all devices of a topology."""
  sizes = [getattr(plan.mesh, axis) for axis in mesh_lib.AXES]
  if -1 not in sizes and math.prod(sizes) < len(devices):
    written = ", ".join(f"{axis}={size}" for axis, size in zip(mesh_lib.AXES, sizes, strict=True))
    raise UserError(
      f"the mesh ({written}) leaves {len(devices) - math.prod(sizes)} of {topology.name}'s "
      f"{len(devices)} devices idle; use all of them, or a smaller slice."
    )
  return mesh_lib.make_mesh(plan.mesh, devices)


def count_flops(traced: step.Step, num_classes: int) -> flops.Flops:
  """Counts a step's operations, and traces it once more if it computes anything twice."""
  if step.field_values(traced.plan, "remat") <= {"none"}:
    return flops.count(traced.jaxpr)
  plain = step.with_fields(traced.plan, remat="none")
  return flops.count(traced.jaxpr, step.trace(plain, traced.mesh, num_classes).jaxpr)


@dataclasses.dataclass(frozen=True)
class Group:
  """Arrays of the same shape and layout, whose paths differ only by numbers.

  Attributes:
    path: of the parameter, with * for the numbers in which several differ.
    trees: that hold them: "params", "trace", "mu", ...
    rows: one for each array.
  """

  path: str
  trees: tuple[str, ...]
  rows: tuple[sharding.Row, ...]


_NUMBER = re.compile(r"(?<=_)\d+(?=/)")
_TREE = re.compile(r"(?:opt_state|ema)/(?:[^/]+/)*?(?P<tree>trace|mu|nu|params)/|params/")


def grouped(rows: Iterable[sharding.Row]) -> list[Group]:
  """The rows of a state, with those of all layers and of the optimizer's copies as one."""
  groups: dict[tuple, list[tuple[str, str, sharding.Row]]] = {}
  for row in rows:
    tree = _TREE.match(row.path)
    path = row.path[tree.end() :] if tree else row.path
    name = tree[0].strip("/").split("/")[-1 if tree[0][0] == "o" else 0] if tree else ""
    key = (_NUMBER.sub("*", path), row.shape, row.axes)
    groups.setdefault(key, []).append((path, name, row))
  return [
    Group(
      key[0] if len({path for path, _, _ in same}) > 1 else same[0][0],
      tuple(dict.fromkeys(name for _, name, _ in same if name)),
      tuple(row for _, _, row in same),
    )
    for key, same in groups.items()
  ]
