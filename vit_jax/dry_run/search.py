# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Looks for the layout that trains fastest and fits: mesh, parts of the batch, rematerialisation.

The batch stays the config's, since another one is another recipe: a chip's share of it is made
smaller by accumulating gradients over more parts. Shapes alone tell roughly what a layout needs;
only what seems to fit is compiled, the most promising first.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from vit_jax.dry_run import chips, flops, report, step
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training import build, sharding
from vit_jax.training import plan as plan_lib
from vit_jax.training.state import state_target

log = logging.getLogger(__name__)

REMATS = ("none", "dots", "full")  # From the most memory to the most operations.
MARGIN = 1.2  # An estimate of memory may be this much too high.


@dataclasses.dataclass(frozen=True)
class Layout:
  """One way to run the same step."""

  data: int
  fsdp: int
  tensor: int
  accum_steps: int
  remat: str | None  # None: the model has no such field.
  per_chip: int  # Examples of a part of the batch on each chip (of `tensor` chips together).

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
      fields = step.with_fields(plan, remat=self.remat).model.overrides
      towers = [f"{tower}." for tower in ("img", "txt") if "remat" in fields.get(tower, ())]
      given += [f"--config.model.{tower}remat={self.remat}" for tower in towers or [""]]
    return given


@dataclasses.dataclass(frozen=True)
class Needs:
  """What shapes tell of a step, without compiling it.

  Attributes:
    rows: arrays of the state: path, shape and bytes.
    parameters: how many.
    residuals: by remat, bytes that one example leaves for the way back.
    block: bytes of that in one layer, which exist while it is recomputed.
    operations: by remat, of the whole batch, in passes at the bfloat16 peak.
    activations: bytes that travel between chips where `tensor` splits layers, for each example.
  """

  rows: tuple[tuple[str, tuple[int, ...], int], ...]
  parameters: int
  residuals: Mapping[str | None, float]
  block: float
  operations: Mapping[str | None, float]
  activations: float

  def memory(self, layout: Layout) -> float:
    """Bytes on each chip, rather too many than too few."""
    sizes = {"replica": 1, "data": layout.data, "fsdp": layout.fsdp, "tensor": layout.tensor}
    state = gradients = 0.0
    for path, shape, size in self.rows:
      axes = [axis for axis in sharding.spec(path, shape, sizes) if axis]
      part = size / math.prod(sizes[axis] for axis in axes)
      state += part
      if path.startswith("params/"):
        gradients += part * (2 if layout.accum_steps > 1 else 1)
    kept = self.residuals[layout.remat] + (self.block if layout.remat in ("dots", "full") else 0)
    return state + gradients + kept * layout.per_chip / layout.tensor

  def learned(self, layout: Layout, total: int, remats: Collection[str | None]) -> Needs:
    """The same, with residuals of these kinds as the memory of a compiled layout shows them."""
    rest = self.memory(dataclasses.replace(layout, per_chip=0))
    factor = max(total - rest, 0) / ((self.memory(layout) - rest) or 1)
    residuals = {k: v * factor if k in remats else v for k, v in self.residuals.items()}
    block = self.block * factor if {"dots", "full"} & {*remats} else self.block
    return dataclasses.replace(self, residuals=residuals, block=block)

  def seconds(self, layout: Layout, topology: chips.Topology, chip_count: int) -> float:
    """A step's time, for the order in which layouts are tried."""
    chip = topology.chip
    compute = self.operations[layout.remat] / (chip_count * chip.peak)
    examples = layout.per_chip * layout.accum_steps / layout.tensor
    # What is kept for the way back is written, read, and as much again inside of layers.
    memory = 4 * max(self.residuals.values()) * examples / chip.memory_bandwidth
    link = chip.ici / (4 * chip.dims)
    ring = lambda n: (n - 1) / n
    weights = 2.0 * self.parameters / layout.tensor
    gathers = 3 * weights * ring(layout.fsdp) * layout.accum_steps
    reduces = 2 * weights / layout.fsdp * ring(layout.data) * layout.accum_steps
    split = 2 * self.activations * layout.tensor * examples * ring(layout.tensor)
    return compute + memory + (gathers + reduces + split) / link


