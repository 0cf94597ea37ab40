# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step of a plan from shapes alone, traced and compiled for any mesh of devices.

It is the step that `training.loop` runs: model, objective, optimizer, shardings and donation come
from the same functions. No image is read and no weight is loaded.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.evaluation import classification
from vit_jax.models import cost, registry
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import build, divergence, objectives, task
from vit_jax.training.plan import InitPlan, ModelPlan, Plan
from vit_jax.training.state import TrainState, state_target
from vit_jax.training.step import make_planned_step
from vit_jax.workdir import run_info


def from_scratch(plan: Plan) -> Plan:
  """The same run without weights to start from: its shapes are the same, and no file is read."""
  return dataclasses.replace(
    plan, checkpoint=None, pretrained_dir=None, model_or_filename=None, init=InitPlan()
  )


def with_fields(plan: Plan, **fields: Any) -> Plan:
  """The plan with these fields of its model, or of its towers, where they have them."""
  entry = registry.get_entry(plan.model.name)
  overrides = dict(plan.model.overrides)
  known = registry.model_fields(entry.module)
  overrides |= {name: value for name, value in fields.items() if name in known}
  if entry.text:
    model = registry.create_model(plan.model.name, **plan.model.overrides)
    for tower in ("img", "txt"):
      known = registry.model_fields(type(getattr(model, tower)))
      given = {name: value for name, value in fields.items() if name in known}
      overrides[tower] = {**overrides.get(tower, {}), **given}
  return dataclasses.replace(plan, model=ModelPlan(plan.model.name, overrides))


def field_values(plan: Plan, name: str) -> set[Any]:
  """What this field is in the model, or in its towers; empty where none has it."""
  return {*_fields(plan, name).values()}


def field_options(plan: Plan, name: str) -> list[str]:
  """The options of a command that give this field, of the model or its towers, the plan's value."""
  return [f"--config.model.{path}={value}" for path, value in _fields(plan, name).items()]


def _fields(plan: Plan, name: str) -> dict[str, Any]:
  model = registry.create_model(plan.model.name, **plan.model.overrides)
  towers = {"": model}
  if registry.get_entry(plan.model.name).text:
    towers = {"img.": model.img, "txt.": model.txt}
  return {
    prefix + name: getattr(tower, name)
    for prefix, tower in towers.items()
    if name in registry.model_fields(type(tower))
  }


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step that is ready to be compiled.

  Attributes:
    plan: what it does.
    mesh: where it runs.
    model: what is trained.
    target: shapes, dtypes and shardings of the state.
    arguments: (state, batch, fixed) as shapes with shardings.
    jaxpr: the traced step.
    traced: JAX's stage before lowering.
    seconds: that tracing took.
  """

  plan: Plan
  mesh: jax.sharding.Mesh
  model: nn.Module
  target: TrainState
  arguments: tuple[Any, Any, Any]
  jaxpr: Any
  traced: Any
  seconds: float

  @property
  def parameters(self) -> int:
    return cost.count_parameters(self.target.params)

  @property
  def held(self) -> Held:
    state, batch, fixed = map(device_bytes, self.arguments)
    judged = device_bytes(_batch_to_evaluate(self.plan, self.mesh))
    return Held(
      step=state + batch + fixed,
      saving=state + fixed + _slices_to_save(self.target),
      evaluation=state + judged + fixed,
      end=state + judged,
    )


@dataclasses.dataclass(frozen=True)
class Held:
  """Bytes of the arrays that a run has on each device, beside what a program needs while it runs.

  Attributes:
    step: when a training step begins: the state, the batch, and a teacher's variables.
    saving: the state, what of it each device writes, and a teacher's variables.
    evaluation: of the validation split: the state, a batch of images, and a teacher's variables.
    end: when the best checkpoint is evaluated: its state and a batch of images.
  """

  step: int
  saving: int
  evaluation: int
  end: int


def device_bytes(tree: Any) -> int:
  """Bytes on each device of a tree of shapes with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def _slices_to_save(state: TrainState) -> int:
  """Bytes on each device of the slices that Orbax cuts out of a state to save it.

  Where several devices have the same array, each writes its part, if one of the array's sizes can
  be divided among them.
  """
  total = 0
  for x in jax.tree.leaves(state):
    shard = x.sharding.shard_shape(x.shape)
    copies = len(x.sharding.device_set) * math.prod(shard) // max(math.prod(x.shape), 1)
    if copies > 1 and any(size % copies == 0 for size in shard):
      total += math.prod(shard) * x.dtype.itemsize // copies
  return total


