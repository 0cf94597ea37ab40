# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Looks for the layout that trains fastest and fits: mesh, parts of the batch, rematerialisation.

The batch stays the config's, since another one is another recipe: a device's share of it is made
smaller by accumulating gradients over more parts. Shapes alone tell roughly what a layout needs;
only what seems to fit is compiled: first the most promising layout of each of several meshes, then
others of the mesh that turned out best.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from vit_jax.dry_run import chips, report, roofline, step
from vit_jax.dry_run.needs import REMATS, Layout, Needs, measure
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training import plan as plan_lib

log = logging.getLogger(__name__)


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
      "assumptions": roofline.ASSUMPTIONS,
      "best": best and {
        "overrides": best.layout.overrides(self.plan), "report": best.report.to_dict()
      },
      "trials": [
        {
          **dataclasses.asdict(trial.layout),
          "outcome": trial.outcome,
          "why": trial.why,
          "expected_memory": trial.expected_memory,
          "memory": trial.report and max(trial.report.needs.values()),
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
  scan: bool = False,
) -> Search:
  """Tries layouts of a run on a slice.

  Args:
    config, topology, classes, scan: as for `report.dry_run`; the config's mesh, accum_steps and
      remat are what is looked for.
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
  plan, notes = report.prepare(config, topology, {"replica": topology.slices}, scan=scan)
  num_classes, classes_from = report.find_classes(plan, classes)
  layouts = candidates(plan, topology)
  needs = measure(plan, num_classes)

  def compile_layout(layout: Layout) -> report.Report:
    applied = layout.applied(plan)
    log.info("compiling %s", " ".join(layout.overrides(plan)))
    return report.examine(applied, topology, devices, num_classes, classes_from, notes)

  return Search(plan, topology, tuple(try_out(layouts, needs, topology, compile_layout, tries)))


def candidates(plan: plan_lib.Plan, topology: chips.Topology) -> list[Layout]:
  """All layouts that divide the devices of a slice and the batch.

  Raises:
    UserError: there is none.
  """
  devices = topology.size // topology.slices
  powers = [2**i for i in range(devices.bit_length()) if devices % 2**i == 0]
  model = registry.create_model(plan.model.name, **plan.model.overrides)
  heads = getattr(model, "num_heads", None)
  tensors = [t for t in powers if t == 1 or (isinstance(heads, int) and heads % t == 0 and t <= 8)]
  remats = REMATS if step.field_values(plan, "remat") else (None,)
  found = []
  for tensor in tensors:
    for fsdp in powers:
      if devices % (tensor * fsdp):
        continue
      data = devices // (tensor * fsdp)
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
  """Compiles the most promising layouts, and learns from each how good the estimates are.

  Returns:
    A trial of each layout, those first that were expected to take the least time.
  """
  room = topology.chip.usable
  memory = {layout: needs.memory(layout) for layout in layouts}
  seconds = {layout: needs.seconds(layout, topology) for layout in layouts}
  ordered = sorted(layouts, key=seconds.get)
  done: dict[Layout, Trial] = {}
  failed: list[Layout] = []  # What did not fit.
  larger: dict[str | None, float] = {}  # By remat, than expected in memory, as compiled.
  fastest: dict[tuple, float] = {}  # Images a second by mesh, of what fits.

  def too_large(layout: Layout) -> str:
    """Why a layout should not fit; "" if it may."""
    for tried in failed:
      if _needs_more(layout, tried):
        return f"more than {tried.per_chip} a chip, remat {tried.remat}, needs, which did not fit"
    likely = memory[layout] * larger.get(layout.remat, 1 / needs.margin)
    return f"about {likely / 2**30:,.0f} GiB of {room / 2**30:,.0f}" if likely > room else ""

  def promise(layout: Layout) -> tuple[bool, float]:
    # Half of the tries go to different meshes, one each, and the rest to the one that did best.
    if 2 * len(fastest) < tries:
      return layout.mesh in fastest, seconds[layout]
    return layout.mesh != max(fastest, key=fastest.get), seconds[layout]

  left = tries
  while left:
    rest = [layout for layout in ordered if layout not in done and not too_large(layout)]
    if not rest:
      break
    layout = min(rest, key=promise)
    about = memory[layout], seconds[layout]
    try:
      compiled = compile_layout(layout)
    except UserError as error:
      done[layout] = Trial(layout, *about, "refused", str(error))
      continue
    left -= 1
    done[layout] = Trial(layout, *about, "compiled", "", compiled)
    larger[layout.remat] = max(compiled.needs.values()) / memory[layout]
    if done[layout].fits:
      rate = done[layout].images_per_second
      fastest[layout.mesh] = max(rate, fastest.get(layout.mesh, 0.0))
    else:
      failed.append(layout)
  for layout in ordered:
    if layout not in done:
      why = too_large(layout)
      outcome, why = ("pruned", why) if why else ("not tried", f"{tries} others were compiled")
      done[layout] = Trial(layout, memory[layout], seconds[layout], outcome, why)
  return [done[layout] for layout in ordered]


def _needs_more(layout: Layout, tried: Layout) -> bool:
  """Whether a layout needs at least as much memory as another."""
  keeps = {remat: index for index, remat in enumerate((None, *REMATS))}
  return (
    layout.mesh == tried.mesh
    and layout.per_chip >= tried.per_chip
    and keeps[layout.remat] <= keeps[tried.remat]
  )
