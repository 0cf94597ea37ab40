# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which change of a run's plan makes its step fit the devices, which are too small for it as it is.

Unlike `search` it knows neither rates nor prices: it goes along a ladder of changes, of which the
first that fits is the answer. More parts of the batch (`accum_steps`) come before rematerialisation
and that before a state that is split (`fsdp`): each costs more time than the one before. One change
comes before two, and two before three. Only then comes a smaller batch, which is another recipe.
Where it is the evaluation that does not fit, nothing but `batch_eval` is made smaller.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging

import jax

from vit_jax.dry_run import step
from vit_jax.dry_run.needs import Layout, measure
from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import build, checks
from vit_jax.training.plan import Plan
from vit_jax.training.state import state_target

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rung:
  """A change of a plan.

  Attributes:
    layout: with `remat=None` for what the plan has.
    batch: the plan's, or a smaller one.
    batch_eval: the same; None for the plan's.
  """

  layout: Layout
  batch: int
  batch_eval: int | None = None

  def applied(self, plan: Plan) -> Plan:
    sizes = dict(batch=self.batch, batch_eval=self.batch_eval or plan.batch_eval)
    return dataclasses.replace(self.layout.applied(plan), **sizes)


@dataclasses.dataclass(frozen=True)
class Trial:
  """A step that was compiled.

  Attributes:
    overrides: what to add to the command of the run; none for the run as it is.
    total: bytes on each device, of the run's phase that needs most (see `step.Run`); None where
      the compiler refused the step without saying how many.
    fits: whether that is at most what a device has.
    keeps_batch: whether it is the same recipe.
  """

  overrides: tuple[str, ...]
  total: int | None
  fits: bool
  keeps_batch: bool = True


def find(
  plan: Plan, mesh: jax.sharding.Mesh, num_classes: int, room: int, *, tries: int = 6
) -> list[Trial]:
  """Compiles the step as it is, then changed, until the run fits. Nothing is executed.

  Args:
    plan: of the run.
    mesh: of the run, whose devices are there.
    num_classes: of the data set.
    room: bytes that each device has.
    tries: how many are compiled at most; at least 4.

  Returns:
    What was compiled: first the run as it is. If anything fits it is the last; if nothing does,
    the change that should need least is among them.
  """
  devices = list(mesh.devices.flat)
  as_it_is = Rung(_layout(plan, mesh), plan.batch)

  def compiled(rung: Rung) -> tuple[Trial, step.Run]:
    overrides = _overrides(rung, as_it_is, plan)
    log.info("compiling %s", " ".join(overrides) or "the step as it is")
    applied = step.from_scratch(rung.applied(plan))
    on = mesh if rung == as_it_is else mesh_lib.make_mesh(applied.mesh, devices)
    run = step.compile_run(step.trace(applied, on, num_classes), room)
    total, fits = max(run.needs.values()), run.fits(room)
    # A refusal that names no size leaves only that of the arguments.
    told = fits or total > room
    return Trial(overrides, total if told else None, fits, rung.batch == plan.batch), run

  first, run = compiled(as_it_is)
  trials = [first]
  if first.fits:
    return trials
  if max(run.needs, key=run.needs.get) in ("an evaluation", "the end"):
    for rung in _smaller_evaluations(as_it_is, plan, mesh, run, room)[: tries - 1]:
      trials.append(compiled(rung)[0])
      if trials[-1].fits:
        break
    return trials
  keeping, smaller = ladder(plan, mesh, num_classes)
  remats = (None, "full") if any(rung.layout.remat for rung in keeping) else (None,)
  needs = measure(step.from_scratch(plan), num_classes, remats)
  if trials[0].total is not None:
    needs = needs.learned(as_it_is.layout, trials[0].total, remats)
  least = sorted(keeping, key=lambda rung: needs.memory(rung.layout))[:1]

  tried = {as_it_is}
  known = {None} if trials[0].total is not None else set()  # Kinds of which one was compiled.
  # An estimate may be too high, so that nothing is given up before the least has been compiled.
  for rungs, left, whatever in ((keeping, tries - 3, False), (least, 1, True), (smaller, 1, False)):
    for rung in rungs:
      margin = 1 if rung.layout.remat in known else needs.margin
      hopeless = needs.memory(rung.layout) > margin * room
      if left == 0 or rung in tried or (hopeless and not whatever):
        continue
      trial, _ = compiled(rung)
      left -= 1
      tried.add(rung)
      trials.append(trial)
      if trial.fits:
        return trials
      if trial.total is not None:
        needs = needs.learned(rung.layout, trial.total, [rung.layout.remat])
        known.add(rung.layout.remat)
  return trials