def trace(plan: Plan, mesh: jax.sharding.Mesh, num_classes: int) -> Step:
  """Traces the step of a plan.

  Args:
    plan: see `from_scratch`.
    mesh: of devices that need not be there.
    num_classes: of the data set.

  Raises:
    UserError: as training would, if mesh, batch, image size and model do not go together.
  """
  started = time.monotonic()
  plan.check_devices(mesh_lib.data_parallelism(mesh))
  model, _ = build.build_model(plan, num_classes)
  target = state_target(model, plan, mesh)
  sharding.check(target, mesh, plan.mesh.max_whole)
  objective, fixed = objective_of(plan, model, num_classes)
  fixed_shardings = sharding.shardings(fixed, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, target)
  step = make_planned_step(plan, objective, mesh, shardings, fixed_shardings)
  place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  fixed = jax.tree.map(place, fixed, fixed_shardings)
  arguments = (target, batch_of(plan, mesh, num_classes), fixed)
  traced = step.trace(*arguments)
  seconds = time.monotonic() - started
  return Step(plan, mesh, model, target, arguments, traced.jaxpr, traced, seconds)


def batch_of(plan: Plan, mesh: jax.sharding.Mesh, num_classes: int) -> dict[str, Any]:
  """What `data.loader.TrainLoader` gives and `mesh.place_batch` places."""
  split = mesh_lib.batch_sharding(mesh)
  array = lambda dtype, *shape: jax.ShapeDtypeStruct((plan.batch, *shape), dtype, sharding=split)
  sides = plan.pp.train_sizes  # Of several sizes the largest needs the most.
  size = (max(sides),) * 2 if sides else plan.pp.size
  batch = {
    "image": array(jnp.uint8, *size, plan.pp.channels),
    "label": array(jnp.int32),
  }
  if plan.text:
    batch["tokens"] = array(jnp.int32, plan.text.max_len)
  if plan.distill and plan.distill.cache:
    batch["teacher"] = array(jnp.float32, num_classes)
  return batch


