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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models import cost, registry
from vit_jax.training import build, divergence, objectives, restore, sharding, task
from vit_jax.training import mesh as mesh_lib
from vit_jax.training.plan import InitPlan, ModelPlan, Plan
from vit_jax.training.state import TrainState, state_target
from vit_jax.training.step import make_planned_step


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
  model = registry.create_model(plan.model.name, **plan.model.overrides)
  towers = [model.img, model.txt] if registry.get_entry(plan.model.name).text else [model]
  return {getattr(t, name) for t in towers if name in registry.model_fields(type(t))}


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step that is ready to be compiled.

  Attributes:
    plan: what it does.
    mesh: where it runs.
    target: shapes, dtypes and shardings of the state.
    arguments: (state, batch, fixed) as shapes with shardings.
    jaxpr: the traced step.
    traced: JAX's stage before lowering.
    seconds: that tracing took.
  """

  plan: Plan
  mesh: jax.sharding.Mesh
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
    return Held(state + batch + fixed, state + judged + fixed, state + judged)


@dataclasses.dataclass(frozen=True)
class Held:
  """Bytes of the arrays that a run has on each device, beside what a program needs while it runs.

  Attributes:
    step: when a training step begins: the state, the batch, and a teacher's variables.
    evaluation: of the validation split: the state, a batch of images, and a teacher's variables.
    end: when the best checkpoint is evaluated: its state and a batch of images.
  """

  step: int
  evaluation: int
  end: int


def device_bytes(tree: Any) -> int:
  """Bytes on each device of a tree of shapes with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


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
  objective, fixed = _objective(plan, model, num_classes)
  fixed_shardings = sharding.shardings(fixed, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, target)
  step = make_planned_step(plan, objective, mesh, shardings, fixed_shardings)
  place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  fixed = jax.tree.map(place, fixed, fixed_shardings)
  arguments = (target, _batch(plan, mesh, num_classes), fixed)
  traced = step.trace(*arguments)
  seconds = time.monotonic() - started
  return Step(plan, mesh, target, arguments, traced.jaxpr, traced, seconds)


@dataclasses.dataclass(frozen=True)
class Loss:
  """The loss of a few examples on one device, from shapes.

  Attributes:
    jaxpr: of the loss and its gradient.
    residual_bytes: what one more example leaves on the way forwards for the way back.
  """

  jaxpr: Any
  residual_bytes: int


def trace_loss(plan: Plan, num_classes: int, examples: int = 2) -> Loss:
  """Traces the loss of `examples` examples, at least two."""
  model, _ = build.build_model(plan, num_classes)
  target = state_target(model, plan, None)
  objective, fixed = _objective(plan, model, num_classes)
  mesh = mesh_lib.make_mesh(devices=jax.local_devices()[:1])

  def loss(params: Any, collections: Any, batch: Any, fixed: Any) -> jax.Array:
    rng = jax.random.key(0)
    return objective(params, collections, batch, rng, rng, fixed)[0]

  def arguments(count: int) -> tuple[Any, ...]:
    of = dataclasses.replace(plan, batch=count)
    return target.params, target.collections, _batch(of, mesh, num_classes), fixed

  def residuals(params: Any, *rest: Any) -> Any:
    return jax.vjp(lambda params: loss(params, *rest), params)[1]

  def kept(count: int) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(residuals, *arguments(count)))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)

  more = (kept(examples) - kept(examples // 2)) // (examples - examples // 2)
  return Loss(jax.make_jaxpr(jax.grad(loss))(*arguments(examples)), max(more, 0))


def _batch(plan: Plan, mesh: jax.sharding.Mesh, num_classes: int) -> dict[str, Any]:
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


def _objective(plan: Plan, model: nn.Module, num_classes: int) -> tuple[objectives.Objective, Any]:
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
    run = restore.existing_run(name)
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


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled step.

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


# Two sentences of the TPU compiler's, of all of a program or of its temporaries alone.
_TOO_MUCH = re.compile(r"(?:Used |HLO temporaries \()(?P<size>[\d.]+)(?P<unit>[KMGT])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_step(step: Step) -> Compiled:
  """Lowers and compiles a traced step for its mesh."""
  started = time.monotonic()
  try:
    compiled = step.traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Compiled(_refused(step, str(error)), True, "", time.monotonic() - started)
  sizes = compiled.memory_analysis()
  arguments, outputs = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
  aliased, temporaries = sizes.alias_size_in_bytes, sizes.temp_size_in_bytes
  code, ahead = sizes.generated_code_size_in_bytes, _ahead(step)
  memory = Memory(
    arguments,
    outputs,
    aliased,
    temporaries,
    code,
    ahead,
    arguments + outputs - aliased + temporaries + code + ahead,
  )
  return Compiled(memory, False, compiled.as_text(), time.monotonic() - started)


def _ahead(step: Step) -> int:
  return divergence.LAG * device_bytes(step.arguments[1])


def _refused(step: Step, message: str) -> Memory:
  """What is known of the memory of a step that the compiler finds no room for."""
  arguments, ahead = device_bytes(step.arguments), _ahead(step)
  found = _TOO_MUCH.search(message)
  if found is None:
    return Memory(arguments, None, None, None, None, ahead, arguments + ahead)
  size = int(float(found["size"]) * _UNITS[found["unit"]])
  if message[found.start() :].startswith("Used"):
    return Memory(arguments, None, None, None, None, ahead, size + ahead)
  return Memory(arguments, None, None, size, None, ahead, arguments + size + ahead)
