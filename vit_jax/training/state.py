# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training step reads and writes, and a checkpoint holds."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from vit_jax.data.transforms import Preprocessing
from vit_jax.models.lit import example_inputs
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import optim
from vit_jax.training import plan as plan_lib


@flax.struct.dataclass
class TrainState:
  """The state of training after `step` steps.

  Attributes:
    step: int32 scalar, the steps made, those that were left out too.
    params: the model's parameters, float32.
    opt_state: the optimizer's state.
    rng: key data (uint32) from which the dropout key of each step is derived; never changes.
    first_bad_step: int32 scalar, the first step whose loss, gradient or update was not finite, or
      -1. From that step on `params` and `opt_state` no longer change.
    collections: the model's other variables (such as batch statistics), by collection.
    ema: exponential moving average of `variables`; None where none is kept.
  """

  step: jax.Array
  params: Any
  opt_state: optax.OptState
  rng: jax.Array
  first_bad_step: jax.Array
  collections: Any
  ema: Any = None

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": self.params, **self.collections}

  @property
  def result(self) -> dict[str, Any]:
    """What the run is for: the average where one is kept, else the variables themselves."""
    return self.variables if self.ema is None else self.ema


def create_state(
  model: nn.Module,
  variables: Any,
  optimizer: optax.GradientTransformation,
  images: jax.Array,
  seed: int,
  *,
  shardings: Any = None,
  ema: bool = False,
) -> TrainState:
  """Makes the state before the first step.

  Args:
    model: initialised where `variables` is None.
    variables: the model's variables, if they come from a file; with `shardings` each device gets
      its part of them.
    optimizer: initialised for the parameters.
    images: float32 [batch, h, w, c], whose shape the parameters depend on.
    seed: decides the initial parameters and the dropout masks.
    shardings: of the state, or one for all of it; None leaves that to JAX.
    ema: whether to keep an average, which begins at the initial values.
  """

  def create(variables: Any, seed: jax.Array) -> TrainState:
    init_key, step_key = jax.random.split(jax.random.key(seed))
    if variables is None:
      variables = model.init(init_key, *example_inputs(model, images), train=False)
    return TrainState(
      step=jnp.int32(0),
      params=variables["params"],
      opt_state=optimizer.init(variables["params"]),
      rng=jax.random.key_data(step_key),
      first_bad_step=jnp.int32(-1),
      collections={k: v for k, v in variables.items() if k != "params"},
      ema=dict(variables) if ema else None,
    )

  if variables is not None and isinstance(shardings, TrainState):
    own = {"params": shardings.params, **shardings.collections}
    variables = mesh_lib.place(variables, own)
  return jax.jit(create, out_shardings=shardings)(variables, seed)


def init_images(preprocessing: Preprocessing) -> jax.Array:
  """A blank normalised image [1, h, w, c], which fixes the shapes of the parameters."""
  return jnp.zeros((1, *preprocessing.size, preprocessing.channels), jnp.float32)


def state_target(
  model: nn.Module, plan: plan_lib.Plan, mesh: jax.sharding.Mesh | None
) -> TrainState:
  """The shapes, types and shardings of a run's state; of one on a single device without a mesh."""
  shapes = jax.eval_shape(
    lambda: create_state(
      model,
      None,
      optim.make_optimizer(plan),
      init_images(plan.pp),
      0,
      ema=plan.ema_decay is not None,
    )
  )
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = jax.tree.map(lambda x: device, shapes)
  else:
    places = sharding.shardings(shapes, mesh)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
  )