@dataclasses.dataclass(frozen=True)
class Trial:
  """A layout and what became of it.

  Attributes:
    layout: which.
    expected_memory, expected_seconds: from shapes.
    outcome: "compiled", "pruned" (it would not fit), "refused" (it cannot be), or "not tried".
    why: of all but the first.
    report: of the compiled.
  """

  layout: Layout
  expected_memory: float
  expected_seconds: float
  outcome: str
  why: str = ""
  report: report.Report | None = None

  @property
  def fits(self) -> bool:
    return bool(self.report and self.report.fits)

  @property
  def images_per_second(self) -> float:
    """At worst, if nothing overlaps: that tells layouts apart whose best cases are the same."""
    return self.report.estimate.images_per_second[1] if self.fits else 0.0


@dataclasses.dataclass(frozen=True)
class Search:
  """What was tried. `best` is None if nothing fits."""

  plan: plan_lib.Plan
  topology: chips.Topology
  trials: tuple[Trial, ...]

  @property
  def best(self) -> Trial | None:
    fitting = [trial for trial in self.trials if trial.fits]
    return max(fitting, key=lambda trial: trial.images_per_second, default=None)

  def to_dict(self) -> dict[str, Any]:
    best = self.best
    return {
      "best": best and {
        "overrides": best.layout.overrides(self.plan), "report": best.report.to_dict()
      },
      "trials": [
        {
          **dataclasses.asdict(trial.layout),
          "outcome": trial.outcome,
          "why": trial.why,
          "expected_memory": trial.expected_memory,
          "memory": trial.report and trial.report.memory.total,
          "fits": trial.fits if trial.report else None,
          "images_per_second": trial.images_per_second or None,
        }
        for trial in self.trials
      ],
    }  # fmt: skip


def search(
  config: ml_collections.ConfigDict | Mapping[str, Any],
  topology: chips.Topology,
  *,
  classes: int | None = None,
  tries: int = 8,
) -> Search:
  """Tries layouts of a run on a slice.

  Args:
    config, topology, classes: as for `report.dry_run`; the config's mesh, accum_steps and remat are
      what is looked for.
    tries: how many are compiled at most.

  Raises:
    UserError: for a mistake in the config, CPU devices, or a batch that no layout divides.
  """
  if topology.chip is None:
    raise UserError(
      f"--search compares estimated times, and there are none for {topology.name}; name a TPU "
      "slice, such as --topology=v5e:4x4."
    )
  if tries < 1:
    raise UserError(f"--tries={tries} should be at least 1.")
  devices = chips.devices(topology)
  plan, notes = report.prepare(config, topology, {"replica": topology.slices})
  num_classes, classes_from = report.find_classes(plan, classes)
  layouts = candidates(plan, topology)
  needs = measure(plan, num_classes)

  def compile_layout(layout: Layout) -> report.Report:
    applied = layout.applied(plan)
    log.info("compiling %s", " ".join(layout.overrides(plan)))
    return report.examine(applied, topology, devices, num_classes, classes_from, notes)

  return Search(plan, topology, tuple(try_out(layouts, needs, topology, compile_layout, tries)))