def ladder(plan: Plan, mesh: jax.sharding.Mesh, num_classes: int) -> tuple[list[Rung], list[Rung]]:
  """Changes of a plan in the order of the module's docstring: those of its recipe, and the rest."""
  now, ways = _layout(plan, mesh), mesh_lib.data_parallelism(mesh)
  share = plan.batch // ways
  counts = [plan.accum_steps * 2**i for i in range(1, share.bit_length())]
  knobs: dict[str, list[dict]] = {
    "accum_steps": [
      dict(accum_steps=count, per_chip=share // count)
      for count in counts
      if share % count == 0 and _may_have(plan, plan.batch, count)
    ],
    "remat": [dict(remat="full")] if step.field_values(plan, "remat") - {"full"} else [],
    "fsdp": [],
  }
  split = dataclasses.replace(now, data=1, fsdp=now.data * now.fsdp)
  if now.data > 1 and _splits(plan, split, mesh, num_classes):
    knobs["fsdp"].append(dict(data=1, fsdp=split.fsdp))

  keeping = []
  for number in (1, 2, 3):
    for names in itertools.combinations(knobs, number):
      for values in itertools.product(*(knobs[name] for name in names)):
        changes = {key: value for part in values for key, value in part.items()}
        keeping.append(Rung(dataclasses.replace(now, **changes), plan.batch))
  others = {key: value for part in (*knobs["remat"], *knobs["fsdp"]) for key, value in part.items()}
  smaller = []
  while share % 2 == 0 and _may_have(plan, ways * share // 2, 1):
    share //= 2
    changes = others | dict(accum_steps=1, per_chip=share)
    smaller.append(Rung(dataclasses.replace(now, **changes), ways * share))
  return keeping, smaller


def _smaller_evaluations(
  as_it_is: Rung, plan: Plan, mesh: jax.sharding.Mesh, run: step.Run, room: int
) -> list[Rung]:
  """The run with smaller batches to evaluate, as far as these should fit."""
  ways = mesh_lib.data_parallelism(mesh)
  sizes = [plan.batch_eval // 2**i for i in range(1, plan.batch_eval.bit_length())]
  # What does not shrink with the batch is about what the state is.
  state = min(run.needs["saving"], room)
  share = (room - state) / max(max(run.needs.values()) - state, 1)
  return [
    dataclasses.replace(as_it_is, batch_eval=size)
    for size in sizes
    if size % ways == 0 and size > 0 and size <= 1.2 * share * plan.batch_eval
  ]


def _layout(plan: Plan, mesh: jax.sharding.Mesh) -> Layout:
  per_chip = plan.batch // (mesh_lib.data_parallelism(mesh) * plan.accum_steps)
  sizes = {axis: mesh.shape[axis] for axis in ("data", "fsdp", "tensor")}
  return Layout(**sizes, accum_steps=plan.accum_steps, remat=None, per_chip=per_chip)


def _overrides(rung: Rung, as_it_is: Rung, plan: Plan) -> tuple[str, ...]:
  """What differs, as options of a command."""
  same = as_it_is.layout.overrides(plan)
  found = [option for option in rung.layout.overrides(plan) if option not in same]
  if rung.batch != plan.batch:
    found.insert(0, f"--config.batch={rung.batch}")
  if rung.batch_eval:
    found.append(f"--config.batch_eval={rung.batch_eval}")
  return tuple(found)


def _may_have(plan: Plan, batch: int, accum_steps: int) -> bool:
  try:
    checks.check(dataclasses.replace(plan, batch=batch, accum_steps=accum_steps))
  except UserError:  # What mixes or compares examples needs several, or all, at once.
    return False
  return True


def _splits(plan: Plan, layout: Layout, mesh: jax.sharding.Mesh, num_classes: int) -> bool:
  """Whether this `fsdp` splits enough of the model's state."""
  plan = step.from_scratch(layout.applied(plan))
  model, _ = build.build_model(plan, num_classes)
  target = state_target(model, plan, None)
  on = mesh_lib.make_mesh(plan.mesh, list(mesh.devices.flat))
  try:
    sharding.check(target, on, plan.mesh.max_whole)
  except UserError:
    return False
  return True