def _batch_to_evaluate(plan: Plan, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """What `data.loader.EvalBatches` gives, of a split of at least `batch_eval` examples."""
  split, ways = mesh_lib.batch_sharding(mesh), mesh_lib.data_parallelism(mesh)
  size = max(plan.batch_eval // ways, 1) * ways
  array = lambda dtype, *shape: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=split)
  return {
    "image": array(jnp.uint8, *plan.pp.size, plan.pp.channels),
    "label": array(jnp.int32),
    "mask": array(jnp.float32),
  }


def objective_of(
  plan: Plan, model: nn.Module, num_classes: int
) -> tuple[objectives.Objective, Any]:
  """What is minimised, and the shapes of what it needs beside the state."""
  if plan.text:  # Without the tokenizer, whose file may not be here.
    pp, loss = plan.pp, plan.contrastive_loss
    return objectives.contrastive(model, mean=pp.mean, std=pp.std, loss=loss), None
  if not plan.distill:
    return task.Classification(plan, num_classes).objective(model), None
  learning = task.Distillation(plan, num_classes, _teacher(plan, num_classes))
  return learning.objective(model), learning.fixed


def _teacher(plan: Plan, num_classes: int) -> Any:
  """The plan's teacher with shapes for weights."""
  from vit_jax.evaluation import classifier
  from vit_jax.training.teacher import Teacher

  name, size = plan.distill.teacher, plan.distill.image_size
  if os.path.isdir(name) or "://" in name:  # As `training.teacher` tells them apart.
    run = run_info.existing_run(name)
    model, pp = run.create_model(), run.preprocessing
    pp = pp.at(size) if size else pp
  else:
    model = registry.create_model(name, num_classes=num_classes)
    pp = classifier.settings_for(registry.resolve_name(name), None, size)
  return Teacher(model, cost.abstract_variables(model, (1, *pp.size, pp.channels)), pp)


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on each device, as the compiler laid them out.

  Attributes:
    arguments: the state, the batch and a teacher's variables before the step.
    outputs: the state and the metrics after it.
    aliased: of the outputs, that take the place of arguments, since the state is donated.
    temporaries: activations, gradients and all else that lives within the step.
    code: the program itself.
    ahead: batches of later steps, of which the host sends `divergence.LAG` without waiting.
    total: all together. Where the compiler found it too much, the others may be unknown (None).
  """

  arguments: int
  outputs: int | None
  aliased: int | None
  temporaries: int | None
  code: int | None
  ahead: int
  total: int

  @property
  def working(self) -> int:
    """What the program needs while it runs, beside its arguments and later batches."""
    return self.total - self.arguments - self.ahead


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program.

  Attributes:
    memory: of each device.
    refused: whether the compiler found no room for it.
    hlo: the optimized program as text; "" where there is none.
    seconds: that lowering and compiling took.
  """

  memory: Memory
  refused: bool
  hlo: str
  seconds: float


def compile_step(step: Step) -> Compiled:
  """Lowers and compiles a traced step for its mesh."""
  ahead = divergence.LAG * device_bytes(step.arguments[1])
  return _compiled(step.traced.lower, device_bytes(step.arguments), ahead)


def compile_evaluation(step: Step) -> Compiled | None:
  """Lowers and compiles the program that evaluates a batch; None for two towers, which have two."""
  plan = step.plan
  if plan.text:
    return None
  evaluate = classification.make_eval_step(
    step.model, mean=plan.pp.mean, std=plan.pp.std, mesh=step.mesh
  )
  arguments = step.target.result, _batch_to_evaluate(plan, step.mesh)
  return _compiled(lambda: evaluate.lower(*arguments), device_bytes(arguments), 0)


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run needs, by the programs that it runs.

  Attributes:
    step: the training step.
    evaluation: the program that evaluates a batch; None for two towers, or if there is no room for
      the step.
    needs: bytes on each device by what the run does: its arrays and its program's memory.
  """

  step: Compiled
  evaluation: Compiled | None
  needs: dict[str, int]

  @property
  def seconds(self) -> float:
    return self.step.seconds + (self.evaluation.seconds if self.evaluation else 0.0)

  def fits(self, room: float) -> bool:
    """Whether so many bytes suffice on each device."""
    refused = self.step.refused or (self.evaluation is not None and self.evaluation.refused)
    return not refused and max(self.needs.values()) <= room


def compile_run(step: Step, room: float = math.inf) -> Run:
  """Compiles a training step and, if it fits into `room` bytes of a device, what evaluates."""
  compiled, evaluation = compile_step(step), None
  if not compiled.refused and compiled.memory.total <= room:
    evaluation = compile_evaluation(step)
  held, working = step.held, evaluation.memory.working if evaluation else 0
  working += device_bytes(_batch_to_evaluate(step.plan, step.mesh))  # Sent before it is needed.
  needs = {
    "a step": compiled.memory.total,
    "saving": held.saving,
    "an evaluation": held.evaluation + working,
    "the end": held.end + working,
  }
  return Run(compiled, evaluation, needs)


def _compiled(lower: Callable[[], Any], arguments: int, ahead: int) -> Compiled:
  """Compiles a program whose arguments, and later batches, have so many bytes on each device."""
  started = time.monotonic()
  try:
    compiled = lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    memory = _refused(arguments, ahead, str(error))
    return Compiled(memory, True, "", time.monotonic() - started)
  sizes = compiled.memory_analysis()
  arguments, outputs = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
  aliased, temporaries = sizes.alias_size_in_bytes, sizes.temp_size_in_bytes
  code = sizes.generated_code_size_in_bytes
  total = arguments + outputs - aliased + temporaries + code + ahead
  memory = Memory(arguments, outputs, aliased, temporaries, code, ahead, total)
  return Compiled(memory, False, compiled.as_text(), time.monotonic() - started)


# Two sentences of the TPU compiler's, of all of a program or of its temporaries alone.
_TOO_MUCH = re.compile(r"(?:Used |HLO temporaries \()(?P<size>[\d.]+)(?P<unit>[KMGT])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _refused(arguments: int, ahead: int, message: str) -> Memory:
  """What is known of the memory of a program that the compiler finds no room for."""
  found = _TOO_MUCH.search(message)
  if found is None:
    return Memory(arguments, None, None, None, None, ahead, arguments + ahead)
  size = int(float(found["size"]) * _UNITS[found["unit"]])
  if message[found.start() :].startswith("Used"):
    return Memory(arguments, None, None, None, None, ahead, size + ahead)
  return Memory(arguments, None, None, size, None, ahead, arguments + size + ahead)