def candidates(plan: plan_lib.Plan, topology: chips.Topology) -> list[Layout]:
  """All layouts that divide the chips of a slice and the batch.

  Raises:
    UserError: there is none.
  """
  chip_count = math.prod(topology.shape)
  powers = [2**i for i in range(chip_count.bit_length()) if chip_count % 2**i == 0]
  model = registry.create_model(plan.model.name, **plan.model.overrides)
  heads = getattr(model, "num_heads", None)
  tensors = [t for t in powers if t == 1 or (isinstance(heads, int) and heads % t == 0 and t <= 8)]
  remats = REMATS if step.field_values(plan, "remat") else (None,)
  found = []
  for tensor in tensors:
    for fsdp in powers:
      if chip_count % (tensor * fsdp):
        continue
      data = chip_count // (tensor * fsdp)
      ways = topology.slices * data * fsdp
      if plan.batch % ways or plan.batch_eval % ways:
        continue
      # Texts and images of a contrastive batch are compared with each other, all at once.
      most = 1 if plan.text else plan.batch // ways
      for accum in (2**i for i in range(most.bit_length())):
        if (plan.batch // ways) % accum == 0:
          per_chip = plan.batch // (ways * accum)
          found += [Layout(data, fsdp, tensor, accum, remat, per_chip) for remat in remats]
  if not found:
    raise UserError(
      f"no mesh of {topology.size} devices divides batch={plan.batch} and "
      f"batch_eval={plan.batch_eval}; use multiples of {topology.size}."
    )
  return found


def try_out(
  layouts: list[Layout],
  needs: Needs,
  topology: chips.Topology,
  compile_layout: Callable[[Layout], report.Report],
  tries: int,
) -> list[Trial]:
  """Compiles the most promising layouts, and learns from each how good the estimate is."""
  room = topology.chip.memory
  expect = {layout: needs.memory(layout) for layout in layouts}
  seconds = {layout: needs.seconds(layout, topology, topology.size) for layout in layouts}
  trials: list[Trial] = []
  factor: dict[str | None, float] = {}  # Of the estimates, by remat, as compiled ones turned out.
  left = tries
  # Not all of them for the meshes of one share and remat, which differ least.
  meshes = max(1, math.ceil(tries / 3))
  compiled_of: dict[tuple, int] = {}
  for layout in sorted(layouts, key=seconds.get):
    about = expect[layout], seconds[layout]
    likely = expect[layout] * factor.get(layout.remat, 1 / MARGIN)
    larger = next((t for t in trials if _needs_more(layout, t)), None)
    if larger is not None:
      what = f"more than {larger.layout.per_chip} a chip, remat {larger.layout.remat}, needs"
      trials.append(Trial(layout, *about, "pruned", f"{what}, which did not fit"))
    elif likely > room:
      why = f"about {likely / 2**30:,.0f} GiB of {room / 2**30:,.0f}"
      trials.append(Trial(layout, *about, "pruned", why))
    elif compiled_of.get((layout.remat, layout.per_chip), 0) == meshes and left:
      why = f"{meshes} with this share and remat were compiled"
      trials.append(Trial(layout, *about, "not tried", why))
    elif left == 0:
      trials.append(Trial(layout, *about, "not tried", f"{tries} others were compiled"))
    else:
      try:
        compiled = compile_layout(layout)
      except UserError as error:
        trials.append(Trial(layout, *about, "refused", str(error)))
        continue
      left -= 1
      kind = (layout.remat, layout.per_chip)
      compiled_of[kind] = compiled_of.get(kind, 0) + 1
      trials.append(Trial(layout, *about, "compiled", "", compiled))
      factor[layout.remat] = compiled.memory.total / expect[layout]
  return trials


def _needs_more(layout: Layout, trial: Trial) -> bool:
  """Whether a layout needs at least as much as one that was compiled and did not fit."""
  if trial.report is None or trial.fits:
    return False
  tried = trial.layout
  same = (layout.data, layout.fsdp, layout.tensor) == (tried.data, tried.fsdp, tried.tensor)
  keeps = {remat: index for index, remat in enumerate((None, *REMATS))}
  return same and layout.per_chip >= tried.per_chip and keeps[layout.remat] <= keeps[tried.remat]


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
    traced = step.trace_loss(applied, num_classes, examples)
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
  most = residuals[remats[0]]
  return Needs(
    rows=rows,
    parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(target.params)),
    residuals=residuals,
    block=(most - residuals.get("full", most)) / layers,
    operations=operations,
    activations=4 * layers * tokens * (width if isinstance(width, int) else 0) * 2,
  )


def _layers(model: Any) -> int:
  layers = getattr(model, "num_layers", None) or getattr(model, "num_blocks", 1)
  return max(layers) if isinstance(layers, tuple) else layers
