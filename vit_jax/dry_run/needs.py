# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What shapes alone tell of a layout of the training step, without compiling it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from vit_jax.dry_run import chips, flops, step
from vit_jax.models import registry
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import build, divergence
from vit_jax.training import plan as plan_lib
from vit_jax.training.state import state_target

REMATS = ("none", "dots", "full")  # From the most memory to the most operations.


@dataclasses.dataclass(frozen=True)
class Layout:
  """One way to run the same step."""

  data: int
  fsdp: int
  tensor: int
  accum_steps: int
  remat: str | None  # None: the model has no such field.
  per_chip: int  # Examples of a part of the batch on each device (of `tensor` together).

  @property
  def mesh(self) -> tuple[int, int, int]:
    return self.data, self.fsdp, self.tensor

  def applied(self, plan: plan_lib.Plan) -> plan_lib.Plan:
    sizes = dict(data=self.data, fsdp=self.fsdp, tensor=self.tensor)
    mesh = dataclasses.replace(plan.mesh, **sizes)
    plan = dataclasses.replace(plan, accum_steps=self.accum_steps, mesh=mesh)
    return step.with_fields(plan, remat=self.remat) if self.remat else plan

  def overrides(self, plan: plan_lib.Plan) -> list[str]:
    """What to add to the command of a training run."""
    mesh = dict(replica=plan.mesh.replica, data=self.data, fsdp=self.fsdp, tensor=self.tensor)
    given = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    given.append(f"--config.accum_steps={self.accum_steps}")
    if self.remat:
      given += step.field_options(self.applied(plan), "remat")
    return given + step.field_options(plan, "scan_layers")


# What compiled programs need, as bytes for each byte of something that shapes tell: fitted to the
# programs in benchmarks/results/scaling.json, of B/16 to G/14 on 1 to 4,096 chips of v5p.
_UPDATE = 2.7  # Of the parameters: their gradients, rounded copies, and what updates them.
_GATHERED = 4.0  # Of one layer's parameters, where `fsdp` has to gather them.
_KEPT = 1.2  # Of what is left for the way back.


@dataclasses.dataclass(frozen=True)
class Needs:
  """What shapes tell of a step, without compiling it.

  Attributes:
    rows: arrays of the state: path, shape and bytes.
    parameters: how many.
    layers: how many.
    residuals: by remat, bytes that one example leaves for the way back.
    block: bytes of that in one layer, which exist while it is recomputed.
    operations: by remat, of the whole batch, in passes at the bfloat16 peak.
    activations: bytes that travel between chips where `tensor` splits layers, for each example.
    example: bytes of one example of a batch.
    scanned: whether the layers are.
  """

  rows: tuple[tuple[str, tuple[int, ...], int], ...]
  parameters: int
  layers: int
  residuals: Mapping[str | None, float]
  block: float
  operations: Mapping[str | None, float]
  activations: float
  example: int
  scanned: bool

  @property
  def margin(self) -> float:
    """How many times what is needed `memory` may be.

    Of layers that are not scanned a compiler keeps less than what they leave: a third of it in a
    ViT-S/16 of 6 layers without rematerialisation.
    """
    return 1.3 if self.scanned else 3.5

  def memory(self, layout: Layout) -> float:
    """Bytes on each device, rather too many than too few."""
    sizes = {"replica": 1, "data": layout.data, "fsdp": layout.fsdp, "tensor": layout.tensor}
    state = parameters = 0.0
    for path, shape, size in self.rows:
      axes = [axis for axis in sharding.spec(path, shape, sizes) if axis]
      part = size / math.prod(sizes[axis] for axis in axes)
      state += part
      if path.startswith("params/"):
        parameters += part
    in_parts = layout.accum_steps > 1  # Sums of gradients, and the batch in another order.
    update = (_UPDATE + in_parts) * parameters
    if layout.fsdp > 1:
      update += _GATHERED * 4 * self.parameters / (self.layers * layout.tensor)
    batch = self.example * layout.per_chip * layout.accum_steps
    batches = 1 + divergence.LAG + in_parts
    return state + update + batches * batch + self._activations(layout)

  def _activations(self, layout: Layout) -> float:
    kept = self.residuals[layout.remat] + (self.block if layout.remat in ("dots", "full") else 0)
    return _KEPT * kept * layout.per_chip / layout.tensor

  def learned(self, layout: Layout, total: int, remats: Collection[str | None]) -> Needs:
    """The same, with residuals of these kinds as the memory of a compiled layout shows them."""
    expected = self._activations(layout)
    factor = max(total - (self.memory(layout) - expected), 0) / (expected or 1)
    residuals = {k: v * factor if k in remats else v for k, v in self.residuals.items()}
    block = self.block * factor if {"dots", "full"} & {*remats} else self.block
    return dataclasses.replace(self, residuals=residuals, block=block)

  def seconds(self, layout: Layout, topology: chips.Topology) -> float:
    """A step's time, for the order in which layouts are tried."""
    chip = topology.chip
    compute = self.operations[layout.remat] / (topology.chip_count * chip.peak)
    examples = layout.per_chip * layout.accum_steps / layout.tensor
    # What is kept for the way back is written, read, and as much again inside of layers.
    memory = 4 * max(self.residuals.values()) * examples * chip.devices / chip.memory_bandwidth
    link = chip.ici / (4 * chip.dims * chip.devices)
    ring = lambda n: (n - 1) / n
    weights = 2.0 * self.parameters / layout.tensor
    gathers = 3 * weights * ring(layout.fsdp) * layout.accum_steps
    reduces = 2 * weights / layout.fsdp * ring(layout.data) * layout.accum_steps
    split = 2 * self.activations * layout.tensor * examples * ring(layout.tensor)
    return compute + memory + (gathers + reduces + split) / link


def measure(
  plan: plan_lib.Plan, num_classes: int, remats: Sequence[str | None] | None = None
) -> Needs:
  """Traces the loss of a plan with each kind of rematerialisation.

  Args:
    plan: what is trained.
    num_classes: of the data set.
    remats: which kinds, None for the plan's own; by default all that its model has.
  """
  if remats is None:
    remats = REMATS if step.field_values(plan, "remat") else (None,)
  residuals, operations = {}, {}
  for remat in remats:
    applied = step.with_fields(plan, remat=remat) if remat else plan
    examples = 2
    traced = _trace_loss(applied, num_classes, examples)
    residuals[remat] = traced.residual_bytes
    operations[remat] = flops.count(traced.jaxpr).peak_equivalent * plan.batch / examples
  model, _ = build.build_model(plan, num_classes)
  target = state_target(model, plan, None)
  rows = tuple(
    (sharding.path_of(path), x.shape, math.prod(x.shape) * x.dtype.itemsize)
    for path, x in jax.tree_util.tree_flatten_with_path(target)[0]
  )
  towers = [model.img, model.txt] if registry.get_entry(plan.model.name).text else [model]
  layers = min(map(_layers, towers))
  width = getattr(model, "hidden_size", 0)
  tokens = math.prod(plan.pp.size) / math.prod(getattr(model, "patch_shape", lambda: (16, 16))())
  most, one = residuals[remats[0]], mesh_lib.make_mesh(devices=jax.local_devices()[:1])
  return Needs(
    rows=rows,
    parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(target.params)),
    layers=layers,
    residuals=residuals,
    block=(most - residuals.get("full", most)) / layers,
    operations=operations,
    activations=4 * layers * tokens * (width if isinstance(width, int) else 0) * 2,
    example=step.device_bytes(step.batch_of(plan, one, num_classes)) // plan.batch,
    scanned=step.field_values(plan, "scan_layers") == {True},
  )


@dataclasses.dataclass(frozen=True)
class _Loss:
  """The loss of a few examples on one device, from shapes.

  Attributes:
    jaxpr: of the loss and its gradient.
    residual_bytes: what one more example leaves on the way forwards for the way back.
  """

  jaxpr: Any
  residual_bytes: int


def _trace_loss(plan: plan_lib.Plan, num_classes: int, examples: int = 2) -> _Loss:
  """Traces the loss of `examples` examples, at least two."""
  model, _ = build.build_model(plan, num_classes)
  target = state_target(model, plan, None)
  objective, fixed = step.objective_of(plan, model, num_classes)
  mesh = mesh_lib.make_mesh(devices=jax.local_devices()[:1])

  def loss(params: Any, collections: Any, batch: Any, fixed: Any) -> jax.Array:
    rng = jax.random.key(0)
    return objective(params, collections, batch, rng, rng, fixed)[0]

  def arguments(count: int) -> tuple[Any, ...]:
    of = dataclasses.replace(plan, batch=count)
    return target.params, target.collections, step.batch_of(of, mesh, num_classes), fixed

  def residuals(params: Any, *rest: Any) -> Any:
    return jax.vjp(lambda params: loss(params, *rest), params)[1]

  def kept(count: int) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(residuals, *arguments(count)))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)

  more = (kept(examples) - kept(examples // 2)) // (examples - examples // 2)
  return _Loss(jax.make_jaxpr(jax.grad(loss))(*arguments(examples)), max(more, 0))


def _layers(model: Any) -> int:
  layers = getattr(model, "num_layers", None) or getattr(model, "num_blocks", 1)
  return max(layers) if isinstance(layers, tuple) else layers
